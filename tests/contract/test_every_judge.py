"""What every judge must keep to, whatever answers."""

import pytest
import torch

import tiny_vlm
from offbeat import registry
from offbeat.core.rng import stream
from offbeat.errors import NotFiniteError, RangeError, ShapeError
from offbeat.judges.classifier import ClassifierJudge
from offbeat.judges.clip import ClipJudge
from offbeat.protocols import AnswersQuestions, AnswersYes, ChecksSubject, NamesThings, ReadsClasses

IMAGES = torch.rand(3, 3, 32, 32, generator=stream(0, "pixels"))
LOCAL = ["clip", "classifier", *tiny_vlm.BUILDERS]


@pytest.fixture(scope="module", params=LOCAL)
def judge(request, pocket, tmp_path_factory):
    if request.param == "clip":
        return ClipJudge(pocket)
    if request.param == "classifier":
        return ClassifierJudge.load(pocket.card["judge"])
    folder = tiny_vlm.BUILDERS[request.param](tmp_path_factory.mktemp("judge") / request.param)
    return registry.find("judge", request.param.removesuffix("-t5")).load(folder)


def test_answers_are_a_verdict_a_picture_whatever_their_batch(judge):
    assert isinstance(judge, ChecksSubject)
    before, name = torch.get_rng_state(), judge.name
    kept = IMAGES.clone()
    verdicts = judge.still_a(IMAGES, "pet")
    assert len(verdicts) == 3
    assert all(verdict.answer in ("yes", "no") for verdict in verdicts)
    assert all(0 <= verdict.probability <= 1 for verdict in verdicts)
    assert {verdict.judge for verdict in verdicts} == {name} == {judge.name}
    alone = [judge.still_a(IMAGES[n : n + 1], "pet")[0] for n in range(3)]
    values = [[v.probability for v in part] for part in (verdicts, alone)]
    torch.testing.assert_close(*map(torch.tensor, values), atol=1e-5, rtol=1e-4)
    assert judge.still_a(IMAGES[:0], "pet") == []
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(IMAGES, kept)


def test_what_more_it_can_it_can_well(judge):
    assert isinstance(judge, ReadsClasses)
    shares = judge.class_probabilities(IMAGES[:2])
    assert shares.shape == (2, len(judge.labels))
    assert len(set(judge.labels)) == len(judge.labels)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
    assert bool((shares >= 0).all())
    assert isinstance(judge, NamesThings)
    assert isinstance(judge.name_it(IMAGES[0], "pet"), str)
    if isinstance(judge, AnswersYes):
        values = judge.probability_of_yes(IMAGES, "Is it red?")
        assert values.shape == (3,)
        assert values.dtype == torch.float32
        assert values.device.type == "cpu"
    if isinstance(judge, AnswersQuestions):
        assert len(judge.ask(IMAGES, "What is it?", max_new_tokens=2)) == 3


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (torch.ones(3, 8, 8), ShapeError),
        (torch.full((1, 3, 8, 8), 255.0), RangeError),
        (torch.full((1, 3, 8, 8), torch.nan), NotFiniteError),
    ],
)
def test_pictures_that_are_none_are_refused(judge, images, error):
    for ask in (judge.class_probabilities, lambda pixels: judge.still_a(pixels, "pet")):
        with pytest.raises(error):
            ask(images)
