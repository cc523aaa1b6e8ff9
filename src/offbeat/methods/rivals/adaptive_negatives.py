"""Adaptive negatives: while a picture is drawn, a judge names it and guidance avoids that name.

At each step the clean picture is estimated and shown to the judge; what it names joins the negative
prompt, which is encoded anew, and the denoising goes on. Nothing is trained.
Source: VLM-guided adaptive negative prompting, arXiv:2510.10715, and its official code, in whose
order the estimate comes from the step's own prediction and a negative acts from the next step on.
Not as there: the code leaves the noise level out of the estimate; the subject itself is never a
negative. Ours, ``acts_from="same"``: the estimate is made first, by one more look of the network,
and the negative acts in that very step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_range
from offbeat.core.templates import fill
from offbeat.errors import ConfigError, PromptError
from offbeat.methods.pictures import Drawing, DrawsSubject
from offbeat.methods.rivals.denoising import Steering, StepByStep
from offbeat.methods.settings import Settings, denoising_steps, guidance, setting
from offbeat.protocols import DenoisingBackbone, NamesThings, ReadsClasses
from offbeat.types import TextEmbeds

NAME = "adaptive-negatives"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveNegativesConfig(Settings):
    """When the judge is asked, and what its answers do; defaults as published."""

    method = NAME

    phrase: str = setting("creative {subject}", help="What is drawn, with {subject}.")
    acts_from: str = setting(
        "next",
        choices=("next", "same"),
        help="Step from which a negative acts: the next, as published, or the one that shows it, "
        "which costs one more evaluation.",
    )
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
    max_negatives: int | None = setting(
        None, 1, 1000, help="The newest so many stay; None: all that fit in the negative prompt."
    )
    negative: str = setting(
        "{words}", help="The negative prompt, with {words}, which commas divide."
    )
    num_inference_steps: int | None = denoising_steps()
    guidance_scale: float | None = guidance()

    def check(self) -> None:
        """Raise if questions end before they begin, or a prompt lacks its place."""
        check_range("query_from", self.query_from, 0, self.query_until)
        fill(self.negative, words="")
        fill(self.phrase, subject="")

    def asks(self, step: int, num_inference_steps: int) -> bool:
        """Return whether the judge is asked at a step."""
        first = round(self.query_from * num_inference_steps)
        inside = first <= step < round(self.query_until * num_inference_steps)
        return inside and (step - first) % self.query_every == 0


def joined(
    known: tuple[str, ...], answers: list[str], subject: str, most: int | None = None
) -> tuple[str, ...]:
    """Return the negatives with the new answers: none twice, never the subject, the newest few."""
    negatives = list(known)
    for answer in map(str.strip, answers):
        if answer and answer != subject and answer not in negatives:
            negatives.append(answer)
    return tuple(negatives if most is None else negatives[-most:])


class AdaptiveNegatives(DrawsSubject[AdaptiveNegativesConfig]):
    """The subject, led away from what it is about to become.

    The judge must name what it sees; one that cannot is a ``ConfigError``. ``on_step`` is told each
    picture's negatives at the end.
    """

    name = NAME
    config_class = AdaptiveNegativesConfig
    needs = DenoisingBackbone
    asks_names_only = True
    """The judge need not know the subject: it is asked what it sees, not whether it is one."""

    @torch.no_grad()
    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return pictures of the subject, steered from what the judge names."""
        cfg, judge, backbone = self.config, drawing.judge, drawing.backbone
        if not isinstance(judge, ReadsClasses if cfg.num_answers > 1 else NamesThings):
            what = "reads classes" if cfg.num_answers > 1 else "names what it sees"
            raise ConfigError(f"judge: {NAME} needs one that {what}; choose it with --judge")
        subject = drawing.request.subject
        text = backbone.encode_text([drawing.prompt(cfg.phrase, subject=subject)])
        denoising = StepByStep.of(drawing, cfg.num_inference_steps)
        negatives: list[tuple[str, ...]] = [()] * drawing.num
        until = round(cfg.query_until * denoising.num_inference_steps)

        def look(step: int, clean: Tensor) -> None:
            if cfg.asks(step, denoising.num_inference_steps):
                for row, image in enumerate(backbone.decode(clean).cpu()):
                    answers = self._answers(judge, image, subject)
                    words = joined(negatives[row], answers, subject, cfg.max_negatives)
                    negatives[row] = self._fitting(backbone, words)

        def steer(step: int, latents: Tensor) -> Steering:
            negative = self._encoded(backbone, negatives)
            if cfg.acts_from == "same" and cfg.asks(step, denoising.num_inference_steps):
                clean = backbone.predict_clean(
                    latents,
                    text,
                    step=step,
                    negative=negative,
                    guidance_scale=cfg.guidance_scale,
                    **denoising.settings,
                )
                look(step, clean)
                negative = self._encoded(backbone, negatives)
            last = until if cfg.acts_from == "next" else until - 1
            avoids = cfg.keep_after or step <= last
            return Steering(text, negative if avoids else None, cfg.guidance_scale)

        images = denoising.draw(steer, on_clean=look if cfg.acts_from == "next" else None)
        drawing.report({"first": drawing.start, "negatives": [list(words) for words in negatives]})
        return images

    def _fitting(self, backbone: Any, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return the first words of a negative prompt that is not too long."""
        while words:
            try:
                self._encoded(backbone, [words])
            except PromptError:
                words = words[:-1]
            else:
                break
        return words

    def _encoded(self, backbone: Any, negatives: list[tuple[str, ...]]) -> TextEmbeds | None:
        """Return each picture's negative prompt; None while there is nothing to avoid."""
        if not any(negatives):
            return None
        prompts = [
            fill(self.config.negative, words=", ".join(words)) if words else ""
            for words in negatives
        ]
        text: TextEmbeds = backbone.encode_text(prompts)
        return text

    def _answers(self, judge: Any, image: Tensor, subject: str) -> list[str]:
        if self.config.num_answers == 1:
            return [judge.name_it(image, subject)]
        order = judge.class_probabilities(image[None])[0].argsort(descending=True)
        words = [judge.labels[int(index)] for index in order]
        return [word for word in words if word != subject][: self.config.num_answers]
