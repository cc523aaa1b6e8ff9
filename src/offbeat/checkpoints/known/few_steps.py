"""Published LoRA that let a model draw in few steps, with the sampler and settings they need.

A checkpoint that was made for few steps, such as ``sdxl-turbo``, needs none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from offbeat.core.samplers import SamplerSpec
from offbeat.errors import ConfigError

_TRAILING = {"timestep_spacing": "trailing"}
_EULER = SamplerSpec("Euler", "EulerDiscreteScheduler", _TRAILING, flows=True)
_DDIM = SamplerSpec("DDIM", "DDIMScheduler", {**_TRAILING, "clip_sample": False})
_LCM = SamplerSpec("LCM", "LCMScheduler")


@dataclass(frozen=True, slots=True)
class FewSteps:
    """A LoRA on the hub, and how a model with it is drawn with."""

    repository: str
    file: str
    sampler: SamplerSpec
    num_inference_steps: int
    guidance_scale: float
    scale: float = 1.0
    """Strength of the LoRA."""


_HYPER = "ByteDance/Hyper-SD"
_WEIGHTS = "pytorch_lora_weights.safetensors"
FEW_STEPS: dict[tuple[str, str], FewSteps] = {
    ("lcm", "sd-1.5"): FewSteps("latent-consistency/lcm-lora-sdv1-5", _WEIGHTS, _LCM, 4, 1.0),
    ("lcm", "sdxl"): FewSteps("latent-consistency/lcm-lora-sdxl", _WEIGHTS, _LCM, 4, 1.0),
    ("lightning", "sdxl"): FewSteps(
        "ByteDance/SDXL-Lightning", "sdxl_lightning_4step_lora.safetensors", _EULER, 4, 0.0
    ),
    ("hyper", "sd-1.5"): FewSteps(_HYPER, "Hyper-SD15-8steps-lora.safetensors", _DDIM, 8, 0.0),
    ("hyper", "sdxl"): FewSteps(_HYPER, "Hyper-SDXL-8steps-lora.safetensors", _DDIM, 8, 0.0),
    ("hyper", "flux"): FewSteps(
        _HYPER, "Hyper-FLUX.1-dev-8steps-lora.safetensors", _EULER, 8, 3.5, 0.125
    ),
}
"""By name and the kind of model, as their authors publish them."""
NAMES = tuple(dict.fromkeys(name for name, _ in FEW_STEPS))


def few_steps_of(name: str, kind: str | None, checkpoint: str) -> FewSteps:
    """Return what makes a kind of model draw in few steps.

    Raises:
        ConfigError: If nothing of that name is published for it.
    """
    if (name, str(kind)) not in FEW_STEPS:
        able = ", ".join(k for n, k in FEW_STEPS if n == name)
        raise ConfigError(
            f"few_steps: {name} is published for {able} and models of their form, and {checkpoint} "
            "is none; choose another"
        )
    return FEW_STEPS[name, str(kind)]
