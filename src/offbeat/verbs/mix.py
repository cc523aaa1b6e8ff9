"""Mix two sources, words or picture files, by a method that draws the mixture itself.

Nothing is learned that another prompt could use: such a run holds pictures and no concept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.core.drawing import DRAW_BATCH, plain_concept_of
from offbeat.core.functional import balance_reward, pair_cosine
from offbeat.core.templates import fill
from offbeat.core.threads import few_threads
from offbeat.errors import CapabilityError, ConfigError, ImageError
from offbeat.files.disk import digest_of
from offbeat.files.exchange import stem_of
from offbeat.files.pictures import is_picture, read_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of, result_of, verbs_of
from offbeat.protocols import EncodesImage, ReadsClasses, Takes, TextBackbone
from offbeat.runs import animation, readings
from offbeat.runs.images import BY_METHOD, GIVEN, png_files, sheet, source_files
from offbeat.runs.result import Run
from offbeat.types import Concept, Request
from offbeat.verbs.session import Session, Task, View

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
    kind = registry.find("method", method)
    return "fuse" in verbs_of(kind) and result_of(kind) == "pictures"


def mix(session: Session, layout: str, points: Sequence[Shares], task: Task) -> Run:
    """Check everything, then draw mixtures by a method that mixes two sources itself.

    Args:
        session: Not loaded yet.
        layout: ``fuse``, or ``sweep`` for a path.
        points: Both sources with their shares, once for each mixture.
        task: What else is asked.

    Raises:
        ConfigError: If the method does not take these sources.
        ImageError: If a picture is not there or cannot be read.
        CapabilityError: If the checkpoint lacks what the method needs.
    """
    name = task.method
    if task.trained is not None:
        raise ConfigError(f"trained: {name} takes nothing trained")
    check_sources(name, [source for source, _ in points[0]])
    backbone = session.load(name)
    method = session.method(name, task.config, "fuse", "does not mix")
    if layout == "sweep" and not method.takes_weights:
        raise ConfigError(f"method: {name} ignores weights, so it draws no path")
    size = min(int(backbone.card["height"]), int(backbone.card["width"]))
    parents = [parent_of(source, size) for source, _ in points[0]]
    words = [parent.name for parent in parents if parent.picture is None]
    for word in words:  # too long a prompt fails before a folder is made
        backbone.encode_text([plain_concept_of(word, backbone, task.prompt).prompt()])
    mixture = Mixture(
        session=session,
        layout=layout,
        points=points,
        parents=parents,
        method=method,
        judge=choose_judge(task.judge, backbone, ReadsClasses, words=words),
    )
    finished = session.open(mixture.as_json(task))
    if finished:
        return session.finished()
    with few_threads(backbone):
        return mixture.run()


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
            raise ImageError(f"{name}: expected a picture file, and found no file there")


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
class Mixture:
    """One mixture of two sources, or one path of them: draws it, and writes what it found."""

    session: Session
    layout: str
    """``fuse`` or ``sweep``."""
    points: Sequence[Shares]
    parents: Sequence[Parent]
    method: Any
    judge: Any

    @property
    def is_morph(self) -> bool:
        """Whether the method paces the path itself: then a point's shares are not a frame's."""
        return self.layout == "sweep" and hasattr(self.method, "morph")

    @property
    def subject(self) -> str:
        """Both sources by name."""
        return " + ".join(parent.shown for parent in self.parents)

    @property
    def num_images(self) -> int:
        """Pictures of each mixture."""
        return int(self.session.request["num_images"])

    def as_json(self, task: Task) -> dict[str, Any]:
        """Return the request: everything that the result depends on beside the checkpoint."""
        points = [] if self.is_morph else self.points
        return {
            "verb": "fuse",
            "layout": self.layout,
            "subject": self.subject,
            "sources": [parent.as_json() for parent in self.parents],
            "weights": [[list(pair) for pair in point] for point in points],
            "method": self.method.name,
            "config": config_of(self.method),
            "judge": self.judge.name if self.judge else None,
            "prompt": task.prompt,
            "num_images": task.num_images,
            "num_points": len(self.points),
            "seed": task.seed,
        }

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        session = self.session
        session.record("searching", "part")
        ordinary = [self._ordinary(parent) for parent in self.parents]
        images = self._mixtures(ordinary)
        rows = [
            self._row(point, part, ordinary)
            for point, part in zip(self.points, images, strict=True)
        ]
        pictures = [to_pil(part) for part in images]
        alone = [to_pil(part) for part in ordinary]
        paths = [Path(p.name).expanduser() for p in self.parents if p.picture is not None]
        views: dict[str, View] = {
            **source_files(paths),
            "contact.png": lambda: self._sheet(pictures, alone, rows),
        }
        if self.layout == "sweep":
            views |= self._films(pictures)
        return session.write(
            [],
            [picture for part in pictures for picture in part],
            self._files(pictures, alone),
            summary=self._summary(rows),
            views=views,
            title=f"{self.method.name}: {self.subject}",
            ordinary=[picture for part in alone for picture in part],
        )

    def draw_one(self, number: int) -> Tensor:
        """Return picture ``number`` alone, ``[3, H, W]``: its whole batch is drawn."""
        ordinary = [self._ordinary(parent) for parent in self.parents]
        at, image = divmod(number, self.num_images)
        start = image // DRAW_BATCH * DRAW_BATCH
        point = 0 if self.is_morph else at
        part = self._drawn(0, point, start, ordinary)  # [P, n, 3, H, W]
        return part[at - point, image - start].cpu()

    def _ordinary(self, parent: Parent) -> Tensor:
        """Return a source alone, ``[N, 3, H, W]``: drawn, or the same picture N times."""
        if parent.picture is not None:
            return parent.picture.expand(self.num_images, -1, -1, -1)
        return self.session.draw(self.session.plain(parent.name))

    def _mixtures(self, ordinary: Sequence[Tensor]) -> list[Tensor]:
        """Return the pictures of each point, ``[N, 3, H, W]``."""
        starts = range(0, self.num_images, DRAW_BATCH)
        points = range(1 if self.is_morph else len(self.points))
        places = [(at, start) for at in points for start in starts]
        parts = [
            part[""]  # [P, n, 3, H, W]
            for part in self.session.draw_parts(
                "mixing", len(places), lambda n: {"": self._drawn(n, *places[n], ordinary)}
            )
        ]
        if self.is_morph:
            return list(torch.cat(parts, dim=1))
        each = len(starts)
        return [
            torch.cat([part[0] for part in parts[at * each : (at + 1) * each]]) for at in points
        ]

    def _drawn(self, number: int, at: int, start: int, ordinary: Sequence[Tensor]) -> Tensor:
        """Return one part, ``[P, n, 3, H, W]``: all points of a morph, or one of them."""
        recipe, backbone = self.session.request, self.session.backbone
        num = min(DRAW_BATCH, self.num_images - start)
        prompt = recipe["prompt"]
        request = Request(
            subject=self.subject,
            prompt=None if prompt is None else fill(prompt, concept="{subject}"),
            weights=self.points[at],
            num_images=num,
            seed=recipe["seed"],
        )
        steps = getattr(self.method, "num_steps", 1)
        settings: dict[str, Any] = {
            "pictures": [part[start : start + num] for part in ordinary],
            "start": start,
            "on_step": self.session.recorder.observer(number, steps),
        }
        sources = [p.name if p.picture is None else p.picture for p in self.parents]
        if self.is_morph:
            count = len(self.points)
            frames: Tensor = self.method.morph(backbone, request, sources, num=count, **settings)
            return frames.transpose(0, 1)
        pictures: Tensor = self.method.mix(backbone, request, sources, **settings)
        return pictures[None]

    def _row(self, point: Shares, images: Tensor, ordinary: Sequence[Tensor]) -> dict[str, Any]:
        """Return what is read in the pictures of one point."""
        row: dict[str, Any] = {} if self.is_morph else {"weights": dict(point)}
        row |= readings.of(self.judge, images, dict(point))
        cosines = likeness(self.session.backbone, images, ordinary)
        if cosines is not None:
            first, second = cosines
            row["likeness"] = [first.tolist(), second.tolist()]
            row["reward"] = float(balance_reward(first, second).mean())
        return row

    def _summary(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        request, notes = self.session.request, []
        if not self.method.takes_weights and len({share for _, share in self.points[0]}) > 1:
            notes.append(f"{self.method.name} ignores weights: both sources count the same.")
        counts = Counter(row["note"] for row in self.session.recorder.rows if "note" in row)
        notes += [f"{counts[note]} of {self.num_images} pictures: {note}." for note in counts]
        if self.num_images > 1 and all(parent.picture is not None for parent in self.parents):
            notes.append("Of two pictures all mixtures are nearly the same; one is enough.")
        return {
            "subject": self.subject,
            "prompt": request["prompt"],
            "seed": request["seed"],
            "judge": request["judge"],
            "concepts": [{k: v for k, v in row.items() if k != "captions"} for row in rows],
            "warnings": notes,
            "in_words": self._in_words(rows),
        }

    def _in_words(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return what was found in a sentence or two."""
        last = f"{self.method.name} learns no concept that another prompt could use."
        if self.layout == "sweep":
            return f"{len(rows)} steps from {self.subject.replace(' + ', ' to ')}. {last}"
        row = rows[0]
        shown = {parent.name: parent.shown for parent in self.parents}
        text = f"Asked: {readings.label([(shown[n], share) for n, share in self.points[0]])}."
        text += readings.sentence(row, self.num_images)
        if "likeness" in row:
            first, second = (sum(values) / len(values) for values in row["likeness"])
            text += f" Mean cosine to both sources' pictures: {first:.2f}, {second:.2f}."
        return f"{text} {last}"

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        alone: Sequence[list[Image.Image]],
        rows: Sequence[Mapping[str, Any]],
    ) -> bytes:
        title = f"{self.subject}, by {self.method.name}"
        names = [parent.shown for parent in self.parents]
        if self.layout == "sweep":
            strips = [
                ("" if row else f"{names[0]} to {names[1]}", [part[row] for part in pictures])
                for row in range(self.num_images)
            ]
            captions = [f"{readings.in_percent(point[1][1])} {names[1]}" for point in self.points]
            if self.is_morph:
                captions = [f"frame {number}" for number in range(1, len(self.points) + 1)]
            return sheet(strips, title=title, captions=captions, columns=len(pictures))
        row = rows[0]
        captions = list(row.get("captions", [""] * self.num_images))
        note = "Each column is drawn from the same noise."
        if self.judge:
            note += f" Under each: what {self.judge.name} reads"
        if "likeness" in row:
            like = zip(captions, *row["likeness"], strict=True)
            captions = [f"{text}\nlike {a:.2f}, {b:.2f}".strip() for text, a, b in like]
            note += (", then" if self.judge else " Under each:") + (
                " its cosine to both sources' pictures, by the checkpoint's image encoder"
            )
        return sheet(
            [*zip(names, alone, strict=True), (self.method.name, pictures[0])],
            title=title,
            captions=captions,
            note=note.removesuffix(".") + ".",
        )

    def _films(self, pictures: Sequence[list[Image.Image]]) -> dict[str, View]:
        """Return what makes each path a GIF, and an MP4 where ffmpeg is installed."""
        views: dict[str, View] = {}
        for row in range(self.num_images):
            frames = animation.there_and_back([part[row] for part in pictures])
            views[f"path-{row:02d}.gif"] = partial(animation.gif, frames)
            views[f"path-{row:02d}.mp4"] = partial(animation.mp4, frames)
        return views

    def _files(
        self, pictures: Sequence[list[Image.Image]], alone: Sequence[list[Image.Image]]
    ) -> dict[str, bytes]:
        """Return every picture's file: the mixtures, and both sources alone."""
        request, backbone, each = self.session.request, self.session.backbone, self.num_images
        recipe = {**request, **steering_of(self.method)}
        mixture = Concept(
            template=plain_concept_of("", backbone, request["prompt"]).template,
            subject=self.subject,
            word=f"<{stem_of(self.subject)}>",
            metadata={"method": self.method.name},
        )
        files: dict[str, bytes] = {}
        for index, (point, drawn) in enumerate(zip(self.points, pictures, strict=True)):
            place = {"frame": index} if self.is_morph else {"weights": [list(p) for p in point]}
            place_recipe, at = {**recipe, **place}, index * each
            files |= png_files(
                "images", drawn, place_recipe, mixture, backbone, start=at, drawing=BY_METHOD
            )
        for index, (parent, drawn) in enumerate(zip(self.parents, alone, strict=True)):
            plain, drawing = self.session.plain(parent.shown), None
            if parent.picture is not None:  # shown, not drawn
                drawing = GIVEN
                plain = replace(plain, template="{concept}", metadata={"method": "given"})
            files |= png_files(
                "ordinary", drawn, request, plain, backbone, start=index * each, drawing=drawing
            )
        return files


def steering_of(method: Any) -> dict[str, Any]:
    """Return the steps and the guidance scale that a method draws with, where it sets them."""
    config = getattr(method, "config", None)
    settings = {name: getattr(config, name, None) for name in STEERING}
    return {name: value for name, value in settings.items() if value is not None}


STEERING = ("num_inference_steps", "guidance_scale")


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
