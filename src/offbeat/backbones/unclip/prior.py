"""The fast prior: exact sampling with the text prefix computed once.

In the unCLIP prior attention is causal and the sequence is [text states, text embedding, time,
noisy embedding, query]. Nothing before "time" can see the timestep or the sample, and "time" cannot
see the sample. So keys and values of the text are computed once, padding left out and positions
kept, those of "time" once for each timestep, and a step runs two tokens for each sample instead of
81. This changes no result: tests hold it against the pipelines of diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.unclip.prior_lean import MAX_SAMPLES, Adapter, LeanPrior
from offbeat.checkpoints.offload import ready, runs_on
from offbeat.core.functional import guide
from offbeat.errors import CheckpointError, ShapeError
from offbeat.types import TextEmbeds

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of every attention layer that carry LoRA factors."""

Lora = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Prefix:
    """Keys and values of G prompts in every layer."""

    keys: tuple[Tensor, ...]
    """One a layer, ``[G, heads, P, d]``."""
    values: tuple[Tensor, ...]
    bias: Tensor
    """0 where a key may be seen, -inf at padding, ``[G, 1, 1, P]``."""


class FastPrior:
    """Runs a ``diffusers.PriorTransformer`` by prefix and suffix.

    It holds no copy of the weights and changes nothing of the module.
    """

    def __init__(self, prior: Any, scheduler: Any) -> None:
        config = prior.config
        plain = (
            config.added_emb_type == "prd"
            and config.encoder_hid_proj_type == "linear"
            and config.norm_in_type is None
            and config.embedding_proj_norm_type is None
        )
        if not plain:
            raise CheckpointError(
                "prior: expected an unCLIP image prior (added_emb_type 'prd', linear text "
                f"projection, no input norm), got {dict(config)}"
            )
        self.prior = prior
        self.scheduler = scheduler
        self.num_heads: int = config.num_attention_heads
        self.num_text: int = config.num_embeddings
        self._watchers: tuple[Callable[[int], None], ...] = ()

    @contextmanager
    def watched(self, watcher: Callable[[int], None]) -> Iterator[None]:
        """Tell ``watcher`` in this block how many samples each evaluation has.

        No hook on the module can: this prior runs its parts, and never the module itself.
        """
        before = self._watchers
        self._watchers = (*before, watcher)
        try:
            yield
        finally:
            self._watchers = before

    def encode_prefix(self, text: TextEmbeds, lora: Lora | None = None) -> Prefix:
        """Run the text through every layer once; G = number of prompts."""
        prior, dtype = self.prior, self.prior.dtype
        states = prior.encoder_hidden_states_proj(text.text_encoder_hidden_states.to(dtype))
        pooled = prior.embedding_proj(text.text_embeds.to(dtype))[:, None]
        length = states.shape[1]
        positions = prior.positional_embedding
        hidden = torch.cat(
            [
                states + positions[:, :length],
                pooled + positions[:, self.num_text : self.num_text + 1],
            ],
            dim=1,
        )  # [G, P, C]
        seen = torch.cat([text.text_mask, text.text_mask.new_ones(len(text), 1)], dim=1)
        bias = hidden.new_zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None, None]
        # a causal mask leaves each row its own key, so padding rows stay finite
        causal = torch.full((length + 1, length + 1), -torch.inf, device=hidden.device).triu(1)
        mask = (bias + causal.to(dtype)).clamp_min(torch.finfo(dtype).min)
        keys, values = [], []
        for index, block in enumerate(prior.transformer_blocks):
            normed = block.norm1(hidden)
            query, key, value = (
                self._heads(block, index, name, normed, lora) for name in LORA_TARGETS[:3]
            )
            keys.append(key)
            values.append(value)
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask
            )
            hidden = self._finish(block, index, hidden, attended, lora)
        return Prefix(tuple(keys), tuple(values), bias)

    def encode_times(self, prefix: Prefix, timesteps: Tensor, lora: Lora | None = None) -> Prefix:
        """Run the time tokens of all T timesteps through every layer once.

        "time" stands before the sample and cannot see it: it too is the same for every sample.

        Returns:
            Keys and values, ``[G, heads, T, d]``; the bias is empty.
        """
        times = self.prior.time_embedding(self.prior.time_proj(timesteps).to(self.prior.dtype))
        times = times + self.prior.positional_embedding[0, self.num_text + 1]
        hidden = times[None, :, None].expand(len(prefix.bias), -1, -1, -1)  # [G, T, 1, C]
        keys, values = [], []
        for index in range(len(self.prior.transformer_blocks)):
            hidden, key, value = self._attend(index, hidden, prefix, lora)
            keys.append(key)
            values.append(value)
        return Prefix(tuple(keys), tuple(values), prefix.bias[..., :0])

    def predict(self, prefix: Prefix, latents: Tensor, lora: Lora | None = None) -> Tensor:
        """Predict the clean embedding from the two tokens that see the sample.

        Args:
            prefix: Of G prompts, with the time token of this step.
            latents: Noisy embeddings, ``[G, S, D]``.
            lora: Factors in PEFT's names.

        Returns:
            ``[G, S, D]``.
        """
        prior = self.prior
        noisy = prior.proj_in(latents.to(prior.dtype))
        query = prior.prd_embedding[0].expand_as(noisy)
        positions = prior.positional_embedding[0, self.num_text + 2 :]
        hidden = torch.stack([noisy, query], dim=2) + positions  # [G, S, 2, C]
        last = len(prior.transformer_blocks) - 1
        for index in range(last + 1):
            hidden, _, _ = self._attend(index, hidden, prefix, lora, only_query=index == last)
        predicted: Tensor = prior.proj_to_clip_embeddings(prior.norm_out(hidden[:, :, -1]))
        return predicted

    def sample(
        self,
        text: TextEmbeds,
        negative: TextEmbeds | None,
        generator: torch.Generator | Sequence[torch.Generator],
        *,
        num_samples: int,
        num_inference_steps: int,
        prior_guidance_scale: float,
        lora: Lora | None = None,
        gradient_steps: int | None = None,
    ) -> Tensor:
        """Denoise ``num_samples`` embeddings, ``[B, D]``, float32.

        ``text`` and ``negative`` hold one prompt for all samples, or one for each.
        ``gradient_steps`` lets the gradient pass the last denoising steps only.
        """
        from diffusers.utils.torch_utils import randn_tensor

        ready(self.prior)
        device = runs_on(self.prior)
        guided = prior_guidance_scale > 1 and negative is not None
        for given in (text, negative) if guided else (text,):
            if given is not None and len(given) not in (1, num_samples):
                raise ShapeError(f"text: expected 1 or {num_samples} prompts, got {len(given)}")
        check_streams(generator, num_samples)
        texts = [text, negative] if guided and negative is not None else [text]
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        timesteps = self.scheduler.timesteps
        groups = max(map(len, texts))
        predict = self._predictor(texts, timesteps, num_samples // groups, lora)
        shape = (num_samples, self.prior.config.embedding_dim)
        noise = list(generator) if isinstance(generator, Sequence) else generator
        latents = randn_tensor(shape, generator=noise, device=device, dtype=torch.float32)
        latents = latents * self.scheduler.init_noise_sigma
        for index, timestep in enumerate(timesteps):
            left = len(timesteps) - index
            tracked = torch.is_grad_enabled() and (gradient_steps is None or left <= gradient_steps)
            with torch.set_grad_enabled(tracked):
                grouped = latents.view(groups, num_samples // groups, -1)
                doubled = torch.cat([grouped, grouped]) if guided else grouped
                predicted = predict(index, doubled).flatten(0, 1).float()
                for told in self._watchers:
                    told(len(predicted))
                if guided:
                    cond, uncond = predicted.chunk(2)
                    predicted = guide(uncond, cond, prior_guidance_scale)
                earlier = timesteps[index + 1] if left > 1 else None
                latents = self.scheduler.step(
                    predicted, timestep, latents, prev_timestep=earlier, generator=noise
                ).prev_sample
        image_embeds: Tensor = self.prior.post_process_latents(latents)
        return image_embeds.float()

    def _predictor(
        self, texts: list[TextEmbeds], timesteps: Tensor, num_samples: int, lora: Lora | None
    ) -> Callable[[int, Tensor], Tensor]:
        """Read the texts; return what predicts at a step of the schedule."""
        if num_samples <= MAX_SAMPLES and self.prior.dtype == torch.float32:
            lean = LeanPrior(
                self.prior,
                texts,
                timesteps,
                num_heads=self.num_heads,
                num_text=self.num_text,
                num_samples=num_samples,
                adapters=self._adapters(lora) if lora else None,
            )
            return lean.predict
        prefix = self.encode_prefix(texts[0], lora)
        if len(texts) > 1:
            prefix = _stack(prefix, self.encode_prefix(texts[1], lora))
        times = self.encode_times(prefix, timesteps, lora)
        return lambda step, latents: self.predict(_append(prefix, times, step), latents, lora)

    def _adapters(self, lora: Lora) -> list[Adapter]:
        """Return the factors of every layer on the prior's device, empty where there are none."""
        found = []
        for index, block in enumerate(self.prior.transformer_blocks):
            downs, ups = [], []
            for target in LORA_TARGETS:
                weight = block.attn1.get_submodule(target).weight
                down = lora.get(lora_name(index, target, "A"), weight[:0])
                up = lora.get(lora_name(index, target, "B"), weight[:, :0])
                downs.append(down.to(weight))
                ups.append(up.to(weight))
            found.append(Adapter(tuple(downs), tuple(ups)))
        return found

    def _attend(
        self,
        index: int,
        hidden: Tensor,
        prefix: Prefix,
        lora: Lora | None,
        *,
        only_query: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run one layer over n tokens of each sample, which see the prefix and one another.

        Args:
            index: The layer.
            hidden: ``[G, S, n, C]``.
            prefix: What all samples of a prompt see.
            lora: Factors in PEFT's names.
            only_query: Go on with the last token alone: nothing reads the others after this layer.

        Returns:
            The stream ``[G, S, n or 1, C]``, and keys and values ``[G, heads, S * n, d]``.
        """
        block = self.prior.transformer_blocks[index]
        _, samples, count, width = hidden.shape
        asking = 1 if only_query else count
        normed = block.norm1(hidden)
        key, value = (
            self._heads(block, index, name, normed.flatten(1, 2), lora) for name in ("to_k", "to_v")
        )
        asked = normed[:, :, count - asking :].flatten(1, 2)
        query = self._heads(block, index, "to_q", asked, lora) * (width // self.num_heads) ** -0.5
        own_key, own_value = (part.unflatten(2, (samples, count)) for part in (key, value))
        to_text = query @ prefix.keys[index].transpose(-1, -2) + prefix.bias
        to_own = query.unflatten(2, (samples, asking)) @ own_key.transpose(-1, -2)
        future = torch.full((count, count), -torch.inf, device=hidden.device).triu(1)
        to_own = to_own + future[count - asking :].to(query.dtype)
        logits = torch.cat([to_text.unflatten(2, (samples, asking)), to_own], dim=-1)
        weights = logits.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        from_text, from_own = weights.split([to_text.shape[-1], count], dim=-1)
        attended = from_text.flatten(2, 3) @ prefix.values[index]
        attended = attended + (from_own @ own_value).flatten(2, 3)
        stream = hidden[:, :, count - asking :]
        stream = self._finish(block, index, stream.flatten(1, 2), attended, lora)
        return stream.unflatten(1, (samples, asking)), key, value

    def _heads(
        self, block: Any, index: int, name: str, normed: Tensor, lora: Lora | None
    ) -> Tensor:
        """Return one projection split into heads, ``[G, heads, tokens, d]``."""
        flat = _linear(getattr(block.attn1, name), normed, lora, index, name)
        heads: Tensor = flat.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def _finish(
        self, block: Any, index: int, hidden: Tensor, attended: Tensor, lora: Lora | None
    ) -> Tensor:
        """Add the attention's output and the feed-forward layer's to the stream."""
        flat = attended.transpose(1, 2).flatten(2)
        hidden = hidden + _linear(block.attn1.to_out[0], flat, lora, index, "to_out.0")
        result: Tensor = hidden + block.ff(block.norm3(hidden))
        return result


def check_streams(generator: torch.Generator | Sequence[torch.Generator], count: int) -> None:
    """Raise unless there is one stream, or one for each of ``count`` samples.

    Raises:
        ShapeError: With both counts; a list that is too short would be used twice.
    """
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ShapeError(f"generator: expected one, or {count} streams, got {len(generator)}")


def lora_name(index: int, target: str, factor: str) -> str:
    """Return PEFT's name of one LoRA factor; ``factor`` is ``A`` or ``B``."""
    return f"transformer_blocks.{index}.attn1.{target}.lora_{factor}.weight"


def _linear(module: Any, inputs: Tensor, lora: Lora | None, index: int, target: str) -> Tensor:
    output: Tensor = module(inputs)
    if lora and (name := lora_name(index, target, "A")) in lora:
        down = lora[name].to(inputs)  # [r, in]; device and dtype
        up = lora[lora_name(index, target, "B")].to(inputs)  # [out, r]
        output = output + (inputs @ down.T) @ up.T
    return output


def _append(prefix: Prefix, times: Prefix, step: int) -> Prefix:
    """Return the prefix with the time token of one step behind it."""
    at = slice(step, step + 1)
    pairs = zip(prefix.keys, times.keys, prefix.values, times.values, strict=True)
    joined = [
        (torch.cat([key, key_t[:, :, at]], dim=2), torch.cat([value, value_t[:, :, at]], dim=2))
        for key, key_t, value, value_t in pairs
    ]
    bias = torch.nn.functional.pad(prefix.bias, (0, 1))
    return Prefix(tuple(key for key, _ in joined), tuple(value for _, value in joined), bias)


def _stack(cond: Prefix, uncond: Prefix) -> Prefix:
    """Put the unconditional prompts behind the conditional ones, as many and as long."""
    groups = max(len(cond.bias), len(uncond.bias))
    length = max(cond.bias.shape[-1], uncond.bias.shape[-1])
    (keys, values, bias), (keys_u, values_u, bias_u) = (
        _widen(prefix, groups, length) for prefix in (cond, uncond)
    )
    pairs = zip(keys, keys_u, values, values_u, strict=True)
    joined = [(torch.cat([a, b]), torch.cat([c, d])) for a, b, c, d in pairs]
    return Prefix(
        tuple(key for key, _ in joined),
        tuple(value for _, value in joined),
        torch.cat([bias, bias_u]),
    )


def _widen(prefix: Prefix, groups: int, length: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Repeat a prefix to ``groups`` prompts and pad it to ``length`` keys, which none sees."""
    extra = length - prefix.bias.shape[-1]
    pad = torch.nn.functional.pad

    def wide(part: Tensor) -> Tensor:
        return pad(part, (0, 0, 0, extra)).expand(groups, -1, -1, -1)

    bias = pad(prefix.bias, (0, extra), value=-torch.inf).expand(groups, -1, -1, -1)
    return [wide(key) for key in prefix.keys], [wide(value) for value in prefix.values], bias
