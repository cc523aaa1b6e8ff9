"""Dream: make concepts from noise, drop near-duplicates, draw the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_range
from offbeat.core.drawing import draw
from offbeat.core.functional import cosine
from offbeat.errors import ConfigError
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_judge, problems_of
from offbeat.methods.settings import config_of, steps_of
from offbeat.metrics.fusion import vendi_score
from offbeat.protocols import NamesThings, ReadsClasses, TextBackbone
from offbeat.runs import readings
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, concept_files, costed
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Observe, Request, ignore
from offbeat.verbs.session import (
    Session,
    check_numbers,
    check_template,
    checked_text,
    in_prompt,
)

TRIES = 4
"""At most so many dreams are made for each one that is kept."""


@dataclass(frozen=True, slots=True)
class Dream:
    """A dream that was kept."""

    index: int
    """Number of the dream; with the seed it decides everything."""
    concept: Concept
    text_embeds: Tensor
    """Of its prompt, ``[1, D]``: near-duplicates are found by it."""


@costed
def dream(
    num: int = 16,
    *,
    method: str = "distok",
    subject: str | None = None,
    law: str | None = None,
    config: Mapping[str, Any] | None = None,
    trained: str | Path | None = None,
    max_cosine: float = 0.95,
    prompt: str | None = None,
    seed: int = 0,
    judge: str = "auto",
    guide: str = "clip",
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Make concepts that nobody named, and draw one picture of each.

    Args:
        num: Concepts, 1 or more.
        method: A name from ``registry.names("method")`` that dreams.
        subject: What kind of thing to dream of, where the method asks for one (ConceptLab).
        law: ``gaussian``, ``laplace`` or ``cauchy``, where the method draws from one (DisTok).
        config: Further settings of the method.
        trained: A folder or file of ``offbeat train``; None is what comes with the checkpoint.
        max_cosine: Two dreams whose texts are nearer than this are one; the later is dropped.
        prompt: With ``{concept}``; None is the method's own.
        seed: Same seed, same dreams.
        judge: Who reads the pictures: ``auto``, ``none``, ``clip``, ``classifier``, or a model as
            ``offbeat list judges`` names it, its folder or hub id.
        guide: Who says what a search sees, where the method asks (ConceptLab): the same names, or
            ``api:MODEL@ADDRESS``.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder; None keeps all in memory.
        resume: Go on with the run in ``out``.
        observe: Told how far it is.
    """
    check_numbers(num=num, seed=seed)
    check_range("max_cosine", max_cosine, -1, 1)
    check_template(prompt)
    settings = {**(config or {}), **({} if law is None else {"law": law})}
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    model = session.load()
    chosen = session.method(method, settings, "dream", "does not dream")
    space, digest = find_trained(chosen, model, trained)
    if subject is not None:
        subject = checked_text("subject", subject)
        if space is not None:
            raise ConfigError(f"subject: {method} takes no subject; leave it out")
    kind = subject or ("" if space is not None else "animal")
    reader = choose_judge(judge, model, ReadsClasses)
    # what a search asks while it learns must not be what reads its pictures afterwards
    asker = None if space is not None else choose_judge(guide, model, NamesThings, subject=kind)
    finished = session.open(
        {
            "verb": "dream",
            "subject": kind or "dreams",
            "num": num,
            "method": method,
            "config": config_of(chosen),
            "trained": digest,
            "max_cosine": max_cosine,
            "prompt": prompt,
            "num_images": 1,
            "seed": seed,
            "judge": reader.name if reader else None,
            "guide": asker.name if asker else None,
        }
    )
    if finished:
        return session.finished()
    session.record("dreaming", "concept", row_every=10)
    request = Request(subject=kind or "dream", seed=seed)

    def dreamt(index: int) -> Concept:
        concept = session.learn(
            index,
            f"dreams/{index:04d}/",
            lambda on_step, state: chosen.dream(
                model, request, index, trained=space, judge=asker, on_step=on_step, resume=state
            ),
            total=steps_of(chosen),
        )
        return in_prompt(concept, prompt)

    return _written(session, _different(model, dreamt, num, max_cosine), reader, problems_of(asker))


