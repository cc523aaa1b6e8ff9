"""Make the concepts of a fusion, a path or a triangle, draw and write them: behind ``_fuse``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat import _readings, formats, plots
from offbeat._keeper import Keeper, few_threads
from offbeat._pictures_out import draw, plain_concept_of, png_files, sheet
from offbeat._runs import Run, concept_files, numerics_of, read_concept, reported
from offbeat._trained import config_of
from offbeat.protocols import TextBackbone
from offbeat.store import RunFolder
from offbeat.types import Concept, Observe, Request, Trained

if TYPE_CHECKING:
    from PIL import Image

Shares = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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
            "versions": formats.versions(),
            **numerics_of(self.backbone),
        }


def request_of(job: Job, point: Shares) -> Request:
    return Request(
        subject=" + ".join(word for word, _ in point),
        weights=point,
        num_images=job.num_images,
        seed=job.seed,
    )


class Fusion:
    """Makes the concepts of a job, draws them, and writes what was found."""

    def __init__(self, job: Job, folder: RunFolder | None, observe: Observe) -> None:
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
        where = _concept_folder(number, len(job.points))
        if folder is not None and folder.exists(where + formats.CONCEPT_FILE):
            self.keeper.reread()
            return self._in_prompt(read_concept(folder, where)[0])
        state = self.keeper.resume(number)
        total = int(getattr(getattr(job.method, "config", None), "num_steps", 1))
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


def _concept_folder(number: int, count: int) -> str:
    """Return where concept ``number`` of ``count`` is kept in a run folder."""
    return f"concepts/{number:04d}/" if count > 1 else ""


def _in_title(job: Job) -> str:
    return f"{' + '.join(job.words)}, by {job.method.name}"


def _in_words(job: Job, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what was found in a sentence or two."""
    if job.layout != "fuse":
        return f"{len(rows)} concepts between {' and '.join(job.words)}, by {job.method.name}."
    row = rows[0]
    text = f"Asked: {_readings.label(job.points[0])}."
    if row.get("mean"):
        shares = ", ".join(f"{_readings.in_percent(p)} {word}" for word, p in row["mean"].items())
        text += f" Read by the judge, mean of {job.num_images}: {shares}"
        text += f"; divergence {row['kl']:.2f} nats." if "kl" in row else "."
    return text
