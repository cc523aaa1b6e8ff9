"""What every method must keep that mixes two sources inside the denoising, on pocket-sd."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from offbeat import registry
from offbeat.methods.mixing.agswap import AGSwapConfig
from offbeat.methods.mixing.bass import BassConfig
from offbeat.methods.mixing.diffmorpher import DiffMorpherConfig
from offbeat.methods.mixing.magicmix import MagicMixConfig
from offbeat.methods.rivals.best_of_n import BestOfNConfig
from offbeat.methods.rivals.interpolation import InterpolationConfig
from offbeat.methods.rivals.raw_prompt import RawPromptConfig
from offbeat.types import Request

CASES = {
    "agswap": AGSwapConfig(num_draws=3, num_inference_steps=4),
    "bass": BassConfig(num_swaps=5, num_pilot=3, num_inference_steps=4),
    "diffmorpher": DiffMorpherConfig(num_steps=3, learning_rate=1e-3, num_inference_steps=4),
    "best-of-n": BestOfNConfig(num=2),
    "interpolation": InterpolationConfig(),
    "magicmix": MagicMixConfig(num_inference_steps=6, guidance_scale=3.0, k_min=0.3, k_max=0.8),
    "raw-prompt": RawPromptConfig(),
}
"""Each method's small settings: a new method adds its line here."""

WORDS = ("owl", "teapot")
REQUEST = Request(
    subject="owl + teapot", weights=(("owl", 0.5), ("teapot", 0.5)), num_images=3, seed=5
)


def test_every_mixing_method_has_a_case():
    found = {name: registry.find("method", name) for name in registry.BUILT_IN["method"]}
    assert {name for name, one in found.items() if hasattr(one, "mix")} == set(CASES)


@pytest.fixture(scope="module", params=sorted(CASES))
def mixed(request, pocket_sd):
    """The method, and three pictures by it."""
    method = registry.find("method", request.param)(CASES[request.param])
    return method, method.mix(pocket_sd, REQUEST, WORDS)


def test_it_says_what_it_takes_and_draws_that(mixed, pocket_sd):
    method, images = mixed
    assert method.result == "pictures"
    assert isinstance(pocket_sd, method.needs)
    assert images.shape == (3, 3, 128, 128)
    assert images.dtype == torch.float32
    assert not images.requires_grad
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    assert len({tuple(one.flatten().tolist()) for one in images}) == 3


def test_picture_i_depends_on_the_seed_and_i_alone(mixed, pocket_sd):
    method, images = mixed
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    last = method.mix(pocket_sd, replace(REQUEST, num_images=1), WORDS, start=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.testing.assert_close(last, images[2:], rtol=0, atol=2e-3)


def test_the_backbone_draws_the_same_bytes_after(mixed, pocket_sd):
    from offbeat.core.rng import streams

    method, _ = mixed
    text = pocket_sd.encode_text(["a picture of an owl"])
    weights = [p.clone() for p in pocket_sd.unet.parameters()]
    with torch.no_grad():
        before = pocket_sd.draw_text(text, generator=streams(1, num=1), num_inference_steps=3)

    def stop(step):
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):  # a search, if it has one, is left in its middle
        method.mix(pocket_sd, replace(REQUEST, num_images=1), WORDS, on_step=stop)
    with torch.no_grad():
        after = pocket_sd.draw_text(text, generator=streams(1, num=1), num_inference_steps=3)
    assert torch.equal(before, after)
    after_weights = list(pocket_sd.unet.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, after_weights, strict=True))
    assert all(not p.requires_grad and p.grad is None for p in after_weights)
    assert not any(module._forward_hooks for module in pocket_sd.unet.modules())
