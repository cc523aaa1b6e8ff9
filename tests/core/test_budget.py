"""Network evaluations, counted where they happen."""

import pytest
import torch

import offbeat
from offbeat.core.budget import counted, metered, watch
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.core.rng import streams
from offbeat.types import Evaluations

DECODING = {"num_inference_steps": 3, "guidance_scale": 2.0}


def test_a_drawing_by_a_prior_counts_both_networks(tiny_backbone):
    concept = plain_concept_of("pig", tiny_backbone)
    with counted(tiny_backbone) as outer, counted(tiny_backbone) as spent:
        draw(tiny_backbone, concept, seed=0, num=2, decoding=DECODING)
        with torch.no_grad():  # more samples than the lean way takes
            text = tiny_backbone.encode_text(["a pig"])
            noise = streams(0, num=70)
            tiny_backbone.sample_prior(
                text, generator=noise, num_samples=70, prior_guidance_scale=1
            )
    assert spent.denoiser == 2 * 3 * 2  # pictures, steps, halves of guidance
    assert spent.prior == 2 * 3 * 2 + 70 * 3
    assert (spent.total, outer) == (spent.denoiser + spent.prior, spent)
    draw(tiny_backbone, concept, seed=0, num=1, decoding=DECODING)
    assert spent == outer  # nothing is counted outside
    assert not tiny_backbone.unet._forward_pre_hooks


@pytest.mark.parametrize(("scale", "halves"), [(1.0, 1), (2.0, 2)])
def test_a_drawing_from_text_counts_its_denoiser(tiny_sd, scale, halves):
    concept = plain_concept_of("pig", tiny_sd)
    with counted(tiny_sd) as spent:
        draw(tiny_sd, concept, seed=0, num=3, decoding={**DECODING, "guidance_scale": scale})
    assert (spent.denoiser, spent.prior) == (3 * 3 * halves, 0)


def test_an_error_leaves_no_hook(tiny_sd):
    with pytest.raises(KeyboardInterrupt), counted(tiny_sd):
        raise KeyboardInterrupt
    assert not tiny_sd.unet._forward_pre_hooks


def test_what_cannot_count_says_none():
    with counted(object()) as spent:
        assert spent is None


def test_every_verb_says_what_it_cost_and_a_folder_does_not(tiny_sd_folder, tmp_path):
    run = offbeat.generate(
        "a pig", num_images=2, num_inference_steps=3, guidance_scale=2.0,
        backbone=tiny_sd_folder, out=tmp_path / "run",
    )  # fmt: skip
    assert run.evaluations == Evaluations(denoiser=2 * 3 * 2)
    assert offbeat.load_run(tmp_path / "run").evaluations is None


def test_a_meter_counts_each_backbone_once_and_all_or_nothing(tiny_sd):
    concept = plain_concept_of("pig", tiny_sd)
    with metered() as outer, metered() as meter:
        assert meter.spent is None
        watch(tiny_sd)
        watch(tiny_sd)
        draw(tiny_sd, concept, seed=0, num=1, decoding=DECODING)
    assert meter.spent == outer.spent == Evaluations(denoiser=3 * 2)
    with metered() as meter:
        watch(tiny_sd)
        watch(object())
    assert meter.spent is None
    watch(tiny_sd)  # nobody counts: nothing happens
    assert not tiny_sd.unet._forward_pre_hooks
