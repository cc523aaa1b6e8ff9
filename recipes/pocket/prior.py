"""Stage ``prior``: the diffusion prior, from text to image embeddings.

Training runs on as many positions as the captions need. The mask hides padding in the full
forward pass, so leaving it out, with positions kept, gives the same result three times faster.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from recipes.pocket import augment, loop, teacher, text, words
from torch import Tensor
from torch.nn import functional as F

BATCH = 128
DROPPED_SHARE = 0.1
"""Share of prompts replaced by the empty one, for guidance."""
HEADS = 4


def build() -> PriorTransformer:
    """Return the untrained prior, 4.4 M parameters."""
    return PriorTransformer(
        num_attention_heads=HEADS,
        attention_head_dim=64,
        num_layers=5,
        embedding_dim=teacher.WIDTH,
        num_embeddings=words.NUM_POSITIONS,
        additional_embeddings=4,
    )


def scheduler() -> UnCLIPScheduler:
    """Return the schedule of training and sampling; the prior predicts the clean embedding."""
    return UnCLIPScheduler(
        variance_type="fixed_small_log",
        num_train_timesteps=1000,
        clip_sample=True,
        clip_sample_range=10.0,
        prediction_type="sample",
    )


def predict(
    model: PriorTransformer, noisy: Tensor, times: Tensor, prompts: tuple[Tensor, Tensor, Tensor]
) -> Tensor:
    """Return the predicted clean embedding, ``[B, 256]``, without computing padding.

    Args:
        model: The prior; its gradients are kept.
        noisy: ``[B, 256]``, whitened.
        times: ``[B]``, 0 to 999.
        prompts: ``text_embeds``, ``text_encoder_hidden_states`` and ``text_mask`` of L tokens.
    """
    text_embeds, states, mask = prompts
    length = states.shape[1]
    time_embeds = model.time_embedding(model.time_proj(times))
    tokens = [
        model.encoder_hidden_states_proj(states),
        model.embedding_proj(text_embeds)[:, None],
        time_embeds[:, None],
        model.proj_in(noisy)[:, None],
        model.prd_embedding.expand(len(noisy), -1, -1),
    ]
    full = words.NUM_POSITIONS
    kept = torch.cat([torch.arange(length), torch.arange(full, full + 4)])
    hidden = torch.cat(tokens, dim=1) + model.positional_embedding[:, kept]
    bias = F.pad((1 - mask.float()) * -10000.0, (0, 4))[:, None]
    bias = bias + model.causal_attention_mask[:, kept][:, :, kept]
    bias = bias.repeat_interleave(HEADS, dim=0)
    for block in model.transformer_blocks:
        hidden = block(hidden, attention_mask=bias)
    return model.proj_to_clip_embeddings(model.norm_out(hidden)[:, -1])


@torch.no_grad()
def encode(tower: torch.nn.Module, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pooled embeddings, states and mask of captions, padded to the longest."""
    tokens = words.build_tokenizer()(captions, padding=True, return_tensors="pt")
    output = tower(input_ids=tokens.input_ids)
    return output.text_embeds, output.last_hidden_state, tokens.attention_mask


def train(folder: Path, minutes: float) -> None:
    """Train on captions made on the fly, and measure what the embeddings say."""
    source, tower = text.CaptionedViews(folder), text.load(folder)
    model, noises = build().train(), scheduler()
    known = source.embeds[source.keep]
    model.clip_mean.data.copy_(known.mean(0)[None])
    model.clip_std.data.copy_(known.std(0)[None])
    model.clip_mean.requires_grad_(False)
    model.clip_std.requires_grad_(False)
    mean, std = model.clip_mean.data.clone(), model.clip_std.data.clone()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        captions, embeds = source.draw(BATCH, generator)
        dropped = (torch.rand(BATCH, generator=generator) < DROPPED_SHARE).tolist()
        captions = [
            "" if drop else caption for drop, caption in zip(dropped, captions, strict=True)
        ]
        clean = (embeds - mean) / std
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = noises.add_noise(clean, noise, times)
        guess = predict(model, noisy, times, encode(tower, captions)).float()
        return {"embeds": F.mse_loss(guess, clean)}

    def on_save(step: int) -> None:
        print(json.dumps(measure(load(folder), tower, source)), flush=True)

    training = loop.Training(
        name="prior",
        muon=True,
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        on_save=on_save,
        ema_decay=0.997,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> PriorTransformer:
    """Return the trained prior, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "prior"))
    return model


@torch.no_grad()
def sample(
    model: PriorTransformer,
    tower: torch.nn.Module,
    prompts: list[str],
    *,
    seed: int = 0,
    guidance: float = 2.0,
    steps: int = 10,
) -> Tensor:
    """Return image embeddings of prompts, ``[B, 256]``, as the pipeline would."""
    noises, generator = scheduler(), torch.Generator().manual_seed(seed)
    noises.set_timesteps(steps)
    encoded = encode(tower, [*prompts, ""])
    count = len(prompts)
    both = tuple(torch.cat([part[:count], part[-1:].expand_as(part[:count])]) for part in encoded)
    embeds = torch.randn(count, teacher.WIDTH, generator=generator)
    times = noises.timesteps
    for index, time in enumerate(times):
        guess = predict(model, torch.cat([embeds] * 2), time.repeat(2 * count), both)
        named, unnamed = guess.chunk(2)
        guess = unnamed + guidance * (named - unnamed)
        after = times[index + 1] if index + 1 < len(times) else None
        step = noises.step(guess, time, embeds, generator=generator, prev_timestep=after)
        embeds = step.prev_sample
    return model.post_process_latents(embeds)


@torch.no_grad()
def measure(
    model: PriorTransformer, tower: torch.nn.Module, source: text.CaptionedViews
) -> dict[str, float]:
    """Say how often the nearest mean picture of a sample is of the concept that was asked for."""
    names = source.pictures.concepts[: source.pictures.num_core]
    prompts = [text.PROMPT.format(augment.with_article(name)) for name in names]
    embeds = F.normalize(sample(model, tower, prompts), dim=-1)
    concept = source.views["concept"][source.keep]
    known = F.normalize(source.embeds[source.keep], dim=-1)
    means = torch.stack([known[concept == index].mean(0) for index in range(len(names))])
    scores = embeds @ F.normalize(means, dim=-1).T
    right = scores.topk(5).indices == torch.arange(len(names))[:, None]
    norm = float(sample(model, tower, prompts, seed=1).norm(dim=-1).mean())
    return {
        "named_top1": float(right[:, 0].float().mean()),
        "named_top5": float(right.any(1).float().mean()),
        "norm": norm,
    }
