"""Fuse words into one concept; sweep from one to another; fill a triangle between three.

Methods that draw a mixture themselves, of words or pictures, are handed on to ``_mix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offbeat import _mix, _readings, registry, vocab
from offbeat._evolve import evolve
from offbeat._fusion import Fusion, Job, Shares, request_of
from offbeat._runs import Run, check_needs, default_backbone, load_run, loaded
from offbeat._trained import find_trained, make_method
from offbeat.backbones._placement import Where
from offbeat.errors import ConfigError, VocabularyError
from offbeat.protocols import FusesConcepts, TextBackbone
from offbeat.store import RunFolder
from offbeat.templates import fill
from offbeat.types import Observe, Trained, ignore

Weights = Mapping[str, float] | Iterable[str | Path] | Iterable[tuple[str, float]]
METHOD = "distok"
"""What fuses if nothing is said."""


def fuse(weights: Weights, *, num_images: int = 8, **settings: Any) -> Run:
    """Make one thing of several, and draw it beside each alone.

    Args:
        weights: Words, or words with weights, e.g. ``{"pig": 0.55, "sheep": 0.25, "snake": 0.2}``;
            weights are made to sum to 1. Some methods take files of pictures, e.g. ``"cat.png"``.
        num_images: Pictures, 1 or more; picture i of every word shares its noise.
        settings: As of ``sweep``.

    Raises:
        VocabularyError: If a word is unknown to the method, or the weights cannot be used.
        OffbeatError: Each other kind of bad input has its own, see ``offbeat.errors``.
    """
    point = vocab.shares(_pairs_of(weights))
    if _mix.draws_mixtures(settings.setdefault("method", METHOD)):
        return _mix.mix("fuse", [point], num_images, **settings)
    evolves = hasattr(registry.find("method", settings["method"]), "evolve")
    if evolves and all(_mix.is_picture(name) for name, _ in point):
        return evolve(point, num_images, **settings)
    return _prepared("fuse", [point], num_images, **settings)


def sweep(
    first: str | Path, second: str | Path, *, num: int = 9, num_images: int = 3, **settings: Any
) -> Run:
    """Draw the path from one word to another: ``num`` concepts, the ends among them.

    Args:
        first: All of this at the start; some methods take a picture's file.
        second: All of this at the end.
        num: Concepts, or frames, 2 or more.
        num_images: Pictures of each; those of one row share their noise.
        settings: ``method``, ``config`` (a dict of its settings), ``trained`` (a folder or file of
            ``offbeat train``), ``prompt`` with ``{concept}``, ``seed``, ``judge``, ``backbone``
            (None is the bundled one, in the form that the method needs), ``device``, ``out``,
            ``resume``, ``observe``: as of the other verbs.
    """
    if num < 2:
        raise ConfigError(f"num: expected at least 2 points on the path, got {num}")
    one, other = (word for word, _ in vocab.shares([(str(first), 1), (str(second), 1)]))
    ends = [index / (num - 1) for index in range(num)]
    if _mix.draws_mixtures(settings.setdefault("method", METHOD)):
        path = [((one, 1 - end), (other, end)) for end in ends]
        return _mix.mix("sweep", path, num_images, **settings)
    points = [_point([one, other], [1 - end, end]) for end in ends]
    return _prepared("sweep", points, num_images, **settings)


def grid(
    first: str, second: str, third: str, *, num: int = 5, num_images: int = 1, **settings: Any
) -> Run:
    """Fill the triangle between three words: ``num`` concepts along each side.

    Args:
        first: Its upper corner.
        second: Its left corner.
        third: Its right corner.
        num: Concepts along a side, 2 to 12.
        num_images: Pictures of each; the sheet shows the first.
        settings: As of ``sweep``.
    """
    if not 2 <= num <= 12:
        raise ConfigError(f"num: expected 2 to 12 points along a side, got {num}")
    words, last = [first, second, third], num - 1
    if _mix.draws_mixtures(method := settings.setdefault("method", METHOD)):
        raise ConfigError(f"method: {method} mixes two sources, so it fills no triangle")
    vocab.shares([(word, 1) for word in words])
    points = [
        _point(words, [(last - row) / last, (row - column) / last, column / last])
        for row in range(num)
        for column in range(row + 1)
    ]
    return _prepared("grid", points, num_images, **settings)


def _pairs_of(weights: Weights) -> list[tuple[str, float]]:
    if isinstance(weights, str):
        raise VocabularyError(f"weights: expected several words, got the one text {weights!r}")
    if isinstance(weights, Mapping):
        return [(str(name), share) for name, share in weights.items()]
    return [
        (str(item), 1.0) if isinstance(item, str | Path) else (str(item[0]), item[1])
        for item in weights
    ]


def _point(words: Sequence[str], parts: Sequence[float]) -> Shares:
    return tuple((word, part) for word, part in zip(words, parts, strict=True) if part > 1e-9)


def _prepared(
    layout: str,
    points: Sequence[Shares],
    num_images: int,
    *,
    method: str,
    config: dict[str, Any] | None = None,
    trained: str | Path | Trained | None = None,
    prompt: str | None = None,
    seed: int = 0,
    judge: str = "auto",
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Check everything, then make and draw the concepts."""
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    words = tuple(dict(pair for point in points for pair in point))
    for word in words:
        if _mix.has_suffix(word):
            raise VocabularyError(f"{word}: {method} takes words; {_mix.PICTURES}")
    model = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, config)
    _check_method(chosen, model, layout)
    reader = _readings.choose_reader(judge, model, words)
    found, digest = find_trained(chosen, model, trained)
    job = Job(
        layout=layout,
        points=points,
        method=chosen,
        backbone=model,
        trained=found,
        digest=digest,
        judge=reader,
        prompt=prompt,
        num_images=num_images,
        seed=seed,
    )
    if found is not None:  # an unknown word fails before a folder is made
        for point in points[:1] if layout == "fuse" else points:
            if len(point) > 1:
                chosen.fuse(model, request_of(job, point), trained=found)
    folder = RunFolder.create(Path(out), job.as_json(), resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    return Fusion(job, folder, observe).run()


def _check_method(method: Any, backbone: TextBackbone, layout: str) -> None:
    """Refuse a method that cannot fuse, not on this checkpoint, or not by weights."""
    if not isinstance(method, FusesConcepts):
        raise ConfigError(f"method: {method.name} fuses nothing; choose one that does")
    check_needs(method.name, getattr(method, "needs", None), backbone)
    if layout != "fuse" and not method.takes_weights:
        raise ConfigError(
            f"method: {method.name} takes words without weights, so there is no path between "
            "them; choose another --method"
        )
