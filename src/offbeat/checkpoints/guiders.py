"""Guiders by name: how the two halves of classifier-free guidance become one prediction.

All but ``cads`` are classes of ``diffusers.guiders``. Not among them are those that need a third
pass of a network with parts left out, one that needs kornia, and MagnitudeAwareGuidance, whose
norm torch refuses for latents of pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from offbeat.checkpoints.pipeline import quiet_diffusers
from offbeat.errors import ConfigError

_APG = "adaptive_projected_guidance_"
GUIDERS: dict[str, tuple[str, dict[str, float]]] = {
    "interval": ("ClassifierFreeGuidance", {}),
    # the paper's settings for Stable Diffusion XL; those of the class are plain guidance, clipped
    "apg": ("AdaptiveProjectedGuidance", {f"{_APG}momentum": -0.5, "eta": 0.0}),
    "apg-mix": ("AdaptiveProjectedMixGuidance", {}),
    "cfg-zero": ("ClassifierFreeZeroStarGuidance", {}),
    "tcfg": ("TangentialClassifierFreeGuidance", {}),
    "cads": ("", {"tau1": 0.6, "tau2": 0.9, "scale": 0.25, "mixing": 1.0}),
}
"""Name to the class and what is set where nothing is said; ``cads`` is ours."""
_OURS = ("guidance_scale", "enabled")
"""Settings of the classes that are not the user's here: the scale is ``guidance_scale``."""


@dataclass(frozen=True, slots=True)
class GuiderSpec:
    """A guider and its settings, as ``NAME`` or ``NAME:setting=value,...`` says it."""

    name: str
    settings: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> GuiderSpec:
        """Read a guider.

        Raises:
            ConfigError: If there is no such guider or setting, or a value is no number in its
                range.

        >>> GuiderSpec.parse("cads:scale=0.1").settings["scale"]
        0.1
        """
        name, _, rest = str(text).strip().partition(":")
        if name not in GUIDERS:
            raise ConfigError(f"guider: expected one of {', '.join(GUIDERS)}, got {name!r}")
        defaults = GUIDERS[name][1]
        known = defaults if name == "cads" else _settings_of(name)
        settings = dict(defaults)
        for part in filter(None, rest.split(",")):
            key, _, value = part.partition("=")
            full = next((k for k in known if key.strip() in (k, k.removeprefix(_APG))), None)
            if full is None:
                names = ", ".join(k.removeprefix(_APG) for k in known)
                raise ConfigError(f"guider: {name} has the settings {names}, got {key.strip()!r}")
            try:
                settings[full] = type(known[full] or 0.0)(float(value))
            except ValueError as error:
                raise ConfigError(f"guider: {key}: expected a number, got {value!r}") from error
        if name == "interval" and not settings:
            raise ConfigError(
                "guider: interval expects the shares of the steps between which there is guidance, "
                "e.g. interval:start=0.2,stop=0.8"
            )
        spec = cls(name, settings)
        if name == "cads":
            spec.check_cads()
        else:
            spec.made(1.5)  # it checks its own ranges
        return spec

    def check_cads(self) -> None:
        """Raise unless the times of CADS are in order."""
        low, high = self.settings["tau1"], self.settings["tau2"]
        if not (0 <= low <= high <= 1 and 0 <= self.settings["mixing"] <= 1):
            raise ConfigError(
                "guider: cads expects 0 <= tau1 <= tau2 <= 1 and mixing from 0 to 1, got "
                f"{dict(self.settings)}"
            )

    def made(self, guidance_scale: float) -> Any:
        """Return the guider of diffusers, new: some keep a state along a walk.

        Raises:
            ConfigError: If it refuses its settings.
        """
        kind = _class_of(self.name)
        try:
            with quiet_diffusers():  # it warns that guiders are an experiment
                return kind(guidance_scale=guidance_scale, **self.settings)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"guider: {self.name}: {error}") from error


def _class_of(name: str) -> Any:
    from diffusers import guiders

    return getattr(guiders, GUIDERS[name][0])


def _settings_of(name: str) -> dict[str, Any]:
    """Return the settings of a guider of diffusers and their defaults, numbers only."""
    parameters = inspect.signature(_class_of(name).__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.name not in ("self", *_OURS)
        and not isinstance(parameter.default, bool)
        and (parameter.default is None or isinstance(parameter.default, int | float))
    }
