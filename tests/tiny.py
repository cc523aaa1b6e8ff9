"""Tiny random checkpoints of Kandinsky and Stable Diffusion, saved as the published ones are.

Every weight is random, those that the library starts at zero too: a part that is left out or put
in the wrong place must show. The text configuration has the published ``eos_token_id: 2``.
"""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    LCMScheduler,
    PNDMScheduler,
    PriorTransformer,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
    UnCLIPScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    VQModel,
)
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from safetensors.torch import save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    XLMRobertaTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

ROOT = Path(__file__).parent.parent
WIDTH = 32
CARD = {
    "prompt_template": "a picture of a {subject}",
    "prior_num_inference_steps": 3,
    "num_inference_steps": 3,
    "height": 32,
    "width": 32,
    "decode_batch_size": 2,
}


def pocket_pipeline():
    """Return pocket's second form as the pipeline of diffusers: the encoders lie in ``prior/``."""
    folder = ROOT / "src" / "offbeat" / "pocket"
    kinds = {
        "text_encoder": CLIPTextModel,
        "image_encoder": CLIPVisionModelWithProjection,
        "tokenizer": CLIPTokenizer,
    }
    parts = {
        name: kind.from_pretrained(folder / "prior" / name, local_files_only=True)
        for name, kind in kinds.items()
    }
    pipe = StableDiffusionPipeline.from_pretrained(
        folder / "stable_diffusion", **parts, local_files_only=True
    )
    pipe.to(dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def build(folder, version):
    """Save a checkpoint of version ``2.1`` or ``2.2`` with ``prior/`` and ``decoder/``."""
    torch.manual_seed(int(version[-1]))
    prior_class = KandinskyV22PriorPipeline if version == "2.2" else KandinskyPriorPipeline
    prior_class(
        prior=_random(
            PriorTransformer(
                num_attention_heads=2, attention_head_dim=12, num_layers=2, embedding_dim=WIDTH
            )
        ),
        text_encoder=_random(_text_encoder()),
        image_encoder=_random(_image_encoder()),
        tokenizer=_clip_tokenizer(),
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
        ),
        image_processor=CLIPImageProcessorPil(size=16, crop_size=16),
    ).save_pretrained(folder / "prior")
    parts = {"unet": _unet(version), "movq": _random(_movq()), "scheduler": _decoder_scheduler()}
    if version == "2.2":
        KandinskyV22Pipeline(**parts).save_pretrained(folder / "decoder")
    else:
        text = {"tokenizer": _xlm_tokenizer(), "text_encoder": _random(_multilingual())}
        KandinskyPipeline(**parts, **text).save_pretrained(folder / "decoder")
    (folder / "card.json").write_text(json.dumps(CARD))
    return folder


SCHEDULERS = {
    "ddim": lambda **kw: DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **kw),
    "pndm": lambda **kw: PNDMScheduler(skip_prk_steps=True, **kw),
    "euler": EulerDiscreteScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler-a": EulerAncestralDiscreteScheduler,
}


def build_sd(folder, form, *, scheduler="ddim", prediction="epsilon", adapter=True, **unet):
    """Save a checkpoint of form ``sd`` or ``xl``, with an IP-Adapter beside the U-Net."""
    torch.manual_seed(7)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    parts = {
        "unet": _sd_unet(form, **unet),
        "vae": _random(_vae()),
        "scheduler": SCHEDULERS[scheduler](steps_offset=1, prediction_type=prediction, **betas),
        "tokenizer": _clip_tokenizer(),
        "text_encoder": _random(_text_encoder(CLIPTextModel)),
        "image_encoder": _random(_image_encoder()) if adapter else None,
        "feature_extractor": CLIPImageProcessorPil(size=16, crop_size=16),
    }
    if form == "sd":
        pipe = StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    else:
        parts["tokenizer_2"] = _clip_tokenizer(pad_token="!")
        parts["text_encoder_2"] = _random(_text_encoder(hidden_size=WIDTH // 2))
        pipe = StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=True)
    pipe.save_pretrained(folder)
    if adapter:
        (folder / "ip_adapter").mkdir()
        save_file(_ip_adapter(parts["unet"]), folder / "ip_adapter" / "ip_adapter.safetensors")
    (folder / "card.json").write_text(json.dumps(SD_CARD))
    return folder


def build_one_step(folder):
    """Save a model of SD 1.5's form that draws in one step, with CLIP's towers beside it."""
    build_sd(folder, "sd", scheduler="lcm")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    with torch.no_grad():  # one step must show what the text says, beside what the noise does
        for name, weight in unet.named_parameters():
            if name.endswith(("attn2.to_v.weight", "attn2.to_out.0.weight")):
                weight.mul_(8)
        unet.conv_out.weight.mul_(20)
    for name, module in (
        ("unet", unet),
        ("text_encoder", _random(_text_encoder())),
        ("image_encoder", _random(_image_encoder())),
    ):
        module.save_pretrained(folder / name)
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModelWithProjection"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "card.json").write_text(json.dumps({**SD_CARD, **ONE_STEP_CARD}))
    return folder


def save_clip(place, width=WIDTH):
    """Save a whole CLIP model, as it is published."""
    text, vision = (
        {**module.config.to_dict(), "projection_dim": width}
        for module in (_text_encoder(), _image_encoder())
    )
    torch.manual_seed(2)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)
    CLIPModel(config).eval().save_pretrained(place)
    _clip_tokenizer().save_pretrained(place)
    CLIPImageProcessorPil(size=16, crop_size=16).save_pretrained(place)
    return place


