"""Adaptive negatives: a judge looks while a picture is made, and guidance avoids what it names.

At each step the clean picture is estimated and shown to the judge; what it names joins the negative
prompt, which is encoded anew, and the denoising goes on. Nothing is trained.
Source: VLM-guided adaptive negative prompting, arXiv:2510.10715. Its published code leaves the
noise level out of the estimate; ours is ``predict_clean`` of the backbone, which does not. An
estimate asks the network once more, so every step with a question costs twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.methods.rivals.denoising import Told, Walk
from offbeat.methods.rivals.prompts import subject_prompt
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import DenoisingBackbone, NamesThings, ReadsClasses
from offbeat.types import OnStep, Request, Step, TextEmbeds, ignore_step

NAME = "adaptive-negatives"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveNegativesConfig(Settings):
    """When the judge is asked and what its answers do, saved as it was asked."""

    method = NAME

    query_from: float = setting(
        0.0, 0, 1, help="Share of the steps after which the judge is asked first, 0 to query_until."
    )
    query_until: float = setting(
        1.0, 0, 1, help="Share of the steps from which on it is asked no more, to 1."
    )
    query_every: int = setting(1, 1, 1000, help="Steps between two questions.")
    num_answers: int = setting(
        1, 1, 1000, help="Likeliest answers taken from each look; more than 1 needs a classifier."
    )
    keep_after: bool = setting(True, help="Whether the negatives stay after the last question.")
    max_negatives: int = setting(
        12, 1, 1000, help="The newest so many stay, so that the negative prompt fits."
    )
    negative: str = setting(
        "{words}", help="The negative prompt, with {words}, which commas divide."
    )
    num_inference_steps: int | None = setting(
        None, 1, 1000, help="Denoising steps; None: those of the checkpoint."
    )
    guidance_scale: float | None = setting(
        None, 0, 1000, help="Guidance; None: that of the checkpoint."
    )

    def check(self) -> None:
        """Raise if questions end before they begin, or the negative prompt lacks its place."""
        check_range("query_from", self.query_from, 0, self.query_until)
        fill(self.negative, words="")

    def asks(self, step: int, num_inference_steps: int) -> bool:
        """Return whether the judge is asked before a step."""
        first = round(self.query_from * num_inference_steps)
        inside = first <= step < round(self.query_until * num_inference_steps)
        return inside and (step - first) % self.query_every == 0


def joined(known: tuple[str, ...], answers: list[str], subject: str, most: int) -> tuple[str, ...]:
    """Return the negatives with the new answers: none twice, never the subject, the newest few."""
    found = list(known)
    for answer in (one.strip() for one in answers):
        if answer and answer != subject and answer not in found:
            found.append(answer)
    return tuple(found[-most:])


class AdaptiveNegatives(Method[AdaptiveNegativesConfig]):
    """The subject, led away from what it is about to be."""

    name = NAME
    config_class = AdaptiveNegativesConfig
    needs = DenoisingBackbone
    verbs = frozenset({"explore"})
    result = "pictures"
    asks_names_only = True
    """The judge need not know the subject: it is asked what it sees, not whether it is one."""

    @torch.no_grad()
    def draw(
        self,
        backbone: DenoisingBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return pictures of the subject, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Args:
            backbone: Frozen.
            request: The subject, the number of pictures, and the seed.
            judge: Names what it sees.
            start: Number of the first.
            on_step: Told each picture's negatives at the end.

        Raises:
            ConfigError: If the judge cannot answer.
        """
        cfg = self.config
        if not isinstance(judge, ReadsClasses if cfg.num_answers > 1 else NamesThings):
            what = "reads classes" if cfg.num_answers > 1 else "names what it sees"
            raise ConfigError(f"judge: {NAME} needs one that {what}; choose it with --judge")
        text = backbone.encode_text([subject_prompt(backbone, request, "{subject}")])
        walk = Walk.of(backbone, cfg.num_inference_steps)
        negatives: list[tuple[str, ...]] = [()] * request.num_images
        until = round(cfg.query_until * walk.num_inference_steps)

        def told(step: int, latents: Tensor) -> Told:
            if cfg.asks(step, walk.num_inference_steps):
                clean = backbone.predict_clean(
                    latents,
                    text,
                    step=step,
                    negative=self._encoded(backbone, negatives),
                    guidance_scale=cfg.guidance_scale,
                    **walk.settings,
                )
                for row, image in enumerate(backbone.decode(clean).cpu()):
                    answers = self._answers(judge, image, request.subject)
                    negatives[row] = joined(
                        negatives[row], answers, request.subject, cfg.max_negatives
                    )
            kept = cfg.keep_after or step < until
            negative = self._encoded(backbone, negatives) if kept else None
            return Told(text, negative, cfg.guidance_scale)

        images = walk.draw(request, start, told)
        told_of = {"first": start, "negatives": [list(words) for words in negatives]}
        on_step(Step(index=0, loss=0.0, values=told_of))  # nothing is minimised
        return images

    def _encoded(self, backbone: Any, negatives: list[tuple[str, ...]]) -> TextEmbeds | None:
        """Return each picture's negative prompt; None while there is nothing to avoid."""
        if not any(negatives):
            return None
        prompts = [
            fill(self.config.negative, words=", ".join(words)) if words else ""
            for words in negatives
        ]
        found: TextEmbeds = backbone.encode_text(prompts)
        return found

    def _answers(self, judge: Any, image: Tensor, subject: str) -> list[str]:
        if self.config.num_answers == 1:
            return [judge.name_it(image, subject)]
        order = judge.class_probabilities(image[None])[0].argsort(descending=True)
        words = [judge.labels[int(index)] for index in order]
        return [word for word in words if word != subject][: self.config.num_answers]
