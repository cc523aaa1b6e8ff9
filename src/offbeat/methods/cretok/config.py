"""Settings of CreTok."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.methods.settings import Settings, on_card, setting

NAME = "cretok"

WORD = "<cretok>"

PUBLISHED_THETA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CreTokConfig(Settings):
    """Settings of the training, and of the prompts that use its token."""

    method = NAME

    theta: float | None = setting(
        None, -1, 1, help="Cosine above which a pair pulls no more; None is the published 0.5."
    )
    theta_quantile: float | None = setting(
        None, 0, 1, help="In place of theta: this quantile of the cosines before training."
    )
    num_steps: int = setting(10_000, 1, 10_000_000, help="Optimizer steps.")
    learning_rate: float = setting(
        0.01, 1e-12, 100, help="Of the first step; it falls to 0 along a cosine."
    )
    batch_size: int = setting(
        16, 1, 100_000, help="Pairs in a step, drawn anew each step, each in both orders."
    )
    num_pairs: int = setting(
        200, 1, 1_000_000, help="Training pairs; no evaluation pair is among them."
    )
    flat_steps: int | None = setting(
        None,
        1,
        10_000_000,
        help="Stop after so many steps without a lower loss; None never stops early.",
    )
    flat_tolerance: float = setting(1e-5, 0, 2, help="A smaller fall of the loss counts as none.")
    initial_word: str = setting("creative", help="The word that the token starts from.")
    restrictive_template: str = setting("a {first} {second}", help="Prompt of a pair of words.")
    adaptive_template: str = setting(
        "a photo of a {concept} mixture", help="Prompt of the token alone."
    )
    use_template: str = setting("a photo of a {concept}", help="The prompt of a fused concept.")
    phrase: str = setting(
        "{token} mixture that resembles {words}",
        help="What a fused concept is called in the prompt.",
    )

    def check(self) -> None:
        """Raise if both limits are given, or a prompt lacks its place."""
        if self.theta is not None and self.theta_quantile is not None:
            raise ConfigError(
                "theta: expected theta or theta_quantile, got both: "
                f"{self.theta!r} and {self.theta_quantile!r}"
            )
        fill(self.restrictive_template, first="pig", second="owl")
        fill(self.adaptive_template, concept=WORD)
        fill(self.use_template, concept=WORD)
        fill(self.phrase, token=WORD, words="a pig")

    @classmethod
    def card_settings(cls, card: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a card says; one of the two limits, if given, replaces both."""
        limits = {"theta", "theta_quantile"}
        settings = on_card(card, NAME)
        return {k: v for k, v in settings.items() if k not in limits or not limits & given.keys()}
