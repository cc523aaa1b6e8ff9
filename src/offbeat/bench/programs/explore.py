"""Explore one subject: searches with readings along the way, prompts, plain rivals.

Distance is measured in the prior's own space, for ways that learn a concept or say a prompt;
novelty in the picture itself, for all ways: one less the cosine to the nearest of 16 ordinary ones.
A way that ``avoids`` another is read by its distance from that one's samples, too; in the form
``another seed`` it is not told of them, and searches with another seed. The form ``fit`` searches
nothing and reads how likely further ordinary samples are to the way's density.
Sources: Song and Elgammal, arXiv:2601.22125; Richardson et al., ConceptLab, arXiv:2308.02669;
colourfulness: Hasler and Suesstrunk, Measuring Colourfulness in Natural Images (2003).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.core.baseline import Baseline
from offbeat.core.density import AvoidCluster
from offbeat.core.drawing import draw, ordinary_prompt, plain_concept_of, sample_concept
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
NUM_MARKED = 500
"""Embeddings that a cluster to avoid is fitted to."""
NUM_FIT = 256


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
        self._concepts: dict[tuple[str, str, int], Concept] = {}

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
        if way.form == "fit":
            return self._fit(way, str(item.value))
        chosen = seed + 1000 if way.form == "another seed" else seed
        request = Request(subject=item.value, num_images=self.table.num_images, seed=chosen)
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
        if way.avoids:
            marked = replace(request, seed=seed)
            readings |= self._from_marked(self.table.ways[way.avoids], marked, concept)
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
            if way.avoids and way.form != "another seed":
                marked = self._marked(self.table.ways[way.avoids], request)
                given["avoid"] = [self.samples(marked, request, NUM_MARKED, "avoided")]
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

    def _from_marked(self, other: Way, request: Request, concept: Concept) -> dict[str, float]:
        """Return the median distances from what was marked: of a concept, and of itself."""
        marked, space = self._marked(other, request), self.baseline(request.subject).space
        cluster = AvoidCluster.fit(space, self.samples(marked, request, NUM_MARKED, "avoided"))

        def distance(of: Concept) -> float:
            samples = self.samples(of, request, NUM_SAMPLES, "fresh")
            return float(cluster.squared_distance(samples).sqrt().median())

        return {"from the marked": distance(concept), "marked itself": distance(marked)}

    def _fit(self, way: Way, subject: str) -> Outcome:
        """Return how likely fresh ordinary samples are to a density, in nats an axis."""
        density = self._measured(LowProbabilityConfig(**{**self.table.options, **way.set}), subject)
        request = Request(subject=subject, seed=1)
        fresh = self.samples(plain_concept_of(subject, self.lab.backbone), request, NUM_FIT, "fit")
        likely = float(density.density.log_prob(fresh).mean()) / density.space.num_components
        readings = {"likelihood": likely, "variance kept": density.space.variance_kept}
        return Outcome(readings=readings, images=torch.zeros(0, 3, 1, 1))

    def _marked(self, other: Way, request: Request) -> Concept:
        """Return another way's concept for the same request, searched once."""
        place = other.name, request.subject, request.seed
        if place not in self._concepts:
            self._concepts[place] = self._searched(other, request)
        return self._concepts[place]

    def _searched(self, other: Way, request: Request) -> Concept:
        method = self._method(other)
        given = self._given(other, method, request)
        with spending(self.lab.backbone_for(other)) as spent:
            looks = _Looks(self, request)
            return self._learned(replace(other, looks=()), method, request, looks, spent, given)

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
            "colourfulness": float(colourfulness(images).mean()),
            "sureness": float(self.lab.reader.class_probabilities(images).amax(dim=1).mean()),
            **self.member(images, request.subject),
        }
        own["failed"] = float(own["valid"] < 0.5)
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

    def member(self, images: Tensor, subject: str) -> dict[str, float]:
        """Return how surely pictures show one known member of a subject that has several."""
        judge = self._judge(subject)
        members = judge.members(subject) if hasattr(judge, "members") else []
        if len(members) < 2:
            return {}
        columns = [list(self.lab.reader.labels).index(member) for member in members]
        read = self.lab.reader.class_probabilities(images)[:, columns]
        return {"member": float(read.amax(dim=1).mean())}

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
            self._baselines[subject] = self._measured(self.shared, subject)
        return self._baselines[subject]

    def _measured(self, cfg: LowProbabilityConfig, subject: str) -> Baseline:
        backbone, request = self.lab.backbone, Request(subject=subject)
        key = {
            "bench": 1,
            "fingerprint": backbone.fingerprint,
            "prompt": ordinary_prompt(backbone, request),
            "num": [cfg.num_baseline, cfg.num_held_out, cfg.axes],
            "density": cfg.density,
            "versions": versions(),
            **cfg.sampling(backbone),
        }
        method = LowProbability(cfg)
        packed = cached("bench", key, lambda: method.measure(backbone, request).pack())
        return Baseline.unpack(*packed)

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
        readings |= program.member(images, request.subject)
        self.readings |= {f"{name}@{step}": value for name, value in readings.items()}
        self.seconds += time.perf_counter() - started
        self.evaluations += spent.total - before


def colourfulness(images: Tensor) -> Tensor:
    """Return how colourful pictures, ``[B, 3, H, W]``, 0 to 1, are: ``[B]``, 0 or more.

    Source: Hasler and Suesstrunk (2003), in units of 1 where theirs are of 255.
    """
    red, green, blue = images.flatten(2).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])  # [2, B, H * W]
    spread, mean = torch.std_mean(opponents, dim=2)
    colourful: Tensor = spread.norm(dim=0) + 0.3 * mean.norm(dim=0)
    return colourful
