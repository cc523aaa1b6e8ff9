"""High guidance: the subject's own prompt, followed harder than the checkpoint recommends.

Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv:2207.12598: a larger scale trades
variety for likeness. It makes pictures louder, which raters may take for unusual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from offbeat.core.drawing import Noise, draw_from_text
from offbeat.methods.rivals.prompts import subject_prompt
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import TextBackbone
from offbeat.types import OnStep, Request, ignore_step

NAME = "high-guidance"


@dataclass(frozen=True, slots=True, kw_only=True)
class HighGuidanceConfig(Settings):
    """How much harder, saved as it was asked."""

    method = NAME

    times: float = setting(
        3.0,
        above=0,
        at_most=100,
        help="Multiplies the checkpoint's own guidance scale, and its prior's, above 0 to 100.",
    )


class HighGuidance(Method[HighGuidanceConfig]):
    """The ordinary pictures, guided harder."""

    name = NAME
    config_class = HighGuidanceConfig
    needs = TextBackbone
    verbs = frozenset({"explore"})
    result = "pictures"

    def draw(
        self,
        backbone: TextBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of the subject, ``[N, 3, H, W]``, 0 to 1, on the CPU."""
        text = backbone.encode_text([subject_prompt(backbone, request, "{subject}")])
        return draw_from_text(
            backbone, text, Noise.ordinary(request, start), guidance_times=self.config.times
        )
