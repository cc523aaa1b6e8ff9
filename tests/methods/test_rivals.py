"""The simple rivals' own mathematics, and what each must do beside drawing."""

from dataclasses import replace

import pytest
import torch

import tiny
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.budget import counted
from offbeat.core.rng import stream, streams
from offbeat.errors import CapabilityError, ConfigError, PromptError, RangeError
from offbeat.judges.scripted import ScriptedJudge
from offbeat.methods.rivals.adaptive_negatives import (
    AdaptiveNegatives,
    AdaptiveNegativesConfig,
    joined,
)
from offbeat.methods.rivals.best_of_n import BestOfN, BestOfNConfig, unusualness
from offbeat.methods.rivals.cads import CADS, CadsConfig, annealing, corrupted
from offbeat.methods.rivals.guidance_interval import (
    GuidanceInterval,
    GuidanceIntervalConfig,
    noise_level,
)
from offbeat.methods.rivals.high_guidance import HighGuidance, HighGuidanceConfig
from offbeat.methods.rivals.interpolation import (
    Interpolation,
    InterpolationConfig,
    between,
    texts_between,
)
from offbeat.methods.rivals.raw_prompt import RawPrompt, RawPromptConfig
from offbeat.methods.rivals.seed_variance import SeedVariance, SeedVarianceConfig, farthest_first
from offbeat.types import Request, Scores, Verdict

REQUEST = Request(subject="handbag", num_images=2, seed=4)


@pytest.fixture(scope="module")
def tiny_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals") / "sd"
    return StableDiffusionBackbone.load(tiny.build_sd(folder, "sd", adapter=False))


@torch.no_grad()
def ordinary(backbone, prompt="a picture of a handbag", **settings):
    text = backbone.encode_text([prompt])
    noise = streams(REQUEST.seed, "image", "decoder", num=REQUEST.num_images)
    return backbone.draw_text(text, generator=noise, **settings).cpu()


def same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# --- words and scales


def test_a_raw_prompt_is_drawn_as_it_is_from_the_ordinary_noise(tiny_only):
    drawn = RawPrompt().draw(tiny_only, REQUEST)
    same(drawn, ordinary(tiny_only, "a picture of a creative handbag"))
    pair = RawPrompt().mix(tiny_only, REQUEST, ("owl", "pig"))
    same(pair, ordinary(tiny_only, "a picture of a mixture of an owl and a pig"))
    with pytest.raises(PromptError, match="subject"):
        RawPromptConfig(phrase="creative")
    with pytest.raises(PromptError, match="second"):
        RawPromptConfig(mixture="{first}")


def test_high_guidance_is_the_ordinary_drawing_with_another_scale(tiny_only):
    drawn = HighGuidance(HighGuidanceConfig(times=2)).draw(tiny_only, REQUEST)
    same(drawn, ordinary(tiny_only, guidance_scale=6.0))
    with pytest.raises(RangeError):
        HighGuidanceConfig(times=0)


# --- interpolation


@pytest.mark.parametrize("way", ["linear", "spherical"])
def test_the_ends_are_the_words_and_the_middle_is_worked_out_by_hand(way):
    first, second = torch.eye(2)[None, :1], torch.eye(2)[None, 1:]
    assert torch.equal(between(first, second, 0.0, way), first)
    assert torch.equal(between(first, second, 1.0, way), second)
    middle = {"linear": 0.5, "spherical": 0.5**0.5}[way]
    same(between(first, second, 0.5, way), torch.full((1, 1, 2), middle))


@pytest.mark.parametrize(("space", "form"), [("text", "tiny_only"), ("text", "pocket"),
                                             ("image", "pocket")])  # fmt: skip
def test_all_of_one_word_draws_that_word(space, form, request):
    backbone = request.getfixturevalue(form)
    method = Interpolation(InterpolationConfig(space=space))
    asked = replace(REQUEST, num_images=1, weights=(("owl", 0.0), ("a fire truck", 1.0)))
    drawn = method.mix(backbone, asked, ("owl", "fire truck"))
    alone = RawPrompt(RawPromptConfig(phrase="{subject}")).draw(
        backbone, replace(asked, subject="fire truck")
    )
    torch.testing.assert_close(drawn, alone, rtol=0, atol=1e-3)


def test_a_text_between_has_the_positions_of_both(tiny_only):
    texts = tiny_only.encode_text(["an owl", "a picture of a fire truck"])
    found = texts_between(texts, 0.5, "linear")
    assert len(found) == 1
    assert torch.equal(found.text_mask, texts.text_mask.any(dim=0, keepdim=True))
    same(found.text_embeds, texts.text_embeds.mean(dim=0, keepdim=True))


