"""CreTok: its truncated loss, its pairs, its warning, resuming, and the prompts that use it."""

import itertools
from dataclasses import replace

import pytest
import torch

from offbeat.core import vocab
from offbeat.core.functional import pair_cosine
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, FingerprintError, PromptError, RangeError, VocabularyError
from offbeat.files.concept import decode_trained, encode_trained
from offbeat.methods.cretok.config import WORD, CreTokConfig
from offbeat.methods.cretok.losses import mixture_loss
from offbeat.methods.cretok.method import CreTok
from offbeat.methods.cretok.prompts import listed, training_pairs, with_articles
from offbeat.types import Request

SMALL = CreTokConfig(num_steps=6, num_pairs=12, batch_size=4)
WORDS = vocab.ANIMALS[:9]
FUSE = Request(subject="", weights=(("pig", 0.2), ("owl", 0.5), ("old teapot", 0.3)), seed=2)


def train(pocket, config=SMALL, **kwargs):
    steps = []
    trained = CreTok(config).train(pocket, WORDS, on_step=steps.append, **kwargs)
    return trained, steps


@pytest.fixture(scope="module")
def trained(pocket):
    return train(pocket)[0]


def embeds(*shape):
    return torch.randn(*shape, generator=stream(0, "test"))


def gradient(table, adaptive, theta):
    leaf = adaptive.clone().requires_grad_()
    mixture_loss(table, leaf, theta=theta).backward()
    return leaf.grad


# --- the loss


def test_above_theta_there_is_no_gradient_and_below_it_is_the_plain_loss():
    table, adaptive = embeds(5, 2, 8), embeds(1, 8) + 0.3
    near = pair_cosine(table, adaptive)
    low, high = float(near.min()) - 1e-3, float(near.max()) + 1e-3
    assert gradient(table, adaptive, low).abs().max() == 0
    leaf = adaptive.clone().requires_grad_()
    plain = (1 - torch.nn.functional.cosine_similarity(table, leaf, dim=-1)).mean()
    plain.backward()
    torch.testing.assert_close(gradient(table, adaptive, high), leaf.grad)
    torch.testing.assert_close(mixture_loss(table, adaptive, theta=high), plain.detach())
    # one prompt below theta: the gradient is that prompt's alone
    theta = float(near.flatten().sort().values[:2].mean())
    lowest = table.flatten(0, 1)[near.flatten().argmin()].view(1, 1, 8)
    alone = gradient(lowest, adaptive, theta) / near.numel()
    torch.testing.assert_close(gradient(table, adaptive, theta), alone)


def test_the_order_of_a_pair_does_not_matter():
    table, adaptive = embeds(5, 2, 8), embeds(1, 8)
    ours, flipped = (mixture_loss(t, adaptive, theta=0.1) for t in (table, table.flip(1)))
    torch.testing.assert_close(ours, flipped)


def test_two_encoders_count_alike_whatever_their_lengths():
    a, b = embeds(3, 5), embeds(1, 5)
    both = pair_cosine(a, b, widths=(2, 3))
    scaled = torch.cat([a[:, :2] * 100, a[:, 2:]], dim=-1)
    torch.testing.assert_close(pair_cosine(scaled, b, widths=(2, 3)), both)
    expected = (pair_cosine(a[:, :2], b[:, :2]) + pair_cosine(a[:, 2:], b[:, 2:])) / 2
    torch.testing.assert_close(both, expected)


# --- training


def test_training_is_one_that_others_can_call_and_lowers_the_loss(pocket):
    trained, steps = train(pocket, replace(SMALL, num_steps=20))
    losses = [step.values["loss_all"] for step in steps]
    assert losses[-1] < losses[0]
    assert [step.index for step in steps] == list(range(20))
    assert trained.tensors[WORD].shape == (1, len(pocket.token_embed("creative")))
    first = steps[0].values["initial_cosines"]
    assert len(first) == SMALL.num_pairs
    assert first == trained.readings["initial_cosines"]


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(pocket, trained):
    data = encode_trained(trained)
    assert data == encode_trained(train(pocket)[0])
    assert not torch.equal(trained.tensors[WORD], train(pocket, seed=1)[0].tensors[WORD])
    back = decode_trained(data, "token")
    assert torch.equal(back.tensors[WORD], trained.tensors[WORD])
    assert back.readings == trained.readings


