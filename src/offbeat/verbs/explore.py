"""Explore: find unusual pictures of a subject that are still the subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.placement import Where
from offbeat.core.baseline import Baseline
from offbeat.core.checks import check_whole
from offbeat.core.density import AvoidCluster, Support
from offbeat.core.drawing import draw_embeds, judged_steps, prior_settings, sample_concept
from offbeat.core.rng import streams
from offbeat.core.taste import Taste
from offbeat.errors import ConfigError
from offbeat.files.cache import cached
from offbeat.files.disk import digest_of, pack_tensors
from offbeat.files.png import encode_png, to_pil
from offbeat.files.preferences import Preferences
from offbeat.judges.choose import choose_judge, own_reader
from offbeat.methods.low_probability.choosing import Eye, choose
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.settings import configured
from offbeat.metrics.encoders import Encoder
from offbeat.metrics.seen import eye_of
from offbeat.protocols import CalibratedJudge, ChecksSubject, PriorBackbone, TextBackbone
from offbeat.runs.clusters import avoid_clusters, start_concept, unlike_clusters
from offbeat.runs.images import png_files
from offbeat.runs.map import BASELINE_FILE, Region
from offbeat.runs.recorder import OnKept
from offbeat.runs.result import Run, concept_files, costed
from offbeat.types import Concept, Observe, Step, ignore
from offbeat.verbs.explore_draw import NUM_CALIBRATION, explore_by_drawing
from offbeat.verbs.explore_plan import (
    NUM_FRESH,
    NUM_REFERENCES,
    Plan,
    Trial,
    drawing_settings,
    pictures_of,
    runs_of,
)
from offbeat.verbs.explore_report import Outcome, picture_files_of
from offbeat.verbs.session import Session, check_numbers, checked_text, conditions_of

PREVIEW_STEPS = 8
NUM_PREVIEWS = 4
"""Pictures of a preview, each of its own noise."""
"""Denoising steps of a preview: enough to see where a search goes."""


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
    avoid: str | Path | Region | Sequence[str | Path | Region] = (),
    unlike: str | Path | Sequence[str | Path | Sequence[str | Path]] = (),
    taste: str | Path | None = None,
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
            ``guidance-interval``, ``adaptive-negatives`` or a plug-in. Those do not search, so
            they refuse ``novelty``, ``quantile``, ``reach``, ``num_steps``, ``space``,
            ``num_trials``, ``avoid``, ``unlike``, ``start`` and ``preview_every``.
        novelty: How many times as different as another ordinary picture the pictures are to look
            (seen novelty), above 1; below 1 it is read as ``quantile``.
        quantile: Instead: the chi-square quantile of the distance to hold, inside (0, 1).
        reach: Instead: this many times the distance of an ordinary embedding, above 0.
        num_steps: Steps at most; None is 200, or 40 generations of CMA-ES. Steps without one of
            the three above let the search move away without a limit, as published.
        space: ``subject``, ``adjective``, ``lora``, ``token+lora`` or ``direct``.
        num_images: Pictures of each direction, 1 or more.
        seed: Same seed, same pictures.
        directions: Searches that keep away from each other, 1 or more; each has pictures and a
            concept of its own.
        candidates: For each picture that is shown, this many are drawn, and the judge and the
            differences choose; 1 shows all.
        num_trials: Searches for each direction, from ``seed`` on; the best is kept, by validity,
            then by novelty.
        avoid: Runs, ``FOLDER``, ``FOLDER:STEP`` or ``FOLDER:TRIAL.STEP`` (a kept step, or ``end``),
            to keep away from, or a ``Region`` of the map
            of one; one or several.
        unlike: Folders of pictures, or lists of files, to keep away from; one or several.
        taste: A file of preferences, from ``offbeat study taste``: of the pictures that pass, the
            half that fits them best is chosen from.
        start: A run or a state of one, named as for ``avoid``, of the same settings to start from.
        preview_every: Steps between two previews, which are told to ``observe`` and kept in the
            run folder; 0 draws none. The result does not depend on it.
        prompt: Template with ``{subject}``; None is the checkpoint's own.
        judge: Who checks that the pictures still show the subject: ``auto``, ``none``, ``clip``,
            ``classifier``, or a model as ``offbeat list judges`` names it, its folder or hub id.
        config: All other settings of the method, by name or as its config object; arguments
            that are not None come before it.
        backbone: Name, folder, hub id, or a loaded checkpoint; None is the bundled one in the form
            that the method needs.
        device: Where to run, e.g. ``cpu`` or ``cuda``, or a ``Placement``: see ``load_backbone``.
            A loaded backbone stays where it is.
        out: Run folder, written as the search goes; None keeps all in memory.
        resume: Go on with the run in ``out``.
        observe: Told the stage, how far it is, and its readings.

    Raises:
        OffbeatError: Each kind of bad input has its own, see ``offbeat.errors``.

    Source: Song and Elgammal, arXiv:2601.22125.
    """
    subject = checked_text("subject", subject)
    check_numbers(
        num_images=num_images, num_trials=num_trials, directions=directions, candidates=candidates,
        seed=seed,
    )  # fmt: skip
    check_whole("preview_every", preview_every, 0)
    if prompt is not None:
        checked_text("prompt", prompt)
    far = {"novelty": novelty, "quantile": quantile, "reach": reach}
    if len(named := [name for name, value in far.items() if value is not None]) > 1:
        raise ConfigError(f"{', '.join(named)}: expected one of them")
    if config is not None and not isinstance(config, Mapping | LowProbabilityConfig):
        raise ConfigError(f"config: expected settings of {method} by name, got {config!r}")
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    if method != NAME:
        searching = {
            **far, "num_steps": num_steps, "space": space,
            "num_trials": num_trials if num_trials > 1 else None, "avoid": avoid, "unlike": unlike,
            "taste": taste, "start": start, "preview_every": preview_every,
        }  # fmt: skip
        return explore_by_drawing(
            session,
            subject,
            method=method,
            config=drawing_settings(method, config, searching),
            num_images=num_images,
            seed=seed,
            prompt=prompt,
            judge=judge,
        )
    if isinstance(config, Mapping):
        config = configured(LowProbabilityConfig, NAME, config)
    settings = config or LowProbabilityConfig()
    if named or num_steps is not None:  # steps alone run away, as published
        settings = replace(settings, novelty=novelty, quantile=quantile, reach=reach)
    plan = Plan(
        subject=subject,
        prompt=prompt,
        num_images=num_images,
        seed=seed,
        num_trials=num_trials,
        directions=directions,
        candidates=candidates,
        avoid=tuple(runs_of(avoid)),
        unlike=tuple(pictures_of(unlike)),
        taste=None if taste is None else str(taste),
        start=None if start is None else str(start),
        judge=judge,
        config=replace(
            settings,
            space=space or settings.space,
            num_steps=settings.num_steps if num_steps is None else num_steps,
        ),
    )
    session.load(NAME)
    exploration = Exploration(session, plan, preview_every)
    return session.finished() if exploration.open() else exploration.run()


