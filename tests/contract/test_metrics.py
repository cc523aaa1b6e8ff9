"""What every metric of the registry must hold, on pocket's encoders or tiny weights of its own."""

import json
import math

import pytest
import torch

import tiny_metrics
from offbeat import registry
from offbeat.errors import (
    ConfigError,
    ImageError,
    NotFiniteError,
    OffbeatError,
    PromptError,
    RangeError,
    ShapeError,
)
from offbeat.files.preferences import Preferences
from offbeat.protocols import Metric
from offbeat.types import Verdict

TEXT = "a picture of a cat"


class Judge:
    """Answers everything by how red a picture is."""

    name = "red@0"
    labels = ("pig", "owl", "fox")

    def probability_of_yes(self, images, question):
        return images[:, 0].mean(dim=(1, 2))

    def still_a(self, images, subject):
        red = self.probability_of_yes(images, "").tolist()
        return [Verdict("yes" if one > 0.5 else "no", one, self.name) for one in red]

    def ask(self, images, question, *, max_new_tokens=20):
        red = [round(10 * one) for one in self.probability_of_yes(images, "").tolist()]
        names = ("integration", "alignment", "originality", "aesthetics")
        return [json.dumps(dict.fromkeys(names, one)) for one in red]

    def class_probabilities(self, images):
        return images.mean(dim=(2, 3)).softmax(dim=1)

    presence = class_probabilities


def on_pocket(text=None):
    return lambda kind, pocket, folder: (kind.load(backbone=pocket), text)


def asking(text):
    return lambda kind, pocket, folder: (kind.load(judge=Judge()), text)


def of(build, text=None):
    return lambda kind, pocket, folder: (kind.load(build(folder / "weights")), text)


def taste(kind, pocket, folder):
    """Brighter is better, in 30 pairs."""
    images = noise(30, 128, 128, seed=5) * torch.linspace(0.2, 1, 30)[:, None, None, None]
    winners, losers = torch.arange(1, 30), torch.arange(29)
    winners, losers = torch.cat([winners, winners]), torch.cat([losers, torch.zeros(29).long()])
    Preferences(images, winners, losers).save(folder / "taste.safetensors")
    return kind.load(folder / "taste.safetensors"), None


CASES = {
    "aesthetic_v1": of(lambda folder: tiny_metrics.build_aesthetic(folder, 1)),
    "aesthetic_v2": of(lambda folder: tiny_metrics.build_aesthetic(folder, 2)),
    "all_present": asking("pig=0.7 + owl=0.3"),
    "clip_directional": on_pocket("a cat -> a dog"),
    "clip_i": on_pocket(),
    "clip_t": on_pocket(TEXT),
    "clipscore": on_pocket(TEXT),
    "coverage": on_pocket(),
    "density": on_pocket(),
    "distribution_kl": asking("pig=0.7 + owl=0.3"),
    "diversity": on_pocket(),
    "fusion_balance": on_pocket("a pig + an owl"),
    "fusion_reward": on_pocket("a pig + an owl"),
    "fusion_similarity": on_pocket("a pig + an owl"),
    "hpsv2": on_pocket(TEXT),
    "imagereward": of(tiny_metrics.build_imagereward, "a b c"),
    "nima": of(tiny_metrics.build_nima),
    "novelty_nn": on_pocket(),
    "seen_novelty": on_pocket(),
    "novelty_quantile": on_pocket(),
    "pickscore": on_pocket(TEXT),
    "precision": on_pocket(),
    "recall": on_pocket(),
    "rubric": asking("a fox"),
    "taste": taste,
    "validity": asking("fox"),
    "vendi": on_pocket(),
    "vqascore": asking("a fox"),
}
"""How each is made, and a text that it can read."""


def noise(count, *size, seed):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


IMAGES = [*noise(5, 24, 24, seed=1), *noise(2, 30, 20, seed=2)]
REFERENCES = [*noise(12, 24, 24, seed=3), *noise(8, 16, 16, seed=4)]


