"""The estimate of the clean latents, held against that of diffusers' own schedulers."""

import pytest
import torch

import tiny
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, RangeError
from offbeat.protocols import DenoisingBackbone

STEPS = 4
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")

    def load(scheduler, prediction):
        where = folder / f"{scheduler}-{prediction}"
        if not where.exists():
            settings = {"scheduler": scheduler, "prediction": prediction, "adapter": False}
            tiny.build_sd(where, "sd", **settings)
        return StableDiffusionBackbone.load(where)

    return load


def walk(backbone, **more):
    text = backbone.encode_text(["a red pig"])
    settings = {"num_inference_steps": STEPS, "guidance_scale": 3.0, **more}
    noise = streams(3, num=2)
    start = backbone.init_latents(noise, num_inference_steps=STEPS)
    return start, text, settings, noise


@torch.no_grad()
@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [("ddim", "epsilon"), ("ddim", "v_prediction"), ("ddim", "sample"), ("euler", "epsilon"),
     ("euler", "v_prediction")],
)  # fmt: skip
def test_it_is_the_scheduler_s_own_estimate_at_every_step(model, scheduler, prediction):
    backbone = model(scheduler, prediction)
    latents, text, settings, noise = walk(backbone)
    theirs, step_of = [], backbone.scheduler.step

    def step(*args, **kwargs):
        theirs.append((args[2], step_of(*args, **kwargs)))
        return theirs[-1][1]

    backbone.scheduler.step = step
    told = []
    end = backbone.denoise(
        latents, text, generator=noise, on_clean=lambda *seen: told.append(seen), **settings
    )
    assert isinstance(backbone, DenoisingBackbone)
    assert [number for number, _ in told] == list(range(STEPS))
    assert len(theirs) == STEPS  # the network is not asked again
    for number, (before, output) in enumerate(theirs):
        ours = backbone.predict_clean(before, text, step=number, **settings)
        for clean in (ours, told[number][1]):
            torch.testing.assert_close(clean, output.pred_original_sample, rtol=1e-4, atol=1e-3)
    if scheduler == "euler":  # its last step leads to no noise: the estimate is the end itself
        torch.testing.assert_close(ours, end, rtol=1e-4, atol=1e-3)
    with pytest.raises(RangeError, match="step"):
        backbone.predict_clean(end, text, step=STEPS, **settings)


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["pndm", "euler", "lcm"])
def test_looking_disturbs_no_denoising(model, scheduler):
    backbone = model(scheduler, "epsilon")
    latents, text, settings, _ = walk(backbone)
    seen = []

    def look(step, now):
        if step + 1 < STEPS:
            seen.append(backbone.predict_clean(now, text, step=step + 1, **settings))
        return now

    quiet = backbone.denoise(latents, text, generator=streams(3, num=2), **settings)
    looked = backbone.denoise(
        latents, text, generator=streams(3, num=2), after_step=look, **settings
    )
    assert len(seen) == STEPS - 1
    assert torch.equal(quiet, looked)


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "lcm", "pndm"])
def test_a_walk_in_pieces_is_the_walk_in_one_or_is_refused(model, scheduler):
    backbone = model(scheduler, "epsilon")
    assert isinstance(backbone, DenoisingBackbone)
    sampler = backbone.sampler_in_pieces
    assert sampler == ("ddim" if scheduler == "pndm" else "own")
    latents, text, settings, _ = walk(backbone, sampler=sampler)
    whole = backbone.denoise(latents, text, generator=streams(3, num=2), **settings)
    pieces, noise = latents, streams(3, num=2)
    for step in range(STEPS):
        pieces = backbone.denoise(
            pieces, text, generator=noise, start=step, stop=step + 1, **settings
        )
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)
    if scheduler == "pndm":
        with pytest.raises(ConfigError, match="remembers earlier steps"):
            backbone.denoise(
                latents, text, generator=noise, stop=2, **{**settings, "sampler": "own"}
            )
