"""Learned tokens in the layouts of diffusers, AUTOMATIC1111, ComfyUI and ConceptLab.

A row of ours holds the parts of all text encoders side by side, each in its encoder's unit; the
layouts hold each encoder's own rows, as its table has them.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from offbeat.core.checks import check_finite, check_shape
from offbeat.errors import ConfigError, CorruptRunError, ShapeError, UnsafeWeightsError

TokenLayout = Sequence[tuple[str, int, float]]
"""Name, width and unit of each text encoder's part of a row, as they lie side by side."""

A1111 = "emb_params"
ENCODERS = ("clip_l", "clip_g", "t5xxl")
"""What the one file of several encoders calls their rows."""
CONCEPTLAB = "t2"
"""ConceptLab keeps its one token under the name of Kandinsky's second text encoder."""


def token_rows(word: str, vectors: Tensor) -> Tensor:
    """Return vectors, ``[E]`` or ``[K, E]``, as rows, ``[K, E]``, float32.

    Raises:
        ShapeError: If they are neither.
    """
    rows = vectors[None] if vectors.ndim == 1 else vectors
    check_shape(f"token_embeds[{word!r}]", rows, None, None)
    return rows.float()


def split_rows(word: str, rows: Tensor, layout: TokenLayout) -> dict[str, Tensor]:
    """Return each encoder's own rows, ``[K', E']``, by its name, as its table has them.

    Rows of zeros that fill an encoder's part up to another's number are left out.

    Raises:
        ShapeError: If the width of ``rows``, ``[K, E]``, is not the sum of the encoders'.
    """
    widths = [width for _, width, _ in layout]
    check_shape(f"token_embeds[{word!r}]", rows, None, sum(widths))
    parts = {}
    for (name, _, unit), part in zip(layout, rows.split(widths, dim=-1), strict=True):
        filled = part.any(dim=-1).nonzero()
        parts[name] = part[: int(filled.max()) + 1 if len(filled) else 1] * unit
    return parts


def join_rows(word: str, parts: Mapping[str, Tensor], layout: TokenLayout) -> Tensor:
    """Return rows, ``[K, E]``, of what a file holds: the inverse of ``split_rows``.

    Args:
        word: For errors.
        parts: Rows by the encoder's name; of one encoder alone under the name ``""``.
        layout: Of the checkpoint that is to read them.

    Raises:
        ShapeError: If they belong to other encoders, or their widths differ.
        NotFiniteError: If a number is NaN or infinite.
    """
    names = [name for name, _, _ in layout]
    if list(parts) == [""] and len(names) == 1:
        parts = {names[0]: parts[""]}
    if set(parts) != set(names):
        got = ", ".join(name or "one unnamed encoder" for name in sorted(parts))
        raise ShapeError(
            f"{word}: expected rows for {', '.join(names)}, the text encoders of this checkpoint, "
            f"got {got}: the file belongs to another family"
        )
    most = max(len(part) for part in parts.values())
    rows = []
    for name, width, unit in layout:
        part = parts[name]
        if part.shape[-1] != width:
            raise ShapeError(
                f"{word}: expected rows of width {width} for {name}, got {part.shape[-1]}: the "
                "file belongs to another checkpoint; name its own with --backbone"
            )
        check_finite(word, part)
        rows.append(pad(part / unit, (0, 0, 0, most - len(part))))
    return torch.cat(rows, dim=-1)


def token_tensors(
    style: str, word: str, rows: Tensor, layout: TokenLayout
) -> tuple[dict[str, Tensor], str]:
    """Return what one token's file holds, and the layout's name for the file's header.

    Args:
        style: ``diffusers``, ``a1111`` or ``sdxl``.
        word: Of the token, as prompts write it.
        rows: ``[K, E]``.
        layout: Of the checkpoint that it was learned on; none means one encoder.

    Raises:
        ConfigError: If ``sdxl`` is asked of a checkpoint with one encoder.
    """
    if len(layout) > 1:
        return split_rows(word, rows, layout), "sdxl"
    if style == "sdxl":
        raise ConfigError(
            "format: sdxl keeps the rows of several text encoders apart, and this checkpoint has "
            "one; use diffusers or a1111"
        )
    return {word if style == "diffusers" else A1111: rows}, style


def read_token_tensors(tensors: Mapping[str, Tensor], file: str) -> dict[str, dict[str, Tensor]]:
    """Return the tokens of a file: their words, and rows by encoder, ``""`` where there is one.

    Raises:
        CorruptRunError: If its entries are of no known layout.
        ShapeError: If one is no row or rows.
    """
    names, stem = set(tensors), PurePath(file).stem
    if names & set(ENCODERS):
        if strange := sorted(names - set(ENCODERS)):
            raise CorruptRunError(
                f"{file}: expected rows of {', '.join(ENCODERS)} alone, got {shortened(strange)} "
                "too"
            )
        return {f"<{stem}>": {name: token_rows(name, tensors[name]) for name in sorted(names)}}
    if names == {A1111}:
        return {f"<{stem}>": {"": token_rows(A1111, tensors[A1111])}}
    if len(names) == 1:
        ((word, rows),) = tensors.items()
        return {word: {"": token_rows(word, rows)}}
    raise CorruptRunError(
        f"{file}: expected a token (one tensor, `{A1111}`, or {', '.join(ENCODERS)}) or LoRA "
        f"factors, got {shortened(sorted(names)) or 'nothing'}"
    )


def read_conceptlab(data: bytes, file: str) -> dict[str, dict[str, Tensor]]:
    """Return the token that ConceptLab saved; its pickle is read as tensors and plain values alone.

    Raises:
        UnsafeWeightsError: If it is any other pickle; no code of it is run.
    """
    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged data; each means the same
        raise _refused(
            file, f"it holds more than tensors, or is damaged: {_first(error)}"
        ) from None
    words = loaded.get(CONCEPTLAB) if isinstance(loaded, dict) and len(loaded) == 1 else None
    if not isinstance(words, dict) or not words:
        raise _refused(file, "it is not ConceptLab's {'t2': {word: vector}}")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in words.items()):
        raise _refused(file, "its tokens are no tensors by their words")
    return {word: {"": token_rows(word, rows.detach())} for word, rows in words.items()}


def _refused(file: str, why: str) -> UnsafeWeightsError:
    convert = (
        "import torch, safetensors.torch as s; "
        f"s.save_file(torch.load('{file}', weights_only=True), 'token.safetensors')"
    )
    return UnsafeWeightsError(
        f"{file}: a pickle can run code when it is read, so none is read but ConceptLab's "
        f'learned_embeds ({why}). Where you trust it, convert it once: python -c "{convert}"'
    )


def _first(error: BaseException) -> str:
    """Return an error's first line; the library's advice to switch its check off is not ours."""
    return str(error).split("\n")[0].split(". ")[0][:120]


def shortened(names: Sequence[str]) -> str:
    """Return a few names, and how many there are beside."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