@pytest.mark.parametrize("at", [0, 3, 5])
def test_killed_and_resumed_it_is_the_same_file(pocket, trained, at):
    states = []
    CreTok(SMALL).train(pocket, WORDS, on_step=lambda s: states.append(s.snapshot()))
    again, steps = train(pocket, resume=states[at])
    assert encode_trained(again) == encode_trained(trained)
    assert [step.index for step in steps] == list(range(at + 1, SMALL.num_steps))


def test_other_rows_stay_as_they_are(pocket):
    weights = [p.clone() for p in pocket.text_encoder.parameters()]
    train(pocket)
    after = list(pocket.text_encoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(after, weights, strict=True))
    assert not pocket.text_encoder.get_input_embeddings()._forward_hooks


def test_no_evaluation_pair_is_trained_on(pocket):
    words = list(pocket.card["concepts"])
    pairs, held_out = training_pairs(words, 200)
    assert held_out == vocab.evaluation_pairs(words)
    assert len(pairs) == 200
    assert not {frozenset(p) for p in pairs} & {frozenset(p) for p in held_out}


@pytest.mark.parametrize("num", [2, 3, 5, 9])
def test_few_words_still_leave_pairs_to_train_on(num):
    words = vocab.ANIMALS[:num]
    pairs, held_out = training_pairs(words, 200)
    every = {frozenset(p) for p in itertools.combinations(words, 2)}
    assert {frozenset(p) for p in (*pairs, *held_out)} == every
    assert len(pairs) >= 3 * len(held_out)


def test_it_warns_where_the_gradient_is_zero_from_the_start(pocket):
    trained, steps = train(pocket, replace(SMALL, theta=-0.9))
    assert "start above theta" in steps[0].values["warnings"][0]
    assert trained.readings["warnings"] == steps[0].values["warnings"]
    assert all(step.values["grad_norm"] == 0 for step in steps)
    assert torch.equal(trained.tensors[WORD][0], pocket.token_embed("creative"))
    silent = train(pocket, replace(SMALL, theta=0.9))
    assert not silent[1][0].values["warnings"]
    assert "truncation did nothing" in silent[0].readings["warnings"][0]


def test_theta_can_be_a_quantile_of_the_cosines_before_training(pocket):
    trained, steps = train(pocket, replace(SMALL, theta_quantile=0.75))
    assert steps[0].values["active"] == pytest.approx(0.75, abs=0.05)
    cosines = torch.tensor(list(trained.readings["initial_cosines"].values())).flatten()
    assert trained.readings["theta"] == pytest.approx(float(cosines.quantile(0.75)), abs=1e-3)
    assert train(pocket)[0].readings["theta"] == 0.5


def test_each_text_encoder_has_its_part_of_the_row(tiny_sd):
    """Stable Diffusion's forms: one encoder, and two side by side."""
    config = replace(SMALL, theta=1.0, num_steps=30)
    steps = []
    trained = CreTok(config).train(tiny_sd, WORDS, on_step=steps.append)
    text = tiny_sd.encode_text(["a pig"])
    before, after = tiny_sd.token_embed("creative"), trained.tensors[WORD][0]
    parts = max(1, len(text.widths))
    for old, new in zip(before.chunk(parts), after.chunk(parts), strict=True):
        assert (new - old).norm() > 0.1
    assert steps[-1].values["loss_all"] < steps[0].values["loss_all"]
    concept = CreTok().fuse(tiny_sd, FUSE, trained=trained)
    assert concept.token_embeds[WORD].shape == (1, len(before))


def test_a_flat_loss_ends_it(pocket):
    flat = replace(SMALL, theta=-0.9, flat_steps=2, num_steps=50)
    trained, steps = train(pocket, flat)
    assert (trained.readings["stopped"], len(steps)) == ("flat", 3)


# --- use


