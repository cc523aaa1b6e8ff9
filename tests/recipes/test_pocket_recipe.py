import json

import pytest
import torch
from recipes.pocket import (
    augment,
    autoencoder,
    data,
    judge,
    loop,
    optimizer,
    prior,
    sources,
    text,
    unet,
    vision,
    words,
)
from torch import nn


@pytest.fixture(scope="module")
def tokenizer():
    return words.build_tokenizer()


@pytest.fixture
def pictures():
    """Two concepts in four styles each, as coloured squares."""
    rgba = torch.zeros(8, 4, data.SIZE, data.SIZE, dtype=torch.uint8)
    rgba[:, 3, 20:60, 20:60] = 255
    rgba[:4, 0], rgba[4:, 2] = 200, 200
    return data.Pictures(
        rgba=rgba,
        concept=torch.arange(8) // 4,
        style=torch.arange(8) % 4,
        held_out=torch.arange(8) % 4 == 0,
        concepts=("apple", "cat"),
        num_core=2,
    )


def test_no_set_is_share_alike():
    assert not [s.package for s in sources.SOURCES if "SA" in s.licence or "GPL" in s.licence]


def test_every_concept_has_coarse_classes_and_no_icon_belongs_to_two():
    table = data.concept_table(wide=True)
    icons = [
        icon
        for name, row in table.items()
        for icon in {sources.plain_name(word) for word in (name, *row["icons"])}
    ]
    assert all(row["classes"] for row in table.values())
    assert len(icons) == len(set(icons))


def test_the_eight_subjects_are_concepts_or_coarse_classes():
    table = data.concept_table()
    known = set(table) | {label for row in table.values() for label in row["classes"]}
    assert {"handbag", "building", "vehicle", "alien", "fruit", "chair", "pet"} <= known
    assert "dinosaur" in known


def test_one_style_of_a_concept_is_held_out_where_there_are_four():
    styles = ["flat", "soft", "bold", "3d"]
    assert sum(data.is_held_out("cat", style, styles) for style in styles) == 1
    assert not any(data.is_held_out("cat", style, styles[:3]) for style in styles[:3])


def test_the_same_stream_makes_the_same_pictures_within_range(pictures):
    made = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        made.append(augment.make_batch(pictures, torch.arange(8), judge.LOOKS, generator))
    torch.testing.assert_close(made[0].images, made[1].images, rtol=0, atol=0)
    assert made[0].images.shape == (8, 3, 64, 64)
    assert made[0].images.min() >= 0
    assert made[0].images.max() <= 1


def test_a_clean_picture_is_the_drawing_on_white(pictures):
    generator = torch.Generator().manual_seed(0)
    batch = augment.make_batch(pictures, torch.tensor([0, 4]), augment.CLEAN, generator)
    assert (batch.images[:, :, 0, 0] == 1).all()
    torch.testing.assert_close(batch.images[0, :, 32, 32], torch.tensor([200 / 255, 0.0, 0.0]))


def test_captions_name_the_concept_its_class_or_a_synonym(pictures):
    table = data.concept_table()
    caption = augment.Captions(pictures, table, sources.STYLES)
    generator = torch.Generator().manual_seed(0)
    allowed = {"cat", "animal", "pet", *table["cat"].get("synonyms", ())}
    for _ in range(200):
        written = text.vary(caption(5, 0, 4, generator), generator)
        assert allowed & set(written.split()), written


def test_every_caption_word_is_one_token_and_pooling_finds_the_end(tokenizer):
    split = [word for word in words.word_list() if len(tokenizer(word).input_ids) != 3]
    tower = text.build(tokenizer)
    assert split == []
    assert tower.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == tower.config.max_position_embeddings == 77


def test_an_unknown_word_keeps_its_letters(tokenizer):
    ids = tokenizer("zorbly").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "zorbly"


def test_the_short_prior_equals_the_full_one(tokenizer):
    torch.manual_seed(0)
    tower, model = text.build(tokenizer).eval(), prior.build().eval()
    nn.init.normal_(model.positional_embedding)
    captions = ["a picture of a cat", "a red dog on a blue background"]
    noisy, times = torch.randn(2, 256), torch.tensor([10, 700])
    with torch.no_grad():
        short = prior.predict(model, noisy, times, prior.encode(tower, captions))
        full = tokenizer(captions, padding="max_length", return_tensors="pt")
        states = tower(input_ids=full.input_ids)
        whole = model(
            noisy, times, states.text_embeds, states.last_hidden_state, full.attention_mask.bool()
        ).predicted_image_embedding
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)


def test_no_file_of_the_decoder_or_prior_passes_16_mb():
    for model in (unet.build(), prior.build(), vision.build()):
        assert sum(p.numel() for p in model.parameters()) * 2 < 16_000_000


def test_the_decoder_predicts_a_velocity_of_the_latents_shape():
    model = unet.build().eval()
    noisy = torch.randn(2, autoencoder.LATENT_CHANNELS, 16, 16)
    with torch.no_grad():
        guess = unet.denoise(model, noisy, torch.tensor([1, 999]), torch.randn(2, 256))
    assert guess.shape == noisy.shape


def test_calibration_error_is_zero_when_confidence_is_accuracy():
    logits = torch.tensor([[3.0, 0.0]] * 4).log_softmax(-1)
    chance = float(logits.softmax(-1)[0, 0])
    half = torch.tensor([[0.0, 0.0]] * 4)
    assert judge.calibration_error(half, torch.tensor([0, 0, 1, 1])) == pytest.approx(0, abs=1e-6)
    error = judge.calibration_error(logits, torch.tensor([0, 0, 0, 0]))
    assert error == pytest.approx(1 - chance, abs=1e-6)


def test_training_goes_on_where_it_stopped(tmp_path, capsys):
    def run(minutes):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        training = loop.Training(
            name="toy", folder=tmp_path, minutes=minutes, learning_rate=1e-5, bf16=False
        )
        loop.fit(model, lambda step, generator: {"square": model.weight.square().sum()}, training)
        return training.step, float(model.weight.detach().square().sum())

    first, early = run(0.003)
    second, late = run(0.006)
    assert second > first
    assert late < early
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)["stage"] == "toy"


def test_muon_steps_have_singular_values_near_one():
    torch.manual_seed(0)
    update = optimizer.orthogonalise(torch.randn(32, 64))
    values = torch.linalg.svdvals(update.float())
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_muon_takes_kernels_and_leaves_biases_and_thin_layers():
    layers = nn.Sequential(nn.Conv2d(4, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 4, 3))
    taken = [name for name, value in layers.named_parameters() if optimizer.is_matrix(value)]
    assert taken == ["0.weight", "1.weight"]


def test_training_starts_from_the_seed_of_an_earlier_sitting(tmp_path):
    seed = {"ema": {"weight": torch.full((1, 4), 3.0).half(), "bias": torch.ones(1).half()}}
    loop.save_atomically(seed | {"step": 70}, tmp_path / loop.SEEDS / "toy.pt")
    model = nn.Linear(4, 1)
    training = loop.Training(name="toy", folder=tmp_path, minutes=0, learning_rate=1e-3)
    loop.fit(model, lambda step, generator: {}, training)
    assert training.step == 70
    torch.testing.assert_close(model.weight, torch.full((1, 4), 3.0))
