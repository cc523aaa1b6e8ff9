"""DisTok: its laws, losses, pool, alarm and errors; training in a budget of seconds."""

import json
import math
from dataclasses import replace

import pytest
import torch

from offbeat.core.rng import stream
from offbeat.errors import ConfigError, FingerprintError, RangeError, VocabularyError
from offbeat.files.concept import decode_trained, encode_trained
from offbeat.methods.distok import space as space_module
from offbeat.methods.distok.config import DisTokConfig
from offbeat.methods.distok.losses import (
    consistency_loss,
    fusion_loss,
    is_admitted,
    latent_regulariser,
)
from offbeat.methods.distok.method import DisTok
from offbeat.methods.distok.pool import ConceptPool
from offbeat.methods.distok.space import Space, distribution_of, draw_latent, mixed
from offbeat.methods.distok.training import Training, mean_distance
from offbeat.types import Request

WORDS = ("pig", "sheep", "snake", "owl", "teddy bear", "pizza")
SMALL = DisTokConfig(
    num_steps=8, batch_size=4, hidden_width=16, latent_width=5, learning_rate=1e-2,
    estimate_every=3, num_estimated=2, num_inference_steps=2, watch_every=4,
)  # fmt: skip
LIMITS = {"max_restrictive_cosine": 0.85, "max_aesthetic_cosine": 0.8}


class EvenJudge:
    """Reads every picture as half its first class, half its second, but for its brightness."""

    name = "even"
    labels = ("Sheep", "house", *(word for word in WORDS if word != "sheep"))

    def class_probabilities(self, images):
        light = 0.1 * images.mean(dim=(1, 2, 3))
        rows = torch.zeros(len(images), len(self.labels))
        rows[:, 0], rows[:, 1], rows[:, 2] = 0.4 + light, 0.2, 0.4 - light
        return rows


@pytest.fixture(scope="module")
def trained(pocket):
    steps = []
    found = DisTok(SMALL).train(
        pocket, WORDS, seed=2, judge=EvenJudge(), on_step=lambda s: steps.append((s, s.snapshot()))
    )
    return found, steps


def request(*weights, **more):
    return Request(subject="fusion", weights=weights, **more)


# --- losses -----------------------------------------------------------------------------------


def unit(*angles):
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles])


def test_fusion_loss_is_as_worked_out_by_hand_and_thresholds_stop_its_gradient():
    adaptive, far, near = unit(0.0), unit(math.pi / 3)[None], unit(0.1)[None]
    assert float(fusion_loss(adaptive, far, None, **LIMITS)) == pytest.approx(0.5)
    both = fusion_loss(adaptive, torch.cat([far, near], dim=1), unit(0.2), **LIMITS)
    assert float(both) == pytest.approx((0.5 + 0.15) / 2 + 0.2)
    adaptive.requires_grad_()
    (grad,) = torch.autograd.grad(fusion_loss(adaptive, near, unit(0.2), **LIMITS).sum(), adaptive)
    assert torch.equal(grad, torch.zeros_like(grad))
    (grad,) = torch.autograd.grad(fusion_loss(adaptive, far, None, **LIMITS).sum(), adaptive)
    assert grad.abs().max() > 0.1


def test_consistency_is_nothing_where_the_entry_comes_back():
    target = torch.randn(3, 8, generator=stream(0, "t"), requires_grad=True)
    assert consistency_loss(3 * target.detach(), target).abs().max() < 1e-6
    leaf = torch.ones(3, 8, requires_grad=True)
    consistency_loss(leaf, target).sum().backward()
    assert target.grad is None
    assert leaf.grad is not None


@pytest.mark.parametrize("over", ["batch", "per_sample"])
def test_no_scale_changes_the_latent_regulariser(over):
    latents = torch.randn(8, 20, generator=stream(0, "z")) + 0.3
    one, hundred = (latent_regulariser(scale * latents, over=over) for scale in (1, 100))
    assert float(hundred) == pytest.approx(float(one), rel=1e-4)
    if over == "batch":
        centred = latents - latents.mean(dim=0)
        assert float(latent_regulariser(centred)) == pytest.approx(0, abs=1e-6)


