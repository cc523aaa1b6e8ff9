import io
import json
import re
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from offbeat.checkpoints.known.unclip import POCKET
from offbeat.errors import ConfigError, CorruptRunError, ImageError, ShapeError
from offbeat.files.concept import CONCEPT_FILE, LORA_FILE, decode_concept, encode_concept
from offbeat.files.png import encode_png, infotext, parse_infotext, read_recipe, to_pil
from offbeat.types import PLACEHOLDER, Concept, TextEmbeds

MADE_BY = {"fingerprint": "abc", "checkpoint": "pocket", "method": "low-probability"}
RECIPE = {
    "prompt": 'a picture of a <offbeat>, "odd"',
    "seed": 3,
    "num_inference_steps": 20,
    "guidance_scale": 3.0,
    "checkpoint": "pocket",
    "fingerprint": "abc",
    "subject": "Tasche, groß 手袋",
    "novelty": None,
    "tail": [0.999, float("inf")],
}


def make_concept(**changes):
    fields = {
        "template": "a picture of a {concept}",
        "subject": "handbag",
        "token_embeds": {PLACEHOLDER: torch.arange(8.0).view(2, 4)},
        "metadata": {"quantile": "0.999"},
    }
    return Concept(**{**fields, **changes})


def make_lora(prior, rank=3):
    noise = torch.Generator().manual_seed(0)
    lora = {}
    for index, block in enumerate(prior.transformer_blocks):
        for target in ("to_q", "to_k", "to_v", "to_out.0"):
            out_width, in_width = block.attn1.get_submodule(target).weight.shape
            name = f"transformer_blocks.{index}.attn1.{target}.lora_{{}}.weight"
            lora[name.format("A")] = torch.randn(rank, in_width, generator=noise) * in_width**-0.5
            lora[name.format("B")] = torch.randn(out_width, rank, generator=noise) * 0.2
    return lora


# --- concepts


@pytest.mark.parametrize(
    "concept",
    [
        make_concept(),
        make_concept(token_embeds={}, lora={"a.lora_A.weight": torch.ones(2, 4)}),
        make_concept(token_embeds={}, image_embeds=torch.rand(1, 6)),
        make_concept(subject='<script>"é\n', lora={"a.lora_A.weight": torch.ones(2, 4)}),
    ],
)
def test_a_concept_comes_back_as_it_was(concept):
    files = encode_concept(concept, **MADE_BY)
    assert files == encode_concept(concept, **MADE_BY)  # the same bytes
    back, about = decode_concept(files.get)
    assert (back.template, back.subject, back.word) == (
        concept.template,
        concept.subject,
        concept.word,
    )
    assert back.metadata == concept.metadata
    for ours, theirs in ((back.token_embeds, concept.token_embeds), (back.lora, concept.lora)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    if concept.image_embeds is not None:
        assert torch.equal(back.image_embeds, concept.image_embeds)
    assert MADE_BY.items() <= about.items()


def test_one_vector_is_saved_as_a_row():
    files = encode_concept(make_concept(token_embeds={"<x>": torch.ones(4)}), **MADE_BY)
    assert decode_concept(files.get)[0].token_embeds["<x>"].shape == (1, 4)
    bad = make_concept(token_embeds={"<x>": torch.ones(1, 1, 4)})
    with pytest.raises(ShapeError, match="<x>"):
        encode_concept(bad, **MADE_BY)
    bad = make_concept(token_embeds={"image_embeds": torch.ones(4)})
    with pytest.raises(ConfigError, match="placeholder"):
        encode_concept(bad, **MADE_BY)


@pytest.mark.parametrize("name", [CONCEPT_FILE, LORA_FILE])
def test_damage_is_named(name):
    concept = make_concept(lora={"a.lora_A.weight": torch.ones(2, 4)})
    files = encode_concept(concept, **MADE_BY)
    for data in (None, b"", files[name][:-1], files[name][:-1] + b"\x7f"):
        with pytest.raises(CorruptRunError, match=name):
            decode_concept({**files, name: data}.get)


def test_factors_of_another_concept_are_refused():
    lora = {"a.lora_A.weight": torch.ones(2, 4)}
    mine = encode_concept(make_concept(lora=lora), **MADE_BY)
    other = encode_concept(make_concept(lora=lora, subject="pet"), **MADE_BY)
    mixed = {**mine, LORA_FILE: other[LORA_FILE]}
    with pytest.raises(CorruptRunError, match="another concept"):
        decode_concept(mixed.get)


def test_diffusers_loads_the_token(tmp_path):
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "prior" / "tokenizer")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes)
    blocks = {"block_out_channels": (8,), "norm_num_groups": 2, "layers_per_block": 1}
    pipe = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text),
        unet=UNet2DConditionModel(
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            mid_block_type=None,
            **blocks,
        ),
        vae=AutoencoderKL(**blocks),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    rows = torch.rand(2, 8)
    files = encode_concept(make_concept(token_embeds={PLACEHOLDER: rows}), **MADE_BY)
    (tmp_path / "concept.safetensors").write_bytes(files[CONCEPT_FILE])
    pipe.load_textual_inversion(tmp_path, weight_name="concept.safetensors")
    ids = pipe.tokenizer.convert_tokens_to_ids([PLACEHOLDER, f"{PLACEHOLDER}_1"])
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], rows)


