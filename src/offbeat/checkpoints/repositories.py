"""Where a checkpoint's files come from, and its fingerprint before it is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from offbeat.checkpoints.forms import form_of
from offbeat.checkpoints.known import cards, flow, one_step, stable_diffusion, unclip
from offbeat.checkpoints.pipeline import ALL_FILES, PipelineFolder, cell_of, fingerprint
from offbeat.checkpoints.sizes import Survey, pipelines_of
from offbeat.checkpoints.weights import PIPELINE_FILES
from offbeat.errors import UnknownNameError

Repository = tuple[str, tuple[str, ...]]
"""A hub id, or a folder of the package, and the patterns of the files that are read."""


def repositories(source: str) -> list[Repository]:
    """Return what a name or hub id is made of.

    Raises:
        UnknownNameError: If it is neither.
    """
    if unclip.SEPARATOR in source:
        return [(half, PIPELINE_FILES) for half in source.split(unclip.SEPARATOR, 1)]
    if source in unclip.CHECKPOINTS:
        return [(half, PIPELINE_FILES) for half in unclip.CHECKPOINTS[source]]
    if source == one_step.NAME:
        return [
            (one_step.BASE, stable_diffusion.FILES),
            (one_step.LORA[0], (one_step.LORA[1],)),
            (one_step.CLIP, one_step.CLIP_FILES),
        ]
    for table in (stable_diffusion, flow):
        if source in table.CHECKPOINTS:
            return [(table.CHECKPOINTS[source], table.FILES)]
    if source.count("/") != 1:
        known = {*unclip.CHECKPOINTS, *stable_diffusion.CHECKPOINTS, *flow.CHECKPOINTS}
        raise UnknownNameError("backbone", source, known)
    pair = next((halves for halves in unclip.CHECKPOINTS.values() if source in halves), None)
    if pair is not None:
        return [(half, PIPELINE_FILES) for half in pair]
    form = form_of(source)
    files = flow.FILES if form in flow.FORMS else stable_diffusion.FILES
    return [(source, ALL_FILES if form == "unclip" else files)]


def digest_of_survey(found: Survey) -> str | None:
    """Return a checkpoint's fingerprint, as its adapter makes it; None where that needs loading."""
    configs = {part.name: _as_read(part.config) for part in found.parts}
    _, pipelines = pipelines_of(found.source)
    last = pipelines[-1]
    if found.form == "unclip":
        card = cards.read_card(unclip.find(found.source)[2])
        folders = dict.fromkeys(pipeline.path for pipeline in pipelines)
        return fingerprint(*folders, settings=cards.drawing_settings(card))
    try:
        if found.form == "stable-diffusion" and not _is_one_step(found.source):
            return _of_stable_diffusion(last, configs)
        if found.form in flow.FORMS:
            return _of_flow(last, configs)
    except (AttributeError, KeyError, TypeError):  # its settings are less than the adapter reads
        return None
    return None


def _is_one_step(source: str) -> bool:
    """Return whether more than the pipeline decides what is drawn: LoRA weights, CLIP."""
    return source == one_step.NAME or form_of(source) == "one-step"


def _of_stable_diffusion(pipeline: PipelineFolder, configs: dict[str, Any]) -> str:
    cell = cell_of(configs["vae"].config)
    own = stable_diffusion.defaults(pipeline, configs["unet"], cell)
    card = {**own, **stable_diffusion.read_cards(pipeline)}
    used: list[Path] = stable_diffusion.digested(pipeline, None)
    return fingerprint(*used, settings=cards.drawing_settings(card))


def _of_flow(pipeline: PipelineFolder, configs: dict[str, Any]) -> str:
    card = {**flow.defaults(pipeline, configs), **cards.read_card(pipeline.path)}
    return fingerprint(*pipeline.paths(), settings=cards.drawing_settings(card))


def _as_read(config: Any) -> Any:
    """Return settings as a loaded component shows them."""
    from diffusers.configuration_utils import FrozenDict

    return SimpleNamespace(config=FrozenDict(config))
