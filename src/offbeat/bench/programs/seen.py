"""Exploration against plain rivals by what is seen: one choice of pictures, one measure.

Every way draws candidates; of those that the judge passes, the most different are shown, by the
rule that exploration itself uses. Ours.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.files.cache import cached
from offbeat.files.labels import versions
from offbeat.files.png import pixels_of
from offbeat.judges.choose import choose_judge, own_reader
from offbeat.methods.low_probability.choosing import most_different, passed_first
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.settings import config_of, make_method
from offbeat.metrics.seen import PlainEye, eye_of, seen_novelty, variety
from offbeat.protocols import CalibratedJudge, ChecksSubject, PriorBackbone
from offbeat.types import Concept, Request
from offbeat.verbs.explore import explore
from offbeat.verbs.explore_draw import NUM_CALIBRATION
from offbeat.verbs.explore_plan import NUM_REFERENCES, Plan


@dataclass(frozen=True, slots=True)
class Ground:
    """What is ordinary of a subject on one checkpoint, and who looks at pictures."""

    judge: Any
    features: Tensor
    """Of ordinary pictures by the judge's own stages, ``[M, F]``."""
    plain_features: Tensor
    """Of the same pictures by colours and edges, ``[M, G]``."""


class Seen:
    """Cells of a subject."""

    def __init__(self, table: Table, lab: Lab) -> None:
        self.table, self.lab = table, lab
        self.candidates = int(table.options["candidates"])
        """Pictures that a rival draws and chooses from; exploration draws three for each shown."""
        self._ground = functools.cache(self._made_ground)
        self._pool = functools.lru_cache(maxsize=2)(self._made_pool)

    def items(self) -> list[Item]:
        """Return the subjects."""
        return [Item(subject, subject) for subject in self.table.items]

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return the settings of the method."""
        if not way.method:
            return {}
        if way.method == NAME:
            return {"config": asdict(LowProbabilityConfig(**way.set))}
        return {"config": config_of(self._method(way))}

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Draw candidates, choose and measure."""
        subject, num = str(item.value), self.table.num_images
        backbone = self.lab.backbone_for(way)
        ground = self._ground(subject, way.backbone)
        started = time.process_time()
        with spending(backbone) as spent:
            if way.method == NAME:
                shown, readings = self._explored(way, subject, seed)
            else:
                images = self._candidates(way, subject, seed)
                shown, readings = self._chosen(images, ground, subject, num, way.form)
        features = eye_of(own_reader(ground.judge, backbone)).image_embeds(list(shown))
        plain = PlainEye().image_embeds(list(shown))
        readings |= {
            # the mean of the middle two: ``Tensor.median`` takes the lower of them
            "novelty": float(seen_novelty(features, ground.features).quantile(0.5)),
            "novelty by colours and edges": float(
                seen_novelty(plain, ground.plain_features).quantile(0.5)
            ),
            "variety": variety(features, ground.features[:NUM_REFERENCES]),
            "still it": self._share(ground.judge.still_a(shown, subject)),
        }
        return Outcome(
            readings=readings,
            images=shown,
            evaluations=spent.total,
            seconds=time.process_time() - started,
        )

    # --- the ways -------------------------------------------------------------------------

    def _explored(self, way: Way, subject: str, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Return the pictures of one direction, by the command itself."""
        run = explore(
            subject,
            num_images=self.table.num_images,
            seed=seed,
            directions=1,
            judge="none" if way.form == "no judge" else self.table.judge,
            config=LowProbabilityConfig(**way.set),
            backbone=self.lab.backbone_for(way),
        )
        direction, summary = run.summary["directions"][0], run.summary
        images = torch.stack([pixels_of(picture) for picture in run.images])
        reach = direction["distance_median"] / summary["ordinary_distance"]
        readings = {"reach": reach, "steps": float(direction["step"])}
        if direction["validity"] is not None:
            readings["passed"] = direction["validity"]
        return images, readings

    def _candidates(self, way: Way, subject: str, seed: int) -> Tensor:
        """Return what a rival draws, ``[N, 3, H, W]``."""
        backbone, num = self.lab.backbone_for(way), self.candidates
        if not way.method:
            return self._pool(way.prompt or "{subject}", subject, seed, way.backbone)
        method = self._method(way)
        if getattr(method, "from_one_pool", False):  # it chooses by itself
            num = self.table.num_images
        request = Request(subject=subject, num_images=num, seed=seed)
        if hasattr(method, "fit"):
            judge = choose_judge("auto", backbone, ChecksSubject, subject=subject)
            concept = method.fit(backbone, request, judge=judge)
            return draw(backbone, concept, seed=seed, num=num)
        judge = choose_judge(way.judge, backbone, object) if way.judge else None
        drawn: Tensor = method.draw(backbone, request, **({"judge": judge} if judge else {}))
        return drawn.cpu()

    def _chosen(
        self, images: Tensor, ground: Ground, subject: str, num: int, form: str
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the pictures to show, and the share of all that passed.

        The form ``first`` shows the first pictures, whatever the judge says.
        """
        verdicts = ground.judge.still_a(images, subject)
        features = eye_of(ground.judge).image_embeds(list(images))
        if form == "first":
            places = list(range(num))
        else:
            passed = passed_first(verdicts, len(images), num)
            places = most_different(features, ground.features, passed, num)
        return images[places], {"passed": self._share(verdicts)}

    def _made_pool(self, words: str, subject: str, seed: int, checkpoint: str) -> Tensor:
        """Return plain pictures of a prompt, drawn with the settings of a search."""
        backbone = self.lab.backbone_of(checkpoint or self.table.backbone)
        concept = self._plain(backbone, words.replace("{subject}", subject), subject)
        return draw(backbone, concept, seed=seed, num=self.candidates)

    def _plain(self, backbone: Any, words: str, subject: str) -> Concept:
        if isinstance(backbone, PriorBackbone):
            plain = self._plan(subject).ordinary(backbone)
            return Concept(
                template=plain.template, subject=subject, word=words, metadata=plain.metadata
            )
        return plain_concept_of(words, backbone)

    def _method(self, way: Way) -> Any:
        return make_method(way.method, self.lab.backbone_for(way), dict(way.set))

    # --- what is ordinary -----------------------------------------------------------------

    def _plan(self, subject: str) -> Plan:
        return Plan(
            subject=subject, prompt=None, num_images=1, seed=0, num_trials=1, avoid=(), unlike=(),
            judge=self.table.judge, config=LowProbabilityConfig(),
        )  # fmt: skip

    def _made_ground(self, subject: str, checkpoint: str) -> Ground:
        backbone = self.lab.backbone_of(checkpoint or self.table.backbone)
        parts = self._plan(subject).references(self.lab.backbone)
        if not isinstance(backbone, PriorBackbone):
            parts = [(plain_concept_of(concept.word, backbone), num) for concept, num in parts]
        key = {
            "bench-seen": 1,
            "fingerprint": backbone.fingerprint,
            "prompts": [(concept.prompt(), num) for concept, num in parts],
            "settings": dict(parts[0][0].metadata),
            "versions": versions(),
        }

        def drawn() -> tuple[dict[str, Tensor], dict[str, Any]]:
            images = torch.cat(
                [draw(backbone, c, seed=0, num=n, purpose="calibration") for c, n in parts]
            )
            return {"images": (images * 255).round().byte()}, {}

        images = cached("bench-seen", key, drawn)[0]["images"].float() / 255
        judge = choose_judge(self.table.judge, backbone, ChecksSubject, subject=subject)
        if isinstance(judge, CalibratedJudge):
            judge.calibrate(images[:NUM_CALIBRATION], subject)
        return Ground(
            judge,
            eye_of(own_reader(judge, backbone)).image_embeds(list(images)),
            PlainEye().image_embeds(list(images)),
        )

    @staticmethod
    def _share(verdicts: Any) -> float:
        answered = [verdict for verdict in verdicts if verdict.answered]
        return sum(v.passed for v in answered) / len(answered) if answered else float("nan")
