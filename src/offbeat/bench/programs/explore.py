"""Explore one subject: searches with readings along the way, prompts, plain rivals.

Distance is measured in the prior's own space, for ways that learn a concept or say a prompt;
novelty in the picture itself, for all ways: one less the cosine to the nearest of 16 ordinary ones.
Sources: Song and Elgammal, arXiv:2601.22125; Richardson et al., ConceptLab, arXiv:2308.02669.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.core.baseline import Baseline
from offbeat.core.drawing import draw, ordinary_prompt, sample_concept
from offbeat.core.rng import streams
from offbeat.core.templates import fill
from offbeat.files.cache import cached
from offbeat.files.labels import versions
from offbeat.judges.choose import choose_judge, own_reader
from offbeat.methods.low_probability.choosing import Eye
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.settings import config_of, make_method
from offbeat.metrics.fusion import vendi_score
from offbeat.metrics.novelty import nearest_distance
from offbeat.metrics.seen import eye_of
from offbeat.protocols import CalibratedJudge, ChecksSubject, ReadsClasses
from offbeat.types import Concept, Evaluations, Request, Step

NUM_SAMPLES = 64
"""Embeddings that a distance is the median of."""
NUM_VARIETY = 16


class _SpentError(Exception):
    """The budget is spent; carries the concept found so far."""

    def __init__(self, concept: Concept) -> None:
        super().__init__()
        self.concept = concept


class Explore:
    """Cells of a subject."""

    def __init__(self, table: Table, lab: Lab) -> None:
        self.table, self.lab = table, lab
        self.shared = LowProbabilityConfig(**table.options)
        """Of the baseline and of the prior, for every way alike."""
        self._baselines: dict[str, Baseline] = {}
        self._judges: dict[str, CalibratedJudge] = {}
        self._eyes: dict[str, Eye] = {}

    def items(self) -> list[Item]:
        """Return the subjects."""
        return [Item(subject, subject) for subject in self.table.items]

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return the settings of the method and of the baseline."""
        own = config_of(self._method(way)) if way.method else {}
        avoided = dict(self.key(self.table.ways[way.avoids])) if way.avoids else {}
        return {"config": own, "shared": asdict(self.shared), "avoided": avoided}

    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Search or draw, judge, and measure."""
        request = Request(subject=item.value, num_images=self.table.num_images, seed=seed)
        method = self._method(way) if way.method else None
        backbone, looks = self.lab.backbone_for(way), _Looks(self, request)
        given = self._given(way, method, request)
        started = time.perf_counter()
        with spending(backbone) as spent:
            if method is not None and not hasattr(method, "fit"):
                images = method.draw(backbone, request, **given)
                seconds = time.perf_counter() - started
                return self._outcome(way, request, images.cpu(), {}, spent.total, seconds)
            concept = self._learned(way, method, request, looks, spent, given)
            images = draw(backbone, concept, seed=seed, num=self.table.num_images)
            total = spent.total - looks.evaluations
        seconds = time.perf_counter() - started - looks.seconds
        readings = {**looks.readings, **self.in_prior(concept, request)}
        return self._outcome(way, request, images, readings, total, seconds)

    def _given(self, way: Way, method: Any, request: Request) -> dict[str, Any]:
        """Return judge, baseline and clusters; they exist before a search and are not counted.

        A baseline and a calibrated judge are made once for a subject and kept for every search.
        """
        given: dict[str, Any] = {}
        if (judge := self._asked(way, request.subject)) is not None:
            given["judge"] = judge
        if isinstance(method, LowProbability):
            given["baseline"] = self.baseline(request.subject)
            if way.avoids:
                given["avoid"] = [self._avoided(self.table.ways[way.avoids], request)]
        return given

    def _learned(
        self,
        way: Way,
        method: Any,
        request: Request,
        looks: _Looks,
        spent: Evaluations,
        given: Mapping[str, Any],
    ) -> Concept:
        """Return the concept of a way, learned or from its prompt."""
        backbone = self.lab.backbone_for(way)
        if method is None:
            template = fill(str(backbone.card["prompt_template"]), subject="{concept}")
            word = way.prompt.replace("{subject}", request.subject) or request.subject
            return Concept(template=template, subject=request.subject, word=word)
        steps = way.looks if way.looks is not None else self.table.looks

        def on_step(step: Step) -> None:
            if step.index + 1 in steps:
                assert step.concept is not None
                looks(step.index + 1, step.concept(), spent)
            own = spent.total - looks.evaluations
            if self.table.budget is not None and own >= self.table.budget:
                assert step.concept is not None
                raise _SpentError(step.concept())

        try:
            found: Concept = method.fit(backbone, request, on_step=on_step, **given)
        except _SpentError as enough:
            return enough.concept
        return found

    def _avoided(self, other: Way, request: Request) -> Tensor:
        """Return samples of another way's concept for the same request."""
        method = self._method(other)
        given = self._given(other, method, request)
        with spending(self.lab.backbone_for(other)) as spent:
            looks = _Looks(self, request)
            concept = self._learned(other, method, request, looks, spent, given)
        return self.samples(concept, request, 500, "avoided")

    def _outcome(
        self,
        way: Way,
        request: Request,
        images: Tensor,
        readings: Mapping[str, float],
        evaluations: int,
        seconds: float,
    ) -> Outcome:
        ordinary = self.lab.ordinary(request.subject, checkpoint=way.backbone)
        seen = self.lab.embeds(images)
        far = nearest_distance(seen, self.lab.embeds(ordinary))
        own = {
            "valid": self.valid(images, request.subject),
            "novelty": float(far.mean()),
            "seen": self.seen(images, request.subject),
        }
        if len(images) > 1:
            own["diversity"] = vendi_score(seen)
        return Outcome(
            readings={**readings, **own},
            images=images,
            texts=(f"a picture of a {request.subject}",) * len(images),
            references=ordinary,
            evaluations=evaluations,
            seconds=seconds,
        )

    # --- what is measured -----------------------------------------------------------------

    def valid(self, images: Tensor, subject: str) -> float:
        """Return the share of answered pictures that the judge takes for the subject."""
        verdicts = self._judge(subject).still_a(images, subject)
        answered = [verdict for verdict in verdicts if verdict.answer != "unknown"]
        return sum(v.passed for v in answered) / len(answered) if answered else float("nan")

    def seen(self, images: Tensor, subject: str) -> float:
        """Return the median seen novelty of pictures beside ordinary ones."""
        if subject not in self._eyes:
            encoder = eye_of(own_reader(self._judge(subject), self.lab.backbone))
            self._eyes[subject] = Eye(
                encoder, encoder.image_embeds(list(self.lab.ordinary(subject)))
            )
        return float(self._eyes[subject].novelty(images).quantile(0.5))

    @torch.no_grad()
    def in_prior(self, concept: Concept, request: Request) -> dict[str, float]:
        """Return readings of fresh embeddings of a concept beside ordinary ones."""
        if not hasattr(self.lab.backbone, "sample_prior"):
            return {}
        samples = self.samples(concept, request, NUM_SAMPLES, "probe")
        told = self.baseline(request.subject).describe(samples)
        return {
            "distance": float(told["distance_median"]),
            "anchor": float(told["anchor_cosine"]),
            "variety": vendi_score(samples[:NUM_VARIETY]),
        }

    @torch.no_grad()
    def samples(self, concept: Concept, request: Request, num: int, purpose: str) -> Tensor:
        """Return embeddings of a concept, ``[num, D]``, with the settings of the baseline."""
        backbone = self.lab.backbone
        noise = streams(request.seed, "bench", purpose, num=num)
        return sample_concept(backbone, concept, noise, **self.shared.sampling(backbone))

    def baseline(self, subject: str) -> Baseline:
        """Return the density of a subject's ordinary samples, measured once."""
        if subject not in self._baselines:
            backbone, request = self.lab.backbone, Request(subject=subject)
            cfg = self.shared
            key = {
                "bench": 1,
                "fingerprint": backbone.fingerprint,
                "prompt": ordinary_prompt(backbone, request),
                "num": [cfg.num_baseline, cfg.num_held_out, cfg.axes],
                "versions": versions(),
                **cfg.sampling(backbone),
            }
            method = LowProbability(cfg)
            packed = cached("bench", key, lambda: method.measure(backbone, request).pack())
            self._baselines[subject] = Baseline.unpack(*packed)
        return self._baselines[subject]

    def _judge(self, subject: str) -> CalibratedJudge:
        if subject not in self._judges:
            found: Any = choose_judge(
                self.table.judge, self.lab.backbone, ChecksSubject, subject=subject
            )
            if isinstance(found, CalibratedJudge):
                found.calibrate(self.lab.ordinary(subject), subject)
            self._judges[subject] = found
        return self._judges[subject]

    def _asked(self, way: Way, subject: str) -> Any:
        """Return the judge that the method uses; None for no judge."""
        if not way.judge:
            return None
        backbone = self.lab.backbone_for(way)
        if way.judge == "itself":  # the same towers that it searches in
            return choose_judge("clip", backbone, ReadsClasses)
        judge: Any = choose_judge(way.judge, backbone, ChecksSubject, subject=subject)
        if isinstance(judge, CalibratedJudge):
            judge.calibrate(self.lab.ordinary(subject), subject)
        return judge

    def _method(self, way: Way) -> Any:
        if way.method != LowProbability.name:
            return make_method(way.method, self.lab.backbone_for(way), dict(way.set))
        return LowProbability(LowProbabilityConfig(**{**self.table.options, **way.set}))


class _Looks:
    """Reads a search along the way; its own time and evaluations are not counted."""

    def __init__(self, program: Explore, request: Request) -> None:
        self.program, self.request = program, request
        self.readings: dict[str, float] = {}
        self.seconds = 0.0
        self.evaluations = 0

    def __call__(self, step: int, concept: Concept, spent: Evaluations) -> None:
        """Read a concept after a number of steps."""
        started, before = time.perf_counter(), spent.total
        program, request = self.program, self.request
        readings = program.in_prior(concept, request)
        num = program.table.num_images
        images = draw(program.lab.backbone, concept, seed=request.seed, num=num)
        readings["valid"] = program.valid(images, request.subject)
        readings["seen"] = program.seen(images, request.subject)
        self.readings |= {f"{name}@{step}": value for name, value in readings.items()}
        self.seconds += time.perf_counter() - started
        self.evaluations += spent.total - before