ONE_STEP_CARD = {
    "form": "one-step",
    "num_inference_steps": 1,
    "guidance_scale": 0.0,
    "decode_batch_size": 20,
}


SD_CARD = {
    "prompt_template": "a picture of a {subject}",
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "decode_batch_size": 2,
}


def _sd_unet(form, **settings):
    told = {"cross_attention_dim": WIDTH}
    if form == "xl":
        told = {
            "cross_attention_dim": WIDTH + WIDTH // 2,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": WIDTH + 6 * 8,
            "use_linear_projection": True,
        }
    unet = _random(
        UNet2DConditionModel(
            sample_size=8,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            attention_head_dim=4,
            **{"in_channels": 4, **told, **settings},
        )
    )
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.2)  # as in the unCLIP decoder below
        for name, weight in unet.named_parameters():
            if "attn2.to_v" in name:  # text must show in the picture
                weight.mul_(10)
    return unet


def _vae():
    return AutoencoderKL(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        scaling_factor=0.5,
    )


def _ip_adapter(unet):
    """Return an adapter's weights in the names of its authors."""
    width = unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * width, WIDTH) * WIDTH**-0.5,
        "image_proj.proj.bias": torch.randn(4 * width) * 0.2,
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.randn(width) * 0.2,
    }
    crossed = [m for n, m in unet.named_modules() if n.endswith("attn2")]
    for number, attention in enumerate(crossed):
        for part in ("k", "v"):
            name = f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"
            scale = {"k": 1, "v": 3}[part] * width**-0.5
            tensors[name] = torch.randn(attention.to_k.weight.shape) * scale
    return tensors


@torch.no_grad()
def _random(module):
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2 or "embedding" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    for name in ("clip_mean", "clip_std"):
        if hasattr(module, name):
            getattr(module, name).copy_(torch.rand(1, WIDTH) + 0.5)
    return module.eval()


def _text_encoder(kind=CLIPTextModelWithProjection, hidden_size=WIDTH):
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=hidden_size,
        projection_dim=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return kind(config)


def _image_encoder():
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        image_size=16,
        patch_size=8,
        initializer_range=0.2,
    )
    return CLIPVisionModelWithProjection(config)


def _clip_tokenizer(**settings):
    """Return a tokenizer of single bytes; as in the published one, the end has the largest id."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {word: index for index, word in enumerate(words)}
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = 512, 513
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77, **settings)


def _xlm_tokenizer():
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *map(chr, range(97, 123)), "<mask>"]
    return XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces], model_max_length=77)


def _multilingual():
    config = MCLIPConfig(
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=64,
        max_position_embeddings=90,
        initializer_range=0.2,
    )
    return MultilingualCLIP(config)


def _unet(version):
    told = {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj"}
    if version == "2.1":
        told = {
            "addition_embed_type": "text_image",
            "encoder_hid_dim_type": "text_image_proj",
            "addition_embed_type_num_heads": 4,
        }
    unet = _random(
        UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(32, 64),
            layers_per_block=1,
            encoder_hid_dim=WIDTH,
            cross_attention_dim=WIDTH,
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
            **told,
        )
    )
    # a raw random network blows rounding up from step to step, more than a trained one does
    with torch.no_grad():
        unet.conv_out.weight.mul_(0.2)
    return unet


def _movq():
    return VQModel(
        block_out_channels=[32, 64],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
        latent_channels=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def _decoder_scheduler():
    return DDIMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=0,
        prediction_type="epsilon",
        thresholding=False,
    )
