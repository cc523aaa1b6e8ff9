"""Learned tokens in the layouts of diffusers, AUTOMATIC1111, ComfyUI and ConceptLab.

A row of ours holds the parts of all text encoders side by side, each in its encoder's unit; the
layouts hold each encoder's own rows, as its table has them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from offbeat.core.checks import check_finite, check_shape
from offbeat.errors import ConfigError, CorruptRunError, ShapeError, UnsafeWeightsError


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token whose word prompts may hold, whatever a command draws."""

    path: str
    digest: str = ""
    """What its content must be; empty is whatever it is."""

    @classmethod
    def of(cls, source: str | PurePath | TokenFile) -> TokenFile:
        """Return the file of a path."""
        return source if isinstance(source, TokenFile) else cls(str(source))


TokenLayout = Sequence[tuple[str, int, float]]
"""Name, width and unit of each text encoder's part of a row, as they lie side by side."""

A1111 = "emb_params"
ENCODERS = ("clip_l", "clip_g", "t5xxl")
"""What the one file of several encoders calls their rows."""
NUMBERED = tuple(f"text_encoders_{number}" for number in range(3))
"""What diffusers' scripts of pivotal tuning call the rows of a checkpoint's encoders, in order."""
_ALIASES = {"t5": "t5xxl"}
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
    if set(parts) <= set(NUMBERED[: len(names)]):
        parts = {names[int(name[-1])]: rows for name, rows in parts.items()}
    if list(parts) == [""] and len(names) == 1:
        parts = {names[0]: parts[""]}
    if set(parts) != set(names):
        got = ", ".join(name or "one unnamed encoder" for name in sorted(parts))
        raise ShapeError(
            f"{word}: expected rows for {', '.join(names)}, the text encoders of this checkpoint, "
            f"got {got}: the file belongs to another family"
        )
    most = max(len(part) for part in parts.values())
    rows: list[Tensor] = []
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
    if style != "diffusers":
        return {A1111: rows}, style
    return {word: rows[0] if len(rows) == 1 else rows}, style


def read_token_tensors(tensors: Mapping[str, Tensor], file: str) -> dict[str, dict[str, Tensor]]:
    """Return the tokens of a file: their words, and rows by encoder, ``""`` where there is one.

    A word without brackets gets them: else it would replace an ordinary word of a prompt.

    Raises:
        CorruptRunError: If its entries are of no known layout.
        ShapeError: If one is no row or rows.
    """
    names, stem = set(tensors), PurePath(file).stem
    parts = {_ALIASES.get(name, name): name for name in names}
    if set(parts) & {*ENCODERS, *NUMBERED}:
        if strange := sorted(set(parts) - {*ENCODERS, *NUMBERED}):
            raise CorruptRunError(
                f"{file}: expected rows of {', '.join(ENCODERS)} alone, got {shortened(strange)} "
                "too"
            )
        rows = {part: token_rows(name, tensors[name]) for part, name in sorted(parts.items())}
        return {f"<{stem}>": rows}
    if len(names) == 1:
        ((word, vectors),) = tensors.items()
        return {_bracketed(word, stem): {"": token_rows(word, vectors)}}
    raise CorruptRunError(
        f"{file}: expected a token (one tensor, `{A1111}`, or {', '.join(ENCODERS)}) or LoRA "
        f"factors, got {shortened(sorted(names)) or 'nothing'}"
    )


def _bracketed(word: str, stem: str) -> str:
    """Return a token's word in brackets; one that no file should be told by is the file's name."""
    if re.fullmatch(r"<[^<>]+>", word):
        return word
    return f"<{stem}>" if word == A1111 or not any(map(str.isalnum, word)) else f"<{word}>"


def read_pickle(data: bytes, file: str) -> dict[str, dict[str, Tensor]]:
    """Return the tokens of a ``.pt`` or ``.bin`` file, read as tensors and plain values alone.

    Known are the layouts of AUTOMATIC1111 and the first paper's program (``string_to_param``), of
    diffusers (word to rows), of ConceptLab (``t2``), of several encoders, and a tensor alone.

    Raises:
        UnsafeWeightsError: If it holds anything else; no code of it is run.
    """
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict]):
            loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged data; each means the same
        raise _refused(
            file, f"it holds more than tensors, or is damaged: {_first(error)}"
        ) from None
    if isinstance(loaded, Tensor):
        loaded = {A1111: loaded}
    if isinstance(loaded, Mapping) and "string_to_param" in loaded:
        words = dict(loaded["string_to_param"])
        loaded = {A1111: next(iter(words.values()))} if len(words) == 1 else words
    if isinstance(loaded, Mapping) and set(loaded) == {CONCEPTLAB}:
        loaded = loaded[CONCEPTLAB]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(word, str) and isinstance(rows, Tensor) for word, rows in loaded.items()
    ):
        raise _refused(file, "it holds no tensors by their words")
    tensors = {word: rows.detach() for word, rows in loaded.items()}
    try:
        return read_token_tensors(tensors, file)
    except CorruptRunError as error:
        raise _refused(file, str(error)) from None


def _refused(file: str, why: str) -> UnsafeWeightsError:
    return UnsafeWeightsError(
        f"{file}: a pickle can run code when it is read, so only tokens are read of one, as "
        f"tensors ({why}). Ask for a .safetensors file, or export it again in the tool that made it"
    )


def _first(error: BaseException) -> str:
    """Return an error's first line; the library's advice to switch its check off is not ours."""
    return str(error).split("\n")[0].split(". ")[0][:120]


def shortened(names: Sequence[str]) -> str:
    """Return a few names, and how many there are beside."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
