"""DisTok's encoder and decoder, which turn mixtures of classes, or noise, into tokens.

Parameters are a mapping of tensors, as they are saved: a fused token needs no module and no lookup.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize, silu

from offbeat.core.functional import cosine
from offbeat.core.rng import stream
from offbeat.core.templates import fill
from offbeat.errors import FingerprintError, PromptError, VocabularyError
from offbeat.methods.distok.config import NAME, DisTokConfig
from offbeat.methods.settings import check_trained
from offbeat.protocols import TextBackbone
from offbeat.types import PLACEHOLDER, Concept, Request, Trained

MAX_ENTROPY = math.log(5)
"""Mixtures of more than about five classes look alike: a warning from here on, in nats."""
MAX_CAUCHY = 10.0
"""A Cauchy law has no variance: its draws are cut off here."""


def initial_params(config: DisTokConfig, width: int, seed: int) -> dict[str, Tensor]:
    """Return fresh weights of both networks, uniform as ``torch.nn.Linear`` draws them."""
    noise, params = stream(seed, "distok", "networks"), {}
    sizes = {"encoder": (width, config.latent_width), "decoder": (config.latent_width, width)}
    for name, (wide_in, wide_out) in sizes.items():
        for layer, fan_in, fan_out in (
            (0, wide_in, config.hidden_width),
            (1, config.hidden_width, wide_out),
        ):
            for part, shape in (("weight", (fan_out, fan_in)), ("bias", (fan_out,))):
                drawn = torch.rand(shape, generator=noise) * 2 - 1
                params[f"{name}.{layer}.{part}"] = drawn / math.sqrt(fan_in)
    return params


def encode(params: Mapping[str, Tensor], mixtures: Tensor, *, row_norm: float) -> Tensor:
    """Return latents, ``[B, latent]``, of mixed class tokens, ``[B, E]``: E_dis.

    Rows come in with a norm far from that of the unit normal, which a fresh layer expects.
    """
    return _network(params, "encoder", mixtures * (math.sqrt(mixtures.shape[-1]) / row_norm))


def decode(params: Mapping[str, Tensor], latents: Tensor, *, row_norm: float) -> Tensor:
    """Return tokens, ``[B, E]``, of the norm of the vocabulary's rows: D_tok."""
    return normalize(_network(params, "decoder", latents), dim=-1, eps=1e-8) * row_norm


