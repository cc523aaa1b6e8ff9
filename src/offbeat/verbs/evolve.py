"""Evolve pictures: search for a concept that is a child of their parents' image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.core.functional import cosine
from offbeat.errors import ConfigError
from offbeat.files.disk import digest_of
from offbeat.files.pictures import read_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of
from offbeat.protocols import ReadsClasses
from offbeat.runs import readings
from offbeat.runs.images import GIVEN, png_files, sheet
from offbeat.runs.result import Run, concept_files
from offbeat.types import Concept, Request
from offbeat.verbs.session import Session, Task, in_prompt

Shares = tuple[tuple[str, float], ...]
START = "thing"
"""The word that the token starts from, unless the method's ``initial_word`` names another."""


def evolve(session: Session, point: Shares, task: Task) -> Run:
    """Search for a child of picture files, and draw it.

    Args:
        session: Not loaded yet.
        point: Files, each with its share.
        task: What else is asked.

    Raises:
        ImageError: If a picture is not there or cannot be read.
        CapabilityError: If the checkpoint has no prior, or no image encoder.
        ConfigError: If something trained is given, or a number is out of its range.
    """
    if task.trained is not None:
        raise ConfigError(f"trained: {task.method} learns anew each time and takes nothing trained")
    files = [Path(name).expanduser() for name, _ in point]
    backbone = session.load(task.method)
    method = session.method(task.method, task.config, "evolve", "does not evolve pictures")
    size = min(int(backbone.card["height"]), int(backbone.card["width"]))
    pictures = [read_picture(file, size=size) for file in files]
    with torch.no_grad():
        parents = [backbone.encode_image(picture[None]) for picture in pictures]
    judge = choose_judge(task.judge, backbone, ReadsClasses)
    finished = session.open(
        {
            "verb": "fuse",
            "layout": "evolve",
            "subject": " + ".join(file.name for file in files),
            "parents": [
                {"picture": str(file), "digest": digest_of(file.read_bytes())} for file in files
            ],
            "weights": [[list(pair) for pair in point]],
            "method": task.method,
            "config": config_of(method),
            "judge": judge.name if judge else None,
            "prompt": task.prompt,
            "num_images": task.num_images,
            "seed": task.seed,
        }
    )
    if finished:
        return session.finished()
    session.record("searching", "concept", row_every=10)
    child = session.learn(
        0,
        "",
        lambda on_step, state: method.evolve(
            backbone,
            parents,
            Request(subject=method.config.initial_word or START, seed=task.seed),
            weights=[share for _, share in point],
            on_step=on_step,
            resume=state,
        ),
        total=method.config.steps(of_child=True),
    )
    child = in_prompt(child, task.prompt)
    images = session.draw(child)
    with torch.no_grad():
        near = cosine(backbone.encode_image(images), torch.cat(parents)).mean(dim=0).tolist()
    return _written(session, child, images, pictures, judge, near)


def _written(
    session: Session,
    child: Concept,
    images: Tensor,
    pictures: Sequence[Tensor],
    judge: Any,
    near: Sequence[float],
) -> Run:
    """Read the child's pictures, and write what was found."""
    request = session.request
    names = [Path(source["picture"]).name for source in request["parents"]]
    read = readings.read(judge, images)
    labels = judge.labels if judge is not None else ()
    row: dict[str, Any] = {"weights": dict(request["weights"][0]), "likeness": list(near)}
    if read is not None:
        row["images"] = [", ".join(readings.in_words(labels, part)) for part in read]
    likeness = ", ".join(f"{value:.2f} to {name}" for value, name in zip(near, names, strict=True))
    drawn = to_pil(images)
    alone = [to_pil(picture.expand(len(images), -1, -1, -1)) for picture in pictures]
    ordinary = [part[0] for part in alone]
    title = f"A child of {' + '.join(names)}, by {request['method']}"
    captions = [readings.caption(labels, part) for part in read] if read is not None else []
    parent = Concept(template="{concept}", subject="given", word="given")  # shown, not drawn
    return session.write(
        [child],
        drawn,
        {
            **concept_files([child], session.backbone),
            **png_files("images", drawn, request, child, session.backbone),
            **png_files("ordinary", ordinary, request, parent, session.backbone, drawing=GIVEN),
        },
        summary={
            "subject": request["subject"],
            "prompt": child.template,
            "seed": request["seed"],
            "judge": request["judge"],
            "concepts": [row],
            "warnings": [],
            "in_words": f"A child of {' and '.join(names)}. Mean cosine of its pictures to theirs: "
            f"{likeness}.",
        },
        views={
            "contact.png": lambda: sheet(
                [*zip(names, alone, strict=True), ("the child", drawn)],
                title=title,
                captions=captions,
                note=f"Under each: what {request['judge']} reads." if captions else "",
            )
        },
        title=title,
        ordinary=ordinary,
    )
