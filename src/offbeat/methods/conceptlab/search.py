"""The search loop of ConceptLab, with its prompts, its negatives and the state to go on from."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_finite, check_shape
from offbeat.core.drawing import (
    decoding_settings,
    judged_steps,
    sample_concept,
    template_of,
)
from offbeat.core.functional import cosine
from offbeat.core.rng import stream, streams
from offbeat.core.templates import fill
from offbeat.errors import ConfigError, ShapeError, VocabularyError
from offbeat.methods.conceptlab import prompts
from offbeat.methods.conceptlab.config import NAME, ConceptLabConfig
from offbeat.methods.conceptlab.losses import prior_constraint_loss
from offbeat.methods.optimizing import moments_of, restore_moments
from offbeat.protocols import NamesThings, PriorBackbone
from offbeat.types import PLACEHOLDER, Concept, Request, Step, TextEmbeds


def check_shares(shares: Sequence[tuple[str, float]], parents: Sequence[Tensor]) -> None:
    """Refuse positives that nothing can be made of.

    Raises:
        VocabularyError: If there is none, or shares are not positive numbers of sum 1.
        ShapeError: If there is not one share for each parent, or a parent is not ``[n, D]``.
    """
    values = [share for _, share in shares]
    if not all(math.isfinite(value) and value > 0 for value in values) or not math.isclose(
        math.fsum(values), 1, abs_tol=1e-3
    ):
        raise VocabularyError(f"weights: expected positive shares of sum 1, got {list(shares)}")
    if parents and len(parents) != len(shares):
        raise ShapeError(f"weights: expected {len(parents)}, one a parent, got {len(shares)}")
    for (name, _), embeds in zip(shares, parents, strict=False):
        check_shape(name, embeds, None, None)
        if not len(embeds):
            raise ShapeError(f"{name}: expected at least one image embedding, got none")


class ClassPrompts:
    """Text embeddings of words in every prompt that a step may draw; each is encoded once."""

    def __init__(self, backbone: PriorBackbone, config: ConceptLabConfig) -> None:
        self.backbone, self.style = backbone, config.style
        templates = config.templates or (prompts.STYLES if config.style else prompts.OBJECTS)
        self.variants = [(text, the) for text in templates for the in prompts.ARTICLES]
        self._rows: dict[str, Tensor] = {}

    def draw(self, seed: int, index: int) -> int:
        """Return which variant a step uses."""
        noise = stream(seed, "template", index)
        return int(torch.randint(len(self.variants), (1,), generator=noise))

    def learned(self, variant: int, row: Tensor) -> TextEmbeds:
        """Encode the prompt of one variant that holds the token."""
        text = prompts.filled(*self.variants[variant], PLACEHOLDER)
        return self.backbone.encode_text([text], tokens={PLACEHOLDER: row})

    def read(self, words: Sequence[str], variant: int, *, positive: bool = False) -> Tensor:
        """Return embeddings of words in one variant, ``[N, D]``; a style's positive names none."""
        return torch.stack([self._table(word, positive)[variant] for word in words])

    @torch.no_grad()
    def _table(self, word: str, positive: bool) -> Tensor:
        key = "" if positive and self.style else word
        if key not in self._rows:
            texts = [
                prompts.filled(template, the, word) if key else prompts.without_style(template)
                for template, the in self.variants
            ]
            each = list(dict.fromkeys(texts))  # templates are listed as often as they are drawn
            embeds = self.backbone.encode_text(each).text_embeds
            self._rows[key] = embeds[[each.index(text) for text in texts]]
        return self._rows[key]


