"""What a command made, and what every command needs: loaded checkpoints, finished folders."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, cast

from offbeat import formats, registry
from offbeat._capabilities import backbones_for, members
from offbeat._disk import json_bytes
from offbeat._memory import check_fits
from offbeat._pictures_out import concept_of
from offbeat.backbones._base import Checkpoint
from offbeat.backbones._checkpoints import is_bundled
from offbeat.backbones._placement import Dtype, Offload, Placement, Where, placement_of
from offbeat.budget import metered, watch
from offbeat.errors import CapabilityError, ConfigError, StoreError
from offbeat.plots import concept_report
from offbeat.protocols import DrawsText, ExploringBackbone, HasCard, TextBackbone
from offbeat.store import RunFolder
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
        self, format: str = "diffusers", *, token: str | None = None, out: str | Path = "."
    ) -> list[Path]:
        """Write the concept as another tool reads it; as of ``offbeat.export_concept``."""
        from offbeat._export import export_concept  # which stands on this module

        return export_concept(self, format, token=token, out=out)


def load_backbone(
    source: str | Path = "pocket",
    *,
    device: Where = "auto",
    dtype: Dtype | None = None,
    offload: Offload | None = None,
    vae_slicing: bool | None = None,
    vae_tiling: bool | None = None,
    attention: str | None = None,
    compile: bool | None = None,
) -> Any:
    """Load a checkpoint by name, folder or hub id.

    Args:
        source: Which.
        device: Where to run, or a ``Placement``, which says all of these.
        dtype: Of its weights, and so on as in ``Placement``; None is what that says.
        offload: ``none``, ``model`` or ``sequential``.
        vae_slicing: Decode pictures one by one.
        vae_tiling: Decode large pictures in tiles.
        attention: Of the denoiser.
        compile: The denoiser.

    Returns:
        What the adapter of its form offers: see ``offbeat.protocols``.

    Raises:
        CheckpointError: If there is no such checkpoint or device, or it is damaged.
        ConfigError: If it cannot be placed so.
        DoesNotFitError: If it needs more memory than there is.
        UnknownNameError: If the name is none.
    """
    asked = placement_of(
        device,
        dtype=dtype,
        offload=offload,
        vae_slicing=vae_slicing,
        vae_tiling=vae_tiling,
        attention=attention,
        compile=compile,
    )
    adapter = registry.find("backbone", str(source))
    placement = asked.resolved(bundled=is_bundled(source))
    if placement.check_memory and adapter.__module__.startswith("offbeat."):
        check_fits(source, placement)
    if not issubclass(adapter, Checkpoint):  # a plug-in's own, which may know less
        plain = Placement(device=placement.device, check_memory=placement.check_memory)
        if placement != plain:
            raise ConfigError(f"{source}: a plug-in's backbone takes --device alone")
        return adapter.load(source, device=placement.device)
    return adapter.load(source, dtype=placement.torch_dtype).place(placement)


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
    if run.exists(formats.CONCEPT_FILE):
        return [""]
    found = {name.rpartition("/")[0] for name in run.names() if name.startswith("concepts/")}
    return [f"{where}/" for where in sorted(found) if not where.endswith("/lora")] or [""]


def read_concept(run: RunFolder, where: str) -> tuple[Concept, dict[str, Any]]:
    """Return a concept of a run and what its file says of it."""
    return formats.decode_concept(
        lambda name: run.read(where + name) if run.exists(where + name) else None
    )


def numerics_of(backbone: HasCard) -> dict[str, Any]:
    """Return what numbers depend on beside checkpoint, settings and seed: device, type, ..."""
    own: Mapping[str, Any] = getattr(backbone, "numerics", {"device": backbone.device.type})
    return dict(own)


def concept_files(
    concepts: Sequence[Concept], backbone: HasCard, method: str | None = None
) -> dict[str, bytes]:
    """Return the files of a run's concepts; ``method`` is the concepts' own if not given."""
    files: dict[str, bytes] = {}
    for index, concept in enumerate(concepts):
        where = f"concepts/{index:04d}/" if len(concepts) > 1 else ""
        own = concept_of(concept, backbone, method)
        # the concept last: its presence says that it is whole
        files |= {where + name: own[name] for name in sorted(own, reverse=True)}
    return files


def kept(
    request: Mapping[str, Any],
    concepts: Sequence[Concept],
    pictures: list[Image.Image],
    files: Mapping[str, bytes],
    folder: RunFolder | None,
    *,
    summary: Mapping[str, Any] | None = None,
    ordinary: Sequence[Image.Image] = (),
    trace: Sequence[dict[str, Any]] = (),
) -> Run:
    """Write what was drawn if there is a folder, and return it."""
    summary = {"prompt": request["prompt"]} if summary is None else summary
    files = {**files, "summary.json": json_bytes(summary)}
    if folder is not None:
        folder.write(files)
        folder.finish()
    return Run(
        request=request,
        concepts=list(concepts),
        images=pictures,
        ordinary=list(ordinary),
        summary=summary,
        trace=list(trace),
        files=files,
        folder=folder.path if folder is not None else None,
    )


def reported(
    request: Mapping[str, Any],
    concepts: Sequence[Concept],
    pictures: list[Image.Image],
    files: Mapping[str, bytes],
    folder: RunFolder | None,
    *,
    title: str,
    contact: bytes,
    summary: Mapping[str, Any],
    ordinary: Sequence[Image.Image] = (),
    trace: Sequence[dict[str, Any]] = (),
) -> Run:
    """Write and return as ``kept`` does, with the contact sheet and a report on the summary."""
    report = concept_report(
        title=title,
        lead=str(summary["in_words"]),
        sheet_png=contact,
        found=summary,
        settings=request,
        warnings=summary["warnings"],
    )
    files = {**files, "contact.png": contact, "report.html": report.encode()}
    return kept(
        request,
        concepts,
        pictures,
        files,
        folder,
        summary=summary,
        ordinary=ordinary,
        trace=trace,
    )


def costed(verb: Callable[P, Run]) -> Callable[P, Run]:
    """Return a verb whose runs say how many network evaluations they took."""

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> Run:
        with metered() as meter:
            run = verb(*args, **kwargs)
        return replace(run, evaluations=meter.spent)

    return call


def loaded(backbone: str | Path | TextBackbone, device: Where) -> TextBackbone:
    """Return a backbone that is loaded: of any form that draws from text."""
    if isinstance(backbone, str | Path):
        backbone = cast(TextBackbone, load_backbone(backbone, device=device))
    watch(backbone)
    return backbone


def default_backbone(method: str) -> str:
    """Return the form of the bundled checkpoint that a method works on, by its ``needs``.

    Raises:
        UnknownNameError: If there is no such method.
    """
    needs = getattr(registry.find("method", method), "needs", None)
    return "pocket-sd" if needs is not None and _draws(needs) else "pocket"


def loaded_prior(backbone: str | Path | TextBackbone, device: Where) -> ExploringBackbone:
    """Return a backbone that is loaded and has a space of embeddings to search in.

    Raises:
        CapabilityError: If it lacks a part.
    """
    found: Any = backbone
    if isinstance(backbone, str | Path):
        found = load_backbone(backbone, device=device)
    watch(found)
    check_needs("low-probability", ExploringBackbone, found)
    prior: ExploringBackbone = found
    return prior


def check_needs(method: str, needs: Any, backbone: object) -> None:
    """Refuse a backbone that lacks what a method needs.

    Args:
        method: Its name.
        needs: A protocol; None is nothing beyond what every backbone has.
        backbone: A loaded one.

    Raises:
        CapabilityError: With the first capability that it lacks, and the backbones that have all.
    """
    if needs is None or isinstance(backbone, needs):
        return
    missing = next((name for name in members(needs) if not hasattr(backbone, name)), "")
    own = str(getattr(backbone, "name", type(backbone).__name__))
    raise CapabilityError(method, own, missing or needs.__name__, backbones_for(needs))


def _draws(needs: Any) -> bool:
    """Return whether a protocol asks for the form of checkpoint that draws from text itself."""
    return DrawsText in needs.__mro__


def _pictures(run: RunFolder, names: Sequence[str], under: str) -> list[Image.Image]:
    import io

    from PIL import Image

    found = [name for name in names if name.startswith(under) and name.endswith(".png")]
    return [Image.open(io.BytesIO(run.read(name))).convert("RGB") for name in found]
