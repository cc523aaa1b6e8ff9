"""The training loop of CreTok, with its measurements and the state to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_finite
from offbeat.core.functional import pair_cosine
from offbeat.core.rng import stream
from offbeat.core.templates import fill
from offbeat.errors import VocabularyError
from offbeat.methods.cretok.config import NAME, PUBLISHED_THETA, WORD, CreTokConfig
from offbeat.methods.cretok.losses import mixture_loss
from offbeat.methods.cretok.prompts import training_pairs, with_articles
from offbeat.methods.optimizing import moments_of, restore_moments
from offbeat.protocols import TextBackbone
from offbeat.types import Step, Trained

ENCODE_BATCH = 100
"""Restrictive prompts in one pass of the text encoder."""


class Training:
    """The state of one training; everything that changes is in ``snapshot``."""

    def __init__(
        self, config: CreTokConfig, backbone: TextBackbone, words: tuple[str, ...], seed: int
    ) -> None:
        self.config, self.backbone, self.words, self.seed = config, backbone, words, seed
        self.pairs, self.held_out = training_pairs(words, config.num_pairs, seed=seed)
        if not self.pairs:
            raise VocabularyError(f"vocabulary: no pair to train on among {', '.join(words)}")
        self.prompt = fill(config.adaptive_template, concept=WORD)
        self.row = backbone.token_embed(config.initial_word)[None].clone().requires_grad_()
        self.optimizer = torch.optim.AdamW([self.row], lr=config.learning_rate, weight_decay=0)
        with torch.no_grad():
            self.table = self._encode_pairs()  # [pairs, 2, D]
            adaptive = self.encode_adaptive()
        self.initial = pair_cosine(self.table, adaptive, widths=self.widths).cpu()  # [pairs, 2]
        self.theta = self._theta()
        self.index = self.best_index = 0
        self.best = math.inf
        self.stopped = ""

    def _encode_pairs(self) -> Tensor:
        """Return the embeddings of all restrictive prompts: nothing in them is learned."""
        template, parts = self.config.restrictive_template, []
        prompts = [
            with_articles(template, first=first, second=second)
            for pair in self.pairs
            for first, second in (pair, pair[::-1])
        ]
        for start in range(0, len(prompts), ENCODE_BATCH):
            text = self.backbone.encode_text(prompts[start : start + ENCODE_BATCH])
            self.widths = text.widths
            parts.append(text.text_embeds)
        return torch.cat(parts).view(len(self.pairs), 2, -1)

    def encode_adaptive(self) -> Tensor:
        """Return the embedding of the prompt with the token, ``[1, D]``."""
        return self.backbone.encode_text([self.prompt], tokens={WORD: self.row}).text_embeds

    def _theta(self) -> float:
        cfg = self.config
        if cfg.theta_quantile is not None:
            return float(self.initial.flatten().quantile(cfg.theta_quantile))
        return PUBLISHED_THETA if cfg.theta is None else cfg.theta

    @property
    def ended(self) -> bool:
        """Whether the last step is done."""
        return bool(self.stopped)

    def advance(self) -> Step:
        """Take one update: one prompt through the text encoder, and back."""
        cfg, started = self.config, time.perf_counter()
        rate = cfg.learning_rate * (1 + math.cos(math.pi * self.index / cfg.num_steps)) / 2
        self.optimizer.param_groups[0]["lr"] = rate
        noise = stream(self.seed, NAME, self.index)
        drawn = torch.randperm(len(self.table), generator=noise)[: cfg.batch_size]
        adaptive = self.encode_adaptive()
        loss = self.loss(adaptive, drawn)
        check_finite("loss", loss.detach())
        self.optimizer.zero_grad()
        loss.backward()
        assert self.row.grad is not None
        self.optimizer.step()
        values = self._read(adaptive.detach())
        if not self.index:
            values |= {"initial_cosines": self._initial(), "warnings": self._warnings()}
        values |= {"lr": rate, "grad_norm": float(self.row.grad.norm())}
        self.index += 1
        self._watch(values["loss_all"])
        values |= {"stopped": self.stopped, "seconds": time.perf_counter() - started}
        return Step(
            index=self.index - 1,
            loss=float(loss.detach()),
            values=values,
            snapshot=self.snapshot,
        )

    def loss(self, adaptive: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss of some pairs, by their numbers."""
        batch = self.table[drawn.to(self.table.device)]
        return mixture_loss(batch, adaptive, theta=self.theta, widths=self.widths)

    def _read(self, adaptive: Tensor) -> dict[str, Any]:
        """Look at all pairs, which costs one product with the table."""
        near = pair_cosine(self.table, adaptive, widths=self.widths)
        active = (near < self.theta).to(near).mean()
        loss = 1 - near.clamp(max=self.theta).mean()
        values = torch.stack([loss, active, near.mean(), near.max()]).tolist()
        return dict(zip(("loss_all", "active", "cosine", "cosine_max"), values, strict=True))

    def _watch(self, loss: float) -> None:
        """End at the last step, or where the loss over all pairs is flat."""
        cfg = self.config
        if loss < self.best - cfg.flat_tolerance:
            self.best, self.best_index = loss, self.index
        if self.index >= cfg.num_steps:
            self.stopped = "steps"
        elif cfg.flat_steps is not None and self.index - self.best_index >= cfg.flat_steps:
            self.stopped = "flat"

    def _initial(self) -> dict[str, Any]:
        """Return the cosine of every pair before training, in both orders."""
        return {
            f"{first} + {second}": [round(value, 4) for value in row]
            for (first, second), row in zip(self.pairs, self.initial.tolist(), strict=True)
        }

    def _warnings(self) -> list[str]:
        """Say where the truncation takes the gradient away before the first step."""
        above = float((self.initial >= self.theta).float().mean())
        if above <= 0.5:
            return []
        return [
            f"{above:.0%} of the pairs start above theta = {self.theta:.3f} (their median is "
            f"{float(self.initial.median()):.3f}) and pull at nothing: raise theta, or set "
            "theta_quantile above 0.5"
        ]

    def trained(self) -> Trained:
        """Return the token, and what was measured before, at and after its training."""
        with torch.no_grad():
            last = self._read(self.encode_adaptive())
        warnings = self._warnings()
        if last["active"] == 1:
            warnings.append(
                f"no pair came up to theta = {self.theta:.3f} (the nearest is at "
                f"{last['cosine_max']:.3f}): the truncation did nothing"
            )
        return Trained(
            method=NAME,
            checkpoint=self.backbone.name,
            fingerprint=self.backbone.fingerprint,
            tensors={WORD: self.row.detach().cpu().clone()},
            vocabulary=self.words,
            config=asdict(self.config),
            readings={
                "seed": self.seed,
                "steps": self.index,
                "stopped": self.stopped,
                "theta": self.theta,
                **last,
                "warnings": warnings,
                "initial_cosines": self._initial(),
                "held_out": [list(pair) for pair in self.held_out],
            },
        )

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all that changes."""
        return {
            "row": self.row.detach().clone(),
            "moments": moments_of(self.optimizer).get("0", {}),
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            self.row.copy_(state["row"])
        restore_moments(self.optimizer, {0: state["moments"]})
        for name in _COUNTERS:
            setattr(self, name, state[name])


_COUNTERS = ("index", "best", "best_index", "stopped")
