"""Models that learned from people, on tiny weights of the published names, against plain sums."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional

import tiny_metrics
from offbeat.errors import CheckpointError, UnsafeWeightsError
from offbeat.metrics import aesthetics
from offbeat.metrics.encoders import ClipEncoder
from offbeat.metrics.imagereward import ImageReward

TEXTS = ["a cat", "a red frog", "two owls", "a cat", "bee", "x"]
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def pixels_of(picture, resized, cropped, resample, mean=(0, 0, 0), std=(1, 1, 1)):
    """Return a picture as Pillow resizes it, cropped in the middle."""
    pil = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())
    scale = resized / min(pil.size)
    pil = pil.resize([int(side * scale) for side in pil.size], resample)
    left, top = ((side - cropped) // 2 for side in pil.size)
    pil = pil.crop((left, top, left + cropped, top + cropped))
    values = (np.asarray(pil, dtype=np.float32) / 255 - mean) / std
    return torch.from_numpy(values).permute(2, 0, 1).float()


@pytest.mark.parametrize("version", [1, 2])
def test_aesthetic_is_the_layers_on_the_unit_embedding(version, tmp_path, pictures):
    folder = tiny_metrics.build_aesthetic(tmp_path / "head", version)
    kind = aesthetics.AestheticV1 if version == 1 else aesthetics.AestheticV2
    found = kind.load(folder).score(pictures)
    state = functional.normalize(ClipEncoder.load(folder / "clip").image_embeds(pictures), dim=-1)
    weights = load_file(folder / "head.safetensors")
    for place in (
        ("",) if version == 1 else ("layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7.")
    ):
        state = state @ weights[f"{place}weight"].T + weights[f"{place}bias"]
    assert found.name == f"aesthetic_v{version}[head]"
    assert found.checkpoint.partition(" on ")[2].startswith("clip@")
    assert found.values == pytest.approx(state[:, 0].tolist(), abs=1e-5)


def test_nima_is_the_mean_of_what_a_vgg_expects(tmp_path, pictures):
    folder = tiny_metrics.build_nima(tmp_path / "nima")
    weights = load_file(folder / "nima.safetensors")
    x = torch.stack([pixels_of(p, 256, 224, Image.Resampling.BILINEAR) for p in pictures])
    for place in range(31):
        if place in tiny_metrics.CONVOLUTIONS:
            x = functional.conv2d(
                x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], padding=1
            )
            x = x.relu()
        elif place in (4, 9, 16, 23, 30):
            x = functional.max_pool2d(x, 2)
    logits = functional.linear(
        x.flatten(1), weights["classifier.1.weight"], weights["classifier.1.bias"]
    )
    expected = (logits.softmax(-1) * torch.arange(1, 11)).sum(-1)
    found = aesthetics.Nima.load(folder).score(pictures)
    assert found.name == "nima[nima]"
    assert found.values == pytest.approx(expected.tolist(), abs=1e-4)
    assert all(1 <= value <= 10 for value in found.values)
    assert expected.std() > 1e-3


def attended(x, y, weights, query, key, value, heads, mask=None):
    """Return plain multi-head attention of ``x`` to ``y``, before its output layer."""
    q, k, v = (
        functional.linear(of, *part).unflatten(-1, (heads, -1)).transpose(0, 1)
        for of, part in ((x, query), (y, key), (y, value))
    )
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def reward_by_hand(weights, picture, text):
    """Return ImageReward's value of one picture, layer by layer, under the published names."""

    def pair(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def norm(x, name, eps):
        return functional.layer_norm(x, x.shape[-1:], *pair(name), eps=eps)

    see, say = "blip.visual_encoder.", "blip.text_encoder."
    pixels = pixels_of(picture, 16, 16, Image.Resampling.BICUBIC, CLIP_MEAN, CLIP_STD)
    patches = functional.conv2d(pixels[None], *pair(f"{see}patch_embed.proj"), stride=8)
    x = torch.cat([weights[f"{see}cls_token"][0], patches[0].flatten(1).T])
    x = x + weights[f"{see}pos_embed"][0]
    for layer in range(tiny_metrics.DEEP):
        block = f"{see}blocks.{layer}."
        y = norm(x, f"{block}norm1", 1e-6)
        q, k, v = zip(*(part.chunk(3) for part in pair(f"{block}attn.qkv")), strict=True)
        x = x + functional.linear(attended(y, y, weights, q, k, v, 1), *pair(f"{block}attn.proj"))
        y = functional.linear(norm(x, f"{block}norm2", 1e-6), *pair(f"{block}mlp.fc1"))
        x = x + functional.linear(functional.gelu(y), *pair(f"{block}mlp.fc2"))
    seen = norm(x, f"{see}norm", 1e-6)
    ids = [2, *text_ids(text), 3]
    mask = torch.arange(35) < len(ids)
    ids = torch.tensor(ids + [0] * (35 - len(ids)))
    x = weights[f"{say}embeddings.word_embeddings.weight"][ids]
    x = x + weights[f"{say}embeddings.position_embeddings.weight"][:35]
    x = norm(x, f"{say}embeddings.LayerNorm", 1e-12)
    for layer in range(tiny_metrics.DEEP):
        block = f"{say}encoder.layer.{layer}."
        for kind, y, seen_by in (("attention", x, mask), ("crossattention", seen, None)):
            y = x if kind == "attention" else seen
            parts = [pair(f"{block}{kind}.self.{part}") for part in ("query", "key", "value")]
            out = attended(x, y, weights, *parts, 3, seen_by)
            out = functional.linear(out, *pair(f"{block}{kind}.output.dense"))
            x = norm(out + x, f"{block}{kind}.output.LayerNorm", 1e-12)
        y = functional.gelu(functional.linear(x, *pair(f"{block}intermediate.dense")))
        y = functional.linear(y, *pair(f"{block}output.dense"))
        x = norm(y + x, f"{block}output.LayerNorm", 1e-12)
    state = x[0]
    for place in (0, 2, 4, 6, 7):
        state = functional.linear(state, *pair(f"mlp.layers.{place}"))
    return (float(state) - 0.16717362830052426) / 1.0333394966054072


def text_ids(text):
    """Return the ids of a tokenizer that knows words of one letter alone."""
    return [5 + ord(word) - 97 if len(word) == 1 else 1 for word in text.split()]


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory):
    return tiny_metrics.build_imagereward(tmp_path_factory.mktemp("reward") / "ImageReward")


