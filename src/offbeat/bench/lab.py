"""Shared by the cells of a table: checkpoints, judges, metrics, ordinary pictures."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.bench.spec import Table, Way
from offbeat.checkpoints.open import load_backbone
from offbeat.core.budget import counted
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.errors import ConfigError
from offbeat.files.cache import cached
from offbeat.files.labels import versions
from offbeat.judges.choose import choose_judge
from offbeat.protocols import ReadsClasses
from offbeat.types import Evaluations

NUM_ORDINARY = 16
"""Ordinary pictures of a word, unless fewer are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one cell."""

    readings: Mapping[str, float]
    images: Tensor
    """``[N, 3, H, W]``, 0 to 1."""
    texts: tuple[str, ...] = ()
    """What each picture was asked to be, for metrics that read text."""
    references: Tensor | None = None
    """Pictures that metrics compare with."""
    evaluations: int = 0
    """Network evaluations spent on the concept and its pictures, looks of the bench aside."""
    seconds: float = 0.0
    """Of the same."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that a later cell or the report needs."""


@contextmanager
def spending(backbone: object) -> Iterator[Evaluations]:
    """Count a block's network evaluations; 0 where a checkpoint cannot count."""
    with counted(backbone) as found:
        yield Evaluations() if found is None else found


class Lab:
    """Loads checkpoints, judges and metrics once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.ordinary = functools.cache(self._ordinary)
        self.metric = functools.cache(self._metric)
        self.backbone_of = functools.cache(self._backbone_of)

    @property
    def backbone(self) -> Any:
        """The table's checkpoint."""
        return self.backbone_of(self.table.backbone)

    def backbone_for(self, way: Way) -> Any:
        """The checkpoint that a way runs on."""
        return self.backbone_of(way.backbone or self.table.backbone)

    def _backbone_of(self, name: str) -> Any:
        return load_backbone(name)

    @functools.cached_property
    def reader(self) -> ReadsClasses:
        """The classifier that reads pictures; no method uses it.

        Raises:
            ConfigError: If there is none.
        """
        found: ReadsClasses | None = choose_judge(self.table.judge, self.backbone, ReadsClasses)
        if found is None:
            raise ConfigError(f"judge: {self.table.judge} reads no classes on {self.backbone.name}")
        return found

    def _metric(self, name: str) -> Any:
        return registry.find("metric", name).load(backbone=self.towers)

    @functools.cached_property
    def towers(self) -> Any:
        """The checkpoint whose CLIP towers read pictures: the table's own, if it has them."""
        return self.backbone

    def _ordinary(self, word: str, num: int = NUM_ORDINARY, checkpoint: str = "") -> Tensor:
        """Return ordinary pictures of a word, ``[num, 3, H, W]``, kept for later tables.

        They are of the ``checkpoint`` that a way runs on, the table's if empty: what another one
        draws is unlike them for reasons that have nothing to do with the way.
        """
        backbone = self.backbone_of(checkpoint or self.table.backbone)
        concept = plain_concept_of(word, backbone)

        def drawn() -> tuple[dict[str, Tensor], dict[str, Any]]:
            images = draw(backbone, concept, seed=0, num=num, purpose="references")
            return {"images": (images * 255).round().byte()}, {}

        key = {
            "bench": 1,
            "fingerprint": backbone.fingerprint,
            "prompt": concept.prompt(),
            "num": num,
            "versions": versions(),
        }
        return cached("bench-ordinary", key, drawn)[0]["images"].float() / 255

    @torch.no_grad()
    def embeds(self, images: Tensor) -> Tensor:
        """Return CLIP image embeddings, ``[N, D]``, on the CPU."""
        found: Tensor = self.towers.encode_image(images).cpu()
        return found
