"""The library as functions: the one place where methods, backbones, judges and files meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offbeat._again import Again, again
from offbeat._doctor import doctor
from offbeat._drawn import explore_by_drawing
from offbeat._dream import dream as _dream
from offbeat._explore import Exploration
from offbeat._export import export_concept, import_concept
from offbeat._fuse import fuse as _fuse
from offbeat._fuse import grid as _grid
from offbeat._fuse import sweep as _sweep
from offbeat._generate import generate as _generate
from offbeat._map import map_of_run
from offbeat._models import as_json, fetch_model, inspect_model, list_models
from offbeat._outcome import Plan
from offbeat._paint import paint as _paint
from offbeat._regions import Region
from offbeat._render import render as _render
from offbeat._runs import Run, costed, load_backbone, load_run, loaded_prior
from offbeat._score import ScoreTable, score
from offbeat._sketch import between, concept_of, dreamt, mixture, sketch
from offbeat._train import train
from offbeat._walk import walk as _walk
from offbeat.backbones._placement import Placement, Where
from offbeat.errors import ConfigError, PromptError
from offbeat.methods._settings import configured
from offbeat.methods.low_probability import NAME, LowProbabilityConfig
from offbeat.protocols import TextBackbone
from offbeat.types import Observe, ignore

__all__ = [
    "Again",
    "Placement",
    "Region",
    "Run",
    "ScoreTable",
    "again",
    "as_json",
    "between",
    "concept_of",
    "doctor",
    "dream",
    "dreamt",
    "explore",
    "export_concept",
    "fetch_model",
    "fuse",
    "generate",
    "grid",
    "import_concept",
    "inspect_model",
    "list_models",
    "load_backbone",
    "load_run",
    "map_of_run",
    "mixture",
    "paint",
    "render",
    "score",
    "sketch",
    "sweep",
    "train",
    "walk",
]


# every verb that draws says what it cost
dream, fuse, sweep, grid = costed(_dream), costed(_fuse), costed(_sweep), costed(_grid)
generate, paint, render, walk = costed(_generate), costed(_paint), costed(_render), costed(_walk)


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
