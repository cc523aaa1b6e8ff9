"""What every adapter says of itself, and how its weights are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from offbeat.checkpoints.guiders import GuiderSpec
from offbeat.checkpoints.known.few_steps import few_steps_of
from offbeat.checkpoints.lora import fit, merge
from offbeat.checkpoints.offload import runs_on
from offbeat.checkpoints.placement import (
    Placement,
    compile_denoiser,
    offload,
    sampler_like,
    set_attention,
    set_cache,
    set_vae,
    usable,
)
from offbeat.checkpoints.quantize import is_large
from offbeat.checkpoints.weights import locate
from offbeat.core.samplers import SamplerSpec, sampler_named
from offbeat.errors import CapabilityError, ConfigError, FingerprintError, ShapeError
from offbeat.files.disk import digest_of
from offbeat.files.exchange import read_weights
from offbeat.files.lora import LoraFile, read_learned, read_lora_file
from offbeat.files.tokens import TokenFile
from offbeat.types import Evaluations

if TYPE_CHECKING:
    from typing_extensions import Self

Kept = TypeVar("Kept")
DENOISERS = ("unet", "transformer")
WITH_ADAPTER = ("hyper-sd", "pocket-sd", "sd-1.5", "sd-turbo", "sdxl", "sdxl-turbo")
"""Backbones that take an IP-Adapter."""
CHANGED_BY = ("quantize", "cache", "few_steps")
"""The parts of a placement that change what the networks compute."""
DRAWN_BY = ("sampler", "guider", "ip_adapter", "prompt_syntax")
"""The parts of a placement that say how pictures are drawn."""
AUTOENCODERS = ("vae", "movq")
"""The attributes by which an adapter keeps these parts, as diffusers' pipelines name them."""
CHANNELS_LAST = ("cuda", "xpu")
"""Devices whose convolutions are faster where the channels of a pixel lie side by side."""


