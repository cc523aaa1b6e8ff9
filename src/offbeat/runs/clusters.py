"""Read what a search must avoid: runs, regions of their maps, folders of pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from offbeat.core.drawing import prior_settings, sample_concept
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, FingerprintError, StoreError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.pictures import picture_files, read_picture
from offbeat.protocols import ExploringBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.map import Region, baseline_of, inside, kept_steps
from offbeat.runs.result import best_direction, concept_folders, read_concept
from offbeat.types import Concept

_STATE = re.compile(r"\d+|\d+\.(\d+|end)")
NUM_SAMPLES = 256
"""Samples of each kept step that are compared with the region."""

MIN_INSIDE = 4
"""Fewer samples than this make no cluster."""


NUM_CLUSTER = 500
"""Samples of an avoided run; the paper reuses N, which may mean 5,000."""


def avoid_clusters(sources: Sequence[str | Region], backbone: ExploringBackbone) -> list[Tensor]:
    """Return samples ``[n, D]`` of what each run drew: all, at a step, or in a region of its map.

    Raises:
        StoreError: If a run or its step is not there.
        FingerprintError: If it was learned on another checkpoint.
    """
    clusters = []
    for source in sources:
        if isinstance(source, Region):
            clusters.append(region_cluster(source, backbone))
            continue
        folder, state = split_state(source)
        run = RunFolder.open(folder)
        if not run.is_finished and not state:
            raise StoreError(
                f"{source}: the run is not finished; finish it with --resume, or name one of its "
                f"kept steps as {source}:STEP"
            )
        for where in [_state_of(run, state)] if state else concept_folders(run):
            concept, about = read_concept(run, where)
            if about["fingerprint"] != backbone.fingerprint:
                raise FingerprintError(
                    f"{source}: was drawn by {about['checkpoint']} ({about['fingerprint']}), and "
                    f"this is {backbone.name} ({backbone.fingerprint}): their spaces differ"
                )
            with torch.no_grad():
                noise = streams(0, "avoid", num=NUM_CLUSTER)
                sampled = sample_concept(backbone, concept, noise, **prior_settings(concept))
            clusters.append(sampled)
    return clusters


def split_state(source: str) -> tuple[str, str]:
    """Return the folder and the state of ``FOLDER``, ``FOLDER:STEP`` or ``FOLDER:TRIAL.STEP``.

    >>> split_state("runs/owl:2.30"), split_state("runs/owl:2.end"), split_state("C:/owl")
    (('runs/owl', '2.30'), ('runs/owl', '2.end'), ('C:/owl', ''))
    """
    folder, _, state = source.rpartition(":")
    return (folder, state) if folder and _STATE.fullmatch(state) else (source, "")


def _state_of(run: RunFolder, state: str) -> str:
    """Return the folder of a state: a kept step of the best trial or of another, or a trial's end.

    Raises:
        StoreError: If the run has not kept it.
    """
    if not state:
        return ""
    trial, _, step = state.rpartition(".")
    if step == "end":
        where = f"trials/{int(trial)}/"
        if not run.exists(where + CONCEPT_FILE):
            raise StoreError(f"{run.path}:{state}: trial {trial} is not there, or has not ended")
        return where
    steps = kept_steps(run, int(trial) if trial else None)
    if int(step) not in steps:
        if not steps:
            raise StoreError(f"{run.path}:{state}: the run has no such search, or it kept no step")
        known = ", ".join(map(str, steps))
        raise StoreError(f"{run.path}:{state}: expected a step that was kept, one of {known}")
    return steps[int(step)]


def start_concept(source: str | None, backbone: ExploringBackbone) -> Concept | None:
    """Return what a search goes on from: a run's result, or a step that it kept.

    Raises:
        StoreError: If it is not there.
        FingerprintError: If it was learned on another checkpoint.
    """
    if source is None:
        return None
    folder, state = split_state(source)
    run = RunFolder.open(folder)
    where = _state_of(run, state)
    if not where and run.is_finished:
        best = best_direction(run.request, run.read_json("summary.json"))
        where = concept_folders(run)[best or 0]
    concept, about = read_concept(run, where)
    if about["fingerprint"] != backbone.fingerprint:
        raise FingerprintError(
            f"{source}: was learned on {about['checkpoint']} ({about['fingerprint']}), and this is "
            f"{backbone.name} ({backbone.fingerprint}): it fits no other weights"
        )
    return concept


def unlike_clusters(
    given: Sequence[str | Sequence[str]], backbone: ExploringBackbone
) -> list[Tensor]:
    """Return image embeddings, ``[n, D]``, of the pictures of each folder, or list of files.

    Raises:
        ImageError: If a folder holds no picture, or one cannot be read.
    """
    clusters = []
    for group in given:
        files = picture_files(group) if isinstance(group, str) else [Path(file) for file in group]
        with torch.no_grad():
            parts = [
                backbone.encode_image(torch.stack([read_picture(file) for file in batch])).cpu()
                for batch in (files[at : at + 16] for at in range(0, len(files), 16))
            ]
        clusters.append(torch.cat(parts))
    return clusters


def region_cluster(region: Region, backbone: ExploringBackbone) -> Tensor:
    """Return embeddings of what a run drew inside a region of its map, ``[n, D]``.

    Raises:
        ConfigError: If there is next to nothing inside.
        FingerprintError: If the run is of another checkpoint.
        StoreError: If the run keeps no such step, or is no exploration.
    """
    run = RunFolder.open(region.run)
    space = baseline_of(run).space
    trials = sorted({row["trial"] for row in run.trace()})
    states = [
        where
        for trial in trials
        for step, where in kept_steps(run, trial).items()
        if region.step in (None, step)
    ]
    if not states:
        raise StoreError(f"{region.run}: keeps no such step of its search, so nothing to look at")
    parts = []
    for where in states:
        concept, about = read_concept(run, where)
        if about["fingerprint"] != backbone.fingerprint:
            raise FingerprintError(f"{region.run}: its map is of another checkpoint's space")
        with torch.no_grad():
            noise = streams(0, "region", num=NUM_SAMPLES)
            samples = sample_concept(backbone, concept, noise, **prior_settings(concept))
        parts.append(samples[inside(space.project(samples)[:, :2], region.region)])
    cluster = torch.cat(parts)
    if len(cluster) < MIN_INSIDE:
        raise ConfigError(
            f"region: of what the search drew, {len(cluster)} samples lie inside, and at least "
            f"{MIN_INSIDE} make a cluster; draw it wider, or around other points"
        )
    return cluster
