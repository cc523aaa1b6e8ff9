"""Draw a picture again from the recipe in its file, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from offbeat.checkpoints.base import CHANGED_BY, DRAWN_BY
from offbeat.checkpoints.open import loaded, loaded_recorded
from offbeat.checkpoints.placement import Placement, Where, placement_of
from offbeat.core.checks import check_whole
from offbeat.core.drawing import draw, draw_embeds, search_decoding
from offbeat.core.threads import few_threads
from offbeat.errors import FingerprintError, ImageError, OffbeatError, StoreError
from offbeat.files import png
from offbeat.files.concept import CONCEPT_FILE, LORA_FILE
from offbeat.files.disk import digest_of, make_folder, write_atomic
from offbeat.files.learned import of_bytes
from offbeat.files.lora import LoraFile
from offbeat.files.pictures import SUFFIXES
from offbeat.files.png import encode_png, pixels_of, read_concept_file, read_recipe, to_pil
from offbeat.files.tokens import TokenFile
from offbeat.methods.settings import make_method, with_metric
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.result import concept_folders
from offbeat.types import Concept, Observe, ignore
from offbeat.verbs.controls import steering_again
from offbeat.verbs.explore_draw import explore_by_drawing
from offbeat.verbs.mix import Mixture, Parent, parent_of
from offbeat.verbs.paint import Painting, strengths_of
from offbeat.verbs.pictures import Picture
from offbeat.verbs.session import Session, conditions_of

File = TypeVar("File", LoraFile, TokenFile)

MAX_SEARCHED = 2000
"""Files of a folder that are searched for a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A picture that was made again, and whether it is the same."""

    data: bytes
    """The PNG, with the recipe of the first."""
    same: bool
    """Whether it is the first, byte for byte."""
    same_pixels: bool
    """Whether every pixel is the same."""
    notes: tuple[str, ...] = ()
    """What has changed since then, and may be why the pictures differ."""


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
    """Make a picture again from the recipe that it keeps inside, and compare it with the first.

    On the same machine, with the same versions and checkpoint, every byte is the same. Learned
    tokens are inside the picture; LoRA factors, too large for that, are read from its run folder.

    Args:
        picture: A PNG that Offbeat drew.
        run: Its run folder; None looks where the picture lies.
        sources: Pictures that it was made from, or folders of them, if they were moved; they are
            recognized by their content.
        backbone: None is the checkpoint that the picture names, if it is on this machine.
        device: None is the one that it was drawn on.
        out: Where to write it; None writes nothing.
        observe: Told how far it is.

    Raises:
        ImageError: If the file keeps no recipe, or shows a picture that nobody drew.
        FingerprintError: If the checkpoint is another.
        StoreError: If the run folder is needed and not there, or ``out`` is there already.
    """
    if not isinstance(picture, str | Path):
        raise ImageError(f"picture: expected the path of a PNG, got {picture!r}")
    path = Path(picture).expanduser()
    recipe = checked_recipe(read_recipe(path), path)
    how = recipe["drawing"]
    target = None if out is None else Path(out).expanduser()
    if target is not None and target.exists():
        raise StoreError(f"{target}: the file exists already; choose another --out")
    recorded = _place(recipe, [*map(Path, sources), path.parent])
    where: Where = recorded
    if device is not None:
        files = {"lora": recorded.lora, "embeddings": recorded.embeddings}
        where = placement_of(device, **{name: files[name] or None for name in files})
    name = recipe["checkpoint"]
    model = loaded_recorded(name, where) if backbone is None else loaded(backbone, where)
    if model.fingerprint != recipe["fingerprint"]:
        raise FingerprintError(
            f"{path.name}: was drawn by {name} ({recipe['fingerprint']}), and {model.name} is "
            f"{model.fingerprint}: other weights draw another picture. Pass the original "
            "checkpoint with --backbone"
        )
    folders = [Path(run).expanduser()] if run is not None else [path.resolve().parent.parent]
    search = [*map(Path, sources), folders[0] / "sources", folders[0] / "ordinary", path.parent]
    if how["by"] == "draw":
        image = _drawn(path, recipe, model, folders[0], search, observe)
    else:
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


MAX_COUNT = 4096
"""Pictures that a recipe may say were drawn together."""


def checked_recipe(recipe: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return a recipe that holds what drawing it again reads, each of the right type.

    Its author may be a stranger.

    Raises:
        ImageError: If it was written by an early Offbeat, or is damaged.
    """
    how, request = recipe.get("drawing"), recipe.get("request")
    if how is None:
        raise ImageError(
            f"{path}: was drawn by an early Offbeat, whose pictures do not say how; `offbeat show "
            f"--json {path}` shows what was asked"
        )
    if not isinstance(how, Mapping) or not isinstance(request, Mapping):
        raise ImageError(f"{path}: its recipe is damaged (drawing, request: expected objects)")
    if how.get("by") == "nobody":
        raise ImageError(f"{path}: shows a picture that was given; nothing drew it")
    more: dict[str, dict[str, type]] = {"lora": {"scale": float}, "embeddings": {}}
    for field, kinds in more.items():
        files = recipe.get(field, [])
        if not isinstance(files, list) or not all(_names_a_file(entry, kinds) for entry in files):
            raise ImageError(f"{path}: its recipe is damaged ({field}: {str(files)[:40]})")
    texts = [(recipe, "checkpoint"), (recipe, "fingerprint"), (recipe, "verb"), (how, "by")]
    placed = ("device", "dtype", "attention", *CHANGED_BY, *DRAWN_BY)
    texts += [(recipe, name) for name in placed if recipe.get(name)]
    counts = [(recipe, "index"), (how, "start")]
    seeds, objects = [(recipe, "seed")], [(recipe, "versions")]
    if how.get("by") == "draw":
        texts += [(how, "purpose"), (how, "concept")]
        counts += [(how, "num")]
    else:
        texts += [(request, "verb"), (request, "method")]
        counts += [(request, "num_images")]
        seeds += [(request, "seed")]
        objects += [(request, "config")]
    if not isinstance(how.get("rows", []), list | None):
        raise ImageError(f"{path}: its recipe is damaged (rows: expected a list)")
    for places, kind, most in (
        (texts, str, 0), (objects, Mapping, 0), (counts, int, MAX_COUNT), (seeds, int, 2**64)
    ):  # fmt: skip
        for part, name in places:
            value = part.get(name)
            fits = isinstance(value, kind) and not isinstance(value, bool)
            if not fits or (isinstance(value, int) and not 0 <= value <= most):
                shown = repr(value)[:40]
                raise ImageError(f"{path}: its recipe is damaged ({name}: {shown})")
    return recipe


