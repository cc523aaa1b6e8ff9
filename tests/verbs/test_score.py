"""``offbeat score``: pictures from anywhere, texts from inside them, tables, and plug-ins."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

import offbeat
from offbeat import cli
from offbeat.errors import ConfigError, ImageError, PromptError
from offbeat.files.pictures import read_whole, whole
from offbeat.files.png import encode_png, to_pil

RUNNER = CliRunner()


def invoke(*arguments):
    return RUNNER.invoke(cli.app, ["score", *map(str, arguments)])


def noise(*size, seed=0):
    picture = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(seed))
    return to_pil(picture)[0]


RECIPE = {"prompt": "a picture of a [pet]", "subject": "pet", "seed": 0, "index": 0,
          "weights": [["cat", 0.75], ["dog", 0.25]], "negative_prompt": "",
          "num_inference_steps": 3, "guidance_scale": 2.0, "checkpoint": "pocket",
          "fingerprint": "0" * 16}  # fmt: skip


@pytest.fixture
def ours(tmp_path):
    """A run folder with pictures that say how they were made."""
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    (folder / "request.json").write_text("{}")
    (folder / "contact.png").write_bytes(b"no part of it")
    for index in range(3):
        data = encode_png(noise(64, 64, seed=index), {**RECIPE, "index": index})
        (folder / "images" / f"{index:04d}.png").write_bytes(data)
    return folder


@pytest.fixture
def others(tmp_path):
    """Pictures of other programs: turned by the camera, clear, grey, of any size."""
    folder = tmp_path / "others"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    noise(30, 50).save(folder / "a-camera.jpg", exif=exif)
    clear = noise(40, 40).convert("RGBA")
    clear.putalpha(0)
    clear.save(folder / "b-clear.webp", lossless=True)
    noise(20, 90).convert("L").save(folder / "c-grey.png")
    noise(33, 33).convert("P").save(folder / "d-palette.gif")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_picture_keeps_its_shape_and_every_pixel(others, tmp_path):
    assert read_whole(others / "a-camera.jpg").shape == (3, 50, 30)
    assert read_whole(others / "b-clear.webp").min() == 1  # over white
    assert read_whole(others / "c-grey.png").shape == (3, 20, 90)
    picture = noise(70, 50)
    picture.save(tmp_path / "p.png")
    assert torch.equal(read_whole(tmp_path / "p.png"), whole(picture))
    assert to_pil(whole(picture)[None])[0].tobytes() == picture.tobytes()
    Image.new("RGB", (3000, 300)).save(tmp_path / "wide.png")
    assert read_whole(tmp_path / "wide.png").shape == (3, 150, 1500)


def test_a_run_is_scored_by_the_prompt_in_its_pictures(ours, tmp_path):
    result = invoke(ours, "--metrics", "clip_t,vendi", "--json", tmp_path / "s.json",
                    "--csv", tmp_path / "s.csv", "--each")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "clip_t[pocket]" in result.output
    assert "0002.png" in result.output
    table = offbeat.score(ours, metrics="clip_t,vendi")
    written = json.loads((tmp_path / "s.json").read_text())
    assert written == table.as_json()
    assert written["scores"][0]["texts"] == ["a picture of a pet"] * 3
    assert written["scores"][1]["interval"] is None
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [row["picture"] for row in rows] == [*table.pictures, "all"]
    assert [float(row["value"]) for row in rows[:3]] == list(table["clip_t"].values)
    told = offbeat.score(ours, metrics="clip_t", text="a picture of a pet")
    assert told["clip_t"].values == table["clip_t"].values
    kl = offbeat.score(ours, metrics="distribution_kl")
    assert kl.texts[kl["distribution_kl"].name] == ("cat=0.75 + dog=0.25",) * 3
    validity = offbeat.score(ours, metrics="validity", judge="clip")
    assert validity.texts[validity["validity"].name] == ("pet",) * 3


def test_pictures_of_others_need_a_text(others, tmp_path):
    result = invoke(others, "--metrics", "clip_t")
    assert result.exit_code == 2
    assert "a-camera.jpg keeps no prompt inside; give one with --text" in result.output
    result = invoke(others, "--text", "a cat", "--reference", others)
    assert result.exit_code == 0, result.output
    for name in ("clip_t", "clip_i", "novelty_nn", "diversity", "vendi"):
        assert f"{name}[pocket]" in result.output
    (tmp_path / "texts.txt").write_text("a cat\na dog\na bee\nan owl\n\n")
    result = invoke(others, "--texts", tmp_path / "texts.txt", "--metrics", "clip_t")
    assert result.exit_code == 0, result.output
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    result = invoke(others, "--texts", tmp_path / "texts.txt", "--metrics", "vendi")
    assert result.exit_code == 2
    assert "one for all 4 pictures or one for each, got 2" in result.output


def test_the_prompt_of_another_program_is_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a red cat\nNegative prompt: dog\nSteps: 3, Sampler: x, Seed: 1")
    noise(32, 32).save(tmp_path / "a.png", pnginfo=info)
    table = offbeat.score(tmp_path / "a.png")
    assert table.texts["clip_t[pocket]"] == ("a red cat",)
    assert [found.name for found in table.scores] == ["clip_t[pocket]", "vendi[pocket]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "none.png"),
        (["notes.txt"], "expected a picture (PNG,"),
        (["."], "a-camera.jpg keeps no prompt"),
        (["--metrics", "clip_t"], "PICTURE"),
        ([".", "--metrics", "clip"], "Did you mean clip_t"),
        ([".", "--metrics", ","], "expected at least one name"),
        ([".", "--metrics", "clip_i"], "give a folder with --reference"),
        ([".", "--metrics", "nima"], "no backbone's own encoders can stand in"),
        ([".", "--metrics", "nima=."], "expected weights in *.safetensors"),
        ([".", "--metrics", "vqascore", "--text", "a"], "such as blip-vqa"),
        ([".", "--metrics", "vqascore", "--text", "a", "--judge", "none"], "expected a judge"),
        ([".", "--text", "a", "--texts", "notes.txt"], "expected one of them, got both"),
    ],
)
def test_what_cannot_be_scored_is_explained(others, monkeypatch, arguments, message):
    monkeypatch.chdir(others)
    if arguments == ["."]:
        arguments = [".", "--metrics", "clip_t"]
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def test_python_takes_tensors_pil_pictures_and_files(others, pocket):
    picture = noise(24, 24)
    tensors = [whole(picture), torch.rand(3, 9, 12)]
    mixed = offbeat.score(
        [picture, *tensors, others / "c-grey.png"], metrics="vendi", backbone=pocket
    )
    assert mixed.pictures[:3] == ("0000", "0001", "0002")
    assert mixed.pictures[3].endswith("c-grey.png")
    one = offbeat.score(tensors[0], text="a cat", metrics=["clip_t"], backbone=pocket)
    same = offbeat.score(picture, text="a cat", metrics=["clip_t"], backbone=pocket)
    assert one["clip_t"] == same["clip_t[pocket]"]
    with pytest.raises(ConfigError, match="not measured"):
        one["vendi"]
    with pytest.raises(ImageError, match="got int"):
        offbeat.score([3], metrics="vendi", backbone=pocket)
    with pytest.raises(ImageError, match="at least 1 picture"):
        offbeat.score([], metrics="vendi", backbone=pocket)
    with pytest.raises(PromptError, match="keeps no prompt"):
        offbeat.score(picture, metrics="clip_t", backbone=pocket)


def test_more_pictures_than_memory_holds_are_refused_before_it_is_full(others, monkeypatch):
    monkeypatch.setattr("offbeat.verbs.score.MEMORY_SHARE", 0)
    result = invoke(others, "--text", "a")
    assert result.exit_code == 2
    assert "score them in parts" in result.output


def plugin_in_contributing():
    """Return the metric that CONTRIBUTING.md shows."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return text.partition("## Add a metric")[2].partition("```python\n")[2].partition("```")[0]


def test_a_metric_of_another_package_is_one_file(others, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "lamp-1.0.dist-info").mkdir(parents=True)
    (site / "lamp.py").write_text(plugin_in_contributing())
    info = site / "lamp-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[offbeat.metrics]\nbrightness = lamp:Brightness\n")
    monkeypatch.syspath_prepend(site)
    result = invoke(others / "b-clear.webp", others / "c-grey.png", "--metrics", "brightness")
    sys.modules.pop("lamp", None)
    assert result.exit_code == 0, result.output
    assert "brightness[pixels]" in result.output
    mean = (1 + float(read_whole(others / "c-grey.png").mean())) / 2
    assert f"{mean:.4f}" in result.output
