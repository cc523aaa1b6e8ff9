"""Fuse words into one concept; sweep from one to another; fill a triangle between three.

Methods that draw a mixture themselves, of words or pictures, are handed on to ``_mix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat import _mix, _readings, formats, plots, registry, vocab
from offbeat._evolve import evolve
from offbeat._keeper import Keeper, few_threads
from offbeat._pictures_out import draw, plain_concept_of, png_files, sheet
from offbeat._runs import (
    Run,
    concept_files,
    default_backbone,
    load_run,
    loaded,
    read_concept,
    reported,
)
from offbeat._trained import find_trained, make_method
from offbeat.errors import CapabilityError, ConfigError, VocabularyError
from offbeat.protocols import FusesConcepts, TextBackbone
from offbeat.store import RunFolder
from offbeat.templates import fill
from offbeat.types import Concept, Observe, Request, Trained, ignore

if TYPE_CHECKING:
    from PIL import Image

Weights = Mapping[str, float] | Iterable[str | Path] | Iterable[tuple[str, float]]
Shares = tuple[tuple[str, float], ...]
METHOD = "distok"
"""What fuses if nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
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
        config = getattr(self.method, "config", None)
        return {
            "verb": "fuse",
            "layout": self.layout,
            "subject": " + ".join(self.words),
            "weights": [[list(pair) for pair in point] for point in self.points],
            "method": self.method.name,
            "config": asdict(config) if is_dataclass(config) else {},  # type: ignore[arg-type]
            "trained": self.digest,
            "judge": self.judge.name if self.judge else None,
            "prompt": self.prompt,
            "num_images": self.num_images,
            "seed": self.seed,
            "checkpoint": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
            "versions": formats.versions(),
        }


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
    device: str = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Check everything, then make and draw the concepts."""
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    if prompt is not None:
        fill(prompt, concept="")  # a prompt without its place fails first
    for word in dict(pair for point in points for pair in point):
        if _mix.has_suffix(word):
            raise VocabularyError(f"{word}: {method} takes words; {_mix.PICTURES}")
    model = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, config)
    _check_method(chosen, model, layout)
    reader = _readings.choose_reader(judge, model)
    found, digest = find_trained(chosen, model, trained)
    job = _Job(
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
                chosen.fuse(model, _request(job, point), trained=found)
    folder = RunFolder.create(Path(out), job.as_json(), resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    return _Fusion(job, folder, observe).run()


def _check_method(method: Any, backbone: TextBackbone, layout: str) -> None:
    """Refuse a method that cannot fuse, not on this checkpoint, or not by weights."""
    if not isinstance(method, FusesConcepts):
        raise ConfigError(f"method: {method.name} fuses nothing; choose one that does")
    needs = getattr(method, "needs", None)
    if needs is not None and not isinstance(backbone, needs):
        raise CapabilityError(method.name, backbone.name, "sample_prior", ("pocket",))
    if layout != "fuse" and not method.takes_weights:
        raise ConfigError(
            f"method: {method.name} takes words without weights, so there is no path between "
            "them; choose another --method"
        )


def _request(job: _Job, point: Shares) -> Request:
    return Request(
        subject=" + ".join(word for word, _ in point),
        weights=point,
        num_images=job.num_images,
        seed=job.seed,
    )


class _Fusion:
    """Makes the concepts of a job, draws them, and writes what was found."""

    def __init__(self, job: _Job, folder: RunFolder | None, observe: Observe) -> None:
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
        probabilities = [_readings.read(job.judge, part) for part in images]
        summary = self._summary(concepts, probabilities)
        asked = job.as_json()
        pictures = [formats.to_pil(part) for part in images]
        ordinary = [formats.to_pil(part) for part in parents]
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
        where = concept_folder(number, len(job.points))
        if folder is not None and folder.exists(where + formats.CONCEPT_FILE):
            self.keeper.reread()
            return self._in_prompt(read_concept(folder, where)[0])
        state = self.keeper.resume(number)
        total = int(getattr(getattr(job.method, "config", None), "num_steps", 1))
        with few_threads(job.backbone):
            concept: Concept = job.method.fuse(
                job.backbone,
                _request(job, point),
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
                row |= _readings.describe(labels, read, dict(point))
                row["images"] = [", ".join(_readings.in_words(labels, one)) for one in read]
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
        named = _readings.caption
        labels = job.judge.labels if job.judge else ()
        if job.layout == "fuse":
            mixed = (_readings.label(job.points[0]), pictures[0])
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
            captions = [_readings.label(point).replace(" + ", "\n") for point in job.points]
            return sheet(rows, title=_in_title(job), captions=captions, columns=len(pictures))
        return plots.png_of(
            plots.triangle_sheet(
                [part[0] for part in pictures], corners=job.words, title=_in_title(job)
            )
        )


def concept_folder(number: int, count: int) -> str:
    """Return where concept ``number`` of ``count`` is kept in a run folder."""
    return f"concepts/{number:04d}/" if count > 1 else ""


def _in_title(job: _Job) -> str:
    return f"{' + '.join(job.words)}, by {job.method.name}"


def _in_words(job: _Job, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found in a sentence or two."""
    if job.layout != "fuse":
        return f"{len(rows)} concepts between {' and '.join(job.words)}, by {job.method.name}."
    row = rows[0]
    text = f"Asked: {_readings.label(job.points[0])}."
    if row.get("mean"):
        shares = ", ".join(f"{share:.0%} {word}" for word, share in row["mean"].items())
        text += f" Read by the judge, mean of {job.num_images}: {shares}".replace("%", " %")
        text += f"; divergence {row['kl']:.2f} nats." if "kl" in row else "."
    return text
