"""A finished run, in memory or in its folder, and the concepts that it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from offbeat.core.budget import metered
from offbeat.core.modes import own_modes
from offbeat.errors import StoreError
from offbeat.files.concept import CONCEPT_FILE, about_of, concept_of, decode_concept
from offbeat.files.disk import digest_of
from offbeat.files.learned import Learned, of_files
from offbeat.protocols import TextBackbone
from offbeat.runs.export import export_learned
from offbeat.runs.folder import RunFolder
from offbeat.types import Concept, Evaluations

if TYPE_CHECKING:
    from PIL import Image

P = ParamSpec("P")
"""What a verb takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a command made: pictures, the concept behind them, and how it was found."""

    request: Mapping[str, Any]
    concepts: list[Concept]
    """What was found: one, or as many as a sweep, a grid or a dream has."""
    images: list[Image.Image]
    """Unusual pictures; equally many of each concept, concept by concept."""
    ordinary: list[Image.Image]
    """Ordinary ones of the same noise, of each parent of a fusion; none after ``render``."""
    summary: Mapping[str, Any]
    """What was reached: JSON values, as in ``summary.json``."""
    trace: list[dict[str, Any]]
    """One row a step."""
    files: Mapping[str, bytes] = field(repr=False)
    """The run folder's content."""
    folder: Path | None = None
    """Where it was written; None until ``save``."""
    evaluations: Evaluations | None = None
    """What it asked of the networks; None of a run that was read, or a backbone that cannot count.

    It is no part of the folder: what a cache or an earlier process knew was not asked again.
    """

    @property
    def concept(self) -> Concept:
        """The first concept: the only one but in a sweep, a grid or a dream.

        Raises:
            StoreError: If nothing was learned: some methods draw their mixtures themselves.
        """
        if not self.concepts:
            raise StoreError(f"{self.request['method']} learns no concept; see its images")
        return self.concepts[0]

    def save(self, folder: str | Path) -> Path:
        """Write the run folder; returns its path.

        Raises:
            StoreError: If the folder holds something already, or cannot be written.
        """
        run = RunFolder.create(Path(folder), self.request)
        for row in self.trace:
            run.append_trace(row)
        run.write(self.files)
        run.finish()
        return Path(folder)

    def export(
        self, format: str = "common", *, token: str | None = None, out: str | Path = "."
    ) -> list[Path]:
        """Write the concept as another tool reads it; as of ``offbeat.export_concept``."""
        return export_learned(learned_of(self), format, token=token, out=out)


Source = str | Path | Run


def load_run(folder: str | Path) -> Run:
    """Read a finished run folder.

    Raises:
        StoreError: If there is none, or it is not finished.
        CorruptRunError: If it is damaged.
    """
    run = RunFolder.open(Path(folder))
    if not run.is_finished:
        raise StoreError(f"{folder}: the run is not finished; go on with it with --resume")
    run.verify()
    names = [name for name in run.names() if not name.startswith("trials/")]
    # a mixture of sources, or a subject drawn another way, is pictures alone
    learns = "sources" not in run.request and run.request.get("layout") != "drawn"
    return Run(
        request=run.request,
        concepts=[read_concept(run, where)[0] for where in concept_folders(run)] if learns else [],
        images=_pictures(run, names, "images/"),
        ordinary=_pictures(run, names, "ordinary/"),
        summary=run.read_json("summary.json"),
        trace=run.trace(),
        files={name: run.read(name) for name in names},
        folder=Path(folder),
    )


def concept_folders(run: RunFolder) -> list[str]:
    """Return where a run keeps its concepts: at its top, or ``concepts/0000/`` and so on."""
    if run.exists(CONCEPT_FILE):
        return [""]
    folders = {name.rpartition("/")[0] for name in run.names() if name.startswith("concepts/")}
    return [f"{where}/" for where in sorted(folders) if not where.endswith("/lora")] or [""]