def _network(params: Mapping[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    hidden = silu(linear(inputs, params[f"{name}.0.weight"], params[f"{name}.0.bias"]))
    return linear(hidden, params[f"{name}.1.weight"], params[f"{name}.1.bias"])


def draw_latent(law: str, width: int, noise: torch.Generator) -> Tensor:
    """Return ``[width]`` of a law with mean 0 and spread 1; Cauchy has scale 1, and is cut off."""
    if law == "gaussian":
        return torch.randn(width, generator=noise)
    # uniform, without the ends, where the inverse of either law is infinite
    centred = torch.rand(width, generator=noise, dtype=torch.float64).clamp(1e-9, 1 - 1e-9) - 0.5
    if law == "laplace":
        return (-centred.sign() * torch.log1p(-2 * centred.abs()) / math.sqrt(2)).float()
    return torch.tan(math.pi * centred).clamp(-MAX_CAUCHY, MAX_CAUCHY).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A trained space, ready for use."""

    params: Mapping[str, Tensor]
    words: tuple[str, ...]
    class_tokens: Tensor
    """``[K, E]``."""
    latent_mean: Tensor
    latent_std: Tensor
    """Over the vocabulary and its training pairs, ``[latent]``."""
    pair_weighting: str
    template: str
    """The adaptive prompt, with ``{concept}``."""

    @classmethod
    def of(cls, trained: Trained | None, backbone: TextBackbone) -> Space:
        """Return the space of what was trained.

        Raises:
            ConfigError: If it is absent, of another method, or incomplete.
            FingerprintError: If its width is not the backbone's.
        """
        names = ("class_tokens", "latent_mean", "latent_std")
        trained = check_trained(trained, NAME, *names)
        config = DisTokConfig.of(trained.config)
        space = cls(
            params=trained.tensors,
            words=trained.vocabulary,
            **{name: trained.tensors[name] for name in names},
            pair_weighting=config.pair_weighting,
            template=config.adaptive_template,
        )
        width = backbone.token_embed(space.words[0]).shape[-1]
        if width != space.class_tokens.shape[-1]:
            raise FingerprintError(
                f"{NAME}: trained on {trained.checkpoint}, whose tokens have width "
                f"{space.class_tokens.shape[-1]}, and those of {backbone.name} have {width}; run "
                f"`offbeat train {NAME}` for it"
            )
        return space

    @property
    def latent_width(self) -> int:
        """Coordinates of a latent."""
        return len(self.latent_mean)

    @property
    def row_norm(self) -> float:
        """Mean norm of the class tokens."""
        return float(self.class_tokens.norm(dim=-1).mean())

    @torch.no_grad()
    def token_of(self, shares: Tensor) -> Tensor:
        """Return the token, ``[E]``, of a distribution over the words, ``[K]``."""
        mixture = mixed(shares[None], self.class_tokens, pair_weighting=self.pair_weighting)
        latents = encode(self.params, mixture, row_norm=self.row_norm)
        return decode(self.params, latents, row_norm=self.row_norm)[0]

    @torch.no_grad()
    def dreamt(self, drawn: Tensor) -> Tensor:
        """Return the token, ``[E]``, of a latent drawn with spread 1, ``[latent]``."""
        latents = (self.latent_mean + self.latent_std * drawn)[None]
        return decode(self.params, latents, row_norm=self.row_norm)[0]

    def nearest_mixture(self, token: Tensor, *, num: int) -> Tensor:
        """Return shares, ``[K]``, of the ``num`` classes whose tokens are nearest to one, ``[E]``.

        Ours: most of a latent space lies far from all that a decoder was trained on, and what is
        decoded there is a little of every class.
        """
        near = cosine(token[None], self.class_tokens)[0]
        best = near.topk(min(num, len(near)))
        weights = best.values.clamp_min(1e-3).square()
        return torch.zeros_like(near).index_put((best.indices,), weights / weights.sum())

    def concept(
        self, request: Request, token: Tensor, subject: str, metadata: Mapping[str, str]
    ) -> Concept:
        """Return a token, ``[E]``, in the prompt that was asked for, or in that of the training."""
        template = request.prompt and fill(request.prompt, subject="{concept}")
        return Concept(
            template=template or self.template,
            subject=subject,
            token_embeds={PLACEHOLDER: token[None]},
            metadata={"method": NAME, **metadata},
        )


def mixed(shares: Tensor, class_tokens: Tensor, *, pair_weighting: str = "mean") -> Tensor:
    """Return what the encoder reads, ``[B, E]``, of distributions, ``[B, K]``.

    With ``sum`` a pair of equal shares enters as the sum of its tokens, as it did in training.
    """
    mixtures = shares @ class_tokens
    if pair_weighting == "mean":
        return mixtures
    is_pair = ((shares - 0.5).abs() < 1e-6).sum(dim=-1) == 2
    return torch.where(is_pair[:, None], 2 * mixtures, mixtures)


def describe(shares: Tensor, words: Sequence[str]) -> dict[str, str]:
    """Return a distribution's words and shares, its entropy and what to beware of, as metadata."""
    entropy = float(torch.special.entr(shares).sum())
    named = {words[i]: round(float(shares[i]), 6) for i in shares.nonzero()[:, 0].tolist()}
    metadata = {"weights": json.dumps(named), "entropy": f"{entropy:.3f}"}
    if entropy > MAX_ENTROPY:
        metadata["warning"] = (
            f"the entropy of the mixture is {entropy:.2f}, above log 5: mixtures of so many "
            "classes look alike; name fewer, or give some of them more"
        )
    return metadata


def distribution_of(
    weights: Sequence[tuple[str, float]],
    words: Sequence[str],
    class_tokens: Tensor,
    backbone: TextBackbone,
) -> Tensor:
    """Return the shares, ``[K]``, summing to 1, that weighted words are.

    Raises:
        VocabularyError: If a word is unknown, or weights are negative, not finite or all zero.
    """
    known = {word.lower(): index for index, word in enumerate(words)}
    shares = torch.zeros(len(words), dtype=torch.float64)
    for word, weight in weights:
        index = known.get(" ".join(word.split()).lower())
        if index is None:
            near = ", ".join(_nearest(word, words, class_tokens, backbone))
            raise VocabularyError(
                f"{word!r}: expected one of the {len(words)} words that the space was trained on, "
                f"such as {near}; or train another with `offbeat train {NAME}`"
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise VocabularyError(f"{word}: expected a weight of 0 or more, got {weight!r}")
        shares[index] += weight
    if not shares.sum() > 0:
        raise VocabularyError("weights: expected at least one above 0, got none")
    return (shares / shares.sum()).float()


def _nearest(
    word: str, words: Sequence[str], class_tokens: Tensor, backbone: TextBackbone
) -> list[str]:
    """Return three known words: those spelt like it, then those whose tokens are near."""
    folded = {known.lower(): known for known in words}
    similar = [folded[key] for key in get_close_matches(word.lower(), folded, n=3)]
    try:
        near = cosine(backbone.token_embed(word)[None], class_tokens)[0]
    except PromptError:
        return similar or list(words[:3])
    ranked = [words[i] for i in near.argsort(descending=True).tolist()]
    return [*similar, *(other for other in ranked if other not in similar)][:3]
