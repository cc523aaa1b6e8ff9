"""Tiny random checkpoints of the models that metrics read, saved as the published ones are."""

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import tiny

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 12,
    "initializer_range": 0.2,
}


def clip(**settings):
    """Return a random CLIP; its text tower has the published ``eos_token_id: 2``."""
    torch.manual_seed(11)
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**TOWER, "vocab_size": 514, **special, **settings},
        vision_config={**TOWER, "image_size": 16, "patch_size": 8, **settings},
        projection_dim=12,
    )
    return tiny._random(CLIPModel(config).requires_grad_(False))


def build_clip(folder, model=None, *, weights=True):
    """Save a CLIP with its tokenizer and image processor, as on the hub."""
    model = model or clip()
    (model if weights else model.config).save_pretrained(folder)
    tiny._clip_tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder
