"""Open a checkpoint by name, folder, file or hub id, and check that it can do what is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from offbeat import registry
from offbeat.checkpoints.base import Checkpoint
from offbeat.checkpoints.forms import Form, form_of
from offbeat.checkpoints.hub import without_network
from offbeat.checkpoints.known.unclip import SEPARATOR, is_bundled
from offbeat.checkpoints.memory import check_fits, pictures_at_once
from offbeat.checkpoints.placement import Dtype, Offload, Placement, Where, placement_of
from offbeat.checkpoints.quantize import Quantize, quantizing
from offbeat.checkpoints.trust import readable
from offbeat.checkpoints.weights import reading_variant
from offbeat.core.budget import watch
from offbeat.core.modes import in_own_modes
from offbeat.errors import CapabilityError, CheckpointError, ConfigError
from offbeat.files.lora import LoraFile
from offbeat.files.tokens import TokenFile
from offbeat.protocols import DrawingBackbone, TextBackbone
from offbeat.protocols.capabilities import backbones_for, members

BACKBONE_OF_FORM: dict[Form, str] = {
    "unclip": "pocket",
    "stable-diffusion": "pocket-sd",
    "one-step": "hyper-sd",
    "sd3": "sd3",
    "flux": "flux",
    "chroma": "chroma",
    "z-image": "z-image",
    "qwen-image": "qwen-image",
    "sana": "sana",
}
"""A registered backbone of each form of checkpoint."""


def adapter_of(source: str | Path) -> Any:
    """Return the class that loads a checkpoint.

    Args:
        source: A registered name, a folder, a hub id ``OWNER/NAME`` or a ``.safetensors`` file.
            The ``model_index.json`` of a folder or hub id says which form it has; one without it
            is taken as the unCLIP form. The ``load`` of the class says what is wrong with it.

    Raises:
        UnknownNameError: If it is no registered name and looks like no folder, file or hub id.
    """
    name = str(source)
    if name not in registry.names("backbone") and _is_source(name):
        name = BACKBONE_OF_FORM[form_of(name)]
    return registry.find("backbone", name)


@in_own_modes
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
    variant: str | None = None,
    lora: str | Sequence[str | LoraFile] | None = None,
    embeddings: str | Sequence[str | TokenFile] | None = None,
    quantize: Quantize | None = None,
    cache: str | None = None,
    few_steps: str | None = None,
    sampler: str | None = None,
    guider: str | None = None,
    ip_adapter: str | None = None,
    prompt_syntax: str | None = None,
) -> Any:
    """Load a checkpoint by name, folder or hub id.

    Args:
        source: Which.
        device: Where to run, or a ``Placement``, which says all of these.
        dtype: Of its weights, and so on as in ``Placement``; None is what that says.
        offload: ``none``, ``model``, ``group`` or ``sequential``.
        vae_slicing: Decode pictures one by one.
        vae_tiling: Decode large pictures in tiles.
        attention: Of the denoiser.
        compile: The denoiser.
        variant: Of its weights, e.g. ``fp16``.
        lora: Files to be merged into its weights, ``FILE`` or ``FILE:0.8``.
        embeddings: Files of tokens whose words prompts may hold: the name of the file, or its own.
        quantize: Bits of large weights: ``nf4``, ``int8`` or ``fp8``.
        cache: ``first-block`` or ``taylorseer``.
        few_steps: ``lcm``, ``lightning`` or ``hyper``.
        sampler: How it denoises, e.g. ``dpm++-2m-karras``.
        guider: How it is guided, e.g. ``apg``.
        ip_adapter: File, folder or hub id of an IP-Adapter.
        prompt_syntax: ``a1111``, or None for prompts as they are.

    Returns:
        What the adapter of its form offers: see ``offbeat.protocols``.

    Raises:
        CheckpointError: If there is no such checkpoint or device, or it is damaged.
        ConfigError: If it cannot be placed so.
        DoesNotFitError: If it needs more memory than there is.
        ShapeError: If a LoRA fits no layer of it, or changes no weight.
        UnknownNameError: If there is no checkpoint of this name.
    """
    placement = placement_of(
        device,
        dtype=dtype,
        offload=offload,
        vae_slicing=vae_slicing,
        vae_tiling=vae_tiling,
        attention=attention,
        compile=compile,
        variant=variant,
        lora=lora,
        embeddings=embeddings,
        quantize=quantize,
        cache=cache,
        few_steps=few_steps,
        sampler=sampler,
        guider=guider,
        ip_adapter=ip_adapter,
        prompt_syntax=prompt_syntax,
    )
    with reading_variant(placement.variant), quantizing(placement.quantize):
        return _load(source, placement)


def _load(source: str | Path, asked: Placement) -> Any:
    adapter = adapter_of(source)
    placement = asked.resolved(bundled=is_bundled(source))
    if placement.check_memory and adapter.__module__.startswith("offbeat."):
        check_fits(source, placement)
    if not issubclass(adapter, Checkpoint):  # a plug-in's own, which may know less
        plain = Placement(device=placement.device, check_memory=placement.check_memory).resolved()
        if placement != plain:
            raise ConfigError(f"{source}: a plug-in's backbone takes --device alone")
        return adapter.load(source, device=placement.device)
    with readable(source):
        model = adapter.load(source, dtype=placement.torch_dtype)
    for lora in placement.lora:
        model.merge_lora(lora)
    for embedding in placement.embeddings:
        model.add_tokens(embedding)
    model.place(placement)
    at_once = pictures_at_once(source, placement)
    return model if at_once is None else model.drawing_at_once(at_once)


class Kept:
    """Checkpoints that stay loaded from one command to the next, the last ``limit`` that were used.

    A process that runs many commands works in ``with kept.used():``.
    """

    def __init__(self, limit: int = 2) -> None:
        self.limit = limit
        self.loads = 0
        """Checkpoints loaded so far."""
        self.seconds = 0.0
        """That loading them took."""
        self._models: dict[tuple[str, Where], TextBackbone] = {}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the commands of a block load through this."""
        token = _KEPT.set(self)
        try:
            yield
        finally:
            _KEPT.reset(token)

    def load(self, source: str | Path, device: Where) -> TextBackbone:
        """Return a checkpoint, loaded now or before."""
        key = (str(source), device)
        if key not in self._models:
            while len(self._models) >= self.limit:
                del self._models[next(iter(self._models))]
            started = time.perf_counter()
            self._models[key] = cast(TextBackbone, load_backbone(source, device=device))
            self.loads, self.seconds = self.loads + 1, self.seconds + time.perf_counter() - started
        self._models[key] = self._models.pop(key)  # the last one used goes last
        return self._models[key]