class Search:
    """The state of one search; everything that changes is in ``snapshot``."""

    def __init__(
        self,
        config: ConceptLabConfig,
        backbone: PriorBackbone,
        request: Request,
        *,
        shares: Sequence[tuple[str, float]],
        negatives: Sequence[str] = (),
        parents: Sequence[Tensor] = (),
        judge: Any | None = None,
    ) -> None:
        if judge is not None and not isinstance(judge, NamesThings):
            raise ConfigError(f"judge: expected one that has name_it, got {type(judge).__name__}")
        self.config, self.backbone, self.request, self.judge = config, backbone, request, judge
        check_shares(shares, parents)
        self.words = [word for word, _ in shares]
        self.weights = [share for _, share in shares]
        self.parents = [embeds.to(backbone.device).float() for embeds in parents]
        self.prompts = ClassPrompts(backbone, config)
        scale = config.prior_guidance_scale
        scale = backbone.card["prior_guidance_scale"] if scale is None else scale
        self.settings: dict[str, Any] = {
            "num_inference_steps": config.prior_num_inference_steps,
            "prior_guidance_scale": float(scale),
        }
        self.row = self._initial_row().requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [self.row], lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.negatives = [] if config.gradual_negatives else list(negatives)
        order = torch.randperm(len(negatives), generator=stream(request.seed, "negatives"))
        self.waiting = [negatives[at] for at in order.tolist()] if config.gradual_negatives else []
        self.index = 0

    @property
    def ended(self) -> bool:
        """Whether the last step is done."""
        return self.index >= self.config.steps(of_child=bool(self.parents))

    def advance(self) -> Step:
        """Take one optimizer step, after a new negative when it is time for one."""
        started = time.perf_counter()
        answer = self._new_negative()
        variant = self.prompts.draw(self.request.seed, self.index)
        embeds = self._sample(variant)
        values: dict[str, Any] = {"answer": answer, "negatives": list(self.negatives)}
        loss = self._loss(embeds, variant, values)
        check_finite("loss", loss.detach())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.index += 1
        template, the = self.prompts.variants[variant]
        values |= {"template": template, "article": the}
        return Step(
            index=self.index - 1,
            loss=float(loss.detach()),
            values={**values, "seconds": time.perf_counter() - started},
            snapshot=self.snapshot,
            concept=self.concept,
        )

    def _sample(self, variant: int) -> Tensor:
        """Return what cosines are taken of, ``[1, D]``, with gradient."""
        text = self.prompts.learned(variant, self.row)
        if self.config.space == "text":
            return text.text_embeds
        noise = streams(self.request.seed, "prior", num=1, start=self.index)
        return self.backbone.sample_prior(
            text, generator=noise, gradient_steps=self.config.gradient_steps, **self.settings
        )

    def _loss(self, embeds: Tensor, variant: int, values: dict[str, Any]) -> Tensor:
        """Return the loss of one step, and put its cosines into ``values``."""
        cfg = self.config
        if self.parents:
            positives, limit = self._drawn_parents(), 1.0  # the pull of evolution has no end
        else:
            positives, limit = self.prompts.read(self.words, variant, positive=True), cfg.max_cosine
        negatives = positives[:0]
        if self.negatives:
            negatives = self.prompts.read(self.negatives, variant)
        for name, others in (("positive_cosines", positives), ("negative_cosines", negatives)):
            values[name] = cosine(embeds.detach(), others)[0].tolist()
        return prior_constraint_loss(
            embeds,
            positives,
            negatives,
            max_cosine=limit,
            min_cosine=cfg.push_until,
            weights=self.weights,
            positive_weight=1.0 if self.parents else cfg.positive_weight,
        )

    def _drawn_parents(self) -> Tensor:
        """Return one embedding of each parent, ``[K, D]``."""
        noise = stream(self.request.seed, "parents", self.index)
        return torch.stack(
            [part[int(torch.randint(len(part), (1,), generator=noise))] for part in self.parents]
        )

    def _new_negative(self) -> str | None:
        """Take the next word to push from, when it is time to: the user's, or the judge's."""
        cfg = self.config
        if not cfg.judge_every or self.index % cfg.judge_every:
            return None
        if cfg.gradual_negatives:
            taken = len(self.negatives)
            word = self.waiting[taken] if taken < len(self.waiting) else None
        else:
            word = self._ask()
        if word and (cfg.keep_duplicates or word not in {*self.negatives, *self.words}):
            self.negatives.append(word)
        return word

    @torch.no_grad()
    def _ask(self) -> str | None:
        """Show the judge a picture of the concept as it is: of the same noise at every question."""
        if self.judge is None:
            return None
        seed, concept = self.request.seed, self.concept()
        noise = streams(seed, "judge-prior", num=1)
        image_embeds = sample_concept(self.backbone, concept, noise, **self.settings)
        images = self.backbone.decode_embeds(
            image_embeds.to(self.backbone.device),
            generator=streams(seed, "judge", num=1),
            **{
                **decoding_settings(concept),
                "num_inference_steps": judged_steps(self.backbone, concept),
            },
        )
        question = prompts.STYLE_QUESTION if self.config.style else self.request.subject
        answer = " ".join(self.judge.name_it(images[0].cpu(), question).split()).lower()
        return answer.removeprefix("a ").removeprefix("an ") or None

    def _initial_row(self) -> Tensor:
        """Return what the token starts from, ``[E]``."""
        start = self.config.initial_word
        if start is None and not self.parents:
            parts = [self.backbone.token_embed(word) * w for word, w in self._shares()]
            return torch.stack(parts).sum(dim=0)
        return self.backbone.token_embed(start or self.request.subject).clone()

    def _shares(self) -> list[tuple[str, float]]:
        return list(zip(self.words, self.weights, strict=True))

    def concept(self) -> Concept:
        """Return the concept as it is now."""
        template = prompts.STYLE_SCENE
        if not self.config.style:
            prompt = self.request.prompt or self.config.picture_prompt
            template = fill(prompt or template_of(self.backbone, self.request), subject="{concept}")
        return Concept(
            template=template,
            subject=self.request.subject,
            token_embeds={PLACEHOLDER: self.row.detach().clone()[None]},
            metadata={
                "method": NAME,
                "space": self.config.space,
                "step": str(self.index),
                "positives": json.dumps(self._shares()),
                "negatives": json.dumps(self.negatives),
                "prior_num_inference_steps": str(self.settings["num_inference_steps"]),
                "prior_guidance_scale": str(self.settings["prior_guidance_scale"]),
                **{name: str(value) for name, value in self._decoding().items()},
            },
        )

    def _decoding(self) -> dict[str, float]:
        """Return what pictures are decoded with, where it is not the checkpoint's own."""
        names = ("num_inference_steps", "guidance_scale")
        settings = {name: getattr(self.config, name) for name in names}
        return {name: value for name, value in settings.items() if value is not None}

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all that changes."""
        return {
            "row": self.row.detach().clone(),
            "moments": moments_of(self.optimizer),
            "negatives": list(self.negatives),
            "index": self.index,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            self.row.copy_(state["row"])
        restore_moments(self.optimizer, state["moments"])
        self.negatives, self.index = list(state["negatives"]), int(state["index"])
