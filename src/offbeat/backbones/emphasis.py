"""Prompts as AUTOMATIC1111 writes them: ``(word:1.3)``, ``((word))``, ``[word]`` and ``BREAK``.

A weight multiplies a token's hidden state, and the whole is scaled back to the mean that it had.
``BREAK`` begins a new piece of the encoder's length; the network sees the pieces one behind the
other. Kept libraries were looked at: compel has another syntax, and neither places learned tokens
that are passed in.
Source: the documented syntax of AUTOMATIC1111's Stable Diffusion web UI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import PromptError
from offbeat.types import TextEmbeds

UP = 1.1
"""What one pair of round brackets multiplies by; a pair of square ones divides by it."""
MAX_WEIGHT = 10.0
_PIECES = re.compile(
    r"\\[()\[\]\\]"  # brackets that are meant as such
    r"|[(\[]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|:|\\"
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of a prompt, between two ``BREAK``s: texts and their weights."""

    parts: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        """The words without their weights."""
        return "".join(text for text, _ in self.parts)


def parse(prompt: str) -> list[Piece]:
    r"""Return the pieces of a prompt.

    Raises:
        PromptError: If a weight is out of its range.

    >>> [(text, round(w, 2)) for text, w in parse(r"a (red:1.3) [pig] \(in\) ((mud))")[0].parts]
    [('a ', 1.0), ('red', 1.3), (' ', 1.0), ('pig', 0.91), (' (in) ', 1.0), ('mud', 1.21)]
    >>> [piece.text for piece in parse("a pig BREAK a house")]
    ['a pig', 'a house']
    """
    return [Piece(tuple(_parts(piece))) for piece in re.split(r"\s*\bBREAK\b\s*", prompt)]


def _parts(prompt: str) -> list[tuple[str, float]]:
    parts: list[list[Any]] = []
    open_brackets: list[tuple[str, int]] = []

    def multiply(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in _PIECES.finditer(prompt):
        text = match[0]
        if text in ("(", "["):
            open_brackets.append((text, len(parts)))
        elif match[1] is not None and open_brackets and open_brackets[-1][0] == "(":
            multiply(open_brackets.pop()[1], float(match[1]))
        elif text in (")", "]") and open_brackets and open_brackets[-1][0] == "(["[text == "]"]:
            multiply(open_brackets.pop()[1], UP if text == ")" else 1 / UP)
        else:
            plain = text[1:] if len(text) == 2 and text[0] == "\\" else text
            parts.append([plain, 1.0])
    for bracket, start in open_brackets:  # one that is never closed counts to the end
        multiply(start, UP if bracket == "(" else 1 / UP)
    merged: list[tuple[str, float]] = []
    for text, weight in parts:
        if not 0 <= weight <= MAX_WEIGHT:
            raise PromptError(f"prompt: expected weights from 0 to {MAX_WEIGHT:g}, got {weight:g}")
        if merged and merged[-1][1] == weight:
            text = merged.pop()[0] + text
        merged.append((text, weight))
    return merged or [("", 1.0)]


def encode_weighted(
    backbone: Any, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None
) -> TextEmbeds:
    """Encode prompts with their weights; ``backbone`` reads each piece as it reads a prompt.

    Args:
        backbone: One whose states are those of CLIP encoders side by side.
        prompts: B texts.
        tokens: As in ``encode_text``.

    Returns:
        All pieces one behind the other, shorter prompts filled up with empty pieces; the pooled
        vectors are those of the first.
    """
    pieces = [parse(prompt) for prompt in prompts]
    most = max(map(len, pieces))
    read = []
    for number in range(most):
        row = [one[number] if number < len(one) else Piece((("", 1.0),)) for one in pieces]
        text = backbone.encode_plain([piece.text for piece in row], tokens=tokens)
        states = text.text_encoder_hidden_states
        factors = [backbone.token_weights(piece.parts, tokens) for piece in row]
        scale = torch.ones(states.shape[:2])
        for index, factor in enumerate(factors):
            scale[index, 1 : 1 + len(factor)] = torch.tensor(factor)
        if bool((scale != 1).any()):
            weighted = states * scale[..., None].to(states)
            means = [whole.mean(dim=(1, 2), keepdim=True) for whole in (states, weighted)]
            states = weighted * (means[0] / means[1])
        read.append((text, states))
    first: TextEmbeds = read[0][0]
    return replace(
        first,
        text_encoder_hidden_states=torch.cat([states for _, states in read], dim=1),
        text_mask=torch.cat([text.text_mask for text, _ in read], dim=1),
    )


def is_weighted(prompt: str) -> bool:
    """Return whether a prompt holds what A1111 would read as a weight or a break.

    >>> is_weighted("a (red:1.3) pig"), is_weighted("a pig (in mud)")
    (True, False)
    """
    return bool(re.search(r"\([^()]+:\s*[\d.]+\s*\)|\(\(|\bBREAK\b", prompt))
