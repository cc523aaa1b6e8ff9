"""High guidance: the subject's own prompt, followed harder than the checkpoint recommends.

Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv:2207.12598: a larger scale trades
variety for likeness. It makes pictures louder, which raters may take for unusual.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from offbeat.methods.pictures import Drawing, DrawsSubject
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import TextBackbone

NAME = "high-guidance"


@dataclass(frozen=True, slots=True, kw_only=True)
class HighGuidanceConfig(Settings):
    """How much harder the prompt is followed."""

    method = NAME

    times: float = setting(
        3.0,
        above=0,
        at_most=100,
        help="Multiplies the checkpoint's own guidance scale, and its prior's, above 0 to 100.",
    )


class HighGuidance(DrawsSubject[HighGuidanceConfig]):
    """The ordinary pictures, guided harder."""

    name = NAME
    config_class = HighGuidanceConfig
    needs = TextBackbone

    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return the ordinary pictures of the subject with the larger guidance scale."""
        text = drawing.encode(drawing.request.subject)
        return drawing.draw(text, guidance_times=self.config.times)
