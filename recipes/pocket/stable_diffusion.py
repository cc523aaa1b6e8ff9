"""Stage ``stable_diffusion``: a U-Net in Stable Diffusion's form on the same latents.

It reads the text tower's hidden states twice: token by token through cross-attention, and pooled
through the time embedding (``addition_embed_type="text"``, which a plain pipeline feeds by itself).
The rest of a pipeline (autoencoder, tokenizer, text tower) is shared with the unCLIP form, and so
is the start: whatever fits is copied from the trained unCLIP decoder.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from recipes.pocket import autoencoder, cache, loop, sources, text, unet, words
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
DROPPED_SHARE = 0.1
"""Share of empty prompts, for guidance."""
POOL_DROPPED_SHARE = 0.15
"""Share of pictures whose pooled text is the empty prompt's, so that cross-attention learns to
speak for itself: an IP-Adapter has nothing else to speak through."""
STYLE_SHARE = 0.4
"""Share of captions that name the style."""
KNOWN_CAPTIONS = 60_000
"""Captions whose hidden states are kept, 39 KB each."""
POOL_STEPS, POOL_BATCH = 120, 128
"""Steps and captions of a step in which the pooled text learns the unCLIP decoder's input."""

METHODS = Path(__file__).with_name("stable_diffusion_methods.json")
"""What suits this checkpoint of each method that works inside its denoising."""

CARD = {
    "name": "pocket-sd",
    "prompt_template": "a picture of a {subject}",
    "max_prompt_tokens": words.NUM_POSITIONS,
    "guidance_scale": 3.0,
    "num_inference_steps": 20,
    "height": 64,
    "width": 64,
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


class Encoder:
    """The text tower's hidden states as the pipeline makes them, kept for captions seen before.

    A caption is padded to 77 tokens and no mask is passed. The tower is causal, so a state depends
    on nothing after it, but padding still reads the caption: all 77 rows are needed.
    """

    def __init__(self, tower: nn.Module) -> None:
        self.tower, self.tokenizer = tower.eval(), words.build_tokenizer()
        self.known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, captions: list[str]) -> Tensor:
        """Return ``[B, 77, 256]``."""
        new = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        fresh: dict[str, Tensor] = {}
        if new:
            tokens = self.tokenizer(new, padding="max_length", return_tensors="pt")
            with loop.autocast(True):
                states = self.tower(input_ids=tokens.input_ids).last_hidden_state
            fresh = dict(zip(new, states.bfloat16(), strict=True))
        if len(self.known) < KNOWN_CAPTIONS:
            self.known |= {caption: states.clone() for caption, states in fresh.items()}
        return torch.stack([self.known.get(c, fresh.get(c)) for c in captions]).float()


def warm_start(model: UNet2DConditionModel, folder: Path) -> None:
    """Copy what fits from the trained unCLIP decoder, and make the new parts change nothing.

    Its strided residual blocks become plain convolutions that start as their shortcuts: the mean
    of four pixels, and the nearest one. New transformers start silent.
    """
    old = unet.load(folder).state_dict()
    old["conv_out.weight"] = old["conv_out.weight"][: autoencoder.LATENT_CHANNELS]
    old["conv_out.bias"] = old["conv_out.bias"][: autoencoder.LATENT_CHANNELS]
    new = model.state_dict()
    skipped = ("attentions", "add_embedding")
    copied = {
        key: value
        for key, value in old.items()
        if key in new and value.shape == new[key].shape and not any(s in key for s in skipped)
    }
    model.load_state_dict(copied, strict=False)
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("samplers.0.conv"):
                module.weight.zero_()
                module.bias.zero_()
                side = torch.arange(module.in_channels)
                if ".downsamplers" in name:
                    module.weight[side, side, 1:, 1:] = 0.25
                else:
                    module.weight[side, side, 1, 1] = 1.0
            if name.endswith("proj_out"):
                module.weight.zero_()
                module.bias.zero_()
    print(json.dumps({"copied": sum(value.numel() for value in copied.values())}), flush=True)


def teach_pool(
    model: UNet2DConditionModel, folder: Path, source: Captioned, encoder: Encoder
) -> None:
    """Let the pooled text give what the unCLIP decoder's time embedding got from the picture."""
    teacher, pool = unet.load(folder).add_embedding, model.add_embedding
    optimizer = torch.optim.Adam(pool.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(7)
    for step in range(POOL_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / POOL_STEPS)
        picked = source.pick(POOL_BATCH, generator)
        states = encoder([source.write(view, generator) for view in picked.tolist()])
        with torch.no_grad():
            target = teacher(source.views.embeds[picked])
        loss = F.mse_loss(pool(states), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 40 == 0 or step == POOL_STEPS - 1:
            power = float(target.square().mean())
            row = {"pool": step, "loss": float(loss.detach()), "power": power}
            print(json.dumps(row), flush=True)


class Captioned:
    """Views drawn for this stage: more recoloured and coloured-background ones than unCLIP's."""

    def __init__(self, folder: Path) -> None:
        self.views = text.CaptionedViews(folder)
        self.views.caption.style_share = STYLE_SHARE
        table, keep = self.views.views, self.views.keep
        weights = self.views.weights.clone()
        chosen = torch.tensor([style in unet.MAIN_STYLES for style in sources.STYLES])
        weights[~chosen[table["style"][keep]]] *= 0.3
        weights[table["clean"][keep]] *= 3
        self.weights = weights

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Return row numbers of training views."""
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.views.keep[drawn]

    def write(self, view: int, generator: torch.Generator) -> str:
        """Return one caption of a view."""
        return self.views.write(view, generator)


def train(folder: Path, minutes: float) -> None:
    """Train on cached latents and captions made on the fly; some prompts are empty."""
    source, encoder = Captioned(folder), Encoder(text.load(folder))
    latents, noises = cache.load(folder), unet.scheduler()
    model = build().train()
    is_new = not (folder / "stable_diffusion.pt").exists()
    if is_new and not (folder / loop.SEEDS / "stable_diffusion.pt").exists():
        warm_start(model, folder)
        teach_pool(model, folder, source, encoder)
    model.set_attn_processor(AttnProcessor())
    nothing = encoder([""])
    generators: list[torch.Generator] = []

    def drop_pooled(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (states,) = inputs
        dropped = torch.rand(len(states), 1, 1, generator=generators[-1]) < POOL_DROPPED_SHARE
        return (torch.where(dropped, nothing, states),)

    model.add_embedding.register_forward_pre_hook(drop_pooled)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        generators[:] = [generator]
        picked = source.pick(BATCH, generator)
        dropped = (torch.rand(BATCH, generator=generator) < DROPPED_SHARE).tolist()
        captions = [
            "" if drop else source.write(view, generator)
            for view, drop in zip(picked.tolist(), dropped, strict=True)
        ]
        states = encoder(captions)
        clean = latents[picked].float()
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = noises.add_noise(clean, noise, times)
        velocity = noises.get_velocity(clean, noise, times)
        guess = model(noisy, times, states).sample
        return {"velocity": F.mse_loss(guess.float(), velocity)}

    training = loop.Training(
        name="stable_diffusion",
        folder=folder,
        minutes=minutes,
        learning_rate=1.2e-3,
        ema_decay=0.9985,
        muon=True,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> UNet2DConditionModel:
    """Return the trained U-Net, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "stable_diffusion"))
    return model