def _different(
    backbone: Any, dreamt: Callable[[int], Concept], num: int, max_cosine: float
) -> list[Dream]:
    """Dream until there are ``num`` different ones, or ``TRIES`` times as many were made."""
    dreams: list[Dream] = []
    for index in range(num * TRIES):
        concept = dreamt(index)
        with torch.no_grad():
            text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
        embeds = text.text_embeds.cpu()
        known = [dream.text_embeds for dream in dreams]
        if not known or float(cosine(embeds, torch.cat(known)).max()) < max_cosine:
            dreams.append(Dream(index, concept, embeds))
        if len(dreams) == num:
            break
    return dreams


def _written(session: Session, dreams: Sequence[Dream], judge: Any, problems: Sequence[str]) -> Run:
    """Draw the dreams, read them, and write what was found."""
    request, backbone = session.request, session.backbone
    concepts = [dream.concept for dream in dreams]
    parts = []
    for number, dream in enumerate(dreams):
        # each dream has a noise of its own: with the same noise they would look alike
        purpose = f"dream {dream.index}"
        parts.append(draw(backbone, dream.concept, seed=request["seed"], num=1, purpose=purpose))
        session.observe("drawing", number + 1, len(dreams), {})
    images = torch.cat(parts)
    read = readings.read(judge, images)
    pictures = to_pil(images)
    files = concept_files(concepts, backbone)
    for number, (picture, dream) in enumerate(zip(pictures, dreams, strict=True)):
        how = {"purpose": f"dream {dream.index}"}
        files |= png_files(
            "images", [picture], request, dream.concept, backbone, start=number, drawing=how
        )
    what = "" if request["subject"] == "dreams" else f" of a new {request['subject']}"
    title = f"Dreams{what}, by {request['method']}"
    labels = judge.labels if judge is not None else ()
    captions = [readings.caption(labels, part) for part in read] if read is not None else []
    return session.write(
        concepts,
        pictures,
        files,
        summary=_summary(request, dreams, labels, read, problems),
        views={
            "contact.png": lambda: sheet(
                [("", pictures)],
                title=title,
                captions=captions,
                note=f"Under each: what {request['judge']} reads." if captions else "",
            )
        },
        title=title,
    )


def _summary(
    asked: Mapping[str, Any],
    dreams: Sequence[Dream],
    labels: Sequence[str],
    read: Tensor | None,
    problems: Sequence[str],
) -> dict[str, Any]:
    """Return what was found, as JSON values."""
    rows = [
        {
            "dream": dream.index,
            **({"read": readings.in_words(labels, read[n])} if read is not None else {}),
        }
        for n, dream in enumerate(dreams)
    ]
    warnings = []
    if missing := asked["num"] - len(dreams):
        warnings.append(
            f"Only {len(dreams)} different dreams were found, {missing} fewer than asked: the "
            f"others have a cosine of {asked['max_cosine']:g} or more to one of them."
        )
    warnings += [f"The guide did not answer each time. {problem}" for problem in problems]
    warnings += [note for dream in dreams if (note := dream.concept.metadata.get("warning"))]
    dropped = dreams[-1].index + 1 - len(dreams)
    vendi = vendi_score(torch.cat([dream.text_embeds for dream in dreams]))
    return {
        "subject": asked["subject"],
        "prompt": dreams[0].concept.template,
        "seed": asked["seed"],
        "judge": asked["judge"],
        "dropped": dropped,
        "vendi_of_texts": vendi,
        "concepts": rows,
        "warnings": list(dict.fromkeys(warnings)),
        "in_words": f"{len(dreams)} dreams by {asked['method']}, {dropped} near-duplicates "
        f"dropped. Vendi score of their texts: {vendi:.1f} (as varied as so many dreams that "
        "share nothing).",
    }