def best_direction(request: Mapping[str, Any], summary: Mapping[str, Any]) -> int | None:
    """Return which direction of an exploration is the best; None of any other run."""
    if request.get("verb") != "explore":
        return None
    trials = [direction["trial"] for direction in summary.get("directions", ())]
    return trials.index(summary["trial"]) if summary.get("trial") in trials else 0


def read_concept(run: RunFolder, where: str) -> tuple[Concept, dict[str, Any]]:
    """Return a concept of a run and what its file says of it."""
    return decode_concept(lambda name: run.read(where + name) if run.exists(where + name) else None)


def numerics_of(backbone: TextBackbone) -> dict[str, Any]:
    """Return what changes numbers beside checkpoint, settings and seed: device, dtype, ..."""
    numerics: Mapping[str, Any] = getattr(backbone, "numerics", {"device": backbone.device.type})
    return dict(numerics)


def concept_files(
    concepts: Sequence[Concept], backbone: TextBackbone, method: str | None = None
) -> dict[str, bytes]:
    """Return the files of a run's concepts; ``method`` is the one that each names by default."""
    files: dict[str, bytes] = {}
    for index, concept in enumerate(concepts):
        where = f"concepts/{index:04d}/" if len(concepts) > 1 else ""
        parts = concept_of(concept, backbone, method)
        # the concept last: its presence says that it is whole
        files |= {where + name: parts[name] for name in sorted(parts, reverse=True)}
    return files


def costed(verb: Callable[P, Run]) -> Callable[P, Run]:
    """Return a verb that runs in its own torch modes, and whose runs count network evaluations."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> Run:
        with own_modes(), metered() as meter:
            run = verb(*args, **kwargs)
        return replace(run, evaluations=meter.spent)

    return call


def _pictures(run: RunFolder, names: Sequence[str], under: str) -> list[Image.Image]:
    import io

    from PIL import Image

    files = [name for name in names if name.startswith(under) and name.endswith(".png")]
    return [Image.open(io.BytesIO(run.read(name))).convert("RGB") for name in files]


def learned_of(source: Source, model: TextBackbone | None = None) -> Learned:
    """Return the concept that a source names.

    Args:
        source: As of ``render``.
        model: Whose text encoders read a file that does not say whose it is.

    Raises:
        StoreError: If there is none.
        ConfigError: If the file of another tool needs a checkpoint, and none was given.
    """
    if isinstance(source, Run):
        return _of_run(source, "", best_direction(source.request, source.summary) or 0)
    path = Path(source).expanduser()
    if path.is_file():
        return of_files([path], model)
    folder, _, index = str(source).rpartition(":")
    if folder and index.isdigit() and not path.exists():
        return _of_run(load_run(folder), folder, int(index))
    run = load_run(path)
    best = best_direction(run.request, run.summary)
    if len(run.concepts) > 1 and best is None:
        raise StoreError(
            f"{source}: holds {len(run.concepts)} concepts; name one, from {source}:0 to "
            f"{source}:{len(run.concepts) - 1}"
        )
    return _of_run(run, str(source), best or 0)


def _of_run(run: Run, name: str, index: int) -> Learned:
    if not run.concepts:
        raise StoreError(
            f"{name}: {run.request['method']} drew pictures and learned no concept that a prompt "
            "could use; give another prompt to `offbeat fuse`"
        )
    if index >= len(run.concepts):
        raise StoreError(
            f"{name}:{index}: expected a concept from 0 to {len(run.concepts) - 1}, as on the sheet"
        )
    concept, single = run.concepts[index], len(run.concepts) == 1
    file = CONCEPT_FILE if single else f"concepts/{index:04d}/{CONCEPT_FILE}"
    return Learned(
        concept=concept,
        checkpoint=str(run.request["checkpoint"]),
        fingerprint=str(run.request["fingerprint"]),
        about=about_of(run.files[file], file),
        origin={
            "request": dict(run.request),
            "seed": run.summary.get("seed"),
            "trial": run.summary.get("trial"),
            **({} if single else {"concept": index}),
            "digest": digest_of(run.files[file]),
        },
    )