def test_words_are_fused_in_one_prompt_the_largest_share_first(pocket, trained):
    concept = CreTok().fuse(pocket, FUSE, trained=trained)
    resembles = "that resembles an owl, an old teapot and a pig"
    assert concept.prompt() == f"a photo of a {WORD} mixture {resembles}"
    other = concept.prompt("{concept}, in watercolour")  # another scene keeps the words
    assert other == f"{WORD} mixture {resembles}, in watercolour"
    assert concept.subject == "owl + old teapot + pig"
    assert torch.equal(concept.token_embeds[WORD], trained.tensors[WORD])


def test_the_token_alone_names_nothing(pocket, trained):
    concept = CreTok().imagine(pocket, trained)
    assert concept.prompt() == f"a photo of a {WORD} mixture"
    assert concept.prompt("a painting of a {concept} mixture") == f"a painting of a {WORD} mixture"


def test_articles_and_lists():
    assert with_articles("a {first} {second}", first="owl", second="pig") == "an owl pig"
    assert with_articles("panda {first}", first="owl") == "panda owl"
    assert listed(["pig", "owl"]) == "a pig and an owl"
    assert listed(["an old owl", "A pig", "my cat"]) == "an old owl, A pig and my cat"


@pytest.mark.parametrize(
    ("words", "error"),
    [((), VocabularyError), (("pig",), VocabularyError), (("pig", "Pig"), VocabularyError),
     (("pig", " "), VocabularyError), (("pig", "\ud800"), PromptError),
     (("pig", "owl " * 90), PromptError)],
)  # fmt: skip
def test_words_that_cannot_be_fused(pocket, trained, words, error):
    request = Request(subject="", weights=tuple((word, 0.5) for word in words))
    with pytest.raises(error):
        CreTok().fuse(pocket, request, trained=trained)


def test_a_token_of_another_checkpoint_or_method_is_refused(pocket, trained):
    with pytest.raises(FingerprintError, match="trained on pocket"):
        CreTok().fuse(pocket, FUSE, trained=replace(trained, fingerprint="other"))
    for other in (None, replace(trained, method="distok"), replace(trained, tensors={})):
        with pytest.raises(ConfigError, match="offbeat train"):
            CreTok().fuse(pocket, FUSE, trained=other)


# --- settings


@pytest.mark.parametrize(
    ("settings", "error"),
    [({"theta": 1.5}, RangeError), ({"theta": float("nan")}, RangeError),
     ({"theta_quantile": -0.1}, RangeError), ({"theta": 0.5, "theta_quantile": 0.5}, ConfigError),
     ({"num_steps": 0}, RangeError), ({"batch_size": 2.5}, ConfigError),
     ({"use_template": "a picture"}, PromptError),
     ({"phrase": "{token}"}, PromptError), ({"adaptive_template": "a mixture"}, PromptError)],
)  # fmt: skip
def test_settings_out_of_range(settings, error):
    with pytest.raises(error):
        CreTokConfig(**settings)


def test_a_card_may_hold_what_suits_it():
    card = {"methods": {"cretok": {"theta_quantile": 0.9, "num_steps": 5}}}
    assert CreTokConfig.for_card({}) == CreTokConfig()
    assert CreTokConfig.for_card(card) == CreTokConfig(theta_quantile=0.9, num_steps=5)
    assert CreTokConfig.for_card(card, theta=0.3) == CreTokConfig(theta=0.3, num_steps=5)
    for bad in ({"thet": 0.3}, {"theta": "high"}, {"phrase": 3}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            CreTokConfig.for_card({"methods": {"cretok": bad}})


def test_diffusers_loads_the_file(tmp_path, pocket, trained):
    """The loader of every pipeline that has a tokenizer and a text encoder."""
    import copy

    from diffusers.loaders import TextualInversionLoaderMixin

    class Pipe(TextualInversionLoaderMixin):
        def __init__(self):
            self.tokenizer = copy.deepcopy(pocket.tokenizer)
            self.text_encoder = copy.deepcopy(pocket.text_encoder)
            self.components, self.hf_device_map = {}, None

    (tmp_path / "cretok.safetensors").write_bytes(encode_trained(trained))
    pipe = Pipe()
    pipe.load_textual_inversion(tmp_path, weight_name="cretok.safetensors", token=WORD)
    row = pipe.text_encoder.get_input_embeddings().weight[
        pipe.tokenizer.convert_tokens_to_ids(WORD)
    ]
    assert torch.equal(row, trained.tensors[WORD][0])
