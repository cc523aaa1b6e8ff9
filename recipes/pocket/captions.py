"""Captions of views, and their tokens, made beforehand by several processes."""

from __future__ import annotations

import random
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from recipes.pocket import augment, data, sources, words, world
from torch import Tensor

LENGTH = 32
"""Tokens that are kept of a caption; none has as many."""
FORMS = {
    "palette": ("a {a} like a {b}",),
    "texture": (
        "a {b} {a}",
        "a {a} made of {b}",
        "a {a} like a {b}",
        "a mixture of a {a} and a {b}",
        "a {a} mixed with a {b}",
    ),
    "graft": (
        "a {a} {b}",
        "a {b} {a}",
        "a mixture of a {a} and a {b}",
        "a mixture of a {b} and a {a}",
        "half {a} half {b}",
        "a hybrid of a {a} and a {b}",
        "a {a} mixed with a {b}",
        "a mix of a {b} and a {a}",
    ),
    "addon": ("a {a} with a {b}", "a {a} and a {b}"),
}
"""How the other thing of a view is named."""
NAMED = {"palette": 0.3, "texture": 0.75, "graft": 0.85, "addon": 0.6}
"""How often it is named: where it is not, the first thing alone gets a tail of rare looks."""
PATTERN_NAMED = 0.6


@dataclass(frozen=True, slots=True)
class Tokens:
    """Tokens of captions, ``per`` of each view, one view after the other.

    Attributes:
        ids: ``[N, 32]``, filled up with the end of text.
        lengths: ``[N]``, how many of them are the caption's.
        keys: ``[N]``, equal where captions are.
    """

    ids: Tensor
    lengths: Tensor
    keys: Tensor


class Writer:
    """Writes captions that say what is in a view, more or less of it."""

    def __init__(self) -> None:
        self.table, core = data.concept_table(wide=True), list(data.concept_table())
        self.names = [*core, *(name for name in self.table if name not in core)]
        self.colours, self.backgrounds = list(augment.COLOURS), list(augment.BACKGROUNDS)

    def __call__(self, labels: list[int], draw: random.Random) -> str:
        """Return a caption of a view from its labels, in the order of ``labels_of``."""
        first, other, style, kind, tint, background, pattern = labels
        name, thing = world.KINDS[kind], self.names[first]
        if draw.random() < NAMED.get(name, 0):
            form = draw.choice(FORMS[name])
            text = form.format(a=thing, b=self.names[other])
            if draw.random() >= 0.2 and not form.startswith("half"):
                text = f"a picture of {text}"
            text = re.sub(r"\ba (?=[aeio])", "an ", text)
            if background:
                text += self._behind(background)
        elif name == "pattern" and draw.random() < PATTERN_NAMED:
            text = f"a picture of {augment.with_article(f'{world.PATTERNS[pattern]} {thing}')}"
        else:
            text = self._plain(thing, style, tint, background, draw)
        return vary(text, draw)

    def _behind(self, background: int) -> str:
        return f" on {augment.with_article(self.backgrounds[background])} background"

    def _plain(
        self, thing: str, style: int, tint: int, background: int, draw: random.Random
    ) -> str:
        row, share = self.table[thing], draw.random()
        if share < 0.12:
            thing = draw.choice(row["classes"])
        elif share < 0.22 and row.get("synonyms"):
            thing = draw.choice(row["synonyms"])
        if tint >= 0 and draw.random() < 0.85:
            thing = f"{self.colours[tint]} {thing}"
        share = draw.random()
        picture = "picture" if share < 0.7 else ("drawing" if share < 0.85 else "image")
        if draw.random() < 0.25:
            picture = f"{sources.STYLES[style]} {picture}"
        text = f"a {thing}" if draw.random() < 0.3 else augment.with_article(thing)
        if draw.random() >= 0.2:
            text = f"{augment.with_article(picture)} of {text}"
        return text + (
            self._behind(background) if draw.random() < (0.15, 0.85)[background > 0] else ""
        )


def vary(caption: str, draw: random.Random) -> str:
    """Put a word that says nothing into a caption, or change its frame, now and then."""
    share = draw.random()
    if share < 0.2 and " of " in caption:
        head, tail = caption.split(" of ", 1)
        article, _, rest = tail.partition(" ")
        filler = draw.choice(words.FILLERS)
        if draw.random() < 0.5 and article in {"a", "an"}:
            return f"{head} of {augment.with_article(f'{filler} {rest}')}"
        return f"{augment.with_article(f'{filler} {head[2:].strip()}')} of {tail}"
    if share < 0.4:
        kind = augment.with_article(draw.choice(words.KINDS))
        return caption.replace("a picture of", f"{kind} of")
    return caption


def labels_of(pictures: data.Pictures, scenes: world.Scenes) -> Tensor:
    """Return what captions say of views, ``[B, 7]``."""
    concept = pictures.concept
    return torch.stack(
        [
            concept[scenes.rows],
            concept[scenes.others],
            pictures.style[scenes.rows],
            scenes.kinds,
            scenes.tints,
            scenes.backgrounds,
            scenes.patterns,
        ],
        dim=1,
    )


def write(labels: list[list[int]], per: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, lengths and keys of ``per`` captions of each view."""
    writer, draw, tokenizer = Writer(), random.Random(seed), words.build_tokenizer()
    texts = [writer(row, draw) for row in labels for _ in range(per)]
    found = [ids[:LENGTH] for ids in tokenizer(texts)["input_ids"]]
    filled = [[*ids, *[tokenizer.eos_token_id] * (LENGTH - len(ids))] for ids in found]
    ids = torch.tensor(filled, device="cpu")
    lengths = torch.tensor([len(row) for row in found], device="cpu")
    keys = torch.tensor([hash(tuple(row)) for row in found], device="cpu")
    return ids, lengths, keys


def tokens(labels: Tensor, per: int, *, seed: int, workers: int) -> Tokens:
    """Return tokens of ``per`` captions of each view, by so many processes."""
    rows, size = labels.cpu().tolist(), 2000
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    seeds = [seed + 7919 * number for number in range(len(parts))]
    if workers < 2:
        made = [write(part, per, number) for part, number in zip(parts, seeds, strict=True)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            made = list(pool.map(write, parts, [per] * len(parts), seeds))
    device = torch.get_default_device()
    return Tokens(*(torch.cat(column).to(device) for column in zip(*made, strict=True)))
