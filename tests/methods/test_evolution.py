"""The search without gradients: CMA-ES over a token, by what is read of its pictures."""

from dataclasses import replace

import pytest
import torch

from offbeat.backbones.drawn import DrawnPictures, explorable
from offbeat.backbones.readers import OwnReader
from offbeat.errors import ConfigError
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.evolution import EvolutionSearch, vocabulary_basis
from offbeat.methods.low_probability.method import LowProbability
from offbeat.types import Request

CONFIG = LowProbabilityConfig(
    optimizer="cma-es", num_drawn=30, num_components=3, reach=4.0, num_steps=4, num_probes=4,
    population=6, basis_size=4, num_noises=1, prior_num_inference_steps=1, probe_every=2,
    evolution_step=2.0, use_anchor=False,
)  # fmt: skip
REQUEST = Request(subject="pig", prompt="a picture of a {subject}", seed=5)


@pytest.fixture(scope="module")
def backbone(tiny_of):
    return tiny_of("sd")


@pytest.fixture(scope="module")
def baseline(backbone):
    return LowProbability(CONFIG).measure(backbone, REQUEST)


def test_it_goes_to_the_distance_and_a_resumed_search_ends_the_same(backbone, baseline):
    steps = []
    method = LowProbability(CONFIG)
    concept = method.fit(backbone, REQUEST, baseline=baseline, on_step=steps.append)
    gaps = [abs(step.values["distance"] - step.values["radius"]) for step in steps]
    assert min(gaps[1:]) < gaps[0]
    assert not concept.lora  # "token+lora" is the token here
    state = None

    def keep(step):
        nonlocal state
        if step.index == 1:
            state = step.snapshot()

    method.fit(backbone, REQUEST, baseline=baseline, on_step=keep)
    resumed = method.fit(backbone, REQUEST, baseline=baseline, resume=state)
    (token,), (other,) = concept.token_embeds.values(), resumed.token_embeds.values()
    assert torch.equal(token, other)
    assert not torch.equal(token, backbone.token_embeds("pig"))


def test_going_back_starts_again_around_what_passed(backbone, baseline):
    drawn = explorable(backbone)
    search = EvolutionSearch(CONFIG.on(drawn), drawn, REQUEST, baseline, (), None)
    start = search.params["token"].detach().clone()
    search.advance()
    assert not torch.equal(search.params["token"], start)
    assert search._narrow()
    assert torch.equal(search.center, start)
    assert search.costs == []


def test_directions_of_the_vocabulary_are_orthogonal_and_fall_in_length(backbone):
    basis = vocabulary_basis(explorable(backbone), 4)
    lengths = basis.norm(dim=1)
    torch.testing.assert_close(basis @ basis.T, torch.diag(lengths.square()), atol=1e-4, rtol=0)
    assert bool((lengths.diff() <= 0).all())


class NoGradient:
    """A plug-in that draws from text and can do nothing else."""

    def __init__(self, backbone):
        self._inner, self.card = backbone, backbone.card
        self.name, self.device, self.fingerprint = "plug-in", backbone.device, "1234567890"
        for name in ("token_embed", "token_embeds", "num_tokens", "encode_text", "draw_text"):
            setattr(self, name, getattr(backbone, name))


def test_a_plug_in_that_only_draws_is_searched_and_refuses_gradients(backbone, baseline):
    drawn = DrawnPictures(NoGradient(backbone), OwnReader(backbone))
    automatic = replace(CONFIG, optimizer="auto")
    assert automatic.on(drawn).optimizer == "cma-es"
    concept = LowProbability(automatic).fit(drawn, REQUEST, baseline=baseline)
    assert concept.token_embeds
    with pytest.raises(ConfigError, match="no gradient passes plug-in"):
        replace(CONFIG, optimizer="gradient").on(drawn)


@pytest.mark.parametrize(("steps", "optimizer"), [(4, "gradient"), (5, "cma-es")])
def test_few_steps_are_searched_by_gradient(backbone, steps, optimizer):
    config = replace(CONFIG, optimizer="auto", prior_num_inference_steps=steps)
    assert config.on(explorable(backbone)).optimizer == optimizer


def test_what_cma_es_cannot_learn_is_refused(backbone):
    with pytest.raises(ConfigError, match="'subject' or 'adjective'"):
        replace(CONFIG, space="lora").on(explorable(backbone))
