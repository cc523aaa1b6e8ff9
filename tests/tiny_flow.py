"""Tiny random checkpoints of SD3 and FLUX, saved as the published ones are: see ``tiny``."""

import json

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from tiny import WIDTH, _clip_tokenizer, _random, _text_encoder

T5_WIDTH = 64
FLOW_CARD = {
    "prompt_template": "a picture of a {subject}",
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "height": 16,
    "width": 16,
    "decode_batch_size": 2,
    "max_sequence_length": 64,
}


def build_sd3(folder, *, t5=True, **scheduler):
    """Save an SD3 checkpoint, with or without its third text encoder."""
    torch.manual_seed(3)
    pipe = StableDiffusion3Pipeline(
        transformer=_sd3_transformer(),
        vae=_random(_flow_vae()),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        tokenizer=_clip_tokenizer(),
        text_encoder=_random(_text_encoder()),
        tokenizer_2=_clip_tokenizer(pad_token="!"),
        text_encoder_2=_random(_text_encoder(hidden_size=WIDTH // 2)),
        tokenizer_3=_t5_tokenizer() if t5 else None,
        text_encoder_3=_t5() if t5 else None,
    )
    pipe.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps(FLOW_CARD))
    return folder


def build_flux(folder, *, distilled=True):
    """Save a FLUX checkpoint of the form of dev (``distilled`` with guidance) or schnell."""
    torch.manual_seed(5)
    shifting = {"shift": 3.0, "use_dynamic_shifting": True} if distilled else {"shift": 1.0}
    pipe = FluxPipeline(
        transformer=_flux_transformer(distilled),
        vae=_random(_flow_vae()),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting),
        tokenizer=_clip_tokenizer(),
        text_encoder=_random(_text_encoder(CLIPTextModel)),
        tokenizer_2=_t5_tokenizer(),
        text_encoder_2=_t5(),
    )
    pipe.save_pretrained(folder)
    (folder / "card.json").write_text(json.dumps({**FLOW_CARD, "true_guidance_scale": 2.5}))
    return folder


def _sd3_transformer():
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    return _lively(transformer)


def _flux_transformer(distilled):
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=distilled,
        axes_dims_rope=(4, 4, 8),
    )
    return _lively(transformer)


@torch.no_grad()
def _lively(transformer):
    """Return it with every weight random: the library starts modulation near zero."""
    for name, weight in transformer.named_parameters():
        if weight.ndim > 1 and float(weight.std()) < 0.03:
            weight.normal_(std=weight.shape[1] ** -0.5)
        if name.startswith("context_embedder") and weight.ndim > 1:
            weight.mul_(4)  # text must show in the picture
    transformer.proj_out.weight.normal_(std=0.1)
    return _random(transformer)


def _flow_vae():
    """Return an autoencoder that says a shift; a pipeline of FLUX reads no other."""
    return AutoencoderKL(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        scaling_factor=0.5,
        shift_factor=0.3,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _t5_tokenizer():
    """Return a tokenizer that cuts words otherwise than CLIP's: ``pig`` is one piece here."""
    pieces = ["\u2581", *map(chr, range(97, 123)), ",", "\u2581pig", "\u2581a", "\u2581of"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocab += [(piece, -3.0 if len(piece) == 1 else -1.0) for piece in pieces]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def _t5():
    """Return a T5 encoder, its table with large numbers as in the published one."""
    config = T5Config(
        vocab_size=40,
        d_model=T5_WIDTH,
        d_kv=16,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        initializer_factor=1.0,
    )
    encoder = T5EncoderModel(config)
    with torch.no_grad():
        encoder.shared.weight.normal_(std=4.0)
    return encoder.eval()
