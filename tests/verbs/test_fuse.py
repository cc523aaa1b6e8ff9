"""Fusing, dreaming and training: what is asked, what is written, what is refused."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from offbeat import dream, fuse, grid, load_run, render, sweep, train
from offbeat.core import vocab
from offbeat.errors import (
    CapabilityError,
    ConfigError,
    CorruptRunError,
    FingerprintError,
    PromptError,
    StoreError,
    UnknownNameError,
    VocabularyError,
)
from offbeat.files.concept import encode_trained

WORDS = ("pig", "owl", "bee", "castle", "snake", "car")
SMALL = {
    "num_steps": 40,
    "learning_rate": 1e-3,
    "estimate_every": 20,
    "num_estimated": 2,
    "num_pictures": 1,
    "num_inference_steps": 2,
}
QUICK = {"num_steps": 6, "judge_every": 3}


@pytest.fixture(scope="module")
def space(pocket):
    return train("distok", vocabulary=WORDS, config=SMALL, backbone=pocket)


@pytest.fixture(scope="module")
def fused(pocket, space, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused") / "run"
    weights = {"pig": 11, "owl": 5, "bee": 4}
    return fuse(weights, trained=space, backbone=pocket, num_images=2, out=folder)


def test_distok_is_not_trained_by_half_without_a_word(tiny_of):
    bare = tiny_of("sd")  # no card: nothing says which words its towers know
    with pytest.raises(ConfigError, match=r"name a vision-language model \(--judge smolvlm\)"):
        train("distok", vocabulary=WORDS, config=SMALL, backbone=bare)
    for judge, more in (("none", {}), ("auto", {"consistency_from": "pool"})):
        config = {**SMALL, "num_steps": 1, **more}
        found = train("distok", vocabulary=WORDS, config=config, judge=judge, backbone=bare)
        assert any("the pool holds no new concept" in w for w in found.readings["warnings"])


def test_a_fusion_is_written_and_read_back(fused):
    assert fused.request["weights"] == [[["pig", 0.55], ["owl", 0.25], ["bee", 0.2]]]
    again = load_run(fused.folder)
    assert again.summary == fused.summary
    assert (len(again.images), len(again.ordinary), len(again.concepts)) == (2, 6, 1)
    (token,) = again.concept.token_embeds.values()
    assert torch.equal(token, next(iter(fused.concept.token_embeds.values())))
    row = again.summary["concepts"][0]
    assert set(row["mean"]) == {"pig", "owl", "bee"}
    assert row["kl"] >= 0
    names = {path.name for path in fused.folder.iterdir()}
    assert {"request.json", "contact.png", "report.html", "concept.safetensors"} <= names


def test_the_same_seed_fuses_the_same(fused, pocket, space):
    again = fuse([("pig", 0.55), ("owl", 0.25), ("bee", 0.2)], trained=space, backbone=pocket,
                 num_images=2)  # fmt: skip
    for one, other in zip(fused.images, again.images, strict=True):
        assert one.tobytes() == other.tobytes()


def test_a_finished_fusion_is_returned_as_it_is(fused, pocket, space):
    again = fuse({"pig": 0.55, "owl": 0.25, "bee": 0.2}, trained=space, backbone=pocket,
                 num_images=2, out=fused.folder, resume=True)  # fmt: skip
    assert again.summary == fused.summary


def test_a_sweep_and_a_grid_have_their_corners(pocket, space):
    common = {"trained": space, "backbone": pocket, "judge": "none", "num_images": 1}
    path = sweep("pig", "owl", num=3, **common)
    assert [point for point in path.request["weights"]] == [
        [["pig", 1.0]], [["pig", 0.5], ["owl", 0.5]], [["owl", 1.0]],
    ]  # fmt: skip
    assert len(path.images) == len(path.concepts) == 3
    triangle = grid("pig", "owl", "bee", num=3, **common)
    assert len(triangle.images) == 6
    corners = [point for point in triangle.request["weights"] if len(point) == 1]
    assert corners == [[["pig", 1.0]], [["owl", 1.0]], [["bee", 1.0]]]


@pytest.mark.parametrize(
    ("weights", "error", "says"),
    [
        ({"pig": -1, "owl": 2}, VocabularyError, "0 or more"),
        ({"pig": float("nan"), "owl": 2}, VocabularyError, "0 or more"),
        ({"pig": 0, "owl": 0}, VocabularyError, "all are 0"),
        ({"pig": 1}, VocabularyError, "at least 2"),
        ({"pig": 1, "owl": 0}, VocabularyError, "at least 2"),
        (["pig", "pig"], VocabularyError, "twice"),
        (["pig", "owll"], VocabularyError, "owl"),
        ("pig", VocabularyError, "several words"),
        ([], VocabularyError, "at least 2"),
    ],
)
def test_words_that_cannot_be_fused(pocket, space, tmp_path, weights, error, says):
    with pytest.raises(error, match=says):
        fuse(weights, trained=space, backbone=pocket, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"method": "low-probability"}, ConfigError, "does not fuse|setting"),
        ({"method": "distock"}, UnknownNameError, "distok"),
        ({"config": {"no_such": 1}}, ConfigError, "no_such"),
        ({"prompt": "a pig"}, PromptError, "concept"),
        ({"num_images": 0}, ConfigError, "num_images"),
        ({"method": "conceptlab", "trained": "file"}, ConfigError, "anew"),
        ({"trained": "no/such/file"}, StoreError, "no such file"),
        ({"judge": "nobody"}, UnknownNameError, "nobody"),
    ],
)
def test_settings_that_cannot_be(pocket, tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        fuse(["pig", "owl"], backbone=pocket, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_method_without_weights_has_no_path(pocket):
    with pytest.raises(ConfigError, match="no path"):
        sweep("pig", "owl", method="cretok", backbone=pocket)


def test_what_was_trained_elsewhere_is_refused(pocket, space, tmp_path):
    other = replace(space, fingerprint="0" * 16, checkpoint="elsewhere")
    with pytest.raises(FingerprintError, match="elsewhere"):
        fuse(["pig", "owl"], trained=other, backbone=pocket)
    data = encode_trained(space)
    (tmp_path / "cut.safetensors").write_bytes(data[:-9])
    with pytest.raises(CorruptRunError, match="cut"):
        fuse(["pig", "owl"], trained=tmp_path / "cut.safetensors", backbone=pocket)
    (tmp_path / "whole.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match="cretok"):
        fuse(["pig", "owl"], method="cretok", trained=tmp_path / "whole.safetensors",
             backbone=pocket)  # fmt: skip


def test_a_search_needs_a_prior(pocket):
    class TextOnly:
        name, fingerprint, card, device = "text-only", "f", pocket.card, pocket.device
        token_embed, token_embeds = pocket.token_embed, pocket.token_embeds
        num_tokens, encode_text = pocket.num_tokens, pocket.encode_text

    with pytest.raises(CapabilityError, match="decode_embeds"):
        fuse(["pig", "owl"], method="conceptlab", backbone=TextOnly())


def test_a_search_goes_on_after_a_kill(pocket, tmp_path):
    settings = {"method": "conceptlab", "config": {**QUICK, "num_steps": 60}, "num_images": 1}
    whole = fuse(["pig", "owl"], backbone=pocket, **settings)

    def killed(stage, done, total, values):
        if stage == "searching" and done == 55:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fuse(["pig", "owl"], backbone=pocket, out=folder, observe=killed, **settings)
    again = fuse(["pig", "owl"], backbone=pocket, out=folder, resume=True, **settings)
    assert again.images[0].tobytes() == whole.images[0].tobytes()
    strip = ("seconds",)
    rows = [[{k: v for k, v in row.items() if k not in strip} for row in run.trace]
            for run in (whole, again)]  # fmt: skip
    assert rows[0] == rows[1]


def test_dreams_are_different_and_each_can_be_drawn_again(pocket, space, tmp_path):
    run = dream(3, law="laplace", backbone=pocket, out=tmp_path / "d")
    assert len(run.concepts) == len(run.images) == 3
    tokens = [next(iter(one.token_embeds.values())) for one in run.concepts]
    assert not torch.equal(tokens[0], tokens[1])
    again = load_run(run.folder)
    assert len(again.concepts) == 3
    drawn = render(f"{run.folder}:1", prompt="an outline drawing of a {concept}", num_images=1,
                   backbone=pocket)  # fmt: skip
    assert drawn.request["learned"]["concept"] == 1
    with pytest.raises(StoreError, match="from 0 to 2"):
        render(f"{run.folder}:3", backbone=pocket)
    with pytest.raises(StoreError, match="3 concepts"):
        render(run.folder, backbone=pocket)


def test_near_duplicates_are_dropped_and_said(pocket):
    run = dream(2, max_cosine=-1.0, judge="none", backbone=pocket)
    assert len(run.concepts) == 1
    assert "fewer than asked" in run.summary["warnings"][0]


def test_two_concepts_stand_in_one_prompt(fused, pocket):
    file = fused.folder / "concept.safetensors"
    run = render([fused, file], prompt="a {concept} and a {concept2}", num_images=1,
                 backbone=pocket)  # fmt: skip
    assert len(run.concept.token_embeds) == 2
    assert all(word in run.concept.prompt() for word in run.concept.token_embeds)
    with pytest.raises(PromptError, match="concept2"):
        render([fused, file], prompt="a {concept}", backbone=pocket)
    with pytest.raises(PromptError, match="concept3"):
        render([fused, file], prompt="{concept} {concept2} {concept3}", backbone=pocket)


@pytest.mark.parametrize(
    ("method", "config"),
    [("distok", {**SMALL, "num_steps": 600}), ("cretok", {"num_steps": 600, "num_pairs": 6})],
)
def test_training_killed_and_resumed_gives_the_same_file(pocket, tmp_path, method, config):
    def killed(stage, done, total, values):
        if stage == "training" and done == 577:
            raise KeyboardInterrupt

    common = {"vocabulary": WORDS, "config": config, "backbone": pocket}
    train(method, out=tmp_path / "whole", **common)
    with pytest.raises(KeyboardInterrupt):
        train(method, out=tmp_path / "killed", observe=killed, **common)
    train(method, out=tmp_path / "killed", resume=True, **common)
    for name in (f"{method}.safetensors", "contact.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_vocabularies_that_cannot_be_trained_on(pocket, tmp_path):
    file = tmp_path / "words.txt"
    for text, says in (("pig\n", "at least 2"), ("pig\nowl\nPig\n", "twice")):
        file.write_text(text)
        with pytest.raises(VocabularyError, match=says):
            train("distok", vocabulary=file, backbone=pocket)
    with pytest.raises(StoreError, match="one word a line"):
        train("distok", vocabulary=tmp_path / "none.txt", backbone=pocket)
    with pytest.raises(ConfigError, match="trains nothing"):
        train("conceptlab", backbone=pocket)


@given(
    st.dictionaries(
        st.sampled_from(WORDS), st.floats(0, 1e6, allow_subnormal=False), min_size=2, max_size=6
    )
)
def test_shares_sum_to_one_or_are_refused(weights):
    try:
        found = vocab.shares(weights.items())
    except VocabularyError:
        assert sum(weight > 0 for weight in weights.values()) < 2
        return
    assert sum(share for _, share in found) == pytest.approx(1)
    assert [word for word, _ in found] == [word for word in weights if weights[word] > 0]


def test_evaluation_pairs_are_never_training_pairs():
    words = vocab.SUBSTITUTE_60
    held = {frozenset(pair) for pair in vocab.evaluation_pairs((*words, "mantis"))}
    assert frozenset(vocab.UNSEEN_PAIR) in held
    for seed in range(3):
        exclude = vocab.evaluation_pairs(words)
        drawn = vocab.pairs(words, 200, seed=seed, exclude=exclude)
        assert len({frozenset(pair) for pair in drawn}) == 200
        assert not {frozenset(pair) for pair in drawn} & {frozenset(pair) for pair in exclude}


def test_weightings_are_shares_in_twentieths():
    for shares in vocab.weightings(WORDS, 30, seed=2):
        assert 2 <= len(shares) <= 4
        assert sum(round(share * 20) for _, share in shares) == 20
        assert all(share >= 0.05 for _, share in shares)
