"""The fast prior against the plain one: diffusers' pipelines, its module, and PEFT's adapter."""

import copy

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    KandinskyPriorPipeline,
    KandinskyV22PriorPipeline,
    UnCLIPScheduler,
)
from torch.utils._python_dispatch import TorchDispatchMode

import far
from offbeat.backbones.unclip import prior
from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.checkpoints.placement import Placement
from offbeat.core.rng import stream, streams
from offbeat.errors import CheckpointError, RangeError, ShapeError
from plain_prior import add_adapter, plain_sample

PROMPTS = ["a cat", "a somewhat longer picture of two dogs"]
NEGATIVE = "blurred"
STEPS = 4


@pytest.fixture(scope="module")
def pipeline(tiny_folder):
    version = KandinskyPriorPipeline if "2.1" in tiny_folder.name else KandinskyV22PriorPipeline
    pipe = version.from_pretrained(tiny_folder / "prior", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same(ours, theirs):
    assert theirs.abs().max() > 0.1
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_prompts_of_different_lengths_match_the_pipeline(tiny_backbone, pipeline, scale):
    theirs = pipeline(
        PROMPTS,
        num_images_per_prompt=2,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        generator=stream(0, "noise"),
    ).image_embeds
    text = tiny_backbone.encode_text([prompt for prompt in PROMPTS for _ in range(2)])
    ours = tiny_backbone.sample_prior(
        text,
        generator=stream(0, "noise"),
        num_inference_steps=STEPS,
        prior_guidance_scale=scale,
    )
    assert_same(ours, theirs)


@torch.no_grad()
def test_negative_prompt_and_a_generator_for_each_sample_match_the_pipeline(
    tiny_backbone, pipeline
):
    # the pipeline appends the negative prompts as samples of their own: it wants four generators
    theirs = pipeline(
        PROMPTS,
        negative_prompt=[NEGATIVE, "grey"],
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        generator=streams(0, "noise", num=4),
    ).image_embeds
    ours = tiny_backbone.sample_prior(
        tiny_backbone.encode_text(PROMPTS),
        negative=tiny_backbone.encode_text([NEGATIVE, "grey"]),
        generator=streams(0, "noise", num=2),
        num_inference_steps=STEPS,
        prior_guidance_scale=3.0,
    )
    assert_same(ours, theirs)


@torch.no_grad()
def test_pocket_matches_the_pipeline(pocket):
    from offbeat.checkpoints.known.unclip import POCKET

    pipe = KandinskyV22PriorPipeline.from_pretrained(POCKET / "prior", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "a picture of a pig",
        num_images_per_prompt=3,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=stream(0, "noise"),
    ).image_embeds
    ours = pocket.sample_prior(
        pocket.encode_text(["a picture of a pig"]),
        num_samples=3,
        generator=stream(0, "noise"),
        num_inference_steps=5,
        prior_guidance_scale=4.0,
    )
    assert_same(ours, theirs)


@torch.no_grad()
def test_a_sample_is_the_same_in_any_batch(tiny_backbone):
    text = tiny_backbone.encode_text(PROMPTS[:1])
    together = tiny_backbone.sample_prior(text, generator=streams(3, "noise", num=5), num_samples=5)
    alone = tiny_backbone.sample_prior(
        text, generator=streams(3, "noise", num=1, start=4), num_samples=1
    )
    assert_same(together[4:], alone)


@torch.no_grad()
def test_a_short_prompt_does_not_see_the_padding_of_a_long_one(tiny_backbone):
    noise = streams(3, "noise", num=2)
    both = tiny_backbone.sample_prior(tiny_backbone.encode_text(PROMPTS), generator=noise)
    alone = tiny_backbone.sample_prior(
        tiny_backbone.encode_text(PROMPTS[:1]), generator=streams(3, "noise", num=1)
    )
    assert_same(both[:1], alone)


def random_lora(backbone):
    factors = backbone.init_lora(3, generator=stream(0, "lora"))
    noise = stream(0, "lora", "B")
    return {
        name: (0.3 * torch.randn(factor.shape, generator=noise) if "lora_B" in name else factor)
        for name, factor in factors.items()
    }


def test_gradient_and_lora_match_the_plain_loop_with_peft(tiny_backbone):
    token = tiny_backbone.token_embed("cat").requires_grad_()
    negative = tiny_backbone.encode_text([""])
    factors = {name: factor.requires_grad_() for name, factor in random_lora(tiny_backbone).items()}
    weight = torch.randn(2, 32, generator=stream(0, "weight"))

    def encode():
        return tiny_backbone.encode_text(["a picture of a <x>"], tokens={"<x>": token})

    ours = tiny_backbone.sample_prior(
        encode(),
        generator=stream(5),
        num_samples=2,
        lora=factors,
        num_inference_steps=STEPS,
        prior_guidance_scale=3.0,
    )
    our_token, *our_factors = torch.autograd.grad((ours * weight).sum(), [token, *factors.values()])

    prior = copy.deepcopy(tiny_backbone.fast_prior.prior)
    adapter = add_adapter(prior, 3)
    assert adapter.keys() == factors.keys()
    for name, parameter in adapter.items():
        parameter.data.copy_(factors[name].detach())
    scheduler = copy.deepcopy(tiny_backbone.fast_prior.scheduler)
    theirs = plain_sample(
        prior,
        scheduler,
        encode(),
        negative,
        num_samples=2,
        steps=STEPS,
        scale=3.0,
        generator=stream(5),
    )
    assert_same(ours.detach(), theirs.detach())
    their_token, *their_factors = torch.autograd.grad(
        (theirs * weight).sum(), [token, *(adapter[name] for name in factors)]
    )
    assert_same(our_token, their_token)
    largest = max(float(gradient.abs().max()) for gradient in their_factors)
    for ours_, theirs_ in zip(our_factors, their_factors, strict=True):
        assert float((ours_ - theirs_).abs().max()) < 1e-4 * largest


@torch.no_grad()
def test_fresh_lora_changes_nothing_and_a_trained_one_does(tiny_backbone):
    text = tiny_backbone.encode_text(PROMPTS[:1])
    fresh = tiny_backbone.init_lora(3, generator=stream(0, "lora"))
    plain, with_fresh, with_trained = (
        tiny_backbone.sample_prior(text, generator=stream(1), lora=lora)
        for lora in (None, fresh, random_lora(tiny_backbone))
    )
    torch.testing.assert_close(with_fresh, plain, rtol=0, atol=0)
    assert float((with_trained - plain).abs().max()) > 0.01


def test_gradient_may_be_cut_to_the_last_steps(tiny_backbone):
    token = tiny_backbone.token_embed("cat").requires_grad_()
    found = {}
    for kept in (None, 1, STEPS):
        text = tiny_backbone.encode_text(["a <x>"], tokens={"<x>": token})
        embeds = tiny_backbone.sample_prior(
            text, generator=stream(0), num_inference_steps=STEPS, gradient_steps=kept
        )
        found[kept] = (embeds.detach(), torch.autograd.grad(embeds.square().sum(), token)[0])
    torch.testing.assert_close(found[1][0], found[None][0])
    torch.testing.assert_close(found[STEPS][1], found[None][1])
    assert not torch.allclose(found[1][1], found[None][1])


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_counts_that_do_not_fit_are_refused(tiny_backbone, scale):
    text = tiny_backbone.encode_text(PROMPTS)
    with pytest.raises(ShapeError, match="1 or 4 prompts, got 2"):
        tiny_backbone.sample_prior(
            text, generator=stream(0), num_samples=4, prior_guidance_scale=scale
        )
    with pytest.raises(RangeError, match="num_inference_steps"):
        tiny_backbone.sample_prior(text, generator=stream(0), num_inference_steps=1)
    with pytest.raises(ShapeError, match="generator"):
        tiny_backbone.sample_prior(text, generator=streams(0, num=3))


# --- what it costs


class Counted(TorchDispatchMode):
    """Counts operations, copies from the CPU to the far device and back, and waits for a number."""

    def __init__(self):
        super().__init__()
        self.operations = self.moved = self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operations += 1
        is_read = func is torch.ops.aten._local_scalar_dense.default
        self.waits += is_read and args[0].device.type == "meta"
        there = kwargs.get("device")
        if func is torch.ops.aten._to_copy.default and there is not None:
            self.moved += args[0].device.type != torch.device(there).type
        return func(*args, **kwargs)


def gradient(backbone, num=1, steps=5):
    """Take the gradient of one step of a search; return what it cost."""
    token = backbone.token_embed("cat").requires_grad_()
    factors = {name: factor.requires_grad_() for name, factor in random_lora(backbone).items()}
    text = backbone.encode_text(["a <x>"], tokens={"<x>": token})
    backbone.sample_prior(text, generator=stream(1))  # what is computed once is known now
    with Counted() as cost:
        embeds = backbone.sample_prior(
            text, generator=streams(0, num=num), num_samples=num, lora=factors,
            num_inference_steps=steps, prior_guidance_scale=4.0,
        )  # fmt: skip
        embeds.square().sum().backward()
    assert all(factor.grad is not None for factor in factors.values())
    return cost


@pytest.fixture(scope="module")
def in_type(tiny_folder):
    return {dtype: UnclipBackbone.load(tiny_folder, dtype=dtype)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)}  # fmt: skip


