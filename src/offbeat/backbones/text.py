"""Text through CLIP, T5 and language models, with learned tokens placed where their words stand.

Nothing is added to a tokenizer or written into a table: a learned token stands in the prompt as a
token that every table has, and its vector replaces that place in the embedding layer's output while
the text is encoded. Gradients reach the vector.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from offbeat.checkpoints.offload import runs_on
from offbeat.errors import PromptError, ShapeError
from offbeat.files.tokens import join_rows


class Encoder:
    """One tokenizer and the CLIP text encoder that reads it; it holds no copy of the weights."""

    kind = "clip"
    file_name = ""
    """What files of other tools call its part of a token, if it is no CLIP."""
    unit = 1.0
    """What a learned vector is multiplied by before it is read."""
    factor = 1.0
    """What the layer of the table multiplies its rows by, beyond that."""

    def __init__(self, tokenizer: Any, module: Any, name: str, *, cuts: bool = False) -> None:
        self.tokenizer = tokenizer
        self.module = module
        self.name = name
        self.cuts = cuts
        """Whether a prompt beyond its limit is cut, as where another encoder reads it all."""

    @property
    def table(self) -> Tensor:
        """The input-side vectors of its whole vocabulary."""
        weight: Tensor = self.module.get_input_embeddings().weight
        return weight

    @property
    def width(self) -> int:
        """Width E of the input-side vectors."""
        return int(self.table.shape[1])

    @property
    def limit(self) -> int:
        """Positions L that a prompt may take, start and end included."""
        return int(self.module.config.max_position_embeddings)

    def ids(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without start and end."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def rows(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``, in its unit, on the CPU.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        ids = self.ids(words)
        if not ids:
            raise PromptError(f"token: expected a word, got {words!r}")
        rows: Tensor = self.table[torch.tensor(ids, device=self.table.device)]
        return rows.float().cpu() / self.unit

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
        filler = self.tokenizer.pad_token_id
        device = runs_on(self.module)
        input_ids = torch.tensor([ids + [filler] * (length - len(ids)) for ids, _ in rows])
        text_mask = torch.tensor([[at < len(ids) for at in range(length)] for ids, _ in rows])
        places = [(row, at) for row, (_, placed) in enumerate(rows) for at, _ in placed]
        vectors = [vector * self.unit * self.factor for _, placed in rows for _, vector in placed]
        text_mask = text_mask.to(device)
        with _placed(self._embedding(), places, vectors):
            output = self._run(input_ids.to(device), text_mask, settings)
        return output, text_mask

    def _embedding(self) -> Any:
        """Return the layer whose output learned vectors replace."""
        return self.module.get_input_embeddings()

    def _run(self, input_ids: Tensor, text_mask: Tensor, settings: Mapping[str, Any]) -> Any:
        return self.module(input_ids, **settings)  # CLIP sees the padding, too

    def _frame(self) -> tuple[list[int], int]:
        """Return the ids before a prompt, and the one that a learned token stands in the prompt as.

        The start token stands in: its id is in every table and is never read as the end.
        """
        return [self.tokenizer.bos_token_id], self.tokenizer.bos_token_id

    def _after_token(self, part: str) -> list[int]:
        """Return the ids of what follows a learned token."""
        return self.ids(part)

    def _cut(
        self, prompt: str, tokens: Mapping[str, Tensor]
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Return a prompt's ids and where each learned vector stands among them."""
        parts = self.parts(prompt, tokens)
        start, stand_in = self._frame()
        ids: list[int] = list(start)
        placed: list[tuple[int, Tensor]] = []
        for part in parts:
            if part in tokens:
                for vector in tokens[part]:
                    placed.append((len(ids), vector))
                    ids.append(stand_in)
            elif part.strip():
                ids += self._after_token(part) if placed else self.ids(part)
        end = self._end()
        room = self.limit - len(end)
        if len(ids) > room and not self.cuts:
            raise PromptError(
                f"prompt: expected at most {room - len(start)} tokens for {self.name}, got "
                f"{len(ids) - len(start)}: {prompt[:80]!r}. Use fewer words, by a shorter --prompt"
                f"{_advice(tokens)}"
            )
        kept = [(at, vector) for at, vector in placed if at < room]
        return [*ids[:room], *end], kept

    def _end(self) -> list[int]:
        """Return the ids behind a prompt."""
        return [self.tokenizer.eos_token_id]

    def parts(self, prompt: str, tokens: Mapping[str, Tensor]) -> list[str]:
        """Return a prompt cut before and behind each learned word."""
        words = map(_whole, sorted(tokens, key=len, reverse=True))
        return re.split("(" + "|".join(words) + ")", prompt) if tokens else [prompt]


