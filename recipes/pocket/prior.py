"""Stage ``prior``: the diffusion prior, from text to image embeddings.

Training runs on as many positions as the captions need. The mask hides padding in the full
forward pass, so leaving it out, with positions kept, gives the same result three times faster.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from recipes.pocket import augment, data, loop, teacher, text, views, words
from torch import Tensor
from torch.nn import functional as F

BATCH = 1024
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


def train(folder: Path, minutes: float) -> None:
    """Train on captioned views, and measure what the embeddings say."""
    loop.wait(folder / "text.done")
    source, tower = text.captioned(folder), text.load(folder)
    model, noises = build().train(), scheduler()
    mean, std = source.embeds.mean(0)[None], source.embeds.std(0)[None]
    for parameter, value in ((model.clip_mean, mean), (model.clip_std, std)):
        parameter.requires_grad_(False).copy_(value)
    levels = noises.alphas_cumprod.to(mean.device)
    tokenizer = words.build_tokenizer()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        ids, lengths, _, embeds = source.pick(views.scaled(BATCH), generator)
        dropped = torch.rand(len(ids), generator=generator) < DROPPED_SHARE
        ids = ids.masked_fill(dropped[:, None], tokenizer.eos_token_id)
        ids[:, 0] = tokenizer.bos_token_id
        mask = torch.arange(ids.shape[1])[None] < lengths.masked_fill(dropped, 2)[:, None]
        clean = (embeds - mean) / std
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (len(ids),), generator=generator)
        level = levels[times][:, None]
        noisy = level.sqrt() * clean + (1 - level).sqrt() * noise
        with torch.no_grad():
            read = tower(input_ids=ids)
        prompts = (read.text_embeds.float(), read.last_hidden_state.float(), mask.long())
        return {"embeds": F.mse_loss(predict(model, noisy, times, prompts).float(), clean)}

    training = loop.Training(
        name="prior",
        folder=folder,
        minutes=minutes,
        learning_rate=1e-3,
        ema_decay=0.999,
        muon=loop.on_cpu(),
    )
    loop.fit(model, losses, training)
    print(json.dumps(measure(model.eval(), tower, folder)), flush=True)


def load(folder: Path) -> PriorTransformer:
    """Return the trained prior, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "prior"))
    return model


@torch.no_grad()
def encode(tower: torch.nn.Module, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Return pooled embeddings, states and mask of captions, padded to the longest."""
    tokens = words.build_tokenizer()(captions, padding=True)
    ids, mask = (torch.tensor(tokens[name]) for name in ("input_ids", "attention_mask"))
    output = tower(input_ids=ids)
    return output.text_embeds, output.last_hidden_state, mask


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
    noises, generator = scheduler(), loop.random(seed)
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
def measure(model: PriorTransformer, tower: torch.nn.Module, folder: Path) -> dict[str, float]:
    """Say how often the text that is nearest to a sample is the one that was asked for."""
    pictures = data.load(folder)
    names = pictures.concepts[: pictures.num_core]
    prompts = [text.PROMPT.format(augment.with_article(name)) for name in names]
    embeds = F.normalize(sample(model, tower, prompts), dim=-1)
    known = F.normalize(text.concept_embeds(tower, list(names)), dim=-1)
    right = (embeds @ known.T).argmax(1) == torch.arange(len(names))
    return {"named": float(right.float().mean())}
