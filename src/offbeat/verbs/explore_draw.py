"""Draw a subject by a method that draws it its own way, beside the ordinary: behind ``explore``.

Nothing is learned that another prompt could use: such a run holds pictures and no concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import registry
from offbeat.checkpoints.open import check_needs, default_backbone, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.budget import counted
from offbeat.core.drawing import DRAW_BATCH, draw, plain_concept_of
from offbeat.core.functional import cosine
from offbeat.core.templates import fill
from offbeat.errors import ConfigError
from offbeat.files.labels import versions
from offbeat.files.png import to_pil
from offbeat.judges.choose import _judge_of
from offbeat.methods.settings import config_of, make_method, verbs_of, with_metric
from offbeat.protocols import CalibratedJudge, EncodesImage, TextBackbone
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import BY_METHOD, png_files, sheet
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import Run, load_run, reported
from offbeat.types import Concept, Observe, Request, Verdict

if TYPE_CHECKING:
    from PIL import Image

NUM_CALIBRATION = 16
"""Ordinary pictures that a judge sees first, to know what a good one gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawJob:
    """Everything that such a drawing is made with."""

    subject: str
    method: Any
    backbone: TextBackbone
    judge: Any
    """None, or whoever the method may ask."""
    judges: bool
    """Whether the judge knows the subject, and so can say which pictures are still one."""
    prompt: str | None
    num_images: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        return {
            "verb": "explore",
            "layout": "drawn",
            "subject": self.subject,
            "method": self.method.name,
            "config": config_of(self.method),
            "judge": self.judge.name if self.judge else None,
            "prompt": self.prompt,
            "num_images": self.num_images,
            "seed": self.seed,
            "checkpoint": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
            "versions": versions(),
        }

    def plain(self) -> Concept:
        """Return the subject as it is, in the prompt of the run."""
        template = None if self.prompt is None else fill(self.prompt, subject="{concept}")
        return plain_concept_of(self.subject, self.backbone, template)