def test_diffusers_loads_the_factors_and_predicts_the_same(tmp_path):
    from diffusers import PriorTransformer, UnCLIPScheduler

    from offbeat.backbones.unclip.prior import FastPrior

    prior = PriorTransformer.from_pretrained(POCKET / "prior" / "prior").eval()
    scheduler = UnCLIPScheduler.from_pretrained(POCKET / "prior" / "scheduler")
    lora = make_lora(prior)
    width, length = prior.config.embedding_dim, 5
    text = TextEmbeds(
        torch.randn(2, width), torch.randn(2, length, width), torch.ones(2, length, dtype=bool)
    )
    settings = {"num_samples": 2, "num_inference_steps": 3, "prior_guidance_scale": 1.0}
    with torch.no_grad():
        fast = FastPrior(prior, scheduler)
        noise = [torch.Generator().manual_seed(row) for row in range(2)]
        without = fast.sample(text, None, noise, **settings)
        noise = [torch.Generator().manual_seed(row) for row in range(2)]
        ours = fast.sample(text, None, noise, lora=lora, **settings)

    files = encode_concept(make_concept(lora=lora), **MADE_BY)
    (tmp_path / "lora").mkdir()
    (tmp_path / LORA_FILE).write_bytes(files[LORA_FILE])
    plain = PriorTransformer.from_pretrained(POCKET / "prior" / "prior").eval()
    plain.load_lora_adapter(
        tmp_path / "lora", prefix=None, weight_name="pytorch_lora_weights.safetensors"
    )
    theirs = plain_sample(plain, scheduler, text)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - without).norm() > 0.1 * without.norm()


@torch.no_grad()
def plain_sample(prior, scheduler, text):
    """The loop of diffusers' prior pipelines, without guidance."""
    limit = prior.config.num_embeddings
    states = torch.zeros(2, limit, text.text_embeds.shape[1])
    mask = torch.zeros(2, limit, dtype=torch.bool)
    states[:, : text.text_mask.shape[1]] = text.text_encoder_hidden_states
    mask[:, : text.text_mask.shape[1]] = text.text_mask
    noise = [torch.Generator().manual_seed(row) for row in range(2)]
    latents = torch.cat([torch.randn(1, states.shape[2], generator=one) for one in noise])
    scheduler.set_timesteps(3)
    for index, timestep in enumerate(scheduler.timesteps):
        predicted = prior(
            latents,
            timestep=timestep,
            proj_embedding=text.text_embeds,
            encoder_hidden_states=states,
            attention_mask=mask,
        ).predicted_image_embedding
        earlier = scheduler.timesteps[index + 1] if index < 2 else None
        latents = scheduler.step(
            predicted, timestep, latents, prev_timestep=earlier, generator=noise
        ).prev_sample
    return prior.post_process_latents(latents)


# --- pictures


