"""LoRA of other tools: which layers of a checkpoint its factors belong to, and adding them.

The converters are those of diffusers, and PEFT computes what is added to the weights.
Source: Hu et al., LoRA, arXiv:2106.09685; Liu et al., DoRA, arXiv:2402.09353.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.pipeline import quiet_diffusers
from offbeat.errors import ShapeError

MAGNITUDE = "lora_magnitude_vector"
"""PEFT's name of a DoRA's magnitudes."""
_MAGNITUDE = re.compile(rf"\.(dora_scale|{MAGNITUDE}(\.default)?(\.weight)?)$")


@dataclass(frozen=True, slots=True)
class Fitted:
    """Factors in our names, and the layers of the file that the checkpoint lacks."""

    factors: dict[str, Tensor]
    left_out: list[str]

    @property
    def num_layers(self) -> int:
        """How many layers the checkpoint has of those in the file."""
        return sum(".lora_A." in name for name in self.factors)

    @property
    def has_magnitudes(self) -> bool:
        """Whether some are a DoRA's."""
        return any(MAGNITUDE in name for name in self.factors)


def fit(
    raw: Mapping[str, Tensor], parts: Mapping[str, Any], loader: str | None, file: str
) -> Fitted:
    """Return factors by the layers of a checkpoint: ``PART.LAYER.lora_A.weight``.

    Args:
        raw: As ``files.lora`` reads them, alpha = rank.
        parts: The networks that may carry factors, by their names in files; the main one first.
        loader: The class of ``diffusers.loaders.lora_pipeline`` that knows the names which files of
            other tools have; None takes those of diffusers and PEFT alone.
        file: For errors.

    Raises:
        ShapeError: If no layer fits, or one is of another width.
    """
    names = _converted(_prefixed(raw, parts), parts, loader, file)
    layers: dict[str, dict[str, Tensor]] = {}
    for name, factor in names.items():
        layer, *end = re.split(rf"\.(lora_[AB]|{MAGNITUDE}|lora_down|lora_up)\b", name)
        layers.setdefault(layer, {})[end[0] if end else ""] = factor
    factors: dict[str, Tensor] = {}
    left_out = []
    for layer, pair in layers.items():
        module = _module(parts, layer)
        if module is None or not {"lora_A", "lora_B"} <= set(pair):
            left_out.append(layer)
            continue
        _check_widths(file, layer, module, pair)
        factors |= {f"{layer}.{which}.weight": part for which, part in pair.items()}
    if not factors:
        raise ShapeError(
            f"{file}: none of its {len(layers)} layers is one of this checkpoint "
            f"({', '.join(sorted(layers)[:2])}); it belongs to another family: name its own "
            "checkpoint with --backbone"
        )
    return Fitted(factors, sorted(left_out))


def merge(fitted: Fitted, parts: Mapping[str, Any], scale: float, file: str) -> None:
    """Add ``scale`` times what the factors say to the weights of a checkpoint, once for all.

    Raises:
        ShapeError: If no weight changes by it.
    """
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    changed = False
    for (part, rank, is_dora), factors in _groups(fitted.factors).items():
        network = parts[part]
        layers = sorted({name.rpartition(".lora_")[0] for name in factors})
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules="|".join(map(re.escape, layers)),
            use_dora=is_dora,
        )
        inject_adapter_in_model(config, network, adapter_name="offbeat")
        set_peft_model_state_dict(network, factors, adapter_name="offbeat")
        for module in network.modules():
            if isinstance(module, BaseTunerLayer):
                before = module.get_base_layer().weight.detach().clone()
                module.scale_layer(scale)
                module.merge(safe_merge=True)
                changed |= not torch.equal(before, module.get_base_layer().weight)
        recurse_remove_peft_layers(network)
        network.__dict__.pop("peft_config", None)
        network.requires_grad_(False).eval()
    if not changed:
        raise ShapeError(
            f"{file}: changes no weight at strength {scale:g}: its factors are zero, or too small "
            "for the type of the weights; leave it out, or use --dtype float32"
        )


def _groups(factors: Mapping[str, Tensor]) -> dict[tuple[str, int, bool], dict[str, Tensor]]:
    """Return factors by part, rank and whether they are a DoRA's: PEFT takes one of each."""
    groups: dict[tuple[str, int, bool], dict[str, Tensor]] = {}
    for name, a in factors.items():
        layer, end, _ = name.partition(".lora_A.")
        if not end:
            continue
        part, _, inner = layer.partition(".")
        magnitude = factors.get(f"{layer}.{MAGNITUDE}.weight")
        group = groups.setdefault((part, len(a), magnitude is not None), {})
        group[f"{inner}.lora_A.weight"] = a
        group[f"{inner}.lora_B.weight"] = factors[f"{layer}.lora_B.weight"]
        if magnitude is not None:
            group[f"{inner}.{MAGNITUDE}"] = magnitude
    return groups


def _module(parts: Mapping[str, Any], layer: str) -> Any:
    """Return a layer that can carry factors; None if there is no such layer."""
    part, _, inner = layer.partition(".")
    try:
        module = parts[part].get_submodule(inner)
    except (KeyError, AttributeError):
        return None
    return module if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) else None


