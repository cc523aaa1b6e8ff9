"""One exploration from request to run folder: baseline, trials, pictures, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.open import loaded_prior
from offbeat.checkpoints.placement import Where
from offbeat.core.baseline import Baseline
from offbeat.core.drawing import draw_embeds, prior_settings, sample_concept
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, PromptError
from offbeat.files.cache import cached
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.disk import digest_of, pack_tensors
from offbeat.files.labels import versions
from offbeat.files.png import encode_png, to_pil
from offbeat.judges.choose import choose_judge
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.settings import configured
from offbeat.protocols import CalibratedJudge, ExploringBackbone, TextBackbone
from offbeat.runs.clusters import avoid_clusters, start_concept, unlike_clusters
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import png_files
from offbeat.runs.map import BASELINE_FILE, Region
from offbeat.runs.recorder import Keeper, OnKept, few_threads
from offbeat.runs.result import Run, concept_files, costed, load_run, numerics_of, read_concept
from offbeat.types import Concept, Observe, Step, ignore
from offbeat.verbs.explore_draw import explore_by_drawing
from offbeat.verbs.explore_report import NUM_FRESH, Outcome, Plan, Trial

MAX_STEPS = 8
"""Denoising steps of a preview: enough to see where a search goes."""


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
        pictures = to_pil(self._ordinary(self.plan.seed))
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
        return {"versions": versions(), **numerics_of(self.backbone)}

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
        if folder is None or not folder.exists(where + CONCEPT_FILE):
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
            "images": to_pil(best.images),
            "ordinary": to_pil(ordinary),
            "summary": outcome.summary(),
            "trace": list(self.keeper.rows),
            "files": files,
            "folder": self.folder.path if self.folder is not None else None,
        }

    def _finished(self) -> dict[str, Any]:
        assert self.folder is not None
        run = load_run(self.folder.path)
        return {item.name: getattr(run, item.name) for item in fields(run)}


@dataclass(frozen=True, slots=True)
class Previews:
    """Draws a picture every so many steps; nothing that the search finds depends on it."""

    folder: RunFolder | None
    backbone: ExploringBackbone
    observe: Observe
    every: int
    """Steps; 0 draws none."""

    def due(self, count: int) -> bool:
        """Return whether there is one after ``count`` steps."""
        return self.every > 0 and count % self.every == 0

    def draw(self, concept: Concept, *, seed: int, trial: int, count: int) -> None:
        """Draw what a search has after ``count`` steps: picture 0 of its own noise.

        The observer is told the picture, and its file where there is a folder.
        """
        card = self.backbone.card
        quick = {"num_inference_steps": min(MAX_STEPS, int(card["num_inference_steps"]))}
        _, images = draw_embeds(self.backbone, concept, seed=seed, num=1, decoding=quick)
        pictures = to_pil(images)
        where = f"trials/{trial}/states/{count:04d}/preview-0000.png"
        if self.folder is not None:
            about = {"subject": concept.subject, "step": count, "trial": trial, "seed": seed}
            self.folder.write({where: encode_png(pictures[0], about)})
        files = [where] if self.folder is not None else []
        told = {"pictures": pictures, "files": files, "at": count, "trial": trial}
        self.observe("preview", 1, 1, told)


@costed
def explore(
    subject: str,
    *,
    method: str = NAME,
    novelty: float | None = None,
    reach: float | None = None,
    num_steps: int | None = None,
    space: str | None = None,
    num_images: int = 8,
    seed: int = 0,
    num_trials: int = 1,
    avoid: Sequence[str | Region] = (),
    unlike: Sequence[str | Path | Sequence[str | Path]] = (),
    start: str | Path | None = None,
    preview_every: int = 0,
    prompt: str | None = None,
    judge: str = "auto",
    config: LowProbabilityConfig | Mapping[str, Any] | None = None,
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Find unusual pictures of a subject that are still the subject.

    Args:
        subject: A word, e.g. ``handbag``.
        method: ``low-probability``, which searches, or one that draws a subject another way:
            ``raw-prompt``, ``high-guidance``, ``seed-variance``, ``best-of-n``, ``cads``,
            ``guidance-interval``, ``adaptive-negatives`` or a plug-in. Those search nothing, so
            the settings of the search are refused: all from ``novelty`` to ``space``,
            ``num_trials``, ``avoid`` and ``unlike``.
        novelty: Chi-square quantile to reach and hold, inside (0, 1).
        reach: Or: so many times as far as an ordinary picture, above 0.
        num_steps: Optimizer steps at most; alone, without a distance, the search runs away as
            published.
        space: ``subject``, ``adjective``, ``lora``, ``token+lora`` or ``direct``.
        num_images: Pictures to draw, 1 or more.
        seed: Same seed, same pictures.
        num_trials: Searches from ``seed``, ``seed + 1``, ...; the best is kept, by validity, then
            by novelty.
        avoid: Runs, ``FOLDER`` or ``FOLDER:STEP``, to keep away from, or a ``Region`` of the map
            of one.
        unlike: Folders of pictures, or lists of files, to keep away from.
        start: A run, ``FOLDER`` or ``FOLDER:STEP``, of the same settings to go on from.
        preview_every: Steps between two quick pictures of what the search has, told to
            ``observe`` and kept beside its state; 0 draws none. The result is the same.
        prompt: Template with ``{subject}``; None is the checkpoint's own.
        judge: ``auto``, ``none``, ``clip``, ``classifier`` or a classifier's folder.
        config: Everything else, and what those of these that are None take: an object, or the
            method's settings by name.
        backbone: Name, folder, hub id, or a loaded one; None is the bundled one in the form that
            the method needs.
        device: Where to run, e.g. ``cpu`` or ``cuda``, or a ``Placement``: see ``load_backbone``.
            A loaded backbone stays where it is.
        out: Run folder, written as the search goes; None keeps all in memory.
        resume: Go on with the run in ``out``.
        observe: Told the stage, how far it is, and its readings.

    Raises:
        OffbeatError: Each kind of bad input has its own, see ``offbeat.errors``.

    Source: Song and Elgammal, arXiv:2601.22125.
    """
    if not subject.strip():
        raise PromptError("subject: expected a word to explore, e.g. handbag, got nothing")
    if num_images < 1 or num_trials < 1:
        raise ConfigError(
            f"num_images, num_trials: expected at least 1, got {num_images}, {num_trials}"
        )
    if novelty is not None and reach is not None:
        raise ConfigError(f"novelty, reach: expected one of them, got {novelty} and {reach}")
    if method != NAME:
        searching = {
            "novelty": novelty, "reach": reach, "num_steps": num_steps, "space": space,
            "num_trials": num_trials if num_trials > 1 else None, "avoid": avoid, "unlike": unlike,
            "start": start, "preview_every": preview_every,
        }  # fmt: skip
        return explore_by_drawing(
            subject.strip(),
            method=method,
            config=_drawing_settings(method, config, searching),
            num_images=num_images,
            seed=seed,
            prompt=prompt,
            judge=judge,
            backbone=backbone,
            device=device,
            out=out,
            resume=resume,
            observe=observe,
        )
    if isinstance(config, Mapping):
        config = configured(LowProbabilityConfig, NAME, config)
    own = config or LowProbabilityConfig()
    quantile, times = _distance(novelty, reach, num_steps, own)
    settings = replace(
        own,
        novelty=quantile,
        reach=times,
        space=space or own.space,
        num_steps=own.num_steps if num_steps is None else num_steps,
    )
    plan = Plan(
        subject=subject.strip(),
        prompt=prompt,
        num_images=num_images,
        seed=seed,
        num_trials=num_trials,
        avoid=tuple(avoid),
        unlike=tuple(_texts(one) for one in unlike),
        start=None if start is None else str(start),
        judge=judge,
        config=settings,
    )
    model = loaded_prior("pocket" if backbone is None else backbone, device)
    exploration = Exploration(
        plan, model, out=out, resume=resume, observe=observe, preview_every=preview_every
    )
    return Run(**exploration.run())


