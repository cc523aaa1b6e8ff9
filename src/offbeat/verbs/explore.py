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
from offbeat.core.density import AvoidCluster, Support
from offbeat.core.drawing import draw_embeds, prior_settings, sample_concept
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, PromptError
from offbeat.files.cache import cached
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.disk import digest_of, pack_tensors
from offbeat.files.labels import versions
from offbeat.files.png import encode_png, to_pil
from offbeat.judges.choose import choose_judge, own_reader
from offbeat.methods.low_probability.choosing import Eye, choose
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.settings import configured
from offbeat.metrics.seen import eye_of
from offbeat.protocols import CalibratedJudge, ExploringBackbone, TextBackbone
from offbeat.runs.clusters import avoid_clusters, start_concept, unlike_clusters
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import png_files
from offbeat.runs.map import BASELINE_FILE, Region
from offbeat.runs.recorder import Keeper, OnKept, few_threads
from offbeat.runs.result import Run, concept_files, costed, load_run, numerics_of, read_concept
from offbeat.types import Concept, Observe, Step, ignore
from offbeat.verbs.explore_draw import explore_by_drawing
from offbeat.verbs.explore_report import NUM_FRESH, NUM_REFERENCES, Outcome, Plan, Trial

MAX_STEPS = 8
"""Denoising steps of a preview: enough to see where a search goes."""


