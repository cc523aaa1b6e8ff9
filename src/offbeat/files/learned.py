"""Load concepts from files: our own, or tokens and LoRA factors of another tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat.core.templates import fill
from offbeat.errors import ConfigError, CorruptRunError, FingerprintError, ShapeError, StoreError
from offbeat.files.concept import CONCEPT_FILE, about_of, decode_concept, layout_of, made_on
from offbeat.files.disk import digest_of
from offbeat.files.exchange import Found, holds_factors, read_weights
from offbeat.files.labels import versions
from offbeat.files.lora import read_learned
from offbeat.files.png import read_concept_file
from offbeat.files.tokens import join_rows
from offbeat.protocols import TextBackbone
from offbeat.types import Concept


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A concept and where it comes from."""

    concept: Concept
    checkpoint: str
    fingerprint: str
    """Empty where the file does not say it: another tool wrote it."""
    origin: Mapping[str, Any]
    """What the run that learned it was asked, its seed and trial, and a digest."""
    about: Mapping[str, Any]
    """What its file says of it."""
    notes: tuple[str, ...] = ()
    """What of it cannot be used, one sentence each."""


def of_files(
    paths: Sequence[Path],
    model: TextBackbone | None,
    *,
    word: str | None = None,
    prompt: str | None = None,
) -> Learned:
    """Return the concept that files hold: one of ours, or a token and factors of any layout.

    Args:
        paths: One file, or those of one concept: its tokens, and its LoRA.
        model: Whose text encoders read what does not say whose it is.
        word: What stands in prompts where there are factors alone.
        prompt: With ``{concept}``; None is the concept's own, or the checkpoint's.

    Raises:
        ConfigError: If a checkpoint or a word is needed, or one too many.
        CorruptRunError: If a file is cut, changed, or of no known layout.
        ShapeError: If it belongs to another family or checkpoint.
        UnsafeWeightsError: If it is a pickle.
    """
    data = [_inside(path, read_learned(path)) for path in paths]
    abouts = [_about(part) for part in data]
    for path, one, about in zip(paths, data, abouts, strict=True):
        if about and "export" not in about and not holds_factors(one):
            if len(paths) > 1:
                raise ConfigError(f"source: {path} is a run's own file; name it, or its run, alone")
            return _own(path, one, about)
    origin = {
        "request": {"versions": versions()},
        "file": ", ".join(path.name for path in paths),
        "digest": digest_of(b"".join(data)),
    }
    weights = [read_weights(one, p) for one, p in zip(data, paths, strict=True)]
    about = next((dict(weight.about) for weight in weights if weight.about), {})
    prints = {weight.about["fingerprint"] for weight in weights if weight.about}
    if len(prints) > 1:
        raise ConfigError(f"source: the files were learned on different checkpoints: {prints}")
    if model is None and not about:
        raise ConfigError(
            f"backbone: {paths[0].name} does not say which checkpoint it belongs to; name it with "
            "--backbone"
        )
    concept = _concept(paths[0], weights, about, model, word, prompt)
    return Learned(
        concept=concept,
        checkpoint=str(about.get("checkpoint", model.name if model else "")),
        fingerprint=str(about.get("fingerprint", "")),
        origin=origin,
        about=about or {"method": "imported", **(made_on(model) if model else {})},
    )


