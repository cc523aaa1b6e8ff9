"""AGSwap, our reading: exchange groups of columns of two text embeddings, guided by the picture.

It starts from a random half and draws; if the picture leans to one word, a group of that word's
columns is given to the other, and kept if the picture leans less. Nothing is learned.
Source: AGSwap, arXiv:2509.18699, of which only a review is known to us: the exchange,
the balance score and that it steers. How it steers (whose columns, how many, when to stop and what
to return) is ours, so results of the paper must not be expected of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.functional import balance_reward, pair_cosine
from offbeat.methods.mixing.swaps import Swapping, half_ones, similarities
from offbeat.methods.pictures import Drawing, MixesSources
from offbeat.methods.settings import Settings, denoising_steps, guidance, setting
from offbeat.protocols import ComparingBackbone

NAME = "agswap"


@dataclass(frozen=True, slots=True, kw_only=True)
class AGSwapConfig(Settings):
    """Settings of our reading of AGSwap."""

    method = NAME

    num_draws: int = setting(
        20, 1, 100_000, help="Pictures drawn at most for each that is returned."
    )
    tolerance: float = setting(
        0.02, 0, 2, help="A picture that leans less than this is good enough, 0 to 2."
    )
    max_share: float = setting(
        0.25, above=0, at_most=1, help="Largest group, as a share of the columns, above 0 to 1."
    )
    reading: str = setting(
        "offbeat",
        choices=("offbeat",),
        help="Whose account of the method this is; there is no other.",
    )
    num_inference_steps: int | None = denoising_steps()
    guidance_scale: float | None = guidance()


def group_size(lean: float, full_lean: float, width: int, max_share: float) -> int:
    """Return how many columns to exchange next, 1 or more.

    Args:
        lean: Cosine to the first word's picture less that to the second's, -2 to 2.
        full_lean: That of a word's own picture.
        width: Columns, E.
        max_share: Largest group, as a share of them.
    """
    most = max(1, int(max_share * width))
    share = 1.0 if full_lean <= 0 else min(1.0, abs(lean) / full_lean)
    return max(1, round(share * most))


def flipped(columns: Tensor, from_first: bool, size: int, noise: torch.Generator) -> Tensor:
    """Return columns with a random group of one word's given to the other, ``[E]``, bool.

    Args:
        columns: True where a column is the first's.
        from_first: Whose columns are taken.
        size: How many, or as many as there are.
        noise: Chooses them.
    """
    (giver,) = (columns == from_first).nonzero(as_tuple=True)
    group = giver[torch.randperm(len(giver), generator=noise)[:size]]
    changed = columns.clone()
    changed[group] = not from_first
    return changed


class _Search:
    """The search of one picture."""

    def __init__(self, columns: Tensor, full_lean: float, max_share: float) -> None:
        self.columns = self.tried = columns
        self.full_lean, self.max_share = full_lean, max_share
        self.lean: float | None = None
        self.size = 0
        self.best: tuple[float, Tensor] | None = None

    def propose(self, noise: torch.Generator) -> Tensor:
        """Return the columns to draw next."""
        if self.lean is not None:
            self.tried = flipped(self.columns, self.lean > 0, self.size, noise)
        return self.tried

    def judge(self, image: Tensor, first: float, second: float) -> bool:
        """Take what was drawn from them and its cosines; return whether it is kept."""
        reward = float(balance_reward(torch.tensor(first), torch.tensor(second)))
        if self.best is None or reward > self.best[0]:
            self.best = (reward, image)
        lean = first - second
        if self.lean is not None and abs(lean) >= abs(self.lean):
            self.size = max(1, self.size // 2)
            return False
        self.columns, self.lean = self.tried, lean
        self.size = group_size(lean, self.full_lean, len(self.columns), self.max_share)
        return True


class AGSwap(MixesSources[AGSwapConfig]):
    """Exchanges of groups of columns, steered by which word the picture leans to.

    ``on_step`` is told each round: how the pictures lean, and how many were drawn and kept.
    """

    name = NAME
    config_class = AGSwapConfig
    needs = ComparingBackbone

    @property
    def num_steps(self) -> int:
        """Reports at most."""
        return self.config.num_draws

    @torch.no_grad()
    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return pictures that are both words, each the best-balanced of its own search."""
        cfg = self.config
        swapping = Swapping.of(drawing, cfg.num_inference_steps, cfg.guidance_scale)
        parents = [swapping.read(part) for part in drawing.parents()]
        full_leans = 1 - pair_cosine(*parents)  # a word's own picture has cosine 1 to itself
        noise = drawing.streams()
        searches = [
            _Search(half_ones(swapping.width, stream), float(full), cfg.max_share)
            for stream, full in zip(noise, full_leans, strict=True)
        ]
        for index in range(cfg.num_draws):
            rows = [
                row
                for row, search in enumerate(searches)
                if search.lean is None or abs(search.lean) >= cfg.tolerance
            ]
            if not rows:
                break
            columns = torch.stack([searches[row].propose(noise[row]) for row in rows])
            images = swapping.draw(columns, rows)
            cosines = similarities(swapping.read(images), *(parent[rows] for parent in parents))
            kept = [
                searches[row].judge(image, float(first), float(second))
                for row, image, first, second in zip(rows, images, *cosines, strict=True)
            ]
            leans = [search.lean for search in searches if search.lean is not None]
            drawing.report(
                {"leans": leans, "drawn": len(rows), "kept": sum(kept)},
                index=index,
                loss=sum(abs(lean) for lean in leans) / len(leans),
            )
        return torch.stack([search.best[1] for search in searches if search.best is not None])
