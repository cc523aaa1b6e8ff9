import math

import pytest
import torch

from offbeat.errors import ConfigError, ImageError, PromptError, VocabularyError
from offbeat.judges.clip import ClipJudge
from offbeat.metrics.judged import AllPresent, DistributionKl, Validity, VqaScore
from offbeat.metrics.mixtures import FusionBalance, FusionReward, FusionSimilarity, parts_of
from offbeat.types import Verdict


class RedJudge:
    """Answers by how red a picture is, and keeps what it was asked."""

    name = "red:eyes@1234abcd"
    labels = ("red", "green", "blue")

    def __init__(self):
        self.asked = []

    def probability_of_yes(self, images, question):
        self.asked.append((len(images), question))
        return images[:, 0].mean(dim=(1, 2))

    def still_a(self, images, subject):
        share = images[:, 0].mean(dim=(1, 2)).tolist()
        return [Verdict("yes" if red > 0.5 else "no", red, self.name) for red in share]

    def class_probabilities(self, images):
        return images.mean(dim=(2, 3)).softmax(dim=1)

    def presence(self, images):
        return images.mean(dim=(2, 3))


def plain(*colours, size=8):
    return [torch.tensor(colour)[:, None, None].expand(3, size, size) for colour in colours]


def test_vqascore_asks_one_question_of_all_pictures_with_that_text():
    judge = RedJudge()
    images = plain((0.1, 0.0, 0.0), (0.7, 0.0, 0.0), (0.4, 0.0, 0.0))
    found = VqaScore.load(judge=judge).score(images, texts=["a fox", "a bee", "a fox"])
    assert found.name == "vqascore[red:eyes]"
    assert found.checkpoint == judge.name
    assert found.values == pytest.approx([0.1, 0.7, 0.4])
    show = 'Does this figure show "{}"? Please answer yes or no.'
    assert judge.asked == [(2, show.format("a fox")), (1, show.format("a bee"))]


def test_validity_is_the_share_that_passes():
    images = plain(*[(red, 0.0, 0.0) for red in (0.9, 0.1, 0.2, 0.6)])
    found = Validity.load(judge=RedJudge()).score(images, texts=["fox"])
    assert found.values == (1, 0, 0, 1)
    assert found.mean == 0.5


def test_divergence_of_the_shares_asked_by_hand():
    images = plain((1.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    found = DistributionKl.load(judge=RedJudge()).score(images, texts=["red=3 + green=1"])
    read = torch.tensor([1.0, 0.0, 0.0]).softmax(0).tolist()
    expected = 0.75 * math.log(0.75 / read[0]) + 0.25 * math.log(0.25 / read[1])
    assert found.values[0] == pytest.approx(expected, abs=1e-4)
    assert found.values[1] == pytest.approx(0.75 * math.log(2.25) + 0.25 * math.log(0.75), abs=1e-4)
    assert found.better == "lower"
    with pytest.raises(ConfigError, match="'grey' of 'grey' is none of them"):
        DistributionKl.load(judge=RedJudge()).score(images, texts=["grey"])


def test_all_are_present_only_where_each_is():
    images = plain((0.9, 0.6, 0.0), (0.9, 0.4, 0.0), (0.2, 0.3, 0.9))
    found = AllPresent.load(judge=RedJudge()).score(images, texts=["red=0.9 + green=0.1"])
    assert found.values == (1, 0, 0)
    assert found.better == "higher"


def test_a_judge_that_cannot_answer_is_refused(pocket):
    with pytest.raises(ConfigError, match=r"name one with --judge"):
        VqaScore.load(backbone=pocket)
    with pytest.raises(ConfigError, match=r"`probability_of_yes`, such as .* clip:pocket@\w+ has"):
        VqaScore.load(judge=ClipJudge(pocket))


def test_shares_in_words():
    assert parts_of("pig=0.55 + sheep = 0.25+snake=0.2") == [
        ("pig", pytest.approx(0.55)),
        ("sheep", pytest.approx(0.25)),
        ("snake", pytest.approx(0.2)),
    ]
    for text in (
        "pig",
        "pig + pig",
        "pig=1 + owl",
        "pig=x + owl=1",
        "pig=0 + owl=1",
        "+",
        "a=b=c+d",
    ):
        with pytest.raises(VocabularyError, match="expected 2 different words"):
            parts_of(text)


def test_fusion_by_pictures_and_by_texts(pocket):
    noise = torch.Generator().manual_seed(2)
    images = torch.rand(3, 3, 64, 64, generator=noise)
    references = torch.rand(4, 3, 64, 64, generator=noise)
    with torch.no_grad():
        seen, known = pocket.encode_image(images), pocket.encode_image(references)
    near = torch.nn.functional.cosine_similarity(seen[:, None], known[None], dim=-1)
    first, second = near[:, :2].mean(1), near[:, 2:].mean(1)
    values = {
        kind: kind.load(backbone=pocket).score(images, references=references).values
        for kind in (FusionSimilarity, FusionBalance, FusionReward)
    }
    gap, mean = (first - second).abs(), (first + second) / 2
    assert values[FusionSimilarity] == pytest.approx(mean.tolist(), abs=1e-5)
    assert values[FusionBalance] == pytest.approx(gap.tolist(), abs=1e-5)
    assert values[FusionReward] == pytest.approx((2 * mean - 5 * gap).tolist(), abs=1e-4)
    by_text = FusionBalance.load(backbone=pocket).score(images, texts=["a pig + an owl"])
    turned = FusionBalance.load(backbone=pocket).score(images, texts=["an owl + a pig"])
    assert by_text.values == turned.values
    metric = FusionBalance.load(backbone=pocket)
    with pytest.raises(ImageError, match="as many pictures of the first"):
        metric.score(images, references=references[:3])
    with pytest.raises(PromptError, match="got neither"):
        metric.score(images)
    with pytest.raises(VocabularyError, match="two things"):
        metric.score(images, texts=["a + b + c"])
