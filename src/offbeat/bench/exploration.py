"""The exploration paper's claims on pocket, as a program: cells, a table, a plot.

Each cell is one search, followed to its last step whatever the judge says; the judge looks on, so
that one search shows what happens with and without it. Source of the claims: Song and Elgammal,
arXiv:2601.22125.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat._disk import json_bytes
from offbeat._sources import choose_judge
from offbeat.backbones.unclip import UnclipBackbone
from offbeat.baseline import Baseline
from offbeat.formats import versions
from offbeat.functional import cosine
from offbeat.methods.low_probability import LowProbability, LowProbabilityConfig
from offbeat.protocols import CalibratedJudge
from offbeat.rng import streams
from offbeat.sampling import ordinary_prompt, plain_concept, sample_concept
from offbeat.store import cached, write_atomic
from offbeat.types import Concept, Request, Step

SUBJECTS = ("handbag", "building", "vehicle", "alien", "fruit", "chair", "pet", "dinosaur")
LOOKS = (10, 30, 50)
"""Steps at which the judge looks on; side variants are looked at when they end."""
SIDE_SEEDS = 1
"""Seeds of the variants that answer side questions."""
NUM_LOOKS = 4
"""Pictures that the judge sees at each look."""
NUM_VARIETY = 16
NUM_CALIBRATION = 16


@dataclass(frozen=True, slots=True)
class Variant:
    """One row of the table."""

    label: str
    settings: dict[str, Any]
    avoids: str = ""
    """The variant whose result is avoided."""
    side: bool = False
    """Looked at only when it ends."""


VARIANTS = {
    "held": Variant("held at 0.999", {}),
    "reach": Variant("held at 2x ordinary", {"reach": 2.0}),
    "published": Variant("published rule", {"novelty": None}),
    "unanchored": Variant("published, no anchor", {"novelty": None, "use_anchor": False}),
    "lora": Variant("held at 0.999, LoRA alone", {"space": "lora"}, side=True),
    "adjective": Variant("held at 0.999, adjective token", {"space": "adjective"}, side=True),
    "avoid": Variant(
        "held at 0.999, avoiding the first row's result", {}, avoids="held", side=True
    ),
}


def run(out: Path, *, seeds: int, steps: int, threads: int, part: tuple[int, int]) -> None:
    """Compute missing cells, then write ``table.md`` and ``curves.png`` if all are there."""
    torch.set_num_threads(threads)
    lab = _Lab(UnclipBackbone.load("pocket"), out, steps)
    names = [
        (subject, name, seed)
        for seed in range(seeds)
        for subject in SUBJECTS
        for name, variant in VARIANTS.items()
        if seed < SIDE_SEEDS or not (variant.side or name == "reach")
    ]
    index, count = part
    for subject, variant, seed in names:
        if SUBJECTS.index(subject) % count == index:
            lab.cell(subject, variant, seed)
    files = [lab.file(*name) for name in names]
    if all(file.exists() for file in files):
        cells = [json.loads(file.read_text()) for file in files]
        write_atomic(out / "table.md", table(cells).encode())
        write_atomic(out / "curves.png", _plot(cells))


class _Lab:
    """What all cells of a subject share: baseline, judge and its limit."""

    def __init__(self, backbone: UnclipBackbone, out: Path, steps: int) -> None:
        self.backbone, self.out, self.steps = backbone, out, steps
        self.baselines: dict[str, Baseline] = {}
        self.judges: dict[str, CalibratedJudge] = {}

    def file(self, subject: str, variant: str, seed: int) -> Path:
        return self.out / "cells" / f"{subject}-{variant}-{seed}.json"

    def cell(self, subject: str, variant: str, seed: int) -> dict[str, Any]:
        """Return one cell, from its file if that is there."""
        file = self.file(subject, variant, seed)
        own = VARIANTS[variant]
        config = LowProbabilityConfig(
            **{"num_steps": self.steps, "num_holds": self.steps, **own.settings}
        )
        judge = self._judge(subject, config)
        key = {
            "fingerprint": self.backbone.fingerprint,
            "judge": judge.name,
            "config": asdict(config),
            "versions": versions(),
        }
        if file.exists():
            found: dict[str, Any] = json.loads(file.read_text())
            if found["key"] == key:
                return found
        baseline = self._baseline(subject, config)
        avoid = [self._samples(subject, own.avoids, seed, config)] if own.avoids else []
        looks: list[dict[str, Any]] = []

        left: list[float] = []

        def on_step(step: Step) -> None:
            count, probe = step.index + 1, step.values["probe"] or {}
            left.extend(probe.get("avoid_distance", ())[:1])
            if count == self.steps or (count in LOOKS and not own.side):
                assert step.concept is not None
                passed = self._passed(step.concept(), subject, seed, judge, config)
                looks.append({"step": count, "passed": passed, **_short(probe)})

        request = Request(subject=subject, seed=seed)
        concept = LowProbability(config).fit(
            self.backbone, request, baseline=baseline, avoid=avoid, on_step=on_step
        )
        samples = self._embeds(concept, seed, NUM_VARIETY, "variety", config)
        cell = {
            "key": key,
            "subject": subject,
            "variant": variant,
            "seed": seed,
            "looks": looks,
            "avoid_distance": left,
            "ordinary": self._ordinary(subject, seed, judge, config, baseline),
            "samples": [[round(float(x), 4) for x in row] for row in samples],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json_bytes(cell))
        last = looks[-1]
        print(f"{subject} {variant} {seed}: {last}", flush=True)
        return cell

    def _baseline(self, subject: str, config: LowProbabilityConfig) -> Baseline:
        if subject not in self.baselines:
            request = Request(subject=subject)
            key = {
                "bench": 1,
                "fingerprint": self.backbone.fingerprint,
                "prompt": ordinary_prompt(self.backbone, request),
                "num": [config.num_baseline, config.num_held_out, config.axes],
                "versions": versions(),
                **config.sampling(self.backbone),
            }
            method = LowProbability(config)
            packed = cached("bench", key, lambda: method.measure(self.backbone, request).pack())
            self.baselines[subject] = Baseline.unpack(*packed)
        return self.baselines[subject]

    def _judge(self, subject: str, config: LowProbabilityConfig) -> CalibratedJudge:
        if subject not in self.judges:
            judge = choose_judge("auto", self.backbone, subject)
            assert isinstance(judge, CalibratedJudge)
            ordinary = plain_concept(self.backbone, Request(subject=subject))
            images = self._images(ordinary, 0, NUM_CALIBRATION, "calibration", config)
            judge.calibrate(images, subject)
            self.judges[subject] = judge
        return self.judges[subject]

    @torch.no_grad()
    def _embeds(
        self, concept: Concept, seed: int, num: int, purpose: str, config: LowProbabilityConfig
    ) -> Tensor:
        noise = streams(seed, "bench", purpose, num=num)
        return sample_concept(self.backbone, concept, noise, **config.sampling(self.backbone))

    @torch.no_grad()
    def _images(
        self, concept: Concept, seed: int, num: int, purpose: str, config: LowProbabilityConfig
    ) -> Tensor:
        embeds = self._embeds(concept, seed, num, purpose, config)
        noise = streams(seed, "bench", purpose, "decoder", num=num)
        return self.backbone.decode_embeds(embeds, generator=noise).cpu()

    def _passed(
        self,
        concept: Concept,
        subject: str,
        seed: int,
        judge: CalibratedJudge,
        config: LowProbabilityConfig,
    ) -> float:
        images = self._images(concept, seed, NUM_LOOKS, "look", config)
        return sum(v.passed for v in judge.still_a(images, subject)) / NUM_LOOKS

    def _ordinary(
        self,
        subject: str,
        seed: int,
        judge: CalibratedJudge,
        config: LowProbabilityConfig,
        baseline: Baseline,
    ) -> dict[str, Any]:
        concept = plain_concept(self.backbone, Request(subject=subject))
        samples = self._embeds(concept, seed, 64, "ordinary", config)
        passed = self._passed(concept, subject, seed, judge, config)
        return {"step": 0, "passed": passed, **_short(baseline.describe(samples))}

    def _samples(
        self, subject: str, variant: str, seed: int, config: LowProbabilityConfig
    ) -> Tensor:
        return torch.tensor(self.cell(subject, variant, seed)["samples"])


def _short(probe: dict[str, Any]) -> dict[str, Any]:
    """Keep what the table shows of a probe."""
    names = ("distance_median", "quantile", "held_out_share", "anchor_cosine")
    return {name: probe[name] for name in names if name in probe}


# --- the table ------------------------------------------------------------------------------


def table(cells: list[dict[str, Any]]) -> str:
    """Return the claims' table, and one row a subject below it, as Markdown."""
    shown = [look["step"] for look in cells[0]["looks"]]
    head = "".join(f" step {step} |" for step in shown)
    lines = [
        f"| Mahalanobis distance, validity | ordinary |{head} ended by the judge |",
        "| --- | --- |" + " --- |" * len(shown) + " --- |",
    ]
    for name, variant in VARIANTS.items():
        own = [cell for cell in cells if cell["variant"] == name]
        columns = [_at(own, step) for step in shown]
        before = _pair([c["ordinary"] for c in own])
        lines.append(f"| {variant.label} | {before} | {' | '.join(columns)} | {_stopped(own)} |")
    lines += ["", _variety(cells), "", _avoided(cells), "", _by_subject(cells, shown[-1]), ""]
    return "\n".join(lines)


