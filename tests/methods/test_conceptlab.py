"""ConceptLab: its loss, its negatives, its judge, mixing, evolution, resuming, and bad input."""

import json
import math

import pytest
import torch

from offbeat.core.drawing import draw, sample_concept
from offbeat.core.functional import cosine
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, PromptError, RangeError, ShapeError, VocabularyError
from offbeat.judges.scripted import ScriptedJudge
from offbeat.methods.conceptlab import prompts
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.conceptlab.losses import prior_constraint_loss
from offbeat.methods.conceptlab.method import ConceptLab
from offbeat.types import Request

PET = Request(subject="pet", negatives=("cat",), seed=3)
MIX = Request(subject="", weights=(("pig", 0.8), ("owl", 0.2)), seed=3)
PLAIN = ("a picture of {article} {word}",)


def config(**settings):
    quick = {"num_steps": 4, "learning_rate": 3e-3, "max_cosine": 0.9, "min_cosine": -0.5}
    quick |= {"templates": PLAIN, "judge_every": 0, "prior_num_inference_steps": 2}
    quick |= {"picture_prompt": None, "num_inference_steps": None, "guidance_scale": None}
    return ConceptLabConfig(**{**quick, **settings})


def token(concept):
    return concept.token_embeds[concept.word]


def negatives_of(concept):
    return json.loads(concept.metadata["negatives"])


def test_the_loss_and_its_gradient_are_those_worked_out_by_hand():
    """In the plane: cosines 0.6 and 0.8 to the positives, 0.8, 0 and -0.6 to the negatives."""
    embeds = torch.tensor([[3.0, 4.0]], requires_grad=True)  # of length 5: cosines ignore it
    positives = torch.tensor([[1.0, 0], [0, 2.0]])
    negatives = torch.tensor([[0, 1.0], [0.8, -0.6], [-1.0, 0]])
    limits = {"max_cosine": 0.7, "min_cosine": 0.1, "weights": (0.25, 0.75)}
    loss = prior_constraint_loss(embeds, positives, negatives, positive_weight=2.0, **limits)
    pull = 0.25 * (1 - 0.6) + 0.75 * (1 - 0.7)  # the second is near enough
    push = 0.5 * ((0.8 + 0.1 + 0.1) / 3 + 0.8)  # the last two are far enough
    assert float(loss.detach()) == pytest.approx(2 * pull + push)
    (gradient,) = torch.autograd.grad(loss, embeds)
    # d cos(e, u) / d e = (u - cos * e / |e|) / |e|, and only the first of each is left
    unit = torch.tensor([0.6, 0.8])
    pulled = (torch.tensor([1.0, 0]) - 0.6 * unit) / 5
    pushed = (torch.tensor([0, 1.0]) - 0.8 * unit) / 5
    expected = -2 * 0.25 * pulled + 0.5 * (1 / 3 + 1) * pushed
    torch.testing.assert_close(gradient[0], expected)


def test_a_loss_without_negatives_is_the_pull_and_one_without_positives_is_refused():
    embeds, none = torch.tensor([[1.0, 0]]), torch.zeros(0, 2)
    loss = prior_constraint_loss(embeds, torch.eye(2), none, max_cosine=1, min_cosine=0)
    assert float(loss) == pytest.approx(0.5)
    for positives, weights in ((none, None), (torch.eye(2), (1.0,))):
        with pytest.raises(ShapeError, match="weights: expected one for each"):
            prior_constraint_loss(
                embeds, positives, none, max_cosine=1, min_cosine=0, weights=weights
            )
    with pytest.raises(ShapeError, match="negative_embeds"):
        prior_constraint_loss(embeds, torch.eye(2), torch.zeros(1, 3), max_cosine=1, min_cosine=0)


def test_asking_the_judge_does_not_move_the_search(pocket):
    """min_cosine=1 silences the negatives: only a shared random stream could move the token."""
    found = []
    for judge_every in (0, 2):
        silent = config(num_steps=8, max_cosine=1.0, min_cosine=1.0, judge_every=judge_every)
        judge = ScriptedJudge(answers=["a dog", " Dog", "dog", "dog"])
        found.append(ConceptLab(silent).fit(pocket, PET, judge=judge))
    quiet, asked = found
    assert negatives_of(quiet) == ["cat"]
    assert negatives_of(asked) == ["cat", "dog", "dog", "dog", "dog"]
    assert torch.equal(token(asked), token(quiet))