def test_admitted_is_what_is_under_tau():
    read = torch.tensor([[0.85, 0.15], [0.84, 0.16], [0.0, 1.0]])
    assert is_admitted(read, max_known_probability=0.85).tolist() == [False, True, False]


# --- pool, laws, mixtures ---------------------------------------------------------------------


def test_eviction_takes_the_oldest_novel_entry_and_never_a_known_class():
    pool = ConceptPool(torch.eye(3), torch.eye(3), max_novel=2)
    for value in (10.0, 11.0, 12.0):
        pool.add(torch.full((1, 3), value), torch.full((1, 3), 1 / 3), torch.zeros(1, 3))
    assert pool.tokens[:, 0].tolist() == [1, 0, 0, 11, 12]
    assert torch.equal(pool.distributions[:3], torch.eye(3))
    assert (len(pool), pool.num_novel) == (5, 2)


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
def test_laws_have_mean_nothing_and_spread_one(law):
    drawn = draw_latent(law, 200_000, stream(0, law))
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(1, abs=0.01)
    kurtosis = float((drawn**4).mean())
    assert kurtosis == pytest.approx(3 if law == "gaussian" else 6, rel=0.1)


def test_a_cauchy_law_has_scale_one_and_is_cut_off():
    drawn = draw_latent("cauchy", 200_000, stream(0, "cauchy"))
    assert float(drawn.abs().max()) == 10
    assert float(drawn.abs().median()) == pytest.approx(1, abs=0.02)


def test_one_hot_is_the_class_and_a_pair_is_half_and_half():
    tokens = torch.randn(4, 6, generator=stream(0, "rows"))
    assert torch.equal(mixed(torch.eye(4), tokens), tokens)
    pair = torch.tensor([[0.5, 0, 0.5, 0]])
    torch.testing.assert_close(mixed(pair, tokens)[0], (tokens[0] + tokens[2]) / 2)
    summed = mixed(torch.cat([pair, torch.eye(4)]), tokens, pair_weighting="sum")
    torch.testing.assert_close(summed, torch.cat([(tokens[0] + tokens[2])[None], tokens]))


def test_words_are_found_in_any_case_and_unknown_ones_are_told_their_neighbours(pocket):
    rows = torch.stack([pocket.token_embed(word) for word in WORDS])
    shares = distribution_of((("Teddy  Bear", 3.0), ("owl", 1.0)), WORDS, rows, pocket)
    assert shares.tolist() == [0, 0, 0, 0.25, 0.75, 0]
    with pytest.raises(VocabularyError, match=r"'sheeps'.*such as sheep, "):
        distribution_of((("sheeps", 1.0),), WORDS, rows, pocket)
    for bad in (float("nan"), -1.0, float("inf")):
        with pytest.raises(VocabularyError, match="weight of 0 or more"):
            distribution_of((("pig", bad),), WORDS, rows, pocket)
    with pytest.raises(VocabularyError, match="at least one above 0"):
        distribution_of((("pig", 0.0),), WORDS, rows, pocket)


# --- training ---------------------------------------------------------------------------------


def test_every_sample_has_one_task_and_the_pool_grows(trained):
    found, steps = trained
    values = [step.values for step, _ in steps]
    assert all(v["num_fusion"] + v["num_consistency"] == SMALL.batch_size for v in values)
    assert not any(v["num_consistency"] for v in values[:3])  # no novel entry yet
    assert any(v["num_consistency"] for v in values[3:])
    assert found.readings["novel"] == 4
    assert [v["pool"] for v in values] == [6, 6, 8, 8, 8, 10, 10, 10]


