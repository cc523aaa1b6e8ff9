"""An archive: the most valid concept for every place of a map of what its pictures look like.

MAP-Elites over concepts: emitters of pyribs propose, workers draw and look, the archive keeps the
best of each cell. Source: Mouret and Clune, MAP-Elites, arXiv:1504.04909; Fontaine et al., CMA-ME,
arXiv:1912.02400; Vassiliades and Mouret, line mutations, arXiv:1804.03906.

Every proposal follows from the seed and from what was seen before. So a killed archive goes on by
proposing anew and reading what was seen from the trace: nothing of pyribs is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_range, check_whole
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, MissingExtraError
from offbeat.files.cache import cached
from offbeat.files.png import to_pil
from offbeat.methods.distok.method import DisTok
from offbeat.methods.distok.space import Space as DisTokSpace
from offbeat.methods.distok.space import draw_latent
from offbeat.protocols import TextBackbone
from offbeat.runs.images import png_files
from offbeat.runs.plots import heat_map, panels
from offbeat.runs.result import Run, concept_files, costed
from offbeat.runs.sheet import place_sheet, png_of
from offbeat.runs.trained import find_trained
from offbeat.scale.looking import (
    VALIDITY,
    Descriptors,
    Eyes,
    Look,
    check_axes,
    points_to_learn,
)
from offbeat.scale.space import ConceptSpace
from offbeat.scale.worker import Engine, InlineEngine, in_order
from offbeat.types import Observe, ignore
from offbeat.verbs.session import (
    Session,
    check_numbers,
    check_template,
    checked_text,
    conditions_of,
)

EMITTERS = ("mutation", "line", "improvement", "words")
"""Who proposes: changed elites, points on the line between two, CMA-ME, mixtures of known words."""
RIVALS = ("random", "seeds")
"""To compare with: points around the subject; the subject itself with other noise."""
NUM_FIT = 64
"""Concepts that the axes are learned of."""
CHUNK = 4
"""Concepts that a worker sees at once."""
PLACES = ("backbone", "device")
"""Of a look: the run folder says these in its own way."""
KINDS = ("grid", "cvt")
MIN_VALIDITY = 0.5
"""Below it, less than half of a concept's pictures pass: others may come from it, but it is not
shown, and its place counts as empty."""


@costed
def archive(
    subject: str,
    *,
    axes: Sequence[str] = (),
    kind: str = "grid",
    cells: int = 8,
    evaluations: int = 256,
    batch_size: int = 4,
    emitters: Sequence[str] = EMITTERS,
    sigma: float = 1.5,
    runs: Sequence[str | Path] = (),
    num_axes: int = 16,
    quality: str = "validity",
    judge: str = "auto",
    num_images: int = 2,
    num_inference_steps: int | None = None,
    prompt: str | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    backbone: str | Path | TextBackbone = "pocket",
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Fill a map with concepts that are still the subject and look different from each other.

    Args:
        subject: A word, e.g. ``teapot``.
        axes: Of the map, at most two: ``round..spiky`` by the direction between two texts,
            ``with:bird`` by what a judge finds there, ``learned`` for what pictures differ most in,
            which every axis is that is not named.
        kind: ``grid``, or ``cvt`` for cells of equal share of the map.
        cells: Along a side; a ``cvt`` has its square of them. 2 to 64.
        evaluations: Concepts that are drawn and looked at.
        batch_size: Concepts that each emitter proposes at a time.
        emitters: Who proposes: ``mutation``, ``line``, ``improvement``, ``words``; or, to compare
            with, ``random`` or ``seeds``.
        sigma: How far from the subject proposals begin, in standard deviations of known tokens.
        runs: Explorations of the subject whose tokens and LoRA factors are directions, too.
        num_axes: Axes of the token that are searched in.
        quality: ``validity`` by the judge, or any metric of ``offbeat list metrics``, such as
            ``taste=FILE``.
        judge: As of ``explore``.
        num_images: Pictures that are looked at of each concept.
        num_inference_steps: Of these; None is the checkpoint's own.
        prompt: With ``{concept}``; None is the checkpoint's own.
        seed: Same seed, same archive, on any number of workers.
        engine: Who draws and looks; None is this process.
        backbone: Name, folder, hub id, or a loaded checkpoint, if there is no engine.
        device: Where to run, or a ``Placement``.
        out: Run folder; None keeps all in memory.
        resume: Go on with the archive in ``out``.
        observe: Told how far it is.

    Returns:
        A run with a concept for each elite, in the order of the cells.

    Raises:
        ConfigError: If a setting is out of its range.
        MissingExtraError: If pyribs is not installed.
    """
    if find_spec("ribs") is None:
        raise MissingExtraError("an archive", "qd")
    subject = checked_text("subject", subject)
    check_numbers(num_images=num_images, seed=seed, evaluations=evaluations, batch_size=batch_size)
    check_whole("cells", cells, 2, 64)
    check_whole("num_axes", num_axes, 1)
    check_range("sigma", sigma, 0, 10, open_low=True)
    check_template(prompt)
    if kind not in KINDS:
        raise ConfigError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    for name in emitters:
        if name not in (*EMITTERS, *RIVALS):
            expected = ", ".join((*EMITTERS, *RIVALS))
            raise ConfigError(f"emitters: expected some of {expected}, got {name!r}")
    look = Look(
        backbone=backbone,
        device=device,
        subject=subject,
        prompt=prompt,
        runs=tuple(map(str, runs)),
        num_axes=num_axes,
        num_images=num_images,
        num_inference_steps=num_inference_steps,
        judge=judge,
        quality=quality,
        axes=check_axes(axes),
    )
    if engine is not None and not isinstance(backbone, str | Path):
        raise ConfigError("backbone: with workers, expected a name or a folder")
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    session.load()
    looked = {n: getattr(look, n) for n in look.__dataclass_fields__ if n not in PLACES}
    finished = session.open(
        {
            "verb": "archive",
            "method": "archive",
            **looked,
            "kind": kind,
            "cells": cells,
            "evaluations": evaluations,
            "batch_size": batch_size,
            "emitters": list(emitters),
            "sigma": sigma,
            "seed": seed,
        }
    )
    if finished:
        return session.finished()
    return Search(session, look, engine or InlineEngine(), Eyes(look, session.backbone)).run()