def test_negatives_grow_by_one_a_period_from_the_first_step_on(pocket):
    steps = []
    judge = ScriptedJudge(answers=["dog", "cat", "pet"])
    unique = config(num_steps=5, judge_every=2, keep_duplicates=False)
    ConceptLab(unique).fit(pocket, PET, judge=judge, on_step=steps.append)
    assert [step.values["answer"] for step in steps] == ["dog", None, "cat", None, "pet"]
    assert all(step.values["negatives"] == ["cat", "dog"] for step in steps)
    assert len(steps[0].values["negative_cosines"]) == 2

    steps.clear()
    request = Request(subject="pet", negatives=("cat", "dog", "fish"), seed=1)
    gradual = config(num_steps=4, judge_every=1, gradual_negatives=True)
    ConceptLab(gradual).fit(pocket, request, on_step=steps.append)
    grown = [step.values["negatives"] for step in steps]
    assert [len(words) for words in grown] == [1, 2, 3, 3]
    assert sorted(grown[-1]) == ["cat", "dog", "fish"]


def test_a_mixture_follows_its_shares_and_takes_free_text(pocket):
    mostly_pig, even = (
        ConceptLab(config(num_steps=16)).fuse(pocket, Request(subject="", weights=w, seed=3))
        for w in (MIX.weights, (("pig", 0.5), ("owl", 0.5)))
    )
    words = pocket.encode_text(["a picture of a pig", "a picture of an owl"]).text_embeds
    settings = {"num_inference_steps": 2, "prior_guidance_scale": 4.0}
    near = [
        cosine(sample_concept(pocket, c, streams(9, "x", num=8), **settings), words).mean(dim=0)
        for c in (mostly_pig, even)
    ]
    assert near[0][0] > near[0][1]  # more pig than owl,
    assert near[0][0] > near[1][0]  # and more pig than in an even mixture
    assert near[1][1] > near[0][1]
    assert mostly_pig.subject == "pig + owl"
    free = Request(subject="", weights=(("an old red pig", 0.5), ("snowy mountain", 0.5)))
    assert torch.isfinite(token(ConceptLab(config(num_steps=1)).fuse(pocket, free))).all()


def test_evolution_pulls_the_prior_s_output_to_pictures_of_its_parents(pocket):
    settings = {"num_inference_steps": 2, "prior_guidance_scale": 4.0}
    parents = [
        pocket.sample_prior(
            pocket.encode_text([f"a picture of {word}"]),
            generator=streams(1, "parents", num=3), num_samples=3, **settings,
        ).detach()
        for word in ("an owl", "a castle")
    ]  # fmt: skip
    steps, request = [], Request(subject="pet", seed=3)
    child = ConceptLab(config(num_steps=16)).evolve(pocket, parents, request, on_step=steps.append)
    start = ConceptLab(config(num_steps=1, learning_rate=1e-12)).evolve(pocket, parents, request)
    with torch.no_grad():
        before, embeds = (
            sample_concept(pocket, concept, streams(7, "child", num=8), **settings)
            for concept in (start, child)
        )
    both = torch.cat(parents)  # what the loss asks for is the mean over them
    assert cosine(embeds, both).mean() > cosine(before, both).mean() + 0.1
    assert steps[0].loss == pytest.approx(1 - sum(steps[0].values["positive_cosines"]) / 2)
    with pytest.raises(ShapeError, match="parent 2"):
        ConceptLab(config()).evolve(pocket, [parents[0], parents[0][:0]], request)


@pytest.mark.parametrize("space", ["image", "text"])
def test_styles_and_the_text_space_run(pocket, space):
    steps, style = [], config(style=True, space=space, templates=(), judge_every=2)
    request = Request(subject="painting", negatives=("retro",), seed=2)
    judge = ScriptedJudge(answers=["flat", "bold"])
    concept = ConceptLab(style).fit(pocket, request, judge=judge, on_step=steps.append)
    assert judge.asked == [("art style", 1)] * 2
    scene = "a painting of a horse and a barn in a valley in the style of <offbeat>"
    assert concept.prompt() == scene
    assert negatives_of(concept) == ["retro", "flat", "bold"]
    assert steps[0].values["template"].endswith(" in the style of {word}")


def test_prompts_are_as_many_as_published_and_share_an_article():
    assert len(prompts.STYLES) == len(set(prompts.STYLES)) == 20
    photos = [text for text in prompts.OBJECTS if "photo" in text.lower()]
    assert len(prompts.OBJECTS) == 18
    assert len(set(prompts.OBJECTS)) == 12
    assert len(photos) == 10
    assert prompts.filled("{article} {word}", "a", "owl") == "an owl"
    assert prompts.filled("{article} {word}", "my", "owl") == "my owl"
    assert prompts.without_style(prompts.STYLES[0]) == "a picture"


def test_a_dream_is_that_of_its_seed_and_index(pocket):
    method, same = ConceptLab(config(num_steps=2)), []
    for index in (0, 1, 0):
        judge = ScriptedJudge(answers=["dog"])
        same.append(token(method.dream(pocket, PET, index, judge=judge)))
    assert torch.equal(same[0], same[2])
    assert not torch.equal(same[0], same[1])


