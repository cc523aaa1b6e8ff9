"""Checkpoints by name: which there are, what one is made of, and fetching one ahead."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, get_args

from offbeat import registry
from offbeat.checkpoints.hub import README, licence_of, on_disk
from offbeat.checkpoints.known.unclip import is_bundled
from offbeat.checkpoints.memory import needed
from offbeat.checkpoints.open import adapter_of
from offbeat.checkpoints.pipeline import locate
from offbeat.checkpoints.placement import Dtype, Offload, Placement
from offbeat.checkpoints.repositories import digest_of_survey, repositories
from offbeat.checkpoints.sizes import Survey, survey
from offbeat.checkpoints.trust import readable
from offbeat.checkpoints.weights import json_object, reading_variant
from offbeat.errors import CheckpointError, UnknownNameError
from offbeat.protocols.capabilities import capabilities_of

LICENCES = {
    "pocket": "see src/offbeat/pocket/LICENSES.md",
    "pocket-sd": "see src/offbeat/pocket/LICENSES.md",
    "kandinsky-2.1": "apache-2.0",
    "kandinsky-2.2": "apache-2.0",
    "sd-1.5": "creativeml-openrail-m",
    "hyper-sd": "creativeml-openrail-m (its base), and that of ByteDance/Hyper-SD",
    "sdxl": "openrail++",
    "sd-turbo": "stabilityai's own, see its model card",
    "sdxl-turbo": "stabilityai's own, see its model card",
    "sd3": "stabilityai-ai-community",
    "sd3.5": "stabilityai-ai-community",
    "flux": "flux-1-dev-non-commercial-license",
    "flux-schnell": "apache-2.0",
    "chroma": "apache-2.0",
    "z-image": "apache-2.0",
    "z-image-turbo": "apache-2.0",
    "qwen-image": "apache-2.0",
    "sana": "nvidia's own, see its model card",
}
"""As published, where no model card lies here; the card itself is what counts."""


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint that a name stands for."""

    name: str
    family: str
    """The adapter's class."""
    capabilities: tuple[str, ...]
    sources: tuple[str, ...]
    """Folders or hub ids."""
    licence: str
    state: str
    """``bundled``, ``here``, ``partly here`` or ``not here``."""
    num_bytes: int
    """What lies here."""


@dataclass(frozen=True, slots=True)
class Component:
    """A part with weights."""

    name: str
    role: str
    kind: str
    parameters: int
    dtypes: tuple[str, ...]
    """As they lie on the disk."""
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint is made of, and the memory that it takes."""

    source: str
    form: str
    pipeline: str
    folders: tuple[str, ...]
    components: tuple[Component, ...]
    parameters: int
    num_bytes: int
    height: int
    width: int
    capabilities: tuple[str, ...]
    licence: str | None
    fingerprint: str | None
    """As runs keep it; None where it is known only after loading."""
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes by options: on an accelerator, and in the CPU's memory."""


def list_models() -> list[Known]:
    """Return all known checkpoints; the network is not used, and no weight is read.

    A plug-in's checkpoints are told by their names alone.
    """
    return [_known(name) for name in registry.names("backbone")]


def inspect_model(source: str | Path, *, variant: str | None = None) -> Inspection:
    """Look at a checkpoint without loading it.

    Args:
        source: Name, folder, hub id or single file; the hub's files are fetched if need be.
        variant: Of its weights, e.g. ``fp16``; None is what loading reads where none is asked for.

    Raises:
        CheckpointError: If there is none, or it is damaged.
        UnknownNameError: If there is no checkpoint of this name.
    """
    adapter = adapter_of(source)
    if not adapter.__module__.startswith("offbeat."):
        raise CheckpointError(f"{source}: a plug-in's checkpoint cannot be looked at; load it")
    with reading_variant(variant):
        return _inspected(source, adapter)


