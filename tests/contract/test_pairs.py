"""Every method on every form of backbone that has what it needs, on tiny random checkpoints."""

from contextlib import suppress
from dataclasses import replace

import pairs
import pytest
import test_drawing_methods
import test_methods
import test_mixing_methods
import test_painting_methods
import torch

import tiny
from offbeat import registry
from offbeat.checkpoints.open import check_needs
from offbeat.core.drawing import draw
from offbeat.core.functional import pair_cosine
from offbeat.core.rng import streams
from offbeat.errors import CapabilityError
from offbeat.methods.cretok.config import WORD
from offbeat.protocols.capabilities import offers
from offbeat.types import Request, Verdict

SMALL = {
    "low-probability": {"num_steps": 3, "num_baseline": 20, "num_held_out": 5, "probe_every": 3,
                        "num_probes": 2},
    "conceptlab": {"num_steps": 2},
    "cretok": {"num_steps": 4},
    "distok": {"num_steps": 4},
    "agswap": {"num_draws": 2, "num_inference_steps": 2},
    "bass": {"num_swaps": 3, "num_pilot": 2, "num_inference_steps": 2},
    "diffmorpher": {"num_steps": 1, "num_inference_steps": 2},
    "magicmix": {"num_inference_steps": 3},
    "creativesynth": {"num_inference_steps": 3},
    "adaptive-negatives": {"num_inference_steps": 3},
    "cads": {"num_inference_steps": 3},
    "guidance-interval": {"num_inference_steps": 3},
}  # fmt: skip
"""Settings smaller still than those of the other contracts."""
CASES = {
    **test_methods.CASES,
    **test_painting_methods.CASES,
    **test_mixing_methods.CASES,
    **test_drawing_methods.CASES,
}
WORDS = ("pig", "owl", "cat", "bee")
PAIR = Request(subject="pig + owl", weights=(("pig", 0.5), ("owl", 0.5)), num_images=1, seed=5)
ONE = Request(subject="pig", prompt="a picture of a {subject}", num_images=1, seed=5)


class Judge:
    """Passes everything; reads what is there from the colours, and names it after the red."""

    name = "judge"
    labels = WORDS

    def still_a(self, images, subject):
        return [Verdict("yes", 1.0, self.name)] * len(images)

    def class_probabilities(self, images):
        colours = images.mean(dim=(2, 3))
        return torch.cat([colours, colours[:, :1]], dim=1).softmax(dim=1)

    def name_it(self, image, subject):
        return WORDS[int(image[0].mean() * len(WORDS)) % len(WORDS)]


def make(method):
    return registry.find("method", method)(replace(CASES[method], **SMALL.get(method, {})))


def weights(backbone):
    return [p.clone() for module in backbone._modules() for p in module.parameters()]


def art_of(backbone):
    with torch.no_grad():
        return backbone.draw_text(backbone.encode_text(["a cat"]), generator=streams(1, num=1))[0]


def use(method, backbone):
    """Let a method do what it can, and return its pictures."""
    found = []
    if hasattr(method, "draw"):
        found.append(method.draw(backbone, ONE, judge=Judge()))
    if hasattr(method, "mix"):
        found.append(method.mix(backbone, PAIR, WORDS[:2]))
    if hasattr(method, "paint"):
        request = replace(ONE, prompt="a pig")
        found.append(method.paint(backbone, request, art_of(backbone)))
    if not found:
        _, concept = learn(method, backbone)
        found.append(draw(backbone, concept, seed=1, num=1))
    return found


