"""Evolve pictures: search for a concept that is a child of their parents' image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.open import check_needs, default_backbone, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.drawing import draw
from offbeat.core.functional import cosine
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.disk import digest_of
from offbeat.files.labels import versions
from offbeat.files.pictures import read_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_reader
from offbeat.methods.settings import config_of, make_method
from offbeat.protocols import TextBackbone
from offbeat.runs import readings
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import GIVEN, png_files, sheet
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import Run, concept_files, load_run, numerics_of, read_concept, reported
from offbeat.types import Concept, Observe, Request, ignore

Shares = tuple[tuple[str, float], ...]
START = "thing"
"""The word that the token starts from, unless the method's ``initial_word`` names another."""


def evolve(
    point: Shares,
    num_images: int,
    *,
    method: str,
    config: dict[str, Any] | None = None,
    trained: object = None,
    prompt: str | None = None,
    seed: int = 0,
    judge: str = "auto",
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Search for a child of picture files, and draw it; arguments as of ``offbeat.fuse``.

    Raises:
        ImageError: If a picture is not there or cannot be read.
        CapabilityError: If the checkpoint has no prior, or no image encoder.
        ConfigError: If something trained is given, or a number is out of its range.
    """
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    if trained is not None:
        raise ConfigError(f"trained: {method} learns anew each time and takes nothing trained")
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    files = [Path(name).expanduser() for name, _ in point]
    model: Any = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, config)
    check_needs(method, chosen.needs, model)
    size = min(int(model.card["height"]), int(model.card["width"]))
    pictures = [read_picture(file, size=size) for file in files]
    with torch.no_grad():
        parents = [model.encode_image(picture[None]) for picture in pictures]
    reader = choose_reader(judge, model)
    names = [file.name for file in files]
    asked = {
        "verb": "fuse",
        "layout": "evolve",
        "subject": " + ".join(names),
        "parents": [
            {"picture": str(file), "digest": digest_of(file.read_bytes())} for file in files
        ],
        "weights": [[list(pair) for pair in point]],
        "method": method,
        "config": config_of(chosen),
        "judge": reader.name if reader else None,
        "prompt": prompt,
        "num_images": num_images,
        "seed": seed,
        "checkpoint": model.name,
        "fingerprint": model.fingerprint,
        "versions": versions(),
        **numerics_of(model),
    }
    folder = RunFolder.create(Path(out), asked, resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    keeper = Keeper(
        folder, observe, stage="searching", label="concept", row_every=10, checkpoint_every=50
    )
    concept = _child(chosen, model, parents, [share for _, share in point], seed, keeper)
    if prompt is not None:
        concept = replace(concept, template=prompt)
    images = draw(model, concept, seed=seed, num=num_images, observe=observe)
    return _written(asked, concept, images, pictures, parents, model, reader, folder, keeper)


def _child(
    method: Any,
    backbone: Any,
    parents: Sequence[Tensor],
    weights: Sequence[float],
    seed: int,
    keeper: Keeper,
) -> Concept:
    """Return the concept, found now or by an earlier process."""
    folder = keeper.folder
    if folder is not None and folder.exists(CONCEPT_FILE):
        keeper.reread()
        return read_concept(folder, "")[0]
    state = keeper.resume(0)
    with few_threads(backbone):
        concept: Concept = method.evolve(
            backbone,
            parents,
            Request(subject=method.config.initial_word or START, seed=seed),
            weights=weights,
            on_step=keeper.observer(0, method.config.num_steps),
            resume=state,
        )
    if folder is not None:  # a search's result outlives a kill
        folder.write(concept_files([concept], backbone))
    return concept


def _written(
    asked: dict[str, Any],
    concept: Concept,
    images: Tensor,
    pictures: Sequence[Tensor],
    parents: Sequence[Tensor],
    backbone: Any,
    reader: Any,
    folder: RunFolder | None,
    keeper: Keeper,
) -> Run:
    """Read the child's pictures, and write what was found."""
    with torch.no_grad():
        near = cosine(backbone.encode_image(images), torch.cat(list(parents))).mean(dim=0).tolist()
    names = [Path(source["picture"]).name for source in asked["parents"]]
    read = readings.read(reader, images)
    labels = reader.labels if reader is not None else ()
    row: dict[str, Any] = {"weights": dict(asked["weights"][0]), "likeness": near}
    if read is not None:
        row["images"] = [", ".join(readings.in_words(labels, one)) for one in read]
    likeness = ", ".join(f"{value:.2f} to {name}" for value, name in zip(near, names, strict=True))
    summary = {
        "subject": asked["subject"],
        "prompt": concept.template,
        "seed": asked["seed"],
        "judge": asked["judge"],
        "concepts": [row],
        "warnings": [],
        "in_words": f"A child of {' and '.join(names)}. Mean cosine of its pictures: {likeness}.",
    }
    drawn = to_pil(images)
    alone = [to_pil(picture.expand(len(images), -1, -1, -1)) for picture in pictures]
    title = f"A child of {' + '.join(names)}, by {asked['method']}"
    captions = [readings.caption(labels, one) for one in read] if read is not None else []
    note = f"Under each: what {asked['judge']} reads." if captions else ""
    rows = [*zip(names, alone, strict=True), ("the child", drawn)]
    contact = sheet(rows, title=title, captions=captions, note=note)
    files = concept_files([concept], backbone)
    files |= png_files("images", drawn, asked, concept, backbone)
    ordinary = [part[0] for part in alone]
    given = Concept(template="{concept}", subject="given", word="given")  # shown, not drawn
    files |= png_files("ordinary", ordinary, asked, given, backbone, drawing=GIVEN)
    return reported(
        asked,
        [concept],
        drawn,
        files,
        folder,
        title=title,
        contact=contact,
        summary=summary,
        ordinary=ordinary,
        trace=keeper.rows,
    )
