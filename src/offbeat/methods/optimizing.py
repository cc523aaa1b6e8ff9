"""Run a search or a training to its end, and keep its optimizer's state.

``TrainsOnce`` is the base class of methods that learn once for all concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from offbeat.core import vocab
from offbeat.core.checks import check_gradients
from offbeat.methods.settings import Config, Method
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.types import OnStep, Step, Trained, ignore_step


class Resumable(Protocol):
    """A search or a training that takes one step at a time and can go on from a snapshot."""

    @property
    def ended(self) -> bool:
        """Whether the last step is done."""
        ...

    def advance(self) -> Step:
        """Take one step."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``Step.snapshot()``."""
        ...


class Training(Resumable, Protocol):
    """A training that ends with something learned."""

    def trained(self) -> Trained:
        """Return what was learned."""
        ...


def run_to_end(work: Resumable, on_step: OnStep, resume: Mapping[str, Any] | None) -> None:
    """Take all steps of a search or a training.

    Args:
        work: New.
        on_step: Told each step.
        resume: State to go on from, a ``Step.snapshot()``.
    """
    if resume is not None:
        work.restore(resume)
    while not work.ended:
        on_step(work.advance())


class TrainsOnce(Method[Config]):
    """A method that learns once for all concepts of a vocabulary."""

    gradient_verbs = frozenset({"train"})

    def train(
        self,
        backbone: TextBackbone,
        vocabulary: Sequence[str],
        *,
        seed: int = 0,
        judge: ReadsClasses | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Trained:
        """Return what is learned; ``seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            vocabulary: The known words, K.
            seed: Of every draw.
            judge: Reads pictures during the training, where the method asks somebody.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.

        Raises:
            ConfigError: If the weights are float16.
            VocabularyError: If there are fewer than two words, or one is given twice.
        """
        check_gradients(f"training {self.name}", backbone)
        training = self.new_training(backbone, vocab.check_words(vocabulary), seed, judge)
        run_to_end(training, on_step, resume)
        return training.trained()

    def new_training(
        self, backbone: TextBackbone, words: tuple[str, ...], seed: int, judge: ReadsClasses | None
    ) -> Training:
        """Return a training before its first step: what a method of this kind defines."""
        raise NotImplementedError


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Return a copy of an optimizer's moments, by the number of the parameter, as text."""
    state = optimizer.state_dict()["state"]
    return {str(i): {name: v.clone() for name, v in m.items()} for i, m in state.items()}


def restore_moments(optimizer: torch.optim.Optimizer, moments: Mapping[Any, Any]) -> None:
    """Give an optimizer the moments that ``moments_of`` returned."""
    state = optimizer.state_dict()
    state["state"] = {
        int(i): {name: value.clone() for name, value in m.items()} for i, m in moments.items()
    }
    optimizer.load_state_dict(state)
