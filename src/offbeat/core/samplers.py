"""Samplers by name: the schedulers of diffusers, under the names that AUTOMATIC1111 gives them.

A name is read without regard to case, and blanks are hyphens: ``DPM++ 2M Karras`` is
``dpm++-2m-karras``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offbeat.errors import ConfigError


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


@dataclass(frozen=True, slots=True)
class SamplerSpec:
    """A class of diffusers and the settings that make it this sampler."""

    title: str
    """As AUTOMATIC1111 writes it."""
    scheduler: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    flows: bool = False
    """Whether it walks along a flow, too (SD3, FLUX and their kin)."""

    @property
    def name(self) -> str:
        """As it is written on a command line."""
        return _plain(self.title)


_MULTISTEP = "DPMSolverMultistepScheduler"
_SDE = {"algorithm_type": "sde-dpmsolver++"}
_WHOLE = {"clip_sample": False}  # latents are no pixels, which alone may be clipped
_PLAIN = (
    SamplerSpec("Euler", "EulerDiscreteScheduler", flows=True),
    SamplerSpec("Euler a", "EulerAncestralDiscreteScheduler"),
    SamplerSpec("DPM++ 2M", _MULTISTEP, {"algorithm_type": "dpmsolver++"}, flows=True),
    SamplerSpec("DPM++ 2M SDE", _MULTISTEP, _SDE),
    SamplerSpec("DPM++ 3M SDE", _MULTISTEP, {**_SDE, "solver_order": 3}),
    SamplerSpec("DPM++ SDE", "DPMSolverSinglestepScheduler"),
    SamplerSpec("DPM2", "KDPM2DiscreteScheduler"),
    SamplerSpec("DPM2 a", "KDPM2AncestralDiscreteScheduler"),
    SamplerSpec("Heun", "HeunDiscreteScheduler"),
    SamplerSpec("LMS", "LMSDiscreteScheduler"),
    SamplerSpec("DDIM", "DDIMScheduler", _WHOLE),
    SamplerSpec("DDPM", "DDPMScheduler", _WHOLE),
    SamplerSpec("PLMS", "PNDMScheduler", {"skip_prk_steps": True}),
    SamplerSpec("UniPC", "UniPCMultistepScheduler", flows=True),
    SamplerSpec("DEIS", "DEISMultistepScheduler", flows=True),
    SamplerSpec("LCM", "LCMScheduler"),
    SamplerSpec("TCD", "TCDScheduler"),
)
_SPACED = {"Karras": "use_karras_sigmas", "Exponential": "use_exponential_sigmas"}
"""How noise levels are spaced, as a word after a sampler's name, and the setting."""
_SPACEABLE = frozenset(
    {"Euler", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 3M SDE", "DPM++ SDE", "DPM2", "DPM2 a", "Heun",
     "LMS", "UniPC", "DEIS"}
)  # fmt: skip

SAMPLERS: dict[str, SamplerSpec] = {
    spec.name: spec
    for spec in (
        *_PLAIN,
        *(
            SamplerSpec(
                f"{spec.title} {word}",
                spec.scheduler,
                {**spec.settings, setting: True},
                spec.flows and spec.title == "Euler",
            )
            for word, setting in _SPACED.items()
            for spec in _PLAIN
            if spec.title in _SPACEABLE
        ),
    )
}
"""Name to sampler."""


def sampler_named(name: str) -> SamplerSpec:
    """Return the sampler of a name.

    Raises:
        ConfigError: If there is none.

    >>> sampler_named("DPM++ 2M Karras").scheduler, sampler_named("euler_ancestral").title
    ('DPMSolverMultistepScheduler', 'Euler a')
    """
    plain = _plain(str(name)).replace("dpmpp", "dpm++").replace("ancestral", "a")
    if plain not in SAMPLERS:
        known = ", ".join(spec.name for spec in _PLAIN)
        raise ConfigError(
            f"sampler: expected one of {known}, most of them with -karras or -exponential behind "
            f"it, got {name!r}"
        )
    return SAMPLERS[plain]


def title_of(name: Any) -> Any:
    """Return how AUTOMATIC1111 writes a sampler, by its name or by its scheduler's class.

    >>> title_of("euler-a"), title_of("PNDMScheduler"), title_of("MyScheduler")
    ('Euler a', 'PLMS', 'MyScheduler')
    """
    plain = str(name).replace("FlowMatch", "")  # a flow has one such scheduler
    named = [spec.title for spec in SAMPLERS.values() if plain in (spec.scheduler, spec.name)]
    return named[0] if named else name