class Exploration:
    """Runs a plan on a backbone, in memory or in a folder that survives a kill."""

    def __init__(self, session: Session, plan: Plan, preview_every: int) -> None:
        self.session, self.plan = session, plan
        self.method: LowProbability = registry.find("method", NAME)(plan.config)
        self.backbone = self.method.walks(session.backbone)
        plan.config.on(self.backbone)  # what does not go together fails here
        self.ordinary = plan.ordinary(self.backbone)
        with torch.no_grad():  # a prompt that does not fit fails here, before anything is written
            text = self.backbone.encode_text([self.ordinary.prompt()])
        width, axes = int(text.text_embeds.shape[1]), plan.config.axes
        self.judge = choose_judge(plan.judge, self.backbone, ChecksSubject, subject=plan.subject)
        self.avoid = [
            *avoid_clusters(plan.avoid, self.backbone),
            *unlike_clusters(plan.unlike, self.backbone),
        ]
        self.start = start_concept(plan.start, self.backbone)
        if plan.taste is not None and plan.candidates == 1:
            raise ConfigError("taste: it chooses among candidates, so it needs 2 or more, got 1")
        self.preferences = None if plan.taste is None else Preferences.load(plan.taste)
        if axes is not None and axes > width:
            raise ConfigError(
                f"num_components: expected at most {width}, the width of {self.backbone.name}'s "
                f"embeddings, got {axes}"
            )
        self.previews = Previews(session, preview_every)
        self._plain: dict[int, Tensor] = {}

    def open(self) -> bool:
        """Make or reopen the run folder; return whether the run is finished already."""
        request = {
            **self.plan.as_json(self.backbone),
            "judge_name": self.judge.name if self.judge else None,
            "avoid_digests": [digest_of(c.numpy().tobytes()) for c in self.avoid],
        }
        if self.preferences is not None:
            request["taste_digest"] = self.preferences.digest
        if self.start is not None:
            files = concept_files([self.start], self.backbone, NAME)
            request["start_digest"] = digest_of(b"".join(files[name] for name in sorted(files)))
        finished = self.session.open(request)
        self.session.record("searching", "trial")
        return finished

    def run(self) -> Run:
        """Search, draw, and write what was found."""
        session = self.session
        if self.previews.every:  # something to see before anything is known
            shown = self.ordinary if self.start is None else self.start
            self.previews.draw(shown, seed=self.plan.seed, trial=0, count=0)
            self._show_ordinary()
        baseline, eye, support = self._baseline(), self._eye(), self._support()
        trials: list[Trial] = []
        kept: list[Trial] = []
        pictures: dict[str, bytes] = {}
        for direction in range(self.plan.directions):
            first = direction * self.plan.num_trials
            tried = [
                self._trial(number, baseline, eye, support, kept)
                for number in range(first, first + self.plan.num_trials)
            ]
            trials += tried
            kept.append(max(tried, key=Trial.rank))
            pictures |= self._show_found(kept[-1], len(pictures))
        ordinary = self._ordinary(kept[0].seed)
        outcome = Outcome(
            self.plan, self.backbone, baseline, kept, trials, ordinary, session.recorder.rows, eye
        )
        concepts = [trial.concept for trial in kept]
        return session.write(
            concepts,
            [picture for trial in kept for picture in to_pil(trial.chosen.images)],
            {
                **concept_files(concepts, self.backbone, NAME),
                **pictures,
                **outcome.files(session.request),
            },
            summary=outcome.summary(),
            views=outcome.views(),
            report=lambda summary, views: outcome.report(session.request, summary, views),
            ordinary=to_pil(ordinary),
        )

    def _ordinary(self, seed: int) -> Tensor:
        """Return ordinary pictures of a seed's noise, drawn once."""
        if seed not in self._plain:
            self._plain = {seed: self._draw(self.ordinary, seed)[1]}
        return self._plain[seed]

    def _show_ordinary(self) -> None:
        """Draw the ordinary pictures beside the first trial, before it begins."""
        session, seed = self.session, self.plan.seed
        pictures = to_pil(self._ordinary(seed))
        files: dict[str, bytes] = {}
        if session.folder is not None:
            request, plain = session.request, self.ordinary
            files = png_files("ordinary", pictures, request, plain, self.backbone, seed=seed)
            session.keep(files)
        report = {"pictures": pictures, "files": list(files)}
        session.observe("ordinary ones", len(pictures), len(pictures), report)

    def _show_found(self, trial: Trial, start: int) -> dict[str, bytes]:
        """Write the pictures of a direction as soon as they are chosen, and return the files."""
        session = self.session
        files = picture_files_of(trial, self.plan, self.backbone, session.request, start)
        session.keep(files)
        report = {"pictures": to_pil(trial.chosen.images), "files": list(files)}
        session.observe("directions", trial.direction + 1, self.plan.directions, report)
        return files

    # --- parts ------------------------------------------------------------------------------

    def _conditions(self) -> dict[str, Any]:
        """Return what every number depends on: the checkpoint, and what reads its pictures."""
        reader = getattr(self.backbone, "reader", None)
        return {
            **conditions_of(self.backbone),
            **({} if reader is None else {"reader": reader.checkpoint}),
        }

    def _baseline(self) -> Baseline:
        cfg = self.plan.config
        key = {
            "version": 1,
            "prompt": self.ordinary.prompt(),
            "density": cfg.density,
            **dict(zip(("num_baseline", "num_held_out"), cfg.samples(self.backbone), strict=True)),
            **self._conditions(),
            "num_components": cfg.axes,
            **({"axes_share": cfg.axes_share} if cfg.axes is None else {}),
            **cfg.sampling(self.backbone),
        }

        def measure() -> tuple[dict[str, Tensor], dict[str, Any]]:
            def on_sample(done: int, total: int) -> None:
                self.session.observe("what is ordinary", done, total, {})

            return self.method.measure(
                self.backbone, self.plan.request(), on_sample=on_sample
            ).pack()

        tensors, values = cached("baselines", key, measure)
        # early: its map can be looked at while the search runs
        self.session.keep({BASELINE_FILE: pack_tensors(tensors, values)})
        self.session.observe("what is ordinary", 1, 1, {"measured": True})
        return Baseline.unpack(tensors, values)

    def _eye(self) -> Eye | None:
        """Show ordinary pictures to the judge, and to the eye that seen novelty is measured by.

        Where nobody looks at pictures anyway, neither does the eye.
        """
        plan = self.plan
        if self.judge is None and plan.candidates == 1 and plan.config.novelty is None:
            return None
        images = self._compared_with({})
        if isinstance(self.judge, CalibratedJudge):
            self.judge.calibrate(images[:NUM_CALIBRATION], self.plan.subject)
        encoder = eye_of(own_reader(self.judge, self.backbone))
        references, looked_at = encoder.image_embeds(list(images)), None
        steps = judged_steps(self.backbone)
        few = isinstance(self.backbone, PriorBackbone)  # others draw in the search's own steps
        if few and steps < int(self.backbone.card["num_inference_steps"]):
            quick = self._compared_with({"num_inference_steps": steps})
            looked_at = encoder.image_embeds(list(quick))
        return Eye(encoder, references, self._taste(encoder), looked_at)

    def _compared_with(self, decoding: dict[str, Any]) -> Tensor:
        """Return ordinary pictures, ``[N, 3, H, W]``, drawn once for all runs."""
        references = self.plan.references(self.backbone)
        key = {
            "version": 2,
            "prompts": [concept.prompt() for concept, _ in references],
            "num": NUM_REFERENCES,
            **self._conditions(),
            **self.plan.config.sampling(self.backbone),
            **({"decoding": decoding} if decoding else {}),
        }

        def drawn() -> tuple[dict[str, Tensor], dict[str, Any]]:
            parts = [
                draw_embeds(
                    self.backbone,
                    concept,
                    seed=0,
                    num=num,
                    purpose="calibration",
                    decoding=decoding,
                    observe=self.session.observe,
                    stage="ordinary pictures to compare with",
                )[1]
                for concept, num in references
            ]
            return {"images": (torch.cat(parts) * 255).round().byte()}, {}

        return cached("ordinary", key, drawn)[0]["images"].float() / 255

    def _taste(self, encoder: Encoder) -> Taste | None:
        """Learn what somebody likes, in terms of what the eye sees."""
        preferences = self.preferences
        if preferences is None:
            return None
        features = encoder.image_embeds(list(preferences.images))
        return Taste.fit(features, preferences.winners, preferences.losers)

    def _support(self) -> Support | None:
        """Return where the checkpoint draws something, measured once for all subjects."""
        if not self.plan.config.use_support:
            return None
        key = {
            "version": 1,
            **self._conditions(),
            **self.plan.config.sampling(self.backbone),
        }

        def measure() -> tuple[dict[str, Tensor], dict[str, Any]]:
            self.session.observe("what is drawn at all", 0, 1, {})
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
        away = self._away(kept)
        concept = self.session.learn(
            number,
            f"trials/{number}/",
            lambda on_step, state: self.method.fit(
                self.backbone,
                plan.request(seed),
                baseline=baseline,
                avoid=away,
                judge=self.judge,
                support=support,
                look=None if eye is None else eye.look,
                start=self.start,
                on_step=on_step,
                resume=state,
            ),
            total=plan.config.on(self.backbone).steps,
            method=NAME,
            on_kept=self._on_kept(number),
        )
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
            observe=self.session.observe,
        )
        clusters = [AvoidCluster.fit(baseline.space, part) for part in away]
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

    def _on_kept(self, number: int) -> OnKept:
        """Return what keeps the concept of some steps: for previews, and for --avoid RUN:STEP."""

        def on_kept(count: int, step: Step) -> None:
            if step.concept is None:
                return
            seen = self.previews.due(count)
            if seen or count % self.plan.config.judge_every == 0 or step.values["stopped"]:
                where = f"trials/{number}/states/{count:04d}/"
                self.session.keep_concept(where, step.concept(), NAME)
            if seen:
                seed = self.plan.seed + number
                self.previews.draw(step.concept(), seed=seed, trial=number, count=count)

        return on_kept

    def _draw(self, concept: Concept, seed: int) -> tuple[Tensor, Tensor]:
        num, observe = self.plan.num_images, self.session.observe
        return draw_embeds(self.backbone, concept, seed=seed, num=num, observe=observe)


