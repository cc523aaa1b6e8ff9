"""Files that other tools read: learned tokens, LoRA factors, pictures with their recipe.

Everything here goes between values and bytes; ``store`` puts the bytes on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from offbeat.errors import ConfigError, CorruptRunError
from offbeat.files import labels as labels_file
from offbeat.files.disk import pack_tensors, unpack_tensors
from offbeat.files.exchange import (
    STYLES,
    Found,
    encode_export,
    holds_factors,
    read_weights,
    stem_of,
)
from offbeat.files.labels import PRIOR, architecture_of, labels, versions
from offbeat.files.png import (
    CONCEPT_KEY,
    MAX_PIXELS,
    PARAMETERS_KEY,
    RECIPE_KEY,
    encode_png,
    infotext,
    parse_infotext,
    pixels_of,
    read_concept_file,
    read_infotext,
    read_recipe,
    same_pixels,
    to_pil,
)
from offbeat.files.tokens import TokenLayout, join_rows, token_rows
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.types import Concept, Trained

__all__ = [
    "CONCEPT_FILE",
    "CONCEPT_KEY",
    "LORA_FILE",
    "MAX_PIXELS",
    "PARAMETERS_KEY",
    "RECIPE_KEY",
    "STYLES",
    "Found",
    "TokenLayout",
    "about_of",
    "architecture_of",
    "decode_concept",
    "decode_trained",
    "encode_concept",
    "encode_export",
    "encode_png",
    "encode_trained",
    "holds_factors",
    "infotext",
    "join_rows",
    "layout_of",
    "parse_infotext",
    "pixels_of",
    "read_concept_file",
    "read_infotext",
    "read_recipe",
    "read_weights",
    "same_pixels",
    "stem_of",
    "to_pil",
    "versions",
]

CONCEPT_FILE = "concept.safetensors"
LORA_FILE = "lora/pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""

IMAGE_EMBEDS = "image_embeds"
FORMAT_VERSION = 1


def encode_concept(
    concept: Concept,
    *,
    fingerprint: str,
    checkpoint: str,
    method: str,
    layout: TokenLayout = (),
    architecture: str = PRIOR,
    licence: str = "",
) -> dict[str, bytes]:
    """Return the files of a concept, by their path in a run folder.

    ``concept.safetensors`` is a textual-inversion file that diffusers loads, with everything else
    of the concept in its header. Factors of a LoRA are a file of their own, in the names of
    diffusers and PEFT, with alpha = rank.

    Args:
        concept: What was learned.
        fingerprint: Of the checkpoint that it was learned on.
        checkpoint: Its name.
        method: The method's name.
        layout: Name, width and unit of each text encoder's part of a token, as they lie side by
            side; nothing if it is not known.
        architecture: The checkpoint's family, as ModelSpec names it.
        licence: Of the checkpoint, if it is known.

    Raises:
        ConfigError: If a placeholder has the name of another entry of the file.
        ShapeError: If a token is not ``[E]`` or ``[K, E]``.
    """
    if IMAGE_EMBEDS in concept.token_embeds:
        raise ConfigError(f"word: expected a placeholder other than {IMAGE_EMBEDS!r}")
    tensors = {word: token_rows(word, rows) for word, rows in concept.token_embeds.items()}
    if concept.image_embeds is not None:
        tensors[IMAGE_EMBEDS] = concept.image_embeds.float()
    about: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "method": method,
        "subject": concept.subject,
        "template": concept.template,
        "word": concept.word,
        "checkpoint": checkpoint,
        "fingerprint": fingerprint,
        "tokens": sorted(concept.token_embeds),
        "lora": bool(concept.lora),
        "metadata": dict(concept.metadata),
        "versions": versions(),
        "architecture": architecture,
    }
    if layout:
        about["encoders"] = [list(part) for part in layout]
    if licence:
        about["licence"] = licence
    shown = {**about, "trigger": concept.prompt()}
    metadata = labels(shown, "textual-inversion")
    files = {CONCEPT_FILE: pack_tensors(tensors, about, labels=metadata)}
    if concept.lora:
        factors = {name: factor.float() for name, factor in concept.lora.items()}
        metadata = {"format": "pt", **labels(shown, "lora")}
        files[LORA_FILE] = pack_tensors(factors, about, labels=metadata)
    return files


def decode_concept(read: Callable[[str], bytes | None]) -> tuple[Concept, dict[str, Any]]:
    """Return a concept and what its file says of it (method, checkpoint, fingerprint, versions).

    Args:
        read: Gives the content of a file by its path in the run folder, or None.

    Raises:
        CorruptRunError: If a file is missing, damaged or of another kind.
    """
    tensors, about = _unpacked(read, CONCEPT_FILE)
    try:
        wanted = set(about["tokens"])
        has_lora, metadata = bool(about["lora"]), dict(about["metadata"])
        template, subject, word = (str(about[key]) for key in ("template", "subject", "word"))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRunError(f"{CONCEPT_FILE}: its header lacks {error}") from error
    if set(tensors) - {IMAGE_EMBEDS} != wanted:
        raise CorruptRunError(
            f"{CONCEPT_FILE}: expected the tokens {sorted(wanted)}, got {sorted(tensors)}"
        )
    lora: dict[str, Tensor] = {}
    if has_lora:
        lora, beside = _unpacked(read, LORA_FILE)
        if beside != about:
            raise CorruptRunError(f"{LORA_FILE}: belongs to another concept than {CONCEPT_FILE}")
    concept = Concept(
        template=template,
        subject=subject,
        token_embeds={name: tensors[name] for name in about["tokens"]},
        lora=lora,
        image_embeds=tensors.get(IMAGE_EMBEDS),
        word=word,
        metadata=metadata,
    )
    return concept, about


def about_of(data: bytes, name: str) -> dict[str, Any]:
    """Return what the header of a file of ours says; ``name`` is the file's, for errors.

    Raises:
        CorruptRunError: If it is none of ours, or damaged.
    """
    return _unpacked(lambda _: data, name)[1]


def layout_of(about: Mapping[str, Any]) -> TokenLayout:
    """Return the text encoders that a header names; none where it was written before they were."""
    return [(str(name), int(width), float(unit)) for name, width, unit in about.get("encoders", ())]


def encode_trained(trained: Trained) -> bytes:
    """Return one safetensors file of what a method learned once, with all about it in its header.

    A single tensor, such as CreTok's row, makes it a textual-inversion file that diffusers loads.
    """
    about = {
        "format": FORMAT_VERSION,
        "trained": trained.method,
        "checkpoint": trained.checkpoint,
        "fingerprint": trained.fingerprint,
        "vocabulary": list(trained.vocabulary),
        "config": dict(trained.config),
        "readings": dict(trained.readings),
        "versions": versions(),
    }
    return pack_tensors({name: value.float() for name, value in trained.tensors.items()}, about)


def decode_trained(data: bytes, name: str) -> Trained:
    """Return what ``encode_trained`` was given; ``name`` is the file's, for errors.

    Raises:
        CorruptRunError: If the file is cut, changed or of another kind.
    """
    try:
        tensors, about = unpack_tensors(data)
        return Trained(
            method=str(about["trained"]),
            checkpoint=str(about["checkpoint"]),
            fingerprint=str(about["fingerprint"]),
            tensors=tensors,
            vocabulary=tuple(map(str, about["vocabulary"])),
            config=dict(about["config"]),
            readings=dict(about["readings"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRunError(
            f"{name}: expected what `offbeat train` writes, and it is cut, changed or of another "
            f"kind ({error})"
        ) from error


def _unpacked(
    read: Callable[[str], bytes | None], name: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    data = read(name)
    if data is None:
        raise CorruptRunError(f"{name} is missing: no concept was saved here, or it was removed")
    try:
        tensors, about = unpack_tensors(data)
    except ValueError as error:
        raise CorruptRunError(f"{name}: {error}") from error
    if not isinstance(about, dict):
        raise CorruptRunError(f"{name}: holds no concept")
    return tensors, about


def made_on(backbone: TextBackbone) -> dict[str, Any]:
    """Return what the file of a concept says of the checkpoint that it was learned on."""
    layout = getattr(backbone, "token_layout", ())
    return {
        "fingerprint": backbone.fingerprint,
        "checkpoint": backbone.name,
        "layout": layout,
        "architecture": labels_file.architecture_of(
            [name for name, _, _ in layout], has_prior=isinstance(backbone, PriorBackbone)
        ),
        "licence": str(backbone.card.get("licence", "")),
    }


def concept_of(
    concept: Concept, backbone: TextBackbone, method: str | None = None
) -> dict[str, bytes]:
    """Return the files of one concept; ``method`` is the concept's own if not given."""
    name = method or concept.metadata.get("method", "")
    return encode_concept(concept, method=name, **made_on(backbone))
