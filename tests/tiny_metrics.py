"""Tiny random checkpoints of the models that metrics read, saved as the published ones are."""

import json

import torch
from safetensors.torch import save_file
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


def clip(text=None, **settings):
    """Return a random CLIP; its text tower has the published ``eos_token_id: 2``."""
    torch.manual_seed(11)
    special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**TOWER, "vocab_size": 514, **special, **settings, **(text or {})},
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


def build_aesthetic(folder, version):
    """Save a head of LAION aesthetics under its published names, with a tiny CLIP below."""
    noise = torch.Generator().manual_seed(version)
    if version == 1:
        shapes = {"": (1, 12)}
    else:
        sizes = [12, 10, 8, 6, 4, 1]
        places = (0, 2, 4, 6, 7)  # dropouts stand between the first four
        shapes = {f"layers.{place}.": (sizes[i + 1], sizes[i]) for i, place in enumerate(places)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"{name}weight"] = torch.randn(*shape, generator=noise)
        weights[f"{name}bias"] = torch.randn(shape[0], generator=noise)
    build_clip(folder / "clip")
    save_file(weights, folder / "head.safetensors")
    return folder


CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


def build_nima(folder):
    """Save a VGG-16 of 3 to 5 channels with a classifier over ten ratings."""
    noise = torch.Generator().manual_seed(3)
    widths = [3, *(3 + place % 3 for place in range(len(CONVOLUTIONS)))]
    weights = {}
    for index, place in enumerate(CONVOLUTIONS):
        shape = (widths[index + 1], widths[index], 3, 3)
        weights[f"features.{place}.weight"] = 0.4 * torch.randn(*shape, generator=noise)
        weights[f"features.{place}.bias"] = 0.1 * torch.randn(shape[0], generator=noise)
    weights["classifier.1.weight"] = torch.randn(10, 49 * widths[-1], generator=noise)
    weights["classifier.1.bias"] = torch.randn(10, generator=noise)
    folder.mkdir()
    save_file(weights, folder / "nima.safetensors")
    return folder


SEEN, SAID, DEEP, VOCABULARY = 16, 12, 2, 40
MED = {
    "hidden_size": SAID,
    "intermediate_size": 20,
    "num_attention_heads": 3,
    "num_hidden_layers": DEEP,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 40,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "architectures": ["BertModel"],
    "encoder_width": 768,
    "add_cross_attention": True,
}


def imagereward_weights():
    """Return random weights under the names and of the parts of ImageReward's published file."""
    noise = torch.Generator().manual_seed(4)
    weights = {}

    def put(name, *shape, centre=0.0):
        weights[name] = centre + 0.5 * torch.randn(*shape, generator=noise)

    def linear(name, wide, narrow):
        put(f"{name}.weight", wide, narrow)
        put(f"{name}.bias", wide)

    def norm(name, wide):
        put(f"{name}.weight", wide, centre=1.0)
        put(f"{name}.bias", wide)

    see = "blip.visual_encoder."
    put(f"{see}cls_token", 1, 1, SEEN)
    put(f"{see}pos_embed", 1, 5, SEEN)
    put(f"{see}patch_embed.proj.weight", SEEN, 3, 8, 8)
    put(f"{see}patch_embed.proj.bias", SEEN)
    norm(f"{see}norm", SEEN)
    for layer in range(DEEP):
        block = f"{see}blocks.{layer}."
        norm(f"{block}norm1", SEEN)
        norm(f"{block}norm2", SEEN)
        linear(f"{block}attn.qkv", 3 * SEEN, SEEN)
        linear(f"{block}attn.proj", SEEN, SEEN)
        linear(f"{block}mlp.fc1", 24, SEEN)
        linear(f"{block}mlp.fc2", SEEN, 24)
    say = "blip.text_encoder."
    weights[f"{say}embeddings.position_ids"] = torch.arange(40).expand(1, -1).contiguous()
    put(f"{say}embeddings.word_embeddings.weight", VOCABULARY, SAID)
    put(f"{say}embeddings.position_embeddings.weight", 40, SAID)
    norm(f"{say}embeddings.LayerNorm", SAID)
    for layer in range(DEEP):
        block = f"{say}encoder.layer.{layer}."
        for kind, wide in (("attention", SAID), ("crossattention", SEEN)):
            linear(f"{block}{kind}.self.query", SAID, SAID)
            linear(f"{block}{kind}.self.key", SAID, wide)
            linear(f"{block}{kind}.self.value", SAID, wide)
            linear(f"{block}{kind}.output.dense", SAID, SAID)
            norm(f"{block}{kind}.output.LayerNorm", SAID)
        linear(f"{block}intermediate.dense", 20, SAID)
        linear(f"{block}output.dense", SAID, 20)
        norm(f"{block}output.LayerNorm", SAID)
    linear("blip.vision_proj", 6, SEEN)
    linear("blip.text_proj", 6, SAID)
    sizes = [SAID, 10, 8, 6, 4, 1]
    for index, place in enumerate((0, 2, 4, 6, 7)):
        linear(f"mlp.layers.{place}", sizes[index + 1], sizes[index])
    return weights


def build_imagereward(folder):
    """Save those weights beside their configuration and a tokenizer of letters."""
    folder.mkdir()
    save_file(imagereward_weights(), folder / "ImageReward.safetensors")
    (folder / "med_config.json").write_text(json.dumps(MED))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(97, 123))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder
