"""Pictures to pictures, and inpainting by blending, as the pipelines of diffusers do both."""

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    DPMSolverMultistepScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from offbeat import load_backbone
from offbeat.backbones.redraw import Redraw
from offbeat.checkpoints.placement import Placement, sampler_like
from offbeat.core.drawing import draw as drawn
from offbeat.core.drawing import plain_concept_of
from offbeat.core.rng import stream, streams
from offbeat.core.samplers import SAMPLERS
from offbeat.errors import ConfigError, RangeError, ShapeError

PROMPT, STEPS = "a red pig", 5
KINDS = ["sd", "xl", "sd3", "flux"]


@pytest.fixture
def images(tiny_of):
    def of(backbone):
        sides = backbone.card["height"], backbone.card["width"]
        return torch.rand(1, 3, *sides, generator=stream(3))

    return of


@pytest.fixture
def mode_alone(monkeypatch):
    """Let a pipeline take the most probable latents of a picture, as Offbeat does."""
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )


def draw(backbone, redraw, **settings):
    text = backbone.encode_text([PROMPT])
    return backbone.draw_text(
        text, generator=stream(1), num_inference_steps=STEPS, guidance_scale=4.0, redraw=redraw,
        **settings,
    )  # fmt: skip


def pipeline(auto, backbone):
    pipe = auto.from_pretrained(backbone.name, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_with(pipe, backbone, image, **settings):
    if "mask_image" in settings or "Flux" in type(pipe).__name__:
        settings |= {"height": image.shape[2], "width": image.shape[3]}
    if "max_sequence_length" in backbone.card:
        settings["max_sequence_length"] = backbone.card["max_sequence_length"]
    images = pipe(
        PROMPT, image=image, generator=stream(1), num_inference_steps=STEPS, guidance_scale=4.0,
        output_type="np", **settings,
    ).images  # fmt: skip
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_drawn_anew_as_by_the_pipeline(tiny_of, images, mode_alone, kind, strength):
    backbone = tiny_of(kind)
    image = images(backbone)
    ours = draw(backbone, Redraw(image, strength))
    theirs = draw_with(
        pipeline(AutoPipelineForImage2Image, backbone), backbone, image, strength=strength
    )
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    if strength < 1:  # a flow forgets the picture then
        assert float((ours - draw(backbone, None)).abs().max()) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("kind", ["sd", "xl", "flux"])
def test_a_masked_part_is_drawn_anew_as_by_the_pipeline(
    tiny_of, images, mode_alone, kind, strength
):
    backbone = tiny_of(kind)
    image = images(backbone)
    mask = torch.zeros(1, 1, *image.shape[-2:])
    mask[..., image.shape[-1] // 2 :] = 1
    ours = draw(backbone, Redraw(image, strength, mask))
    theirs = draw_with(
        pipeline(AutoPipelineForInpainting, backbone), backbone, image,
        mask_image=mask, strength=strength,
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    plain = backbone.decode(backbone.encode_latents(image))
    kept, changed = (ours - plain).abs().mean(dim=(0, 1, 2)).chunk(2)
    assert float(kept.mean()) < 0.9 * float(changed.mean())
    assert torch.equal(ours, draw(backbone, Redraw(image, strength, mask)))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["2.2", "sd", "flux"])
def test_a_picture_that_is_redrawn_does_not_depend_on_its_batch(tiny_of, images, kind):
    backbone = tiny_of(kind)
    redraw = Redraw(images(backbone), 0.7)

    def drawn(num):
        noise = streams(2, num=num)
        if kind == "2.2":
            embeds = torch.randn(num, 32, generator=stream(0))
            return backbone.decode_embeds(embeds, generator=noise, redraw=redraw)
        return backbone.draw_text(backbone.encode_text([PROMPT]), generator=noise, redraw=redraw)

    five = drawn(5)
    assert not torch.equal(five[0], five[1])
    torch.testing.assert_close(five[:1], drawn(1), rtol=0, atol=1e-3)


def test_what_cannot_be_redrawn_is_refused(tiny_of):
    backbone = tiny_of("sd")
    with pytest.raises(RangeError, match=r"strength: expected 0.2 or more with 5 steps, got 0.1"):
        draw(backbone, Redraw(torch.zeros(1, 3, 16, 16), 0.1))
    with pytest.raises(ShapeError, match="multiples of 2"):
        draw(backbone, Redraw(torch.zeros(1, 3, 15, 16)))
    with pytest.raises(ShapeError, match="mask"):
        Redraw(torch.zeros(1, 3, 16, 16), mask=torch.zeros(1, 1, 8, 16))


# --- samplers ---------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("strength", [None, 0.7])
def test_a_sampler_by_name_is_that_scheduler_in_the_pipeline(tiny_of, images, mode_alone, strength):
    folder = tiny_of("sd").name
    backbone = load_backbone(folder, sampler="DPM++ 2M Karras")
    assert backbone.fingerprint == tiny_of("sd").fingerprint
    assert backbone.numerics["sampler"] == "dpm++-2m-karras"
    pipe = pipeline(AutoPipelineForImage2Image, backbone)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True
    )
    image = images(backbone)
    theirs = draw_with(pipe, backbone, image, strength=strength or 1.0)
    redraw = Redraw(image, strength or 1.0)
    torch.testing.assert_close(draw(backbone, redraw), theirs, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["2.2", "sd", "flux"])
def test_every_sampler_draws_or_says_why_not(tiny_of, kind):
    backbone = load_backbone(tiny_of(kind).name)
    own, seen = backbone.scheduler, set()
    for spec in SAMPLERS.values():
        if kind == "flux" and not spec.flows:
            with pytest.raises(ConfigError, match=r"does not walk along a flow.*euler"):
                sampler_like(own, spec)
            continue
        backbone.scheduler = sampler_like(own, spec)
        concept = plain_concept_of("pig", backbone)
        images = drawn(backbone, concept, seed=1, num=1, decoding={"num_inference_steps": 6})
        assert bool(images.isfinite().all())
        seen.add(images.numpy().tobytes())
    assert len(seen) > (3 if kind == "flux" else 15)


@torch.no_grad()
def test_a_sampler_draws_a_picture_alike_in_any_batch_and_twice(tiny_of):
    backbone = load_backbone(tiny_of("sd").name, sampler="euler a")
    text = backbone.encode_text([PROMPT])
    three, one = (backbone.draw_text(text, generator=streams(4, num=n)) for n in (3, 1))
    torch.testing.assert_close(three[:1], one, rtol=0, atol=1e-4)


def test_a_sampler_that_there_is_not_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigError, match=r"euler-a, dpm\+\+-2m.*'fast'"):
        Placement(sampler="fast")