class T5Encoder(Encoder):
    """A T5 encoder and its tokenizer: pieces of words, no start token, as long as is asked for.

    Its table has far larger numbers than CLIP's. A learning rate, or a norm that rows are held to,
    must suit both: so its rows are given in a unit that makes them alike, a power of two, which
    loses nothing.
    """

    kind = "t5"

    file_name = "t5xxl"

    def __init__(
        self,
        tokenizer: Any,
        module: Any,
        name: str,
        *,
        limit: int,
        like: Encoder | None = None,
        masks: bool = False,
    ) -> None:
        super().__init__(tokenizer, module, name)
        self._limit = limit
        self._masks = masks
        """Whether padding is hidden from it."""
        self.unit = _unit(self.table, like)

    @property
    def limit(self) -> int:
        """Positions L of every prompt, its end included."""
        return self._limit

    def _embedding(self) -> Any:
        return self.module.encoder.embed_tokens  # it shares the table's weights, and is what runs

    def _run(self, input_ids: Tensor, text_mask: Tensor, settings: Mapping[str, Any]) -> Any:
        if self._masks:
            return self.module(input_ids, attention_mask=text_mask.long())
        return self.module(input_ids)

    def _frame(self) -> tuple[list[int], int]:
        return [], self.tokenizer.pad_token_id

    def _after_token(self, part: str) -> list[int]:
        """Return the ids; a comma that touches a learned word begins no word of its own."""
        ids = self.ids(part)
        if not part[0].isspace() and ids[:1] == [self.tokenizer.convert_tokens_to_ids("\u2581")]:
            return ids[1:]
        return ids


def mean_state(states: Tensor, text_mask: Tensor) -> Tensor:
    """Return the mean over each prompt's own tokens, ``[B, E]``, of ``[B, L, E]``.

    Source: Ni et al., Sentence-T5, arXiv:2108.08877, for an encoder that was trained without a
    pooled vector.
    """
    mask = text_mask[..., None].to(states)
    return (states * mask).sum(dim=1) / mask.sum(dim=1)


