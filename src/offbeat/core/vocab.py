"""Lists of words that can be drawn, for judges and for methods that need known classes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch

from offbeat.core.rng import stream
from offbeat.errors import VocabularyError

Pair = tuple[str, str]

ANIMALS = tuple(
    [
        "dog",
        "cat",
        "rabbit",
        "fox",
        "wolf",
        "bear",
        "panda",
        "tiger",
        "lion",
        "leopard",
        "elephant",
        "rhino",
        "hippo",
        "giraffe",
        "zebra",
        "horse",
        "deer",
        "cow",
        "pig",
        "sheep",
        "goat",
        "camel",
        "kangaroo",
        "koala",
        "monkey",
        "squirrel",
        "hedgehog",
        "owl",
        "eagle",
        "parrot",
        "peacock",
        "penguin",
        "duck",
        "chicken",
        "turtle",
        "frog",
        "snake",
        "lizard",
        "crocodile",
        "fish",
        "shark",
        "octopus",
        "bee",
        "butterfly",
        "snail",
    ]
)
PLANTS_AND_FOODS = tuple(
    [
        "lettuce",
        "broccoli",
        "cauliflower",
        "mushroom",
        "cactus",
        "sunflower",
        "rose",
        "pineapple",
        "banana",
        "strawberry",
        "watermelon",
        "pumpkin",
        "corn",
        "carrot",
        "pepper",
    ]
)
SUBSTITUTE_60 = ANIMALS + PLANTS_AND_FOODS
"""45 animals and 15 plants and foods of ours; not the unpublished list of any paper."""

EXPLORATION_SUBJECTS = (
    "handbag", "building", "vehicle", "alien", "fruit", "chair", "pet", "dinosaur",
)  # fmt: skip
"""Seven subjects of the low-probability paper's figures, and dinosaur for its unnamed eighth."""

COMMON_THINGS = tuple(
    [
        "car",
        "bus",
        "truck",
        "train",
        "bicycle",
        "motorcycle",
        "airplane",
        "boat",
        "rocket",
        "house",
        "castle",
        "church",
        "tower",
        "bridge",
        "table",
        "sofa",
        "bed",
        "lamp",
        "clock",
        "book",
        "cup",
        "bottle",
        "knife",
        "guitar",
        "piano",
        "drum",
        "violin",
        "shoe",
        "hat",
        "shirt",
        "dress",
        "umbrella",
        "backpack",
        "robot",
        "ghost",
        "dragon",
        "unicorn",
        "tree",
        "flower",
        "cake",
        "pizza",
        "bread",
        "apple",
        "grapes",
        "ball",
        "camera",
        "phone",
        "computer",
    ]
)
DEFAULT_LABELS = tuple(dict.fromkeys((*SUBSTITUTE_60, *EXPLORATION_SUBJECTS, *COMMON_THINGS)))
"""What a judge chooses between where a checkpoint's card names nothing."""

UNSEEN_PAIR: Pair = ("lettuce", "mantis")
"""Shown as unseen in training by CreTok's paper: never a training pair here."""


def check_words(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words of a vocabulary, stripped.

    Raises:
        VocabularyError: If there are fewer than two, one is empty, or one is there twice.
    """
    checked = tuple(" ".join(word.split()) for word in words)
    if len(checked) < 2:
        raise VocabularyError(f"vocabulary: expected at least 2 words, got {len(checked)}")
    if "" in checked:
        raise VocabularyError(f"vocabulary: word {checked.index('') + 1} is empty; remove it")
    seen: set[str] = set()
    for word in checked:
        if word.lower() in seen:
            raise VocabularyError(f"vocabulary: {word!r} is given twice; remove one")
        seen.add(word.lower())
    return checked


def shares(weights: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """Return words with weights as shares that sum to 1; words of weight 0 are left out.

    Raises:
        VocabularyError: If a weight is negative or not finite, all are 0, a word is empty or there
            twice, or fewer than two words are left.

    >>> shares([("pig", 3), ("owl", 1), ("bee", 0)])
    (('pig', 0.75), ('owl', 0.25))
    """
    pairs = [(" ".join(word.split()), float(weight)) for word, weight in weights]
    for word, weight in pairs:
        if not (math.isfinite(weight) and weight >= 0):
            raise VocabularyError(f"{word}={weight:g}: expected a weight of 0 or more")
    left = [(word, weight) for word, weight in pairs if weight > 0]
    if pairs and not left:
        raise VocabularyError("weights: all are 0; give at least two words a weight above 0")
    if len(left) < 2:
        got = ", ".join(word for word, _ in left) or "none"
        raise VocabularyError(f"words: expected at least 2 to fuse, got {got}")
    check_words([word for word, _ in left])
    total = sum(weight for _, weight in left)
    return tuple((word, weight / total) for word, weight in left)


def pairs(
    words: Sequence[str], num: int, *, seed: int = 0, exclude: Iterable[Pair] = ()
) -> tuple[Pair, ...]:
    """Draw different unordered pairs, half of them across kingdoms where there are two.

    Kingdoms are animals, plants and foods, and the rest, by the lists above.

    Args:
        words: The vocabulary.
        num: How many pairs; fewer come back if there are no more.
        seed: Same seed, same pairs.
        exclude: Pairs, in either order, that must not be drawn.

    Source: methods.md, section 14; the published lists are not known.
    """
    barred = {frozenset(pair) for pair in (*exclude, UNSEEN_PAIR)}
    every = [p for p in itertools.combinations(words, 2) if frozenset(p) not in barred]
    order = torch.randperm(len(every), generator=stream(seed, "pairs")).tolist()
    across = [every[i] for i in order if _kingdom(every[i][0]) != _kingdom(every[i][1])]
    within = [every[i] for i in order if _kingdom(every[i][0]) == _kingdom(every[i][1])]
    chosen = across[: max(num // 2, num - len(within))]
    return tuple((*chosen, *within[: num - len(chosen)]))


def evaluation_pairs(words: Sequence[str], num: int = 30, *, seed: int = 0) -> tuple[Pair, ...]:
    """Return the pairs that methods are compared on, and must not train on.

    The first is lettuce and mantis if both are known.
    """
    first = (UNSEEN_PAIR,) if set(UNSEEN_PAIR) <= set(words) else ()
    return (*first, *pairs(words, num - len(first), seed=seed + 1_000_003))


def weightings(
    words: Sequence[str], num: int = 30, *, seed: int = 0
) -> tuple[tuple[tuple[str, float], ...], ...]:
    """Draw weighted distributions: 2 to 4 words each, Dirichlet(2) shares in steps of 0.05.

    Source: methods.md, section 14; the published ones are not known.
    """
    noise = stream(seed, "weightings")
    points: list[tuple[tuple[str, float], ...]] = []
    while len(points) < num:
        size = int(torch.randint(2, min(4, len(words)) + 1, (1,), generator=noise))
        picked = torch.randperm(len(words), generator=noise)[:size].tolist()
        # a sum of two exponentials is Gamma(2), and Gammas over their sum are Dirichlet
        gamma = -torch.rand(2, size, generator=noise).clamp_min(1e-9).log().sum(dim=0)
        twentieths = (gamma / gamma.sum() * 20).round().int().tolist()
        if sum(twentieths) == 20 and min(twentieths) >= 1:
            points.append(
                tuple((words[i], n / 20) for i, n in zip(picked, twentieths, strict=True))
            )
    return tuple(points)


def _kingdom(word: str) -> str:
    if word in ANIMALS or word == UNSEEN_PAIR[1]:
        return "animal"
    return "plant or food" if word in PLANTS_AND_FOODS else "other"
