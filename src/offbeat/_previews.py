"""Pictures of a search while it runs: quick, of one noise, kept beside the states they show."""

from __future__ import annotations

from dataclasses import dataclass

from offbeat import formats
from offbeat._pictures_out import draw_embeds
from offbeat.protocols import ExploringBackbone
from offbeat.store import RunFolder
from offbeat.types import Concept, Observe

MAX_STEPS = 8
"""Denoising steps of a preview: enough to see where a search goes."""


@dataclass(frozen=True, slots=True)
class Previews:
    """Draws a picture every so many steps; nothing that the search finds depends on it."""

    folder: RunFolder | None
    backbone: ExploringBackbone
    observe: Observe
    every: int
    """Steps; 0 draws none."""

    def due(self, count: int) -> bool:
        """Return whether there is one after ``count`` steps."""
        return self.every > 0 and count % self.every == 0

    def draw(self, concept: Concept, *, seed: int, trial: int, count: int) -> None:
        """Draw what a search has after ``count`` steps: picture 0 of its own noise.

        The observer is told the picture, and its file where there is a folder.
        """
        card = self.backbone.card
        quick = {"num_inference_steps": min(MAX_STEPS, int(card["num_inference_steps"]))}
        _, images = draw_embeds(self.backbone, concept, seed=seed, num=1, decoding=quick)
        pictures = formats.to_pil(images)
        where = f"trials/{trial}/states/{count:04d}/preview-0000.png"
        if self.folder is not None:
            about = {"subject": concept.subject, "step": count, "trial": trial, "seed": seed}
            self.folder.write({where: formats.encode_png(pictures[0], about)})
        files = [where] if self.folder is not None else []
        told = {"pictures": pictures, "files": files, "at": count, "trial": trial}
        self.observe("preview", 1, 1, told)
