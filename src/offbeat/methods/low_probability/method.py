"""Low-probability exploration: still the subject, far from what the model usually draws.

Source: Song and Elgammal, arXiv:2601.22125. Corrected here: eq. 7 is printed with the sign that
attracts to unwanted clusters; the two losses alternate, as the appendix says and eq. 8 does not.
Ours: a novelty quantile that is reached and held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.drawn import explorable
from offbeat.core.baseline import Baseline
from offbeat.core.density import Support
from offbeat.core.drawing import ordinary_prompt
from offbeat.core.parts import calls
from offbeat.core.rng import streams
from offbeat.core.templates import fill
from offbeat.core.vocab import DEFAULT_LABELS
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.evolution import EvolutionSearch, repeated
from offbeat.methods.low_probability.search import Look, Search
from offbeat.methods.settings import Method
from offbeat.protocols import ChecksSubject, ExploringBackbone, TextBackbone
from offbeat.types import Concept, OnStep, Request, ignore_step

BASELINE_BATCH = 250
MAX_WORDS, PER_WORD, PER_WORD_DRAWN = 128, 8, 2
"""Words at most, and samples of each, that show where the checkpoint draws something."""


class LowProbability(Method[LowProbabilityConfig]):
    """The search: ``measure`` the ordinary once, then ``fit`` from each seed."""

    name = NAME
    config_class = LowProbabilityConfig
    needs = TextBackbone
    verbs = frozenset({"explore"})

    def walks(self, backbone: TextBackbone) -> ExploringBackbone:
        """Return what the search walks through: the checkpoint, or its pictures as they are read.

        Raises:
            CapabilityError: If it neither samples embeddings nor draws from text.
            CheckpointError: If there is no such encoder.
        """
        return explorable(backbone, self.config.encoder)

    def measure(
        self,
        backbone: TextBackbone,
        request: Request,
        *,
        on_sample: Callable[[int, int], None] = lambda done, total: None,
    ) -> Baseline:
        """Sample what the checkpoint usually draws; the same for every seed of a request."""
        backbone = self.walks(backbone)
        cfg, prompt = self.config, ordinary_prompt(backbone, request)
        num_baseline, num_held_out = cfg.samples(backbone)
        with torch.no_grad():
            text = backbone.encode_text([prompt])
            settings = cfg.sampling(backbone)

            def draw(purpose: str, total: int) -> Tensor:
                parts: list[Tensor] = []
                sizes = {
                    start: min(BASELINE_BATCH, total - start)
                    for start in range(0, total, BASELINE_BATCH)
                }
                arguments = (
                    {
                        "text": text,
                        "generator": streams(0, purpose, num=num, start=start),
                        "num_samples": num,
                        **settings,
                    }
                    for start, num in sizes.items()
                )
                for part in calls(backbone, "sample_prior", arguments):
                    parts.append(part)
                    on_sample(sum(map(len, parts)), total)
                return torch.cat(parts)

            samples, held_out = (
                draw("baseline", num_baseline),
                draw("held-out", num_held_out),
            )
            anchor = text.text_embeds
            if hasattr(backbone, "read_texts"):
                read = backbone.read_texts([prompt])
                # without texts in the encoder's space, an ordinary picture is what is kept near
                anchor = samples.mean(dim=0, keepdim=True) if read is None else read
        return Baseline.fit(
            prompt,
            samples,
            held_out,
            anchor.cpu(),
            num_components=cfg.axes,
            share=cfg.axes_share,
            kind=cfg.density,
        )

    @torch.no_grad()
    def measure_support(self, backbone: TextBackbone) -> Support | None:
        """Sample what the checkpoint draws of many words; None if the search does not use it.

        It depends on no subject.
        """
        if not self.config.use_support:
            return None
        backbone = self.walks(backbone)
        # each sample is a picture there, and costs as much
        per_word = PER_WORD_DRAWN if hasattr(backbone, "reader") else PER_WORD
        words = tuple(backbone.card["concepts"]) or DEFAULT_LABELS
        words = words[:: -(-len(words) // MAX_WORDS)]
        template = str(backbone.card["prompt_template"])
        settings = self.config.sampling(backbone)
        parts = []
        for start in range(0, len(words), 16):
            text = backbone.encode_text(
                [fill(template, subject=w) for w in words[start : start + 16]]
            )
            several = repeated(text, per_word)
            noise = streams(0, "support", num=len(several), start=start * per_word)
            parts.append(backbone.sample_prior(several, generator=noise, **settings).cpu())
        return Support.fit(torch.cat(parts))

    def fit(
        self,
        backbone: TextBackbone,
        request: Request,
        *,
        baseline: Baseline | None = None,
        avoid: Sequence[Tensor] = (),
        judge: ChecksSubject | None = None,
        support: Support | None = None,
        look: Look | None = None,
        start: Concept | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the concept found; ``request.seed`` alone decides every draw.

        Args:
            backbone: Frozen; it samples embeddings, or draws pictures, which are read.
            request: The subject and the seed.
            baseline: Of the same request, from ``measure``; None measures it.
            avoid: Image embeddings of each unwanted cluster, ``[n, D]``.
            judge: Asked every ``judge_every`` steps; a "no" ends the search.
            support: Of the checkpoint, from ``measure_support``; None does not pull back by it.
            look: Seen novelty of pictures, ``[B, 3, H, W]`` to ``[B]``; None looks at none, and
                a search for a seen novelty then holds the distance that it begins with.
            start: What an earlier search in the same space found: go on from there.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.
        """
        backbone = self.walks(backbone)
        measured = self.measure(backbone, request) if baseline is None else baseline
        config = self.config.on(backbone)
        kind = EvolutionSearch if config.optimizer == "cma-es" else Search
        search = kind(
            config,
            backbone,
            request,
            measured,
            avoid,
            judge,
            start,
            support=support,
            look=look,
        )
        if resume is not None:
            search.restore(resume)
        while not search.done:
            on_step(search.advance())
        return search.concept()
