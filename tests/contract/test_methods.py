"""What every method of the registry must keep, on pocket, in seconds."""

import os
import subprocess
import sys

import pytest
import torch

from offbeat import registry
from offbeat.core.drawing import sample_concept
from offbeat.core.rng import streams
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.cretok.config import CreTokConfig
from offbeat.methods.distok.config import DisTokConfig
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.types import Request

CASES = {
    "low-probability": LowProbabilityConfig(
        num_baseline=60, num_held_out=20, num_components=4, num_steps=8, num_probes=16,
        probe_every=2, judge_every=4, lora_rank=2, quantile=0.9999, learning_rate=1e-3,
    ),
    "conceptlab": ConceptLabConfig(
        num_steps=16, learning_rate=0.02, max_cosine=1.0, judge_every=0, initial_word="castle",
    ),
    "cretok": CreTokConfig(num_steps=8, num_pairs=6, batch_size=6, theta=1.0),
    "distok": DisTokConfig(
        num_steps=16, learning_rate=1e-3, consistency_share=0.0, aesthetic_prompt=None,
    ),
}  # fmt: skip
"""Each method's small settings: a new method adds its line here."""

REQUEST = Request(subject="pineapple", seed=5)
WORDS = ("pineapple", "owl", "castle", "bee")
PAIR = Request(subject="owl + bee", weights=(("owl", 0.5), ("bee", 0.5)), seed=5)


def test_every_method_that_learns_has_a_case():
    found = {name: registry.find("method", name) for name in registry.BUILT_IN["method"]}
    verbs = ("draw", "mix", "paint")
    drawing = {n for n, one in found.items() if any(hasattr(one, verb) for verb in verbs)}
    assert set(found) - drawing == set(CASES)


def learn(method, pocket, extra, **observed):
    """Return what a method learns, by name, and a concept that it makes of it."""
    if "train" in method.verbs:
        trained = method.train(pocket, WORDS, seed=REQUEST.seed, **observed)
        return dict(trained.tensors), method.fuse(pocket, PAIR, trained=trained)
    concept = method.fit(pocket, REQUEST, **observed, **extra)
    image_embeds = {} if concept.image_embeds is None else {"e": concept.image_embeds}
    return {**concept.token_embeds, **concept.lora, **image_embeds}, concept


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[n]) for n, v in one.items())


@pytest.fixture(scope="module", params=sorted(CASES))
def fitted(request, pocket):
    """The method, what it needs beside a backbone, and what it learned with its steps."""
    method = registry.find("method", request.param)(CASES[request.param])
    extra = {"baseline": method.measure(pocket, REQUEST)} if hasattr(method, "measure") else {}
    steps = []
    found = learn(method, pocket, extra, on_step=steps.append)
    return method, extra, found, steps


def test_the_same_seed_learns_the_same(fitted, pocket):
    method, extra, (learned, _), _ = fitted
    assert same(learned, learn(method, pocket, extra)[0])


def test_a_method_that_fuses_says_what_it_heeds(fitted, pocket):
    method, _, (_, concept), _ = fitted
    if "fuse" in method.verbs:
        assert isinstance(method.takes_weights, bool)
    assert concept.metadata["method"] == method.name
    assert "{concept}" in concept.template
    assert any(word in concept.prompt() for word in (*concept.token_embeds, concept.word))


def test_no_global_randomness_is_used_or_left(fitted, pocket):
    method, extra, (learned, _), _ = fitted
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = learn(method, pocket, extra)[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(learned, again)


def test_a_sample_does_not_depend_on_its_batch(fitted, pocket):
    concept = fitted[2][1]
    with torch.no_grad():
        four = sample_concept(pocket, concept, streams(1, "contract", num=4))
        one = sample_concept(pocket, concept, streams(1, "contract", num=1, start=2))
    torch.testing.assert_close(four[2:3], one, rtol=1e-4, atol=1e-4)


def test_the_loss_falls_and_steps_are_reported_in_order(fitted):
    steps = fitted[3]
    assert [step.index for step in steps] == list(range(len(steps)))
    half = len(steps) // 2
    first, last = (sum(s.loss for s in part) for part in (steps[:half], steps[-half:]))
    assert last < first


def test_it_goes_on_from_its_snapshot(fitted, pocket):
    method, extra, (learned, _), _ = fitted
    states = []
    learn(method, pocket, extra, on_step=lambda s: states.append(s.snapshot()))
    assert same(learned, learn(method, pocket, extra, resume=states[2])[0])


def test_the_backbone_is_left_as_it_was(fitted, pocket):
    method, extra, _, _ = fitted
    modules = (pocket.fast_prior.prior, pocket.text_encoder, pocket.unet, pocket.movq)
    before = [p.clone() for module in modules for p in module.parameters()]
    learn(method, pocket, extra)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not pocket.text_encoder.get_input_embeddings()._forward_hooks
    assert all(p.grad is None and not p.requires_grad for p in after)


IMPORTED = """
import random, sys
import numpy, torch
from offbeat import registry

def state():
    kind, keys, *rest = numpy.random.get_state()
    return (torch.random.get_rng_state().tolist(), random.getstate(), kind, keys.tolist(), rest,
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled())

before = state()
registry.find("method", sys.argv[1])
module = registry.BUILT_IN["method"][sys.argv[1]].partition(":")[0]
configs = [value for name, value in vars(sys.modules[module]).items() if name.endswith("Config")]
assert configs
for config in configs:
    config()
assert state() == before
"""


@pytest.mark.parametrize("name", sorted(CASES))
def test_config_and_module_have_no_side_effect_at_import(tmp_path, name):
    """Neither randomness nor settings of torch are touched, and no file is made."""
    homes = ("HOME", "USERPROFILE", "OFFBEAT_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME")
    env = {**os.environ, **{home: str(tmp_path) for home in homes}, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", IMPORTED, name]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""
    assert not list(tmp_path.iterdir())
