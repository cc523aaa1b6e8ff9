"""What a request names by text: judges, runs to avoid, folders of pictures to differ from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from offbeat import formats, registry
from offbeat._judges import checks_subject, open_judge
from offbeat._pictures_out import prior_settings
from offbeat._regions import Region, kept_steps, region_cluster
from offbeat._runs import read_concept
from offbeat.errors import FingerprintError, PromptError, StoreError
from offbeat.judges.classifier import ClassifierJudge
from offbeat.pictures import picture_files, read_picture
from offbeat.protocols import CalibratedJudge, ChecksSubject, ExploringBackbone
from offbeat.rng import streams
from offbeat.sampling import sample_concept
from offbeat.store import RunFolder
from offbeat.types import Concept
from offbeat.vocab import DEFAULT_LABELS

NUM_CLUSTER = 500
"""Samples of an avoided run; the paper reuses N, which may mean 5,000."""


def choose_judge(name: str, backbone: ExploringBackbone, subject: str) -> ChecksSubject | None:
    """Return the judge of this name: auto, none, clip, classifier, or as ``open_judge`` takes it.

    ``auto`` takes the checkpoint's own classifier if it knows the subject, and reads pixels with
    its image encoder if not.

    Raises:
        UnknownNameError: If there is no such judge.
        CheckpointError: If a folder or hub id holds none.
    """
    if name == "none":
        return None
    own = backbone.card.get("judge")
    if name in ("auto", "classifier") and own is not None:
        judge = ClassifierJudge.load(own, subjects=backbone.card["subjects"])
        try:
            judge.members(subject)
        except PromptError:
            if name == "classifier":
                raise
        else:
            return judge
    if name in ("auto", "clip"):
        labels = None if len(backbone.card["concepts"]) > 1 else DEFAULT_LABELS
        found: CalibratedJudge = registry.find("judge", "clip")(backbone, concepts=labels)
        return found
    if name == "classifier":
        raise StoreError(f"{backbone.name} brings no classifier; give its folder with --judge")
    given = open_judge(name, backbone)
    if isinstance(given, ClassifierJudge):
        given.members(subject)  # a subject that it does not know fails here, not after the search
    return checks_subject(given, name)


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
        where = _state_of(run, step)
        concept, about = formats.decode_concept(
            lambda name, run=run, where=where: (  # type: ignore[misc]
                run.read(where + name) if run.exists(where + name) else None
            )
        )
        if about["fingerprint"] != backbone.fingerprint:
            raise FingerprintError(
                f"{source}: was drawn by {about['checkpoint']} ({about['fingerprint']}), and this "
                f"is {backbone.name} ({backbone.fingerprint}): their spaces differ"
            )
        with torch.no_grad():
            noise = streams(0, "avoid", num=NUM_CLUSTER)
            clusters.append(sample_concept(backbone, concept, noise, **prior_settings(concept)))
    return clusters


def _state_of(run: RunFolder, step: str) -> str:
    """Return the folder of a state of the run's best trial; none means its result."""
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
    concept, about = read_concept(run, _state_of(run, step))
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
    for one in given:
        files = picture_files(one) if isinstance(one, str) else [Path(file) for file in one]
        with torch.no_grad():
            parts = [
                backbone.encode_image(torch.stack([read_picture(file) for file in batch])).cpu()
                for batch in (files[at : at + 16] for at in range(0, len(files), 16))
            ]
        clusters.append(torch.cat(parts))
    return clusters