def _names_a_file(entry: Any, more: Mapping[str, type]) -> bool:
    """Return whether a recipe's entry names a file, its content, and what else it must say."""
    kinds = {"path": str, "digest": str, **more}
    return (
        isinstance(entry, Mapping)
        and entry.keys() == kinds.keys()
        and all(isinstance(entry[name], kind) and entry[name] for name, kind in kinds.items())
    )


def _place(recipe: Mapping[str, Any], search: Sequence[Path]) -> Placement:
    """Return where and in which type a picture was drawn."""
    names = (
        "device",
        "dtype",
        "vae_tiling",
        "attention",
        "compile",
        "variant",
        *CHANGED_BY,
        *DRAWN_BY,
    )
    settings = {name: recipe[name] for name in names if recipe.get(name)}
    if not Path(settings.get("ip_adapter", "")).expanduser().exists():
        settings.pop("ip_adapter", None)  # a file does not decide what is fetched
    where = Placement(
        **settings,
        lora=tuple(LoraFile(**entry) for entry in recipe.get("lora", ())),
        embeddings=tuple(TokenFile(**entry) for entry in recipe.get("embeddings", ())),
    )
    return replace(
        where,
        lora=tuple(_here(file, search) for file in where.lora),
        embeddings=tuple(_here(file, search) for file in where.embeddings),
    )