@pytest.fixture(scope="module", params=sorted(CASES))
def case(request, pocket, tmp_path_factory):
    """A metric with what it needs; ``clip_directional`` takes one picture from before."""
    folder = tmp_path_factory.mktemp(request.param)
    metric, text = CASES[request.param](registry.find("metric", request.param), pocket, folder)
    given = {}
    if text is not None:
        given["texts"] = [text]
    if "references" in metric.needs:
        given["references"] = REFERENCES[:1] if "texts" in metric.needs else REFERENCES
    return request.param, metric, given


def test_every_metric_is_held_to_this():
    assert set(CASES) == set(registry.BUILT_IN["metric"])


def test_scores_are_complete_repeatable_and_draw_nothing(case):
    name, metric, given = case
    state = torch.get_rng_state()
    found = metric.score(IMAGES, **given)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(metric, Metric)
    assert found.name.startswith(f"{name}[")
    assert found.name == metric.name
    assert found.better == metric.better
    assert found.checkpoint
    assert len(found.values) == (len(IMAGES) if found.per_image else 1)
    assert found.mean == pytest.approx(sum(found.values) / len(found.values))
    assert found == metric.score(IMAGES, **given)
    if found.per_image:
        assert found.interval[0] <= found.mean <= found.interval[1]
    else:
        assert all(math.isnan(end) for end in found.interval)


def test_a_picture_counts_by_itself(case):
    _, metric, given = case
    all_of_them = metric.score(IMAGES, **given)
    if not all_of_them.per_image:
        backwards = metric.score(IMAGES[::-1], **given)
        assert backwards.values == pytest.approx(all_of_them.values, abs=1e-5)
        return
    alone = metric.score(IMAGES[5:6], **given)
    assert alone.values[0] == pytest.approx(all_of_them.values[5], abs=1e-4)
    assert all(math.isnan(end) for end in alone.interval)
    stacked = metric.score(torch.stack(IMAGES[:5]), **given)
    assert stacked.values == pytest.approx(all_of_them.values[:5], abs=1e-4)


def test_equal_and_single_pictures_have_a_value_or_a_clear_error(case):
    name, metric, given = case
    equal = [torch.full((3, 24, 24), 0.5)] * 7
    found = metric.score(equal, **given)
    assert found.values == pytest.approx([found.values[0]] * len(found.values), rel=1e-5)
    if name in ("vendi", "diversity"):
        assert found.mean == pytest.approx(1.0 if name == "vendi" else 0.0, abs=1e-5)
    few = {"diversity": 2, "precision": 6, "recall": 6, "density": 6, "coverage": 6}
    if name in few:
        with pytest.raises(ImageError, match=f"images: expected at least {few[name]} pictures"):
            metric.score(IMAGES[:1], **given)
    else:
        assert len(metric.score(IMAGES[:1], **given).values) == 1


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ([], ImageError),
        ([torch.full((3, 24, 24), math.nan)] * 7, NotFiniteError),
        ([torch.full((3, 24, 24), 255.0)] * 7, RangeError),
        ([torch.zeros(24, 24)] * 7, ShapeError),
    ],
    ids=["none", "nan", "bytes", "flat"],
)
def test_what_is_no_picture_is_refused(case, images, error):
    _, metric, given = case
    with pytest.raises(error, match="images"):
        metric.score(images, **given)


def test_texts_and_references_that_are_missing_or_wrong_are_refused(case):
    _, metric, given = case
    if "texts" in metric.needs:
        for texts in (None, [], given["texts"] * 3, [" "]):
            with pytest.raises(PromptError, match="texts"):
                metric.score(IMAGES, **{**given, "texts": texts})
    if "references" in metric.needs:
        for references in (None, [], torch.full((20, 3, 8, 8), math.nan)):
            with pytest.raises(OffbeatError, match="references"):
                metric.score(IMAGES, **{**given, "references": references})


@pytest.mark.parametrize("name", ["novelty_quantile", "precision"])
def test_too_few_or_equal_references_are_refused_or_hold_nothing(name, pocket):
    metric = registry.find("metric", name).load(backbone=pocket)
    with pytest.raises(ImageError, match="references: expected at least"):
        metric.score(IMAGES, references=REFERENCES[:3])
    equal = [torch.full((3, 24, 24), 0.5)] * 20
    if name == "precision":
        assert metric.score(IMAGES, references=equal).mean == 0
    else:
        with pytest.raises(ConfigError, match="identical"):
            metric.score(IMAGES, references=equal)
