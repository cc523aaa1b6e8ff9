"""One exploration from request to run folder: baseline, trials, pictures, report."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import formats, registry
from offbeat._disk import digest_of
from offbeat._keeper import Keeper, OnKept, few_threads
from offbeat._outcome import NUM_FRESH, Outcome, Plan, Trial
from offbeat._pictures_out import draw_embeds, png_files, prior_settings
from offbeat._previews import Previews
from offbeat._regions import BASELINE_FILE
from offbeat._runs import concept_files, numerics_of, read_concept
from offbeat._sources import avoid_clusters, choose_judge, start_concept, unlike_clusters
from offbeat.baseline import Baseline
from offbeat.errors import ConfigError
from offbeat.methods.low_probability import NAME, LowProbability
from offbeat.protocols import CalibratedJudge, ExploringBackbone
from offbeat.rng import streams
from offbeat.sampling import sample_concept
from offbeat.store import RunFolder, cached, pack_tensors
from offbeat.types import Concept, Observe, Step

NUM_CALIBRATION = 16


class Exploration:
    """Runs a plan on a backbone, in memory or in a folder that a kill cannot hurt."""

    def __init__(
        self,
        plan: Plan,
        backbone: ExploringBackbone,
        *,
        out: str | Path | None,
        resume: bool,
        observe: Observe,
        preview_every: int = 0,
    ) -> None:
        self.plan, self.backbone, self.observe = plan, backbone, observe
        self.method: LowProbability = registry.find("method", NAME)(plan.config)
        with torch.no_grad():  # a prompt that does not fit fails here, before anything is written
            self.ordinary = plan.ordinary(backbone)
            backbone.encode_text([self.ordinary.prompt()])
        self.judge = choose_judge(plan.judge, backbone, plan.subject)
        self.avoid = avoid_clusters(plan.avoid, backbone) + unlike_clusters(plan.unlike, backbone)
        self.start = start_concept(plan.start, backbone)
        width = self.ordinary_width()
        if plan.config.axes > width:
            raise ConfigError(
                f"num_components: expected at most {width}, the width of {backbone.name}'s "
                f"embeddings, got {plan.config.axes}"
            )
        self.asked = {
            **plan.as_json(backbone),
            "judge_name": self.judge.name if self.judge else None,
            "avoid_digests": [digest_of(c.numpy().tobytes()) for c in self.avoid],
        }
        if self.start is not None:
            files = concept_files([self.start], backbone, NAME)
            self.asked["start_digest"] = digest_of(b"".join(files[name] for name in sorted(files)))
        self.folder = RunFolder.create(Path(out), self.asked, resume=resume) if out else None
        self.keeper = Keeper(self.folder, observe, stage="searching")
        self.previews = Previews(self.folder, backbone, observe, preview_every)
        self._plain: dict[int, Tensor] = {}

    def ordinary_width(self) -> int:
        """Return the width D of the checkpoint's embeddings."""
        with torch.no_grad():
            return int(self.backbone.encode_text([self.ordinary.prompt()]).text_embeds.shape[1])

    def run(self) -> dict[str, Any]:
        """Return the fields of a ``Run``."""
        if self.folder is not None and self.folder.is_finished:
            return self._finished()
        if self.previews.every:  # something to see before anything is known
            first = self.ordinary if self.start is None else self.start
            self.previews.draw(first, seed=self.plan.seed, trial=0, count=0)
            self._show_ordinary()
        baseline = self._baseline()
        self._calibrate()
        trials = [self._trial(number, baseline) for number in range(self.plan.num_trials)]
        best = max(trials, key=lambda t: (t.validity, t.readings["distance_median"], -t.number))
        ordinary = self._ordinary(best.seed)
        result = self._write(best, trials, baseline, ordinary)
        if self.folder is not None:
            self.folder.finish()
        return result

    def _ordinary(self, seed: int) -> Tensor:
        """Return ordinary pictures of a seed's noise, drawn once."""
        if seed not in self._plain:
            self._plain = {seed: self._draw(self.ordinary, seed)[1]}
        return self._plain[seed]

    def _show_ordinary(self) -> None:
        """Draw what the first trial is seen beside, before it begins."""
        pictures = formats.to_pil(self._ordinary(self.plan.seed))
        files: dict[str, bytes] = {}
        if self.folder is not None:
            asked, plain, seed = self.asked, self.ordinary, self.plan.seed
            files = png_files("ordinary", pictures, asked, plain, self.backbone, seed=seed)
            self.folder.write(files)
        told = {"pictures": pictures, "files": list(files)}
        self.observe("ordinary ones", len(pictures), len(pictures), told)

    # --- parts ------------------------------------------------------------------------------

    def _baseline(self) -> Baseline:
        cfg = self.plan.config
        key = {
            "version": 1,
            "fingerprint": self.backbone.fingerprint,
            "prompt": self.ordinary.prompt(),
            "density": cfg.density,
            "num_baseline": cfg.num_baseline,
            "num_held_out": cfg.num_held_out,
            **self._where(),
            "num_components": cfg.axes,
            **cfg.sampling(self.backbone),
        }

        def measure() -> tuple[dict[str, Tensor], dict[str, Any]]:
            def on_sample(done: int, total: int) -> None:
                self.observe("what is ordinary", done, total, {})

            return self.method.measure(
                self.backbone, self.plan.request(), on_sample=on_sample
            ).pack()

        tensors, values = cached("baselines", key, measure)
        if self.folder is not None:  # early: its map can be looked at while the search runs
            self.folder.write({BASELINE_FILE: pack_tensors(tensors, values)})
        self.observe("what is ordinary", 1, 1, {"measured": True})
        return Baseline.unpack(tensors, values)

    def _where(self) -> dict[str, Any]:
        """Return what numbers depend on beside the checkpoint, for the cache's keys."""
        return {"versions": formats.versions(), **numerics_of(self.backbone)}

    def _calibrate(self) -> None:
        """Show the judge ordinary pictures, so that it knows what a good one gets."""
        if not isinstance(self.judge, CalibratedJudge):
            return
        key = {
            "version": 1,
            "fingerprint": self.backbone.fingerprint,
            "prompt": self.ordinary.prompt(),
            "num": NUM_CALIBRATION,
            **self._where(),
            **self.plan.config.sampling(self.backbone),
        }

        def drawn() -> tuple[dict[str, Tensor], dict[str, Any]]:
            _, images = draw_embeds(
                self.backbone,
                self.ordinary,
                seed=0,
                num=NUM_CALIBRATION,
                purpose="calibration",
                observe=self.observe,
                stage="the judge looks at ordinary ones",
            )
            return {"images": (images * 255).round().byte()}, {}

        tensors, _ = cached("ordinary", key, drawn)
        self.judge.calibrate(tensors["images"].float() / 255, self.plan.subject)

    def _trial(self, number: int, baseline: Baseline) -> Trial:
        seed = self.plan.seed + number
        concept = self._search(number, seed, baseline)
        with torch.no_grad():
            fresh = sample_concept(
                self.backbone,
                concept,
                streams(seed, "fresh", num=NUM_FRESH),
                **prior_settings(concept),
            )
        image_embeds, images = self._draw(concept, seed)
        distances = baseline.density.squared_distance(image_embeds).sqrt().tolist()
        axes = baseline.space.project(image_embeds)[:, :2].tolist()
        verdicts = self.judge.still_a(images, self.plan.subject) if self.judge else []
        found = baseline.describe(fresh)
        return Trial(number, seed, concept, fresh, found, images, distances, axes, verdicts)

    def _search(self, number: int, seed: int, baseline: Baseline) -> Concept:
        """Fit one trial; its steps go to the trace, its state to the checkpoint."""
        done = self._load_concept(number)
        if done is not None:
            return done
        state = self.keeper.resume(number)
        total = self.plan.config.num_steps
        first = len([row for row in self.keeper.rows if row["trial"] == number])
        on_step = self.keeper.observer(number, total, self._on_kept(number), done=first)
        with few_threads(self.backbone):
            concept = self.method.fit(
                self.backbone,
                self.plan.request(seed),
                baseline=baseline,
                avoid=self.avoid,
                judge=self.judge,
                start=self.start,
                on_step=on_step,
                resume=state,
            )
        if self.folder is not None:
            self.folder.write(self._concept_files(f"trials/{number}/", concept))
        return concept

    def _on_kept(self, number: int) -> OnKept:
        """Return what keeps the concept itself now and then, for --avoid RUN:STEP."""

        def on_kept(count: int, step: Step) -> None:
            every, seen = self.plan.config.judge_every, self.previews.due(count)
            if step.concept is None:
                return
            if self.folder is not None and (
                seen or count % every == 0 or bool(step.values["stopped"])
            ):
                where = f"trials/{number}/states/{count:04d}/"
                self.folder.write(self._concept_files(where, step.concept()))
            if seen:
                seed = self.plan.seed + number
                self.previews.draw(step.concept(), seed=seed, trial=number, count=count)

        return on_kept

    def _load_concept(self, number: int) -> Concept | None:
        """Return the concept of a trial that an earlier process finished."""
        folder, where = self.folder, f"trials/{number}/"
        if folder is None or not folder.exists(where + formats.CONCEPT_FILE):
            return None
        self.keeper.reread()
        return read_concept(folder, where)[0]

    def _draw(self, concept: Concept, seed: int) -> tuple[Tensor, Tensor]:
        return draw_embeds(
            self.backbone, concept, seed=seed, num=self.plan.num_images, observe=self.observe
        )

    def _concept_files(self, where: str, concept: Concept) -> dict[str, bytes]:
        # the concept last: its presence says that the trial is whole
        files = concept_files([concept], self.backbone, self.method.name)
        return {where + name: data for name, data in files.items()}

    def _write(
        self, best: Trial, trials: list[Trial], baseline: Baseline, ordinary: Tensor
    ) -> dict[str, Any]:
        outcome = Outcome(
            self.plan, self.backbone, baseline, best, trials, ordinary, self.keeper.rows
        )
        files = {**self._concept_files("", best.concept), **outcome.files(self.asked)}
        if self.folder is not None:
            self.folder.write(files)
        return {
            "request": self.asked,
            "concepts": [best.concept],
            "images": formats.to_pil(best.images),
            "ordinary": formats.to_pil(ordinary),
            "summary": outcome.summary(),
            "trace": list(self.keeper.rows),
            "files": files,
            "folder": self.folder.path if self.folder is not None else None,
        }

    def _finished(self) -> dict[str, Any]:
        from offbeat.run import load_run

        assert self.folder is not None
        run = load_run(self.folder.path)
        return {item.name: getattr(run, item.name) for item in fields(run)}
