"""What makes an exploration visible: axes, clusters, support, the eye, the choice, the dial."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.baseline import Baseline
from offbeat.core.density import AvoidCluster, PcaSpace, Support, visible_axes
from offbeat.core.drawing import sample_concept
from offbeat.core.functional import farthest_first
from offbeat.core.rng import stream, streams
from offbeat.core.taste import Taste
from offbeat.errors import ConfigError, ImageError
from offbeat.methods.low_probability.choosing import Eye, choose
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.losses import avoid_loss, support_loss
from offbeat.methods.low_probability.method import LowProbability
from offbeat.metrics.seen import PlainEye, SeenNovelty, nearest_distances, seen_novelty, variety
from offbeat.types import Request, Verdict

SMALL = LowProbabilityConfig(
    num_baseline=80, num_held_out=20, num_steps=30, num_probes=16, probe_every=2, num_judged=1,
    judge_every=100, lora_rank=2, learning_rate=2e-3, use_support=False, reach=1.5, num_holds=30,
)  # fmt: skip
OWL = Request(subject="owl", seed=1)


def noise(*shape, name="noise"):
    return torch.randn(*shape, generator=stream(0, name))


# --- axes and anchor


@pytest.mark.parametrize(
    ("variances", "axes"),
    [
        ([8.0, 1, 1, 0, 0, 0], 4),  # one holds 80 %, and 4 are the least
        ([1.0] * 10, 8),
        ([1.0] * 100, 50),  # the most
        ([5.0, 1], 2),
    ],
)
def test_axes_hold_eighty_percent_within_limits(variances, axes):
    assert visible_axes(torch.tensor(variances)) == axes


def test_no_number_of_axes_fits_any_width():
    assert PcaSpace.fit(noise(40, 3), None).num_components <= 3
    assert PcaSpace.fit(noise(4, 32), None).num_components <= 3
    assert LowProbabilityConfig().axes is None
    with pytest.raises(ConfigError, match="num_components"):
        PcaSpace.fit(noise(40, 3), 50)


def test_the_anchor_s_limit_is_that_of_a_mean_over_noises():
    base = Baseline.fit("x", noise(50, 6), noise(20, 6, name="held"), noise(1, 6), num_components=3)
    one, four = base.anchor_threshold(), base.anchor_threshold(4)
    assert one - base.anchor_mean == pytest.approx(2 * (four - base.anchor_mean))


# --- clusters and support


def test_only_small_clusters_are_widened():
    space = PcaSpace.fit(noise(400, 6), 4)
    tight = space.lift(noise(200, 4, name="tight") * 0.01 * space.variances.sqrt())
    assert AvoidCluster.fit(space, tight).cholesky.diagonal().max() < 0.05
    assert AvoidCluster.fit(space, tight[:1]).cholesky.diagonal().min() >= AvoidCluster.MIN_STD


def test_a_far_cluster_pushes_until_the_ordinary_mean_is_as_near():
    space = PcaSpace.fit(noise(400, 6), 4)
    far = space.lift((noise(100, 4, name="far") * 0.3 + 5) * space.variances.sqrt())
    cluster = AvoidCluster.fit(space, far)
    towards = space.lift(torch.full((1, 4), 2.0) * space.variances.sqrt()).requires_grad_()
    avoid_loss(towards, [cluster]).backward()
    assert towards.grad.abs().max() > 0
    away = space.lift(torch.full((1, 4), -0.5) * space.variances.sqrt()).requires_grad_()
    avoid_loss(away, [cluster]).backward()
    assert away.grad.abs().max() == 0


def test_support_pulls_back_only_beyond_its_radius():
    support = Support.fit(noise(400, 6))
    inside = torch.zeros(1, 6, requires_grad=True)
    assert support_loss(inside, support) == 0
    outside = torch.full((1, 6), 9.0, requires_grad=True)
    support_loss(outside, support).backward()
    assert bool((outside.grad > 0).all())  # a step down the gradient leads inwards
    again = Support.unpack(support.pack())
    assert torch.equal(again.excess(outside), support.excess(outside))


# --- the eye


def test_seen_novelty_is_one_for_ordinary_and_twice_for_twice_as_far():
    features = torch.nn.functional.normalize(noise(300, 8), dim=1)
    scores = seen_novelty(features[200:], features[:200])
    assert 0.8 < float(scores.mean()) < 1.2
    unit = nearest_distances(features, features, itself=True).mean()
    far = nearest_distances(-features.mean(dim=0, keepdim=True) * 9, features)
    assert float(seen_novelty(-features.mean(dim=0, keepdim=True) * 9, features)) == pytest.approx(
        float(far / unit), rel=1e-5
    )
    with pytest.raises(ImageError, match="at least 8"):
        seen_novelty(features[:2], features[:7])


def test_variety_is_one_for_ordinary_and_less_for_copies():
    features = torch.nn.functional.normalize(noise(64, 8), dim=1)
    assert variety(features[:8], features[:8]) == pytest.approx(1)
    assert variety(features[:1].expand(8, -1), features) < 0.5


def test_the_plain_eye_sees_colours_and_shapes():
    red, blue = torch.zeros(2, 3, 32, 32)
    red[0], blue[2] = 1, 1
    striped = red.clone()
    striped[:, ::4] = 0.2
    eye = PlainEye().image_embeds([red, blue, striped, red])
    assert torch.equal(eye[0], eye[3])
    assert not torch.allclose(eye[0], eye[1])
    assert not torch.allclose(eye[0], eye[2])
    scores = SeenNovelty.load().score([red], references=[blue] * 8)
    assert scores.name == "seen_novelty[colours-and-edges]"


# --- the choice


def test_farthest_first_begins_with_what_is_farthest_from_what_is_there():
    rows = torch.tensor([[1.0, 0], [0, 1], [0.9, 0.1]])
    assert farthest_first(rows, 2, nearest=torch.tensor([0.1, 0.5, 0.2]))[0] == [1, 2]
    assert farthest_first(rows, 3)[0] == [0, 1, 2]


class Refuses:
    """Refuses every second picture."""

    name = "refuses"

    def still_a(self, images, subject):
        answers = ["no" if at % 2 else "yes" for at in range(len(images))]
        return [Verdict(one, 0.9 if one == "yes" else 0.1, self.name) for one in answers]


@pytest.fixture(scope="module")
def ordinary(pocket):
    return LowProbability(SMALL).measure(pocket, OWL)


def test_what_is_shown_passed_and_is_drawn_again_alone(pocket, ordinary):
    concept = LowProbability(replace(SMALL, num_steps=1)).fit(pocket, OWL, baseline=ordinary)
    eye = Eye(PlainEye(), PlainEye().image_embeds(list(torch.rand(8, 3, 16, 16))))
    kept = choose(
        pocket, concept, seed=1, num=2, times=2, subject="owl", baseline=ordinary,
        judge=Refuses(), eye=eye,
    )  # fmt: skip
    assert len(kept.rows) == 4
    assert sorted(kept.rows) == kept.rows
    assert [verdict.answer for verdict in kept.verdicts] == ["yes", "yes"]
    assert len(kept.drawn_verdicts) == len(kept.drawn_seen) == 4
    plain = choose(pocket, concept, seed=1, num=2, times=1, subject="owl", baseline=ordinary)
    assert plain.rows == plain.places == [0, 1]
    assert plain.seen == plain.verdicts == []


# --- the search


def test_a_search_leaves_a_marked_cluster_and_the_printed_sign_does_not(pocket, ordinary):
    first = LowProbability(SMALL).fit(pocket, OWL, baseline=ordinary)

    def sampled(concept):
        settings = SMALL.sampling(pocket)
        with torch.no_grad():
            return sample_concept(pocket, concept, streams(9, "fresh", num=64), **settings)

    marked = sampled(first)
    cluster = AvoidCluster.fit(ordinary.space, marked)

    def distance(weight):
        config = replace(SMALL, avoid_weight=weight)
        found = LowProbability(config).fit(pocket, OWL, baseline=ordinary, avoid=[marked])
        return ordinary.describe(sampled(found), [cluster])["avoid_distance"][0]

    corrected, plain, printed = (distance(weight) for weight in (1.0, 0.0, -1.0))
    assert corrected > 1.3 * plain
    assert printed < plain


def test_the_dial_widens_until_pictures_look_different_enough(pocket, ordinary):
    config = replace(SMALL, reach=None, novelty=2.0, num_steps=60, judge_every=1000)
    rows, reports = [], iter([1.0, 1.2, 2.5])

    def look(images):
        return torch.full((len(images),), next(reports))

    found = LowProbability(config).fit(
        pocket, OWL, baseline=ordinary, look=look, on_step=lambda step: rows.append(step.values)
    )
    seen = [row["seen"] for row in rows if row["seen"] is not None]
    assert seen == pytest.approx([1.0, 1.2, 2.5])
    assert found.metadata["stopped"] == "held"
    radii = [row["radius"] for row in rows]
    assert radii == sorted(radii)
    assert radii[-1] > radii[0]


def test_a_dial_beyond_what_there_is_says_so(pocket, ordinary):
    config = replace(SMALL, reach=None, novelty=9.0, max_reach=1.2, num_steps=60)
    found = LowProbability(config).fit(
        pocket, OWL, baseline=ordinary, look=lambda images: torch.ones(len(images))
    )
    assert found.metadata["stopped"] == "farthest"


class RefusesOnce:
    """A judge that says no to everything the second time that it is asked."""

    name = "refuses-once"

    def __init__(self):
        self.asked = 0

    def still_a(self, images, subject):
        self.asked += 1
        answer = "no" if self.asked == 2 else "yes"
        return [Verdict(answer, 0.5, self.name, "") for _ in images]


def test_a_refused_distance_is_narrowed_between_what_passed_and_what_failed(pocket, ordinary):
    rows = []
    settings = replace(SMALL, reach=None, novelty=9.0, num_steps=150, judge_every=1000)
    found = LowProbability(settings).fit(
        pocket, OWL, baseline=ordinary, judge=RefusesOnce(),
        look=lambda images: torch.ones(len(images)), on_step=lambda step: rows.append(step.values),
    )  # fmt: skip
    answers = [(row["radius"], row["verdict"]["answer"]) for row in rows if row["verdict"]]
    passed, failed, between = (radius for radius, _ in answers[:3])
    assert [answer for _, answer in answers[:3]] == ["yes", "no", "yes"]
    assert passed < between < failed
    assert found.metadata["stopped"] == "farthest"
    assert max(row["radius"] for row in rows) == failed


def test_a_novelty_below_one_is_a_quantile_as_before():
    old = LowProbabilityConfig(novelty=0.999)
    assert (old.quantile, old.novelty) == (0.999, None)
    assert replace(old, num_steps=5).quantile == 0.999
    assert not LowProbabilityConfig(novelty=None).holds
    assert LowProbabilityConfig(reach=2.0).novelty is None


class Colours:
    """An eye that sees the mean colour."""

    name = "colours"

    def image_embeds(self, images):
        return torch.stack([image.mean(dim=(1, 2)) for image in images])


def test_a_taste_chooses_the_half_that_it_likes_best(pocket, ordinary):
    concept = LowProbability(replace(SMALL, num_steps=1)).fit(pocket, OWL, baseline=ordinary)
    shades = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    pairs = torch.randint(40, (2, 120), generator=torch.Generator().manual_seed(1))
    darker = shades[pairs].mean(dim=2).argmin(dim=0, keepdim=True)
    winners, losers = pairs.gather(0, darker)[0], pairs.gather(0, 1 - darker)[0]
    taste = Taste.fit(shades, winners, losers)  # of somebody who likes the dark
    asked = {"seed": 1, "num": 2, "times": 3, "subject": "owl", "baseline": ordinary}
    references = Colours().image_embeds(list(torch.rand(8, 3, 16, 16)))
    kept = choose(pocket, concept, **asked, eye=Eye(Colours(), references, taste))
    everything = choose(pocket, concept, **{**asked, "num": 6, "times": 1})
    lights = everything.images.mean(dim=(1, 2, 3))
    assert float(kept.images.mean(dim=(1, 2, 3)).max()) <= float(lights.median()) + 1e-3
