"""Stage ``stable_diffusion``: a U-Net in Stable Diffusion's form on the same latents.

It reads the text tower's hidden states twice: token by token through cross-attention, and pooled
through the time embedding (``addition_embed_type="text"``, which a plain pipeline feeds by itself).
Its IP-Adapter (Ye et al., arXiv:2308.06721) is trained along: every fourth step hears the picture,
most texts being empty; in the others its scale is 0, which is exactly no adapter.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from recipes.pocket import augment, autoencoder, ip_adapter, loop, text, unet, views, words
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, PER_VIEW = 448, 2
IP_EVERY = 4
"""One step of so many hears the picture."""
DROPPED_SHARE, DROPPED_WITH_PICTURE = 0.1, 0.6
"""Share of empty prompts: for guidance, and so that a picture alone must do."""
POOL_DROPPED_SHARE = 0.15
"""Share of pictures whose pooled text is the empty prompt's, so that cross-attention learns to
speak for itself: an IP-Adapter has nothing else to speak through."""

METHODS = Path(__file__).with_name("stable_diffusion_methods.json")
"""What suits this checkpoint of each method that works inside its denoising."""

CARD = {
    "name": "pocket-sd",
    "prompt_template": "a picture of a {subject}",
    "max_prompt_tokens": words.NUM_POSITIONS,
    "guidance_scale": 2.5,
    "num_inference_steps": 20,
    "height": augment.IMAGE_SIZE,
    "width": augment.IMAGE_SIZE,
    "ip_adapter_scale": 1.0,
    "notes": "Concepts and subjects are those of the card.json one folder up.",
    "methods": json.loads(METHODS.read_text(encoding="utf-8")),
}
"""What the library must know about the weights beyond the checkpoint's own card."""


def build() -> UNet2DConditionModel:
    """Return the untrained U-Net, 7.7 M parameters."""
    return UNet2DConditionModel(
        sample_size=unet.LATENT_SIZE,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=4,  # in this class the number of heads
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
        norm_num_groups=16,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
    )


def train(folder: Path, minutes: float) -> None:
    """Train the U-Net and its adapter on latents and captions of views."""
    source = unet.latents_of(folder, "stable_diffusion", seed=51, per=PER_VIEW)
    loop.wait(folder / "text.done")
    tower, tokenizer = text.load(folder), words.build_tokenizer()
    model = with_adapter().train()
    model.requires_grad_(True)
    speakers = [part for name, part in model.attn_processors.items() if ".attn2." in name]
    empty = torch.full((1, words.NUM_POSITIONS), tokenizer.eos_token_id)
    empty[0, 0] = tokenizer.bos_token_id
    with torch.no_grad():
        nothing = tower(input_ids=empty).last_hidden_state.float()
    generators: list[torch.Generator] = []

    def drop_pooled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (states,) = inputs
        dropped = torch.rand(len(states), 1, 1, generator=generators[-1]) < POOL_DROPPED_SHARE
        return (torch.where(dropped, nothing.to(states.dtype), states),)

    model.add_embedding.register_forward_pre_hook(drop_pooled)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        generators[:] = [generator]
        hears = step % IP_EVERY == IP_EVERY - 1
        for part in speakers:
            part.scale = [float(hears)]
        picked = source.pick(views.scaled(BATCH), generator)
        count = len(picked)
        caption = picked * PER_VIEW + torch.randint(0, PER_VIEW, (count,), generator=generator)
        ids = empty.repeat(count, 1)
        ids[:, : source.tokens.ids.shape[1]] = source.tokens.ids[caption]
        share = DROPPED_WITH_PICTURE if hears else DROPPED_SHARE
        ids[torch.rand(count, generator=generator) < share] = empty
        with torch.no_grad():
            states = tower(input_ids=ids).last_hidden_state.float()
        noisy, times, velocity = unet.noised(source.latents[picked].float(), generator)
        embeds = unet.roughened(source.embeds[picked], generator)
        added = {"image_embeds": [embeds[:, None]]}
        guess = model(noisy, times, states, added_cond_kwargs=added).sample.float()
        return {"with_picture" if hears else "velocity": F.mse_loss(guess, velocity)}

    training = loop.Training(
        name="stable_diffusion",
        folder=folder,
        minutes=minutes,
        learning_rate=1.2e-3,
        ema_decay=0.9995,
        muon=loop.on_cpu(),
    )
    loop.fit(model, losses, training)


def with_adapter() -> UNet2DConditionModel:
    """Return the untrained U-Net with an untrained adapter in it."""
    with torch.device("cpu"):  # diffusers makes the adapter's layers there
        model = build()
        model._load_ip_adapter_weights([ip_adapter.initial(model)])
    return model.to(torch.get_default_device())


def load(folder: Path) -> tuple[UNet2DConditionModel, dict[str, Tensor]]:
    """Return the trained U-Net, averaged weights, and its adapter as its file holds it."""
    model = with_adapter().eval()
    model.load_state_dict(loop.read_ema(folder, "stable_diffusion"))
    plain = build().eval()
    plain.load_state_dict(ip_adapter.without(model.state_dict()))
    return plain, ip_adapter.of(model)
