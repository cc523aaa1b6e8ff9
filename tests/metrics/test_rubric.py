"""The rubric and how far its judges agree."""

import json
import math

import pytest
import torch

from offbeat.errors import ConfigError, JudgeError, NotFiniteError, PromptError, ShapeError
from offbeat.metrics.agreement import krippendorff_alpha
from offbeat.metrics.rubric import CRITERIA, Ratings, Rubric, question_about, read_ratings
from offbeat.protocols import AnswersQuestions, Metric

N = math.nan
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units
FOUR = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
# Wikipedia, "Krippendorff's alpha", a computational example: 3 coders, 15 units
THREE = [
    [N, N, N, N, N, 3, 4, 1, 2, 1, 1, 3, 3, N, 3],
    [1, N, 2, 1, 3, 3, 4, 3, N, N, N, N, N, N, N],
    [N, N, 2, 1, 3, 4, 4, N, 2, 1, 1, 3, 3, N, 4],
]


@pytest.mark.parametrize(
    ("ratings", "level", "published"),
    [
        (FOUR, "nominal", 0.743),
        (FOUR, "ordinal", 0.815),
        (FOUR, "interval", 0.849),
        (THREE, "nominal", 0.691),
        (THREE, "interval", 0.811),
    ],
)
def test_alpha_is_that_of_published_examples(ratings, level, published):
    assert krippendorff_alpha(ratings, level) == pytest.approx(published, abs=0.0005)
    backwards = [row[::-1] for row in ratings[::-1]]
    assert krippendorff_alpha(backwards, level) == pytest.approx(krippendorff_alpha(ratings, level))


def test_alpha_at_its_ends():
    assert krippendorff_alpha([[0, 1, 2], [0, 1, 2]], "nominal") == 1
    assert krippendorff_alpha([[0, 1], [1, 0]]) < 0
    # by hand: observed 1/2 * 4/4, expected 2 * 4 * 4 / (8 * 7) of nominal differences
    assert krippendorff_alpha([[0, 0, 1, 1], [0, 1, 0, 1]], "nominal") == pytest.approx(1 - 7 / 8)
    for undefined in ([[1, 1], [1, 1]], [[1, N], [N, 2]], [[1, 2, 3]], [[], []]):
        assert math.isnan(krippendorff_alpha(undefined))
    with pytest.raises(ShapeError, match="equal length"):
        krippendorff_alpha([[1, 2], [1]])
    with pytest.raises(ShapeError, match="raters, units"):
        krippendorff_alpha([1, 2])
    with pytest.raises(NotFiniteError):
        krippendorff_alpha([[1, math.inf], [1, 2]])
    with pytest.raises(ConfigError, match="level"):
        krippendorff_alpha(FOUR, "ratio")


class Asker:
    """Rates by the brightness of a picture; answers in turn with each of ``forms``."""

    def __init__(self, name="asker@1", shift=0.0, forms=("{}",)):
        self.name, self.shift, self.forms = name, shift, forms
        self.asked = []

    def ask(self, images, question, *, max_new_tokens=20):
        value = round(float(images.mean()) * 10 + self.shift)
        self.asked.append((value, question))
        rows = {name: value for name in CRITERIA}
        return [self.forms[(len(self.asked) - 1) % len(self.forms)].format(json.dumps(rows))]


IMAGES = [torch.full((3, 8, 6 + n), n / 10) for n in (2, 5, 8)]


def test_overall_is_the_mean_of_judges_repeats_and_criteria():
    one, other = Asker("one@1"), Asker("other:x@2", shift=1.0)
    metric = Rubric([one, other])
    assert isinstance(one, AnswersQuestions)
    assert isinstance(metric, Metric)
    scores = metric.score(IMAGES, texts=["pig + owl"])
    assert scores.values == (2.5, 5.5, 8.5)
    assert (scores.name, scores.checkpoint) == ("rubric[one, other:x]", "one@1, other:x@2")
    assert scores.better == "higher"
    # of interval differences: observed 1 on 3 pairs, expected by hand over 2 3 5 6 8 9
    pairs = [(a - b) ** 2 for a in (2, 3, 5, 6, 8, 9) for b in (2, 3, 5, 6, 8, 9)]
    alpha = 1 - 1 / (sum(pairs) / 30)
    assert f"alpha between judges: integration {alpha:.2f}" in scores.note
    assert "between repeats: 0.00" in scores.note
    assert len(one.asked) == 9
    assert "one thing that mixes pig and owl in equal parts" in one.asked[0][1]
    assert metric.score(IMAGES, texts=["pig + owl"]) == scores


def test_each_repeat_asks_in_another_order_that_is_the_same_for_all_judges():
    one, other = Asker("one"), Asker("other")
    Rubric([one, other], num_repeats=4).rate(IMAGES, ["owl"])
    assert one.asked == other.asked
    repeats = [one.asked[at : at + 3] for at in range(0, 12, 3)]
    assert len({tuple(value for value, _ in rows) for rows in repeats}) > 1
    assert len({rows[0][1] for rows in repeats}) > 1
    assert all(len({question for _, question in rows}) == 1 for rows in repeats)


def test_answers_that_are_none_are_left_out_and_counted():
    forms = ("Sure!\n```json\n{}\n```", "I cannot.", "{} Hope that helps.")
    scores = Rubric([Asker(forms=forms)]).score(IMAGES, texts=["owl"])
    assert scores.values == (2, 5, 8)
    assert "3 of 9 answers lacked a rating" in scores.note
    with pytest.raises(JudgeError, match="3 of 3 pictures got no complete answer"):
        Rubric([Asker(forms=["No {}".replace("{}", "")])]).score(IMAGES, texts=["owl"])


def test_spread_is_that_between_repeats():
    values = torch.full((1, 3, 2, 4), 5.0)
    values[0, :, 0] = torch.tensor([4.0, 5.0, 6.0])[:, None]
    values[0, 2, 1, 0] = N  # a picture with two complete answers of 5
    ratings = Ratings(values, ("one",))
    assert ratings.spread() == pytest.approx(math.sqrt(2 / 3))
    assert ratings.per_image().tolist() == [5, 5]
    assert ratings.num_failed == 1


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ('{"note": {"integration": 3}}', {"integration": 3}),
        ('{"a": 1} {"aesthetics": "7"}', {"aesthetics": 7}),
        ('{"originality": true, "alignment": -1, "aesthetics": "nine"}', {}),
        ('{"originality": 10.5, "alignment": null, "integration": 10}', {"integration": 10}),
        ("integration: 8, alignment 9/10; originality of the picture is high", None),
        ("{" * 5000, {}),
        ("", {}),
    ],
)
def test_answers_are_read_with_care(answer, found):
    assert read_ratings(answer) == ({"integration": 8, "alignment": 9} if found is None else found)


def test_what_cannot_be_rated():
    with pytest.raises(ConfigError, match="answer in words"):
        Rubric([object()])
    with pytest.raises(ConfigError, match="different judges"):
        Rubric([Asker(), Asker()])
    with pytest.raises(ConfigError, match="expected a judge"):
        Rubric.load()
    with pytest.raises(PromptError):
        Rubric.load(judge=Asker()).score(IMAGES)
    assert "Answer by JSON alone" in question_about("owl", list(CRITERIA))
