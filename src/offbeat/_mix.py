"""Mix two sources, words or picture files, by a method that draws the mixture itself.

Nothing is learned that another prompt could use: such a run holds pictures and no concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offbeat import _readings, registry
from offbeat._disk import digest_of
from offbeat._drawn import with_metric
from offbeat._keeper import few_threads
from offbeat._mixture import Job, Mixture, Parent, Shares
from offbeat._pictures_out import plain_concept_of
from offbeat._runs import Run, check_needs, default_backbone, load_run, loaded
from offbeat._trained import make_method
from offbeat.backbones._placement import Where
from offbeat.errors import ConfigError, ImageError
from offbeat.pictures import SUFFIXES, read_picture
from offbeat.protocols import Takes, TextBackbone
from offbeat.store import RunFolder
from offbeat.templates import fill
from offbeat.types import Observe, ignore

PICTURES = "`magicmix` and `diffmorpher` take pictures, `conceptlab` pictures alone"
"""What an error says to someone who brings a picture to another method."""


def draws_mixtures(method: str) -> bool:
    """Return whether a method draws mixtures itself, and learns no concept.

    Raises:
        UnknownNameError: If there is no such method.
    """
    return hasattr(registry.find("method", method), "mix")


def has_suffix(name: str) -> bool:
    """Return whether a name ends as a picture's file does."""
    return Path(name).suffix.lower() in SUFFIXES


def is_picture(name: str) -> bool:
    """Return whether a source is meant as a file: by its suffix, or because it names a folder."""
    return has_suffix(name) or "/" in name or "\\" in name


def mix(
    layout: str,
    points: Sequence[Shares],
    num_images: int,
    *,
    method: str,
    config: dict[str, Any] | None = None,
    trained: object = None,
    prompt: str | None = None,
    seed: int = 0,
    judge: str = "auto",
    backbone: str | Path | TextBackbone | None = None,
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Check everything, then draw mixtures by a method that is ``MixesSources``.

    Args:
        layout: ``fuse``, or ``sweep`` for a path.
        points: Both sources with their shares, once for each mixture.
        num_images: Pictures of each.
        method: Its name; the rest is as of ``offbeat.fuse``.
        config: Its settings.
        trained: None: such a method takes nothing trained.
        prompt: With ``{concept}``, where a word of the sources stands.
        seed: Of every draw.
        judge: Who reads the pictures.
        backbone: None is the bundled checkpoint that draws from text, ``pocket-sd``.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder.
        resume: Go on with the run in it.
        observe: Told how far it is.

    Raises:
        ConfigError: If the method does not take these sources.
        ImageError: If a picture is not there or cannot be read.
        CapabilityError: If the checkpoint lacks what the method needs.
    """
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    if trained is not None:
        raise ConfigError(f"trained: {method} takes nothing trained")
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    check_sources(method, [name for name, _ in points[0]])
    model = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, config)
    check_needs(method, chosen.needs, model)
    chosen = with_metric(chosen, model)
    if layout == "sweep" and not chosen.takes_weights:
        raise ConfigError(f"method: {method} heeds no weights, so it draws no path")
    size = min(int(model.card["height"]), int(model.card["width"]))
    parents = [parent_of(name, size) for name, _ in points[0]]
    for parent in parents:  # too long a prompt fails before a folder is made
        if parent.picture is None:
            model.encode_text([plain_concept_of(parent.name, model, prompt).prompt()])
    words = [parent.name for parent in parents if parent.picture is None]
    job = Job(
        layout=layout,
        points=points,
        parents=parents,
        method=chosen,
        backbone=model,
        judge=_readings.choose_reader(judge, model, words),
        prompt=prompt,
        num_images=num_images,
        seed=seed,
    )
    folder = RunFolder.create(Path(out), job.as_json(), resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    with few_threads(model):
        return Mixture(job, folder, observe).run()


def check_sources(method: str, names: Sequence[str]) -> None:
    """Refuse sources that a method does not take, and pictures that are not there.

    Raises:
        ConfigError: With what the method takes.
        ImageError: If a picture's file is not there.
    """
    takes: Takes = registry.find("method", method).takes
    taken = ", then ".join("a " + " or a ".join(kinds) for kinds in takes)
    if len(names) != len(takes):
        raise ConfigError(
            f"sources: {method} mixes two, {taken}; got {len(names)}: {', '.join(names)}"
        )
    for name, kinds in zip(names, takes, strict=True):
        kind = "picture" if is_picture(name) else "word"
        if kind not in kinds:
            raise ConfigError(f"sources: {method} takes {taken}; {name!r} is a {kind}")
        if kind == "picture" and not Path(name).expanduser().is_file():
            raise ImageError(f"{name}: expected a picture file, and there is none")


def parent_of(name: str, size: int) -> Parent:
    """Return a source, read if it is a picture, as a square of ``size`` pixels."""
    if not is_picture(name):
        return Parent(name=name)
    picture = read_picture(name, size=size)
    return Parent(
        name=name, picture=picture, digest=digest_of(Path(name).expanduser().read_bytes())
    )
