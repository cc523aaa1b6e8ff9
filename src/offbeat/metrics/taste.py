"""How well pictures fit a taste that was learned from preferences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.core.taste import Taste
from offbeat.errors import ConfigError
from offbeat.files.preferences import Preferences
from offbeat.metrics.encoders import Encoder, EncoderMetric
from offbeat.metrics.seen import PlainEye

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self


class TasteMetric(EncoderMetric):
    """Probability that each picture is preferred to the mean of those that were compared, 0 to 1.

    Colours and edges alone are seen, so it reads pictures of any checkpoint. How uncertain the
    taste is draws the probability towards one half.
    """

    stem = "taste"

    def __init__(self, encoder: Encoder, preferences: Preferences) -> None:
        """Learn the taste from what the encoder sees.

        Raises:
            ConfigError: If there are too few preferences, or they predict left-out ones no better
                than chance.
        """
        super().__init__(encoder)
        features = encoder.image_embeds(list(preferences.images))
        self.taste = Taste.fit(features, preferences.winners, preferences.losers)
        self.note = (
            f"taste: learned from {self.taste.num} preferences; {self.taste.accuracy:.0%} of "
            "left-out ones predicted"
        )

    @classmethod
    def load(
        cls, source: str | Path | None = None, *, backbone: Any = None, device: Any = "cpu"
    ) -> Self:
        """Learn from a file of preferences.

        Raises:
            ConfigError: If none is named, or it is no such file.
        """
        if source is None:
            raise ConfigError(
                "taste: expected a file of preferences, taste=FILE; `offbeat study taste` makes one"
            )
        return cls(PlainEye(), Preferences.load(source))

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's probability, ``[B]``."""
        utility, spread = self.taste.utility(self.encoder.image_embeds(images))
        return torch.sigmoid(utility / (1 + torch.pi * spread.square() / 8).sqrt()).float()