def _inspected(source: str | Path, adapter: type) -> Inspection:
    checkpoint = survey(source)
    parts = tuple(
        Component(
            part.name,
            part.role,
            part.kind,
            part.tensors.parameters,
            tuple(sorted(part.tensors.counts)),
            part.num_bytes,
        )
        for part in checkpoint.parts
    )
    return Inspection(
        source=str(source),
        form=checkpoint.form,
        pipeline=checkpoint.pipeline,
        folders=tuple(map(str, checkpoint.folders)),
        components=parts,
        parameters=sum(part.parameters for part in parts),
        num_bytes=sum(part.num_bytes for part in parts),
        height=checkpoint.height,
        width=checkpoint.width,
        capabilities=_capabilities(adapter),
        licence=_licence(str(source), checkpoint.folders),
        fingerprint=digest_of_survey(checkpoint),
        memory=_memory_by_option(checkpoint),
    )


def fetch_model(source: str, *, variant: str | None = None) -> list[Path]:
    """Fetch a checkpoint from the hub, just the files that loading it reads; returns its folders.

    Args:
        source: A known name, or a hub id ``OWNER/NAME``. What lies here is not fetched again.
        variant: Of its weights, e.g. ``fp16``: plain ones are fetched only where it has none.

    Raises:
        CheckpointError: If the hub does not give it; it says why, and what to do.
        UnknownNameError: If there is no checkpoint of this name.
    """
    adapter_of(source)
    if is_bundled(source) or Path(source).expanduser().exists():
        return list(survey(source).folders)
    with reading_variant(variant):
        return [locate(hub_id, only=(*files, README)) for hub_id, files in repositories(source)]


def as_json(model: Known | Inspection) -> dict[str, Any]:
    """Return it as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(model)))
    return values


def _known(name: str) -> Known:
    adapter = adapter_of(name)
    capabilities, family = _capabilities(adapter), adapter.__name__
    try:
        sources = repositories(name)
    except UnknownNameError:  # a plug-in's own
        return Known(name, family, capabilities, (), "unknown", "unknown", 0)
    if is_bundled(name):
        checkpoint = survey(name)
        folders, size = checkpoint.folders, sum(part.num_bytes for part in checkpoint.parts)
        places = tuple(map(str, folders))
        return Known(name, family, capabilities, places, LICENCES[name], "bundled", size)
    here = [on_disk(hub_id, files) for hub_id, files in sources]
    folders = tuple(folder for folder in here if folder is not None)
    complete = len(folders) == len(sources) and all(_is_complete(folder) for folder in folders)
    return Known(
        name=name,
        family=family,
        capabilities=capabilities,
        sources=tuple(hub_id for hub_id, _ in sources),
        licence=_licence(name, folders) or "unknown",
        state="here" if complete else "partly here" if folders else "not here",
        num_bytes=sum(_size_of(folder) for folder in folders),
    )


def _is_complete(folder: Path) -> bool:
    """Return whether every model of a pipeline has weights; a folder without index is not asked."""
    try:
        index = json_object(folder / "model_index.json", expected="a pipeline folder")
    except CheckpointError:
        return not (folder / "model_index.json").exists()
    named = [name for name, about in index.items() if isinstance(about, list) and about[1]]
    needs = [name for name in named if (folder / name / "config.json").is_file()]
    absent = [name for name in named if name != "safety_checker" and not (folder / name).is_dir()]
    return not absent and all(
        name == "safety_checker" or any((folder / name).glob("*.safetensors")) for name in needs
    )


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _licence(name: str, folders: tuple[Path, ...]) -> str | None:
    about = (licence_of(folder) for folder in folders)
    return next((one for one in about if one), None) or LICENCES.get(name)


def _capabilities(adapter: type) -> tuple[str, ...]:
    """Return what an adapter's class can do: the methods of its capabilities."""
    return tuple(name for names in capabilities_of(adapter) for name in names)


def _memory_by_option(checkpoint: Survey) -> dict[str, dict[str, int]]:
    with readable(checkpoint.source):
        return dict(_needs(checkpoint))


def _needs(checkpoint: Survey) -> Iterator[tuple[str, dict[str, int]]]:
    for dtype, offload in product(get_args(Dtype)[:2], get_args(Offload)):
        need = needed(checkpoint, Placement(device="cuda", dtype=dtype, offload=offload))
        yield f"--dtype {dtype} --offload {offload}", {"device": need.device, "host": need.host}
    for dtype in get_args(Dtype)[:2]:
        need = needed(checkpoint, Placement(device="cpu", dtype=dtype))
        yield f"--dtype {dtype} --device cpu", {"device": 0, "host": need.host}