def test_image_embeddings_need_a_prior(tiny_only):
    method = Interpolation(InterpolationConfig(space="image"))
    with pytest.raises(CapabilityError, match="sample_prior"):
        method.mix(tiny_only, REQUEST, ("owl", "pig"))
    with pytest.raises(ConfigError, match="one of text, image"):
        InterpolationConfig(space="pixels")


# --- choices


def test_farthest_first_is_worked_out_by_hand():
    angles = torch.tensor([0.0, 10.0, 180.0, 90.0]).deg2rad()
    embeds = torch.stack([angles.cos(), angles.sin()], dim=1)
    order, far = farthest_first(embeds, 4)
    assert order == [0, 2, 3, 1]
    assert far == pytest.approx([2, 2, 1, 0.015192], abs=1e-5)
    assert farthest_first(embeds, 2)[0] == order[:2]
    twins = torch.ones(3, 2)
    assert sorted(farthest_first(twins, 3)[0]) == [0, 1, 2]


def test_a_pool_smaller_than_the_wish_is_refused(pocket_sd):
    method = SeedVariance(SeedVarianceConfig(num_seeds=3))
    with pytest.raises(ConfigError, match="at least 4"):
        method.draw(pocket_sd, REQUEST, start=2)


class Darkness:
    """A metric worked out by hand: the darker the better."""

    name, better, needs = "darkness", "lower", ()

    def __init__(self, per_image=True):
        self.per_image = per_image

    def score(self, images, *, texts=None, references=None):
        values = tuple(float(image.mean()) for image in images)
        values = values if self.per_image else values[:1]
        return Scores(
            name=self.name, values=values, per_image=self.per_image, mean=0.0, interval=(0.0, 0.0),
            better=self.better, checkpoint="none",
        )  # fmt: skip


def test_the_best_of_n_by_a_metric_is_never_worse_than_the_ordinary(pocket_sd):
    method = BestOfN(BestOfNConfig(num=2, metric="darkness"))
    assert method.wants_metric == "darkness"
    with pytest.raises(ConfigError, match="must be given"):
        method.draw(pocket_sd, REQUEST)
    told = []
    with counted(pocket_sd) as spent:
        drawn = method.with_metric(Darkness()).draw(pocket_sd, REQUEST, on_step=told.append)
    assert spent.total == 2 * 2 * 20 * 2  # pictures, candidates, steps, halves of guidance
    plain = ordinary(pocket_sd)
    for row, chosen in enumerate(told[0].values["chosen"]):
        assert float(drawn[row].mean()) <= float(plain[row].mean()) + 1e-4
        if chosen == 0:
            torch.testing.assert_close(drawn[row], plain[row], rtol=0, atol=1e-3)
    assert any(told[0].values["chosen"])
    with pytest.raises(ConfigError, match="one number of all"):
        method.with_metric(Darkness(per_image=False)).draw(pocket_sd, REQUEST)


def test_a_refused_candidate_loses_to_any_that_is_passed(pocket_sd):
    class Third:
        def still_a(self, images, subject):
            answers = ["no", "no", "yes"]
            return [Verdict(answer, 1.0, "third") for answer in answers]

    told = []
    BestOfN(BestOfNConfig(num=3)).draw(
        pocket_sd, replace(REQUEST, num_images=1), judge=Third(), on_step=told.append
    )
    assert told[0].values["chosen"] == [2]
    embeds = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert int(unusualness(embeds).argmax()) == 2


# --- inside the denoising


def test_the_annealing_of_cads_is_the_published_one():
    limits = {"tau1": 0.6, "tau2": 0.9}
    found = [annealing(time, **limits) for time in (1.0, 0.9, 0.75, 0.6, 0.0)]
    assert found == pytest.approx([0, 0, 0.5, 1, 1])
    assert annealing(0.5, tau1=0.5, tau2=0.5) == 1.0
    with pytest.raises(RangeError, match="tau1"):
        CadsConfig(tau1=0.9, tau2=0.5)


