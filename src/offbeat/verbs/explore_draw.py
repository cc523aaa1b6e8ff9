"""Draw a subject by a method that draws it its own way, beside the ordinary: behind ``explore``.

Nothing is learned that another prompt could use: such a run holds pictures and no concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.core.budget import counted
from offbeat.core.drawing import DRAW_BATCH, draw, plain_concept_of
from offbeat.core.functional import cosine
from offbeat.core.templates import fill
from offbeat.core.threads import few_threads
from offbeat.errors import ConfigError
from offbeat.files.exchange import stem_of
from offbeat.files.png import to_pil
from offbeat.judges.choose import choose_checker
from offbeat.methods.settings import config_of, verbs_of
from offbeat.protocols import CalibratedJudge, EncodesImage
from offbeat.runs.images import BY_METHOD, png_files, sheet
from offbeat.runs.result import Run
from offbeat.types import Concept, Request, Verdict
from offbeat.verbs.mix import steering_of
from offbeat.verbs.session import Session

if TYPE_CHECKING:
    from PIL import Image

NUM_CALIBRATION = 16
"""Ordinary pictures that a judge sees first, to know what a good one gets."""


def explore_by_drawing(
    session: Session,
    subject: str,
    *,
    method: str,
    config: Mapping[str, Any],
    num_images: int,
    seed: int,
    prompt: str | None,
    judge: str,
) -> Run:
    """Check everything, then draw a subject by a method that draws it itself.

    Raises:
        ConfigError: If the method draws no subject, or the judge cannot look at it.
        CapabilityError: If the checkpoint lacks what the method needs.
    """
    if "explore" not in verbs_of(registry.find("method", method)):
        raise ConfigError(f"method: {method} explores no subject; it is one for other commands")
    backbone = session.load(method)
    chosen = session.method(method, config, "explore", "explores no subject")
    looker, knows_subject = choose_checker(judge, backbone, subject)
    template = None if prompt is None else fill(prompt, subject="{concept}")
    drawing = SubjectDrawing(
        session=session,
        subject=subject,
        method=chosen,
        judge=looker,
        knows_subject=knows_subject,
        plain=plain_concept_of(subject, backbone, template),
    )
    # too long a prompt fails before a folder is made
    backbone.encode_text([drawing.plain.prompt()])
    finished = session.open(
        {
            "verb": "explore",
            "layout": "drawn",
            "subject": subject,
            "method": method,
            "config": config_of(chosen),
            "judge": looker.name if looker else None,
            "prompt": prompt,
            "num_images": num_images,
            "seed": seed,
        }
    )
    if finished:
        return session.finished()
    with few_threads(backbone):
        return drawing.run()


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectDrawing:
    """A subject drawn by a method: draws it and the ordinary, and writes both."""

    session: Session
    subject: str
    method: Any
    judge: Any
    """None, or whoever the method may ask."""
    knows_subject: bool
    """Whether the judge can say which pictures still show the subject."""
    plain: Concept
    """The subject as it is, in the prompt of the run."""

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        session = self.session
        session.record("choosing", "part")
        ordinary = session.draw(self.plain)
        self._calibrate()
        images, spent = self._drawn()
        verdicts = self.judge.still_a(images, self.subject) if self.knows_subject else []
        summary = self._summary(images, ordinary, verdicts, spent)
        pictures, alone = to_pil(images), to_pil(ordinary)
        return session.write(
            [],
            pictures,
            self._files(pictures, alone),
            summary=summary,
            views={"contact.png": lambda: self._sheet(pictures, alone, verdicts, summary)},
            title=f"{self.method.name}: {self.subject}",
            ordinary=alone,
        )

    def _calibrate(self) -> None:
        """Show the judge ordinary pictures, so that it knows what a good one gets."""
        if self.knows_subject and isinstance(self.judge, CalibratedJudge):
            images = draw(
                self.session.backbone,
                self.plain,
                seed=0,
                num=NUM_CALIBRATION,
                purpose="calibration",
                observe=self.session.observe,
                stage="calibrating the judge",
            )
            self.judge.calibrate(images, self.subject)

    def _drawn(self) -> tuple[Tensor, dict[str, int] | None]:
        """Return the pictures, and what they cost."""
        asked, backbone = self.session.request, self.session.backbone
        num_images, prompt, seed = asked["num_images"], asked["prompt"], asked["seed"]
        size = num_images if self.method.from_one_pool else DRAW_BATCH
        asks = self.knows_subject or getattr(self.method, "asks_names_only", False)

        def draw_part(number: int) -> dict[str, Tensor]:
            start = number * size
            num = min(size, num_images - start)
            request = Request(subject=self.subject, prompt=prompt, num_images=num, seed=seed)
            with counted(backbone) as spent:
                images = self.method.draw(
                    backbone,
                    request,
                    judge=self.judge if asks else None,
                    start=start,
                    on_step=self.session.recorder.observer(number, 1),
                )
            cost = [-1, -1] if spent is None else [spent.denoiser, spent.prior]
            return {"": images, " cost": torch.tensor(cost)}

        count = len(range(0, num_images, size))
        parts = self.session.draw_parts("drawing its own way", count, draw_part)
        costs = torch.stack([part[" cost"] for part in parts]).sum(dim=0).tolist()
        known = None if costs[0] < 0 else {"denoiser": costs[0], "prior": costs[1]}
        return torch.cat([part[""] for part in parts]), known

    def _summary(
        self,
        images: Tensor,
        ordinary: Tensor,
        verdicts: Sequence[Verdict],
        spent: dict[str, int] | None,
    ) -> dict[str, Any]:
        asked, name = self.session.request, self.method.name
        answered = [verdict for verdict in verdicts if verdict.answered]
        passed = sum(verdict.passed for verdict in answered)
        variety = [mean_distance(self.session.backbone, part) for part in (images, ordinary)]
        each = None if spent is None else sum(spent.values()) / len(images)
        text = f"{len(images)} pictures by {name}"
        text += f", {each:,.0f} network evaluations each." if each is not None else "."
        if answered:
            text += f" Still {self.subject}, by the judge: {passed} of {len(answered)}."
        if variety[0] is not None:
            text += (
                f" Mean distance between two of them: {variety[0]:.2f}; between ordinary ones: "
                f"{variety[1]:.2f}."
            )
        notes = sorted({verdict.note for verdict in verdicts if not verdict.answered})
        if self.judge is not None and not self.knows_subject:
            notes.append(
                f"{self.judge.name} does not know {self.subject!r}: no judge checked the pictures."
            )
        return {
            "subject": self.subject,
            "method": name,
            "prompt": asked["prompt"],
            "seed": asked["seed"],
            "judge": asked["judge"],
            "validity": passed / len(answered) if answered else None,
            "mean_distance": variety[0],
            "mean_distance_ordinary": variety[1],
            "evaluations": spent,
            "evaluations_per_picture": each,
            "images": [{"answer": v.answer, "probability": v.probability} for v in verdicts],
            "warnings": notes,
            "in_words": f"{text} {name} learns no concept.",
        }

    def _sheet(
        self,
        pictures: Sequence[Image.Image],
        alone: Sequence[Image.Image],
        verdicts: Sequence[Verdict],
        summary: Mapping[str, Any],
    ) -> bytes:
        note = f"Under each: is it still a {self.subject}, by the judge. " if verdicts else ""
        return sheet(
            [("Ordinary", alone), (self.method.name, pictures)],
            title=f"{self.subject}, by {self.method.name}",
            captions=[f"{verdict.answer} {verdict.probability:.2f}" for verdict in verdicts],
            note=note + str(summary["in_words"]),
        )

    def _files(
        self, pictures: Sequence[Image.Image], alone: Sequence[Image.Image]
    ) -> dict[str, bytes]:
        asked, backbone = self.session.request, self.session.backbone
        drawn = Concept(
            template=self.plain.template,
            subject=self.subject,
            word=f"<{stem_of(self.subject)}>",
            metadata={"method": self.method.name},
        )
        recipe = {**asked, **steering_of(self.method)}
        files = png_files("images", pictures, recipe, drawn, backbone, drawing=BY_METHOD)
        return files | png_files("ordinary", alone, asked, self.plain, backbone)


@torch.no_grad()
def mean_distance(backbone: object, images: Tensor) -> float | None:
    """Return the mean of 1 - cosine over all pairs of pictures, by the checkpoint's image encoder.

    None without an image encoder, or of one picture.
    """
    if not isinstance(backbone, EncodesImage) or len(images) < 2:
        return None
    embeds = torch.cat([backbone.encode_image(part).cpu() for part in images.split(32)])
    between = 1 - cosine(embeds, embeds)
    return float(between.triu(1).sum() / (len(embeds) * (len(embeds) - 1) / 2))
