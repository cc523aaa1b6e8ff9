"""Settings of CreativeSynth."""

from __future__ import annotations

from dataclasses import dataclass

from offbeat.errors import ConfigError
from offbeat.methods.settings import Settings, setting

NAME = "creativesynth"

PARTS = ("down", "mid", "up")


@dataclass(frozen=True, slots=True, kw_only=True)
class CreativeSynthConfig(Settings):
    """Settings of a painting."""

    method = NAME

    strength: float = setting(
        0.5, 0, 1, help="0: the artwork; 0.5: as published; 1: the content or text in its style."
    )
    variety: float = setting(
        0.2, 0, 1, help="Share of each picture's own noise at the start; published is 0: all alike."
    )
    num_inference_steps: int = setting(30, 1, 1000, help="Denoising steps.")
    guidance_scale: float = setting(5.0, 0, 1000, help="Guidance of the denoising; 1 is off.")
    semantic_scale: float = setting(
        0.6, 0, 10, help="Weight of the content, as an image prompt, beside the text."
    )
    negative_prompt: str = setting("", help="What guidance steers away from.")
    art_prompt: str = setting(
        "", help="What is on the artwork, as a prompt for its inversion and its stream."
    )
    inversion_guidance_scale: float = setting(
        1.0, 0, 1000, help="Of the inversion (published: 5); without art_prompt it changes nothing."
    )
    num_refinements: int = setting(
        0, 0, 100, help="Of each step of the inversion: exacter and slower."
    )
    trajectory_offset: int = setting(
        0, 0, 1000, help="The artwork's stream skips so many of its noisiest latents."
    )
    with_art_bn: bool = setting(True, help="Whether the statistics of the artwork are taken.")
    with_shared_attention: bool = setting(
        True, help="Whether the artwork's keys and values are shared."
    )
    with_inversion: bool = setting(
        True, help="Whether the artwork is inverted; if not, noise is added to it."
    )
    with_semantic: bool = setting(
        True, help="Whether the content (the artwork itself, if there is none) is an image prompt."
    )
    art_bn_direction: str = setting(
        "art",
        choices=("art", "as_printed"),
        help="art: the picture takes the artwork's statistics; as_printed: eq. 6 as is.",
    )
    art_bn_one_input: str = setting(
        "art",
        choices=("art", "plain"),
        help="Without content: art as above, or plain: queries and keys standardised.",
    )
    layers: tuple[str, ...] = setting(
        PARTS, help="Parts of the U-Net that take and share: down, mid, up."
    )
    share_from: float = setting(
        0.0, 0, 1, help="Share of the steps before the first that takes and shares, 0 to 1."
    )
    share_until: float = setting(1.0, 0, 1, help="Share of the steps up to the last one that does.")
    key_shift: float = setting(0.0, -100, 100, help="Added to the logits of the artwork's keys.")
    key_scale: float = setting(1.0, 0, 100, help="Factor of the artwork's keys.")
    with_content_stream: bool = setting(
        False, help="Whether the content is inverted too, and its keys and values are shared."
    )
    kept_content: float = setting(
        0.35, 0, 1, help="Share of the steps that the content has behind it at strength 1."
    )

    def check(self) -> None:
        """Raise if a part of the U-Net is unknown, or shares of steps do not fit."""
        if not set(self.layers) <= set(PARTS):
            raise ConfigError(f"layers: expected some of {', '.join(PARTS)}, got {self.layers!r}")
        if self.trajectory_offset > self.num_inference_steps:
            got = f"{self.trajectory_offset} of {self.num_inference_steps}"
            raise ConfigError(f"trajectory_offset: expected at most all steps, got {got}")
        if self.share_from > self.share_until:
            got = f"{self.share_from} and {self.share_until}"
            raise ConfigError(f"share_from, share_until: expected the first below, got {got}")