def _check_widths(file: str, layer: str, module: Any, pair: dict[str, Tensor]) -> None:
    """Refuse factors of another width; magnitudes are put into PEFT's shape."""
    weight, (a, b) = module.weight, (pair["lora_A"], pair["lora_B"])
    if weight.ndim == 4 and a.ndim == 2:  # of a 1 x 1 convolution, written as of a linear layer
        pair["lora_A"], pair["lora_B"] = a, b = a[..., None, None], b[..., None, None]
    if weight.ndim == 2 and a.ndim == 4 and a.shape[2:] == b.shape[2:] == (1, 1):
        pair["lora_A"], pair["lora_B"] = a, b = a[..., 0, 0], b[..., 0, 0]
    fits = a.shape[1:] == weight.shape[1:] and len(b) == len(weight)
    magnitude = pair.get(MAGNITUDE)
    if fits and magnitude is not None:
        fits = magnitude.numel() == len(magnitude) == len(weight)  # by row, not by column
        pair[MAGNITUDE] = magnitude.flatten() if weight.ndim == 2 else magnitude.view(1, -1, 1, 1)
    if not fits:
        shapes = " and ".join(str(list(part.shape)) for part in pair.values())
        raise ShapeError(
            f"{file}: {layer}: expected factors of a layer of shape {list(weight.shape)}, got "
            f"{shapes}: it was made for another checkpoint; name its own with --backbone"
        )


# --- names


def _prefixed(raw: Mapping[str, Tensor], parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return factors with the name of their part where the file leaves it out.

    PEFT writes the layer alone, after ``base_model.model.``, and so did diffusers before 0.15;
    ComfyUI has ``diffusion_model.``, sometimes before the names of diffusers.
    """
    main = next(iter(parts))
    flat = {name.replace(".", "_"): name for name, _ in parts[main].named_modules()}
    renamed = {}
    for old, factor in raw.items():
        name = old.removeprefix("base_model.model.")
        stem, _, end = name.removeprefix(f"lora_{main}_").partition(".")
        if main != "unet" and name.startswith(f"lora_{main}_") and stem in flat:
            end = end.replace("lora_down", "lora_A").replace("lora_up", "lora_B")
            name = f"{flat[stem]}.{end}"
        bare = name.removeprefix("diffusion_model.")  # ComfyUI's name of any denoiser
        layer = re.split(r"\.processor\.|\.lora_|\.lora\.|_lora\.", bare)[0]
        if layer.split(".")[0] not in parts:
            part = next((part for part in parts if _has(parts[part], layer)), None)
            name = name if part is None else f"{part}.{bare}"
        renamed[name] = factor
    return renamed


def _has(network: Any, layer: str) -> bool:
    try:
        network.get_submodule(layer)
    except AttributeError:
        return False
    return bool(layer)


def _converted(
    raw: dict[str, Tensor], parts: Mapping[str, Any], loader: str | None, file: str
) -> dict[str, Tensor]:
    """Return factors in PEFT's names, by diffusers' converters of the checkpoint's family."""
    from diffusers.loaders import lora_pipeline
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft
    from diffusers.utils.state_dict_utils import StateDictType

    state = {name: factor for name, factor in raw.items() if not _MAGNITUDE.search(name)}
    is_ours = any(_module(parts, name.rpartition(".lora_")[0]) is not None for name in state)
    if loader is not None and not is_ours:
        settings = {"unet_config": parts["unet"].config} if "unet" in parts else {}
        with quiet_diffusers(), _conversion_errors(file):
            answer = getattr(lora_pipeline, loader).lora_state_dict(dict(state), **settings)
        state = answer[0] if isinstance(answer, tuple) else answer
    done: dict[str, Tensor] = {}
    for part, network in parts.items():
        inside = {name: state[name] for name in state if name.startswith(f"{part}.")}
        if part.startswith("text_encoder"):
            inside = convert_state_dict_to_peft(inside, StateDictType.DIFFUSERS_OLD)
            if not hasattr(network, "text_model"):  # newer transformers have one level less
                inside = {name.replace(".text_model.", ".", 1): inside[name] for name in inside}
        done |= convert_unet_state_dict_to_peft(inside)
    known = tuple(f"{part}." for part in parts)
    done |= {name: state[name] for name in state if not name.startswith(known)}
    return done | _magnitudes(raw, done, file)


def _magnitudes(
    raw: Mapping[str, Tensor], done: Mapping[str, Tensor], file: str
) -> dict[str, Tensor]:
    """Return a DoRA's magnitudes beside their factors: a converter hands on the same tensors."""
    layers = {id(factor): name.partition(".lora_A")[0] for name, factor in done.items()}
    placed = {}
    for name, magnitude in raw.items():
        if not _MAGNITUDE.search(name):
            continue
        stem = _MAGNITUDE.sub("", name)
        ends = (".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight")
        layer = next((layers.get(id(raw.get(stem + end))) for end in ends if stem + end in raw), "")
        if not layer:
            raise ShapeError(
                f"{file}: is a DoRA whose {stem} cannot be placed; a DoRA of this family cannot be "
                "used: give a plain LoRA"
            )
        placed[f"{layer}.{MAGNITUDE}"] = magnitude
    return placed


@contextmanager
def _conversion_errors(file: str) -> Iterator[None]:
    """Turn what diffusers' converters raise on names that they do not know into our error."""
    try:
        yield
    except Exception as error:  # they raise many kinds; each means the same
        said = " ".join(str(error).split())[:200]
        raise ShapeError(
            f"{file}: the names of its layers are of no family that is known for this checkpoint "
            f"({type(error).__name__}: {said})"
        ) from error