def _at(cells: list[dict[str, Any]], step: int) -> str:
    return _pair([look for cell in cells for look in cell["looks"] if look["step"] == step])


def _pair(looks: list[dict[str, Any]]) -> str:
    """Return median distance and mean validity of looks."""
    if not looks:
        return "-"
    distance = statistics.median(look["distance_median"] for look in looks)
    return f"{distance:.1f}, {statistics.mean(look['passed'] for look in looks):.0%}"


def _stopped(cells: list[dict[str, Any]]) -> str:
    """Return how many searches a judge who asks at these looks would have ended."""
    ended = 0
    for cell in cells:
        ended += any(look["passed"] < 0.5 for look in cell["looks"])
    return f"{ended} of {len(cells)}"


def _variety(cells: list[dict[str, Any]]) -> str:
    lines = [
        "| what is learned | Vendi score of 16 samples (one seed), mean of 8 subjects (range) |"
    ]
    lines.append("| --- | --- |")
    for name in ("adjective", "lora", "held"):
        scores = []
        for subject in SUBJECTS:
            own = [
                c
                for c in cells
                if (c["variant"], c["subject"]) == (name, subject) and c["seed"] < SIDE_SEEDS
            ]
            scores.append(vendi(torch.tensor([row for cell in own for row in cell["samples"]])))
        spread = f"{min(scores):.2f} to {max(scores):.2f}"
        lines.append(f"| {VARIANTS[name].label} | {statistics.mean(scores):.2f} ({spread}) |")
    return "\n".join(lines)