@dataclass(frozen=True, slots=True)
class Previews:
    """Draws a few pictures every few steps; nothing that the search finds depends on them."""

    session: Session
    every: int
    """Steps; 0 draws none."""

    def due(self, count: int) -> bool:
        """Return whether there is one after ``count`` steps."""
        return self.every > 0 and count % self.every == 0

    def draw(self, concept: Concept, *, seed: int, trial: int, count: int) -> None:
        """Draw the concept of a search after ``count`` steps: the first pictures of its noise.

        The observer is told the pictures, and their files where there is a folder.
        """
        session, backbone = self.session, self.session.backbone
        steps = min(PREVIEW_STEPS, int(backbone.card["num_inference_steps"]))
        _, images = draw_embeds(
            backbone, concept, seed=seed, num=NUM_PREVIEWS, decoding={"num_inference_steps": steps}
        )
        pictures = to_pil(images)
        files: dict[str, bytes] = {}
        if session.folder is not None:
            about = {"subject": concept.subject, "step": count, "trial": trial, "seed": seed}
            where = f"trials/{trial}/states/{count:04d}"
            files = session.keep(
                {
                    f"{where}/preview-{number:04d}.png": encode_png(picture, about)
                    for number, picture in enumerate(pictures)
                }
            )
        report = {"pictures": pictures, "files": list(files), "at": count, "trial": trial}
        session.observe("preview", 1, 1, report)
