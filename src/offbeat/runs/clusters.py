"""Read what a search must avoid: runs, regions of their maps, folders of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from offbeat.core.drawing import prior_settings, sample_concept
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, FingerprintError, StoreError
from offbeat.files.pictures import picture_files, read_picture
from offbeat.protocols import ExploringBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.map import Region, baseline_of, inside, kept_steps
from offbeat.runs.result import best_direction, concept_folders, read_concept
from offbeat.types import Concept

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
        folder, _, step = source.rpartition(":")
        if not folder or not step.isdigit():
            folder, step = source, ""
        run = RunFolder.open(folder)
        if not run.is_finished and not step:
            raise StoreError(
                f"{source}: the run is not finished; finish it with --resume, or name one of its "
                f"kept steps as {source}:STEP"
            )
        for where in [_state_of(run, step)] if step else concept_folders(run):
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


def _state_of(run: RunFolder, step: str) -> str:
    """Return the folder of a kept step of the run's best trial; the result's for no step."""
    if not step:
        return ""
    steps = kept_steps(run)
    if int(step) not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise StoreError(f"{run.path}:{step}: expected a step that was kept, one of {known}")
    return steps[int(step)]


def start_concept(source: str | None, backbone: ExploringBackbone) -> Concept | None:
    """Return what a search goes on from: a run's result, or a step that it kept.

    Raises:
        StoreError: If it is not there.
        FingerprintError: If it was learned on another checkpoint.
    """
    if source is None:
        return None
    folder, _, step = source.rpartition(":")
    if not folder or not step.isdigit():
        folder, step = source, ""
    run = RunFolder.open(folder)
    where = _state_of(run, step)
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
    steps = kept_steps(run)
    if region.step is not None:
        steps = {step: where for step, where in steps.items() if step == region.step}
    if not steps:
        raise StoreError(f"{region.run}: keeps no such step of its search, so nothing to look at")
    parts = []
    for where in steps.values():
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
