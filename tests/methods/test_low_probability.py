"""The search: its losses, the switching rule, the judge, resuming, and the sign of eq. 7."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.baseline import Baseline
from offbeat.core.density import AvoidCluster, GaussianDensity, PcaSpace
from offbeat.core.drawing import plain_concept, sample_concept
from offbeat.core.rng import stream, streams
from offbeat.errors import ConfigError, RangeError
from offbeat.judges.scripted import ScriptedJudge
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.losses import (
    anchor_loss,
    avoid_loss,
    creative_loss,
    novelty_loss,
)
from offbeat.methods.low_probability.method import LowProbability
from offbeat.methods.low_probability.spaces import ConceptSpace
from offbeat.types import Request

SMALL = LowProbabilityConfig(
    num_baseline=60, num_held_out=20, num_components=4, num_steps=6, num_probes=8, probe_every=2,
    judge_every=3, num_judged=1, lora_rank=2,
)  # fmt: skip
HANDBAG = Request(subject="handbag", seed=3)


@pytest.fixture(scope="module")
def space():
    noise = torch.randn(400, 6, generator=stream(0, "space"))
    return PcaSpace.fit(noise * torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1]) + 1, 3)


@pytest.fixture(scope="module")
def baseline(pocket):
    return LowProbability(SMALL).measure(pocket, HANDBAG)


def fit(pocket, baseline, config=SMALL, **kwargs):
    steps = []
    concept = LowProbability(config).fit(
        pocket, HANDBAG, baseline=baseline, on_step=steps.append, **kwargs
    )
    return concept, steps


def descend(loss, start, rate=0.05, count=20):
    point = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([point], lr=rate)
    for _ in range(count):
        optimizer.zero_grad()
        loss(point).backward()
        optimizer.step()
    return point.detach()


def test_the_creative_loss_goes_to_the_tail_and_its_gradient_is_the_gaussian_s(space):
    density = GaussianDensity(space)
    start = space.lift(torch.tensor([[1.0, -0.5, 0.3]])).requires_grad_()
    (gradient,) = torch.autograd.grad(creative_loss(start, density), start)
    expected = -(space.project(start) / space.variances) @ space.axes
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)
    after = descend(lambda e: creative_loss(e, density), start.detach())
    assert density.squared_distance(after) > density.squared_distance(start)


@pytest.mark.parametrize("radius", [0.5, 6.0])
def test_the_novelty_loss_ends_at_its_radius_from_either_side(space, radius):
    density = GaussianDensity(space)
    start = space.lift(torch.tensor([[2.0, 1.0, -0.5]]))
    after = descend(lambda e: novelty_loss(e, density, radius=radius), start, count=400)
    assert float(density.squared_distance(after).sqrt()) == pytest.approx(radius, rel=1e-2)


def test_avoiding_leaves_a_cluster_and_the_printed_sign_enters_it(space):
    samples = space.lift(torch.randn(200, 3, generator=stream(1, "cluster")) * 0.2 + 1)
    cluster = AvoidCluster.fit(space, samples)
    start = samples[:4] + 0.02
    before = cluster.squared_distance(start).mean()
    corrected = descend(lambda e: avoid_loss(e, [cluster]), start, rate=1e-3)
    printed = descend(lambda e: avoid_loss(e, [cluster], weight=-1.0), start, rate=1e-3)
    assert cluster.squared_distance(corrected).mean() > before
    assert cluster.squared_distance(printed).mean() < before


def test_a_cluster_that_was_left_pushes_no_more(space):
    cluster = AvoidCluster.fit(space, space.lift(torch.zeros(1, 3)))
    far = space.lift(torch.full((2, 3), 50.0)).requires_grad_()
    avoid_loss(far, [cluster]).backward()
    assert far.grad.abs().max() == 0
    avoid_loss(far, [cluster], weight=-1.0).backward()  # as printed, it draws in from anywhere
    assert (far.grad @ (far.detach() - space.mean)[0] > 0).all()


def test_nothing_to_avoid_costs_nothing(space):
    assert avoid_loss(torch.ones(2, 6), []) == 0


def test_the_anchor_loss_is_one_minus_cosine():
    embeds = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    torch.testing.assert_close(
        anchor_loss(embeds, torch.tensor([[2.0, 0]])), torch.tensor([0.0, 1, 2])
    )


def test_the_same_seed_gives_the_same_concept_and_weights_stay(pocket, baseline):
    weights = {n: p.clone() for n, p in pocket.fast_prior.prior.named_parameters()}
    first, steps = fit(pocket, baseline)
    second, _ = fit(pocket, baseline)
    assert [s.index for s in steps] == list(range(6))
    for name, factor in first.lora.items():
        assert torch.equal(factor, second.lora[name])
    assert torch.equal(first.token_embeds[first.word], second.token_embeds[second.word])
    for name, param in pocket.fast_prior.prior.named_parameters():
        assert torch.equal(param, weights[name])


def test_another_seed_gives_another_concept(pocket, baseline):
    first, _ = fit(pocket, baseline)
    other = LowProbability(SMALL).fit(pocket, replace(HANDBAG, seed=4), baseline=baseline)
    assert not torch.equal(first.token_embeds[first.word], other.token_embeds[other.word])


@pytest.mark.parametrize("space", ["subject", "adjective", "lora", "token+lora", "direct"])
def test_every_space_learns_what_it_says(pocket, baseline, space):
    concept, steps = fit(pocket, baseline, replace(SMALL, space=space, num_steps=2))
    assert bool(concept.token_embeds) == (space in ("subject", "adjective", "token+lora"))
    assert bool(concept.lora) == (space in ("lora", "token+lora"))
    assert (concept.image_embeds is not None) == (space == "direct")
    assert concept.metadata["stopped"] == steps[-1].values["stopped"] == "steps"


def test_the_search_brings_the_median_to_the_radius_and_stops(pocket, baseline):
    config = replace(
        SMALL, novelty=0.99, num_steps=200, num_probes=32, judge_every=500, use_anchor=False,
        learning_rate=3e-4, hold_tolerance=0.06,
    )  # fmt: skip
    concept, steps = fit(pocket, baseline, config)
    assert steps[-1].values["stopped"] == "held"
    reached = steps[-1].values["probe"]["distance_median"]
    assert reached == pytest.approx(baseline.radius(0.99), rel=config.hold_tolerance)
    assert int(concept.metadata["step"]) == len(steps) < 200


def test_published_and_unanchored_the_distance_grows(pocket, baseline):
    config = replace(SMALL, novelty=None, use_anchor=False, num_steps=12, learning_rate=1e-3)
    _, steps = fit(pocket, baseline, config)
    assert {s.values["branch"] for s in steps} == {"creative"}
    probes = [s.values["probe"]["distance_median"] for s in steps if s.values["probe"]]
    assert probes[-1] > 1.1 * probes[0]


def test_a_subject_of_two_tokens_starts_from_the_ordinary(pocket):
    request = Request(subject="fire handbag", seed=3)
    baseline = LowProbability(SMALL).measure(pocket, request)
    start = ConceptSpace("token+lora", pocket, request, rank=2, settings=SMALL.sampling(pocket))
    noise = [streams(0, "two", num=4) for _ in range(2)]
    with torch.no_grad():
        first = start.concept(start.initial(), {})
        learned = sample_concept(pocket, first, noise[0], **SMALL.sampling(pocket))
        plain = sample_concept(
            pocket, plain_concept(pocket, request), noise[1], **SMALL.sampling(pocket)
        )
    assert len(first.token_embeds[first.word]) == pocket.num_tokens("fire handbag") > 1
    torch.testing.assert_close(learned, plain, rtol=1e-4, atol=1e-4)
    assert baseline.prompt.endswith("fire handbag")


def test_the_summed_rule_adds_the_anchor_and_truncated_gradients_are_another_search(
    pocket, baseline
):
    summed, steps = fit(pocket, baseline, replace(SMALL, rule="sum", num_steps=2))
    assert {s.values["branch"] for s in steps} == {"sum"}
    full, _ = fit(pocket, baseline, replace(SMALL, num_steps=2))
    short, _ = fit(pocket, baseline, replace(SMALL, num_steps=2, gradient_steps=1))
    word = full.word
    assert not torch.equal(full.token_embeds[word], summed.token_embeds[word])
    assert not torch.equal(full.token_embeds[word], short.token_embeds[word])


def test_a_kernel_density_can_be_searched_too(pocket):
    config = replace(
        SMALL, density="kde", num_components=None, novelty=None, use_anchor=False,
        learning_rate=1e-3, num_steps=12,
    )  # fmt: skip
    kernel = LowProbability(config).measure(pocket, HANDBAG)
    assert kernel.space.num_components == 8
    _, steps = fit(pocket, kernel, config)
    probes = [s.values["probe"]["log_prob"] for s in steps if s.values["probe"]]
    assert probes[-1] < probes[0]


def noises_of(monkeypatch):
    """Record which noise each step takes."""
    from offbeat.methods.low_probability import search as module

    taken, plain = [], module.streams

    def recording(seed, *purpose, **kwargs):
        if purpose[0] == "prior":
            taken.append(purpose[1])
        return plain(seed, *purpose, **kwargs)

    monkeypatch.setattr(module, "streams", recording)
    return taken


def test_the_noise_is_kept_while_pulled_back_and_renewed_after_a_bound(
    pocket, baseline, monkeypatch
):
    taken = noises_of(monkeypatch)
    far = replace(baseline, anchor_mean=-1.0)  # a threshold that no sample meets
    config = replace(SMALL, max_pull_back=2)
    _, steps = fit(pocket, far, config)
    assert {s.values["branch"] for s in steps} == {"anchor"}
    assert taken == [0, 0, 1, 1, 2, 2]
    assert steps[-1].snapshot()["failed_pull_backs"] == 3


def test_the_noise_is_renewed_after_every_creative_step(pocket, baseline, monkeypatch):
    taken = noises_of(monkeypatch)
    near = replace(baseline, anchor_mean=2.0)  # a threshold that every sample meets
    fit(pocket, near)
    assert taken == [0, 1, 2, 3, 4, 5]


def test_the_judge_is_asked_in_time_and_a_no_returns_the_last_passing_state(pocket, baseline):
    judge = ScriptedJudge(answers=["yes", "no"])
    concept, steps = fit(pocket, baseline, replace(SMALL, num_steps=9, novelty=None), judge=judge)
    asked = [s.index for s in steps if s.values["verdict"]]
    assert asked == [2, 5]
    assert steps[-1].values["stopped"] == "judge"
    passing, _ = fit(pocket, baseline, replace(SMALL, num_steps=3, novelty=None))
    assert torch.equal(concept.token_embeds[concept.word], passing.token_embeds[passing.word])
    assert concept.metadata["step"] == "3"


def test_asking_the_judge_does_not_move_the_search(pocket, baseline):
    quiet, _ = fit(pocket, baseline)
    asked, _ = fit(pocket, baseline, judge=ScriptedJudge(answers=["yes"] * 9))
    assert torch.equal(quiet.token_embeds[quiet.word], asked.token_embeds[asked.word])


@pytest.mark.parametrize("at", [1, 4])
def test_a_search_resumed_from_any_snapshot_ends_the_same(pocket, baseline, at):
    whole, steps = [], []
    config = replace(SMALL, num_steps=6)

    def keep(step):
        steps.append(step)
        whole.append(step.snapshot())

    expected = LowProbability(config).fit(pocket, HANDBAG, baseline=baseline, on_step=keep)
    found, rest = fit(pocket, baseline, config, resume=whole[at])
    assert rest[0].index == at + 1
    assert torch.equal(found.token_embeds[found.word], expected.token_embeds[expected.word])
    for name, factor in expected.lora.items():
        assert torch.equal(found.lora[name], factor)
    assert rest[-1].loss == steps[-1].loss


def test_a_baseline_packed_and_unpacked_is_the_same(baseline):
    again = Baseline.unpack(*baseline.pack())
    samples = baseline.density.sample(5, generator=stream(0, "pack"))
    assert torch.equal(again.density.log_prob(samples), baseline.density.log_prob(samples))
    assert again.anchor_threshold(4) == baseline.anchor_threshold(4)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"novelty": 0.0}, RangeError),
        ({"novelty": 101.0}, RangeError),
        ({"quantile": 1.0}, RangeError),
        ({"quantile": 0.9, "reach": 2.0}, ConfigError),
        ({"novelty": float("nan")}, RangeError),
        ({"reach": -1.0}, RangeError),
        ({"num_baseline": 50, "num_components": 50}, ConfigError),
        ({"num_baseline": 8, "density": "kde"}, ConfigError),
        ({"space": "soul"}, ConfigError),
        ({"rule": "both"}, ConfigError),
        ({"num_steps": 0}, RangeError),
        ({"num_components": 0}, RangeError),
        ({"num_components": 20, "density": "kde"}, ConfigError),
        ({"num_holds": 0}, RangeError),
        ({"prior_guidance_scale": float("nan")}, RangeError),
        ({"max_grad_norm": float("nan")}, RangeError),
    ],
)
def test_bad_settings_are_refused_when_made(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        LowProbabilityConfig(**settings)
