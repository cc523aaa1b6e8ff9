"""Tiny random checkpoints of flow models with a language model: see ``tiny``."""

import json

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKLQwenImage,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from tiny import _random
from tiny_flow import FLOW_CARD, T5_WIDTH, _flow_vae, _lively, _t5, _t5_tokenizer

LM_WIDTH = 32
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_language(folder, kind):
    """Save a checkpoint of a kind: ``chroma``, ``z-image``, ``qwen-image`` or ``sana``."""
    torch.manual_seed(11)
    pipe = {"chroma": _chroma, "z-image": _z_image, "qwen-image": _qwen_image, "sana": _sana}[
        kind
    ]()
    pipe.save_pretrained(folder)
    # templates are long where every byte is a token
    length = {"qwen-image": 300, "z-image": 160}.get(kind, 96)
    card = {**FLOW_CARD, "max_sequence_length": length}
    if kind == "sana":
        card |= {"height": 32, "width": 32}
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def _chroma():
    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return ChromaPipeline(
        transformer=_lively(transformer),
        vae=_random(_flow_vae()),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=_t5_tokenizer(),
        text_encoder=_t5(),
    )


def _z_image():
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=LM_WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "pad_token" in name:
                weight.normal_(std=0.2)
            elif name.startswith("cap_embedder") and weight.ndim > 1:
                weight.normal_(std=4 * weight.shape[1] ** -0.5)
            elif "final_layer.linear.weight" in name:
                weight.normal_(std=0.1)
    settings = {"vocab_size": 300, "tie_word_embeddings": False}
    return ZImagePipeline(
        transformer=_random(transformer),
        vae=_random(_flow_vae()),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=_byte_tokenizer(),
        text_encoder=_random(Qwen3Model(Qwen3Config(**_lm(), **settings, head_dim=16))),
    )


def _qwen_image():
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=LM_WIDTH,
        axes_dims_rope=(8, 4, 4),
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "add_v_proj.weight" in name:  # a prompt must show beside the long template
                weight.mul_(12)
        transformer.proj_out.weight.normal_(std=0.1)
    config = Qwen2_5_VLConfig(
        text_config={
            **_lm(),
            "vocab_size": 300,
            "rope_parameters": {
                "mrope_section": [2, 3, 3], "rope_type": "default", "rope_theta": 1e6,
            },
        },
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": LM_WIDTH,
        },
        image_token_id=297, video_token_id=298, vision_start_token_id=296, vision_end_token_id=295,
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=24, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[1.1, 0.9, 1.0, 1.3],
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=_random(transformer),
        vae=_random(vae),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        tokenizer=_byte_tokenizer(),
        text_encoder=_random(Qwen2_5_VLForConditionalGeneration(config)),
    )


def _sana():
    transformer = SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=LM_WIDTH,
        sample_size=16,
    )
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if name.startswith("caption_projection") and weight.ndim > 1:
                weight.mul_(6)
        transformer.proj_out.weight.normal_(std=0.2)
    vae = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        transformer=_random(transformer),
        vae=_random(vae),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        tokenizer=_gemma_tokenizer(),
        text_encoder=_random(Gemma2Model(Gemma2Config(**_lm(), vocab_size=120, head_dim=16))),
    )


def _lm():
    return {
        "hidden_size": LM_WIDTH,
        "intermediate_size": 37,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "initializer_range": 0.2,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }


def _byte_tokenizer():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    for word in SPECIAL:
        vocab[word] = len(vocab)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[], additional_special_tokens=SPECIAL[1:])
    tokenizer.chat_template = CHAT
    return tokenizer


def _gemma_tokenizer():
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", *map(chr, range(33, 127)), "\n"]
    return GemmaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
