"""What every method must keep that draws a subject its own way, on pocket-sd."""

from dataclasses import replace

import pytest
import torch

from offbeat import load_backbone, registry
from offbeat.core.rng import streams
from offbeat.judges.choose import choose_judge
from offbeat.methods.rivals.adaptive_negatives import AdaptiveNegativesConfig
from offbeat.methods.rivals.best_of_n import BestOfNConfig
from offbeat.methods.rivals.cads import CadsConfig
from offbeat.methods.rivals.guidance_interval import GuidanceIntervalConfig
from offbeat.methods.rivals.high_guidance import HighGuidanceConfig
from offbeat.methods.rivals.raw_prompt import RawPromptConfig
from offbeat.methods.rivals.seed_variance import SeedVarianceConfig
from offbeat.protocols import ReadsClasses
from offbeat.types import Request

CASES = {
    "adaptive-negatives": AdaptiveNegativesConfig(num_inference_steps=4),
    "best-of-n": BestOfNConfig(num=2),
    "cads": CadsConfig(num_inference_steps=6),
    "guidance-interval": GuidanceIntervalConfig(num_inference_steps=6),
    "high-guidance": HighGuidanceConfig(),
    "raw-prompt": RawPromptConfig(),
    "seed-variance": SeedVarianceConfig(num_seeds=4),
}
"""Each method's small settings: a new method adds its line here."""

REQUEST = Request(subject="handbag", num_images=3, seed=5)


def test_every_drawing_method_has_a_case():
    found = {name: registry.find("method", name) for name in registry.BUILT_IN["method"]}
    assert {name for name, one in found.items() if hasattr(one, "draw")} == set(CASES)


@pytest.fixture(scope="module")
def quick():
    """pocket-sd in fewer steps: how well it draws is not the matter here."""
    backbone = load_backbone("pocket-sd")
    backbone._card["num_inference_steps"] = 4
    return backbone


@pytest.fixture(scope="module")
def judge(quick):
    return choose_judge("classifier", quick, ReadsClasses)


@pytest.fixture(scope="module", params=sorted(CASES))
def drawn(request, quick, judge):
    """The method, and three pictures by it."""
    method = registry.find("method", request.param)(CASES[request.param])
    return method, method.draw(quick, REQUEST, judge=judge)


def test_it_draws_what_was_agreed(drawn, quick):
    method, images = drawn
    assert method.result == "pictures"
    assert isinstance(quick, method.needs)
    assert type(method).config_class.for_card(quick.card)
    assert images.shape == (3, 3, 128, 128)
    assert images.dtype == torch.float32
    assert images.device == torch.device("cpu")
    assert not images.requires_grad
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert len({tuple(one.flatten().tolist()) for one in images}) == 3


def test_picture_i_depends_on_the_seed_and_i_alone(drawn, quick, judge):
    method, images = drawn
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    last = method.draw(quick, replace(REQUEST, num_images=1), judge=judge, start=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(last, images[2:], rtol=0, atol=2e-3)


def test_the_backbone_draws_the_same_bytes_after(drawn, quick, judge):
    method, _ = drawn
    text = quick.encode_text(["a picture of an owl"])
    weights = [p.clone() for p in quick.unet.parameters()]
    settings = {"num_inference_steps": 3}
    with torch.no_grad():
        before = quick.draw_text(text, generator=streams(1, num=1), **settings)
    method.draw(quick, replace(REQUEST, num_images=1), judge=judge)
    with torch.no_grad():
        after = quick.draw_text(text, generator=streams(1, num=1), **settings)
    assert torch.equal(before, after)
    after_weights = list(quick.unet.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, after_weights, strict=True))
    assert all(not p.requires_grad and p.grad is None for p in after_weights)
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert not any(getattr(m, name) for m in quick.unet.modules() for name in hooks)
