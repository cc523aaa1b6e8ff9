"""Mix two sources, words or picture files, by a method that draws the mixture itself.

Nothing is learned that another prompt could use: such a run holds pictures and no concept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.open import check_needs, default_backbone, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.drawing import DRAW_BATCH, draw, plain_concept_of
from offbeat.core.functional import balance_reward, pair_cosine
from offbeat.core.templates import fill
from offbeat.errors import CapabilityError, ConfigError, ImageError
from offbeat.files.disk import digest_of
from offbeat.files.labels import versions
from offbeat.files.pictures import is_picture, read_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_reader
from offbeat.methods.settings import config_of, make_method, result_of, verbs_of, with_metric
from offbeat.protocols import EncodesImage, TextBackbone
from offbeat.protocols.methods import MorphsSources, Takes
from offbeat.runs import animation, readings
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import BY_METHOD, GIVEN, png_files, sheet, source_files
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import Run, load_run, numerics_of, reported
from offbeat.types import Concept, Observe, Request, ignore

if TYPE_CHECKING:
    from PIL import Image

Shares = tuple[tuple[str, float], ...]


PICTURES = "`magicmix` and `diffmorpher` take pictures, `conceptlab` pictures alone"
"""What an error says to someone who brings a picture to another method."""


def draws_mixtures(method: str) -> bool:
    """Return whether a method draws mixtures itself, and learns no concept.

    Raises:
        UnknownNameError: If there is no such method.
    """
    found = registry.find("method", method)
    return "fuse" in verbs_of(found) and result_of(found) == "pictures"


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
    job = MixJob(
        layout=layout,
        points=points,
        parents=parents,
        method=chosen,
        backbone=model,
        judge=choose_reader(judge, model, words),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """One source: a word, or a picture and where it was."""

    name: str
    """As given, and as the weights name it."""
    picture: Tensor | None = None
    digest: str | None = None

    @property
    def shown(self) -> str:
        """What it is called on a sheet."""
        return self.name if self.picture is None else Path(self.name).name

    def as_json(self) -> dict[str, Any]:
        """Return what the result depends on."""
        if self.picture is None:
            return {"word": self.name}
        return {"picture": self.name, "digest": self.digest}


@dataclass(frozen=True, slots=True, kw_only=True)
class MixJob:
    """Everything that one mixture, or one path of them, is made with."""

    layout: str
    """``fuse`` or ``sweep``."""
    points: Sequence[Shares]
    parents: Sequence[Parent]
    method: Any
    backbone: TextBackbone
    judge: Any
    prompt: str | None
    num_images: int
    seed: int

    @property
    def is_morph(self) -> bool:
        """Whether the method paces the path itself: then a point's shares are not a frame's."""
        return self.layout == "sweep" and isinstance(self.method, MorphsSources)

    @property
    def subject(self) -> str:
        """Both sources by name."""
        return " + ".join(parent.shown for parent in self.parents)

    def as_json(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        return {
            "verb": "fuse",
            "layout": self.layout,
            "subject": self.subject,
            "sources": [parent.as_json() for parent in self.parents],
            "weights": [[list(pair) for pair in point] for point in self._asked],
            "method": self.method.name,
            "config": config_of(self.method),
            "judge": self.judge.name if self.judge else None,
            "prompt": self.prompt,
            "num_images": self.num_images,
            "num_points": len(self.points),
            "seed": self.seed,
            "checkpoint": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
            "versions": versions(),
            **numerics_of(self.backbone),
        }

    @property
    def _asked(self) -> Sequence[Shares]:
        return [] if self.is_morph else self.points

    def request(self, point: Shares, start: int) -> Request:
        """Return what the method is asked: up to ``DRAW_BATCH`` pictures from number ``start``."""
        return Request(
            subject=self.subject,
            prompt=None if self.prompt is None else fill(self.prompt, concept="{subject}"),
            weights=point,
            num_images=min(DRAW_BATCH, self.num_images - start),
            seed=self.seed,
        )


class Mixture:
    """Draws the mixtures of a job, and writes them."""

    def __init__(self, job: MixJob, folder: RunFolder | None, observe: Observe) -> None:
        self.job, self.folder, self.observe = job, folder, observe
        self.keeper = Keeper(folder, observe, stage="searching", label="part", row_every=1)

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        job = self.job
        ordinary = [self._ordinary(parent) for parent in job.parents]
        images = self._mixtures(ordinary)
        rows = [
            self._row(point, part, ordinary) for point, part in zip(job.points, images, strict=True)
        ]
        asked, summary = job.as_json(), self._summary(rows)
        pictures = [to_pil(part) for part in images]
        alone = [to_pil(part) for part in ordinary]
        contact = self._sheet(pictures, alone, rows)
        return reported(
            asked,
            [],
            [picture for part in pictures for picture in part],
            self._files(pictures, alone, asked),
            self.folder,
            title=f"{job.method.name}: {job.subject}",
            contact=contact,
            summary=summary,
            ordinary=[picture for part in alone for picture in part],
            trace=self.keeper.rows,
        )

    def one(self, number: int) -> Tensor:
        """Return picture ``number`` alone, ``[3, H, W]``: the part that it belongs to is drawn."""
        job = self.job
        ordinary = [self._ordinary(parent) for parent in job.parents]
        at, image = divmod(number, job.num_images)
        start = image // DRAW_BATCH * DRAW_BATCH
        point = 0 if job.is_morph else at
        part = self._drawn(0, point, start, ordinary, job.is_morph)  # [P, n, 3, H, W]
        return part[at - point, image - start].cpu()

    def _ordinary(self, parent: Parent) -> Tensor:
        """Return a source alone, ``[N, 3, H, W]``: drawn, or the same picture N times."""
        job = self.job
        if parent.picture is not None:
            return parent.picture.expand(job.num_images, -1, -1, -1)
        plain = plain_concept_of(parent.name, job.backbone, job.prompt)
        return draw(job.backbone, plain, seed=job.seed, num=job.num_images, observe=self.observe)

    def _mixtures(self, ordinary: Sequence[Tensor]) -> list[Tensor]:
        """Return the pictures of each point, ``[N, 3, H, W]``; what was drawn outlives a kill."""
        job = self.job
        whole = job.is_morph
        starts = range(0, job.num_images, DRAW_BATCH)
        parts = [(at, start) for at in range(1 if whole else len(job.points)) for start in starts]
        state = self.folder.load_checkpoint() if self.folder is not None else None
        done = int(state["part"]) if state is not None else 0
        found = dict(self.keeper.resume(done) or {})
        for number, (at, start) in list(enumerate(parts))[done:]:
            drawn = self._drawn(number, at, start, ordinary, whole)
            found[f"{number:06d}"] = drawn.cpu()
            self.observe("mixing", number + 1, len(parts), {})
            if self.folder is not None and number + 1 < len(parts):
                rows = len(self.keeper.rows)
                after = {"part": number + 1, "rows": rows, "search": found}
                self.folder.save_checkpoint(after)
        in_order = [found[f"{number:06d}"] for number in range(len(parts))]  # [P, n, 3, H, W]
        if whole:
            return list(torch.cat(in_order, dim=1))
        each = len(starts)
        return [
            torch.cat([part[0] for part in in_order[at * each : (at + 1) * each]])
            for at in range(len(job.points))
        ]

    def _drawn(
        self, number: int, at: int, start: int, ordinary: Sequence[Tensor], whole: bool
    ) -> Tensor:
        """Return one part, ``[P, n, 3, H, W]``: all points of a path, or one of them."""
        job = self.job
        request = job.request(job.points[at], start)
        rows = slice(start, start + request.num_images)
        settings: dict[str, Any] = {
            "pictures": [part[rows] for part in ordinary],
            "start": start,
            "on_step": self.keeper.observer(number, getattr(job.method, "num_steps", 1)),
        }
        sources = [p.name if p.picture is None else p.picture for p in job.parents]
        if whole:
            frames: Tensor = job.method.morph(
                job.backbone, request, sources, num=len(job.points), **settings
            )
            return frames.transpose(0, 1)
        pictures: Tensor = job.method.mix(job.backbone, request, sources, **settings)
        return pictures[None]

    def _row(self, point: Shares, images: Tensor, ordinary: Sequence[Tensor]) -> dict[str, Any]:
        """Return what is read in the pictures of one point."""
        job = self.job
        row: dict[str, Any] = {} if job.is_morph else {"weights": dict(point)}
        read = readings.read(job.judge, images)
        if read is not None:
            labels = job.judge.labels
            row |= readings.describe(labels, read, dict(point))
            row["images"] = [", ".join(readings.in_words(labels, one)) for one in read]
            row["captions"] = [readings.caption(labels, one) for one in read]
        cosines = likeness(job.backbone, images, ordinary)
        if cosines is not None:
            first, second = cosines
            row["likeness"] = [first.tolist(), second.tolist()]
            row["reward"] = float(balance_reward(first, second).mean())
        return row

    def _summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        job, notes = self.job, []
        if not job.method.takes_weights and len({share for _, share in job.points[0]}) > 1:
            notes.append(f"{job.method.name} heeds no weights: both sources count the same.")
        told = Counter(row["note"] for row in self.keeper.rows if "note" in row)
        notes += [f"{told[note]} of {job.num_images} pictures: {note}." for note in told]
        if job.num_images > 1 and all(parent.picture is not None for parent in job.parents):
            notes.append("Of two pictures all mixtures are nearly the same; one is enough.")
        return {
            "subject": job.subject,
            "prompt": job.prompt,
            "seed": job.seed,
            "judge": job.judge.name if job.judge else None,
            "concepts": [{k: v for k, v in row.items() if k != "captions"} for row in rows],
            "warnings": notes,
            "in_words": _in_words(job, rows),
        }

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        alone: Sequence[list[Image.Image]],
        rows: Sequence[Mapping[str, Any]],
    ) -> bytes:
        job = self.job
        title = f"{job.subject}, by {job.method.name}"
        if job.layout == "sweep":
            names = [parent.shown for parent in job.parents]
            strips = [
                ("" if row else f"{names[0]} to {names[1]}", [part[row] for part in pictures])
                for row in range(job.num_images)
            ]
            captions = [f"{readings.in_percent(point[1][1])} {names[1]}" for point in job.points]
            if job.is_morph:
                captions = [f"frame {number}" for number in range(1, len(job.points) + 1)]
            return sheet(strips, title=title, captions=captions, columns=len(pictures))
        labels = [parent.shown for parent in job.parents]
        found = rows[0]
        captions = list(found.get("captions", [""] * job.num_images))
        note = "Each column is drawn from the same noise."
        if job.judge:
            note += f" Under each: what {job.judge.name} reads"
        if "likeness" in found:
            like = zip(captions, *found["likeness"], strict=True)
            captions = [f"{text}\nlike {a:.2f}, {b:.2f}".strip() for text, a, b in like]
            note += (", then" if job.judge else " Under each:") + (
                " its cosine to both sources' pictures, by the checkpoint's image encoder"
            )
        mixed = (job.method.name, pictures[0])
        return sheet(
            [*zip(labels, alone, strict=True), mixed],
            title=title,
            captions=captions,
            note=note.removesuffix(".") + ".",
        )

    def _moving(self, pictures: Sequence[list[Image.Image]]) -> dict[str, bytes]:
        """Return each path as a GIF, and as an MP4 where ffmpeg is."""
        files: dict[str, bytes] = {}
        for row in range(self.job.num_images):
            frames = animation.there_and_back([part[row] for part in pictures])
            files[f"path-{row:02d}.gif"] = animation.gif(frames)
            film = animation.mp4(frames)
            if film is not None:
                files[f"path-{row:02d}.mp4"] = film
        return files

    def _files(
        self,
        pictures: Sequence[list[Image.Image]],
        alone: Sequence[list[Image.Image]],
        asked: Mapping[str, Any],
    ) -> dict[str, bytes]:
        job, each = self.job, self.job.num_images
        config = getattr(job.method, "config", None)
        used = {
            name: getattr(config, name)
            for name in ("num_inference_steps", "guidance_scale")
            if getattr(config, name, None) is not None
        }
        template = plain_concept_of("", job.backbone, job.prompt).template
        # brackets mark what no word of a prompt stands for
        mixture = Concept(
            template=template,
            subject=job.subject,
            word=f"[{job.subject}]",
            metadata={"method": job.method.name},
        )
        files = self._moving(pictures) if job.layout == "sweep" else {}
        given = [parent.name for parent in job.parents if parent.picture is not None]
        files |= source_files([Path(name).expanduser() for name in given])
        for index, (point, drawn) in enumerate(zip(job.points, pictures, strict=True)):
            place = {"frame": index} if job.is_morph else {"weights": [list(p) for p in point]}
            recipe = {**asked, **used, **place}
            start = index * each
            files |= png_files(
                "images", drawn, recipe, mixture, job.backbone, start=start, drawing=BY_METHOD
            )
        for index, (parent, drawn) in enumerate(zip(job.parents, alone, strict=True)):
            plain = plain_concept_of(parent.shown, job.backbone, job.prompt)
            drawing = None
            if parent.picture is not None:  # shown, not drawn
                drawing = GIVEN
                plain = replace(plain, template="{concept}", metadata={"method": "given"})
            start = index * each
            files |= png_files(
                "ordinary", drawn, asked, plain, job.backbone, start=start, drawing=drawing
            )
        return files


@torch.no_grad()
def likeness(
    backbone: TextBackbone, images: Tensor, parents: Sequence[Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Return the cosines of each picture to the two of its parents, ``[N]`` each.

    Args:
        backbone: Whose image encoder reads; None comes back if it has none.
        images: ``[N, 3, H, W]``.
        parents: Two of ``[N, 3, H, W]``.
    """
    if not isinstance(backbone, EncodesImage):
        return None
    try:
        mixed, first, second = (
            torch.cat([backbone.encode_image(chunk).cpu() for chunk in part.split(16)])
            for part in (images, *parents)
        )
    except CapabilityError:
        return None
    return pair_cosine(mixed, first), pair_cosine(mixed, second)


def _in_words(job: MixJob, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found in a sentence or two."""
    last = f"{job.method.name} learns no concept that another prompt could use."
    if job.layout == "sweep":
        return f"{len(rows)} steps from {job.subject.replace(' + ', ' to ')}. {last}"
    row = rows[0]
    named = {parent.name: parent.shown for parent in job.parents}
    point = [(named[name], share) for name, share in job.points[0]]
    text = f"Asked: {readings.label(point)}."
    if row.get("mean"):
        shares = ", ".join(f"{readings.in_percent(p)} {word}" for word, p in row["mean"].items())
        text += f" Read by the judge, mean of {job.num_images}: {shares}."
    if "likeness" in row:
        first, second = (sum(values) / len(values) for values in row["likeness"])
        text += f" Mean cosine to both sources' pictures: {first:.2f}, {second:.2f}."
    return f"{text} {last}"