def _here(file: File, search: Sequence[Path]) -> File:
    """Return a LoRA or token that a picture was drawn with, wherever it lies now.

    Raises:
        StoreError: If it is nowhere.
    """
    name: Path = Path(file.path).expanduser()
    places = [name, *(p / name.name if p.is_dir() else p for p in search)]
    here = next((p for p in places if p.exists() and p.name == name.name), None)
    if here is None:
        raise StoreError(
            f"{file.path}: the LoRA or token that the picture was drawn with is not there; pass "
            "it, or its folder, with --source"
        )
    return replace(file, path=str(here))


def _notes(recipe: Mapping[str, Any], model: TextBackbone) -> Iterator[str]:
    """Yield what has changed since the picture was drawn."""
    now = conditions_of(model)
    now |= now.pop("versions")
    then = {**recipe["versions"], **{name: recipe[name] for name in recipe if name in now}}
    for name in sorted(now.keys() & then.keys()):
        if now[name] != then[name]:
            yield f"{name} was {then[name]} and is {now[name]}: pictures may differ"


def _drawn(
    path: Path,
    recipe: Mapping[str, Any],
    model: TextBackbone,
    run: Path,
    search: Sequence[Path],
    observe: Observe,
) -> Tensor:
    """Return a picture of a concept, ``[3, H, W]``: drawn among those that it was drawn among."""
    how = recipe["drawing"]
    num, rows, index = how["num"], how.get("rows"), how.get("at", recipe["index"])
    check_whole("at", index, 0, (num if rows is None else len(rows)) - 1)
    for row in rows or ():
        check_whole("rows", row, 0, MAX_COUNT)
    concept = _concept_of(path, how["concept"], run)
    drawing = {name: how[name] for name in ("negative_prompt", "decoding") if name in how}
    if "pictures" in how:
        try:
            drawing = steering_again(how, model, partial(_named, search)).drawing(model)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, OffbeatError):
                raise
            raise ImageError(f"{path}: its recipe is damaged (pictures: {error})") from error
    settings: dict[str, Any] = {
        "seed": recipe["seed"],
        "num": how["num"],
        "purpose": how["purpose"],
        "rows": how.get("rows"),
        "observe": observe,
        **drawing,
    }
    # mixtures, and methods that draw a subject themselves, draw what is ordinary as they draw
    alone = "sources" in recipe or recipe.get("layout") == "drawn"
    searched = recipe["verb"] == "explore" and "layout" not in recipe
    with few_threads(model) if alone else nullcontext():
        if searched and not isinstance(model, PriorBackbone):
            settings["decoding"] = {**search_decoding(concept), **settings.get("decoding", {})}
            images = draw(model, concept, **settings)
        elif searched:  # with the prior's settings, whoever draws
            images = draw_embeds(model, concept, **settings)[1]  # type: ignore[arg-type]
        else:
            images = draw(model, concept, **settings)
    return images[index]


def _concept_of(path: Path, digest: str, run: Path) -> Concept:
    """Return the concept that a picture keeps inside, or that its run folder keeps."""
    inside = read_concept_file(path)
    if inside is not None:
        return of_bytes({CONCEPT_FILE: inside}, path)
    try:
        folder = RunFolder.open(run)
        contents: list[dict[str, bytes]] = [
            {
                name: folder.read(where + name)
                for name in (CONCEPT_FILE, LORA_FILE)
                if folder.exists(where + name)
            }
            for where in concept_folders(folder)
        ]
    except OffbeatError as error:
        raise StoreError(
            f"{path.name}: its LoRA factors are too large to be kept inside the picture; they are "
            f"in its run folder: pass that with --run ({error})"
        ) from error
    for files in contents:
        if digest_of(b"".join(files[name] for name in sorted(files))) == digest:
            return of_bytes(files, path)
    raise StoreError(
        f"{run}: holds no concept that {path.name} was drawn with; pass its run folder with --run"
    )


