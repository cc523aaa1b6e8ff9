"""What an exploration found: the summary, the sheet, the plots and the report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.files.disk import pack_tensors
from offbeat.files.png import to_pil
from offbeat.methods.low_probability.choosing import Eye
from offbeat.metrics.seen import variety
from offbeat.protocols import ExploringBackbone
from offbeat.runs import plots
from offbeat.runs.images import png_files, sheet
from offbeat.runs.map import BASELINE_FILE, Region
from offbeat.runs.report import CalibrationRow, ReportPicture, percent, report_html
from offbeat.types import Verdict
from offbeat.verbs.explore_plan import NUM_FRESH, NUM_REFERENCES, Plan, Trial
from offbeat.verbs.session import View

if TYPE_CHECKING:
    from PIL import Image


def picture_files_of(
    trial: Trial,
    plan: Plan,
    backbone: ExploringBackbone,
    asked: Mapping[str, Any],
    start: int,
) -> dict[str, bytes]:
    """Return the files of the pictures that a direction shows, numbered from ``start``."""
    chosen, pictures = trial.chosen, to_pil(trial.chosen.images)
    parts: list[tuple[list[Image.Image], dict[str, Any]]] = [(pictures, {})]
    if plan.candidates > 1:
        # a picture is drawn again among all that it was drawn with
        among = {"num": len(chosen.rows), "rows": chosen.rows}
        parts = [
            ([picture], {**among, "at": place})
            for picture, place in zip(pictures, chosen.places, strict=True)
        ]
    files: dict[str, bytes] = {}
    for part, drawing in parts:
        files |= png_files(
            "images",
            part,
            asked,
            trial.concept,
            backbone,
            seed=trial.seed,
            start=start + len(files),
            drawing=drawing,
        )
    return files


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that the report of an exploration is made of."""

    plan: Plan
    backbone: ExploringBackbone
    baseline: Baseline
    kept: list[Trial]
    """The best trial of each direction."""
    trials: list[Trial]
    ordinary: Tensor
    rows: list[dict[str, Any]]
    eye: Eye | None

    @property
    def best(self) -> Trial:
        """The best trial of all, which the map and the curves show."""
        return max(self.kept, key=Trial.rank)

    @property
    def trace(self) -> list[dict[str, Any]]:
        """Rows of the best trial."""
        return [row for row in self.rows if row["trial"] == self.best.number]

    @property
    def verdicts(self) -> list[Verdict]:
        """Of all pictures that are shown."""
        return [verdict for trial in self.kept for verdict in trial.chosen.verdicts]

    def files(self, asked: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the run folder's ordinary pictures and the baseline."""
        plain, seed = self.plan.ordinary(self.backbone), self.kept[0].seed
        ordinary = to_pil(self.ordinary)
        return {
            **png_files("ordinary", ordinary, asked, plain, self.backbone, seed=seed),
            BASELINE_FILE: pack_tensors(*self.baseline.pack()),
        }

    def views(self) -> dict[str, View]:
        """Return what makes the contact sheet and the plots."""
        return {"contact.png": self._sheet, "map.png": self._map, "curve.png": self._curve}

    def _sheet(self) -> bytes:
        """Return the sheet: ordinary pictures on top, then a row for each direction."""
        rows = [(f"Ordinary {self.plan.subject}", to_pil(self.ordinary))]
        for trial in self.kept:
            label = f"Direction {trial.direction + 1}" if len(self.kept) > 1 else "Unusual"
            rows.append((f"{label}{_in_short(trial)}", to_pil(trial.chosen.images)))
        what = "times as far as" if self.eye is None else "times as different as another"
        note = f"Under each: how many {what} ordinary ones, and the judge's answer. "
        single = len(self.kept) == 1
        return sheet(
            rows,
            title=f"Unusual {self.plan.subject}",
            captions=self._captions() if single else (),
            note=(note if single else "") + str(self.summary()["in_words"]),
        )

    def _map(self) -> bytes:
        baseline = self.baseline
        return plots.distribution_map(
            baseline.coordinates[:, :2],
            self.trace,
            subject=self.plan.subject,
            num_components=baseline.space.num_components,
            way_out=baseline.way_out(self.best.fresh),
        )

    def _curve(self) -> bytes:
        baseline, config = self.baseline, self.plan.config
        threshold = baseline.anchor_threshold(config.noises) if config.use_anchor else None
        return plots.curves(
            self.trace,
            target=self._target(),
            anchor_threshold=None if threshold is None else 1 - threshold,
            num_components=baseline.space.num_components,
        )

    def _target(self) -> float | None:
        """Return the distance to hold; None if there is none, or only pictures decide."""
        config = self.plan.config
        return None if config.novelty is not None else config.radius(self.baseline)

    def report(
        self, asked: Mapping[str, Any], summary: Mapping[str, Any], views: Mapping[str, bytes]
    ) -> str:
        """Return the report as HTML; a plot that could not be made is left out."""
        pictures: list[ReportPicture] = []
        ordinary = to_pil(self.ordinary)
        paired = self.plan.candidates == 1 and len(self.kept) == 1
        for trial in self.kept:
            unusual = to_pil(trial.chosen.images)
            for index, (after, distance) in enumerate(zip(unusual, trial.distances, strict=True)):
                picture = ReportPicture(
                    ordinary=ordinary[index] if paired else None,
                    unusual=after,
                    distance=distance,
                    quantile=self.baseline.quantile(distance),
                    seen=trial.chosen.seen[index] if trial.chosen.seen else None,
                    verdict=trial.chosen.verdicts[index] if trial.chosen.verdicts else None,
                    file=f"images/{len(pictures):04d}.png",
                )
                pictures.append(picture)
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
            lead=str(summary["in_words"]),
            sheet_png=None if paired else views.get("contact.png"),
            found=self._found(summary),
            probe=self.best.readings,
            target=summary["target_distance"],
            map_png=views.get("map.png"),
            curve_png=views.get("curve.png"),
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
            "target_distance": self._target(),
            "target_novelty": config.quantile,
            "target_seen": config.novelty,
            "ordinary_distance": baseline.ordinary_distance,
            "num_axes": baseline.space.num_components,
            "fresh": {"num": NUM_FRESH, "num_held_out": len(baseline.held_out), **readings},
            "images": [one for trial in self.kept for one in self._images(trial)],
            "directions": [trial.as_json() for trial in self.kept],
            "validity": self._validity(),
            "seen": self._seen(),
            "eye": None if self.eye is None else self.eye.encoder.name,
            "taste": self._taste(),
            "variety": self._variety(),
            "unanswered": _unanswered(self.verdicts, self.rows),
            "judge": self.verdicts[0].judge if self.verdicts else None,
            "variance_kept": baseline.space.variance_kept,
            "calibration": baseline.calibration(),
            "trials": [trial.as_json() for trial in self.trials],
        }
        summary["warnings"] = self._warnings(summary)
        summary["in_words"] = _in_words(summary)
        return summary

    def _taste(self) -> dict[str, Any] | None:
        """Return what the taste rests on, and how many left-out preferences it predicts."""
        taste = None if self.eye is None else self.eye.taste
        return None if taste is None else {"num": taste.num, "accuracy": taste.accuracy}

    def _images(self, trial: Trial) -> list[dict[str, Any]]:
        """Return what is known of each picture of a trial, as JSON values."""
        chosen, baseline = trial.chosen, self.baseline
        return [
            {
                "direction": trial.direction,
                "distance": distance,
                "axes": trial.axes[index],
                "quantile": baseline.quantile(distance),
                "held_out_share": baseline.held_out_share(distance),
                "seen": chosen.seen[index] if chosen.seen else None,
                "verdict": asdict(chosen.verdicts[index]) if chosen.verdicts else None,
            }
            for index, distance in enumerate(trial.distances)
        ]

    def _validity(self) -> float | None:
        """Return the share of the drawn pictures that passed; None if no judge answered."""
        drawn = [verdict for trial in self.kept for verdict in trial.chosen.drawn_verdicts]
        answered = [verdict for verdict in drawn if verdict.answered]
        return sum(verdict.passed for verdict in answered) / len(answered) if answered else None

    def _seen(self) -> float | None:
        """Return the median seen novelty of all pictures that are shown."""
        seen = [value for trial in self.kept for value in trial.chosen.seen]
        return statistics.median(seen) if seen else None

    def _variety(self) -> float | None:
        """Return how varied the pictures are, over as many ordinary ones; 1 is as varied."""
        parts = [trial.chosen.features for trial in self.kept]
        features = [part for part in parts if part is not None]
        if self.eye is None or not features or sum(map(len, features)) < 2:
            return None
        ordinary = self.eye.references[:NUM_REFERENCES]
        return variety(torch.cat(features), ordinary)

    def _asked(self) -> dict[str, Any]:
        config = self.plan.config
        distance = "none: runs as published"
        if config.novelty is not None:
            distance = f"until pictures look {config.novelty:g} times as different"
        elif config.quantile is not None:
            distance = f"quantile {config.quantile:g}"
        elif config.reach is not None:
            distance = f"{config.reach:g} times as far as ordinary"
        return {
            "subject": self.plan.subject,
            "prompt": self.plan.ordinary(self.backbone).prompt(),
            "how far": distance,
            "what is learned": config.space,
            "to avoid": ", ".join(_named(one) for one in self.plan.away) or "nothing",
            "seed": self.plan.seed,
            "directions": self.plan.directions,
            "trials": self.plan.num_trials,
            "checkpoint": f"{self.backbone.name} ({self.backbone.fingerprint})",
        }

    def _found(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        facts = {
            "ended": f"after {summary['step']} steps: {_ENDS[summary['stopped']]}",
            "axes": f"{summary['num_axes']}, with {summary['variance_kept']:.1%} of the variance",
            "statistics": _statistics(summary),
        }
        if summary["seen"] is not None:
            facts["seen novelty"] = f"{summary['seen']:.2f}, by {summary['eye']}"
        if summary["variety"] is not None:
            facts["variety"] = f"{summary['variety']:.2f} times that of ordinary pictures"
        if self.plan.num_trials > 1:
            facts["kept"] = (
                f"the best of {self.plan.num_trials} trials a direction, chosen by these very "
                "figures, which flatters them"
            )
        for trial in self.kept[1:] if len(self.kept) > 1 else ():
            before = trial.readings["avoid_distance"][-trial.direction :]
            distances = ", ".join(f"{distance:.1f}" for distance in before)
            facts[f"direction {trial.direction + 1}"] = f"distance to those before it: {distances}"
        for index in range(len(self.plan.away)):
            if self.trace:
                first, last = (self.trace[at]["avoid"][index] for at in (0, -1))
                facts[f"cluster {index + 1} to avoid"] = (
                    f"mean log density {first:.1f} at the first step, {last:.1f} at the last"
                )
        return facts

    def _captions(self) -> list[str]:
        captions = []
        for index, distance in enumerate(self.best.distances):
            chosen = self.best.chosen
            times = distance / self.baseline.ordinary_distance
            seen = f"{chosen.seen[index]:.1f}x as different" if chosen.seen else f"{times:.1f}x"
            lines = [seen]
            if chosen.verdicts:
                verdict = chosen.verdicts[index]
                said = "no answer"
                if verdict.answered:
                    said = f"{verdict.answer} {verdict.probability:.2f}"
                lines.append(f"{self.plan.subject}? {said}")
            captions.append("\n".join(lines))
        return captions

    def _warnings(self, summary: Mapping[str, Any]) -> list[str]:
        best, baseline = self.best, self.baseline
        warnings = subject_warnings(self.plan.subject, self.backbone)
        if str(summary["judge"]).startswith("clip:") and self.plan.config.use_anchor:
            warnings.append(
                "The judge is the checkpoint's own towers, by which the anchor steers too: what "
                "fools one fools both. Have a vision-language model look: --judge smolvlm."
            )
        if (kept := baseline.space.variance_kept) < 0.5:
            warnings.append(
                f"The {baseline.space.num_components} axes hold {kept:.0%} of the variance: much "
                "of what may be unusual is not measured; keep more with --axes."
            )
        if (several := summary["variety"]) is not None and several < 1:
            warnings.append(
                f"These pictures are less varied than ordinary ones ({several:.2f} times). Ask for "
                "more --directions, a smaller --novelty, or another --seed."
            )
        dial, seen = summary["target_seen"], summary["seen"]
        if dial is not None and seen is not None and seen < 0.9 * dial:
            warnings.append(
                f"Pictures {dial:g} times as different were asked for, and these are {seen:.1f} "
                f"times: {_ENDS[best.stopped]}."
            )
        if (moved := best.readings["residual"] / baseline.residual_mean) > 3:
            warnings.append(
                f"The search also moved {moved:.1f} times as far as ordinary samples in directions "
                "that are not measured; their distance does not count that."
            )
        silent = summary["unanswered"]
        if silent["pictures"] or silent["steps"]:
            warnings.append(
                f"The judge gave no answer for {silent['pictures']} of {len(self.verdicts)} "
                f"pictures and {silent['steps']} times in the search, which went on as without a "
                "judge. "
                f"{' '.join(silent['notes'])}"
            )
        target, reached = summary["target_distance"], best.readings["distance_median"]
        if target and abs(reached / target - 1) > 0.1:
            warnings.append(
                f"The distance asked for, {target:.1f}, was not held ({reached:.1f}): "
                f"{_ENDS[best.stopped]}."
            )
        return warnings


def _named(away: str | Region | tuple[str, ...]) -> str:
    if isinstance(away, Region):
        return f"a region of {away.run}"
    return away if isinstance(away, str) else f"{len(away)} pictures"


_ENDS = {
    "held": "the distance was reached and held",
    "farthest": "it went as far as the setting max_reach allows, or the judge passed nothing "
    "farther",
    "judge": "the judge no longer saw the subject, and the last state that passed is kept",
    "steps": "the steps ran out; more of them may lead farther",
}


def _unanswered(verdicts: Sequence[Verdict], trace: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how often the judge gave no answer, and why."""
    silent = [asdict(v) for v in verdicts if not v.answered]
    judged = [row["verdict"] for row in trace if row.get("verdict")]
    during = [verdict for verdict in judged if verdict["answer"] == "unknown"]
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


def _in_short(trial: Trial) -> str:
    """Return what a row of the sheet says of a direction."""
    parts = []
    if trial.seen is not None:
        parts.append(f"{trial.seen:.1f} times as different")
    if trial.validity is not None:
        drawn = trial.chosen.drawn_verdicts
        parts.append(f"{sum(verdict.passed for verdict in drawn)} of {len(drawn)} recognised")
    return "".join(f" · {part}" for part in parts)


def _in_words(summary: Mapping[str, Any]) -> str:
    """Return the finding in plain words; the statistics stand behind it."""
    subject = summary["subject"]
    if summary["seen"] is None:
        return _statistics(summary)
    words = f"About {summary['seen']:.1f} times as different as another ordinary {subject}"
    if summary["validity"] is not None:
        drawn = sum(direction["num_drawn"] for direction in summary["directions"])
        passed = sum(direction["num_passed"] for direction in summary["directions"])
        words += f"; {passed} of {drawn} pictures drawn are still recognised"
    shown = len(summary["images"])
    if shown < sum(direction["num_drawn"] for direction in summary["directions"]):
        words += f", and the {shown} most different are shown"
    return f"{words}."


def _share(share: float, num: int) -> str:
    """Return a share of ``num`` samples in words.

    >>> _share(1.0, 1000), _share(0.99, 1000)
    ('every one of 1,000', '99.0% of 1,000')
    """
    return f"every one of {num:,}" if share == 1 else f"{share:.1%} of {num:,}"


def _statistics(summary: Mapping[str, Any]) -> str:
    fresh = summary["fresh"]
    times = fresh["distance_median"] / summary["ordinary_distance"]
    words = (
        f"Median of {fresh['num']} fresh samples: {times:.2f} times as far as ordinary ones; "
        f"chi-square quantile {percent(fresh['quantile'])}; farther than "
        f"{_share(fresh['held_out_share'], fresh['num_held_out'])} held-out ordinary samples. "
        f"After {summary['step']} steps: {_ENDS[summary['stopped']]}."
    )
    if summary["validity"] is not None:
        words += f" The judge passes {summary['validity']:.0%} of the pictures."
    return words