NUM_CALIBRATION = 16
"""Ordinary pictures that a judge sees first, to know what a good one gets."""


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
        width, axes = self.ordinary_width(), plan.config.axes
        if axes is not None and axes > width:
            raise ConfigError(
                f"num_components: expected at most {width}, the width of {backbone.name}'s "
                f"embeddings, got {axes}"
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
            shown = self.ordinary if self.start is None else self.start
            self.previews.draw(shown, seed=self.plan.seed, trial=0, count=0)
            self._show_ordinary()
        baseline = self._baseline()
        eye = self._eye()
        support = self._support()
        trials: list[Trial] = []
        kept: list[Trial] = []
        for direction in range(self.plan.directions):
            first = direction * self.plan.num_trials
            tried = [
                self._trial(number, baseline, eye, support, kept)
                for number in range(first, first + self.plan.num_trials)
            ]
            trials += tried
            kept.append(max(tried, key=Trial.rank))
        result = self._write(kept, trials, baseline, self._ordinary(kept[0].seed), eye)
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
            **({"axes_share": cfg.axes_share} if cfg.axes is None else {}),
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

    def _eye(self) -> Eye | None:
        """Show ordinary pictures to the judge, and to the eye that seen novelty is measured by.

        Where nobody looks at pictures anyway, neither does the eye.
        """
        plan = self.plan
        if self.judge is None and plan.candidates == 1 and plan.config.novelty is None:
            return None
        key = {
            "version": 2,
            "fingerprint": self.backbone.fingerprint,
            "prompts": [concept.prompt() for concept, _ in self.plan.references(self.backbone)],
            "num": NUM_REFERENCES,
            **self._where(),
            **self.plan.config.sampling(self.backbone),
        }

        def drawn() -> tuple[dict[str, Tensor], dict[str, Any]]:
            parts = [
                draw_embeds(
                    self.backbone,
                    concept,
                    seed=0,
                    num=num,
                    purpose="calibration",
                    observe=self.observe,
                    stage="ordinary pictures to compare with",
                )[1]
                for concept, num in self.plan.references(self.backbone)
            ]
            return {"images": (torch.cat(parts) * 255).round().byte()}, {}

        images = cached("ordinary", key, drawn)[0]["images"].float() / 255
        if isinstance(self.judge, CalibratedJudge):
            self.judge.calibrate(images[:NUM_CALIBRATION], self.plan.subject)
        encoder = eye_of(own_reader(self.judge, self.backbone))
        return Eye(encoder, encoder.image_embeds(list(images)))

    def _support(self) -> Support | None:
        """Return where the checkpoint draws something, measured once for all subjects."""
        if not self.plan.config.use_support:
            return None
        key = {
            "version": 1,
            "fingerprint": self.backbone.fingerprint,
            **self._where(),
            **self.plan.config.sampling(self.backbone),
        }

        def measure() -> tuple[dict[str, Tensor], dict[str, Any]]:
            self.observe("what is drawn at all", 0, 1, {})
            support = self.method.measure_support(self.backbone)
            assert support is not None
            return support.pack(), {}

        return Support.unpack(cached("support", key, measure)[0])

    def _trial(
        self,
        number: int,
        baseline: Baseline,
        eye: Eye | None,
        support: Support | None,
        kept: Sequence[Trial],
    ) -> Trial:
        """Search once, away from the directions that are ``kept``, and choose its pictures."""
        plan, seed = self.plan, self.plan.seed + number
        concept = self._search(number, seed, baseline, eye, support, kept)
        with torch.no_grad():
            fresh = sample_concept(
                self.backbone,
                concept,
                streams(seed, "fresh", num=NUM_FRESH),
                **prior_settings(concept),
            )
        beside = [trial.chosen.features for trial in kept if trial.chosen.features is not None]
        chosen = choose(
            self.backbone,
            concept,
            seed=seed,
            num=plan.num_images,
            times=plan.candidates,
            subject=plan.subject,
            baseline=baseline,
            judge=self.judge,
            eye=eye,
            beside=torch.cat(beside) if beside else None,
            observe=self.observe,
        )
        clusters = [AvoidCluster.fit(baseline.space, one) for one in self._away(kept)]
        return Trial(
            number=number,
            direction=len(kept),
            seed=seed,
            concept=concept,
            fresh=fresh,
            readings=baseline.describe(fresh, clusters),
            chosen=chosen,
            distances=baseline.density.squared_distance(chosen.image_embeds).sqrt().tolist(),
            axes=baseline.space.project(chosen.image_embeds)[:, :2].tolist(),
        )

    def _away(self, kept: Sequence[Trial]) -> list[Tensor]:
        """Return what a search keeps away from: what was named, then the directions before it."""
        return [*self.avoid, *(trial.fresh for trial in kept)]

    def _search(
        self,
        number: int,
        seed: int,
        baseline: Baseline,
        eye: Eye | None,
        support: Support | None,
        kept: Sequence[Trial],
    ) -> Concept:
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
                avoid=self._away(kept),
                judge=self.judge,
                support=support,
                look=None if eye is None else eye.novelty,
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
        self,
        kept: list[Trial],
        trials: list[Trial],
        baseline: Baseline,
        ordinary: Tensor,
        eye: Eye | None,
    ) -> dict[str, Any]:
        outcome = Outcome(
            self.plan, self.backbone, baseline, kept, trials, ordinary, self.keeper.rows, eye
        )
        concepts = [trial.concept for trial in kept]
        files = concept_files(concepts, self.backbone, self.method.name)
        files |= outcome.files(self.asked)
        if self.folder is not None:
            self.folder.write(files)
        return {
            "request": self.asked,
            "concepts": concepts,
            "images": [picture for trial in kept for picture in to_pil(trial.chosen.images)],
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
    quantile: float | None = None,
    reach: float | None = None,
    num_steps: int | None = None,
    space: str | None = None,
    num_images: int = 8,
    seed: int = 0,
    directions: int = 4,
    candidates: int = 3,
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
        novelty: How many times as different as another ordinary picture the pictures shall look
            (seen novelty), above 1; below 1 it is read as ``quantile``.
        quantile: Or: the chi-square quantile of the distance to hold, inside (0, 1).
        reach: Or: so many times the distance of an ordinary embedding, above 0.
        num_steps: Optimizer steps at most; alone, without a distance, the search runs away as
            published.
        space: ``subject``, ``adjective``, ``lora``, ``token+lora`` or ``direct``.
        num_images: Pictures of each direction, 1 or more.
        seed: Same seed, same pictures.
        directions: Searches that keep away from each other, 1 or more; each has pictures and a
            concept of its own.
        candidates: So many times as many pictures are drawn as are shown; 1 chooses none.
        num_trials: Searches for each direction, from ``seed`` on; the best is kept, by validity,
            then by novelty.
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
    counts = {
        "num_images": num_images, "num_trials": num_trials, "directions": directions,
        "candidates": candidates,
    }  # fmt: skip
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{name}: expected at least 1, got {count}")
    far = {"novelty": novelty, "quantile": quantile, "reach": reach}
    if len(given := [name for name, value in far.items() if value is not None]) > 1:
        raise ConfigError(f"{', '.join(given)}: expected one of them")
    if method != NAME:
        searching = {
            **far, "num_steps": num_steps, "space": space,
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
    if given or num_steps is not None:  # steps alone run away, as published
        own = replace(own, novelty=novelty, quantile=quantile, reach=reach)
    settings = replace(
        own,
        space=space or own.space,
        num_steps=own.num_steps if num_steps is None else num_steps,
    )
    plan = Plan(
        subject=subject.strip(),
        prompt=prompt,
        num_images=num_images,
        seed=seed,
        num_trials=num_trials,
        directions=directions,
        candidates=candidates,
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