def _texts(unlike: str | Path | Sequence[str | Path]) -> str | tuple[str, ...]:
    """Return a folder as text, or a list of files."""
    if isinstance(unlike, str | Path):
        return str(unlike)
    return tuple(str(file) for file in unlike)


def _drawing_settings(
    method: str,
    config: LowProbabilityConfig | Mapping[str, Any] | None,
    searching: Mapping[str, Any],
) -> Mapping[str, Any]:
    """Return the settings of a method that searches nothing, and refuse those of a search.

    Raises:
        ConfigError: If there is one.
    """
    if given := [name for name, value in searching.items() if value]:
        raise ConfigError(
            f"{', '.join(given)}: of the search of {NAME}, and {method} draws without one; leave "
            "it out"
        )
    if isinstance(config, LowProbabilityConfig):
        raise ConfigError(f"config: expected settings of {method} by name, got those of {NAME}")
    return config or {}


def _distance(
    novelty: float | None, reach: float | None, num_steps: int | None, own: LowProbabilityConfig
) -> tuple[float | None, float | None]:
    """Return novelty and reach: one of them, or neither where only steps are given."""
    if reach is not None or novelty is not None:
        return novelty, reach
    if num_steps is not None:
        return None, None
    return (own.novelty if own.reach is None else None), own.reach