def test_the_pool_holds_what_the_judge_read_over_the_vocabulary(trained):
    read = trained[1][-1][1]["pool"]["distributions"]
    assert read.shape == (4, 6)
    torch.testing.assert_close(read.sum(dim=1), torch.ones(4))
    assert (read[:, [0, 1]] > 0.35).all()  # pig and sheep; the judge's house is left out
    assert (read[:, 2:] < 1e-6).all()


def test_the_same_seed_gives_the_same_bytes_and_so_does_a_resumed_training(trained, pocket):
    found, steps = trained
    again = DisTok(SMALL).train(pocket, WORDS, seed=2, judge=EvenJudge())
    assert encode_trained(again) == encode_trained(found)
    for kept in (0, 4):  # before the first entry of the pool, and after it
        resumed = DisTok(SMALL).train(
            pocket, WORDS, seed=2, judge=EvenJudge(), resume=steps[kept][1]
        )
        assert encode_trained(resumed) == encode_trained(found)
    other = DisTok(SMALL).train(pocket, WORDS, seed=3, judge=EvenJudge())
    assert not torch.equal(other.tensors["encoder.0.weight"], found.tensors["encoder.0.weight"])


def test_a_table_of_pairs_and_encoding_them_anew_agree(pocket):
    training = Training(SMALL, pocket, WORDS, 0, None)
    pairs = training.pairs[:3]
    from_table = training.texts.of_pairs(pairs, training.pool)
    training.texts.rows = None
    torch.testing.assert_close(training.texts.of_pairs(pairs, training.pool), from_table)


def test_evaluation_pairs_are_not_trained_on(pocket):
    training = Training(SMALL, pocket, WORDS, 0, None)
    drawn = {frozenset((WORDS[one], WORDS[other])) for one, other in training.pairs}
    assert len(training.held_out) == 3
    assert not drawn & {frozenset(pair) for pair in training.held_out}
    assert len(drawn) == 12


def test_published_switches_and_ours_train(pocket):
    config = replace(
        SMALL, num_steps=3, pair_weighting="sum", regularise_over="per_sample",
        fusion_target="shares", consistency_from="pool", aesthetic_prompt=None,
        estimate_from="mixtures", num_pictures=2, estimate_every=2,
    )  # fmt: skip
    steps = []
    found = DisTok(config).train(pocket, WORDS, judge=EvenJudge(), on_step=steps.append)
    assert all(math.isfinite(step.loss) for step in steps)
    assert found.readings["novel"] == 2


def test_a_constant_decoder_rings_the_alarm(pocket, monkeypatch):
    def constant(params, latents, *, row_norm):
        return params["decoder.1.bias"].expand(len(latents), -1) * row_norm

    quiet = DisTok(replace(SMALL, num_steps=1)).train(pocket, WORDS)
    assert not any("collapse" in warning for warning in quiet.readings["warnings"])
    monkeypatch.setattr("offbeat.methods.distok.training.decode", constant)
    loud = DisTok(replace(SMALL, num_steps=1)).train(pocket, WORDS)
    assert any("collapse" in warning for warning in loud.readings["warnings"])


# --- use --------------------------------------------------------------------------------------


def test_a_fusion_survives_the_file_and_depends_on_its_shares(trained, pocket):
    found = decode_trained(encode_trained(trained[0]), "space")
    method = DisTok(SMALL)
    concept = method.fuse(pocket, request(("pig", 0.7), ("owl", 0.3)), trained=found)
    own = method.fuse(pocket, request(("pig", 0.7), ("owl", 0.3)), trained=trained[0])
    other = method.fuse(pocket, request(("pig", 0.3), ("owl", 0.7)), trained=found)
    (token,) = concept.token_embeds.values()
    assert torch.equal(token, *own.token_embeds.values())
    assert not torch.equal(token, *other.token_embeds.values())
    space = Space.of(found, pocket)
    assert float(token.norm()) == pytest.approx(space.row_norm, rel=1e-5)
    assert concept.prompt() == f"a photo of a {concept.word}"
    assert concept.metadata["weights"] == '{"pig": 0.7, "owl": 0.3}'
    assert "warning" not in concept.metadata
    styled = method.fuse(pocket, request(("pig", 1.0), prompt="a red {subject}"), trained=found)
    assert styled.template == "a red {concept}"


