"""Make pictures again that a method drew itself: mixtures, paintings, subjects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat import _mixture, _painting, formats
from offbeat._disk import digest_of
from offbeat._drawn import explore_by_drawing, with_metric
from offbeat._keeper import few_threads
from offbeat._mix import parent_of
from offbeat._paint import strengths_of
from offbeat._trained import make_method
from offbeat.errors import ImageError
from offbeat.pictures import SUFFIXES
from offbeat.types import Observe

MAX_SEARCHED = 2000
"""Files of a folder that are looked at for a picture."""


def drawn(
    recipe: Mapping[str, Any], model: Any, search: Sequence[Path], observe: Observe
) -> Tensor:
    """Return the picture of a recipe, ``[3, H, W]``.

    Args:
        recipe: With what was asked under ``request``.
        model: The checkpoint, loaded.
        search: Files and folders where pictures that it was made from may be.
        observe: Told how far it is.

    Raises:
        ImageError: If one of those is not found.
    """
    asked = recipe["request"]
    number = int(recipe["drawing"]["start"]) + int(recipe["index"])
    with few_threads(model):
        if asked["verb"] == "paint":
            return _painted(asked, model, search, number, observe)
        if asked["verb"] == "explore":
            return _explored(asked, model, number, observe)
        return _mixed(asked, model, search, number, observe)


def _mixed(
    asked: Mapping[str, Any], model: Any, search: Sequence[Path], number: int, observe: Observe
) -> Tensor:
    method = with_metric(make_method(asked["method"], model, asked["config"]), model)
    parents, names = [], []
    for source in asked["sources"]:
        names.append(source.get("word") or source["picture"])
        if "word" in source:
            parents.append(_mixture.Parent(name=source["word"]))
            continue
        file = _found(source["picture"], search, partial(_file_is, source["digest"]))
        parents.append(parent_of(str(file), _size(model)))
    points = [tuple((str(name), float(share)) for name, share in asked["weights"])]
    if "frame" in asked:  # the method paces its path itself
        last = int(asked["num_points"]) - 1
        first, second = names
        points = [((first, 1 - at / last), (second, at / last)) for at in range(last + 1)]
    else:
        number %= int(asked["num_images"])
    job = _mixture.Job(
        layout=asked["layout"],
        points=points,
        parents=parents,
        method=method,
        backbone=model,
        judge=None,
        prompt=asked["prompt"],
        num_images=int(asked["num_images"]),
        seed=int(asked["seed"]),
    )
    return _mixture.Mixture(job, None, observe).one(number)


def _painted(
    asked: Mapping[str, Any], model: Any, search: Sequence[Path], number: int, observe: Observe
) -> Tensor:
    method = make_method(asked["method"], model, asked["config"])
    size = _size(model)

    def is_it(digest: str, path: Path) -> bool:
        return _painting.Picture.read(path, "source", size).digest == digest

    given = []
    for source in asked["sources"]:
        file = _found(source["picture"], search, partial(is_it, source["digest"]))
        given.append(_painting.Picture.read(file, "source", size))
    swept = asked["strengths"] if asked["layout"] == "sweep" else None
    job = _painting.Job(
        layout=asked["layout"],
        points=strengths_of(method, swept),
        method=method,
        backbone=model,
        art=given[0],
        content=given[1] if len(given) > 1 else None,
        prompt=asked["prompt"],
        num_images=int(asked["num_images"]),
        seed=int(asked["seed"]),
    )
    return _painting.Painting(job, None, observe).one(number)


def _explored(asked: Mapping[str, Any], model: Any, number: int, observe: Observe) -> Tensor:
    """Draw a subject again by a method that draws it its own way: all pictures are one choice."""
    run = explore_by_drawing(
        asked["subject"],
        method=asked["method"],
        config=asked["config"],
        num_images=int(asked["num_images"]),
        seed=int(asked["seed"]),
        prompt=asked["prompt"],
        judge="none" if asked["judge"] is None else "auto",
        backbone=model,
        device=str(model.device),
        out=None,
        resume=False,
        observe=observe,
    )
    return formats.pixels_of(run.images[number])


def _size(model: Any) -> int:
    return min(int(model.card["height"]), int(model.card["width"]))


def _file_is(digest: str, path: Path) -> bool:
    return digest_of(path.read_bytes()) == digest


def _found(name: str, search: Sequence[Path], is_it: Callable[[Path], bool]) -> Path:
    """Return the file that a picture was made from, wherever it lies now.

    Raises:
        ImageError: If it is nowhere.
    """
    for path in _candidates(Path(name).expanduser(), search):
        try:
            if is_it(path):
                return path
        except (ImageError, OSError):  # no picture, or not to be read: it is another file
            continue
    places = ", ".join(str(place) for place in search)
    raise ImageError(
        f"{name}: the picture that this one was made from is not found there, nor in {places}; say "
        "with --source where it is now. It must be the very file"
    )


def _candidates(name: Path, search: Sequence[Path]) -> Iterator[Path]:
    """Yield the file where it was, then those of its name, then others."""
    if name.is_file():
        yield name
    for place in search:
        if place.is_file():
            yield place
        elif place.is_dir():
            found = (one for one in place.iterdir() if one.suffix.lower() in SUFFIXES)
            files = sorted(one for one in found if one.is_file())[:MAX_SEARCHED]
            yield from sorted(files, key=lambda one: one.name != name.name)
