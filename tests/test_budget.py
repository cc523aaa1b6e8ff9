"""Network evaluations, counted where they happen."""

import pytest
import torch

from offbeat._pictures_out import draw, plain_concept_of
from offbeat.budget import counted
from offbeat.rng import streams

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
