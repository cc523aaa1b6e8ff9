"""Fuse words into one concept; sweep from one to another; fill a triangle between three.

Methods that draw a mixture themselves, of words or pictures, are in ``mix``; children of pictures
are in ``evolve``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbeat import registry
from offbeat.checkpoints.placement import Where
from offbeat.core import vocab
from offbeat.core.checks import check_whole
from offbeat.errors import ConfigError, VocabularyError
from offbeat.files.pictures import has_suffix, is_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_judge
from offbeat.methods.settings import config_of, steps_of, verbs_of
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.runs import readings
from offbeat.runs.images import png_files, sheet
from offbeat.runs.result import Run, concept_files, costed
from offbeat.runs.sheet import png_of, triangle_sheet
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Observe, Request, Trained, ignore
from offbeat.verbs import mix
from offbeat.verbs.evolve import evolve
from offbeat.verbs.session import Session, Task, in_prompt
from offbeat.verbs.walk import blend, names_concept, walk

if TYPE_CHECKING:
    from PIL import Image

Shares = tuple[tuple[str, float], ...]
Weights = Mapping[str, float] | Iterable[str | Path] | Iterable[tuple[str, float]]
METHOD = "distok"
"""The method that fuses if none is named."""


@costed
def fuse(
    weights: Weights,
    *,
    num_images: int = 8,
    method: str = METHOD,
    config: Mapping[str, Any] | None = None,
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
    """Make one thing of several, and draw it beside each alone.

    Args:
        weights: Words, or words with weights, e.g. ``{"pig": 0.55, "sheep": 0.25, "snake": 0.2}``;
            weights are scaled to sum to 1. Learned tokens, as ``render`` names them, are mixed as
            they are, whatever the method. Some methods take picture files, e.g. ``"cat.png"``.
        num_images: Pictures, 1 or more; picture i of every word shares its noise.
        method: A name from ``registry.names("method")`` that fuses.
        config: Settings of the method by name.
        trained: What ``offbeat train`` wrote, its folder or file; None is what comes with the
            checkpoint.
        prompt: With ``{concept}`` where it stands; None is the method's own.
        seed: Same seed, same pictures.
        judge: Who reads the pictures: ``auto``, ``none``, ``clip``, ``classifier``, or a model as
            ``offbeat list judges`` names it, its folder or hub id.
        backbone: Name, folder, hub id, or a loaded checkpoint; None is the bundled one in the form
            that the method needs.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder; None keeps all in memory.
        resume: Go on with the run in ``out``.
        observe: Told how far it is.

    Raises:
        VocabularyError: If a word is unknown to the method, or the weights cannot be used.
        OffbeatError: Each other kind of bad input has its own, see ``offbeat.errors``.
    """
    point = vocab.shares(_pairs_of(weights))
    if all(names_concept(name) for name, _ in point):  # learned ones, as elites of an archive
        return blend(
            point, num_images=num_images, prompt=prompt, seed=seed, backbone=backbone,
            device=device, out=out, observe=observe,
        )  # fmt: skip
    task = Task(method=method, config=config, trained=trained, prompt=prompt,
                num_images=num_images, seed=seed, judge=judge)  # fmt: skip
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    if mix.draws_mixtures(method):
        return mix.mix(session, "fuse", [point], task)
    evolves = "evolve" in verbs_of(registry.find("method", method))
    if evolves and all(is_picture(name) for name, _ in point):
        return evolve(session, point, task)
    return _fused(session, "fuse", [point], task)


@costed
def sweep(
    first: str | Path,
    second: str | Path,
    *,
    num: int = 9,
    num_images: int = 3,
    method: str = METHOD,
    config: Mapping[str, Any] | None = None,
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
    """Draw the path from one word to another: ``num`` concepts, the ends included.

    Args:
        first: The start; some methods take a picture's file. Two learned tokens, as ``render``
            names them, are walked between, whatever the method.
        second: The end.
        num: Concepts, or frames, 2 or more.
        num_images: Pictures of each; those of one row share their noise.
        method: As in ``fuse``, and so are all that follow.
        config: See ``fuse``.
        trained: See ``fuse``.
        prompt: See ``fuse``.
        seed: See ``fuse``.
        judge: See ``fuse``.
        backbone: See ``fuse``.
        device: See ``fuse``.
        out: See ``fuse``.
        resume: See ``fuse``.
        observe: See ``fuse``.
    """
    check_whole("num", num, 2)
    if names_concept(first) and names_concept(second):
        return walk(
            first, second, num=num, num_images=num_images, prompt=prompt, seed=seed,
            backbone=backbone, device=device, out=out, observe=observe,
        )  # fmt: skip
    task = Task(method=method, config=config, trained=trained, prompt=prompt,
                num_images=num_images, seed=seed, judge=judge)  # fmt: skip
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    ends = [word for word, _ in vocab.shares(_pairs_of([first, second]))]
    shares = [index / (num - 1) for index in range(num)]
    if mix.draws_mixtures(method):
        path = [((ends[0], 1 - share), (ends[1], share)) for share in shares]
        return mix.mix(session, "sweep", path, task)
    points = [_point(ends, [1 - share, share]) for share in shares]
    return _fused(session, "sweep", points, task)


@costed
def grid(
    first: str,
    second: str,
    third: str,
    *,
    num: int = 5,
    num_images: int = 1,
    method: str = METHOD,
    config: Mapping[str, Any] | None = None,
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
    """Fill the triangle between three words: ``num`` concepts along each side.

    Args:
        first: Its upper corner.
        second: Its left corner.
        third: Its right corner.
        num: Concepts along a side, 2 to 12.
        num_images: Pictures of each; the sheet shows the first.
        method: As in ``fuse``, and so are all that follow.
        config: See ``fuse``.
        trained: See ``fuse``.
        prompt: See ``fuse``.
        seed: See ``fuse``.
        judge: See ``fuse``.
        backbone: See ``fuse``.
        device: See ``fuse``.
        out: See ``fuse``.
        resume: See ``fuse``.
        observe: See ``fuse``.
    """
    check_whole("num", num, 2, 12)
    task = Task(method=method, config=config, trained=trained, prompt=prompt,
                num_images=num_images, seed=seed, judge=judge)  # fmt: skip
    if mix.draws_mixtures(method):
        raise ConfigError(f"method: {method} mixes two sources, so it fills no triangle")
    words, last = [word for word, _ in vocab.shares(_pairs_of([first, second, third]))], num - 1
    points = [
        _point(words, [(last - row) / last, (row - column) / last, column / last])
        for row in range(num)
        for column in range(row + 1)
    ]
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    return _fused(session, "grid", points, task)


def _pairs_of(weights: Weights) -> list[tuple[str, float]]:
    """Return words with weights, 1 where there is none.

    Raises:
        VocabularyError: If they are anything else.
    """
    if isinstance(weights, str):
        raise VocabularyError(f"weights: expected several words, got the one text {weights!r}")
    try:
        items = list(weights.items() if isinstance(weights, Mapping) else weights)
        return [
            (str(item), 1.0) if isinstance(item, str | Path) else (str(item[0]), float(item[1]))
            for item in items
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise VocabularyError(
            f"weights: expected words, or words with a number each, got {weights!r}"
        ) from error


def _point(words: Sequence[str], parts: Sequence[float]) -> Shares:
    return tuple((word, part) for word, part in zip(words, parts, strict=True) if part > 1e-9)


def _fused(session: Session, layout: str, points: Sequence[Shares], task: Task) -> Run:
    """Check everything, then make and draw the concepts."""
    words = list(dict.fromkeys(word for point in points for word, _ in point))
    for word in words:
        if has_suffix(word):
            raise VocabularyError(f"{word}: {task.method} takes words; {mix.PICTURES}")
    backbone = session.load(task.method)
    method = session.method(task.method, task.config, "fuse", "does not fuse")
    if layout != "fuse" and not method.takes_weights:
        raise ConfigError(
            f"method: {method.name} takes words without weights, so there is no path between "
            "them; choose another --method"
        )
    judge = choose_judge(task.judge, backbone, ReadsClasses, words=words)
    trained, digest = find_trained(method, backbone, task.trained)
    fusion = Fusion(
        session=session,
        task=task,
        layout=layout,
        points=points,
        words=words,
        method=method,
        trained=trained,
        judge=judge,
    )
    if trained is not None:  # an unknown word fails before a folder is made
        for point in points[:1] if layout == "fuse" else points:
            if len(point) > 1:
                method.fuse(backbone, fusion.request(point), trained=trained)
    finished = session.open(
        {
            "verb": "fuse",
            "layout": layout,
            "subject": " + ".join(words),
            "weights": [[list(pair) for pair in point] for point in points],
            "method": method.name,
            "config": config_of(method),
            "trained": digest,
            "judge": judge.name if judge else None,
            "prompt": task.prompt,
            "num_images": task.num_images,
            "seed": task.seed,
        }
    )
    return session.finished() if finished else fusion.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """One fusion, sweep or grid of words: makes the concepts, draws them, writes what it found."""

    session: Session
    task: Task
    layout: str
    """``fuse``, ``sweep`` or ``grid``."""
    points: Sequence[Shares]
    words: Sequence[str]
    """The words that are fused, in the order given."""
    method: Any
    trained: Trained | None
    judge: Any

    def request(self, point: Shares) -> Request:
        """Return what the method is asked for one weighting."""
        return Request(
            subject=" + ".join(word for word, _ in point),
            weights=point,
            num_images=self.task.num_images,
            seed=self.task.seed,
        )

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        session = self.session
        session.record("searching", "concept", row_every=10)
        concepts = [self._concept(number, point) for number, point in enumerate(self.points)]
        images = [session.draw(concept) for concept in concepts]
        parents = [session.plain(word) for word in self.words]
        ordinary = [to_pil(session.draw(parent)) for parent in parents]
        rows = [
            {"weights": dict(point), **readings.of(self.judge, part, dict(point))}
            for point, part in zip(self.points, images, strict=True)
        ]
        pictures = [to_pil(part) for part in images]
        return session.write(
            concepts,
            [picture for part in pictures for picture in part],
            self._files(concepts, pictures, parents, ordinary),
            summary=self._summary(concepts, rows),
            views={"contact.png": lambda: self._sheet(pictures, ordinary, rows)},
            title=f"{self.method.name}: {session.request['subject']}",
            ordinary=[picture for part in ordinary for picture in part],
        )

    def _concept(self, number: int, point: Shares) -> Concept:
        """Return the concept of one weighting; a corner of a path is the word itself."""
        if len(point) == 1 and self.trained is None:
            return self.session.plain(point[0][0])
        concept = self.session.learn(
            number,
            f"concepts/{number:04d}/" if len(self.points) > 1 else "",
            lambda on_step, state: self.method.fuse(
                self.session.backbone,
                self.request(point),
                trained=self.trained,
                on_step=on_step,
                resume=state,
            ),
            total=steps_of(self.method),
        )
        return in_prompt(concept, self.task.prompt)

    def _files(
        self,
        concepts: Sequence[Concept],
        pictures: Sequence[list[Image.Image]],
        parents: Sequence[Concept],
        ordinary: Sequence[list[Image.Image]],
    ) -> dict[str, bytes]:
        session, each = self.session, self.task.num_images
        request, backbone = session.request, session.backbone
        files = concept_files(concepts, backbone)
        for index, (concept, drawn) in enumerate(zip(concepts, pictures, strict=True)):
            recipe = {**request, "weights": [list(pair) for pair in self.points[index]]}
            files |= png_files("images", drawn, recipe, concept, backbone, start=index * each)
        for index, (parent, drawn) in enumerate(zip(parents, ordinary, strict=True)):
            files |= png_files("ordinary", drawn, request, parent, backbone, start=index * each)
        return files

    def _summary(
        self, concepts: Sequence[Concept], rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        notes = [concept.metadata.get("warning", "") for concept in concepts]
        if not self.method.takes_weights:
            notes.append(f"{self.method.name} ignores weights: only the order of the words counts.")
        return {
            "subject": " + ".join(self.words),
            "prompt": concepts[0].template,
            "seed": self.task.seed,
            "judge": self.judge.name if self.judge else None,
            "concepts": [{k: v for k, v in row.items() if k != "captions"} for row in rows],
            "warnings": list(dict.fromkeys(note for note in notes if note)),
            "in_words": self._in_words(rows),
        }

    def _in_words(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return what was found in a sentence or two."""
        if self.layout != "fuse":
            words = " and ".join(self.words)
            return f"{len(rows)} concepts between {words}, by {self.method.name}."
        label = readings.label(self.points[0])
        return f"Asked: {label}.{readings.sentence(rows[0], self.task.num_images)}"

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        ordinary: Sequence[list[Image.Image]],
        found: Sequence[Mapping[str, Any]],
    ) -> bytes:
        title = f"{' + '.join(self.words)}, by {self.method.name}"
        if self.layout == "grid":
            firsts = [part[0] for part in pictures]
            return png_of(triangle_sheet(firsts, corners=self.words, title=title))
        if self.layout == "sweep":
            rows = [
                ("" if row else f"{self.words[0]} to {self.words[1]}", [p[row] for p in pictures])
                for row in range(self.task.num_images)
            ]
            captions = [readings.label(point).replace(" + ", "\n") for point in self.points]
            return sheet(rows, title=title, captions=captions, columns=len(pictures))
        captions = list(found[0].get("captions", ()))
        note = "Each column is drawn from the same noise."
        if captions:
            note += f" Under each: what {self.judge.name} reads."
        mixed = (readings.label(self.points[0]), pictures[0])
        rows = [*zip(self.words, ordinary, strict=True), mixed]
        return sheet(rows, title=title, captions=captions, note=note)
