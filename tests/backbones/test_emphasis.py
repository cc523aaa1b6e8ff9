"""Weights and breaks in prompts, as AUTOMATIC1111 writes them."""

import pytest
import torch

import offbeat
from offbeat.backbones.emphasis import parse
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, PromptError


@pytest.fixture(params=["sd", "xl"])
def weighted(tiny_of, request):
    return offbeat.load_backbone(tiny_of(request.param).name, prompt_syntax="a1111")


@torch.no_grad()
def test_a_weight_multiplies_the_states_of_its_tokens_and_the_mean_stays(weighted):
    plain = weighted.encode_plain(["a red pig"]).text_encoder_hidden_states
    same = weighted.encode_text(["a red pig"])
    assert torch.equal(same.text_encoder_hidden_states, plain)
    found = weighted.encode_text(["a (red:1.5) pig"]).text_encoder_hidden_states
    factors = torch.ones(1, 77, 1)
    factors[:, 2:5] = 1.5  # start, a, then the three letters of red
    expected = plain * factors
    expected = expected * (plain.mean() / expected.mean())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_learned_tokens_have_weights_too_and_words_keep_their_places(weighted):
    rows = torch.randn(2, len(weighted.token_embed("x")), generator=stream(0)) * 0.2
    tokens = {"<new>": rows}
    plain = weighted.encode_plain(["a <new> pig"], tokens=tokens).text_encoder_hidden_states
    found = weighted.encode_text(["a (<new>:0) pig"], tokens=tokens).text_encoder_hidden_states
    assert not bool(found[:, 2:4].any())
    ratio = found[:, 4:6] / plain[:, 4:6]
    torch.testing.assert_close(ratio, ratio[:1, :1, :1].expand_as(ratio), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_break_begins_a_new_piece_and_guidance_fills_the_shorter_half(weighted):
    text = weighted.encode_text(["a red pig BREAK on a hill", "a pig"])
    assert text.text_encoder_hidden_states.shape[1] == 154
    pieces = weighted.encode_plain(["a red pig", "on a hill"]).text_encoder_hidden_states
    assert torch.equal(text.text_encoder_hidden_states[0], pieces.flatten(0, 1))
    settings = {"num_inference_steps": 2, "guidance_scale": 4.0, "generator": stream(1)}
    images = weighted.draw_text(text[:1], negative=weighted.encode_text(["blue"]), **settings)
    other = weighted.draw_text(weighted.encode_text(["a red pig"]), **settings)
    assert not torch.equal(images, other)


def test_without_it_brackets_are_letters_and_a_note_says_so(tiny_of):
    backbone = tiny_of("sd")
    run = offbeat.generate(
        "a (red:1.5) pig", backbone=backbone, num_images=1, num_inference_steps=2
    )
    assert "--prompt-syntax a1111" in run.summary["warnings"][0]
    quiet = offbeat.generate(
        "a pig (in mud)", backbone=backbone, num_images=1, num_inference_steps=2
    )
    assert "warnings" not in quiet.summary


def test_what_cannot_be_read_so_is_refused(tiny_of):
    with pytest.raises(ConfigError, match=r"SD 1\.5, SDXL"):
        offbeat.load_backbone(tiny_of("flux").name, prompt_syntax="a1111")
    with pytest.raises(ConfigError, match="expected a1111"):
        offbeat.load_backbone(tiny_of("sd").name, prompt_syntax="compel")
    with pytest.raises(PromptError, match="0 to 10"):
        parse("(red:11)")
    assert parse("a (red")[0].parts == (("a ", 1.0), ("red", 1.1))
    assert parse("a) pig: red")[0].text == "a) pig: red"