# --- guiders ----------------------------------------------------------------------------------


def guided(tiny_of, kind, guider, num=1, **settings):
    backbone = load_backbone(tiny_of(kind).name, guider=guider)
    noise = streams(4, num=num)
    told = {"num_inference_steps": 5, "guidance_scale": 4.0, **settings}
    with backbone.counting() as evaluations:
        if kind == "2.2":
            embeds = torch.randn(num, 32, generator=stream(0))
            return backbone.decode_embeds(embeds, generator=noise, **told), evaluations.denoiser
        text = backbone.encode_text([PROMPT])
        negative = backbone.encode_text(["blue"]) if kind == "flux" else None
        images = backbone.draw_text(text, generator=noise, negative=negative, **told)
    return images, evaluations.denoiser


@torch.no_grad()
@pytest.mark.parametrize("kind", ["2.2", "sd", "xl", "sd3", "flux"])
def test_guiders_change_the_picture_and_their_zero_does_not(tiny_of, kind):
    plain, asked = guided(tiny_of, kind, None)
    for zero in ("apg:momentum=0,eta=1,rescale=0", "interval:start=0,stop=1", "cads:scale=0"):
        images, _ = guided(tiny_of, kind, zero)
        torch.testing.assert_close(images, plain, rtol=0, atol=3e-4)
    for guider in (
        "apg",
        "apg-mix:start_step=1",
        "cfg-zero",
        "tcfg",
        "cads",
        "interval:start=0.2,stop=0.6",
    ):
        images, evaluations = guided(tiny_of, kind, guider)
        assert float((images - plain).abs().max()) > 6e-4, guider
        assert evaluations == (7 if guider.startswith("interval") else asked), guider


@torch.no_grad()
@pytest.mark.parametrize("guider", ["apg", "cads", "apg-mix"])
def test_a_guided_picture_does_not_depend_on_its_batch_and_is_the_same_again(tiny_of, guider):
    three, _ = guided(tiny_of, "sd", guider, num=3)
    one, _ = guided(tiny_of, "sd", guider)
    torch.testing.assert_close(three[:1], one, rtol=0, atol=1e-4)


def test_a_guider_that_there_is_not_is_refused_with_those_that_there_are():
    for text, said in (
        ("pag", "apg-mix"),
        ("apg:strength=1", "momentum"),
        ("apg:eta=x", "a number"),
        ("interval", "start=0.2,stop=0.8"),
        ("interval:start=2", "between 0.0 and 1.0"),
        ("cads:tau1=0.95", "tau1 <= tau2"),
    ):
        with pytest.raises(ConfigError, match=said):
            Placement(guider=text)
