"""Make a picture again from what it keeps inside, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat.checkpoints.open import loaded, loaded_recorded
from offbeat.checkpoints.placement import Placement, Where
from offbeat.core.drawing import draw, draw_embeds
from offbeat.errors import FingerprintError, ImageError, OffbeatError, StoreError
from offbeat.files import png
from offbeat.files.concept import CONCEPT_FILE, LORA_FILE
from offbeat.files.disk import digest_of, make_folder, write_atomic
from offbeat.files.labels import versions
from offbeat.files.learned import of_bytes
from offbeat.files.pictures import SUFFIXES
from offbeat.files.png import encode_png, pixels_of, read_concept_file, read_recipe, to_pil
from offbeat.methods.settings import make_method, with_metric
from offbeat.protocols import TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.recorder import few_threads
from offbeat.runs.result import concept_folders, numerics_of
from offbeat.types import Concept, Observe, ignore
from offbeat.verbs.explore_draw import explore_by_drawing
from offbeat.verbs.mix import MixJob, Mixture, Parent, parent_of
from offbeat.verbs.paint import Painting, PaintJob, Picture, strengths_of

MAX_SEARCHED = 2000
"""Files of a folder that are looked at for a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A picture that was made again, and how like the first it is."""

    data: bytes
    """The PNG, with the recipe of the first."""
    same: bool
    """Whether it is the first, byte for byte."""
    same_pixels: bool
    """Whether at least every pixel is."""
    notes: tuple[str, ...] = ()
    """What is not as it was, and may be why they differ."""


def again(
    picture: str | Path,
    *,
    run: str | Path | None = None,
    sources: Sequence[str | Path] = (),
    backbone: str | Path | TextBackbone | None = None,
    device: Where | None = None,
    out: str | Path | None = None,
    observe: Observe = ignore,
) -> Again:
    """Make a picture again from its metadata, and hold it against the first.

    On the same machine, with the same versions and checkpoint, every byte is the same. Learned
    tokens are inside the picture; LoRA factors, too large for that, are read from its run folder.

    Args:
        picture: A PNG that Offbeat drew.
        run: Its run folder; None looks where the picture lies.
        sources: Pictures that it was made from, or folders of them, if they lie elsewhere now;
            they are known by their content.
        backbone: None is the checkpoint that the picture names.
        device: None is the one that it was drawn on.
        out: Where to write it; None writes nothing.
        observe: Told how far it is.

    Raises:
        ImageError: If the file keeps no recipe, or shows a picture that nobody drew.
        FingerprintError: If the checkpoint is another.
        StoreError: If the run folder is needed and not there, or ``out`` is there already.
    """
    path = Path(picture).expanduser()
    recipe = read_recipe(path)
    how = _drawing_of(recipe, path)
    target = None if out is None else Path(out).expanduser()
    if target is not None and target.exists():
        raise StoreError(f"{target}: is there already; choose another --out")
    where = _place(recipe) if device is None else device
    if backbone is None:
        model = loaded_recorded(str(recipe["checkpoint"]), where)
    else:
        model = loaded(backbone, where)
    if model.fingerprint != recipe["fingerprint"]:
        raise FingerprintError(
            f"{path.name}: was drawn by {recipe['checkpoint']} ({recipe['fingerprint']}), and "
            f"{model.name} is {model.fingerprint}: other weights draw another picture. Name the "
            "checkpoint of then with --backbone"
        )
    folders = [Path(run).expanduser()] if run is not None else [path.resolve().parent.parent]
    if how["by"] == "draw":
        image = _drawn(path, recipe, how, model, folders[0], observe)
    else:
        search = [*map(Path, sources), folders[0] / "sources", folders[0] / "ordinary", path.parent]
        image = drawn(recipe, model, search, observe)
    (made,) = to_pil(image[None])
    data = encode_png(made, recipe, concept=read_concept_file(path))
    first = path.read_bytes()
    if target is not None:
        make_folder(target.parent)
        write_atomic(target, data)
    return Again(
        data=data,
        same=data == first,
        same_pixels=data == first or png.same_pixels(path, made),
        notes=tuple(_notes(recipe, model)),
    )


def _drawing_of(recipe: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    how = recipe.get("drawing")
    if not isinstance(how, dict):
        raise ImageError(
            f"{path}: was drawn by an early Offbeat, whose pictures do not say how; `offbeat show "
            f"--json {path}` says what was asked"
        )
    if how["by"] == "nobody":
        raise ImageError(f"{path}: shows a picture that was given; nothing drew it")
    return how


def _place(recipe: Mapping[str, Any]) -> Placement:
    """Return where and in which type a picture was drawn."""
    names = ("device", "dtype", "vae_tiling", "attention", "compile")
    return Placement(**{name: recipe[name] for name in names if recipe.get(name)})


def _notes(recipe: Mapping[str, Any], model: TextBackbone) -> Iterator[str]:
    """Say what is not as it was."""
    now = {**versions(), **numerics_of(model)}
    then = {**recipe.get("versions", {}), **{k: recipe[k] for k in recipe if k in now}}
    for name in sorted(now.keys() & then.keys()):
        if now[name] != then[name]:
            yield f"{name} was {then[name]} and is {now[name]}: pictures may differ"


def _drawn(
    path: Path,
    recipe: Mapping[str, Any],
    how: Mapping[str, Any],
    model: TextBackbone,
    run: Path,
    observe: Observe,
) -> Tensor:
    """Return a picture of a concept, ``[3, H, W]``: drawn among those that it was drawn among."""
    concept = _concept_of(path, str(how["concept"]), run)
    told = {name: how[name] for name in ("negative_prompt", "decoding") if name in how}
    settings: dict[str, Any] = {
        "seed": int(recipe["seed"]),
        "num": int(how["num"]),
        "purpose": str(how["purpose"]),
        "rows": how.get("rows"),
        "observe": observe,
        **told,
    }
    # mixtures, and methods that draw a subject themselves, draw what is ordinary as they draw
    alone = "sources" in recipe or recipe.get("layout") == "drawn"
    searched = recipe["verb"] == "explore" and "layout" not in recipe
    with few_threads(model) if alone else nullcontext():
        if searched:  # with the prior's settings, whoever draws
            images = draw_embeds(model, concept, **settings)[1]  # type: ignore[arg-type]
        else:
            images = draw(model, concept, **settings)
    return images[int(how.get("at", recipe["index"]))]


def _concept_of(path: Path, digest: str, run: Path) -> Concept:
    """Return the concept that a picture keeps inside, or that its run folder keeps."""
    inside = read_concept_file(path)
    if inside is not None:
        return of_bytes({CONCEPT_FILE: inside}, path)
    try:
        folder = RunFolder.open(run)
        found: list[dict[str, bytes]] = [
            {
                name: folder.read(where + name)
                for name in (CONCEPT_FILE, LORA_FILE)
                if folder.exists(where + name)
            }
            for where in concept_folders(folder)
        ]
    except OffbeatError as error:
        raise StoreError(
            f"{path.name}: what it was drawn with is too large for a picture, and was kept in its "
            f"run folder; name that with --run ({error})"
        ) from error
    for files in found:
        if digest_of(b"".join(files[name] for name in sorted(files))) == digest:
            return of_bytes(files, path)
    raise StoreError(
        f"{run}: holds no concept that {path.name} was drawn with; name its own run with --run"
    )


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
            parents.append(Parent(name=source["word"]))
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
    job = MixJob(
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
    return Mixture(job, None, observe).one(number)


def _painted(
    asked: Mapping[str, Any], model: Any, search: Sequence[Path], number: int, observe: Observe
) -> Tensor:
    method = make_method(asked["method"], model, asked["config"])
    size = _size(model)

    def is_it(digest: str, path: Path) -> bool:
        return Picture.read(path, "source", size).digest == digest

    given = []
    for source in asked["sources"]:
        file = _found(source["picture"], search, partial(is_it, source["digest"]))
        given.append(Picture.read(file, "source", size))
    swept = asked["strengths"] if asked["layout"] == "sweep" else None
    job = PaintJob(
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
    return Painting(job, None, observe).one(number)


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
    return pixels_of(run.images[number])


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