def learn(method, backbone):
    """Return what a method learns, and a concept of it."""
    if hasattr(method, "train"):
        trained = method.train(backbone, WORDS, seed=5)
        return trained, method.fuse(backbone, PAIR, trained=trained)
    extra = {"baseline": method.measure(backbone, ONE)} if hasattr(method, "measure") else {}
    return None, method.fit(backbone, ONE, **extra)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP, for checkpoints that bring no image encoder."""
    return str(tiny.save_clip(tmp_path_factory.mktemp("clip")))


@pytest.mark.parametrize(("name", "form"), pairs.pairs())
def test_a_method_runs_on_what_it_says(tiny_of, clip, name, form):
    backbone = tiny_of(pairs.FORMS[form][1])
    method, before = make(name), weights(backbone)
    if name == "low-probability" and not hasattr(backbone, "encode_image"):
        method = type(method)(replace(method.config, encoder=clip))
    for images in use(method, backbone):
        side = backbone.card["height"]
        assert images.shape == (1, 3, side, side)
        assert bool(images.isfinite().all())
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert float(images.std()) > 0.01
    after = [p for module in backbone._modules() for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(not p.requires_grad and p.grad is None for p in after)


def test_every_method_has_its_settings_here():
    assert set(CASES) == set(registry.BUILT_IN["method"])


@pytest.mark.parametrize("form", list(pairs.FORMS))
def test_what_is_lacking_is_named_and_so_is_who_has_it(tiny_of, form):
    name, kind = pairs.FORMS[form]
    for method in CASES:
        needs = pairs.needs_of(method)
        if pairs.runs_on(method, form):  # what the class says, the object keeps
            check_needs(method, needs, tiny_of(kind))
            continue
        with pytest.raises(CapabilityError) as caught:
            check_needs(method, needs, tiny_of(kind))
        able = str(caught.value).partition("have it: ")[2].partition(". Choose")[0].split(", ")
        assert set(able) <= set(registry.BUILT_IN["backbone"])
        assert all(offers(registry.find("backbone", one), needs) for one in able)
        assert name not in able


@pytest.mark.parametrize("kind", ["sd", "xl", "sd3", "flux"])
def test_cretok_moves_the_part_of_every_text_encoder(tiny_of, kind):
    """A token whose T5 part stays what it was is no token to FLUX."""
    backbone = tiny_of(kind)
    method = make("cretok")
    steps = []
    trained = method.train(backbone, WORDS, seed=5, on_step=steps.append)
    start = backbone.token_embed(method.config.initial_word)
    widths = [encoder.width for encoder in backbone._encoders]
    moved = (trained.tensors[WORD][0] - start).split(widths)
    assert all(float(part.abs().min()) > 0 for part in moved)
    assert steps[-1].values["loss_all"] < steps[0].values["loss_all"]


@pytest.mark.parametrize("kind", ["sd", "xl", "sd3", "flux"])
def test_distok_pulls_every_text_encoder_to_its_targets(tiny_of, kind):
    backbone = tiny_of(kind)
    config = replace(CASES["distok"], num_steps=40, learning_rate=3e-3, max_restrictive_cosine=1.0)
    method = registry.find("method", "distok")
    plain, trained = (
        method(replace(config, num_steps=steps)).train(backbone, WORDS, seed=5)
        for steps in (1, config.num_steps)
    )
    nearness = []
    for one in (plain, trained):
        concept = method(config).fuse(backbone, PAIR, trained=one)
        with torch.no_grad():
            found = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
            target = backbone.encode_text(["a pig owl"])
        sizes = list(found.widths) or [found.text_embeds.shape[1]]
        nearness.append(
            [
                float(pair_cosine(a, b))
                for a, b in zip(
                    found.text_embeds.split(sizes, -1),
                    target.text_embeds.split(sizes, -1),
                    strict=True,
                )
            ]
        )
    before, after = nearness
    assert sum(after) > sum(before)
    assert after[-1] > before[-1]  # of the encoder that comes last: CLIP-G, or T5


def test_the_table_in_the_docs_is_what_the_classes_say():
    text = pairs.DOCS.read_text(encoding="utf-8")
    assert text == pairs.with_tables(text), "run `python tests/contract/pairs.py`"
    with suppress(ValueError):
        pairs.with_tables("no table here")
        pytest.fail("a document without tables must not pass")
