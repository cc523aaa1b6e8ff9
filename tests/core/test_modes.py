"""A search inside the caller's torch modes is the search without them."""

import pytest
import torch

import offbeat
from offbeat.core.modes import own_modes
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.conceptlab.method import ConceptLab
from offbeat.methods.cretok.config import CreTokConfig
from offbeat.methods.cretok.method import CreTok
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.types import Request

MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
SEARCH = LowProbabilityConfig(
    num_baseline=20, num_held_out=5, num_components=3, num_steps=2, num_probes=2, judge_every=2,
    lora_rank=2, reach=1.5, use_support=False,
)  # fmt: skip


def searched(pocket):
    concept = LowProbability(SEARCH).fit(pocket, Request(subject="owl"))
    return next(iter(concept.lora.values()))


def mixed(pocket):
    request = Request(subject="x", weights=(("owl", 0.5), ("pig", 0.5)))
    concept = ConceptLab(ConceptLabConfig(num_steps=2, judge_every=0)).fuse(pocket, request)
    return next(iter(concept.token_embeds.values()))


def trained(pocket):
    found = CreTok(CreTokConfig(num_steps=2, num_pairs=3)).train(pocket, ["owl", "pig", "cat"])
    return next(iter(found.tensors.values()))


@pytest.mark.parametrize("task", [searched, mixed, trained])
@pytest.mark.parametrize("mode", MODES)
def test_a_search_is_the_same_in_any_mode(pocket, mode, task):
    expected = task(pocket)
    with MODES[mode]():
        got = task(pocket)
    assert got.device.type == "cpu"
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)
    assert not got.is_inference()


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_loaded_in_any_mode_can_be_searched(pocket, mode):
    with MODES[mode]():
        again = offbeat.load_backbone("pocket", device="cpu")
    assert torch.equal(searched(again), searched(pocket))


def test_the_caller_s_modes_come_back():
    with torch.no_grad(), torch.device("meta"):
        with own_modes():
            assert torch.is_grad_enabled()
            assert torch.zeros(1).device.type == "cpu"
        assert not torch.is_grad_enabled()
        assert torch.zeros(1).device.type == "meta"