class Checkpoint(ABC):
    """A name, a fingerprint, a card, and frozen modules on one device."""

    _name: str
    _fingerprint: str
    _card: dict[str, Any]
    _placement: Placement | None = None
    _counts: tuple[Evaluations, ...] = ()
    lora_loader: str | None = None
    """The class of ``diffusers.loaders.lora_pipeline`` that knows the names of its LoRA."""
    _merged: tuple[LoraFile, ...] = ()
    _tokens: tuple[TokenFile, ...] = ()
    notes: tuple[str, ...] = ()
    """What a user should know of how it was loaded, one sentence each."""
    scheduler: Any
    _guider: GuiderSpec | None = None
    _syntax: str | None = None
    takes_syntax = False
    """Whether prompts may have weights, as AUTOMATIC1111 writes them."""

    @abstractmethod
    def _modules(self) -> Iterable[Any]:
        """Return the modules that hold its weights, one at least."""

    def _freeze(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}
        for module in self._modules():
            module.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        """The name, folder or hub id that it was loaded by."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Digest of weights and configuration."""
        return self._fingerprint

    @property
    def card(self) -> Mapping[str, Any]:
        """Recommended settings and vocabulary."""
        return self._card

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return runs_on(next(iter(self._modules())))

    @contextmanager
    def counting(self) -> Iterator[Evaluations]:
        """Count every evaluation of the denoiser and the prior in this block, sample by sample.

        Whoever asks is counted: searches, fits and looks as well as drawings.
        """
        found = Evaluations()
        self._counts = (*self._counts, found)
        try:
            yield found
        finally:
            self._counts = tuple(count for count in self._counts if count is not found)

    def _once(self, name: str, compute: Callable[[], Kept]) -> Kept:
        """Return what depends on the weights alone: computed once where they are, no gradient."""
        key = (name, str(self.device))
        if key not in self._known:
            with torch.inference_mode(False), torch.no_grad():
                self._known[key] = compute()
        kept: Kept = self._known[key]
        return kept

    def _asked(self, *, denoiser: int = 0, prior: int = 0) -> None:
        """Add to the open counts how many samples a network was asked for."""
        for count in self._counts:
            count.denoiser += denoiser
            count.prior += prior

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights, but for autoencoders that overflow in half precision."""
        first = next(iter(self._modules()))
        found: torch.dtype = next(iter(first.parameters())).dtype
        return found

    @property
    def numerics(self) -> dict[str, Any]:
        """What its numbers depend on beside weights, settings and seed, as JSON values."""
        told = {"device": self.device.type, "dtype": str(self.dtype).removeprefix("torch.")}
        # slicing and offloading change nothing
        names = ("vae_tiling", "attention", "compile", "variant", *CHANGED_BY, *DRAWN_BY)
        chosen = {name: getattr(self._placement, name, None) for name in names}
        for name, files in (("lora", self._merged), ("embeddings", self._tokens)):
            chosen[name] = [asdict(file) for file in files]
        return {**told, **{name: value for name, value in chosen.items() if value}}

    # --- LoRA

    def lora_parts(self) -> dict[str, Any]:
        """Return the networks that LoRA factors may change, by their names in files, main first."""
        return {}

    def read_lora(
        self, raw: Mapping[str, Tensor], file: str = "lora"
    ) -> tuple[dict[str, Tensor], list[str]]:
        """Return factors of a file by this checkpoint's layers, and the layers that it lacks.

        Args:
            raw: As ``files.lora`` reads them.
            file: For errors.

        Raises:
            ShapeError: If none fits, one is of another width, or it is a DoRA, whose factors do not
                stand alone.
        """
        fitted = fit(raw, self.lora_parts(), self.lora_loader, file)
        if fitted.has_magnitudes:
            raise ShapeError(
                f"{file}: is a DoRA, which changes the weights themselves; draw with it by --lora"
            )
        return fitted.factors, fitted.left_out

    def merge_lora(self, lora: LoraFile) -> None:
        """Add a LoRA to the weights, once for all, before the checkpoint is placed.

        Raises:
            ConfigError: If its content is not what was asked for, or the checkpoint is placed.
            ShapeError: If no layer fits, one is of another width, or no weight changes.
        """
        if self._placement is not None:
            raise ConfigError(f"{self.name}: is placed already; load it again with its LoRA")
        raw, digest = read_lora_file(lora.path)
        _check_same(lora, digest)
        parts = self.lora_parts()
        fitted = fit(raw, parts, self.lora_loader, lora.path)
        merge(fitted, parts, lora.scale, lora.path)
        self._merged = (*self._merged, replace(lora, digest=digest))
        if left := fitted.left_out:
            self.notes = (
                *self.notes,
                f"{lora.path}: {len(left)} of its {len(left) + fitted.num_layers} layers are left "
                f"out, for {self.name} has none of that name ({', '.join(left[:2])})",
            )

    def to(self, device: str | torch.device) -> Self:
        """Move the weights; returns self.

        Raises:
            CheckpointError: If there is no such device.
            ConfigError: If they are offloaded.
        """
        if self._placement is not None and self._placement.offload != "none":
            raise ConfigError(f"{self.name}: its weights are offloaded; load it again to move it")
        found = usable(device)
        for module in self._modules():
            module.to(found)
        return self

    def place(self, placement: Placement) -> Self:
        """Put the weights where they run, and set what makes them fit, once; returns self.

        Their type is chosen when they are loaded.

        Raises:
            CheckpointError: If there is no such device.
            ConfigError: If this checkpoint cannot do what is asked, or is placed already.
        """
        if self._placement is not None:
            raise ConfigError(f"{self.name}: is placed already; load it again to place it anew")
        chosen = placement.resolved()
        if chosen.few_steps is not None:
            self._draw_in_few_steps(chosen.few_steps)
        if chosen.sampler is not None:
            self._choose_sampler(sampler_named(chosen.sampler))
        if chosen.guider is not None:
            self._guider = GuiderSpec.parse(chosen.guider)
        if chosen.prompt_syntax is not None and not self.takes_syntax:
            raise ConfigError(
                f"prompt_syntax: {self.name} reads prompts as they are; weights work where CLIP "
                "alone reads them: SD 1.5, SDXL and their kin"
            )
        self._syntax = chosen.prompt_syntax
        if chosen.ip_adapter is not None:
            self._add_ip_adapter(chosen.ip_adapter)
        vae, denoiser = (self._part(*names) for names in (AUTOENCODERS, DENOISERS))
        set_vae(vae, slicing=chosen.vae_slicing, tiling=chosen.vae_tiling)
        if chosen.attention is not None:
            set_attention(denoiser, chosen.attention)
        if chosen.quantize is not None and not is_large(type(denoiser).__name__):
            raise ConfigError(
                f"quantize: {type(denoiser).__name__} is not large enough to gain by it; it is for "
                "transformers such as those of SD3 and FLUX. Leave --quantize out"
            )
        if chosen.cache is not None:
            set_cache(denoiser, chosen.cache)
        device = usable(chosen.device)
        if device.type in CHANNELS_LAST and chosen.quantize is None:
            for module in (vae, denoiser):
                if module is not None:
                    module.to(memory_format=torch.channels_last)
        if chosen.offload == "none":
            self.to(chosen.device)
        else:
            offload(list(self._modules()), device, chosen.offload, whole=self._called_by_parts())
        if chosen.compile:
            compile_denoiser(denoiser, self.device)
        self._placement = chosen
        return self

    def add_tokens(self, file: TokenFile) -> None:
        """Let prompts hold the learned tokens of a file, by its name and by their own words.

        Raises:
            ConfigError: If its content is not what was asked for, or it holds no token.
            FingerprintError: If Offbeat learned it on other weights.
            ShapeError: If they belong to another family or checkpoint.
        """
        path = Path(file.path).expanduser()
        data = read_learned(path)
        digest = digest_of(data)
        _check_same(file, digest)
        found = read_weights(data, path)
        if not found.tokens:
            raise ConfigError(f"{path}: holds LoRA factors and no token; give it by --lora")
        if found.about.get("fingerprint", self.fingerprint) != self.fingerprint:
            raise FingerprintError(
                f"{path}: was learned on {found.about.get('checkpoint')}, and {self.name} has "
                "other weights, which its token means nothing to"
            )
        self.add_embedding(found.tokens, path.stem)  # type: ignore[attr-defined]
        self._tokens = (*self._tokens, replace(file, digest=digest))

    def drawing_at_once(self, pictures: int) -> Self:
        """Draw batches of so many pictures, if the card does not say more; returns self."""
        most = max(pictures, int(self._card["decode_batch_size"]))
        self._card = {**self._card, "decode_batch_size": most}
        return self

    few_steps_kind: str | None = None
    """For which kind of model LoRA of few steps must be: ``sd-1.5``, ``sdxl`` or ``flux``."""

    def _draw_in_few_steps(self, name: str) -> None:
        """Merge a published LoRA, and take its sampler, steps and guidance.

        Raises:
            CheckpointError: If the hub does not give it.
            ConfigError: If there is none for this kind of model.
        """
        made = few_steps_of(name, self.few_steps_kind, self.name)
        file = locate(made.repository, only=(made.file,), what="a LoRA") / made.file
        before = self._merged
        self.merge_lora(LoraFile(str(file), made.scale))
        self._merged = before  # its name says it
        self._choose_sampler(made.sampler)
        settings = {"num_inference_steps": made.num_inference_steps}
        self._card = {**self._card, **settings, "guidance_scale": made.guidance_scale}

    def _choose_sampler(self, spec: SamplerSpec) -> None:
        """Denoise by another scheduler, made from the settings of the checkpoint's own.

        Raises:
            ConfigError: If it cannot walk along a flow, and the checkpoint is one.
        """
        scheduler = sampler_like(self.scheduler, spec)
        self.scheduler = scheduler
        # a card's timesteps are those of its own scheduler
        kept = {name: value for name, value in self._card.items() if name != "timesteps"}
        self._card = {**kept, "scheduler": type(scheduler).__name__}

    def _add_ip_adapter(self, source: str) -> None:
        """Let pictures be prompts.

        Raises:
            CapabilityError: If the checkpoint takes none.
        """
        raise CapabilityError("an IP-Adapter", self.name, "ip_adapter", WITH_ADAPTER)

    def _part(self, *names: str) -> Any:
        """Return the first attribute of these names that there is."""
        return next(
            (part for name in names if (part := getattr(self, name, None)) is not None), None
        )

    def _called_by_parts(self) -> list[Any]:
        """Return the modules whose layers are called one by one; they call ``ready`` before."""
        return []


def _check_same(file: LoraFile | TokenFile, digest: str) -> None:
    """Refuse a file that changed since it was recorded."""
    if file.digest not in ("", digest):
        raise ConfigError(
            f"{file.path}: is another file than the one that was used ({file.digest[:8]}, now "
            f"{digest[:8]}); put that one in its place"
        )
