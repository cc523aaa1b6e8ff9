"""A pipeline that the user built is a backbone, and what was changed in it counts."""

import pytest
import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, KandinskyV22PriorPipeline

import offbeat
import tiny
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, ConfigError


def pipe_of(folder):
    return DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["sd", "xl", "sd3", "flux", "chroma", "z-image"])
def test_a_pipeline_draws_the_same_through_a_backbone(tiny_of, kind):
    pipe = pipe_of(tiny_of(kind).name)
    pipe.set_progress_bar_config(disable=True)
    backbone = offbeat.load_backbone(pipe)
    backbone._card = {**backbone.card, "height": 16, "width": 16}
    settings = {"num_inference_steps": 3, "guidance_scale": 3.0}
    length = {"max_sequence_length": backbone.max_sequence_length} if "sd" != kind != "xl" else {}
    theirs = pipe(
        "a red pig",
        generator=stream(1),
        height=16,
        width=16,
        output_type="np",
        **settings,
        **length,
    ).images
    text = backbone.encode_text(["a red pig"])
    ours = backbone.draw_text(text, generator=stream(1), **settings)
    torch.testing.assert_close(
        ours, torch.from_numpy(theirs).permute(0, 3, 1, 2), atol=1e-4, rtol=0
    )


def test_what_the_user_changed_is_what_draws(tiny_of):
    pipe = pipe_of(tiny_of("sd").name)
    plain = offbeat.load_backbone(pipe)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    euler = offbeat.load_backbone(pipe)
    assert type(euler.scheduler).__name__ == "EulerDiscreteScheduler"
    assert euler.fingerprint != plain.fingerprint
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1.5)
    assert offbeat.load_backbone(pipe).fingerprint != euler.fingerprint
    run = offbeat.generate("a pig", backbone=pipe, num_images=1, num_inference_steps=2)
    assert run.request["fingerprint"] == offbeat.load_backbone(pipe).fingerprint
    other = offbeat.load_backbone(pipe, sampler="ddim")
    assert type(other.scheduler).__name__ == "DDIMScheduler"
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"  # the user's stays


def test_pipelines_that_cannot_be_taken_over_are_refused(tiny_of, tmp_path):
    folder = tiny.build(tmp_path / "k", "2.2")
    prior = KandinskyV22PriorPipeline.from_pretrained(folder / "prior", local_files_only=True)
    with pytest.raises(ConfigError, match="name its folder"):
        offbeat.load_backbone(prior)
    pipe = pipe_of(tiny_of("sd").name)
    with pytest.raises(ConfigError, match="where you load it"):
        offbeat.load_backbone(pipe, dtype="bfloat16")
    pipe.unet.to("meta")
    with pytest.raises(CheckpointError, match="before it is offloaded"):
        offbeat.load_backbone(pipe)
