"""Tiny random checkpoints of the Kandinsky family, saved as the published ones are.

Every weight is random, those that the library starts at zero too: a part that is left out or put
in the wrong place must show. The text configuration has the published ``eos_token_id: 2``.
"""

import json

import torch
from diffusers import (
    DDIMScheduler,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    XLMRobertaTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

WIDTH = 32
CARD = {
    "prompt_template": "a picture of a {subject}",
    "prior_num_inference_steps": 3,
    "num_inference_steps": 3,
    "height": 32,
    "width": 32,
    "decode_batch_size": 2,
}


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


@torch.no_grad()
def _random(module):
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2 or "embedding" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    for name in ("clip_mean", "clip_std"):
        if hasattr(module, name):
            getattr(module, name).copy_(torch.rand(1, WIDTH) + 0.5)
    return module.eval()


def _text_encoder():
    config = CLIPTextConfig(
        vocab_size=514,
        hidden_size=WIDTH,
        projection_dim=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return CLIPTextModelWithProjection(config)


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


def _clip_tokenizer():
    """Return a tokenizer of single bytes; as in the published one, the end has the largest id."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {word: index for index, word in enumerate(words)}
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = 512, 513
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


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