def test_half_types_and_more_samples_cost_hardly_more_operations(in_type):
    plain = gradient(in_type[torch.float32]).operations
    for dtype, backbone in in_type.items():
        for num in (1, 4, 12, 40):
            count = gradient(backbone, num).operations - 8 * num  # each sample has its own streams
            assert count < 1.3 * plain, (dtype, num)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_change_of_lora_too_small_for_a_half_type_counts(in_type, dtype):
    """Factors stay float32: a step of an optimizer is smaller than the numbers of a half type."""
    backbone = in_type[dtype]
    text = backbone.encode_text(PROMPTS[:1])
    lora = {name: factor.to(dtype).float() for name, factor in random_lora(backbone).items()}
    moved = {name: factor * (1 + torch.finfo(dtype).eps / 4) for name, factor in lora.items()}
    assert all(torch.equal(moved[name].to(dtype).float(), lora[name]) for name in lora)
    drawn = [backbone.sample_prior(text, generator=stream(1), lora=one) for one in (lora, moved)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_of_a_search_moves_little_and_waits_for_nothing(tiny_folder, dtype):
    """However many layers and steps: learned tensors are moved together, noise too."""
    backbone = UnclipBackbone.load(tiny_folder, dtype=dtype)
    with far.device():
        backbone.place(Placement(device="meta"))
        costs = [gradient(backbone, num=2, steps=steps) for steps in (3, 9)]
    assert [cost.waits for cost in costs] == [0, 0]
    assert costs[0].moved == costs[1].moved < 10


@torch.no_grad()
def test_every_type_draws_from_the_same_noise(in_type):
    drawn = {}
    for dtype, backbone in in_type.items():
        text = backbone.encode_text(PROMPTS[:1])
        drawn[dtype] = backbone.sample_prior(text, generator=streams(0, num=3), num_samples=3)
        drawn[dtype, "image"] = backbone.decode_embeds(drawn[torch.float32], generator=stream(2))
    scale = drawn[torch.float32].abs().mean()
    for dtype in (torch.bfloat16, torch.float16):
        assert (drawn[dtype] - drawn[torch.float32]).abs().mean() < 0.03 * scale
        image, plain = drawn[dtype, "image"], drawn[torch.float32, "image"]
        assert (image - plain).abs().mean() < 0.03
    other = in_type[torch.float32].decode_embeds(drawn[torch.float32], generator=stream(3))
    assert (other - drawn[torch.float32, "image"]).abs().mean() > 0.05  # the test would show it


@torch.no_grad()
@pytest.mark.parametrize("num", [17, 48, 61])
def test_many_samples_are_those_of_few(tiny_backbone, num):
    """Groups of them stand in one sequence, the last one not full."""
    text = tiny_backbone.encode_text(PROMPTS[:1])
    settings = {"num_inference_steps": STEPS, "prior_guidance_scale": 3.0}
    many = tiny_backbone.sample_prior(
        text, generator=streams(3, num=num), num_samples=num, **settings
    )
    for start in (0, 15, num - 2):
        few = tiny_backbone.sample_prior(
            text, generator=streams(3, num=2, start=start), num_samples=2, **settings
        )
        assert_same(many[start : start + 2], few)


@torch.no_grad()
def test_much_noise_is_drawn_step_by_step_and_the_same(tiny_backbone, monkeypatch):
    text = tiny_backbone.encode_text(PROMPTS)
    at_once = tiny_backbone.sample_prior(text, generator=stream(4))
    monkeypatch.setattr(prior, "MAX_NOISE", 0)
    assert torch.equal(tiny_backbone.sample_prior(text, generator=stream(4)), at_once)


def test_another_scheduler_is_refused(tiny_backbone):
    fast = tiny_backbone.fast_prior
    for scheduler in (
        DDPMScheduler(),
        UnCLIPScheduler(variance_type="learned_range", prediction_type="sample"),
    ):
        with pytest.raises(CheckpointError, match="expected an UnCLIPScheduler with prediction"):
            prior.FastPrior(fast.prior, scheduler)
