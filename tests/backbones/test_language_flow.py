"""Chroma, Z-Image, Qwen-Image and SANA: the pictures of diffusers' pipelines, to 1e-5."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

import tiny_language
from offbeat import load_backbone
from offbeat.backbones.redraw import Redraw
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, PromptError
from offbeat.types import Concept

KINDS = ["chroma", "z-image", "qwen-image", "sana"]
PROMPT = "a red pig"


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def backbone(tiny_of, kind):
    return tiny_of(kind)


@pytest.fixture(scope="module")
def pipe(backbone):
    pipe = DiffusionPipeline.from_pretrained(
        backbone.name, local_files_only=True, dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_with(pipe, backbone, kind, prompt=PROMPT, *, scale=4.0, negative="", steps=3):
    told = {"guidance_scale": scale, "negative_prompt": negative}
    if kind == "qwen-image":
        told = {"true_cfg_scale": scale, "negative_prompt": negative or " "}
    if kind == "sana":
        told["use_resolution_binning"] = False
    images = pipe(
        prompt, generator=stream(1), num_inference_steps=steps, height=backbone.card["height"],
        width=backbone.card["width"], max_sequence_length=backbone.card["max_sequence_length"],
        output_type="np", **told,
    ).images  # fmt: skip
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def drawn(backbone, prompt=PROMPT, *, scale=4.0, negative=None, steps=3, tokens=None):
    read = getattr(backbone, "encode_negative", backbone.encode_text)
    return backbone.draw_text(
        backbone.encode_text([prompt], tokens=tokens),
        generator=stream(1),
        num_inference_steps=steps,
        guidance_scale=scale,
        negative=None if negative is None else read([negative]),
    )


@torch.no_grad()
@pytest.mark.parametrize(("scale", "negative"), [(0.0, None), (4.0, None), (4.0, "blue")])
def test_pictures_match_the_pipeline(backbone, pipe, kind, scale, negative):
    theirs = draw_with(pipe, backbone, kind, scale=scale, negative=negative or "")
    ours = drawn(backbone, scale=scale, negative=negative)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    other = drawn(backbone, "green house", scale=scale, negative=negative)
    assert float((other - ours).abs().max()) > 1e-3
    if negative:
        plain = drawn(backbone, scale=scale)
        assert float((plain - ours).abs().max()) > 1e-3


@torch.no_grad()
def test_a_known_word_passed_in_as_a_token_changes_nothing(backbone, kind):
    rows = backbone.token_embeds(" red" if kind in ("z-image", "qwen-image") else "red")
    plain = backbone.encode_text([PROMPT]).text_encoder_hidden_states
    word = "a<new> pig" if kind in ("z-image", "qwen-image") else "a <new> pig"
    if kind == "sana":  # a blank is a token of its own there
        word = "a <new> pig"
    learned = backbone.encode_text([word], tokens={"<new>": rows})
    torch.testing.assert_close(learned.text_encoder_hidden_states, plain, rtol=0, atol=1e-4)


def test_gradients_reach_a_token_from_the_picture_and_words_after_it_count(backbone):
    width = len(backbone.token_embed("x"))
    token = (backbone.token_embed("pig") + 0.3 * torch.randn(width, generator=stream(0)))[None]
    token.requires_grad_()
    images = drawn(backbone, "a <new> of", tokens={"<new>": token})
    images.sum().backward()
    assert float(token.grad.abs().max()) > 0
    with torch.no_grad():
        other = drawn(backbone, "a <new> on", tokens={"<new>": token})
    assert float((other - images.detach()).abs().max()) > 1e-4
    assert all(p.grad is None for module in backbone._modules() for p in module.parameters())


@torch.no_grad()
def test_prompts_of_two_lengths_are_drawn_side_by_side_as_alone(backbone):
    texts = [PROMPT, "a much longer prompt of it"]
    both = backbone.draw_text(
        backbone.encode_text(texts), generator=[stream(1), stream(2)], guidance_scale=4.0
    )
    for number, prompt in enumerate(texts):
        alone = backbone.draw_text(
            backbone.encode_text([prompt]), generator=[stream(number + 1)], guidance_scale=4.0
        )
        torch.testing.assert_close(both[number : number + 1], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_picture_is_encoded_inverted_and_drawn_anew(backbone):
    image = drawn(backbone)
    latents = backbone.encode_latents(image)
    assert latents.shape == backbone.init_latents(stream(0)).shape
    text = backbone.encode_text([PROMPT])
    way = backbone.invert(image, text, num_inference_steps=3, guidance_scale=0.0)
    assert way.shape == (4, *latents.shape)
    torch.testing.assert_close(way[-1], latents, rtol=0, atol=0)
    redrawn = backbone.draw_text(text, generator=stream(1), redraw=Redraw(image, 0.5))
    assert redrawn.shape == image.shape
    assert not torch.equal(redrawn, image)


def test_what_draws_is_said_and_too_long_a_prompt_is_refused(backbone, kind, tmp_path):
    ((name, width, unit),) = backbone.token_layout
    expected = {"chroma": "t5xxl", "z-image": "qwen3", "qwen-image": "qwen2_5_vl", "sana": "gemma2"}
    assert name == expected[kind]
    assert width == len(backbone.token_embed("x"))
    assert unit == 2.0 ** round(torch.tensor(unit).log2().item())
    with pytest.raises(PromptError, match="at most"):
        backbone.encode_text(["a red pig " * 60])
    folder = shutil.copytree(backbone.name, tmp_path / "copy")
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] += "X"
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"expected a pipeline of {backbone.pipeline}"):
        load_backbone(folder)


@torch.no_grad()
def test_a_learned_word_keeps_its_letters_in_a_prompt_that_is_lowered(tiny_of):
    backbone = tiny_of("sana")
    token = {"<New>": torch.randn(1, tiny_language.LM_WIDTH, generator=stream(0))}
    one, other = (backbone.encode_text([text], tokens=token) for text in ("A <New>", "a <New>"))
    assert torch.equal(one.text_encoder_hidden_states, other.text_encoder_hidden_states)
    plain = backbone.encode_text(["A <New>"])
    assert not torch.equal(one.text_mask.sum(), plain.text_mask.sum())


@torch.no_grad()
def test_a_concept_and_a_negative_prompt_go_through_the_usual_drawing(backbone):
    concept = plain_concept_of("pig", backbone)
    rows = backbone.token_embeds("pig")
    learned = Concept(
        template=concept.template, subject="pig", word="<x>", token_embeds={"<x>": rows * 0.5}
    )
    settings = {"seed": 1, "num": 1, "decoding": {"guidance_scale": 4.0}}
    images = [
        draw(backbone, concept, **settings),
        draw(backbone, learned, **settings),
        draw(backbone, concept, negative_prompt="blue", **settings),
    ]
    assert len({image.numpy().tobytes() for image in images}) == 3
