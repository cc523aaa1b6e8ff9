"""Measure what `offbeat/_memory.py` supposes of activations, on the published sizes.

    python tests/measure_activations.py

Networks and inputs are on torch's ``meta`` device: every operation is counted, none is computed, so
no weights and little memory are needed. Attention is taken as one that keeps no matrix.
"""

import torch
from diffusers import (
    AutoencoderKL,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    VQModel,
)

from peak import peak

CROSSED = "SimpleCrossAttn"


def empty(*shape):
    return torch.empty(*shape, device="meta")


def thrifty(query, key, value, *args, **settings):
    return torch.empty(*query.shape[:-1], value.shape[-1], device=query.device)


def built(kind, **config):
    with torch.device("meta"):
        return kind(**config).eval()


def unets():
    """Yield name, U-Net and what it is told for one picture."""
    yield "SD 1.5", built(UNet2DConditionModel, cross_attention_dim=768), 768, {}
    xl = built(
        UNet2DConditionModel,
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    )
    yield "SDXL", xl, 2048, {"text_embeds": empty(1, 1280), "time_ids": empty(1, 6)}
    kandinsky = built(
        UNet2DConditionModel,
        in_channels=4,
        out_channels=8,
        block_out_channels=(384, 768, 1152, 1536),
        layers_per_block=3,
        cross_attention_dim=768,
        encoder_hid_dim=1280,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
        down_block_types=("ResnetDownsampleBlock2D", *[f"{CROSSED}DownBlock2D"] * 3),
        mid_block_type=f"UNetMidBlock2D{CROSSED}",
        up_block_types=(*[f"{CROSSED}UpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    )
    yield "Kandinsky 2.2", kandinsky, None, {"image_embeds": empty(1, 1280)}


def autoencoders():
    """Yield name, autoencoder and the settings of its decoding."""
    plain = built(
        AutoencoderKL,
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        layers_per_block=2,
    )
    yield "AutoencoderKL", plain, {}
    movq = built(
        VQModel,
        block_out_channels=[128, 256, 256, 512],
        down_block_types=[*["DownEncoderBlock2D"] * 3, "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 3],
        latent_channels=4,
        layers_per_block=2,
        norm_type="spatial",
        num_vq_embeddings=16384,
        vq_embed_dim=4,
    )
    yield "MoVQ", movq, {"force_not_quantize": True}


def transformers(side):
    """Yield name, width, tokens, a transformer and its inputs; two layers hold as much as many."""
    tokens = (side // 2) ** 2
    flux = built(FluxTransformer2DModel, num_layers=2, num_single_layers=2, guidance_embeds=True)
    told = {
        "hidden_states": empty(1, tokens, 64),
        "timestep": empty(1),
        "guidance": empty(1),
        "pooled_projections": empty(1, 768),
        "encoder_hidden_states": empty(1, 512, 4096),
        "img_ids": empty(tokens, 3),
        "txt_ids": empty(512, 3),
    }
    yield "FLUX", 24 * 128, tokens + 512, flux, told
    sd3 = built(
        SD3Transformer2DModel,
        sample_size=128,
        num_layers=2,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        out_channels=16,
        pos_embed_max_size=192,
    )
    told = {
        "hidden_states": empty(1, 16, side, side),
        "timestep": empty(1),
        "pooled_projections": empty(1, 2048),
        "encoder_hidden_states": empty(1, 333, 4096),
    }
    yield "SD3", 24 * 64, tokens + 333, sd3, told


def main():
    torch.nn.functional.scaled_dot_product_attention = thrifty
    for name, unet, width, told in unets():
        states = None if width is None else empty(1, 77, width)
        for side in (64, 128):
            found = peak(
                lambda unet=unet, side=side, states=states, told=told: unet(
                    empty(1, 4, side, side),
                    torch.tensor(1.0, device="meta"),
                    encoder_hidden_states=states,
                    added_cond_kwargs=told,
                )
            )
            maps = found / (4 * side**2 * unet.config.block_out_channels[0])
            print(f"{name}, latents of {side}: {maps:.1f} maps of the first width")
    for name, vae, settings in autoencoders():
        for side in (64, 128):
            found = peak(
                lambda vae=vae, side=side, settings=settings: vae.decode(
                    empty(1, 4, side, side), **settings
                )
            )
            maps = found / (4 * (8 * side) ** 2 * vae.config.block_out_channels[0])
            print(f"{name}, pictures of {8 * side}: {maps:.1f} maps of the first width")
    for side in (64, 128):
        for name, width, tokens, model, told in transformers(side):
            found = peak(lambda model=model, told=told: model(**told), buffers=model.buffers())
            vectors = found / (4 * width * tokens)
            print(f"{name}, latents of {side}: {vectors:.1f} vectors for each token")


if __name__ == "__main__":
    main()