@dataclass(frozen=True, slots=True)
class Search:
    """One archive at work."""

    session: Session
    look: Look
    engine: Engine
    eyes: Eyes

    def run(self) -> Run:
        """Fill the archive, draw its elites, write what was found."""
        session, request = self.session, self.session.request
        descriptors = self._descriptors()
        elites, scheduler = scheduler_of(request, descriptors, self.eyes.space, session.backbone)
        self._replay_or_see(scheduler, elites, descriptors)
        data = elites.data(return_type="dict")
        kept = [at for at, value in enumerate(data["objective"]) if self._is_kept(value)]
        if not kept:
            raise ConfigError(
                f"archive: the judge took none of {request['evaluations']} concepts for a "
                f"{self.look.subject}; lower sigma, or name another judge or quality"
            )
        order = sorted(kept, key=lambda at: int(data["index"][at]))
        solutions = torch.tensor(data["solution"], dtype=torch.float64)[order]
        concepts = [self.eyes.space.concept(point) for point in solutions]
        seeds = torch.tensor(data["picture_seed"]).long().flatten()[order].tolist()
        pictures, files = [], concept_files(concepts, session.backbone)
        for number, (concept, seed) in enumerate(zip(concepts, seeds, strict=True)):
            part = to_pil(self.eyes.draw(concept, seed, self.look.num_images))
            files |= png_files(
                "images",
                part,
                {**request, "num_inference_steps": self._steps()},
                concept,
                session.backbone,
                seed=seed,
                start=number * self.look.num_images,
                drawing={"decoding": {"num_inference_steps": self._steps()}},
            )
            pictures += part
            session.observe("drawing the elites", number + 1, len(concepts), {})
        rows = [
            {
                "cell": int(data["index"][at]),
                "quality": float(data["objective"][at]),
                "place": [float(value) for value in data["measures"][at]],
                "point": [float(value) for value in data["solution"][at]],
            }
            for at in order
        ]
        return session.write(
            concepts,
            pictures,
            files,
            summary=self._summary(elites, descriptors, rows),
            views=self._views(elites, descriptors, rows, pictures),
            title=f"An archive of {self.look.subject}",
        )

    def _is_kept(self, quality: float) -> bool:
        """Return whether a concept is shown; a metric's number is no share that passed."""
        return self.look.quality != VALIDITY or quality >= MIN_VALIDITY

    def _steps(self) -> int:
        usual = int(self.session.backbone.card["num_inference_steps"])
        return self.look.num_inference_steps or usual

    def _see(self, items: Sequence[tuple[list[float], int]]) -> list[dict[str, Any]]:
        """Return what workers see of points; how many workers there are changes no chunk."""
        chunks = [list(items[at : at + CHUNK]) for at in range(0, len(items), CHUNK)]
        return [row for part in in_order(self.engine.run(self.look, chunks)) for row in part]

    def _descriptors(self) -> Descriptors:
        """Learn the axes once for a subject: archives of other seeds have the same map."""
        request = self.session.request
        skipped = ("kind", "cells", "evaluations", "batch_size", "emitters", "seed")
        key = {
            "version": 2,
            **{name: value for name, value in request.items() if name not in skipped},
            **conditions_of(self.session.backbone),
        }

        def fit() -> tuple[dict[str, Tensor], dict[str, Any]]:
            self.session.observe("what the axes are", 0, 1, {})
            points = points_to_learn(self.eyes.space, NUM_FIT, float(request["sigma"]))
            seen = self._see(points)
            made = Descriptors.fit(check_axes(self.look.axes), seen)
            return {"mean": made.mean, "directions": made.directions}, {"ranges": made.ranges}

        tensors, about = cached("archives", key, fit)
        low, high = (tuple(ends) for ends in about["ranges"])
        return Descriptors(
            check_axes(self.look.axes), tensors["mean"], tensors["directions"], (low, high)
        )

    def _replay_or_see(self, scheduler: Any, elites: Any, descriptors: Descriptors) -> None:
        """Fill the archive; generations that an earlier process saw are read, not seen."""
        session, request = self.session, self.session.request
        rows = session.recorder.rows
        old = session.folder.trace() if session.folder is not None else []
        total, count = int(request["evaluations"]), 0
        while count < total:
            points = torch.as_tensor(scheduler.ask(), dtype=torch.float64)
            seeds = [request["seed"]] * len(points)
            if "seeds" in request["emitters"]:
                seeds = [request["seed"] * total + count + at for at in range(len(points))]
            if old:
                row = old.pop(0)
            else:
                seen = self._see(list(zip(points.tolist(), seeds, strict=True)))
                row = {
                    "quality": [entry["quality"] for entry in seen],
                    "places": descriptors.places(seen).tolist(),
                }
                if session.folder is not None:
                    session.folder.append_trace({"generation": len(rows), **row})
            scheduler.tell(row["quality"], row["places"], picture_seed=seeds)
            count += len(points)
            values = [float(v) for v in elites.data("objective") if self._is_kept(v)]
            readings = {"coverage": len(values) / int(elites.cells), "qd_score": sum(values)}
            rows.append({"generation": len(rows), **row, **readings, "evaluations": count})
            session.observe("concepts", min(count, total), total, readings)

    def _summary(
        self, elites: Any, descriptors: Descriptors, rows: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        request, last = self.session.request, self.session.recorder.rows[-1]
        best = max(rows, key=lambda row: float(row["quality"]))
        return {
            "subject": self.look.subject,
            "prompt": self.eyes.space.template,
            "seed": request["seed"],
            "judge": self.eyes.judge.name if self.eyes.judge else None,
            "quality": self.look.quality,
            "axes": list(descriptors.axes),
            "ranges": [list(ends) for ends in descriptors.ranges],
            "cells": int(elites.cells),
            **{name: last[name] for name in ("evaluations", "coverage", "qd_score")},
            "best": rows.index(best),
            "elites": list(rows),
            "warnings": [],
            "in_words": f"{len(rows)} of {elites.cells} places of the map are filled, by "
            f"{last['evaluations']} concepts. Mean quality of those kept: "
            f"{last['qd_score'] / len(rows):.2f}.",
        }

    def _views(
        self,
        elites: Any,
        descriptors: Descriptors,
        rows: Sequence[dict[str, Any]],
        pictures: Sequence[Any],
    ) -> dict[str, Any]:
        side = int(self.session.request["cells"])
        labels = [label_of(axis, number) for number, axis in enumerate(descriptors.axes)]
        title = f"An archive of {self.look.subject}"

        def gallery() -> bytes:
            return png_of(
                place_sheet(
                    [pictures[at * self.look.num_images] for at in range(len(rows))],
                    [place_of(elites, row["cell"], descriptors.ranges) for row in rows],
                    cells=side,
                    labels=labels,
                    captions=[f"{at}   {row['quality']:.2f}" for at, row in enumerate(rows)],
                    title=title,
                )
            )

        def heat() -> bytes:
            return heat_map(
                quality_map(elites, rows, descriptors.ranges), descriptors.ranges,
                labels=labels, title=f"{title}: {self.look.quality}",
            )  # fmt: skip

        def curves() -> bytes:
            trace = self.session.recorder.rows
            shown = {
                "Coverage": ("share of the cells", "coverage"),
                "QD-score": ("sum of the qualities kept", "qd_score"),
            }
            readings = {
                name: (unit, {self.look.subject: [[float(row[key]) for row in trace]]})
                for name, (unit, key) in shown.items()
            }
            return panels(readings, across="generation")

        return {"contact.png": gallery, "map.png": heat, "curve.png": curves}


def label_of(axis: str, number: int) -> str:
    """Return what stands at an axis of the map."""
    if axis == "learned":
        return f"what pictures differ {'most' if number == 0 else 'second most'} in"
    return axis.replace("..", " to ")


def place_of(elites: Any, cell: int, ranges: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the middle of a cell on the map, 0 to 1 across and up."""
    if hasattr(elites, "centroids"):
        middle = [float(value) for value in elites.centroids[cell]]
        across, up = (
            (v - low) / (high - low) for v, (low, high) in zip(middle, ranges, strict=True)
        )
        return across, up
    wide, high = (int(size) for size in elites.dims)
    column, row = divmod(cell, high)
    return (column + 0.5) / wide, (row + 0.5) / high


def quality_map(
    elites: Any,
    rows: Sequence[dict[str, Any]],
    ranges: Sequence[tuple[float, float]],
    size: int = 160,
) -> Tensor:
    """Return the quality at each point of the map, ``[size, size]``; NaN where nothing is kept."""
    across, up = (torch.linspace(*ends, size, dtype=torch.float64) for ends in ranges)
    grid = torch.cartesian_prod(up, across).flip(1)
    kept = {int(row["cell"]): float(row["quality"]) for row in rows}
    cells = elites.index_of(grid.numpy()).tolist()
    return torch.tensor([kept.get(cell, float("nan")) for cell in cells]).view(size, size)


# --- pyribs


def scheduler_of(
    request: dict[str, Any], descriptors: Descriptors, space: ConceptSpace, backbone: Any
) -> tuple[Any, Any]:
    """Return an empty archive and the scheduler of its emitters."""
    from ribs.archives import CVTArchive, GridArchive
    from ribs.emitters import EvolutionStrategyEmitter, GaussianEmitter, IsoLineEmitter
    from ribs.schedulers import Scheduler

    cells, sigma = int(request["cells"]), float(request["sigma"])
    common: dict[str, Any] = {
        "solution_dim": space.size,
        "ranges": descriptors.ranges,
        "extra_fields": {"picture_seed": ((), "int64")},
    }
    if request["kind"] == "grid":
        elites = GridArchive(dims=(cells, cells), seed=seed_of(request["seed"], "elites"), **common)
    else:
        elites = CVTArchive(centroids=cells * cells, seed=0, samples=20_000, **common)
    start, batch = torch.zeros(space.size).tolist(), int(request["batch_size"])

    def made(name: str) -> Any:
        number = seed_of(request["seed"], name)
        if name == "mutation":
            return GaussianEmitter(elites, sigma=sigma, x0=start, batch_size=batch, seed=number)
        if name == "line":
            return IsoLineEmitter(
                elites, iso_sigma=sigma / 4, line_sigma=0.4, x0=start, batch_size=batch, seed=number
            )
        if name == "improvement":
            return EvolutionStrategyEmitter(
                elites, x0=start, sigma0=sigma, ranker="2imp", batch_size=batch, seed=number
            )
        ask = {"words": words, "random": scattered, "seeds": still}[name]
        return proposing(elites, ask(space, request, backbone), space.size, batch)

    return elites, Scheduler(elites, [made(name) for name in request["emitters"]])


def seed_of(seed: int, name: str) -> int:
    """Return the number that an emitter of pyribs is started with."""
    return int(torch.randint(2**31, (), generator=stream(seed, "archive", name)))


def proposing(elites: Any, points: Iterator[Tensor], size: int, batch: int) -> Any:
    """Return an emitter that proposes points of a sequence, whatever became of those before."""
    from ribs.emitters import EmitterBase

    class Proposing(EmitterBase):  # type: ignore[misc]
        def ask(self) -> Any:
            return torch.stack([next(points) for _ in range(batch)]).double().numpy()

        def tell(self, *args: Any, **fields: Any) -> None:
            """Learn nothing."""

    return Proposing(
        elites,
        solution_dim=size,
        bounds=None,
        lower_bounds=[-math.inf] * size,
        upper_bounds=[math.inf] * size,
    )


def scattered(space: ConceptSpace, request: dict[str, Any], backbone: Any) -> Iterator[Tensor]:
    """Yield points around the subject."""
    noise = stream(request["seed"], "archive", "random")
    while True:
        yield torch.randn(space.size, generator=noise) * float(request["sigma"])


def still(space: ConceptSpace, request: dict[str, Any], backbone: Any) -> Iterator[Tensor]:
    """Yield the subject itself."""
    while True:
        yield torch.zeros(space.size)


def words(space: ConceptSpace, request: dict[str, Any], backbone: Any) -> Iterator[Tensor]:
    """Yield mixtures of the subject with a known word, and with what DisTok's decoder dreams of."""
    noise = stream(request["seed"], "archive", "words")
    dreams = _distok(backbone)
    count = 0
    while True:
        count += 1
        share = 0.15 + 0.45 * float(torch.rand((), generator=noise))
        word = int(torch.randint(len(space.words), (), generator=noise))
        other = space.tokens[word]
        if dreams is not None and count % 2 == 0:
            other = dreams.dreamt(draw_latent("gaussian", dreams.latent_width, noise)).cpu()
        yield share * space.coordinates(other)


def _distok(backbone: Any) -> DisTokSpace | None:
    """Return DisTok's space of a checkpoint; None where none was trained."""
    if "distok" not in backbone.card.get("trained", {}):
        return None
    trained, _ = find_trained(DisTok(), backbone, None)
    return None if trained is None else DisTokSpace.of(trained, backbone)
