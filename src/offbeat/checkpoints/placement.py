"""Where a checkpoint runs, in which type, and what is done so that it fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from offbeat.checkpoints.guiders import GuiderSpec
from offbeat.checkpoints.known.few_steps import NAMES
from offbeat.checkpoints.offload import Room
from offbeat.checkpoints.pipeline import quiet_diffusers
from offbeat.checkpoints.quantize import Quantize
from offbeat.core.samplers import SAMPLERS, SamplerSpec, sampler_named
from offbeat.errors import CheckpointError, ConfigError
from offbeat.files.lora import LoraFile
from offbeat.files.tokens import TokenFile

Dtype = Literal["float32", "bfloat16", "float16", "auto"]
Offload = Literal["none", "model", "group", "sequential"]

ACCELERATORS = ("cuda", "mps", "xpu")
"""What ``auto`` looks for, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a checkpoint runs; checked when made, and nothing is touched."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``xpu``; ``auto`` is the first accelerator that is
    there, else the CPU, and for the bundled checkpoints always the CPU, so that they draw the same
    bytes on every machine of a kind."""
    dtype: Dtype = "auto"
    """Of the weights. What enters and leaves a backbone is float32 whatever this is. ``auto`` is
    bfloat16 on a CUDA device that computes in it, else float32, and float32 for what is bundled."""
    offload: Offload = "none"
    """``model`` has one model on the device at a time, ``sequential`` one layer: less memory, and
    slower. ``group`` is diffusers' group offloading of layers, on CUDA by streams: the next one
    comes while one computes. Idle weights stay in the CPU's memory."""
    vae_slicing: bool = False
    """Decode one picture of a batch at a time."""
    vae_tiling: bool = False
    """Decode large pictures tile by tile; seams are blended."""
    attention: str | None = None
    """A backend of diffusers for the denoiser's attention, such as ``native`` or ``flash``."""
    compile: bool = False
    """Compile the denoiser by ``torch.compile``: the first picture takes minutes longer."""
    variant: str | None = None
    """Which weights of a folder that holds several: ``fp16`` reads ``model.fp16.safetensors``."""
    lora: tuple[LoraFile, ...] = ()
    """LoRA files that are merged into the weights when they are loaded, each with its strength."""
    embeddings: tuple[TokenFile, ...] = ()
    """Files of learned tokens whose words every prompt may hold, negative ones too."""
    quantize: Quantize | None = None
    """Bits of the weights of transformers and language models: ``nf4`` (bitsandbytes, on CUDA),
    ``int8`` or ``fp8`` (torchao). For drawing; searches that follow gradients are not promised."""
    cache: str | None = None
    """``first-block`` or ``taylorseer``: a transformer leaves out what changes little from step to
    step, by diffusers' caches: faster, and other pictures."""
    few_steps: str | None = None
    """``lcm``, ``lightning`` or ``hyper``: a published LoRA, its sampler, steps and guidance, so
    that SD 1.5, SDXL or FLUX draw in few steps."""
    sampler: str | None = None
    """How pictures are denoised, by the names of AUTOMATIC1111, such as ``dpm++-2m-karras``; None
    is the checkpoint's own scheduler."""
    guider: str | None = None
    """How guidance combines its halves: ``apg``, or with settings ``cads:scale=0.3``; None is
    plain. See ``offbeat.checkpoints.guiders``."""
    ip_adapter: str | None = None
    """File, folder or hub id of an IP-Adapter, so that pictures can be prompts."""
    prompt_syntax: str | None = None
    """``a1111`` reads ``(word:1.3)``, ``[word]`` and ``BREAK`` in prompts; None takes all of it
    literally."""
    check_memory: bool = True
    """Refuse a checkpoint that does not fit before it is loaded."""

    def __post_init__(self) -> None:
        choices = (
            ("dtype", get_args(Dtype)),
            ("offload", get_args(Offload)),
            ("quantize", (None, *get_args(Quantize))),
            ("cache", (None, *CACHES)),
            ("few_steps", (None, *NAMES)),
        )
        for name, known in choices:
            if (value := getattr(self, name)) not in known:
                expected = ", ".join(one for one in known if one is not None)
                raise ConfigError(f"{name}: expected {expected}, got {value!r}")
        for name, parse in (("lora", LoraFile.parse), ("embeddings", TokenFile.of)):
            files = getattr(self, name)
            files = [files] if isinstance(files, str | Path) else list(files)
            object.__setattr__(self, name, tuple(map(parse, files)))
        if self.variant is not None and not re.fullmatch(r"[A-Za-z][\w-]*", self.variant):
            raise ConfigError(f"variant: expected a name such as fp16, got {self.variant!r}")
        if self.sampler is not None:
            object.__setattr__(self, "sampler", sampler_named(self.sampler).name)
        if self.prompt_syntax not in (None, "a1111"):
            raise ConfigError(f"prompt_syntax: expected a1111, got {self.prompt_syntax!r}")
        if self.guider is not None:
            GuiderSpec.parse(self.guider)
        kind = _kind_of(self.device)
        if self.offload != "none" and kind == "cpu":
            raise ConfigError(
                f"offload: {self.offload!r} keeps idle weights in the CPU's memory while others "
                f"run on an accelerator ({', '.join(ACCELERATORS)}); the device is the CPU. Leave "
                "--offload out; --dtype bfloat16 halves the memory"
            )
        if self.quantize is not None and (self.lora or self.few_steps):
            raise ConfigError(
                "quantize: expected no --lora or --few-steps beside it: factors are added to whole "
                "weights. Leave one of the two out"
            )
        if self.quantize == "nf4" and kind == "cpu":
            raise ConfigError(
                "quantize: nf4 is computed on CUDA alone; on the CPU choose int8 or fp8"
            )
        if self.compile and self.offload != "none":
            raise ConfigError(
                f"compile: expected --offload none, got {self.offload!r}: a compiled denoiser "
                "reads its weights where they were when it was compiled. Choose one of the two"
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of the weights; of ``auto``, before a device is chosen, float32."""
        kind: torch.dtype = getattr(torch, "float32" if self.dtype == "auto" else self.dtype)
        return kind

    def resolved(self, *, bundled: bool = False) -> Placement:
        """Return it with ``auto`` replaced by a device, and by a type.

        Args:
            bundled: Whether it is for a checkpoint that comes with the package.

        Raises:
            ConfigError: If it offloads, and there is no accelerator.
        """
        device, dtype = self.device, self.dtype
        if device == "auto":
            device = "cpu" if bundled and self.offload == "none" else first_device()
        if dtype == "auto":
            dtype = "float32" if bundled else usual_dtype(device)
        return replace(self, device=device, dtype=dtype)

    def notes(self) -> list[str]:
        """Return what a user should know of it, one sentence each."""
        if self.dtype == "float16" and _kind_of(self.device) == "cpu":
            return ["float16 is slow on a CPU, ten times and more; bfloat16 or float32 are not"]
        return []


Where = str | Placement
"""A device's name, or all of a placement."""


def placement_of(where: Where, **options: Any) -> Placement:
    """Return a placement of a device's name or another placement; ``None`` leaves as it is."""
    given = where if isinstance(where, Placement) else Placement(device=where)
    changed = {name: value for name, value in options.items() if value is not None}
    return replace(given, **changed) if changed else given


def first_device() -> str:
    """Return the first accelerator that is there, else ``cpu``."""
    for kind in ACCELERATORS:
        module = torch.backends.mps if kind == "mps" else getattr(torch, kind)
        if module.is_available():
            return kind
    return "cpu"


def usual_dtype(device: str) -> Dtype:
    """Return the type that weights have on a device where none is asked for."""
    kind = _kind_of(device)
    # computed by the card itself: older ones imitate it, slowly
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def _kind_of(device: str) -> str:
    """Return a device's type; of ``auto`` itself."""
    if device == "auto":
        return device
    try:
        return torch.device(device).type
    except RuntimeError:
        expected = "auto, cpu, cuda, cuda:1, mps or xpu"
        raise ConfigError(f"device: expected {expected}, got {device!r}") from None


def usable(device: str | torch.device) -> torch.device:
    """Return a device with its index.

    Raises:
        CheckpointError: If there is no such device here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"device {str(device)!r} cannot be used: {said}. `offbeat doctor` lists those that can"
        ) from error


def offload(
    modules: Sequence[Any], device: torch.device, how: Offload, *, whole: Sequence[Any]
) -> None:
    """Keep the weights of ``modules`` in the CPU's memory, and show them on ``device`` in turn.

    Args:
        modules: Of one checkpoint, each with weights.
        device: Where they run.
        how: ``model``, ``group`` or ``sequential``.
        whole: Those of them whose parts are called one by one: they come as one even under
            ``sequential``, by ``ready``.
    """
    from diffusers.hooks import apply_group_offloading

    room = Room(device)
    for module in modules:
        module._runs_on = device
        if isinstance(module, torch.nn.ModuleList):  # called through others: it cannot announce it
            module.to(device)
        elif how == "group" and not any(module is one for one in whole):
            apply_group_offloading(
                module,
                onload_device=device,
                offload_type="leaf_level",
                use_stream=device.type == "cuda",
            )
        elif how == "model" or any(module is one for one in whole):
            room.invite(module)
        else:
            room.invite_layers(module)


def set_vae(vae: Any, *, slicing: bool, tiling: bool) -> None:
    """Switch slicing and tiling of an autoencoder on.

    Raises:
        ConfigError: If it has none.
    """
    for name, wanted in (("slicing", slicing), ("tiling", tiling)):
        if not wanted:
            continue
        try:
            getattr(vae, f"enable_{name}")()
        except (AttributeError, NotImplementedError) as error:
            raise ConfigError(
                f"vae_{name}: the autoencoder of this checkpoint ({type(vae).__name__}) has none; "
                f"leave --vae-{name} out"
            ) from error


def set_attention(denoiser: Any, backend: str) -> None:
    """Let a denoiser compute attention by a backend of diffusers.

    Raises:
        ConfigError: If there is no such backend here, or the denoiser cannot choose.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName
    from diffusers.utils import logging

    known = [one.value for one in AttentionBackendName]
    if backend not in known:
        raise ConfigError(f"attention: expected one of {', '.join(known)}, got {backend!r}")
    processors = (getattr(module, "processor", None) for module in denoiser.modules())
    if not any(hasattr(one, "_attention_backend") for one in processors):
        if backend == "native":  # it is what such a denoiser does anyway
            return
        raise ConfigError(
            f"attention: {type(denoiser).__name__} always uses torch's own (`native`), which "
            f"chooses the fastest kernel itself, got {backend!r}; leave --attention out"
        )
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that backends are an experiment
    try:
        denoiser.set_attention_backend(backend)
    except Exception as error:  # absent package, too old a version, wrong device: one each
        raise ConfigError(f"attention: {backend!r} cannot be used here: {error}") from error
    finally:
        logging.set_verbosity(level)


def sampler_like(scheduler: Any, spec: SamplerSpec) -> Any:
    """Return the scheduler of a sampler with the noise levels of another.

    Raises:
        ConfigError: If the other's network was trained along a flow, and the sampler does not
            walk along one.
    """
    import diffusers

    name, settings, config = spec.scheduler, dict(spec.settings), dict(scheduler.config)
    if type(scheduler).__name__.startswith("FlowMatch"):
        if not spec.flows:
            able = ", ".join(one.name for one in SAMPLERS.values() if one.flows)
            raise ConfigError(
                f"sampler: {spec.name} does not walk along a flow, as this checkpoint does; "
                f"expected one of {able}"
            )
        if name == "EulerDiscreteScheduler":
            name = "FlowMatchEulerDiscreteScheduler"
        else:
            settings |= {
                "use_flow_sigmas": True,
                "prediction_type": "flow_prediction",
                "flow_shift": config.get("shift", 1.0),
            }
    if name != "DDPMScheduler":
        config.pop("variance_type", None)  # no other knows what to do with a learned variance
    try:
        with quiet_diffusers():
            return getattr(diffusers, name).from_config(config, **settings)
    except (ImportError, ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"sampler: {spec.name} cannot be used here: {said}") from error


CACHES = {"first-block": "FirstBlockCacheConfig", "taylorseer": "TaylorSeerCacheConfig"}
"""Names of caches, and their configurations in diffusers."""


def set_cache(denoiser: Any, name: str) -> None:
    """Let a transformer leave out what changes little from step to step.

    Raises:
        ConfigError: If it cannot.
    """
    import diffusers

    if not hasattr(denoiser, "enable_cache"):
        raise ConfigError(
            f"cache: {type(denoiser).__name__} has none; caches are for transformers such as FLUX"
        )
    try:
        denoiser.enable_cache(getattr(diffusers, CACHES[name])())
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise ConfigError(
            f"cache: {name} does not know {type(denoiser).__name__} ({error}); leave it out"
        ) from error


BACKEND = "inductor"
"""Of ``torch.compile``."""


def compile_denoiser(denoiser: Any, device: torch.device) -> None:
    """Compile a denoiser in place: it keeps its class and its names.

    Raises:
        ConfigError: If nothing can be compiled here.
    """
    try:
        torch.compile(_probe, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # no compiler, no Triton, no headers: one each
        needed = "a C++ compiler (g++ or clang)" if device.type == "cpu" else "Triton"
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"compile: torch.compile needs {needed} for {device.type}, and failed: {said}. Install "
            "it, or leave --compile out"
        ) from error
    denoiser.compile(backend=BACKEND)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
