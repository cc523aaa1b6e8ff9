import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny_metrics
from offbeat.errors import (
    CapabilityError,
    CheckpointError,
    ImageError,
    PromptError,
    UnsafeWeightsError,
)
from offbeat.metrics import ClipEncoder, SharedEncoder, similarity
from offbeat.metrics.open_clip import to_transformers

TEXTS = ["a red cat", "a dog", "a bee on a leaf", "a cat", "an owl", "a frog"]


def by_hand(model, pictures, texts):
    """Return cosines by the towers' parts, with Pillow's own resizing: nothing of ours."""

    pixels = []
    for picture in pictures:
        pil = Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())
        scale = 16 / min(pil.size)
        pil = pil.resize([int(side * scale) for side in pil.size], Image.Resampling.BICUBIC)
        left, top = ((side - 16) // 2 for side in pil.size)
        values = np.asarray(pil.crop((left, top, left + 16, top + 16)), dtype=np.float32) / 255
        mean = [0.48145466, 0.4578275, 0.40821073]
        std = [0.26862954, 0.26130258, 0.27577711]
        pixels.append(torch.from_numpy((values - mean) / std).permute(2, 0, 1).float())
    with torch.no_grad():
        seen = (
            model.vision_model(torch.stack(pixels)).pooler_output @ model.visual_projection.weight.T
        )
        rows = []
        for text in texts:
            ids = [512, *text_ids(text), 513]
            states = model.text_model(torch.tensor([ids])).last_hidden_state
            rows.append(states[0, -1] @ model.text_projection.weight.T)
    said = torch.stack(rows)
    return (seen * said).sum(1) / seen.norm(dim=1) / said.norm(dim=1)


def text_ids(text):
    """Return the ids of a tokenizer of single bytes: the last letter of a word has its own."""
    import tiny

    vocab = tiny._clip_tokenizer().get_vocab()
    return [
        vocab[letter + "</w>" if place == len(word) - 1 else letter]
        for word in text.split()
        for place, letter in enumerate(word)
    ]


@pytest.fixture(scope="module")
def model():
    return tiny_metrics.clip()


def test_cosines_are_those_of_the_towers_by_hand(clip_folder, pictures, model):
    expected = by_hand(model, pictures, TEXTS)
    found = similarity.ClipT.load(clip_folder).score(pictures, texts=TEXTS)
    assert found.name == "clip_t[tiny-clip]"
    assert found.checkpoint.startswith("tiny-clip@")
    assert found.values == pytest.approx(expected.tolist(), abs=1e-4)
    pick = similarity.PickScore.load(clip_folder).score(pictures, texts=TEXTS)
    scale = float(model.logit_scale.exp())
    assert pick.values == pytest.approx((scale * expected).tolist(), abs=2e-3)
    clipscore = similarity.ClipScore.load(clip_folder).score(pictures, texts=TEXTS)
    assert clipscore.values == pytest.approx((2.5 * expected.clamp_min(0)).tolist(), abs=3e-4)
    assert expected.std() > 0.02  # the comparison says something


def test_a_picture_three_pixels_high_is_read_the_right_way(clip_folder, model):
    low = torch.rand(3, 3, 40, generator=torch.Generator().manual_seed(9))
    found = similarity.ClipT.load(clip_folder).score([low], texts=["a cat"])
    assert found.values == pytest.approx(by_hand(model, [low], ["a cat"]).tolist(), abs=1e-4)


def to_open_clip(weights):
    """Return weights of transformers' names in open_clip's, written out apart from the map."""
    found = {
        "logit_scale": weights["logit_scale"],
        "text_projection": weights["text_projection.weight"].T,
        "visual.proj": weights["visual_projection.weight"].T,
        "token_embedding.weight": weights["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": weights["text_model.embeddings.position_embedding.weight"],
        "visual.class_embedding": weights["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": weights["vision_model.embeddings.position_embedding.weight"],
        "visual.conv1.weight": weights["vision_model.embeddings.patch_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = weights[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = weights[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = weights[f"text_model.final_layer_norm.{kind}"]
        for tower, ours in (("visual.", "vision_model"), ("", "text_model")):
            for layer in (0, 1):
                there = f"{tower}transformer.resblocks.{layer}."
                here = f"{ours}.encoder.layers.{layer}."
                joined = [weights[f"{here}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{there}attn.in_proj_{kind}"] = torch.cat(joined)
                found[f"{there}attn.out_proj.{kind}"] = weights[f"{here}self_attn.out_proj.{kind}"]
                found[f"{there}ln_1.{kind}"] = weights[f"{here}layer_norm1.{kind}"]
                found[f"{there}ln_2.{kind}"] = weights[f"{here}layer_norm2.{kind}"]
                found[f"{there}mlp.c_fc.{kind}"] = weights[f"{here}mlp.fc1.{kind}"]
                found[f"{there}mlp.c_proj.{kind}"] = weights[f"{here}mlp.fc2.{kind}"]
    return {name: weight.contiguous() for name, weight in found.items()}


@pytest.fixture(scope="module")
def hps_folder(tmp_path_factory, clip_folder):
    """HPSv2 as published, in safetensors, beside the configuration of the same CLIP."""
    folder = tmp_path_factory.mktemp("hps") / "HPSv2"
    tiny_metrics.build_clip(folder, weights=False)
    weights = to_open_clip(load_file(clip_folder / "model.safetensors"))
    save_file(weights, folder / "HPS_v2.1_compressed.safetensors")
    return folder


def test_open_clips_names_hold_the_same_model(hps_folder, clip_folder, pictures):
    ours = load_file(clip_folder / "model.safetensors")
    mapped = to_transformers(to_open_clip(ours))
    assert mapped.keys() == ours.keys()
    assert all(torch.equal(mapped[name], ours[name]) for name in ours)
    found = similarity.ClipT.load(hps_folder).score(pictures, texts=TEXTS)
    plain = similarity.ClipT.load(clip_folder).score(pictures, texts=TEXTS)
    assert found.values == plain.values
    assert similarity.Hpsv2.load(hps_folder).name == "hpsv2[HPSv2]"


def test_incomplete_or_foreign_weights_are_refused(hps_folder, tmp_path):
    weights = load_file(hps_folder / "HPS_v2.1_compressed.safetensors")
    tiny_metrics.build_clip(tmp_path, weights=False)
    del weights["visual.ln_pre.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are missing, such as .*pre_layrnorm\.bias"):
        similarity.Hpsv2.load(tmp_path)
    weights["visual.ln_pre.bias"] = torch.zeros(16)
    save_file({**weights, "score_head.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are left over, such as score_head\.weight"):
        similarity.Hpsv2.load(tmp_path)
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "HPS_v2_compressed.pt").write_bytes(b"")
    with pytest.raises(UnsafeWeightsError, match="HPS_v2_compressed"):
        similarity.Hpsv2.load(tmp_path)
    with pytest.raises(CheckpointError, match="no-such"):
        similarity.ClipT.load(tmp_path / "no-such")


def test_on_a_backbone_the_name_says_so(pocket):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = similarity.ClipT.load(backbone=pocket).score(images, texts=["a picture of a cat"])
    embeds = pocket.encode_image(images), pocket.encode_text(["a picture of a cat"]).text_embeds
    expected = torch.nn.functional.cosine_similarity(*embeds)
    assert found.name == "clip_t[pocket]"
    assert found.checkpoint == f"pocket@{pocket.fingerprint[:8]}"
    assert found.values == pytest.approx(expected.tolist(), abs=1e-5)
    pick = similarity.PickScore.load(backbone=pocket).score(images, texts=["a picture of a cat"])
    assert pick.values == pytest.approx((100 * expected).tolist(), abs=1e-3)
    assert "learned nothing of what people prefer" in pick.note


def test_a_backbone_that_sees_nothing_is_refused(pocket):
    class Blind:
        name, fingerprint = "blind", "0" * 16
        encode_text = token_embed = token_embeds = num_tokens = None

    with pytest.raises(CapabilityError, match="blind has none"):
        similarity.ClipT.load(backbone=Blind())


def test_references_of_clip_i_are_averaged(clip_folder, pictures):
    metric = similarity.ClipI.load(clip_folder)
    both = metric.score(pictures, references=pictures[:2]).values
    one, two = (metric.score(pictures, references=[picture]).values for picture in pictures[:2])
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(one, two, strict=True)], abs=1e-6)
    assert one[0] == pytest.approx(1)
    with pytest.raises(ImageError, match="references: expected at least 1 picture, got 0"):
        metric.score(pictures)


def test_direction_is_that_of_the_change(clip_folder, pictures):
    metric = similarity.ClipDirectional.load(clip_folder)
    still = metric.score(pictures[:1], texts=["a -> b"], references=pictures[:1])
    assert still.values == (0.0,)
    moved = metric.score(pictures[:2], texts=["a cat -> a dog"], references=pictures[2:4])
    back = metric.score(pictures[2:4], texts=["a cat -> a dog"], references=pictures[:2])
    assert moved.values == pytest.approx([-value for value in back.values], abs=1e-6)
    with pytest.raises(PromptError, match="old -> new"):
        metric.score(pictures, texts=["a cat"], references=pictures[:1])
    with pytest.raises(ImageError, match="references"):
        metric.score(pictures, texts=["a -> b"], references=pictures[:4])


def test_a_shared_encoder_reads_each_picture_once_and_says_the_same(clip_folder, pictures):
    encoder = ClipEncoder.load(clip_folder)
    seen = []

    class Counting:
        name, checkpoint, logit_scale = encoder.name, encoder.checkpoint, encoder.logit_scale
        text_embeds = staticmethod(encoder.text_embeds)

        @staticmethod
        def image_embeds(images):
            seen.append(len(images))
            return encoder.image_embeds(images)

    shared = SharedEncoder(Counting())
    for kind in (similarity.ClipT, similarity.PickScore, similarity.ClipI):
        given = {"texts": TEXTS, "references": pictures[1:3]}
        found = kind(shared).score(pictures, **given).values
        assert found == pytest.approx(kind(encoder).score(pictures, **given).values, abs=2e-4)
    assert sum(seen) == len(pictures)


def test_weights_without_a_processor_take_that_of_what_they_were_trained_from(
    hps_folder, clip_folder, tmp_path, pictures, monkeypatch
):
    weights = load_file(hps_folder / "HPS_v2.1_compressed.safetensors")
    save_file(weights, tmp_path / "HPS_v2.1_compressed.safetensors")
    with pytest.raises(CheckpointError, match=r"laion/.* put its small files beside the weights"):
        similarity.Hpsv2.load(tmp_path)
    monkeypatch.setattr(similarity.Hpsv2, "processor", clip_folder)
    found = similarity.Hpsv2.load(tmp_path).score(pictures, texts=TEXTS)
    assert found.values == similarity.Hpsv2.load(hps_folder).score(pictures, texts=TEXTS).values


def test_an_image_processor_of_the_first_hub_form_is_read(clip_folder, tmp_path, pictures):
    shutil.copytree(clip_folder, tmp_path / "old")
    old = {"crop_size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True,
           "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 16,
           "image_mean": [0.48145466, 0.4578275, 0.40821073],
           "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
    (tmp_path / "old" / "preprocessor_config.json").write_text(json.dumps(old))
    found = similarity.ClipT.load(tmp_path / "old").score(pictures, texts=TEXTS)
    assert found.values == similarity.ClipT.load(clip_folder).score(pictures, texts=TEXTS).values