def _concept(
    path: Path,
    found: Sequence[Found],
    about: Mapping[str, Any],
    model: TextBackbone | None,
    word: str | None,
    prompt: str | None,
) -> Concept:
    """Return what files hold together, as a concept."""
    layout = layout_of(about) or (made_on(model)["layout"] if model else [])
    tokens: dict[str, Tensor] = {}
    lora: dict[str, Tensor] = {}
    for one in found:
        for name, parts in one.tokens.items():
            width = next(iter(parts.values())).shape[-1]
            layers = layout or [("", width, 1.0)]  # an encoder that nobody named
            tokens[name] = join_rows(name, parts, layers)
        lora |= one.lora
    whole = not about or (set(about["tokens"]) == set(tokens) and about["lora"] == bool(lora))
    if not whole and word is None:
        raise ConfigError(
            f"source: {path.name} is a part of a concept that has "
            f"{'factors' if tokens and not lora else 'a token'} too; name all of its files"
        )
    if tokens and word is not None:
        raise ConfigError(f"word: the file brings its own, {', '.join(tokens)}; leave it out")
    if about and (set(about["tokens"]) == set(tokens)):
        word = str(about["word"])
    elif tokens:
        word = " ".join(tokens)
    elif word is None:
        raise ConfigError(
            f"word: {path.name} holds LoRA factors, and no token that a prompt could hold; draw "
            "with it by --lora, or say what to draw with it, e.g. `offbeat import FILE --backbone "
            "NAME --word handbag`"
        )
    template = prompt or about.get("template")
    if template is None:
        template = fill(str(model.card["prompt_template"]), subject="{concept}") if model else ""
    fill(template, concept="")  # a prompt without its place fails first
    return Concept(
        template=template,
        subject=str(about.get("subject", word.strip("<>"))),
        token_embeds=tokens,
        lora=lora,
        word=word,
        metadata={"method": "imported", **about.get("metadata", {})},
    )


def of_bytes(files: Mapping[str, bytes], path: Path) -> Concept:
    """Return the concept of its files' content; ``path`` is where it was, for errors.

    Raises:
        CorruptRunError: If it is damaged.
    """
    try:
        return decode_concept(files.get)[0]
    except CorruptRunError as error:
        raise CorruptRunError(f"{path}: {error}") from error


def _own(path: Path, data: bytes, about: Mapping[str, Any]) -> Learned:
    """Read a ``concept.safetensors``, with a LoRA's folder beside it if it has one."""
    if "trained" in about:
        raise StoreError(
            f"{path}: holds what {about['trained']} learned once for all words, and no concept; "
            f"make one with `offbeat fuse --method {about['trained']} --trained {path} ...`"
        )

    def read(name: str) -> bytes | None:
        if name == CONCEPT_FILE:
            return data
        beside = path.parent / name
        return beside.read_bytes() if beside.is_file() else None

    concept, about = decode_concept(read)
    return Learned(
        concept=concept,
        checkpoint=str(about["checkpoint"]),
        fingerprint=str(about["fingerprint"]),
        about=about,
        origin={
            "request": {"versions": about["versions"]},
            "file": path.name,
            "digest": digest_of(data),
        },
    )


def fitted(learned: Learned, model: TextBackbone) -> Learned:
    """Return a concept for a checkpoint: its LoRA factors by that one's layers.

    Raises:
        FingerprintError: If it was learned on other weights.
        ShapeError: If no factor fits, one is of another width, or there is none that it can take.
    """
    check_fingerprint(learned, model)
    lora = learned.concept.lora
    if not lora:
        return learned
    if not hasattr(model, "read_lora"):
        raise ShapeError(f"lora: {model.name} takes no LoRA factors")
    factors, left_out = model.read_lora(lora, str(learned.origin.get("file", "lora")))
    notes = learned.notes
    if left_out:
        notes += (
            f"{len(left_out)} layers of the LoRA are left out, for {model.name} has none of that "
            f"name ({', '.join(left_out[:2])})",
        )
    return replace(learned, concept=replace(learned.concept, lora=factors), notes=notes)


def _inside(path: Path, data: bytes) -> bytes:
    """Return a file's content; of a picture, that of the concept which it keeps inside.

    Raises:
        ConfigError: If it is a picture that keeps none.
    """
    if not data.startswith(b"\x89PNG"):
        return data
    concept = read_concept_file(path)
    if concept is None:
        raise ConfigError(
            f"{path}: is a picture that keeps no concept inside; name the run that drew it"
        )
    return concept


def _about(data: bytes) -> dict[str, Any]:
    try:
        return about_of(data, "")
    except CorruptRunError:
        return {}


def check_fingerprint(learned: Learned, model: TextBackbone) -> None:
    """Refuse a concept of another checkpoint.

    Raises:
        FingerprintError: With both.
    """
    if learned.fingerprint and model.fingerprint != learned.fingerprint:
        raise FingerprintError(
            f"the concept was learned on {learned.checkpoint} ({learned.fingerprint}), and "
            f"{model.name} is {model.fingerprint}: a token or LoRA fits no other weights"
        )
