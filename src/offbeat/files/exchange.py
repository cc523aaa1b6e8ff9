"""Convert a concept to the files of another tool, and read such files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from offbeat.errors import ConfigError, CorruptRunError
from offbeat.files.disk import pack_tensors, unpack_tensors
from offbeat.files.labels import kohya_labels, labels
from offbeat.files.lora import UNET, is_lora, rank_of, read_factors, to_kohya, with_config
from offbeat.files.tokens import (
    TokenLayout,
    read_pickle,
    read_token_tensors,
    token_rows,
    token_tensors,
)
from offbeat.types import PLACEHOLDER, Concept

STYLES = {
    "common": ("a1111", "common"),
    "diffusers": ("diffusers", "diffusers"),
    "a1111": ("a1111", "kohya"),
    "comfyui": ("a1111", "kohya"),
    "sdxl": ("sdxl", "kohya"),
    "kohya": ("a1111", "kohya"),
}
"""What a user may ask for: the layout of tokens, and that of LoRA factors.

``common`` is what diffusers, AUTOMATIC1111, ComfyUI and InvokeAI all read.
"""

SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a file holds, ours or another tool's."""

    tokens: Mapping[str, Mapping[str, Tensor]]
    """Word to its rows by encoder; ``""`` names an only one."""
    lora: Mapping[str, Tensor]
    """Factors under the file's names, alpha = rank: ``read_lora`` of a backbone places them."""
    about: Mapping[str, Any]
    """Of Offbeat's own header; empty where another tool wrote the file."""


def encode_export(
    concept: Concept, about: Mapping[str, Any], *, style: str, layout: TokenLayout
) -> dict[str, bytes]:
    """Return the files of a concept as another tool reads them, by name.

    A token's file is called as the token, without its brackets: AUTOMATIC1111 and ComfyUI take the
    name of the file for the word in prompts. Every file keeps what ``about`` says in its header.

    Args:
        concept: What was learned; its tokens have the words that they shall have there.
        about: What the header of its own file says.
        style: A name of ``STYLES``.
        layout: Of its text encoders; none means one.

    Raises:
        ConfigError: If the style is unknown or does not fit, or nothing was learned that a prompt
            could use.
    """
    if style not in STYLES:
        raise ConfigError(f"format: expected one of {', '.join(STYLES)}, got {style!r}")
    if concept.image_embeds is not None:
        raise ConfigError(
            "format: this run learned an embedding of the picture itself (--space direct), which "
            "no other tool keeps in a file; it is image_embeds in concept.safetensors"
        )
    if not concept.token_embeds and not concept.lora:
        raise ConfigError("source: nothing was learned here that another tool could use")
    token_style, lora_style = STYLES[style]
    metadata = {**about, "template": concept.template, "word": concept.word, "export": style}
    metadata["tokens"] = sorted(concept.token_embeds)
    shown = {**metadata, "trigger": concept.prompt()}
    files = {}
    for word, vectors in concept.token_embeds.items():
        tensors, name = token_tensors(token_style, word, token_rows(word, vectors), layout)
        header = {**metadata, "token": word, "export": name}
        files[f"{stem_of(word)}{SUFFIX}"] = pack_tensors(
            tensors, header, labels=labels(shown, "textual-inversion")
        )
    if concept.lora:
        beside = "-lora" if files else ""
        first = next(iter(concept.token_embeds), concept.subject)
        files[f"{stem_of(first)}{beside}{SUFFIX}"] = _lora_file(
            concept, metadata, shown, lora_style
        )
    return files


def _lora_file(
    concept: Concept, told: Mapping[str, Any], shown: Mapping[str, Any], style: str
) -> bytes:
    factors = {name: factor.float() for name, factor in concept.lora.items()}
    metadata = {"format": "pt", **labels(shown, "lora")}
    if style == "kohya" or (style == "common" and any(name.startswith(UNET) for name in factors)):
        metadata |= kohya_labels(shown, rank_of(factors))
        factors = to_kohya(factors)
    return pack_tensors(factors, {**told, "export": style}, labels=metadata)


def stem_of(word: str) -> str:
    """Return the name of a token's file: the word in letters that every disk and prompt takes."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else " " for c in word)
    return "-".join(kept.split())[:80] or "offbeat"


def holds_factors(data: bytes, of: str = "") -> bool:
    """Return whether a whole safetensors file holds factors of a LoRA, of one part if named."""
    names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return is_lora(name for name in names if name.startswith(of))


def read_weights(data: bytes, path: str | PurePath) -> Found:
    """Return what a file of learned tokens or LoRA factors holds, of any layout that is known.

    Args:
        data: Its content.
        path: Of it, for errors; the word of a token that has none is made of its name. Settings
            of PEFT are read beside it.

    Raises:
        CorruptRunError: If it is cut, changed, or of no known layout.
        ShapeError: If it holds what cannot be used here.
        UnsafeWeightsError: If it is a pickle that holds more than tokens.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path, file = Path(path), str(path)
    # a safetensors file may begin with either byte too, and has a brace after its first eight
    if data[:4] == b"PK\x03\x04" or (data[:1] == b"\x80" and data[8:9] != b"{"):
        return Found(tokens=read_pickle(data, file), lora={}, about={})
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        written = header.get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptRunError(
            f"{path.name}: expected a safetensors file with a token or LoRA factors, and "
            f"it is cut, damaged or of another kind ({error})"
        ) from error
    about: dict[str, Any] = {}
    if "offbeat" in written:
        try:
            about = dict(unpack_tensors(data)[1])
        except (ValueError, TypeError) as error:
            raise CorruptRunError(f"{file}: {error}") from error
    if is_lora(tensors):
        header = with_config(written, path)
        return Found(tokens={}, lora=read_factors(tensors, header, file), about=about)
    tokens = read_token_tensors(tensors, file)
    if "token" in about:  # such a file cannot say its word itself in every layout
        tokens = {str(about["token"]): rows for rows in tokens.values()}
    return Found(tokens=tokens, lora={}, about=about)


def _renamed(concept: Concept, token: str | None) -> Concept:
    """Return a concept whose tokens have words that no other concept of its user has."""
    base = stem_of(token if token is not None else concept.subject)
    words = {}
    for number, old in enumerate(concept.token_embeds, start=1):
        ours = old.startswith(PLACEHOLDER.removesuffix(">"))
        if token is None and not ours:
            words[old] = old  # a method's own word, such as <cretok>
        else:
            words[old] = f"<{base}>" if number == 1 else f"<{base}-{number}>"
    if token is not None and len(words) == 1 and token.startswith("<"):
        words = dict.fromkeys(words, token)
    word, template = concept.word, concept.template
    for old, new in words.items():
        word, template = word.replace(old, new), template.replace(old, new)
    tokens = {words[old]: rows for old, rows in concept.token_embeds.items()}
    return replace(concept, word=word, template=template, token_embeds=tokens)
