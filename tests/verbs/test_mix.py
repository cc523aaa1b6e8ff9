"""Mixing two sources by `fuse`: from words and files, what is written, what is refused."""

import json

import pytest
from typer.testing import CliRunner

from offbeat import cli, fuse, grid, load_run, render, sweep
from offbeat.errors import CapabilityError, ConfigError, ImageError, StoreError, VocabularyError
from offbeat.files.png import read_recipe

QUICK = {"num_inference_steps": 4, "k_min": 0.3, "k_max": 0.8}
COMMON = {"method": "magicmix", "config": QUICK}


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    file = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (50, 30), "red").save(file)
    return file


@pytest.fixture(scope="module")
def mixed(pocket_sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed") / "run"
    return fuse({"owl": 3, "teapot": 1}, backbone=pocket_sd, num_images=2, out=folder, **COMMON)


def test_a_mixture_of_words_is_written_and_read_back(mixed):
    assert mixed.request["sources"] == [{"word": "owl"}, {"word": "teapot"}]
    assert mixed.request["weights"] == [[["owl", 0.75], ["teapot", 0.25]]]
    again = load_run(mixed.folder)
    assert (len(again.images), len(again.ordinary), again.concepts) == (2, 4, [])
    assert again.summary == mixed.summary
    assert "learns no concept" in mixed.summary["in_words"]
    row = mixed.summary["concepts"][0]
    assert set(row["mean"]) == {"owl", "teapot"}
    assert [len(cosines) for cosines in row["likeness"]] == [2, 2]
    names = {path.name for path in mixed.folder.iterdir()}
    assert {"request.json", "contact.png", "report.html", "images", "ordinary"} <= names
    assert not list(mixed.folder.rglob("*.safetensors"))
    recipe = read_recipe(mixed.folder / "images" / "0001.png")
    assert recipe["prompt"] == "a picture of a <owl-teapot>"
    assert (recipe["method"], recipe["index"], recipe["num_inference_steps"]) == ("magicmix", 1, 4)
    alone = read_recipe(mixed.folder / "ordinary" / "0002.png")
    assert (alone["prompt"], alone["method"]) == ("a picture of a teapot", "ordinary")


def test_nothing_of_it_can_be_rendered(mixed, pocket_sd):
    with pytest.raises(StoreError, match="learned no concept"):
        render(mixed.folder, backbone=pocket_sd)
    with pytest.raises(StoreError, match="learns no concept"):
        _ = mixed.concept


def test_a_mixture_of_a_file_and_a_word(pocket_sd, picture, tmp_path):
    run = fuse([picture, "owl"], backbone=pocket_sd, num_images=1, prompt="a {concept}", **COMMON)
    source, word = run.request["sources"]
    assert source["picture"] == str(picture)
    assert len(source["digest"]) >= 16
    assert word == {"word": "owl"}
    assert run.ordinary[0].size == (128, 128)
    assert run.ordinary[0].getpixel((32, 32)) == (255, 0, 0)
    assert run.summary["concepts"][0]["unknown_to_judge"] == [str(picture)]
    run.save(tmp_path / "saved")
    recipe = read_recipe(tmp_path / "saved" / "ordinary" / "0000.png")
    assert (recipe["prompt"], recipe["method"]) == ("red.png", "given")


def test_a_path_goes_from_layout_to_content(pocket_sd):
    run = sweep("owl", "teapot", num=3, num_images=1, backbone=pocket_sd, judge="none", **COMMON)
    assert len(run.images) == 3
    ends = [
        fuse(["owl", "teapot"], num_images=1, backbone=pocket_sd, judge="none",
             method="magicmix", config={**QUICK, "mix": mix})
        for mix in (0, 0.5, 1)
    ]  # fmt: skip
    for one, other in zip(run.images, ends, strict=True):
        assert one.tobytes() == other.images[0].tobytes()


def test_a_morph_is_a_strip_and_moves(pocket_sd, picture, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PATH", "")  # no ffmpeg
    quick = {"num_steps": 2, "num_inference_steps": 4}
    run = sweep(picture, "owl", num=4, num_images=1, method="diffmorpher", config=quick,
                backbone=pocket_sd, judge="none", out=tmp_path / "run")  # fmt: skip
    assert len(run.images) == 4
    assert len(run.trace) == 2
    recipe = read_recipe(tmp_path / "run" / "images" / "0002.png")
    assert (recipe["frame"], recipe["weights"]) == (2, [])  # the method paces the path
    with Image.open(tmp_path / "run" / "path-00.gif") as moving:
        assert moving.n_frames == 6  # there and back
        assert moving.size == (256, 256)
    assert not list((tmp_path / "run").glob("*.mp4"))
    assert load_run(tmp_path / "run").images[3].tobytes() == run.images[3].tobytes()


def test_a_search_that_found_nothing_says_so(pocket_sd):
    config = {"num_swaps": 2, "num_pilot": 1, "alpha": 0, "beta": 0, "num_inference_steps": 2}
    run = fuse(["owl", "bee"], method="bass", config=config, num_images=2, backbone=pocket_sd,
               judge="none")  # fmt: skip
    (note,) = run.summary["warnings"]
    assert note.startswith("2 of 2 pictures: no exchange")


def test_swaps_have_no_path(pocket_sd):
    for method in ("bass", "agswap"):
        with pytest.raises(ConfigError, match="no path"):
            sweep("owl", "teapot", method=method, backbone=pocket_sd)
        with pytest.raises(ConfigError, match="a word, then a word"):
            fuse(["owl", "teapot.png"], method=method, backbone=pocket_sd)


def test_a_killed_mixture_goes_on(pocket_sd, tmp_path):
    def killed(stage, done, total, values):
        if stage == "mixing" and done == 1:
            raise KeyboardInterrupt

    settings = {"backbone": pocket_sd, "num_images": 5, "judge": "none", **COMMON}
    whole = fuse(["owl", "bee"], **settings)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fuse(["owl", "bee"], out=folder, observe=killed, **settings)
    assert (folder / "checkpoint").is_dir()
    stages = []

    def told(stage, done, total, values):
        stages.append((stage, done))

    again = fuse(["owl", "bee"], out=folder, resume=True, observe=told, **settings)
    assert ("mixing", 2) in stages
    assert ("mixing", 1) not in stages
    assert [one.tobytes() for one in again.images] == [one.tobytes() for one in whole.images]
    assert not (folder / "checkpoint").exists()
    finished = fuse(["owl", "bee"], out=folder, resume=True, **settings)
    assert finished.summary == whole.summary


@pytest.mark.parametrize(
    ("sources", "settings", "error", "says"),
    [
        (["owl", "no.png"], {}, ConfigError, "takes a word or a picture, then a word"),
        (["no/such.png", "owl"], {}, ImageError, "found no file"),
        (["owl", "bee", "pig"], {}, ConfigError, "mixes two"),
        (["owl", "owl"], {}, VocabularyError, "twice"),
        (["owl", ""], {}, VocabularyError, "empty"),
        (["owl", "bee"], {"trained": "x"}, ConfigError, "nothing trained"),
        (["owl", "bee"], {"prompt": "a pig"}, Exception, "concept"),
        (["owl", "bee"], {"num_images": 0}, ConfigError, "num_images"),
        (["owl", "bee"], {"config": {"k_mid": 1}}, ConfigError, "k_mid"),
        (["owl", "bee " * 90], {}, Exception, "tokens"),
    ],
)
def test_what_cannot_be_mixed(pocket_sd, tmp_path, sources, settings, error, says):
    given = {**COMMON, "backbone": pocket_sd, "out": tmp_path / "run", **settings}
    with pytest.raises(error, match=says):
        fuse(sources, **given)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_picture(pocket_sd, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="cannot be decoded"):
        fuse([tmp_path / "text.png", "owl"], backbone=pocket_sd, **COMMON)


def test_methods_of_words_point_at_those_of_pictures(picture):
    with pytest.raises(VocabularyError, match="magicmix"):
        fuse([str(picture), "owl"], method="distok")
    with pytest.raises(ConfigError, match="triangle"):
        grid("owl", "bee", "pig", method="magicmix")


def test_a_backbone_without_latents_is_refused(pocket):
    with pytest.raises(CapabilityError, match="pocket-sd"):
        fuse(["owl", "bee"], backbone=pocket, **COMMON)


def test_the_command_mixes_a_file_and_a_word(picture, tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(
        cli.app,
        ["fuse", str(picture), "owl", "--method", "magicmix", "-n", "1", "--judge", "none",
         "--set", "num_inference_steps=3", "--out", str(out)],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "learns no concept" in result.stdout
    assert json.loads((out / "request.json").read_text())["checkpoint"] == "pocket-sd"
    assert len(load_run(out).images) == 1
    refused = CliRunner().invoke(cli.app, ["fuse", "owl", str(picture), "--method", "magicmix"])
    assert refused.exit_code == 2
    assert "then a word" in refused.stderr