def test_a_corrupted_condition_keeps_mean_and_spread_as_asked():
    clean = torch.randn(2, 7, 5, generator=stream(1)) * 3 + 1
    noise = torch.randn(2, 7, 5, generator=stream(2))
    settings = {"gamma": 0.36, "scale": 0.5}
    plain = corrupted(clean, noise, mixing=0.0, **settings)
    same(plain, 0.6 * clean + 0.5 * 0.8 * noise)
    full = corrupted(clean, noise, mixing=1.0, **settings)
    torch.testing.assert_close(full.mean((1, 2)), clean.mean((1, 2)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(full.std((1, 2)), clean.std((1, 2)), rtol=1e-4, atol=1e-4)
    assert corrupted(clean, noise, gamma=1, scale=0.5, mixing=1.0) is clean


@pytest.mark.parametrize(
    "method",
    [CADS(CadsConfig(scale=0.0)), GuidanceInterval(GuidanceIntervalConfig(sigma_low=0.0,
                                                                          sigma_high=1e9))],
)  # fmt: skip
def test_without_effect_a_walk_in_steps_draws_the_ordinary(tiny_only, method):
    torch.testing.assert_close(
        method.draw(tiny_only, REQUEST), ordinary(tiny_only), rtol=0, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("scheduler", ["pndm", "euler"])
def test_other_schedulers_walk_in_steps_too(tmp_path, scheduler):
    folder = tiny.build_sd(tmp_path / "sd", "sd", scheduler=scheduler, adapter=False)
    backbone = StableDiffusionBackbone.load(folder)
    drawn = CADS(CadsConfig(scale=0.0)).draw(backbone, REQUEST)
    text = backbone.encode_text(["a picture of a handbag"])
    walk = {"sampler": backbone.sampler_in_pieces}
    noise = streams(REQUEST.seed, "image", "decoder", num=2)
    with torch.no_grad():
        latents = backbone.init_latents(noise, **walk)
        whole = backbone.decode(backbone.denoise(latents, text, generator=noise, **walk))
    torch.testing.assert_close(drawn, whole, rtol=0, atol=1e-4)


def test_guidance_is_paid_for_inside_the_interval_alone(tiny_only):
    latents = torch.zeros(1, 4, 8, 8)
    levels = [noise_level(tiny_only, latents, step, {}) for step in range(3)]
    assert levels == sorted(levels, reverse=True)
    config = GuidanceIntervalConfig(sigma_low=levels[2], sigma_high=levels[1])
    with counted(tiny_only) as spent:
        drawn = GuidanceInterval(config).draw(tiny_only, REQUEST)
    assert spent.denoiser == 2 * (1 + 2 + 1)  # open below, closed above: the middle step alone
    assert not torch.equal(drawn, ordinary(tiny_only))


WINDOW = {"query_from": 0.25, "query_until": 0.75, "num_inference_steps": 4}


@pytest.mark.parametrize(("acts_from", "looks"), [("next", 0), ("same", 2)])
def test_adaptive_negatives_ask_in_their_window_and_avoid_the_answers(
    tiny_only, monkeypatch, acts_from, looks
):
    steered, denoise = [], tiny_only.denoise

    def watched(*args, negative, **settings):
        steered.append(negative)
        return denoise(*args, negative=negative, **settings)

    monkeypatch.setattr(tiny_only, "denoise", watched)
    config = AdaptiveNegativesConfig(**WINDOW, acts_from=acts_from, keep_after=False)
    judge, told = ScriptedJudge(["backpack", "tent", "backpack", "handbag"]), []
    with counted(tiny_only) as spent:
        drawn = AdaptiveNegatives(config).draw(tiny_only, REQUEST, judge=judge, on_step=told.append)
    assert judge.asked == [("handbag", 1)] * 4  # steps 1 and 2, two pictures
    assert told[0].values["negatives"] == [["backpack"], ["tent"]]
    assert spent.denoiser == 2 * 2 * (4 + looks)  # pictures, halves of guidance, steps and looks
    acting = [negative is not None for negative in steered]
    assert acting == [False, acts_from == "same", True, acts_from == "next"]
    plain = ordinary(tiny_only, "a picture of a creative handbag", num_inference_steps=4)
    assert not torch.allclose(drawn, plain, rtol=0, atol=5e-5)
    judge = ScriptedJudge(["handbag"] * 4)  # the subject itself is never avoided
    same(AdaptiveNegatives(config).draw(tiny_only, REQUEST, judge=judge), plain)


def test_negatives_stay_after_the_window_unless_told_otherwise(tiny_only):
    def drawn(**settings):
        config = AdaptiveNegativesConfig(query_until=0.3, num_inference_steps=4, **settings)
        judge = ScriptedJudge(["backpack", "tent"])
        return AdaptiveNegatives(config).draw(tiny_only, REQUEST, judge=judge)

    assert not torch.equal(drawn(), drawn(keep_after=False))


def test_negatives_that_no_longer_fit_are_left_out(tiny_only):
    words = [f"word number {index} of many" for index in range(40)]
    config = AdaptiveNegativesConfig(num_inference_steps=40)
    told = []
    request = replace(REQUEST, num_images=1)
    AdaptiveNegatives(config).draw(
        tiny_only, request, judge=ScriptedJudge(words), on_step=told.append
    )
    kept = told[0].values["negatives"][0]
    assert 3 < len(kept) < 40
    assert kept == words[: len(kept)]


def test_no_negative_comes_twice_and_the_newest_stay():
    assert joined(("cat",), ["cat ", "dog", "pet", ""], "pet", 9) == ("cat", "dog")
    assert joined(("cat", "dog"), ["owl"], "pet", 2) == ("dog", "owl")
    with pytest.raises(ConfigError, match="names what it sees"):
        AdaptiveNegatives().draw(None, REQUEST)
