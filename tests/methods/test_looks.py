"""What a judge or an eye sees, and nobody else, is drawn in few steps and encoded once."""

from collections import Counter

import pytest
import torch

import offbeat
from offbeat.core.drawing import draw, plain_concept_of
from offbeat.judges.scripted import ScriptedJudge
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.conceptlab.method import ConceptLab
from offbeat.methods.distok.pool import Reader
from offbeat.methods.low_probability.choosing import Eye
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.metrics.seen import PlainEye
from offbeat.types import Request

SEARCH = LowProbabilityConfig(
    num_baseline=20, num_held_out=5, num_components=3, num_steps=2, num_probes=2, judge_every=2,
    lora_rank=2, num_judged=2, use_support=False,
)  # fmt: skip
WEIGHTS = (("owl", 0.5), ("pig", 0.5))


class Judge(ScriptedJudge):
    labels = ("owl", "pig")

    def class_probabilities(self, images):
        return torch.full((len(images), 2), 0.5)


@pytest.fixture
def drawn(pocket, monkeypatch):
    """How many pictures were decoded in how many steps, by a decoder that takes no time."""
    counts = Counter()

    def decode(image_embeds, *, generator, num_inference_steps=None, **settings):
        counts[num_inference_steps] += len(image_embeds)
        return torch.rand(len(image_embeds), 3, 128, 128, generator=generator[0])

    monkeypatch.setattr(pocket, "decode_embeds", decode)
    return counts


@pytest.mark.parametrize(("own", "steps"), [(4, 4), (25, 25), (26, 16), (50, 16)])
def test_a_judge_s_pictures_take_few_steps_where_a_checkpoint_takes_many(
    pocket, monkeypatch, drawn, own, steps
):
    monkeypatch.setitem(pocket._card, "num_inference_steps", own)
    judge = Judge(answers=["yes", "cow"])
    LowProbability(SEARCH).fit(pocket, Request(subject="owl"), judge=judge)
    config = ConceptLabConfig(num_steps=1, judge_every=1, num_inference_steps=None)
    ConceptLab(config).fit(pocket, Request(subject="owl"), judge=judge)
    tokens = pocket.token_embed("owl")[None]
    Reader(pocket, judge, Judge.labels, "a {concept}", None).read(
        tokens, num=1, seed=0, purpose=("a",)
    )
    assert drawn == {steps: 2 + 1 + 1}
    draw(pocket, plain_concept_of("owl", pocket), seed=0, num=3)
    assert drawn[None] == 3  # what is shown takes the checkpoint's own


def test_a_look_is_compared_with_pictures_of_as_few_steps(pocket, monkeypatch, drawn, tmp_path):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path))
    monkeypatch.setitem(pocket._card, "num_inference_steps", 50)
    with monkeypatch.context() as patch:
        patch.setattr(Eye, "novelty", None)  # that is of pictures of all steps
        offbeat.explore("castle", backbone=pocket, config=SEARCH, directions=1, num_trials=1,
                        num_images=1, candidates=1, judge="none")  # fmt: skip
    looks = 2
    assert drawn[16] == 64 + looks
    assert drawn[None] >= 64 + 1
    dark, light = (torch.full((8, 3, 16, 16), shade) + torch.rand(8, 3, 16, 16) / 9
                   for shade in (0.1, 0.8))  # fmt: skip
    encoder = PlainEye()
    eye = Eye(encoder, encoder.image_embeds(list(dark)),
              looked_at=encoder.image_embeds(list(light)))  # fmt: skip
    assert eye.look(light[:1]) < eye.novelty(light[:1])


def test_the_empty_prompt_is_encoded_once(tiny_folder, monkeypatch):
    backbone = offbeat.load_backbone(tiny_folder)
    counts, encode = Counter(), backbone.encode_text

    def counted(prompts, **tokens):
        counts[tuple(prompts)] += 1
        return encode(prompts, **tokens)

    monkeypatch.setattr(backbone, "encode_text", counted)
    for subject in ("owl", "pig"):
        LowProbability(SEARCH).fit(backbone, Request(subject=subject))
    ConceptLab(ConceptLabConfig(num_steps=3, judge_every=0)).fuse(
        backbone, Request(subject="x", weights=WEIGHTS)
    )
    assert counts[("",)] == 1
