"""Concepts that nobody named: drawn from noise, near-duplicates dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.open import check_needs, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_range
from offbeat.core.drawing import draw
from offbeat.core.functional import cosine
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.labels import versions
from offbeat.files.png import to_pil
from offbeat.judges.choose import _asker, choose_reader, problems_of
from offbeat.methods.settings import config_of, make_method, steps_of
from offbeat.metrics.fusion import vendi_score
from offbeat.protocols import TextBackbone
from offbeat.protocols.methods import DreamsConcepts
from offbeat.runs import readings
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import png_files, sheet
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import (
    Run,
    concept_files,
    costed,
    load_run,
    numerics_of,
    read_concept,
    reported,
)
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Observe, Request, ignore

TRIES = 4
"""So many dreams are dreamt for one that is kept, at most."""


@dataclass(frozen=True, slots=True)
class _Dream:
    """One kept dream."""

    index: int
    """Of the dream, which with the seed decides it."""
    concept: Concept
    text_embeds: Tensor
    """Of its prompt, ``[1, D]``: what near-duplicates are told by."""


@costed
def dream(
    num: int = 16,
    *,
    method: str = "distok",
    subject: str | None = None,
    law: str | None = None,
    config: dict[str, Any] | None = None,
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
    if num < 1:
        raise ConfigError(f"num: expected at least 1, got {num}")
    check_range("max_cosine", max_cosine, -1, 1)
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    settings = dict(config or {}) | ({"law": law} if law is not None else {})
    model = loaded(backbone, device)
    chosen = make_method(method, model, settings)
    if not isinstance(chosen, DreamsConcepts):
        raise ConfigError(f"method: {method} does not dream; choose one that does")
    check_needs(method, getattr(chosen, "needs", None), model)
    found, digest = find_trained(chosen, model, trained)
    if found is not None and subject is not None:
        raise ConfigError(f"subject: {method} dreams of nothing in particular; leave it out")
    kind = subject or ("" if found is not None else "animal")
    reader = choose_reader(judge, model)
    # what a search asks while it learns must not be what reads its pictures afterwards
    asker = None if found is not None else _asker(guide, model, kind)
    asked = {
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
        "checkpoint": model.name,
        "fingerprint": model.fingerprint,
        "versions": versions(),
        **numerics_of(model),
    }
    folder = RunFolder.create(Path(out), asked, resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    keeper = Keeper(
        folder, observe, stage="dreaming", label="concept", row_every=10, checkpoint_every=50
    )
    dreams = _dreams(
        chosen,
        model,
        Request(subject=kind or "dream", seed=seed),
        prompt=prompt,
        num=num,
        max_cosine=max_cosine,
        keeper=keeper,
        extra={"trained": found, "judge": asker},
    )
    return _written(asked, dreams, model, reader, folder, keeper, observe, problems_of(asker))


def _dreams(
    method: Any,
    backbone: TextBackbone,
    request: Request,
    *,
    prompt: str | None,
    num: int,
    max_cosine: float,
    keeper: Keeper,
    extra: Mapping[str, Any],
) -> list[_Dream]:
    """Dream until there are ``num`` different ones, or ``TRIES`` times as many were dreamt."""
    dreams: list[_Dream] = []
    for index in range(num * TRIES):
        concept = _dreamt(method, backbone, request, index, keeper, extra)
        if prompt is not None:
            concept = replace(concept, template=prompt)
        with torch.no_grad():
            text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
        embeds = text.text_embeds.cpu()
        known = [one.text_embeds for one in dreams]
        if not known or float(cosine(embeds, torch.cat(known)).max()) < max_cosine:
            dreams.append(_Dream(index, concept, embeds))
        if len(dreams) == num:
            break
    return dreams


def _dreamt(
    method: Any,
    backbone: TextBackbone,
    request: Request,
    index: int,
    keeper: Keeper,
    extra: Mapping[str, Any],
) -> Concept:
    folder, where = keeper.folder, f"dreams/{index:04d}/"
    if folder is not None and folder.exists(where + CONCEPT_FILE):
        keeper.reread()
        return read_concept(folder, where)[0]
    state = keeper.resume(index)
    total = steps_of(method)
    before = len(keeper.rows)
    with few_threads(backbone):
        concept: Concept = method.dream(
            backbone,
            request,
            index,
            on_step=keeper.observer(index, total),
            resume=state,
            **extra,
        )
    if folder is not None and len(keeper.rows) > before:  # a search's result outlives a kill
        files = concept_files([concept], backbone)
        folder.write({where + name: data for name, data in files.items()})
    return concept


def _written(
    asked: dict[str, Any],
    dreams: list[_Dream],
    backbone: TextBackbone,
    reader: Any,
    folder: RunFolder | None,
    keeper: Keeper,
    observe: Observe,
    problems: Sequence[str],
) -> Run:
    """Draw the dreams, read them, and write what was found."""
    concepts = [one.concept for one in dreams]
    parts = []
    for number, one in enumerate(dreams):
        # each dream has a noise of its own: one noise would make them look alike
        own = draw(backbone, one.concept, seed=asked["seed"], num=1, purpose=f"dream {one.index}")
        parts.append(own)
        observe("drawing", number + 1, len(dreams), {})
    images = torch.cat(parts)
    read = readings.read(reader, images)
    labels = reader.labels if reader is not None else ()
    rows = [
        {
            "dream": one.index,
            **({"read": readings.in_words(labels, read[n])} if read is not None else {}),
        }
        for n, one in enumerate(dreams)
    ]
    short = asked["num"] - len(dreams)
    warnings = []
    if short:
        warnings.append(
            f"Only {len(dreams)} different dreams were found, {short} fewer than asked: others "
            f"were nearer than {asked['max_cosine']:g} to one of them."
        )
    warnings += [f"The guide did not answer each time. {why}" for why in problems]
    warnings += [note for one in concepts if (note := one.metadata.get("warning"))]
    texts = torch.cat([one.text_embeds for one in dreams])
    summary = {
        "subject": asked["subject"],
        "prompt": concepts[0].template,
        "seed": asked["seed"],
        "judge": asked["judge"],
        "dropped": dreams[-1].index + 1 - len(dreams),
        "vendi_of_texts": vendi_score(texts),
        "concepts": rows,
        "warnings": list(dict.fromkeys(warnings)),
    }
    summary["in_words"] = (
        f"{len(dreams)} dreams by {asked['method']}, {summary['dropped']} near-duplicates dropped; "
        f"as varied as {summary['vendi_of_texts']:.1f} wholly different ones (Vendi score of their "
        "texts)."
    )
    pictures = to_pil(images)
    files = concept_files(concepts, backbone)
    for number, (picture, concept) in enumerate(zip(pictures, concepts, strict=True)):
        how = {"purpose": f"dream {dreams[number].index}"}
        files |= png_files("images", [picture], asked, concept, backbone, start=number, drawing=how)
    captions = [readings.caption(labels, one) for one in read] if read is not None else []
    note = f"Under each: what {asked['judge']} reads." if captions else ""
    contact = sheet([("", pictures)], title=_title(asked), captions=captions, note=note)
    return reported(
        asked,
        concepts,
        pictures,
        files,
        folder,
        title=_title(asked),
        contact=contact,
        summary=summary,
        trace=keeper.rows,
    )


def _title(asked: Mapping[str, Any]) -> str:
    what = "" if asked["subject"] == "dreams" else f" of a new {asked['subject']}"
    return f"Dreams{what}, by {asked['method']}"
