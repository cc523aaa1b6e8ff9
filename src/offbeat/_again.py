"""Make a picture again from what it keeps inside, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from offbeat import _again_methods, formats
from offbeat._disk import digest_of, make_folder, write_atomic
from offbeat._keeper import few_threads
from offbeat._learned import of_bytes
from offbeat._pictures_out import draw, draw_embeds
from offbeat._runs import concept_folders, loaded, numerics_of
from offbeat.backbones._placement import Placement, Where
from offbeat.errors import FingerprintError, ImageError, OffbeatError, StoreError
from offbeat.protocols import TextBackbone
from offbeat.store import RunFolder
from offbeat.types import Concept, Observe, ignore


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
    recipe = formats.read_recipe(path)
    how = _drawing_of(recipe, path)
    target = None if out is None else Path(out).expanduser()
    if target is not None and target.exists():
        raise StoreError(f"{target}: is there already; choose another --out")
    model = loaded(str(recipe["checkpoint"]) if backbone is None else backbone,
                   _place(recipe) if device is None else device)  # fmt: skip
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
        image = _again_methods.drawn(recipe, model, search, observe)
    (made,) = formats.to_pil(image[None])
    data = formats.encode_png(made, recipe, concept=formats.read_concept_file(path))
    first = path.read_bytes()
    if target is not None:
        make_folder(target.parent)
        write_atomic(target, data)
    return Again(
        data=data,
        same=data == first,
        same_pixels=data == first or formats.same_pixels(path, made),
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
    now = {**formats.versions(), **numerics_of(model)}
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
    return images[int(recipe["index"])]


def _concept_of(path: Path, digest: str, run: Path) -> Concept:
    """Return the concept that a picture keeps inside, or that its run folder keeps."""
    inside = formats.read_concept_file(path)
    if inside is not None:
        return of_bytes({formats.CONCEPT_FILE: inside}, path)
    try:
        folder = RunFolder.open(run)
        found: list[dict[str, bytes]] = [
            {
                name: folder.read(where + name)
                for name in (formats.CONCEPT_FILE, formats.LORA_FILE)
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
