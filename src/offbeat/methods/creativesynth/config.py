"""Settings of CreativeSynth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from offbeat.core.checks import check_range
from offbeat.errors import ConfigError
from offbeat.methods.settings import configured, on_card

NAME = "creativesynth"

PARTS = ("down", "mid", "up")

_RANGES: dict[str, tuple[float, float]] = {
    "strength": (0, 1),
    "variety": (0, 1),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, 1000),
    "semantic_scale": (0, 10),
    "inversion_guidance_scale": (0, 1000),
    "num_refinements": (0, 100),
    "trajectory_offset": (0, 1000),
    "share_from": (0, 1),
    "share_until": (0, 1),
    "key_shift": (-100, 100),
    "key_scale": (0, 100),
    "kept_content": (0, 1),
}
"""What every number must lie in; NaN lies in none."""

_CHOICES = {"art_bn_direction": ("art", "as_printed"), "art_bn_one_input": ("art", "plain")}


@dataclass(frozen=True, slots=True, kw_only=True)
class CreativeSynthConfig:
    """Settings of one painting, saved as they were asked."""

    strength: float = 0.5
    """0 is the artwork, 0.5 the published way, 1 the content, or the text, in its style."""
    variety: float = 0.2
    """Share of each picture's own noise at the start; 0, as published, makes all pictures alike."""
    num_inference_steps: int = 30
    guidance_scale: float = 5.0
    semantic_scale: float = 0.6
    """Weight of the content, as an image prompt, beside the text."""
    negative_prompt: str = ""
    art_prompt: str = ""
    """What is on the artwork, as a prompt for its inversion and its stream."""
    inversion_guidance_scale: float = 1.0
    """Of the inversion (published: 5); with no ``art_prompt`` any value is the same as 1."""
    num_refinements: int = 0
    """Of each step of the inversion: exacter and slower."""
    trajectory_offset: int = 0
    """The artwork's stream skips so many of its noisiest latents (StyleAligned's demo: 5)."""
    with_art_bn: bool = True
    with_shared_attention: bool = True
    with_inversion: bool = True
    """Whether the artwork's trajectory is found; else it is the artwork with noise on it."""
    with_semantic: bool = True
    """Whether the content (the artwork itself, if there is none) is an image prompt."""
    art_bn_direction: str = "art"
    """``art``: the picture takes the artwork's statistics; ``as_printed``: eq. 6 to the letter."""
    art_bn_one_input: str = "art"
    """Without content: ``art`` as above; ``plain``: queries and keys standardised, none shared."""
    layers: tuple[str, ...] = PARTS
    """Parts of the U-Net that take and share: ``down``, ``mid``, ``up``."""
    share_from: float = 0.0
    """Share of the steps before the first that takes and shares, 0 to 1."""
    share_until: float = 1.0
    """Share of the steps up to the last one that does."""
    key_shift: float = 0.0
    """Added to the logits of the artwork's keys."""
    key_scale: float = 1.0
    """Factor of the artwork's keys."""
    with_content_stream: bool = False
    """Whether the content's own inversion is a third stream, whose keys and values are shared."""
    kept_content: float = 0.35
    """Share of the steps that the content has behind it at strength 1."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            check_range(name, getattr(self, name), low, high)
        for name in ("num_inference_steps", "num_refinements", "trajectory_offset"):
            if not isinstance(value := getattr(self, name), int):
                raise ConfigError(f"{name}: expected a whole number, got {value!r}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        layers = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        if not set(layers) <= set(PARTS):
            raise ConfigError(f"layers: expected some of {', '.join(PARTS)}, got {layers!r}")
        object.__setattr__(self, "layers", layers)
        if self.trajectory_offset > self.num_inference_steps:
            got = f"{self.trajectory_offset} of {self.num_inference_steps}"
            raise ConfigError(f"trajectory_offset: expected at most all steps, got {got}")
        if self.share_from > self.share_until:
            got = f"{self.share_from} and {self.share_until}"
            raise ConfigError(f"share_from, share_until: expected the first below, got {got}")

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> CreativeSynthConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        return configured(cls, NAME, {**on_card(card, NAME), **asked})