def test_a_search_with_a_judge_goes_on_from_its_snapshot(pocket):
    answers, states = ["dog", "fish", "parrot"], []
    method = ConceptLab(config(num_steps=5, judge_every=2))
    whole = method.fit(
        pocket,
        PET,
        judge=ScriptedJudge(answers),
        on_step=lambda step: states.append(step.snapshot()),
    )
    json.dumps({key: value for key, value in states[2].items() if key not in ("row", "moments")})
    resumed = method.fit(pocket, PET, judge=ScriptedJudge(answers[2:]), resume=states[2])
    assert torch.equal(token(whole), token(resumed))
    assert resumed.metadata == whole.metadata
    assert whole.metadata["method"] == "conceptlab"
    assert whole.metadata["prior_num_inference_steps"] == "2"
    assert whole.metadata["prior_guidance_scale"] == "4.0"


def test_a_card_speaks_for_its_checkpoint_and_is_overruled():
    card = {"methods": {"conceptlab": {"max_cosine": 0.6, "templates": [PLAIN[0]]}}}
    own = ConceptLabConfig.for_card(card, max_cosine=0.5)
    assert (own.max_cosine, own.min_cosine, own.templates) == (0.5, None, PLAIN)
    assert ConceptLabConfig.for_card(card, style=True).templates == ()
    assert ConceptLabConfig.for_card({}) == ConceptLabConfig()
    for wrong in ({"max_cosin": 0.5}, {"num_steps": "many"}):
        with pytest.raises(ConfigError):
            ConceptLabConfig.for_card(card, **wrong)


def test_what_is_published_differs_by_mode():
    plain, style = ConceptLabConfig(), ConceptLabConfig(style=True)
    assert (plain.steps(), plain.steps(of_child=True)) == (2500, 2000)
    assert (plain.push_until, style.push_until) == (0.20, 0.15)
    own = ConceptLabConfig(num_steps=7, min_cosine=0.1, style=True)
    assert (own.steps(), own.steps(of_child=True), own.push_until) == (7, 7, 0.1)


def test_pictures_are_drawn_in_the_prompt_and_guidance_of_the_method(pocket, monkeypatch):
    asked, decode = [], pocket.decode_embeds

    def watched(*embeds, **settings):
        asked.append(settings)
        return decode(*embeds, **settings)

    monkeypatch.setattr(pocket, "decode_embeds", watched)
    drawn = {"picture_prompt": prompts.PICTURE_PROMPT, "num_inference_steps": 2}
    quick = config(num_steps=1, judge_every=1, guidance_scale=1.5, **drawn)
    concept = ConceptLab(quick).fit(pocket, PET, judge=ScriptedJudge(["dog"]))
    assert (
        concept.prompt() == "Professional high-quality art of a <offbeat>. photorealistic, 4k, HQ"
    )
    draw(pocket, concept, seed=1, num=1)
    draw(pocket, concept, seed=1, num=1, decoding={"guidance_scale": 2.0})
    told = [(one["num_inference_steps"], one["guidance_scale"]) for one in asked]
    assert told == [(2, 1.5), (2, 1.5), (2, 2.0)]
    own = ConceptLab(config(num_steps=1)).fit(pocket, PET)
    assert own.prompt() == "a picture of a <offbeat>"
    assert "guidance_scale" not in own.metadata


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"max_cosine": 0.1, "min_cosine": 0.2}, ConfigError),
        ({"max_cosine": math.nan}, RangeError),
        ({"learning_rate": 0}, RangeError),
        ({"num_steps": 0}, RangeError),
        ({"space": "pixels"}, ConfigError),
        ({"gradual_negatives": True, "judge_every": 0}, ConfigError),
        ({"templates": ("a picture",)}, PromptError),
        ({"templates": PLAIN, "style": True}, PromptError),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, error):
    with pytest.raises(error):
        ConceptLabConfig(**settings)


@pytest.mark.parametrize(
    "weights",
    [
        (),
        (("pig", 1.0),),
        (("pig", 0.5), ("Pig", 0.5)),
        (("pig", 1.5), ("owl", -0.5)),
        (("pig", math.nan), ("owl", 1.0)),
        (("pig", 0.7), ("owl", 0.7)),
    ],
)
def test_mixtures_that_cannot_be_are_refused(pocket, weights):
    with pytest.raises(VocabularyError):
        ConceptLab(config()).fuse(pocket, Request(subject="", weights=weights))


def test_a_subject_of_nothing_and_a_judge_that_names_nothing_are_refused(pocket):
    with pytest.raises(PromptError):
        ConceptLab(config()).fit(pocket, Request(subject=" "))
    with pytest.raises(ConfigError, match="name_it"):
        ConceptLab(config()).fit(pocket, PET, judge=object())
