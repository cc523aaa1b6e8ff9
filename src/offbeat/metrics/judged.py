"""Metrics that ask a judge.

Source: Lin et al., VQAScore, arXiv:2404.01291: the probability of "Yes" to one question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.core.functional import distribution_kl
from offbeat.errors import ConfigError, ImageError, JudgeError
from offbeat.metrics.base import BaseMetric
from offbeat.metrics.common import in_equal_sizes, pictures, texts_for
from offbeat.metrics.mixtures import parts_of
from offbeat.protocols import (
    AnswersYes,
    CalibratedJudge,
    ChecksSubject,
    Need,
    ReadsClasses,
    ReadsPresence,
)
from offbeat.protocols.judges import PRESENT_FROM
from offbeat.types import Better

if TYPE_CHECKING:
    from typing_extensions import Self

QUESTION = 'Does this figure show "{text}"? Please answer yes or no.'
"""As published; other words give other numbers."""


class JudgeMetric(BaseMetric):
    """A metric that asks a judge."""

    protocol: type = ChecksSubject
    """What the judge must be able to do."""
    method: str = "still_a"
    """The method that this protocol is known by: for errors."""
    examples: tuple[str, ...] = ("clip", "classifier")
    """Judges that can."""

    def __init__(self, judge: Any) -> None:
        """Ask this judge.

        Raises:
            ConfigError: If it cannot answer what is asked here.
        """
        self.judge: Any = judge
        if not isinstance(judge, self.protocol):
            name = str(getattr(judge, "name", type(judge).__name__))
            raise ConfigError(
                f"{self.stem}: expected a judge with `{self.method}`, such as "
                f"{' or '.join(self.examples)}, and {name} has none"
            )
        self.checkpoint = str(self.judge.name)
        self.label = self.checkpoint.partition("@")[0]

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backbone: Any | None = None,
        judge: Any | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Ask a judge that is loaded already.

        Args:
            source: Of no use here, as ``backbone`` and ``device``: the judge has weights and place.
            backbone: Of no use here.
            judge: What to ask.
            device: Of no use here.

        Raises:
            ConfigError: If there is no judge, or it cannot answer what is asked here.
        """
        if judge is None:
            raise ConfigError(
                f"{cls.stem}: expected a judge to ask, such as {' or '.join(cls.examples)}; name "
                "one with --judge, or give judge="
            )
        return cls(judge)


class VqaScore(JudgeMetric):
    """VQAScore: the probability of yes to "Does this figure show ...?", 0 to 1.

    Numbers of two judges cannot be compared, and none is that of the paper's CLIP-FlanT5.
    """

    stem = "vqascore"
    needs: tuple[Need, ...] = ("texts", "judge")
    protocol = AnswersYes
    method = "probability_of_yes"
    examples = ("blip-vqa", "llava-next")

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return P(yes) of each picture for its text, ``[B]``."""
        return _asked_of_each(images, texts_for(texts, len(images)), self._probability)

    def _probability(self, images: Tensor, text: str) -> Tensor:
        probability: Tensor = self.judge.probability_of_yes(images, QUESTION.format(text=text))
        return probability


class Validity(JudgeMetric):
    """Whether a judge says that a picture still shows the subject, 0 or 1: the mean is a share.

    The texts are subjects, a word each. References are ordinary pictures of the one subject that
    there then is: a judge that can be calibrated learns from them what a good one gets.
    """

    stem = "validity"
    reads = "subject"
    needs: tuple[Need, ...] = ("texts", "judge")

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return 1 for each picture that passes, else 0, ``[B]``."""
        subjects = texts_for(texts, len(images))
        if references is not None and isinstance(self.judge, CalibratedJudge):
            self._calibrate(subjects, pictures(references, "references"))
        return _asked_of_each(images, subjects, self._passed)

    def _calibrate(self, texts: list[str], ordinary: list[Tensor]) -> None:
        if len(set(texts)) > 1 or len({picture.shape for picture in ordinary}) > 1:
            raise ImageError(
                f"references: expected ordinary pictures of one size and one subject, got "
                f"{len({picture.shape for picture in ordinary})} sizes and {len(set(texts))} "
                "subjects; score each subject alone, or without references"
            )
        self.judge.calibrate(torch.stack(ordinary), texts[0])

    def _passed(self, images: Tensor, text: str) -> Tensor:
        verdicts = self.judge.still_a(images, text)
        if silent := [verdict for verdict in verdicts if not verdict.answered]:
            raise JudgeError(f"{self.name}: {self.judge.name} gave no answer. {silent[0].note}")
        return torch.tensor([float(verdict.passed) for verdict in verdicts])


class DistributionKl(JudgeMetric):
    """DisTok's KL(asked || read) in nats: how far what a judge reads is from the shares asked.

    The texts are shares, such as ``pig=0.55 + sheep=0.25 + snake=0.2``; ``pig + owl`` is half each.
    """

    stem = "distribution_kl"
    reads = "weights"
    better: Better = "lower"
    needs: tuple[Need, ...] = ("texts", "judge")
    protocol = ReadsClasses
    method = "class_probabilities"

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the measure of each picture, ``[B]``."""
        labels = tuple(self.judge.labels)
        weights = texts_for(texts, len(images))
        rows = {text: self._asked(text, labels) for text in dict.fromkeys(weights)}
        read = in_equal_sizes(images, getattr(self.judge, self.method))
        return self._compared(torch.stack([rows[text] for text in weights]), read)

    def _compared(self, asked: Tensor, read: Tensor) -> Tensor:
        return distribution_kl(asked, read)

    def _asked(self, text: str, labels: tuple[str, ...]) -> Tensor:
        shares = torch.zeros(len(labels))
        for word, share in parts_of(text, at_least=1):
            if word not in labels:
                raise ConfigError(
                    f"texts: {self.judge.name} reads {len(labels)} names and {word!r} of {text!r} "
                    "is none of them"
                )
            shares[labels.index(word)] = share
        return shares


class AllPresent(DistributionKl):
    """Whether all the things that a text names are there, 0 or 1: the mean is a share.

    The texts are as in ``distribution_kl``. Shares cannot say it: a picture in which both are
    plain to see may be read as 90 % of one.
    """

    stem = "all_present"
    better: Better = "higher"
    protocol = ReadsPresence
    method = "presence"
    examples = ("classifier",)

    def _compared(self, asked: Tensor, read: Tensor) -> Tensor:
        return ((read >= PRESENT_FROM) | (asked == 0)).all(dim=1).float()


def _asked_of_each(images: list[Tensor], texts: list[str], ask: Callable[..., Tensor]) -> Tensor:
    """Return an answer for each picture and its text, ``[B]``; a text is asked of all its own."""
    values = torch.zeros(len(images))
    for text in dict.fromkeys(texts):
        rows = [row for row, other in enumerate(texts) if other == text]
        values[rows] = in_equal_sizes([images[row] for row in rows], partial(ask, text=text))
    return values
