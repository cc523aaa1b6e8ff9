"""DDIM inversion: the exact mirror of the scheduler's step, and pictures found again."""

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

import tiny
from offbeat.backbones import inversion
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, RangeError, ShapeError
from offbeat.protocols import DenoisingBackbone

PREDICTIONS = ["epsilon", "v_prediction", "sample"]
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def invert(predict, ddim, latents, num_refinements):
    factors = inversion.ddim_factors(ddim, latents)
    return inversion.walk_back(predict, ddim.timesteps, factors, latents, num_refinements)


def ddim(prediction="epsilon", steps=7, **settings):
    plain = DDIMScheduler(prediction_type=prediction, steps_offset=1, **BETAS, **settings)
    found = inversion.ddim_of(plain)
    found.set_timesteps(steps)
    return found


def walk(scheduler, latents, predict):
    for step, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(predict(latents, timestep, step), timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("settings", [{}, {"set_alpha_to_one": False},
                                      {"timestep_spacing": "trailing"}])  # fmt: skip
def test_what_is_denoised_is_found_again_to_the_last_digits(prediction, settings):
    scheduler = ddim(prediction, **settings)
    noise = torch.randn(2, 4, 3, 3, generator=stream(0)).double()
    told = torch.randn(7, 2, 4, 3, 3, generator=stream(1)).double()

    def predict(latents, timestep, step):
        return told[step]

    end = walk(scheduler, noise, predict)
    way = invert(predict, scheduler, end, 0)
    assert way.shape == (8, 2, 4, 3, 3)
    torch.testing.assert_close(way[0], noise, rtol=1e-5, atol=1e-5)
    assert torch.equal(way[-1], end)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_refinement_mirrors_a_prediction_that_depends_on_the_latents(prediction):
    scheduler = ddim(prediction, steps=20)
    noise = torch.randn(2, 4, 3, 3, generator=stream(0)).double()

    def predict(latents, timestep, step):
        return 0.05 * latents + 0.02 * latents.roll(1, 1)

    end = walk(scheduler, noise, predict)
    errors = [
        float((invert(predict, scheduler, end, times)[0] - noise).abs().max()) for times in (0, 30)
    ]
    assert errors[0] > 1e-3
    assert errors[1] < 1e-5


def test_noise_without_any_signal_can_be_reached():
    zero = ddim("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    assert float(zero.alphas_cumprod[-1]) < 1e-6
    told = torch.randn(7, 1, 1, 2, 2, generator=stream(1))
    noise = torch.randn(1, 1, 2, 2, generator=stream(0))
    end = walk(zero, noise, lambda x, t, step: told[step])
    way = invert(lambda x, t, step: told[step], zero, end, 0)
    torch.testing.assert_close(way[0], noise, rtol=1e-4, atol=1e-4)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(CheckpointError, match="got 'flow'"):
        inversion.step_factors(torch.tensor(0.5), torch.tensor(0.6), "flow")


@torch.no_grad()
def test_it_is_the_inverse_scheduler_of_diffusers(tiny_sd):
    images = torch.rand(2, 3, 16, 16, generator=stream(0))
    text = tiny_sd.encode_text(["a pig"])
    way = tiny_sd.invert(images, text, num_inference_steps=5)
    theirs = DDIMInverseScheduler.from_config(tiny_sd.scheduler.config)
    theirs.set_timesteps(5)
    latents = tiny_sd.encode_latents(images)
    predict, _ = tiny_sd._predictor(latents, text, None, 1.0)
    for timestep in theirs.timesteps:
        latents = theirs.step(predict(latents, timestep, 0), timestep, latents).prev_sample
    torch.testing.assert_close(way[0], latents, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_picture_is_drawn_again(tiny_sd, guidance_scale):
    images = torch.rand(2, 3, 16, 16, generator=stream(0))
    text, negative = tiny_sd.encode_text(["a pig"]), tiny_sd.encode_text(["bad"])
    settings = {"num_inference_steps": 10, "guidance_scale": guidance_scale, "negative": negative}
    errors = []
    for times in (0, 20):
        way = tiny_sd.invert(images, text, num_refinements=times, **settings)
        torch.testing.assert_close(way[-1], tiny_sd.encode_latents(images))
        again = tiny_sd.denoise(way[0], text, generator=stream(1), sampler="ddim", **settings)
        errors.append(float((again - way[-1]).abs().max()))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]


@torch.no_grad()
def test_a_pinned_stream_is_the_stored_way(tiny_sd):
    images = torch.rand(1, 3, 16, 16, generator=stream(0))
    text = tiny_sd.encode_text(["a pig"])
    way = tiny_sd.invert(images, text, num_inference_steps=4)
    start = torch.cat([way[0], tiny_sd.init_latents(stream(2))])
    seen = []

    def pin(step, latents):
        seen.append(step)
        return torch.cat([way[step + 1], latents[1:]])

    settings = {"generator": stream(1), "num_inference_steps": 4, "sampler": "ddim"}
    both = tiny_sd.denoise(start, text, after_step=pin, **settings)
    assert torch.equal(both[:1], way[-1])
    assert seen == [0, 1, 2, 3]
    free = tiny_sd.denoise(start[1:], text, **settings)
    torch.testing.assert_close(both[1:], free, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("scheduler", ["pndm", "euler"])
def test_a_checkpoint_of_another_scheduler_is_inverted_by_ddim(tmp_path, scheduler):
    folder = tiny.build_sd(tmp_path / "model", "sd", scheduler=scheduler, adapter=False)
    backbone = StableDiffusionBackbone.load(folder)
    images = torch.rand(1, 3, 16, 16, generator=stream(0))
    text = backbone.encode_text(["a pig"])
    way = backbone.invert(images, text, num_inference_steps=6, num_refinements=20)
    settings = {"generator": stream(1), "num_inference_steps": 6, "guidance_scale": 1.0}
    again = backbone.denoise(way[0], text, sampler="ddim", **settings)
    torch.testing.assert_close(again, way[-1], rtol=0, atol=1e-3)
    own = backbone.denoise(way[0], text, **settings)
    assert float((own - again).abs().max()) > 1e-3


@torch.no_grad()
def test_pocket_finds_its_own_picture_again(pocket_sd):
    text = pocket_sd.encode_text(["a picture of a castle"])
    images = pocket_sd.draw_text(text, generator=stream(1), num_inference_steps=20)
    ceiling = pocket_sd.decode(pocket_sd.encode_latents(images))
    settings = {"num_inference_steps": 30, "guidance_scale": 1.0}
    psnr = []
    for times in (0, 3):
        way = pocket_sd.invert(images, text, num_refinements=times, **settings)
        again = pocket_sd.denoise(way[0], text, generator=stream(1), sampler="ddim", **settings)
        psnr.append(float(-10 * (pocket_sd.decode(again) - ceiling).square().mean().log10()))
    assert psnr[1] > max(psnr[0], 30), psnr
    assert psnr[0] > 12, psnr


def test_bad_settings_are_refused(tiny_sd):
    assert isinstance(tiny_sd, DenoisingBackbone)
    text = tiny_sd.encode_text(["x"])
    with pytest.raises(ShapeError, match="multiples of 2"):
        tiny_sd.invert(torch.zeros(1, 3, 15, 16), text)
    with pytest.raises(RangeError, match="num_refinements"):
        tiny_sd.invert(torch.zeros(1, 3, 16, 16), text, num_refinements=-1)
    with pytest.raises(RangeError, match="num_inference_steps"):
        tiny_sd.invert(torch.zeros(1, 3, 16, 16), text, num_inference_steps=1001)


@torch.no_grad()
def test_noise_is_added_to_the_level_of_a_step(tiny_sd):
    noise = [stream(3)]
    clean = torch.randn(1, 4, 8, 8, generator=stream(4))
    drawn = torch.randn(1, 4, 8, 8, generator=stream(5))
    tiny_sd.init_latents(noise, num_inference_steps=4)
    alpha = tiny_sd.scheduler.alphas_cumprod[int(tiny_sd.scheduler.timesteps[2])]
    expected = alpha.sqrt() * clean + (1 - alpha).sqrt() * drawn
    found = tiny_sd.add_noise(clean, drawn, step=2, num_inference_steps=4)
    torch.testing.assert_close(found, expected)
    assert torch.equal(tiny_sd.add_noise(clean, drawn, step=4, num_inference_steps=4), clean)
    with pytest.raises(RangeError, match="step"):
        tiny_sd.add_noise(clean, drawn, step=5, num_inference_steps=4)


@torch.no_grad()
def test_the_network_can_be_shown_other_latents_than_the_step_goes_on_from(tiny_sd):
    text, noise = tiny_sd.encode_text(["a pig"]), [stream(3)]
    latents = tiny_sd.init_latents(noise, num_inference_steps=3)
    other = tiny_sd.init_latents([stream(8)], num_inference_steps=3)
    common = {"generator": noise, "num_inference_steps": 3, "guidance_scale": 1.0, "stop": 1}
    plain = tiny_sd.denoise(latents, text, **common)
    shown = tiny_sd.denoise(latents, text, model_input=lambda step, x: other, **common)
    moved = tiny_sd.denoise(other, text, **common)
    assert not torch.equal(shown, plain)
    # a DDIM step is linear: the same prediction, so what differs is what the step goes on from
    back = tiny_sd.denoise(other, text, model_input=lambda step, x: latents, **common)
    torch.testing.assert_close(shown - plain, moved - back, rtol=0, atol=1e-5)