def _spread(table: Tensor) -> float:
    """Return the root mean square of a table's numbers, by some of its rows."""
    return float(table.detach()[:: max(1, len(table) // 1000)].float().square().mean().sqrt())


CLIP_SPREAD = 0.02
"""Root mean square that the numbers of CLIP's tables begin with, before they are trained."""


def _unit(table: Tensor, like: Encoder | None = None) -> float:
    """Return the power of two by which a table is larger than that of a CLIP."""
    usual = CLIP_SPREAD if like is None else _spread(like.table)
    return float(2.0 ** round(math.log2(_spread(table) / usual)))


class LanguageEncoder(Encoder):
    """A language model that reads a prompt inside a template; padding is hidden from it.

    A prompt has no end of its own: the template says where it ends.
    """

    kind = "lm"

    def __init__(
        self,
        tokenizer: Any,
        module: Any,
        name: str,
        *,
        limit: int,
        template: Callable[[str], str],
        lowers: bool = False,
    ) -> None:
        super().__init__(tokenizer, module, name)
        self._limit = limit
        self.template = template
        """Puts a prompt where the model reads it."""
        self._lowers = lowers
        self.file_name = str(module.config.model_type)
        self.unit = _unit(self.table)
        self.factor = float(getattr(self._embedding(), "scalar_embed_scale", 1.0))
        begin = tokenizer("a").input_ids
        self._start = begin[: len(begin) - len(self.ids("a"))]

    @property
    def limit(self) -> int:
        """Positions L of a prompt, those of its template included."""
        return self._limit

    def _run(self, input_ids: Tensor, text_mask: Tensor, settings: Mapping[str, Any]) -> Any:
        return self.module(
            input_ids=input_ids, attention_mask=text_mask.long(), use_cache=False, **settings
        )

    def _frame(self) -> tuple[list[int], int]:
        return list(self._start), self.ids("a")[0]

    def _end(self) -> list[int]:
        return []

    def parts(self, prompt: str, tokens: Mapping[str, Tensor]) -> list[str]:
        """Return a prompt in its template, cut before and behind each learned word."""
        if self._lowers:  # a learned word keeps its letters
            parts = super().parts(prompt.strip(), tokens)
            prompt = "".join(part if part in tokens else part.lower() for part in parts)
        return super().parts(self.template(prompt), tokens)


class ReadsText:
    """The part of an adapter that knows words: its rows are those of its encoders side by side."""

    _encoders: tuple[Encoder, ...]
    _words: Mapping[str, Tensor] = {}
    """Learned words that every prompt may hold, and their rows."""

    def add_embedding(self, files: Mapping[str, Mapping[str, Tensor]], stem: str) -> None:
        """Let prompts hold the tokens of a file, by their words and by the name of the file.

        Args:
            files: Word to its rows by encoder, as ``files.exchange`` reads them.
            stem: Name of the file, which is the word in other tools.

        Raises:
            ShapeError: If they belong to another family or checkpoint.
        """
        words = {word: join_rows(word, rows, self.token_layout) for word, rows in files.items()}
        if len(words) == 1:
            (rows,) = words.values()
            words |= dict.fromkeys((stem, f"<{stem}>", f"embedding:{stem}"), rows)
        self._words = {**self._words, **words}

    @property
    def token_layout(self) -> list[tuple[str, int, float]]:
        """Name, width and unit of each encoder's part of a token, as they lie side by side.

        The names are those that files of other tools have: ``clip_l``, ``clip_g``, ``t5xxl``; of a
        language model its type, e.g. ``qwen3``.
        """
        clip = iter(("clip_l", "clip_g"))
        return [
            (next(clip) if one.kind == "clip" else one.file_name, one.width, one.unit)
            for one in self._encoders
        ]

    def num_tokens(self, text: str) -> int:
        """Return how many tokens ``text`` is cut into, without start and end."""
        return len(self._encoders[0].ids(text))

    def token_weights(
        self, parts: Sequence[tuple[str, float]], tokens: Mapping[str, Tensor] | None
    ) -> list[float]:
        """Return the weight of each token of texts that stand one behind the other."""
        encoder, words = self._encoders[0], {**self._words, **(tokens or {})}
        weights = []
        for text, weight in parts:
            for part in encoder.parts(text, words):
                count = len(words[part]) if part in words else len(encoder.ids(part))
                weights += [weight] * count
        return weights

    def token_embed(self, words: str) -> Tensor:
        """Return the input-side vector of ``words``, ``[E]``: the mean over their tokens.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        return torch.cat([encoder.rows(words).mean(dim=0) for encoder in self._encoders])

    def token_embeds(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``: one for each of its tokens.

        With several encoders a row is theirs side by side, E the sum of their widths. Where one
        cuts the words into fewer tokens, its part of the last rows is zero: it reads none there.

        Raises:
            PromptError: If ``words`` holds nothing to encode.
        """
        rows = [encoder.rows(words) for encoder in self._encoders]
        most = max(len(part) for part in rows)
        return torch.cat([pad(part, (0, 0, 0, most - len(part))) for part in rows], dim=-1)

    def token_parts(self, vectors: Tensor) -> list[tuple[str, Tensor]]:
        """Return the kind of each encoder and its own vectors, ``[K', E']``, as its table has them.

        Args:
            vectors: ``[E]`` or ``[K, E]``, as ``encode_text`` takes them.

        Raises:
            ShapeError: If their width is not that of the encoders.
        """
        widths = [encoder.width for encoder in self._encoders]
        parts = _rows("token", vectors, sum(widths)).split(widths, dim=-1)
        return [
            (encoder.kind, _own(part) * encoder.unit)
            for encoder, part in zip(self._encoders, parts, strict=True)
        ]

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
        tokens = {**self._words, **(tokens or {})}
        widths = [encoder.width for encoder in self._encoders]
        split = {
            word: _rows(word, vectors, sum(widths)).split(widths, dim=-1)
            for word, vectors in tokens.items()
        }
        return [
            encoder.read(
                prompts,
                {word: _own(parts[number]) for word, parts in split.items()},
                to_limit=to_limit,
                **settings,
            )
            for number, encoder in enumerate(self._encoders)
        ]


def _whole(word: str) -> str:
    """Return what finds a learned word in a prompt: never inside another word, but in brackets."""
    pattern = re.escape(word)
    return pattern if word.startswith("<") and word.endswith(">") else rf"(?<!\w){pattern}(?!\w)"


def _advice(tokens: Mapping[str, Tensor]) -> str:
    """Return what to do about a token that fills a prompt alone."""
    most = max(map(len, tokens.values()), default=0)
    if most < 16:
        return "."
    return (
        f": a token of {most} vectors stands alone in --prompt {{concept}}; one that is made for "
        "negative prompts is given by --embedding FILE and named in --negative-prompt."
    )


def _rows(word: str, vectors: Tensor, width: int) -> Tensor:
    if vectors.shape[-1] != width or vectors.ndim not in (1, 2):
        raise ShapeError(
            f"tokens[{word!r}]: expected shape [{width}] or [any, {width}], "
            f"got {list(vectors.shape)}; was it learned on another checkpoint?"
        )
    return vectors.reshape(-1, width)


def _own(part: Tensor) -> Tensor:
    """Return the rows of one encoder without the zeros that fill it up to another's number."""
    filled = part.detach().any(dim=-1).nonzero()
    return part[: max(1, int(filled.max()) + 1 if len(filled) else 1)]


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
