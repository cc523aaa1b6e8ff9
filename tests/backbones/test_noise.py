"""Noise is drawn in float32 whatever the type of the weights: half types are other streams.

On some machines ``randn`` of a half type gives other numbers from the same seed. Here every draw in
a half type does, so that a test on any machine would show it.
"""

import pytest
import torch

import tiny
import tiny_flow
from offbeat import load_backbone
from offbeat.core.rng import normal, stream, streams

FORMS = {
    **{
        f"sd {name}": lambda folder, name=name: tiny.build_sd(
            folder, "sd", scheduler=name, adapter=False
        )
        for name in ("ddim", "lcm", "tcd", "euler-a")
    },
    "2.1": lambda folder: tiny.build(folder, "2.1"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "one-step": tiny.build_one_step,
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}


@pytest.fixture
def strange(monkeypatch):
    """Let half types draw from another stream, and say which were asked for."""
    asked, plain = [], torch.randn

    def randn(*shape, dtype=None, **settings):
        drawn = plain(*shape, **settings)
        if dtype in (torch.bfloat16, torch.float16):
            asked.append(dtype)
            drawn = -drawn
        return drawn if dtype is None else drawn.to(dtype)

    monkeypatch.setattr(torch, "randn", randn)
    return asked


@torch.no_grad()
def draw(backbone):
    text = backbone.encode_text(["a red castle"])
    settings = {"generator": streams(1, num=1), "num_inference_steps": 3}
    if hasattr(backbone, "fast_prior"):
        embeds = backbone.sample_prior(text, generator=stream(2), num_inference_steps=3)
        return backbone.decode_embeds(embeds, **settings)
    return backbone.draw_text(text, **settings)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("form", FORMS)
def test_another_type_draws_from_the_same_noise(tmp_path, strange, form, dtype):
    folder = FORMS[form](tmp_path / "model")
    plain = draw(load_backbone(folder, device="cpu"))
    half = draw(load_backbone(folder, device="cpu", dtype=dtype))
    assert strange == []
    assert half.dtype == torch.float32
    assert (half - plain).abs().mean() < 0.06


def test_noise_of_a_stream_is_that_of_diffusers(strange):
    from diffusers.utils.torch_utils import randn_tensor

    for generators in (lambda: stream(1), lambda: streams(1, num=3)):
        noise = normal((3, 4, 5), generators())
        assert noise.dtype == torch.float32
        assert torch.equal(noise, randn_tensor((3, 4, 5), generator=generators()))
