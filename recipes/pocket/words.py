"""The tokenizer: every word that captions use is one token, any other word still has tokens."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

from recipes.pocket import augment, data, sources
from transformers import CLIPTokenizer

FILLERS = [
    "creative",
    "unusual",
    "novel",
    "original",
    "strange",
    "weird",
    "nice",
    "good",
    "bad",
    "bright",
    "dark",
    "clean",
    "cool",
    "small",
    "large",
    "big",
    "little",
    "new",
    "old",
    "cute",
    "beautiful",
    "unique",
    "realistic",
    "detailed",
    "professional",
    "quality",
    "best",
    "imaginary",
    "mythical",
    "fantastic",
    "ordinary",
    "typical",
    "common",
    "rare",
    "cropped",
    "blurry",
    "colorful",
    "funny",
]
"""Words that say nothing about what is shown; the text tower learns to pass over them."""
KINDS = [
    "picture",
    "photo",
    "drawing",
    "image",
    "painting",
    "sketch",
    "rendering",
    "illustration",
    "icon",
]
PROMPT_WORDS = [
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "with",
    "and",
    "or",
    "style",
    "type",
    "kind",
    "background",
    "mixture",
    "mix",
    "hybrid",
    "combination",
    "blend",
    "between",
    "that",
    "is",
    "it",
    "like",
    "looks",
    "made",
    "from",
    "as",
    "high",
    "never",
    "seen",
    "before",
    "species",
    "object",
    "creature",
    "person",
    "one",
    "two",
    "no",
    "not",
    "very",
    "up",
    "close",
    "view",
    "color",
    "colour",
    "mantis",
    "cauliflower",
    "praying",
    "bag",
    "fruit",
    "pet",
    "vehicle",
    "building",
    "furniture",
    "toy",
    "art",
    "concept",
    "design",
    "shape",
    "form",
    "body",
    "head",
    "half",
]
NUM_POSITIONS = 77


def word_list() -> list[str]:
    """Return every word that becomes one token, sorted."""
    words = {*FILLERS, *KINDS, *PROMPT_WORDS, *augment.COLOURS, *augment.BACKGROUNDS}
    words |= set(sources.STYLES)
    for name, row in data.concept_table(wide=True).items():
        for text in (name, *row["classes"], *row.get("synonyms", ())):
            words |= set(text.split())
    return sorted(word for word in words if word.isalpha())


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Return byte-pair merges that end with every word in one piece."""
    pieces = [(*word[:-1], f"{word[-1]}</w>") for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(word) > 1 for word in pieces):
        pairs = Counter(pair for word in pieces for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [join(word, best) for word in pieces]
    return merges


def join(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Merge every place of a word where the pair stands.

    >>> join(("a", "b", "a", "b"), ("a", "b"))
    ('ab', 'ab')
    """
    merged: list[str] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append("".join(pair))
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def byte_alphabet() -> list[str]:
    """Return the printable stand-ins of the 256 bytes that CLIP's tokenizer uses."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + index) for index in range(len(rest))]


@functools.cache
def build_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer: bytes, word ends, merges, then start and end, as in CLIP."""
    alphabet = byte_alphabet()
    merges = learn_merges(word_list())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += ["".join(pair) for pair in merges]
    tokens = [*list(dict.fromkeys(tokens)), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=NUM_POSITIONS)