def explore_by_drawing(
    subject: str,
    *,
    method: str,
    config: Mapping[str, Any],
    num_images: int,
    seed: int,
    prompt: str | None,
    judge: str,
    backbone: str | Path | TextBackbone | None,
    device: Where,
    out: str | Path | None,
    resume: bool,
    observe: Observe,
) -> Run:
    """Check everything, then draw a subject by a method that is ``DrawsSubject``.

    Raises:
        ConfigError: If the method draws no subject, or the judge is none for it.
        CapabilityError: If the checkpoint lacks what the method needs.
    """
    found = registry.find("method", method)
    if "explore" not in verbs_of(found):
        raise ConfigError(f"method: {method} explores no subject; it is one for other commands")
    model = loaded(default_backbone(method) if backbone is None else backbone, device)
    chosen = make_method(method, model, dict(config))
    check_needs(method, getattr(chosen, "needs", None), model)
    chosen = with_metric(chosen, model)
    asked, judges = _judge_of(judge, model, subject)
    job = DrawJob(
        subject=subject,
        method=chosen,
        backbone=model,
        judge=asked,
        judges=judges,
        prompt=prompt,
        num_images=num_images,
        seed=seed,
    )
    model.encode_text([job.plain().prompt()])  # too long a prompt fails before a folder is made
    folder = RunFolder.create(Path(out), job.as_json(), resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    with few_threads(model):
        return Drawing(job, folder, observe).run()


class Drawing:
    """Draws a job's pictures and the ordinary ones, and writes them."""

    def __init__(self, job: DrawJob, folder: RunFolder | None, observe: Observe) -> None:
        self.job, self.folder, self.observe = job, folder, observe
        self.keeper = Keeper(folder, observe, stage="choosing", label="part", row_every=1)

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        job = self.job
        plain = job.plain()
        ordinary = draw(
            job.backbone, plain, seed=job.seed, num=job.num_images, observe=self.observe
        )
        self._calibrate(plain)
        images, spent = self._drawn()
        verdicts = job.judge.still_a(images, job.subject) if job.judges else []
        summary = self._summary(images, ordinary, verdicts, spent)
        pictures, alone = to_pil(images), to_pil(ordinary)
        asked = job.as_json()
        return reported(
            asked,
            [],
            pictures,
            self._files(pictures, alone, asked, plain),
            self.folder,
            title=f"{job.method.name}: {job.subject}",
            contact=self._sheet(pictures, alone, verdicts, summary),
            summary=summary,
            ordinary=alone,
            trace=self.keeper.rows,
        )

    def _calibrate(self, plain: Concept) -> None:
        """Show the judge ordinary pictures, so that it knows what a good one gets."""
        job = self.job
        if job.judges and isinstance(job.judge, CalibratedJudge):
            images = draw(
                job.backbone,
                plain,
                seed=0,
                num=NUM_CALIBRATION,
                purpose="calibration",
                observe=self.observe,
                stage="the judge looks at ordinary ones",
            )
            job.judge.calibrate(images, job.subject)

    def _drawn(self) -> tuple[Tensor, dict[str, int] | None]:
        """Return the pictures, and what they cost; what was drawn outlives a kill."""
        job = self.job
        size = job.num_images if job.method.from_one_pool else DRAW_BATCH
        names_only = getattr(job.method, "asks_names_only", False)
        starts = range(0, job.num_images, size)
        state = self.folder.load_checkpoint() if self.folder is not None else None
        done = int(state["part"]) if state is not None else 0
        found = dict(self.keeper.resume(done) or {})
        for number, start in list(enumerate(starts))[done:]:
            request = Request(
                subject=job.subject,
                prompt=job.prompt,
                num_images=min(size, job.num_images - start),
                seed=job.seed,
            )
            with counted(job.backbone) as spent:
                images = job.method.draw(
                    job.backbone,
                    request,
                    judge=job.judge if job.judges or names_only else None,
                    start=start,
                    on_step=self.keeper.observer(number, 1),
                )
            found[f"{number:06d}"] = images.cpu()
            cost = [-1, -1] if spent is None else [spent.denoiser, spent.prior]
            found[f"{number:06d} cost"] = torch.tensor(cost)
            self.observe("drawing its own way", number + 1, len(starts), {})
            if self.folder is not None and number + 1 < len(starts):
                rows = len(self.keeper.rows)
                self.folder.save_checkpoint({"part": number + 1, "rows": rows, "search": found})
        parts = [f"{number:06d}" for number in range(len(starts))]
        costs = torch.stack([found[f"{part} cost"] for part in parts]).sum(dim=0).tolist()
        known = None if costs[0] < 0 else {"denoiser": costs[0], "prior": costs[1]}
        return torch.cat([found[part] for part in parts]), known

    def _summary(
        self,
        images: Tensor,
        ordinary: Tensor,
        verdicts: Sequence[Verdict],
        spent: dict[str, int] | None,
    ) -> dict[str, Any]:
        job = self.job
        answered = [verdict for verdict in verdicts if verdict.answered]
        passed = sum(verdict.passed for verdict in answered)
        variety = [mean_distance(job.backbone, part) for part in (images, ordinary)]
        each = None if spent is None else sum(spent.values()) / job.num_images
        text = f"{job.num_images} pictures by {job.method.name}"
        text += f", {each:,.0f} network evaluations each." if each is not None else "."
        if answered:
            text += f" Still {job.subject}, by the judge: {passed} of {len(answered)}."
        if variety[0] is not None:
            text += (
                f" Mean distance between two of them: {variety[0]:.2f}; between ordinary ones: "
                f"{variety[1]:.2f}."
            )
        notes = sorted({verdict.note for verdict in verdicts if not verdict.answered})
        if job.judge is not None and not job.judges:
            notes.append(
                f"{job.judge.name} does not know {job.subject!r}: nobody said what is one."
            )
        return {
            "subject": job.subject,
            "method": job.method.name,
            "prompt": job.prompt,
            "seed": job.seed,
            "judge": job.judge.name if job.judge else None,
            "validity": passed / len(answered) if answered else None,
            "mean_distance": variety[0],
            "mean_distance_ordinary": variety[1],
            "evaluations": spent,
            "evaluations_per_picture": each,
            "images": [{"answer": v.answer, "probability": v.probability} for v in verdicts],
            "warnings": notes,
            "in_words": f"{text} {job.method.name} learns no concept.",
        }

    def _sheet(
        self,
        pictures: Sequence[Image.Image],
        alone: Sequence[Image.Image],
        verdicts: Sequence[Verdict],
        summary: Mapping[str, Any],
    ) -> bytes:
        job = self.job
        captions = [f"{verdict.answer} {verdict.probability:.2f}" for verdict in verdicts]
        note = f"Under each: is it still a {job.subject}, by the judge. " if verdicts else ""
        return sheet(
            [("Ordinary", alone), (job.method.name, pictures)],
            title=f"{job.subject}, by {job.method.name}",
            captions=captions,
            note=note + str(summary["in_words"]),
        )

    def _files(
        self,
        pictures: Sequence[Image.Image],
        alone: Sequence[Image.Image],
        asked: Mapping[str, Any],
        plain: Concept,
    ) -> dict[str, bytes]:
        job = self.job
        config = getattr(job.method, "config", None)
        used = {
            name: getattr(config, name)
            for name in ("num_inference_steps", "guidance_scale")
            if getattr(config, name, None) is not None
        }
        # brackets mark what no word of a prompt stands for
        own = Concept(
            template=plain.template,
            subject=job.subject,
            word=f"[{job.subject}]",
            metadata={"method": job.method.name},
        )
        files = png_files(
            "images", pictures, {**asked, **used}, own, job.backbone, drawing=BY_METHOD
        )
        return files | png_files("ordinary", alone, asked, plain, job.backbone)


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
