"""Text through CLIP encoders, with learned tokens placed where their words stand.

Nothing is added to a tokenizer or written into a table: a learned token stands in the prompt as the
start token, and its vector replaces that place in the embedding layer's output while the text is
encoded. Gradients reach the vector.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import PromptError, ShapeError


class Encoder:
    """One tokenizer and the CLIP text encoder that reads it; it holds no copy of the weights."""

    def __init__(self, tokenizer: Any, module: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self.module = module
        self.name = name

    @property
    def width(self) -> int:
        """Width E of the input-side vectors."""
        return int(self.module.get_input_embeddings().weight.shape[1])

    @property
    def limit(self) -> int:
        """Positions L that a prompt may take, start and end included."""
        return int(self.module.config.max_position_embeddings)

    def ids(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without start and end."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def rows(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``, on the CPU.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        ids = self.ids(words)
        if not ids:
            raise PromptError(f"token: expected a word, got {words!r}")
        table = self.module.get_input_embeddings().weight
        rows: Tensor = table[torch.tensor(ids, device=table.device)]
        return rows.float().cpu()

    def read(
        self,
        prompts: Sequence[str],
        tokens: Mapping[str, Tensor],
        *,
        to_limit: bool = False,
        **settings: Any,
    ) -> tuple[Any, Tensor]:
        """Return the encoder's output for B prompts, and the mask ``[B, L]`` of their own tokens.

        Args:
            prompts: B texts, 1 or more.
            tokens: Word to its vectors, ``[K, E]``; gradients reach them.
            to_limit: Pad to the encoder's positions, not to the longest prompt.
            settings: Passed to the encoder.

        Raises:
            PromptError: If a prompt is longer than the encoder's positions.
        """
        rows = [self._cut(prompt, tokens) for prompt in prompts]
        length = self.limit if to_limit else max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id
        device = self.module.get_input_embeddings().weight.device
        input_ids = torch.tensor([ids + [pad] * (length - len(ids)) for ids, _ in rows])
        text_mask = torch.tensor([[at < len(ids) for at in range(length)] for ids, _ in rows])
        places = [(row, at) for row, (_, found) in enumerate(rows) for at, _ in found]
        vectors = [vector for _, found in rows for _, vector in found]
        with _placed(self.module.get_input_embeddings(), places, vectors):
            output = self.module(input_ids.to(device), **settings)
        return output, text_mask.to(device)

    def _cut(
        self, prompt: str, tokens: Mapping[str, Tensor]
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Return a prompt's ids and where each learned vector stands among them."""
        words = sorted(tokens, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, words)) + ")", prompt) if words else [prompt]
        # the start token stands in: its id is in every table and is never read as the end
        stand_in = self.tokenizer.bos_token_id
        ids, found = [stand_in], []
        for part in parts:
            if part in tokens:
                for vector in tokens[part]:
                    found.append((len(ids), vector))
                    ids.append(stand_in)
            elif part.strip():
                ids += self.ids(part)
        ids.append(self.tokenizer.eos_token_id)
        if len(ids) > self.limit:
            raise PromptError(
                f"prompt: expected at most {self.limit - 2} tokens for {self.name}, got "
                f"{len(ids) - 2}: {prompt[:80]!r}. Use fewer words or a shorter --template."
            )
        return ids, found


class ReadsText:
    """The part of an adapter that knows words: its rows are those of its encoders side by side."""

    _encoders: tuple[Encoder, ...]

    def num_tokens(self, text: str) -> int:
        """Return how many tokens ``text`` is cut into, without start and end."""
        return len(self._encoders[0].ids(text))

    def token_embed(self, words: str) -> Tensor:
        """Return the input-side vector of ``words``, ``[E]``: the mean over their tokens.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        return self.token_embeds(words).mean(dim=0)

    def token_embeds(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``: one for each of its tokens.

        With two encoders a row is theirs side by side, E the sum of their widths.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        return torch.cat([encoder.rows(words) for encoder in self._encoders], dim=-1)

    def _read(
        self,
        prompts: Sequence[str],
        tokens: Mapping[str, Tensor] | None,
        *,
        to_limit: bool = False,
        **settings: Any,
    ) -> list[tuple[Any, Tensor]]:
        """Return every encoder's output and mask.

        Raises:
            PromptError: If there is no prompt, or one is too long.
            ShapeError: If a token's width is not that of the encoders.
        """
        if not prompts:
            raise PromptError("prompts: expected at least one, got none")
        widths = [encoder.width for encoder in self._encoders]
        split = {
            word: _rows(word, vectors, sum(widths)).split(widths, dim=-1)
            for word, vectors in (tokens or {}).items()
        }
        return [
            encoder.read(
                prompts,
                {word: parts[number] for word, parts in split.items()},
                to_limit=to_limit,
                **settings,
            )
            for number, encoder in enumerate(self._encoders)
        ]


def _rows(word: str, vectors: Tensor, width: int) -> Tensor:
    if vectors.shape[-1] != width or vectors.ndim not in (1, 2):
        raise ShapeError(
            f"tokens[{word!r}]: expected shape [{width}] or [any, {width}], "
            f"got {list(vectors.shape)}; was it learned on another checkpoint?"
        )
    return vectors.reshape(-1, width)


@contextmanager
def _placed(embedding: Any, places: list[tuple[int, int]], vectors: list[Tensor]) -> Iterator[None]:
    """Put learned vectors into the embedding layer's output; the table is never written."""
    if not places:
        yield
        return

    def replace(module: Any, inputs: Any, output: Tensor) -> Tensor:
        rows, columns = (
            torch.tensor(index, device=output.device) for index in zip(*places, strict=True)
        )
        return output.index_put((rows, columns), torch.stack(vectors).to(output))

    handle = embedding.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
