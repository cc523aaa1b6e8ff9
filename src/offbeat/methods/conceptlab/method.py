"""ConceptLab: a new member of a broad subject, a mixture of words, or a child of pictures.

Source: Richardson et al., ConceptLab, arXiv:2308.02669, and its official code. Not reproduced from
that code: evolution there moves the text feature, not the prior's output that the paper means, and
its pictures pool the text elsewhere than its training (here at the end of the text, always). Ours:
words are encoded by the backbone's own text encoder, not Kandinsky 2.1's second, multilingual one;
the judge is asked at the first step even if negatives are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from offbeat.core import vocab
from offbeat.core.checks import check_gradients
from offbeat.core.rng import stream
from offbeat.methods.conceptlab.config import NAME, ConceptLabConfig
from offbeat.methods.conceptlab.search import Search
from offbeat.methods.optimizing import run_to_end
from offbeat.methods.settings import Method
from offbeat.protocols import PriorBackbone
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step


class ConceptLab(Method[ConceptLabConfig]):
    """One token, searched by gradient: ``fit``, ``fuse``, ``dream`` and ``evolve``."""

    name = NAME
    config_class = ConceptLabConfig
    needs = PriorBackbone
    verbs = gradient_verbs = frozenset({"fuse", "sweep", "grid", "evolve", "dream"})
    takes_weights = True

    @property
    def num_steps(self) -> int:
        """Optimizer steps of a search."""
        return self.config.steps()

    def fit(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a new member of a subject; ``request.seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            request: The subject, the members to push from, and the seed.
            judge: ``NamesThings``: what it sees is pushed from too; None asks nobody.
            on_step: Told each step.
            resume: State to go on from, a ``Step.snapshot()``.
        """
        goal = {"shares": ((request.subject, 1.0),), "negatives": request.negatives}
        return self._search(backbone, request, on_step, resume, judge=judge, **goal)

    def fuse(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a mixture of ``request.weights``, any words; ``trained`` and ``judge`` are unused.

        Raises:
            VocabularyError: If there are fewer than two words, one is there twice, a share is not
                positive, or they do not sum to 1.
        """
        words = vocab.check_words([word for word, _ in request.weights])
        named = replace(request, subject=" + ".join(words))
        return self._search(backbone, named, on_step, resume, shares=request.weights)

    def dream(
        self,
        backbone: PriorBackbone,
        request: Request,
        index: int,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return dream ``index`` of ``request.subject``: a ``fit`` with a seed of its own."""
        seed = stream(request.seed, "dream", index).initial_seed()
        reseeded = replace(request, seed=seed)
        return self.fit(backbone, reseeded, judge=judge, on_step=on_step, resume=resume)

    def evolve(
        self,
        backbone: PriorBackbone,
        parents: Sequence[Tensor],
        request: Request,
        *,
        weights: Sequence[float] | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a child of pictures: each step draws one of each parent's embeddings.

        ``parents`` are the image embeddings, ``[n, D]``, of each one's pictures; ``weights`` are
        their shares, None uniform. The token starts from the subject; no pull is cut off.
        """
        shares = weights if weights is not None else [1 / len(parents) for _ in parents]
        named = tuple((f"parent {at}", share) for at, share in enumerate(shares, 1))
        return self._search(backbone, request, on_step, resume, shares=named, parents=parents)

    def _search(
        self, backbone: PriorBackbone, request: Request, on_step: OnStep, resume: Any, **goal: Any
    ) -> Concept:
        check_gradients(self.name, backbone)
        search = Search(self.config, backbone, request, **goal)
        run_to_end(search, on_step, resume)
        return search.concept()
