"""What every method must keep that paints into an artwork, on pocket-sd."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from offbeat import registry
from offbeat.core.rng import streams
from offbeat.methods.creativesynth.config import CreativeSynthConfig
from offbeat.types import Request

CASES = {"creativesynth": CreativeSynthConfig(num_inference_steps=5, guidance_scale=3.0)}
"""Each method's small settings: a new method adds its line here."""

REQUEST = Request(subject="owl", prompt="a picture of an owl", num_images=2, seed=5)


def test_every_painting_method_has_a_case():
    found = {name: registry.find("method", name) for name in registry.BUILT_IN["method"]}
    assert {name for name, one in found.items() if hasattr(one, "paint")} == set(CASES)


@torch.no_grad()
def drawn(backbone, num=2):
    text = backbone.encode_text(["a picture of a castle on a blue background"])
    return backbone.draw_text(text, generator=streams(1, num=num), num_inference_steps=5)


@pytest.fixture(scope="module", params=sorted(CASES))
def painted(request, pocket_sd):
    """The method, an artwork, a content, and two pictures by it."""
    method = registry.find("method", request.param)(CASES[request.param])
    art, content = drawn(pocket_sd)
    return method, art, content, method.paint(pocket_sd, REQUEST, art, content=content)


def test_it_paints_pictures(painted, pocket_sd):
    method, _, _, images = painted
    assert method.result == "pictures"
    assert isinstance(pocket_sd, method.needs)
    assert images.shape == (2, 3, 128, 128)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert not torch.equal(images[0], images[1])


def test_picture_i_depends_on_the_seed_and_i_alone(painted, pocket_sd):
    method, art, content, images = painted
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    last = method.paint(pocket_sd, replace(REQUEST, num_images=1), art, content=content, start=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(last, images[1:], rtol=0, atol=2e-3)


def test_the_backbone_draws_the_same_bytes_after(painted, pocket_sd):
    method, art, content, _ = painted
    weights = [p.clone() for p in pocket_sd.unet.parameters()]
    before = drawn(pocket_sd, 1)

    def stop(step):
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        method.paint(pocket_sd, REQUEST, art, content=content, on_step=stop)
    assert torch.equal(drawn(pocket_sd, 1), before)
    after = list(pocket_sd.unet.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))
    assert all(not p.requires_grad and p.grad is None for p in after)
