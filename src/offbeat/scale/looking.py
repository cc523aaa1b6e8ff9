"""What an archive sees of a concept: how valid its pictures are, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.open import check_needs, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.functional import cosine
from offbeat.core.rng import stream
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.judges.choose import choose_judge, own_reader
from offbeat.metrics.base import open_metric
from offbeat.metrics.seen import eye_of
from offbeat.protocols import CalibratedJudge, ChecksSubject, EncodesImage, TextBackbone
from offbeat.runs.result import learned_of
from offbeat.scale.space import ConceptSpace
from offbeat.scale.worker import Worker
from offbeat.verbs.explore_draw import NUM_CALIBRATION

LEARNED, BETWEEN, PRESENCE = "learned", "..", "with:"
"""Kinds of axes: what pictures differ most in, ``round..spiky``, ``with:bird``."""
VALIDITY = "validity"
WIDER = 0.25
"""Share of its length that the range of an axis is wider than the pictures that it was made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Draws concepts and looks at them; travels to workers."""

    backbone: str | Path | TextBackbone
    device: Where
    subject: str
    prompt: str | None
    runs: tuple[str, ...]
    num_axes: int
    num_images: int
    num_inference_steps: int | None
    judge: str
    quality: str
    axes: tuple[str, ...]

    def __call__(
        self, worker: Worker, items: Sequence[tuple[Sequence[float], int]]
    ) -> list[dict[str, Any]]:
        """Return what is seen of each point, with the seed of its pictures."""
        eyes = worker.memory.get(self)
        if eyes is None:
            eyes = worker.memory[self] = Eyes(self, loaded(self.backbone, self.device))
        return [eyes.see(torch.tensor(point), seed) for point, seed in items]


class Eyes:
    """A judge, an encoder and the space of one subject, on a loaded checkpoint."""

    def __init__(self, look: Look, backbone: Any) -> None:
        self.look, self.backbone = look, backbone
        self.space = space_of(look, backbone)
        self.judge = choose_judge(look.judge, backbone, ChecksSubject, subject=look.subject)
        if self.judge is None and look.quality == VALIDITY:
            raise ConfigError("quality: validity needs a judge; name a metric, or another judge")
        self.eye = eye_of(own_reader(self.judge, backbone))
        self.metric = None
        if look.quality != VALIDITY:
            self.metric = open_metric(look.quality, backbone)
        self.readers = [self._reader(axis) for axis in look.axes if axis != LEARNED]
        if isinstance(self.judge, CalibratedJudge):
            plain = plain_concept_of(look.subject, backbone, look.prompt)
            self.judge.calibrate(self.draw(plain, 0, NUM_CALIBRATION), look.subject)

    def draw(self, concept: Any, seed: int, num: int) -> Tensor:
        """Return pictures of a concept, ``[N, 3, H, W]``."""
        decoding = decoding_of(self.look.num_inference_steps)
        return draw(self.backbone, concept, seed=seed, num=num, decoding=decoding)

    @torch.no_grad()
    def see(self, point: Tensor, seed: int) -> dict[str, Any]:
        """Return the quality of a point, 0 or more, and what its axes are made of."""
        images = self.draw(self.space.concept(point), seed, self.look.num_images)
        return {
            "quality": self._quality(images),
            "features": self.eye.image_embeds(list(images)).mean(dim=0).tolist(),
            "read": [float(reader(images).mean()) for reader in self.readers],
        }

    def _quality(self, images: Tensor) -> float:
        """Return how good pictures are; higher is better."""
        if self.metric is not None:
            subjects = [self.look.subject] * len(images)
            scores = self.metric.score(list(images), texts=subjects)
            return float(scores.mean) * (-1 if scores.better == "lower" else 1)
        # half for each picture that passes, half for how sure the judge is of it
        verdicts = self.judge.still_a(images, self.look.subject)
        return float(sum((v.passed + v.probability) / 2 for v in verdicts) / len(verdicts))

    def _reader(self, axis: str) -> Any:
        if axis.startswith(PRESENCE):
            word = axis.removeprefix(PRESENCE)
            reader = choose_judge("auto", self.backbone, ChecksSubject, subject=word)
            if reader is None:
                raise ConfigError(f"axis: no judge of {self.backbone.name} knows {word!r}")
            return lambda images: reader.probability(images, word)
        low, _, high = axis.partition(BETWEEN)
        backbone = self.backbone
        check_needs("a text axis", EncodesImage, backbone)
        template = str(backbone.card["prompt_template"])
        texts = [fill(template, subject=f"{end} {self.look.subject}") for end in (low, high)]
        ends = torch.nn.functional.normalize(backbone.encode_text(texts).text_embeds, dim=1)
        way = (ends[1] - ends[0])[None]
        return lambda images: cosine(backbone.encode_image(images), way)[:, 0]


def space_of(look: Look, backbone: Any) -> ConceptSpace:
    """Return the space that a look is at."""
    runs = [learned_of(run, backbone).concept for run in look.runs]
    return ConceptSpace.of(
        backbone, look.subject, num_axes=look.num_axes, prompt=look.prompt, runs=runs
    )


def decoding_of(num_inference_steps: int | None) -> dict[str, Any] | None:
    """Return what ``draw`` is told of the decoder."""
    return None if num_inference_steps is None else {"num_inference_steps": num_inference_steps}


def check_axes(axes: Sequence[str]) -> tuple[str, str]:
    """Return two axes; those that are not named are learned.

    Raises:
        ConfigError: If there are more, or one is of no known form.
    """
    for axis in axes:
        low, between, high = axis.partition(BETWEEN)
        is_text = between and low.strip() and high.strip()
        if not (axis == LEARNED or is_text or axis.removeprefix(PRESENCE) not in (axis, "")):
            raise ConfigError(
                f"axis: expected {LEARNED}, 'round..spiky' or 'with:WORD', got {axis!r}"
            )
    if len(axes) > 2:
        raise ConfigError(f"axis: expected at most 2, got {len(axes)}")
    first, second = [*axes, LEARNED, LEARNED][:2]
    return first, second


@dataclass(frozen=True, slots=True)
class Descriptors:
    """From what is seen to a place on the map."""

    axes: tuple[str, str]
    mean: Tensor
    """Of the features that the axes were learned of, ``[F]``."""
    directions: Tensor
    """``[learned axes, F]``."""
    ranges: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def fit(cls, axes: tuple[str, str], seen: Sequence[Mapping[str, Any]]) -> Descriptors:
        """Learn what pictures differ most in, and how far each axis reaches."""
        features = torch.tensor([row["features"] for row in seen], dtype=torch.float64)
        count, mean = axes.count(LEARNED), features.mean(dim=0)
        ways = torch.linalg.svd(features - mean, full_matrices=False)[2][:count]
        sign = ways.gather(1, ways.abs().argmax(dim=1, keepdim=True)).sign()
        open_ended = cls(axes, mean, ways * sign, ((0.0, 1.0), (0.0, 1.0)))
        places = open_ended.places(seen)
        ranges = []
        for column in places.T:
            low, high = (float(column.quantile(q)) for q in (0.02, 0.98))
            more = WIDER * (high - low) or 1e-3
            ranges.append((low - more, high + more))
        return cls(axes, mean, ways * sign, (ranges[0], ranges[1]))

    def places(self, seen: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return where each lies, ``[B, 2]``; what is beyond the range lies at its end."""
        features = torch.tensor([row["features"] for row in seen], dtype=torch.float64)
        read = torch.tensor([row["read"] for row in seen], dtype=torch.float64)
        learned = (features - self.mean) @ self.directions.T
        parts = {LEARNED: list(learned.T), "": list(read.T) if read.numel() else []}
        return torch.stack(
            [parts[axis if axis == LEARNED else ""].pop(0) for axis in self.axes], dim=1
        )


def points_to_learn(space: ConceptSpace, num: int, sigma: float) -> list[tuple[list[float], int]]:
    """Return points, with the seeds of their pictures, that the axes are learned of.

    Three quarters are concepts on the same noise, one quarter the subject itself on other noise.
    """
    noise = stream(0, "archive", "axes", space.subject)
    points = torch.randn(num, space.size, generator=noise) * sigma
    points[num - num // 4 :] = 0
    return [(point, max(0, at - num + num // 4)) for at, point in enumerate(points.tolist())]
