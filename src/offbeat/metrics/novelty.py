"""How far pictures are from the ordinary: from the nearest reference, or under a density of them.

Sources: the density is that of Song and Elgammal, arXiv:2601.22125; novelty as a share of held-out
ordinary pictures is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.core.density import GaussianDensity
from offbeat.core.functional import cosine
from offbeat.errors import ImageError
from offbeat.metrics.common import pictures
from offbeat.metrics.encoders import Encoder, EncoderMetric
from offbeat.protocols import Need

NUM_COMPONENTS = 50
"""Axes of the density at most, as the search's own."""
MIN_REFERENCES = 20
"""Fewer cannot both make a density and check it."""


def nearest_distance(features: Tensor, references: Tensor) -> Tensor:
    """Return the cosine distance of each item to the nearest reference, ``[N]``, 0 to 2.

    Args:
        features: ``[N, D]``.
        references: ``[M, D]``, M >= 1.
    """
    return (1 - cosine(features.double(), references.double()).amax(dim=1)).clamp_min(0)


def held_out_share(features: Tensor, baseline: Baseline) -> Tensor:
    """Return the share of held-out ordinary samples nearer to their mean, ``[N]``, 0 to 1.

    Near is by the Mahalanobis distance in the baseline's axes. The samples were not fitted, so an
    ordinary picture's share is even over 0 to 1 however few samples the density was fitted to.
    """
    distances = GaussianDensity(baseline.space).squared_distance(features)
    return (baseline.held_out[None] < distances[:, None]).double().mean(dim=1)


def fit_baseline(references: Tensor, *, num_components: int = NUM_COMPONENTS) -> Baseline:
    """Return the density of references, ``[M, D]``; every second one is held out.

    It has ``num_components`` axes, or a third of the samples that it is fitted to if that is less.

    Raises:
        ImageError: If there are fewer than 20.
        ConfigError: If they are all equal.
    """
    if len(references) < MIN_REFERENCES:
        raise ImageError(
            f"references: expected at least {MIN_REFERENCES} pictures to fit a density to, got "
            f"{len(references)}"
        )
    fitted = references[0::2]
    return Baseline.fit(
        "references",
        fitted,
        references[1::2],
        fitted.mean(dim=0, keepdim=True),
        num_components=max(1, min(num_components, len(fitted) // 3, references.shape[1])),
    )


class NearestNovelty(EncoderMetric):
    """Cosine distance to the nearest reference, 0 to 2; 0 is a copy to the encoder."""

    stem = "novelty_nn"
    needs: tuple[Need, ...] = ("references",)

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's distance, ``[B]``."""
        others = pictures(references, "references")
        return nearest_distance(
            self.encoder.image_embeds(images), self.encoder.image_embeds(others)
        )


class NoveltyQuantile(EncoderMetric):
    """Share of ordinary pictures that lie nearer to the ordinary's mean, 0 to 1."""

    stem = "novelty_quantile"
    needs: tuple[Need, ...] = ("references",)

    def __init__(self, encoder: Encoder, *, baseline: Baseline | None = None) -> None:
        """Measure with this encoder.

        Args:
            encoder: Whose features the density is of.
            baseline: The ordinary in those features, e.g. a run's; None fits the references.
        """
        super().__init__(encoder)
        self.baseline = baseline
        if baseline is not None:
            self.needs = ()
            self.note = _about(baseline)

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's share, ``[B]``."""
        baseline = self.baseline
        if baseline is None:
            others = pictures(references, "references", at_least=MIN_REFERENCES)
            baseline = fit_baseline(self.encoder.image_embeds(others))
        return held_out_share(self.encoder.image_embeds(images), baseline)

    def remark(
        self,
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> str:
        """Return how many references the share is of."""
        if self.baseline is not None or references is None:
            return self.note
        return f"novelty_quantile: a share of {len(references) // 2} held-out references"


def _about(baseline: Baseline) -> str:
    return (
        f"novelty_quantile: a share of {len(baseline.held_out)} held-out samples of "
        f"{baseline.prompt!r}, in {baseline.space.num_components} axes"
    )
