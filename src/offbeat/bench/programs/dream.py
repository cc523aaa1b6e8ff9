"""Dreams: how many different things are drawn, and how fast.

Source: DisTok, arXiv:2505.03667, its unconditional space against repeated ConceptLab searches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.core.drawing import draw
from offbeat.core.rng import stream
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of, make_method
from offbeat.metrics.fusion import vendi_score
from offbeat.protocols import ReadsClasses
from offbeat.runs.trained import find_trained
from offbeat.types import Request


class Dream:
    """Cells of one subject's dreams: ``num_images`` of them, a picture each."""

    def __init__(self, table: Table, lab: Lab) -> None:
        self.table, self.lab = table, lab

    def items(self) -> list[Item]:
        """Return the subjects."""
        return [Item(subject, subject) for subject in self.table.items]

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return the method's settings and its trained weights."""
        method = make_method(way.method, self.lab.backbone_for(way), dict(way.set))
        digest = find_trained(method, self.lab.backbone_for(way), None)[1]
        return {"config": config_of(method), "trained": digest}

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Dream, draw and read."""
        backbone = self.lab.backbone_for(way)
        method = make_method(way.method, backbone, dict(way.set))
        trained, _ = find_trained(method, backbone, None)
        guide = choose_judge(way.judge or "clip", backbone, ReadsClasses)
        # a space of dreams may know no subject: each item has dreams of its own
        own = stream(seed, "bench", item.name).initial_seed() % 1_000_000
        request = Request(subject=item.value, seed=own)
        images, learning = [], 0.0
        with spending(backbone) as spent:
            for index in range(self.table.num_images):
                started = time.perf_counter()
                concept = method.dream(backbone, request, index, trained=trained, judge=guide)
                learning += time.perf_counter() - started
                images.append(draw(backbone, concept, seed=index, num=1))
        drawn = torch.cat(images)
        read = self.lab.reader.class_probabilities(drawn)
        return Outcome(
            readings={
                "vendi": vendi_score(self.lab.embeds(drawn)),
                "vendi of readings": vendi_score(read),
                "entropy": float(torch.special.entr(read).sum(dim=1).mean()),
                "surest": float(read.max(dim=1).values.mean()),
                "seconds a concept": learning / self.table.num_images,
            },
            images=drawn,
            texts=(f"a picture of a {item.value}",) * len(drawn),
            references=self.lab.ordinary(item.value),
            evaluations=spent.total,
            seconds=learning,
        )