def drawn(
    recipe: Mapping[str, Any], model: Any, search: Sequence[Path], observe: Observe
) -> Tensor:
    """Return the picture of a recipe that a method drew, ``[3, H, W]``.

    Args:
        recipe: As ``checked_recipe`` returns it.
        model: The checkpoint, loaded.
        search: Files and folders where pictures that it was made from may be.
        observe: Told how far it is.

    Raises:
        ImageError: If one of those is not found, or the recipe is damaged.
    """
    request = recipe["request"]
    number = recipe["drawing"]["start"] + recipe["index"]
    session = Session(model, observe=observe)
    session.load()
    session.request = dict(request)
    draw_again = {"paint": _painted, "explore": _explored}.get(request["verb"], _mixed)
    try:
        with few_threads(model):
            return draw_again(session, search, number)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, OffbeatError):
            raise
        # each method reads other parts of a request, and a stranger's may lack any of them
        raise ImageError(
            f"its recipe is damaged, or another version wrote it ({type(error).__name__}: {error})"
        ) from error


def _mixed(session: Session, search: Sequence[Path], number: int) -> Tensor:
    request, model = session.request, session.backbone
    method = with_metric(make_method(request["method"], model, request["config"]), model)
    parents, names = [], []
    for source in request["sources"]:
        names.append(source.get("word") or source["picture"])
        if "word" in source:
            parents.append(Parent(name=source["word"]))
            continue
        file = _found(source["picture"], search, partial(_file_is, source["digest"]))
        parents.append(parent_of(str(file), _size(model)))
    points = [tuple((str(name), float(share)) for name, share in request["weights"])]
    if "frame" in request:  # the method paces its path itself
        check_whole("num_points", request["num_points"], 2, MAX_COUNT)
        last = request["num_points"] - 1
        first, second = names
        points = [((first, 1 - at / last), (second, at / last)) for at in range(last + 1)]
    else:
        number %= request["num_images"]
    mixture = Mixture(
        session=session,
        layout=request["layout"],
        points=points,
        parents=parents,
        method=method,
        judge=None,
    )
    return mixture.draw_one(number)


def _painted(session: Session, search: Sequence[Path], number: int) -> Tensor:
    request, model = session.request, session.backbone
    method, size = make_method(request["method"], model, request["config"]), _size(model)

    def is_it(digest: str, path: Path) -> bool:
        return Picture.read(path, "source", size).digest == digest

    pictures = []
    for source in request["sources"]:
        file = _found(source["picture"], search, partial(is_it, source["digest"]))
        pictures.append(Picture.read(file, "source", size))
    painting = Painting(
        session=session,
        points=strengths_of(method, request["strengths"] if request["layout"] == "sweep" else None),
        method=method,
        art=pictures[0],
        content=pictures[1] if len(pictures) > 1 else None,
        prompt=request["prompt"],
    )
    return painting.draw_one(number)


def _explored(session: Session, search: Sequence[Path], number: int) -> Tensor:
    """Draw a subject again by a method that draws it its own way: all pictures are one choice."""
    request = session.request
    run = explore_by_drawing(
        session,
        request["subject"],
        method=request["method"],
        config=request["config"],
        num_images=request["num_images"],
        seed=request["seed"],
        prompt=request["prompt"],
        judge="none" if request["judge"] is None else "auto",
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
        f"{name}: the picture that this one was made from is not there, nor in {places}; pass the "
        "same file, or its folder, with --source"
    )


def _named(search: Sequence[Path], name: str, is_it: Callable[[Path], bool]) -> Path:
    return _found(name, search, is_it)


def _candidates(name: Path, search: Sequence[Path]) -> Iterator[Path]:
    """Yield the file where it was, then those of its name, then others."""
    if name.is_file():
        yield name
    for place in search:
        if place.is_file():
            yield place
        elif place.is_dir():
            pictures = (file for file in place.iterdir() if file.suffix.lower() in SUFFIXES)
            files = sorted(file for file in pictures if file.is_file())[:MAX_SEARCHED]
            yield from sorted(files, key=lambda file: file.name != name.name)
