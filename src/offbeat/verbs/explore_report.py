"""What an exploration found: the summary, the sheet, the plots and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.core.drawing import plain_concept
from offbeat.files.disk import json_bytes, pack_tensors
from offbeat.files.labels import versions
from offbeat.files.png import to_pil
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.protocols import ExploringBackbone
from offbeat.runs import plots
from offbeat.runs.images import png_files, sheet
from offbeat.runs.map import Region
from offbeat.runs.report import CalibrationRow, ReportPicture, percent, report_html
from offbeat.runs.result import numerics_of
from offbeat.types import Concept, Request, Verdict

if TYPE_CHECKING:
    from PIL import Image

NUM_FRESH = 64
"""Noises on which the reached distance is reported; the search has seen none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked, as asked."""

    subject: str
    prompt: str | None
    num_images: int
    seed: int
    num_trials: int
    avoid: tuple[str | Region, ...]
    unlike: tuple[str | tuple[str, ...], ...]
    judge: str
    config: LowProbabilityConfig
    start: str | None = None
    """Goes on from this run, or this step of it."""

    @property
    def away(self) -> tuple[str | Region | tuple[str, ...], ...]:
        """What to keep away from, in the order of the clusters."""
        return (*self.avoid, *self.unlike)

    def request(self, seed: int | None = None) -> Request:
        """Return the request of one trial."""
        return Request(
            subject=self.subject,
            prompt=self.prompt,
            num_images=self.num_images,
            seed=self.seed if seed is None else seed,
        )

    def ordinary(self, backbone: ExploringBackbone) -> Concept:
        """Return the subject itself, drawn with the prior's settings of the search."""
        settings = self.config.sampling(backbone)
        metadata = {
            "prior_num_inference_steps": str(settings["num_inference_steps"]),
            "prior_guidance_scale": str(settings["prior_guidance_scale"]),
        }
        return replace(plain_concept(backbone, self.request()), metadata=metadata)

    def as_json(self, backbone: ExploringBackbone) -> dict[str, Any]:
        """Return everything that the result depends on."""
        asked = asdict(self)
        if self.start is None:
            del asked["start"]
        return {
            "verb": "explore",
            **{**asked, "avoid": list(asked["avoid"]), "unlike": list(self.unlike)},
            "prior": self.config.sampling(backbone),
            "checkpoint": backbone.name,
            "fingerprint": backbone.fingerprint,
            "versions": versions(),
            **numerics_of(backbone),
        }