_KEPT: ContextVar[Kept | None] = ContextVar("kept", default=None)


def loaded(backbone: str | Path | TextBackbone, device: Where) -> TextBackbone:
    """Return a backbone that is loaded: of any form that draws from text."""
    if isinstance(backbone, str | Path):
        kept = _KEPT.get()
        load = load_backbone if kept is None else kept.load
        backbone = cast(TextBackbone, load(backbone, device=device))
    watch(backbone)
    return backbone


def loaded_recorded(checkpoint: str, device: Where) -> TextBackbone:
    """Return the backbone that a run, a picture or a token names as its checkpoint.

    The file may be a stranger's, so it does not choose what is fetched: a name of Offbeat is
    loaded as usual, and any other checkpoint only if it is on this machine.

    Raises:
        CheckpointError: If it is neither.
    """
    if checkpoint in registry.names("backbone") or Path(checkpoint).expanduser().exists():
        return loaded(checkpoint, device)
    with without_network():
        try:
            return loaded(checkpoint, device)
        except CheckpointError as error:
            raise CheckpointError(
                f"the file names the checkpoint {checkpoint!r}, which is not on this machine, and "
                "a file does not decide what is fetched. If you trust that checkpoint, name it "
                f"with --backbone ({error})"
            ) from error


def default_backbone(method: str) -> str:
    """Return the form of the bundled checkpoint that a method works on, by its ``needs``.

    Raises:
        UnknownNameError: If there is no such method.
    """
    needs = getattr(registry.find("method", method), "needs", None)
    return "pocket-sd" if needs is not None and _draws(needs) else "pocket"


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
    name = str(getattr(backbone, "name", type(backbone).__name__))
    raise CapabilityError(method, name, missing or needs.__name__, backbones_for(needs))


def _draws(needs: Any) -> bool:
    """Return whether a protocol asks for the form of checkpoint that draws from text itself."""
    return DrawingBackbone in needs.__mro__


def _is_source(name: str) -> bool:
    """Whether a folder, file or hub id is meant; the adapter says what is wrong with it."""
    is_path = SEPARATOR in name or "/" in name or "\\" in name or name.startswith((".", "~"))
    return is_path or name.endswith(".safetensors") or Path(name).is_dir()
