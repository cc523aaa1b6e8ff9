"""Turn class probabilities into verdicts: limits, calibration, names.

The probability of yes is the mass that the classes give to the subject. How much of it a good
picture gets differs by orders of magnitude between subjects and encoders (a softmax over hundreds
of names spreads), so no fixed number can be the limit. The limit is a share of what ordinary
pictures of the same subject get, the median of those that ``calibrate`` was given; before that it
is chance, the mass of equal probabilities.

Measured on pocket's first weights, 8 subjects, 16 ordinary pictures each to calibrate and 16 others
to ask about: ClipJudge passes 86 % of the subject's own pictures and 20 % of other subjects' (about
half of them for handbag and dinosaur, which its image tower hardly tells from the rest).
ClassifierJudge with pocket's own classifier: 91 % and 4 %; pet, which pocket draws badly, lets 30 %
of the others pass, the other seven subjects 0.5 %.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from offbeat.core.checks import check_finite, check_range, check_shape
from offbeat.errors import ConfigError
from offbeat.types import Verdict


def members_of(
    subject: str,
    labels: Sequence[str],
    *,
    subjects: Mapping[str, Sequence[str]],
    coarse: Mapping[str, Sequence[str]],
) -> list[str]:
    """Return the labels that count as ``subject``; none if the vocabulary lacks it.

    The subject's listed members come first, then the label of that very name, then all labels of
    the coarse class of that name.

    >>> members_of("pet", ["cat", "car"], subjects={}, coarse={"cat": ["animal", "pet"]})
    ['cat']
    """
    known = set(labels)
    if listed := [member for member in subjects.get(subject, ()) if member in known]:
        return listed
    if subject in known:
        return [subject]
    return [label for label in labels if subject in coarse.get(label, ())]


def nearest(subject: str, names: Sequence[str]) -> list[str]:
    """Return up to five of ``names`` that are spelt like ``subject``."""
    return get_close_matches(subject, sorted(set(names)), n=5, cutoff=0.5)


def check_images(images: Tensor) -> None:
    """Raise unless ``images`` is ``[B, 3, H, W]``, finite, 0 to 1."""
    check_shape("images", images, None, 3, None, None)
    check_finite("images", images)
    if images.numel():
        check_range("images", float(images.min()), 0, 1)
        check_range("images", float(images.max()), 0, 1)


def kind_of(
    subject: str, labels: Sequence[str], members: Sequence[str], probabilities: Tensor
) -> str:
    """Return the most probable kind of ``subject``, in place of an answer to "What kind of ...?".

    Args:
        subject: A broad subject, e.g. ``pet``.
        labels: All classes, K.
        members: Those that count as the subject; if there are none, or it is itself the only one,
            any other class may be the answer.
        probabilities: Of one picture, ``[K]``.
    """
    kinds = [label for label in members if label != subject]
    kinds = kinds or [label for label in labels if label != subject]
    return max(kinds, key=lambda label: float(probabilities[labels.index(label)]))


class ClassJudge(ABC):
    """A judge that reads class probabilities: its verdicts, its names, its calibration."""

    _labels: tuple[str, ...]
    _subjects: Mapping[str, Sequence[str]]
    _coarse: Mapping[str, Sequence[str]]
    _limits: Limits

    @property
    @abstractmethod
    def name(self) -> str:
        """The judge's name, with its checkpoint."""

    @abstractmethod
    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return ``[B, K]`` over the labels, of ``images``, ``[B, 3, H, W]``, 0 to 1."""

    @abstractmethod
    def probability(self, images: Tensor, subject: str) -> Tensor:
        """Return the probability of yes, ``[B]``."""

    def calibrate(self, images: Tensor, subject: str) -> float:
        """Set the limit for ``subject`` by ordinary pictures of it; 16 are enough.

        Returns:
            The probability from which on the answer is yes.
        """
        return self._limits.learn(subject, self.probability(images, subject))

    def name_it(self, image: Tensor, subject: str) -> str:
        """Return what kind of ``subject`` one picture, ``[3, H, W]``, 0 to 1, shows."""
        members = members_of(subject, self._labels, subjects=self._subjects, coarse=self._coarse)
        return kind_of(subject, self._labels, members, self.class_probabilities(image[None])[0])


class Limits:
    """The probability from which the answer is yes, for each subject."""

    def __init__(self, share: float) -> None:
        check_range("share", share, 0, 1, open_low=True)
        self.share = share
        self._ordinary: dict[str, float] = {}

    def learn(self, subject: str, probabilities: Tensor) -> float:
        """Set the limit from the probabilities of ordinary pictures, ``[B]``; return it."""
        if len(probabilities) == 0:
            raise ConfigError("images: expected at least one ordinary picture, got none")
        self._ordinary[subject] = float(torch.quantile(probabilities, 0.5))
        return self.share * self._ordinary[subject]

    def verdicts(
        self, subject: str, probabilities: Tensor, *, chance: float, judge: str, note: str
    ) -> list[Verdict]:
        """Return one verdict for each of ``probabilities``, ``[B]``; its note gives the limit."""
        ordinary = self._ordinary.get(subject)
        if ordinary is None:
            limit, rule = chance, f"yes from chance on, {chance:.2g}; not calibrated"
        else:
            limit = self.share * ordinary
            rule = f"yes from {limit:.2g} on, {self.share:g} of what ordinary pictures get"
            if ordinary < chance:
                rule += f"; those get less than chance, {chance:.2g}, so this says little"
        text = f"{rule}. {note}".rstrip()
        return [
            Verdict("yes" if value >= limit else "no", value, judge, text)
            for value in probabilities.clamp(0, 1).tolist()
        ]