@dataclass(frozen=True, slots=True)
class Trial:
    """One finished search, with what it drew."""

    number: int
    seed: int
    concept: Concept
    fresh: Tensor
    """Embeddings of noises that the search has not seen, ``[64, D]``."""
    readings: dict[str, Any]
    """Of these, see ``Baseline.describe``."""
    images: Tensor
    distances: list[float]
    axes: list[list[float]]
    """Of the pictures, along the first two axes of the baseline."""
    verdicts: list[Verdict]

    @property
    def stopped(self) -> str:
        """Why the search ended: held, judge or steps."""
        return self.concept.metadata["stopped"]

    @property
    def validity(self) -> float:
        """Share of its pictures that the judge passed, of those it answered for; 1 if none."""
        answered = [v for v in self.verdicts if v.answered]
        return sum(v.passed for v in answered) / len(answered) if answered else 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the report of an exploration is made of."""

    plan: Plan
    backbone: ExploringBackbone
    baseline: Baseline
    best: Trial
    trials: list[Trial]
    ordinary: Tensor
    rows: list[dict[str, Any]]

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Rows of the trial that was kept."""
        return [row for row in self.rows if row["trial"] == self.best.number]

    def files(self, asked: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the run folder's pictures, plots, summary and report."""
        summary = self.summary()
        unusual, ordinary = to_pil(self.best.images), to_pil(self.ordinary)
        contact = sheet(
            [("Ordinary", ordinary), ("Unusual, same noise", unusual)],
            title=f"Unusual {self.plan.subject}",
            captions=self._captions(),
            note=f"Under each: chi-square quantile, and distance in ordinary ones. "
            f"{summary['in_words']}",
        )
        map_png, curve_png = self._plots(summary)
        report = self._report(asked, summary, ordinary, unusual, map_png, curve_png)
        tensors, values = self.baseline.pack()
        plain, seed = self.plan.ordinary(self.backbone), self.best.seed
        return {
            **png_files("images", unusual, asked, self.best.concept, self.backbone, seed=seed),
            **png_files("ordinary", ordinary, asked, plain, self.backbone, seed=seed),
            "baseline.safetensors": pack_tensors(tensors, values),
            "contact.png": contact,
            "map.png": map_png,
            "curve.png": curve_png,
            "summary.json": json_bytes(summary),
            "report.html": report.encode(),
        }

    def _plots(self, summary: Mapping[str, Any]) -> tuple[bytes, bytes]:
        baseline, trace = self.baseline, self.trace
        k = baseline.space.num_components
        map_png = plots.distribution_map(
            baseline.coordinates[:, :2],
            trace,
            subject=self.plan.subject,
            num_components=k,
            way_out=baseline.way_out(self.best.fresh),
        )
        anchored = self.plan.config.use_anchor
        curve_png = plots.curves(
            trace,
            target=summary["target_distance"],
            anchor_threshold=1 - baseline.anchor_threshold if anchored else None,
            num_components=k,
        )
        return map_png, curve_png

    def _report(
        self,
        asked: Mapping[str, Any],
        summary: Mapping[str, Any],
        ordinary: list[Image.Image],
        unusual: list[Image.Image],
        map_png: bytes,
        curve_png: bytes,
    ) -> str:
        best = self.best
        pictures = [
            ReportPicture(
                ordinary=before,
                unusual=after,
                distance=distance,
                quantile=self.baseline.quantile(distance),
                verdict=best.verdicts[index] if best.verdicts else None,
                file=f"images/{index:04d}.png",
            )
            for index, (before, after, distance) in enumerate(
                zip(ordinary, unusual, best.distances, strict=True)
            )
        ]
        calibration = [
            CalibrationRow(
                quantile=row["quantile"],
                distance=math.sqrt(row["gaussian"]),
                held_out_distance=math.sqrt(row["held_out"]),
                held_out_inside=row["held_out_share"],
            )
            for row in summary["calibration"]
        ]
        return report_html(
            subject=self.plan.subject,
            pictures=pictures,
            asked=self._asked(),
            found=self._found(summary),
            probe=best.readings,
            target=summary["target_distance"],
            map_png=map_png,
            curve_png=curve_png,
            calibration=calibration,
            settings=asked,
            warnings=summary["warnings"],
        )

    def summary(self) -> dict[str, Any]:
        """Return what was reached, as JSON values."""
        best, baseline, config = self.best, self.baseline, self.plan.config
        readings = {name: value for name, value in best.readings.items() if name != "axes"}
        summary: dict[str, Any] = {
            "subject": self.plan.subject,
            "trial": best.number,
            "seed": best.seed,
            "stopped": best.stopped,
            "step": int(best.concept.metadata["step"]),
            "target_distance": config.radius(baseline),
            "target_novelty": config.novelty,
            "ordinary_distance": baseline.ordinary_distance,
            "fresh": {"num": NUM_FRESH, **readings},
            "images": [
                {
                    "distance": distance,
                    "axes": best.axes[index],
                    "quantile": baseline.quantile(distance),
                    "held_out_share": baseline.held_out_share(distance),
                    "verdict": asdict(best.verdicts[index]) if best.verdicts else None,
                }
                for index, distance in enumerate(best.distances)
            ],
            "validity": best.validity if any(v.answered for v in best.verdicts) else None,
            "unanswered": _unanswered(best.verdicts, self.trace),
            "judge": best.verdicts[0].judge if best.verdicts else None,
            "variance_kept": baseline.space.variance_kept,
            "calibration": baseline.calibration(),
            "trials": [
                {
                    "trial": trial.number,
                    "validity": trial.validity,
                    "distance_median": trial.readings["distance_median"],
                    "stopped": trial.stopped,
                    "step": int(trial.concept.metadata["step"]),
                }
                for trial in self.trials
            ],
        }
        summary["warnings"] = self._warnings(summary)
        summary["in_words"] = _in_words(summary)
        return summary

    def _asked(self) -> dict[str, Any]:
        config = self.plan.config
        distance = f"quantile {config.novelty:g}" if config.novelty else "none: runs as published"
        if config.reach:
            distance = f"{config.reach:g} times as far as ordinary"
        return {
            "subject": self.plan.subject,
            "prompt": self.plan.ordinary(self.backbone).prompt(),
            "distance to hold": distance,
            "what is learned": config.space,
            "to avoid": ", ".join(_named(one) for one in self.plan.away) or "nothing",
            "seed": self.plan.seed,
            "trials": self.plan.num_trials,
            "checkpoint": f"{self.backbone.name} ({self.backbone.fingerprint})",
        }

    def _found(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        found = {
            "ended": f"after {summary['step']} steps: {_ENDS[summary['stopped']]}",
            "variance that the axes keep": f"{summary['variance_kept']:.1%}",
        }
        if len(self.trials) > 1:
            found["kept"] = (
                f"trial {summary['trial']} of {len(self.trials)}, seed {self.best.seed}; chosen by "
                "these very figures, which flatters them"
            )
        for index in range(len(self.plan.away)):
            if self.trace:
                first, last = (self.trace[at]["avoid"][index] for at in (0, -1))
                found[f"cluster {index + 1} to avoid"] = (
                    f"mean log density {first:.1f} at the first step, {last:.1f} at the last"
                )
        return found

    def _captions(self) -> list[str]:
        captions = []
        for index, distance in enumerate(self.best.distances):
            times = distance / self.baseline.ordinary_distance
            lines = [f"{percent(self.baseline.quantile(distance))} · {times:.1f}x"]
            if self.best.verdicts:
                verdict = self.best.verdicts[index]
                said = "no answer"
                if verdict.answered:
                    said = f"{verdict.answer} {verdict.probability:.2f}"
                lines.append(f"{self.plan.subject}? {said}")
            captions.append("\n".join(lines))
        return captions

    def _warnings(self, summary: Mapping[str, Any]) -> list[str]:
        best, baseline = self.best, self.baseline
        found = subject_warnings(self.plan.subject, self.backbone)
        if (kept := baseline.space.variance_kept) < 0.9:
            found.append(
                f"The {baseline.space.num_components} axes keep {kept:.0%} of the variance: much "
                "of what may be unusual is not seen; keep more with --components."
            )
        if (moved := best.readings["residual"] / baseline.residual_mean) > 3:
            found.append(
                f"Samples moved {moved:.1f} times as far off the axes as ordinary ones; that "
                "motion is not in their distance."
            )
        silent = summary["unanswered"]
        if silent["pictures"] or silent["steps"]:
            found.append(
                f"The judge gave no answer for {silent['pictures']} of {len(best.images)} pictures "
                f"and {silent['steps']} times in the search, which went on as without a judge. "
                f"{' '.join(silent['notes'])}"
            )
        target, reached = summary["target_distance"], best.readings["distance_median"]
        if target and abs(reached / target - 1) > 0.1:
            found.append(
                f"The distance asked for, {target:.1f}, was not held ({reached:.1f}): "
                f"{_ENDS[best.stopped]}."
            )
        return found


def _named(away: str | Region | tuple[str, ...]) -> str:
    if isinstance(away, Region):
        return f"a region of {away.run}"
    return away if isinstance(away, str) else f"{len(away)} pictures"


_ENDS = {
    "held": "the distance was reached and held",
    "judge": "the judge no longer saw the subject, and the last state that passed is kept",
    "steps": "the steps ran out; give more with --steps",
}


def _unanswered(verdicts: Sequence[Verdict], trace: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how often the judge gave no answer, and why."""
    silent = [asdict(v) for v in verdicts if not v.answered]
    asked = [row["verdict"] for row in trace if row.get("verdict")]
    during = [verdict for verdict in asked if verdict["answer"] == "unknown"]
    notes = sorted({verdict["note"] for verdict in (*silent, *during)})
    return {"pictures": len(silent), "steps": len(during), "notes": notes}


def subject_warnings(subject: str, backbone: ExploringBackbone) -> list[str]:
    """Return a warning if the checkpoint does not know the subject as one word."""
    card = backbone.card
    known = {*card["concepts"], *card["subjects"]}
    count = backbone.num_tokens(subject)
    taught = not known or subject in known
    if count == 1 and taught:
        return []
    about = f"{subject!r} is {count} token{'s' * (count != 1)} to {backbone.name}"
    if not taught:
        about += " and not among the things that it was taught"
    return [f"{about}: what it draws of it may be poor, and so may be its baseline."]


def _in_words(summary: Mapping[str, Any]) -> str:
    fresh = summary["fresh"]
    times = fresh["distance_median"] / summary["ordinary_distance"]
    words = (
        f"Median of {fresh['num']} fresh samples: {times:.2f} times as far as ordinary ones; "
        f"chi-square quantile {percent(fresh['quantile'])}; farther than "
        f"{fresh['held_out_share']:.1%} of held-out ordinary samples. "
        f"After {summary['step']} steps: {_ENDS[summary['stopped']]}."
    )
    if summary["validity"] is not None:
        words += f" The judge passes {summary['validity']:.0%} of the pictures."
    return words