def picture(width=6, height=4):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_picture_carries_its_recipe(tmp_path):
    data = encode_png(picture(), RECIPE)
    assert data == encode_png(picture(), dict(reversed(RECIPE.items())))
    path = tmp_path / "0000.png"
    path.write_bytes(data)
    assert read_recipe(path) == {**RECIPE, "tail": [0.999, None]}
    with Image.open(path) as back:
        assert back.tobytes() == picture().tobytes()
        lines = back.info["parameters"].split("\n")
    assert lines[0] == RECIPE["prompt"]
    # the pattern with which AUTOMATIC1111 reads the last line
    found = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', lines[-1]))
    assert found["Size"] == "6x4"
    assert (found["Steps"], found["Seed"], found["CFG scale"]) == ("20", "3", "3.0")
    assert json.loads(found["Offbeat subject"]) == RECIPE["subject"]
    assert "Offbeat novelty" not in found


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(texts, values | texts | st.lists(texts)))
def test_any_recipe_comes_back(recipe):
    data = encode_png(picture(), recipe)
    with Image.open(io.BytesIO(data)) as back:
        assert json.loads(back.info["offbeat"]) == recipe


def read_as_a1111_does(text):
    """What AUTOMATIC1111's parse_generation_parameters does, by its published behaviour."""
    *lines, last = text.strip().split("\n")
    pattern = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    assert len(pattern.findall(last)) >= 3  # else it would take the settings for a prompt
    prompts, place = {"Prompt": "", "Negative prompt": ""}, "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            place, line = "Negative prompt", line[16:].strip()
        prompts[place] += ("" if prompts[place] == "" else "\n") + line
    values = {}
    for name, value in pattern.findall(last):
        quoted = value[0] == '"' and value[-1] == '"'  # it fails on an empty value
        values[name] = json.loads(value) if quoted else value
    return {**prompts, **values}


words = st.text(
    st.sampled_from('ab ,:"\\\n\r\t<>()=é手') | st.characters(exclude_categories=["Cs"])
)


@settings(max_examples=200, deadline=None)
@given(words, words, words)
def test_what_a1111_reads_is_what_was_asked(prompt, negative, subject):
    recipe = {**RECIPE, "prompt": prompt, "negative_prompt": negative, "subject": subject}
    text = infotext({**recipe, "size": "64x64"})
    found = read_as_a1111_does(text)
    assert found == parse_infotext(text)
    assert (found["Steps"], found["Seed"], found["Size"]) == ("20", "3", "64x64")
    assert found.get("Offbeat subject", "") == " ".join(subject.split())
    if "Negative prompt:" not in prompt + negative:
        for name, asked in (("Prompt", prompt), ("Negative prompt", negative)):
            lines = [line.strip() for line in re.split("[\r\n]", asked)]
            assert found[name] == "\n".join(line for line in lines if line)


def test_a_prompt_keeps_its_lines_and_ends_where_it_ends():
    asked = {**RECIPE, "prompt": "a pig,\nNegative prompt: none", "negative_prompt": 'a "b", c: d'}
    found = parse_infotext(infotext(asked))
    assert found["Prompt"] == "a pig, Negative prompt: none"
    assert found["Negative prompt"] == 'a "b", c: d'


def chunk(kind, data):
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")


def huge_png():
    size = (60_000).to_bytes(4, "big") * 2
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"")


def large_png():
    size = (10_000).to_bytes(4, "big") * 2
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as a picture"),
        (b"GIF89a", "cannot be read as a picture"),
        (huge_png(), "too large"),
        (large_png(), "expected at most 64,000,000 pixels, got 10000 x 10000"),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path, data, message):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=message):
        read_recipe(path)


def test_a_picture_without_a_recipe_says_so(tmp_path):
    path = tmp_path / "x.png"
    picture().save(path)
    with pytest.raises(ImageError, match="holds no recipe"):
        read_recipe(path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_recipe(tmp_path / "absent.png")
    with pytest.raises(ConfigError, match="recipe"):
        encode_png(picture(), {"x": object()})
    with pytest.raises(ConfigError, match="recipe"):
        encode_png(picture(), {"subject": "\udcff"})


def test_tensors_become_pictures():
    images = torch.tensor([-1.0, 0.5, 2.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    first, _ = to_pil(images)
    assert first.size == (5, 4)
    assert first.getpixel((0, 0)) == (0, 128, 255)
