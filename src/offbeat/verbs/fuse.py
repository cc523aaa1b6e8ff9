"""Fuse words into one concept; sweep from one to another; fill a triangle between three.

Methods that draw a mixture themselves, of words or pictures, are handed on to ``_mix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.open import check_needs, default_backbone, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core import vocab
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.templates import fill
from offbeat.errors import ConfigError, VocabularyError
from offbeat.files.concept import CONCEPT_FILE
from offbeat.files.labels import versions
from offbeat.files.pictures import has_suffix, is_picture
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_reader
from offbeat.methods.settings import config_of, make_method, steps_of, verbs_of
from offbeat.protocols import TextBackbone
from offbeat.protocols.methods import FusesConcepts
from offbeat.runs import readings
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import png_files, sheet
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import (
    Run,
    concept_files,
    costed,
    load_run,
    numerics_of,
    read_concept,
    reported,
)
from offbeat.runs.sheet import png_of, triangle_sheet
from offbeat.runs.trained import find_trained
from offbeat.types import Concept, Observe, Request, Trained, ignore
from offbeat.verbs import mix
from offbeat.verbs.evolve import evolve

if TYPE_CHECKING:
    from PIL import Image

Shares = tuple[tuple[str, float], ...]


Weights = Mapping[str, float] | Iterable[str | Path] | Iterable[tuple[str, float]]
METHOD = "distok"
"""What fuses if nothing is said."""


@costed
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
    if mix.draws_mixtures(settings.setdefault("method", METHOD)):
        return mix.mix("fuse", [point], num_images, **settings)
    evolves = "evolve" in verbs_of(registry.find("method", settings["method"]))
    if evolves and all(is_picture(name) for name, _ in point):
        return evolve(point, num_images, **settings)
    return _prepared("fuse", [point], num_images, **settings)


@costed
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
    if mix.draws_mixtures(settings.setdefault("method", METHOD)):
        path = [((one, 1 - end), (other, end)) for end in ends]
        return mix.mix("sweep", path, num_images, **settings)
    points = [_point([one, other], [1 - end, end]) for end in ends]
    return _prepared("sweep", points, num_images, **settings)


@costed
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
    if mix.draws_mixtures(method := settings.setdefault("method", METHOD)):
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
        if has_suffix(word):
            raise VocabularyError(f"{word}: {method} takes words; {mix.PICTURES}")
    model = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, config)
    _check_method(chosen, model, layout)
    reader = choose_reader(judge, model, words)
    found, digest = find_trained(chosen, model, trained)
    job = FuseJob(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseJob:
    """Everything that one fusion, sweep or grid is made with."""

    layout: str
    """``fuse``, ``sweep`` or ``grid``."""
    points: Sequence[Shares]
    method: Any
    backbone: TextBackbone
    trained: Trained | None
    digest: str | None
    judge: Any
    prompt: str | None
    num_images: int
    seed: int

    @property
    def words(self) -> list[str]:
        """The words that are fused, in the order given."""
        return list(dict.fromkeys(word for point in self.points for word, _ in point))

    def as_json(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        return {
            "verb": "fuse",
            "layout": self.layout,
            "subject": " + ".join(self.words),
            "weights": [[list(pair) for pair in point] for point in self.points],
            "method": self.method.name,
            "config": config_of(self.method),
            "trained": self.digest,
            "judge": self.judge.name if self.judge else None,
            "prompt": self.prompt,
            "num_images": self.num_images,
            "seed": self.seed,
            "checkpoint": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
            "versions": versions(),
            **numerics_of(self.backbone),
        }


def request_of(job: FuseJob, point: Shares) -> Request:
    """Return what a method is asked for one weighting."""
    return Request(
        subject=" + ".join(word for word, _ in point),
        weights=point,
        num_images=job.num_images,
        seed=job.seed,
    )


class Fusion:
    """Makes the concepts of a job, draws them, and writes what was found."""

    def __init__(self, job: FuseJob, folder: RunFolder | None, observe: Observe) -> None:
        self.job, self.folder, self.observe = job, folder, observe
        self.keeper = Keeper(
            folder, observe, stage="searching", label="concept", row_every=10, checkpoint_every=50
        )

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        job = self.job
        concepts = [self._concept(number, point) for number, point in enumerate(job.points)]
        images = [self._drawn(concept) for concept in concepts]
        parents = [self._drawn(self._plain(word)) for word in job.words]
        probabilities = [readings.read(job.judge, part) for part in images]
        summary = self._summary(concepts, probabilities)
        asked = job.as_json()
        pictures = [to_pil(part) for part in images]
        ordinary = [to_pil(part) for part in parents]
        files = concept_files(concepts, job.backbone)
        for index, (concept, drawn) in enumerate(zip(concepts, pictures, strict=True)):
            recipe = {**asked, "weights": [list(pair) for pair in job.points[index]]}
            start = index * job.num_images
            files |= png_files("images", drawn, recipe, concept, job.backbone, start=start)
        for index, (word, drawn) in enumerate(zip(job.words, ordinary, strict=True)):
            start = index * job.num_images
            plain = self._plain(word)
            files |= png_files("ordinary", drawn, asked, plain, job.backbone, start=start)
        return reported(
            asked,
            concepts,
            [picture for part in pictures for picture in part],
            files,
            self.folder,
            title=f"{job.method.name}: {asked['subject']}",
            contact=self._sheet(pictures, ordinary, probabilities),
            summary=summary,
            ordinary=[picture for part in ordinary for picture in part],
            trace=self.keeper.rows,
        )

    def _concept(self, number: int, point: Shares) -> Concept:
        """Return the concept of one weighting; a corner of a path is the word itself."""
        job, folder = self.job, self.folder
        if len(point) == 1 and job.trained is None:
            return self._plain(point[0][0])
        where = _concept_folder(number, len(job.points))
        if folder is not None and folder.exists(where + CONCEPT_FILE):
            self.keeper.reread()
            return self._in_prompt(read_concept(folder, where)[0])
        state = self.keeper.resume(number)
        total = steps_of(job.method)
        with few_threads(job.backbone):
            concept: Concept = job.method.fuse(
                job.backbone,
                request_of(job, point),
                trained=job.trained,
                on_step=self.keeper.observer(number, total),
                resume=state,
            )
        concept = self._in_prompt(concept)
        if folder is not None and self.keeper.rows:  # a search's result outlives a kill
            files = concept_files([concept], job.backbone)
            folder.write({where + name: data for name, data in files.items()})
        return concept

    def _in_prompt(self, concept: Concept) -> Concept:
        prompt = self.job.prompt
        return concept if prompt is None else replace(concept, template=prompt)

    def _plain(self, word: str) -> Concept:
        """Return a word as it is, in the prompt of the run."""
        return plain_concept_of(word, self.job.backbone, self.job.prompt)

    def _drawn(self, concept: Concept) -> Tensor:
        job = self.job
        return draw(job.backbone, concept, seed=job.seed, num=job.num_images, observe=self.observe)

    def _summary(
        self, concepts: Sequence[Concept], probabilities: Sequence[Tensor | None]
    ) -> dict[str, Any]:
        job = self.job
        rows = []
        for point, read in zip(job.points, probabilities, strict=True):
            row: dict[str, Any] = {"weights": dict(point)}
            if read is not None:
                labels = job.judge.labels
                row |= readings.describe(labels, read, dict(point))
                row["images"] = [", ".join(readings.in_words(labels, one)) for one in read]
            rows.append(row)
        notes = [concept.metadata.get("warning", "") for concept in concepts]
        if not job.method.takes_weights:
            notes.append(
                f"{job.method.name} takes words without weights: they set the order alone."
            )
        return {
            "subject": " + ".join(job.words),
            "prompt": concepts[0].template,
            "seed": job.seed,
            "judge": job.judge.name if job.judge else None,
            "concepts": rows,
            "warnings": list(dict.fromkeys(note for note in notes if note)),
            "in_words": _in_words(job, rows),
        }

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        ordinary: Sequence[list[Image.Image]],
        probabilities: Sequence[Tensor | None],
    ) -> bytes:
        job = self.job
        named = readings.caption
        labels = job.judge.labels if job.judge else ()
        if job.layout == "fuse":
            mixed = (readings.label(job.points[0]), pictures[0])
            rows = [*zip(job.words, ordinary, strict=True), mixed]
            read = probabilities[0]
            captions = [named(labels, one) for one in read] if read is not None else []
            note = "Each column is drawn from the same noise."
            if job.judge:
                note += f" Under each: what {job.judge.name} reads."
            return sheet(rows, title=_in_title(job), captions=captions, note=note)
        if job.layout == "sweep":
            rows = [
                ("" if row else f"{job.words[0]} to {job.words[1]}", [p[row] for p in pictures])
                for row in range(job.num_images)
            ]
            captions = [readings.label(point).replace(" + ", "\n") for point in job.points]
            return sheet(rows, title=_in_title(job), captions=captions, columns=len(pictures))
        return png_of(
            triangle_sheet([part[0] for part in pictures], corners=job.words, title=_in_title(job))
        )


def _concept_folder(number: int, count: int) -> str:
    """Return where concept ``number`` of ``count`` is kept in a run folder."""
    return f"concepts/{number:04d}/" if count > 1 else ""


def _in_title(job: FuseJob) -> str:
    return f"{' + '.join(job.words)}, by {job.method.name}"


def _in_words(job: FuseJob, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found in a sentence or two."""
    if job.layout != "fuse":
        return f"{len(rows)} concepts between {' and '.join(job.words)}, by {job.method.name}."
    row = rows[0]
    text = f"Asked: {readings.label(job.points[0])}."
    if row.get("mean"):
        shares = ", ".join(f"{readings.in_percent(p)} {word}" for word, p in row["mean"].items())
        text += f" Read by the judge, mean of {job.num_images}: {shares}"
        text += f"; divergence {row['kl']:.2f} nats." if "kl" in row else "."
    return text
