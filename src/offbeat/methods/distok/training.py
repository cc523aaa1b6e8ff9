"""The training loop of DisTok, with its pool of concepts and its warning of a collapse."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_finite
from offbeat.core.functional import cosine
from offbeat.core.rng import stream
from offbeat.methods.distok.config import NAME, DisTokConfig
from offbeat.methods.distok.losses import (
    consistency_loss,
    fusion_loss,
    is_admitted,
    latent_regulariser,
    total_loss,
)
from offbeat.methods.distok.pool import (
    ConceptPool,
    Draw,
    Reader,
    draw_mixtures,
    draw_samples,
    training_pairs,
)
from offbeat.methods.distok.prompts import FrozenTexts
from offbeat.methods.distok.space import decode, encode, initial_params, mixed
from offbeat.methods.optimizing import moments_of, restore_moments
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.types import Step, Trained

NUM_WATCHED = 256
"""Training pairs, beside the vocabulary, that alarm and spread are measured on."""


class Training:
    """The state of one training; everything that changes is in ``snapshot``."""

    def __init__(
        self,
        config: DisTokConfig,
        backbone: TextBackbone,
        words: tuple[str, ...],
        seed: int,
        judge: ReadsClasses | None,
    ) -> None:
        self.config, self.backbone, self.words, self.seed = config, backbone, words, seed
        self.judge = judge
        self.reader: Reader | None = None
        if judge is not None:
            steps = config.num_inference_steps
            self.reader = Reader(backbone, judge, words, config.adaptive_template, steps)
        self.pairs, self.held_out = training_pairs(words)
        class_tokens = torch.stack([backbone.token_embed(word) for word in words])
        self.row_norm = float(class_tokens.norm(dim=-1).mean())
        self.texts = FrozenTexts(
            backbone, words, config.adaptive_template, config.restrictive_template
        )
        self.pool = ConceptPool(class_tokens, self.texts.of_words(), max_novel=config.max_novel)
        prompt = config.aesthetic_prompt
        self.aesthetic = None if prompt is None else self.texts.encode([prompt])
        # a table that is larger than what will be drawn from it would not pay
        if len(self.pairs) <= min(FrozenTexts.MAX_TABLE, config.num_steps * config.batch_size):
            self.texts.fill_table(self.pairs)
        self.params = initial_params(config, class_tokens.shape[-1], seed)
        self.leaves = [param.requires_grad_() for param in self.params.values()]
        self.optimizer = torch.optim.AdamW(
            self.leaves, lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.index = 0
        self.watched: list[dict[str, Any]] = []

    # --- an update ------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the last step is done."""
        return self.index >= self.config.num_steps

    def advance(self) -> Step:
        """Take one update; read new entries for the pool and watch when it is time to."""
        cfg, started = self.config, time.perf_counter()
        drawn = self.draw()
        loss, values = self.loss(drawn)
        check_finite("loss", loss.detach())
        rate = cfg.learning_rate * (1 + math.cos(math.pi * self.index / cfg.num_steps)) / 2
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.leaves, cfg.max_grad_norm)
        self.optimizer.step()
        self.index += 1
        if self.reader is not None and self.index % cfg.estimate_every == 0:
            values |= self._estimate(self.reader)
        if self.index % cfg.watch_every == 0 or self.index == cfg.num_steps:
            self.watched.append(self._watch())
            values |= self.watched[-1]
        values |= {"lr": rate, "grad_norm": float(norm), "pool": len(self.pool)}
        values |= {"seconds": time.perf_counter() - started}
        return Step(
            index=self.index - 1, loss=float(loss.detach()), values=values, snapshot=self.snapshot
        )

    def draw(self) -> Draw:
        """Draw the samples of this update; its number alone decides, beside the pool."""
        noise = stream(self.seed, NAME, "update", self.index)
        return draw_samples(self.config, self.pairs, self.pool, noise)

    def loss(self, drawn: Draw) -> tuple[Tensor, dict[str, Any]]:
        """Return the total loss of an update's samples, and its terms."""
        cfg = self.config
        num, total = len(drawn.pairs), len(drawn.pairs) + len(drawn.entries)
        latents = encode(self.params, self._inputs(drawn), row_norm=self.row_norm)
        tokens = decode(self.params, latents, row_norm=self.row_norm)
        adaptive = self.texts.of_tokens(tokens)
        widths = self.texts.widths
        regulariser = latent_regulariser(latents, over=cfg.regularise_over)
        fusion, consistency = adaptive.new_zeros(0), adaptive.new_zeros(0)
        if num:
            fusion = fusion_loss(
                adaptive[:num],
                self._targets(drawn),
                self.aesthetic,
                max_restrictive_cosine=cfg.max_restrictive_cosine,
                max_aesthetic_cosine=cfg.max_aesthetic_cosine,
                widths=widths,
            )
        if drawn.entries:
            target = self.pool.text_embeds[drawn.entries]
            consistency = consistency_loss(adaptive[num:], target, widths=widths)
        loss = total_loss(
            fusion,
            consistency,
            regulariser,
            alpha=cfg.fusion_weight,
            beta=cfg.consistency_weight,
            gamma=cfg.regulariser_weight,
        )
        return loss, {
            "fusion_loss": float(fusion.detach().mean()) if num else None,
            "consistency_loss": float(consistency.detach().mean()) if num < total else None,
            "regulariser": float(regulariser.detach()),
            "latent_std": float(latents.detach().std()),
            "num_fusion": num,
            "num_consistency": total - num,
        }

    def _inputs(self, drawn: Draw) -> Tensor:
        """Return what the encoder reads, ``[n, E]``: tokens of pairs, mixtures of distributions."""
        first, second = self.pool.sides(drawn.pairs, "tokens")
        share = drawn.shares[:, None]
        fused = share * first + (1 - share) * second
        if self.config.pair_weighting == "sum":
            fused = 2 * fused
        shares = self.pool.distributions[drawn.entries]
        returned = mixed(shares, self.pool.tokens[: self.pool.num_known])
        return torch.cat([fused, returned])

    def _targets(self, drawn: Draw) -> Tensor:
        """Return what fusion pulls to, ``[pairs, orders, D]``."""
        if self.config.fusion_target == "prompt":
            return self.texts.of_pairs(drawn.pairs, self.pool)
        return self.texts.of_shares(drawn.pairs, drawn.shares, self.pool)

    # --- the pool and the alarm -----------------------------------------------------------

    @torch.no_grad()
    def _spread(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tokens of the vocabulary and of some pairs, and the latents' mean and std."""
        step = max(1, len(self.pairs) // NUM_WATCHED)
        tokens, watched = self.pool.tokens[: self.pool.num_known], self.pairs[::step]
        even = Draw(watched, torch.full((len(watched),), 0.5), [])
        latents = encode(
            self.params, torch.cat([tokens, self._inputs(even)]), row_norm=self.row_norm
        )
        decoded = decode(self.params, latents, row_norm=self.row_norm)
        return decoded, latents.mean(dim=0), latents.std(dim=0)

    @torch.no_grad()
    def _estimate(self, reader: Reader) -> dict[str, Any]:
        """Read what new tokens draw, and take in what is like no known class."""
        cfg, purpose = self.config, (NAME, "estimate", self.index)
        noise = stream(self.seed, *purpose)
        if cfg.estimate_from == "noise":
            _, mean, std = self._spread()
            latents = mean + std * torch.randn(cfg.num_estimated, cfg.latent_width, generator=noise)
        else:
            shares = draw_mixtures(
                noise, cfg.num_estimated, self.pairs, num_classes=len(self.words)
            )
            mixture = mixed(shares, self.pool.tokens[: self.pool.num_known])
            latents = encode(self.params, mixture, row_norm=self.row_norm)
        tokens = decode(self.params, latents, row_norm=self.row_norm)
        read = reader.read(tokens, num=cfg.num_pictures, seed=self.seed, purpose=purpose)
        admitted = is_admitted(read, max_known_probability=cfg.max_known_probability)
        if bool(admitted.any()):
            tokens, read = tokens[admitted], read[admitted]
            self.pool.add(tokens, read, self.texts.of_tokens(tokens))
        return {"admitted": int(admitted.sum()), "estimated": cfg.num_estimated}

    def _watch(self) -> dict[str, Any]:
        decoded, _, std = self._spread()
        return {"step": self.index, **read_distances(decoded, self.pool.num_known, std)}

    # --- results and state ----------------------------------------------------------------

    def trained(self) -> Trained:
        """Return the space, and what was measured while it was trained."""
        _, mean, std = self._spread()
        return Trained(
            method=NAME,
            checkpoint=self.backbone.name,
            fingerprint=self.backbone.fingerprint,
            tensors={
                **{name: param.detach().clone() for name, param in self.params.items()},
                "class_tokens": self.pool.tokens[: self.pool.num_known].clone(),
                "latent_mean": mean,
                "latent_std": std,
            },
            vocabulary=self.words,
            config=asdict(self.config),
            readings={
                "seed": self.seed,
                "steps": self.index,
                "judge": None if self.judge is None else self.judge.name,
                "novel": self.pool.num_novel,
                "watched": list(self.watched),
                "warnings": warnings_of(
                    self._watch(),
                    min_token_distance=self.config.min_token_distance,
                    has_reader=self.reader is not None,
                    num_novel=self.pool.num_novel,
                ),
                "held_out": [list(pair) for pair in self.held_out],
            },
        )

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all that changes."""
        return {
            "index": self.index,
            "params": {name: param.detach().clone() for name, param in self.params.items()},
            "moments": moments_of(self.optimizer),
            "pool": self.pool.snapshot(),
            "watched": list(self.watched),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(state["params"][name])
        restore_moments(self.optimizer, state["moments"])
        self.pool.restore(state["pool"])
        self.watched = list(state["watched"])
        self.index = int(state["index"])


def mean_distance(tokens: Tensor) -> float:
    """Return the mean of one minus the cosine over all pairs of rows, ``[M, E]``, M >= 2."""
    count = len(tokens)
    return 1 - float((cosine(tokens, tokens).sum() - count) / (count * (count - 1)))


def read_distances(decoded: Tensor, num_known: int, latent_std: Tensor) -> dict[str, Any]:
    """Return how far apart decoded tokens are, and how wide their latents spread.

    Args:
        decoded: Tokens of the known words, then those of pairs, ``[M, E]``.
        num_known: How many are of words.
        latent_std: Of their latents, ``[latent]``.
    """
    words, pairs = decoded[:num_known], decoded[num_known:]
    return {
        "class_distance": mean_distance(words),
        "pair_distance": mean_distance(pairs) if len(pairs) > 1 else None,
        "latent_spread": float(latent_std.mean()),
    }


def warnings_of(
    reading: Mapping[str, Any], *, min_token_distance: float, has_reader: bool, num_novel: int
) -> list[str]:
    """Return what a user must know of a training, from its last reading."""
    warnings = []
    for name, what in (("class_distance", "known words"), ("pair_distance", "pairs")):
        distance = reading[name]
        if distance is not None and distance < min_token_distance:
            warnings.append(
                f"collapse: decoded tokens of {what} are {distance:.3f} apart on average, below "
                f"{min_token_distance:g}: the decoder ignores its latent; lower learning_rate, or "
                "raise the cosines at which losses stop"
            )
    if not has_reader:
        warnings.append(
            "nobody read what tokens draw, so the pool holds no new concept; name a judge that "
            "knows the words with --judge"
        )
    elif not num_novel:
        warnings.append(
            "no novel concept was admitted to the pool: train for longer, lower estimate_every, "
            "or raise max_known_probability"
        )
    return warnings
