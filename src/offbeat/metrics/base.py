"""The base class of metrics: a name with its checkpoint, and one function that scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from offbeat import registry
from offbeat.metrics.common import pictures, summarise
from offbeat.protocols import Metric, Need
from offbeat.types import Better, Scores


class BaseMetric(ABC):
    """A metric that measures checked pictures; see ``offbeat.protocols.Metric``."""

    stem: str
    """Its name without brackets."""
    label: str
    """What stands in the brackets: whose weights it runs on."""
    checkpoint: str
    """Those weights, with their digest."""
    better: Better = "higher"
    needs: tuple[Need, ...] = ()
    per_image: bool = True
    at_least: int = 1
    note: str = ""
    reads: str = "prompt"
    """What is taken from a picture's recipe where no text is given: or ``subject``, ``weights``."""

    @property
    def name(self) -> str:
        """The metric's name, with whose weights it runs on in brackets."""
        return f"{self.stem}[{self.label}]"

    def score(
        self,
        images: Sequence[Tensor] | Tensor,
        *,
        texts: Sequence[str] | None = None,
        references: Sequence[Tensor] | Tensor | None = None,
    ) -> Scores:
        """Return the scores of ``images``; see ``offbeat.protocols.Metric``."""
        return summarise(
            self.name,
            self.measure(pictures(images, at_least=self.at_least), texts, references),
            better=self.better,
            checkpoint=self.checkpoint,
            per_image=self.per_image,
            note=self.remark(texts, references),
        )

    def remark(
        self,
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> str:
        """Return what a reader must know to weigh the scores; ``note`` if it is always the same."""
        return self.note

    @abstractmethod
    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return a value for each picture, ``[B]``, or one of all, ``[1]``."""


def open_metric(text: str, backbone: Any) -> Metric:
    """Load a metric that a setting names: ``NAME``, or ``NAME=SOURCE`` with a file, folder or id.

    Raises:
        UnknownNameError: If there is no such metric.
        OffbeatError: If its source holds none.
    """
    name, _, source = text.partition("=")
    metric: Metric = registry.find("metric", name).load(
        source or None, backbone=backbone, device=str(backbone.device)
    )
    return metric