def vendi(embeds: Tensor) -> float:
    """Return the Vendi score of ``[n, D]`` embeddings under their cosine: 1 to n.

    Source: Friedman and Dieng, arXiv:2210.02410.
    """
    values = torch.linalg.eigvalsh(cosine(embeds, embeds).double() / len(embeds)).clamp_min(1e-12)
    return float((-(values * values.log()).sum()).exp())


def _avoided(cells: list[dict[str, Any]]) -> str:
    own = [cell["avoid_distance"] for cell in cells if cell["variant"] == "avoid"]
    first, last = [way[0] for way in own], [way[-1] for way in own]
    farther = sum(b > a for a, b in zip(first, last, strict=True))
    return (
        f"Distance from the cluster to avoid (its own Mahalanobis distance): median "
        f"{statistics.median(first):.1f} at the first look, {statistics.median(last):.1f} at the "
        f"last; farther in {farther} of {len(own)} searches."
    )


def _by_subject(cells: list[dict[str, Any]], step: int) -> str:
    names = ("held", "reach", "published", "unanchored")
    lines = [
        f"| subject, step {step} | ordinary | {' | '.join(VARIANTS[n].label for n in names)} |",
        "| --- |" + " --- |" * (len(names) + 1),
    ]
    for subject in SUBJECTS:
        own = [cell for cell in cells if cell["subject"] == subject]
        before = _pair([c["ordinary"] for c in own if c["variant"] == "held"])
        columns = [_at([c for c in own if c["variant"] == name], step) for name in names]
        lines.append(f"| {subject} | {before} | {' | '.join(columns)} |")
    return "\n".join(lines)


def _plot(cells: list[dict[str, Any]]) -> bytes:
    """Draw distance and validity against steps, median and mean over all cells."""
    from offbeat.plots import lines_over_steps

    series: dict[str, list[tuple[int, float, float]]] = {}
    for name in ("held", "reach", "published", "unanchored"):
        own = [cell for cell in cells if cell["variant"] == name]
        before = [cell["ordinary"] for cell in own]
        distance = statistics.median(look["distance_median"] for look in before)
        points = [(0, distance, statistics.mean(look["passed"] for look in before))]
        for look in own[0]["looks"]:
            at = [x for cell in own for x in cell["looks"] if x["step"] == look["step"]]
            distances = [x["distance_median"] for x in at if "distance_median" in x]
            if distances:
                passed = statistics.mean(x["passed"] for x in at)
                points.append((look["step"], statistics.median(distances), passed))
        series[VARIANTS[name].label] = points
    return lines_over_steps(series)
