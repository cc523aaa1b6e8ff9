"""What every backbone must keep, whatever its form, on tiny random weights and on pocket."""

import pytest
import torch

from offbeat import load_backbone
from offbeat.core.drawing import draw
from offbeat.core.rng import stream
from offbeat.errors import CapabilityError, PromptError, ShapeError
from offbeat.protocols import DrawingBackbone, PriorBackbone, TextBackbone
from offbeat.types import Concept

WORD = "<new>"


LANGUAGE = ["chroma", "z-image", "qwen-image", "sana"]
KINDS = ["2.1", "2.2", "sd", "xl", "one-step", "sd3", "flux", *LANGUAGE, "pocket", "pocket-sd"]


@pytest.fixture(scope="module", params=KINDS)
def backbone(request, tiny_of):
    """A random checkpoint of each kind, and those that come with the package."""
    if request.param.startswith("pocket"):
        return load_backbone(request.param)
    return tiny_of(request.param)


@pytest.fixture
def concept(backbone):
    token = torch.randn(2, len(backbone.token_embed("x")), generator=stream(0)) * 0.1
    tokens = {WORD: backbone.token_embeds("pig")[:1] + token}
    return Concept(
        template="a picture of a {concept}", subject="pig", word=WORD, token_embeds=tokens
    )


def weights(backbone):
    return [v.clone() for module in backbone._modules() for v in module.state_dict().values()]


def test_it_says_who_it_is_and_what_suits_it(backbone):
    assert isinstance(backbone, TextBackbone)
    assert isinstance(backbone, PriorBackbone) != isinstance(backbone, DrawingBackbone)
    assert backbone.token_layout
    assert sum(width for _, width, _ in backbone.token_layout) == len(backbone.token_embed("x"))
    assert len(backbone.fingerprint) == 16
    wanted = ("prompt_template", "num_inference_steps", "guidance_scale", "concepts", "subjects")
    assert all(name in backbone.card for name in wanted)
    assert "{subject}" in backbone.card["prompt_template"]
    assert backbone.device == torch.device("cpu")


def test_text_has_the_shapes_that_were_agreed(backbone):
    text = backbone.encode_text(["a pig", "a much longer prompt"])
    states = text.text_encoder_hidden_states
    assert len(text) == len(text.text_embeds) == len(states) == 2
    assert text.text_mask.shape == states.shape[:2]
    assert text.text_mask.dtype == torch.bool
    assert text.text_embeds.dtype == states.dtype == torch.float32
    assert sum(text.widths) in (0, text.text_embeds.shape[1])
    own = int(text.text_mask[0].sum())  # of CLIP's tokens, of T5's fewer pieces, or of both
    room = int(backbone.encode_text([""]).text_mask[0].sum())  # start, end, and a template
    assert 3 <= own <= 2 * backbone.num_tokens("a pig") + max(room, 4)


def test_a_prompt_is_encoded_alike_alone_and_beside_others(backbone):
    alone = backbone.encode_text(["a pig"])
    beside = backbone.encode_text(["a pig", "a much longer prompt"])
    length = alone.text_encoder_hidden_states.shape[1]
    torch.testing.assert_close(beside.text_embeds[:1], alone.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        beside.text_encoder_hidden_states[:1, :length][alone.text_mask],
        alone.text_encoder_hidden_states[alone.text_mask],
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_token_is_passed_in_and_gradient_reaches_it_alone(backbone, concept):
    token = concept.token_embeds[WORD].clone().requires_grad_()
    before = weights(backbone)
    text = backbone.encode_text([concept.prompt()], tokens={WORD: token})
    text.text_embeds.square().sum().backward()
    assert float(token.grad.abs().max()) > 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(backbone), strict=True))
    parameters = [p for module in backbone._modules() for p in module.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in parameters)
    with pytest.raises(ShapeError, match="another checkpoint"):
        backbone.encode_text([concept.prompt()], tokens={WORD: token[:, 1:]})
    with pytest.raises(PromptError, match="at most"):
        backbone.encode_text(["pig " * 200])


def test_a_concept_is_drawn_alike_by_every_form_and_in_any_number(backbone, concept):
    torch.manual_seed(5)
    random = torch.get_rng_state()
    seen = []
    settings = {"seed": 3, "decoding": {"num_inference_steps": 2}}
    nine = draw(backbone, concept, num=9, observe=lambda *told: seen.append(told[1]), **settings)
    one = draw(backbone, concept, num=1, **settings)
    assert nine.shape[:2] == (9, 3)
    assert nine.dtype == torch.float32
    assert 0 <= float(nine.min()) <= float(nine.max()) <= 1
    assert seen == [8, 9]
    torch.testing.assert_close(nine[:1], one, rtol=0, atol=1e-3)
    assert not torch.equal(nine[0], nine[1])
    assert torch.equal(torch.get_rng_state(), random)
    plain = Concept(template=concept.template, subject="pig", word="pig")
    assert not torch.equal(draw(backbone, plain, num=1, **settings), one)


def test_a_negative_prompt_and_another_template_change_a_picture(backbone, concept):
    settings = {"seed": 3, "num": 1, "decoding": {"num_inference_steps": 2, "guidance_scale": 4.0}}
    plain = draw(backbone, concept, **settings)
    steered = draw(backbone, concept, negative_prompt="a blue dog", **settings)
    other = draw(backbone, concept, template="two {concept} in a tree", **settings)
    assert not torch.equal(plain, steered)
    assert not torch.equal(plain, other)
    assert torch.equal(plain, draw(backbone, concept, **settings))


@pytest.mark.parametrize("learned", ["lora", "image_embeds"])
def test_what_only_a_prior_can_draw_is_refused_without_one(tiny_sd, learned):
    what = {"lora": {"a": torch.zeros(1, 1)}, "image_embeds": torch.zeros(1, 32)}[learned]
    concept = Concept(template="{concept}", subject="pig", **{learned: what})
    missing = {"lora": "sample_prior", "image_embeds": "decode_embeds"}[learned]
    with pytest.raises(CapabilityError, match=f"`{missing}`.*kandinsky-2.1, kandinsky-2.2, pocket"):
        draw(tiny_sd, concept, seed=0, num=1)


def test_what_draws_nothing_is_refused():
    class Reader:
        name = "reader"

    with pytest.raises(CapabilityError, match="`draw_text`"):
        draw(Reader(), Concept(template="x", subject="x"), seed=0, num=1)