def test_many_classes_at_once_are_warned_of(trained, pocket):
    even = request(*((word, 1 / 6) for word in WORDS))
    concept = DisTok(SMALL).fuse(pocket, even, trained=trained[0])
    assert "log 5" in concept.metadata["warning"]


def test_a_dream_depends_on_its_number_seed_and_law_alone(trained, pocket):
    def dreamt(index, law="gaussian", seed=0):
        method = DisTok(replace(SMALL, law=law))
        concept = method.dream(pocket, request(seed=seed), index, trained=trained[0])
        return next(iter(concept.token_embeds.values()))

    assert torch.equal(dreamt(3), dreamt(3))
    others = [dreamt(4), dreamt(3, "laplace"), dreamt(3, "cauchy"), dreamt(3, seed=1)]
    assert not any(torch.equal(dreamt(3), other) for other in others)


def test_a_dream_may_settle_on_the_nearest_classes(trained, pocket):
    space = Space.of(trained[0], pocket)
    toward = space.class_tokens[3] + 0.5 * space.class_tokens[5]
    shares = space.nearest_mixture(toward, num=2)
    assert shares.argsort(descending=True)[:2].tolist() == [3, 5]
    assert shares.sum() == pytest.approx(1)
    settled = DisTok(replace(SMALL, dream_classes=2)).dream(
        pocket, request(), 0, trained=trained[0]
    )
    words = json.loads(settled.metadata["weights"])
    fused = DisTok(SMALL).fuse(pocket, request(*words.items()), trained=trained[0])
    torch.testing.assert_close(
        next(iter(settled.token_embeds.values())),
        next(iter(fused.token_embeds.values())),
        rtol=1e-4,
        atol=1e-5,
    )


def test_another_method_or_width_is_refused(trained, pocket):
    found, ask = trained[0], request(("pig", 1.0))
    for wrong in (None, replace(found, method="cretok"), replace(found, tensors={})):
        with pytest.raises(
            ConfigError, match="trained: expected what `offbeat train distok` writes"
        ):
            DisTok().fuse(pocket, ask, trained=wrong)
    narrow = replace(found, tensors={**found.tensors, "class_tokens": torch.ones(6, 4)})
    with pytest.raises(FingerprintError, match=r"width 4.*256"):
        DisTok().dream(pocket, ask, 0, trained=narrow)


def test_bad_settings_judges_and_vocabularies_are_refused(pocket):
    with pytest.raises(RangeError):
        DisTokConfig(max_known_probability=float("nan"))
    with pytest.raises(ConfigError, match="pair_weighting: expected one of mean, sum"):
        DisTokConfig(pair_weighting="max")
    card = {"methods": {"distok": {"num_steps": 5}}}
    assert DisTokConfig.for_card(card, batch_size=2) == DisTokConfig(num_steps=5, batch_size=2)
    with pytest.raises(ConfigError, match="eps1: expected a setting of distok"):
        DisTokConfig.for_card({"methods": {"distok": {"eps1": 1}}})
    with pytest.raises(VocabularyError, match="twice"):
        DisTok(SMALL).train(pocket, ("pig", "Pig"))
    with pytest.raises(ConfigError, match="even knows 0"):
        DisTok(SMALL).train(pocket, ("car", "bus"), judge=EvenJudge())


def test_a_fresh_network_keeps_classes_apart():
    params = space_module.initial_params(DisTokConfig(), 32, 0)
    rows = torch.randn(20, 32, generator=stream(0, "rows"))
    tokens = space_module.decode(
        params, space_module.encode(params, rows, row_norm=5.6), row_norm=5.6
    )
    assert mean_distance(tokens) > 0.05
