"""Cards, settings, headers and recipes that are damaged or absurd end in one clear error."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

import tiny
from offbeat.checkpoints.known.cards import LIMITS, read_card
from offbeat.checkpoints.models import inspect_model
from offbeat.checkpoints.open import load_backbone
from offbeat.checkpoints.sizes import read_header
from offbeat.checkpoints.trust import check_settings
from offbeat.errors import CheckpointError, ImageError, OffbeatError
from offbeat.files.learned import of_files
from offbeat.files.png import encode_png, read_recipe, to_pil

DEEP = "[" * 100_000 + "]" * 100_000
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([1e10, -1, 0, 2**70, "x", "", "/etc/passwd", "a/b"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def both(body, **drawn):
    """Return a test with 200 examples, and the same one with 10,000 for the slow job."""

    def of(number):
        def test(folder, **values):
            body(folder, **values)

        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        limited = settings(max_examples=number, deadline=None, suppress_health_check=checks)
        return limited(given(**drawn)(test))

    return of(200), pytest.mark.slow(of(10_000))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return tiny.build_sd(tmp_path_factory.mktemp("healthy") / "sd", "sd", adapter=False)


@pytest.fixture
def folder(healthy, tmp_path):
    return shutil.copytree(healthy, tmp_path / "copy", dirs_exist_ok=True)


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def one_line(error):
    said = str(error.value if hasattr(error, "value") else error)
    assert said
    assert len(said) < 2000
    return said


# --- cards


def a_card_is_read_or_refused(folder, name, value):
    (folder / "card.json").write_text(json.dumps({name: value}))
    try:
        card = read_card(folder)
    except CheckpointError as error:
        one_line(error)
    else:
        if name in LIMITS:
            assert LIMITS[name][1] <= card[name] <= LIMITS[name][2]


test_a_card_is_read_or_refused, test_many_cards = both(
    a_card_is_read_or_refused,
    name=st.sampled_from(
        [
            *LIMITS,
            "prompt_template",
            "concepts",
            "subjects",
            "timesteps",
            "form",
            "trained",
            "judge",
            "methods",
            "one_step_lora",
            "anything",
        ]
    ),
    value=VALUES,
)


@pytest.mark.parametrize("text", [DEEP, "{", "", "[]", "nan", '{"height": 1e400}', "\x00"])
@pytest.mark.parametrize("name", ["card.json", "model_index.json"])
def test_a_file_that_is_no_object_is_one_line(folder, name, text):
    (folder / name).write_text(text)
    for use in (inspect_model, lambda place: load_backbone(place, device="cpu")):
        with pytest.raises(CheckpointError, match=rf"{name}|expected a pipeline") as error:
            use(folder)
        one_line(error)


# --- settings of components


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1e10}, "at most 100,000"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "many"}, "cannot be loaded"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none"}, "cannot be loaded"),
        ("unet/config.json", {"layers_per_block": 10**7}, "at most 100"),
        ("unet/config.json", {"block_out_channels": [8] * 10**6}, "got 1000000"),
        ("unet/config.json", {"cross_attention_dim": 10**12}, "at most 1,000,000,000"),
        ("unet/config.json", {"sample_size": "x"}, "sample_size|height"),
        ("unet/config.json", {"in_channels": None}, "cannot be loaded"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**8}, "at most 1,000"),
        ("text_encoder/config.json", {"hidden_size": 10**8}, "cannot be loaded|another shape"),
        ("text_encoder/config.json", {"vocab_size": -5}, "cannot be loaded|another shape"),
        ("vae/config.json", {"block_out_channels": []}, "cannot be loaded|damaged"),
    ],
)
def test_absurd_settings_end_in_one_error(folder, file, values, said):
    change(folder / file, **values)
    with pytest.raises(CheckpointError, match=said) as error:
        load_backbone(folder, device="cpu")
    one_line(error)


def settings_are_walked_whatever_they_hold(folder, key, value):
    (folder / "unet" / "config.json").write_text(json.dumps({"a": [{key: value}], key: value}))
    try:
        check_settings(folder / "unet")
    except CheckpointError as error:
        one_line(error)


test_settings_are_walked, test_many_settings = both(
    settings_are_walked_whatever_they_hold,
    key=st.text(max_size=12) | st.sampled_from(["num_layers", "num_train_timesteps"]),
    value=VALUES,
)


def an_index_is_read_or_refused(folder, part, value):
    (folder / "model_index.json").write_text(
        json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "x"],
                    "scheduler": ["diffusers", "DDIMScheduler"], part: value})
    )  # fmt: skip
    for use in (inspect_model, lambda place: load_backbone(place, device="cpu")):
        try:
            use(folder)
        except OffbeatError as error:
            one_line(error)


test_an_index_is_read_or_refused, test_many_indices = both(
    an_index_is_read_or_refused,
    part=st.sampled_from(["_class_name", "unet", "vae", "scheduler", "tokenizer", "text_encoder"]),
    value=VALUES,
)


# --- headers of safetensors


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def a_header_is_read_or_refused(folder, entry, name, junk):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    told = safetensors({"__metadata__": entry, **whole}, b"0" * 8)
    for data in (safetensors({name: entry}), told, safetensors(junk), junk, told[:20]):
        file.write_bytes(data)
        for use in (
            read_header,
            lambda path: inspect_model(folder),
            lambda path: of_files([path], None),
        ):
            try:
                use(file)
            except OffbeatError as error:
                one_line(error)


test_a_header_is_read_or_refused, test_many_headers = both(
    a_header_is_read_or_refused,
    entry=VALUES,
    name=st.text(max_size=6),
    junk=st.binary(max_size=40),
)


def test_a_header_that_is_nested_too_deep_or_too_long(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for data in (safetensors(DEEP.encode()), (2**40).to_bytes(8, "little") + b"{}"):
        file.write_bytes(data)
        for use in (inspect_model, lambda place: load_backbone(place, device="cpu")):
            with pytest.raises(CheckpointError) as error:
                use(folder)
            one_line(error)


def test_a_weight_of_another_shape_is_told(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name][None]}, file)
    with pytest.raises(CheckpointError, match=r"missing or of another shape|cannot be loaded"):
        load_backbone(folder, device="cpu")


# --- recipes in pictures


def a_recipe_is_read_or_refused(folder, value):
    info = PngInfo()
    info.add_itxt("offbeat", json.dumps(value))
    (picture,) = to_pil(torch.zeros(1, 3, 2, 2))
    picture.save(folder / "x.png", pnginfo=info)
    try:
        assert isinstance(read_recipe(folder / "x.png"), dict)
        encode_png(picture, value)
    except OffbeatError as error:
        one_line(error)


test_a_recipe_is_read_or_refused, test_many_recipes = both(
    a_recipe_is_read_or_refused,
    value=VALUES,
)


def test_a_recipe_that_is_nested_too_deep(folder):
    info = PngInfo()
    info.add_itxt("offbeat", DEEP)
    Image.new("RGB", (2, 2)).save(folder / "x.png", pnginfo=info)
    with pytest.raises(ImageError, match="its recipe is damaged"):
        read_recipe(folder / "x.png")
