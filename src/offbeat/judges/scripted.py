"""A judge that reads its answers from a script: for tests and dry runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.errors import ConfigError
from offbeat.types import Verdict


class ScriptedJudge:
    """Gives ``answers`` in order, one for each call, whatever the pictures show.

    ``still_a`` wants ``yes`` or ``no``, given to every picture of the call; ``name_it`` gives any
    word. Both read the same script. ``asked`` keeps what was asked, for a test to look at.
    """

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = tuple(answers)
        self.asked: list[tuple[str, int]] = []
        """Subject and number of pictures of each call."""

    @property
    def name(self) -> str:
        """The judge's name."""
        return "scripted"

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes: ``yes`` and ``no``."""
        return ("yes", "no")

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return the next answer for each of ``images``, ``[B, 3, H, W]``.

        Raises:
            ConfigError: If the script is at its end, or its next word is neither yes nor no.
        """
        word = self._next(images, subject)
        if word not in ("yes", "no"):
            raise ConfigError(f"answers: expected 'yes' or 'no' for still_a, got {word!r}")
        answer: Literal["yes", "no"] = "yes" if word == "yes" else "no"
        return [Verdict(answer, float(word == "yes"), self.name, "scripted")] * len(images)

    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return the next answer as certainty, ``[B, 2]``."""
        sure = [verdict.probability for verdict in self.still_a(images, "")]
        return torch.tensor([[value, 1 - value] for value in sure]).reshape(-1, 2)

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return the next word for one picture, ``[3, H, W]``."""
        return self._next(image[None], subject)

    def _next(self, images: Tensor, subject: str) -> str:
        check_shape("images", images, None, 3, None, None)
        if len(self.asked) >= len(self.answers):
            raise ConfigError(
                f"answers: expected more than {len(self.answers)}, the judge was asked once more; "
                "write a longer script"
            )
        self.asked.append((subject, len(images)))
        return self.answers[len(self.asked) - 1]