def test_imagereward_is_the_published_sum(reward_folder, pictures):
    weights = tiny_metrics.imagereward_weights()
    texts = ["a c a t", "x", "b c d", "word a", "e", "f g h i j"]
    expected = [reward_by_hand(weights, p, t) for p, t in zip(pictures, texts, strict=True)]
    found = ImageReward.load(reward_folder).score(pictures, texts=texts)
    assert found.name == "imagereward[ImageReward]"
    assert found.values == pytest.approx(expected, abs=1e-4)
    assert np.std(expected) > 0.02
    alone = ImageReward.load(reward_folder).score(pictures[2:3], texts=texts[2:3])
    assert alone.values[0] == pytest.approx(found.values[2], abs=1e-5)


def test_weights_of_another_model_are_refused(reward_folder, tmp_path):
    weights = load_file(reward_folder / "ImageReward.safetensors")
    (tmp_path / "med_config.json").write_text(json.dumps(tiny_metrics.MED))
    renamed = {name.replace("crossattention", "cross"): weights[name] for name in weights}
    save_file(renamed, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="looks at pictures"):
        ImageReward.load(tmp_path)
    del weights["blip.visual_encoder.blocks.1.norm2.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"missing, such as encoder\.layers\.1\.layer_norm2"):
        ImageReward.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"features\.0\.weight is missing"):
        aesthetics.Nima.load(tmp_path)
    save_file({"a.b": torch.zeros(2)}, tmp_path / "a.safetensors")
    tiny_metrics.build_clip(tmp_path / "clip")
    with pytest.raises(CheckpointError, match="layers of a head"):
        aesthetics.AestheticV2.load(tmp_path)


@pytest.mark.parametrize(
    "kind", [aesthetics.AestheticV1, aesthetics.AestheticV2, aesthetics.Nima, ImageReward]
)
def test_what_learned_from_people_has_no_stand_in(kind, tmp_path):
    with pytest.raises(CheckpointError, match="no backbone's own encoders can stand in"):
        kind.load()
    (tmp_path / "published.pth").write_bytes(b"")
    with pytest.raises(UnsafeWeightsError, match=r"published\.pth"):
        kind.load(tmp_path)
