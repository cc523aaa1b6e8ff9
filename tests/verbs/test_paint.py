"""Painting: what is asked, what is written, what is refused, what the cache keeps."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import offbeat
import tiny
from offbeat import cli
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream
from offbeat.errors import (
    CapabilityError,
    ConfigError,
    ImageError,
    NotFiniteError,
    PromptError,
    RangeError,
    ResumeError,
    ShapeError,
    UnknownNameError,
)
from offbeat.files.pictures import read_picture
from offbeat.files.png import read_recipe, to_pil

SMALL = {"num_inference_steps": 3, "guidance_scale": 3.0}
SIDE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build_sd(tmp_path_factory.mktemp("paint") / "sd", "sd")


@pytest.fixture(scope="module")
def backbone(folder):
    return StableDiffusionBackbone.load(folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(path, size=(SIDE, SIDE), mode="RGB", **settings):
    """Save a picture of noise, so that no two parts of it are alike."""
    width, height = size
    values = torch.rand(3, height, width, generator=stream(7, width, height))
    image = to_pil(values[None])[0].convert(mode)
    image.save(path, **settings)
    return path


@pytest.fixture
def art(tmp_path):
    return picture(tmp_path / "art.png")


def paint(art, backbone, *more, **settings):
    return offbeat.paint(
        art, *more, **{"backbone": backbone, "config": SMALL, "num_images": 2, **settings}
    )


def same(one, other):
    return [a.tobytes() for a in one.images] == [b.tobytes() for b in other.images]


def test_a_painting_is_written_and_read_back(backbone, art, tmp_path):
    content = picture(tmp_path / "content.png", (20, 20))
    run = paint(art, backbone, content, "a pig", out=tmp_path / "run", strength=0.6)
    again = offbeat.load_run(tmp_path / "run")
    assert same(run, again)
    assert again.summary == run.summary
    assert (len(again.images), len(again.ordinary), again.concepts) == (2, 2, [])
    assert again.summary["strengths"] == [0.6]
    assert {"psnr", "autoencoder_psnr", "poor"} == set(again.summary["reconstruction"])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"request.json", "contact.png", "report.html", "images", "trace.jsonl"} <= names
    recipe = read_recipe(tmp_path / "run" / "images" / "0001.png")
    wanted = {"prompt": "a pig", "strength": 0.6, "method": "creativesynth", "seed": 0,
              "num_inference_steps": 3, "guidance_scale": 3.0}  # fmt: skip
    assert wanted.items() <= recipe.items()
    assert [row["step"] for row in again.trace] == list(range(len(again.trace)))
    finished = paint(art, backbone, content, "a pig", out=tmp_path / "run", strength=0.6,
                     resume=True)  # fmt: skip
    assert same(finished, run)
    with pytest.raises(ResumeError, match="strength"):
        paint(art, backbone, content, "a pig", out=tmp_path / "run", strength=0.5, resume=True)


def test_a_strip_goes_over_the_strengths(backbone, art):
    run = paint(art, backbone, sweep=3, num_images=1)
    assert run.summary["strengths"] == [0.0, 0.5, 1.0]
    assert len(run.images) == 3
    alone = paint(art, backbone, strength=0.5, num_images=1)
    assert alone.images[0].tobytes() == run.images[1].tobytes()
    assert len(paint(art, backbone, sweep=[0.2, 0.3]).images) == 4


def test_the_inversion_is_kept_and_gives_the_same_pictures(backbone, art, cache, monkeypatch):
    calls = []
    invert = type(backbone).invert
    monkeypatch.setattr(
        type(backbone), "invert", lambda *a, **k: (calls.append(1), invert(*a, **k))[1]
    )
    first, second = paint(art, backbone), paint(art, backbone)
    assert same(first, second)
    assert (len(calls), len(list((cache / "inversions").iterdir()))) == (1, 1)
    paint(art, backbone, seed=1, strength=0.3)  # neither is in the key
    assert len(calls) == 1
    for other in ({"num_refinements": 1}, {"art_prompt": "a pig"}, {"num_inference_steps": 4}):
        paint(art, backbone, config={**SMALL, **other}, num_images=1)
    assert len(calls) == 4
    (entry, *_) = sorted((cache / "inversions").iterdir())
    for file in (cache / "inversions").iterdir():
        file.write_bytes(entry.read_bytes()[:-5])
    with pytest.warns(UserWarning, match="computed again"):
        assert same(paint(art, backbone), first)


def test_without_inversion_nothing_is_inverted(backbone, art, cache):
    run = paint(art, backbone, config={**SMALL, "with_inversion": False})
    assert run.summary["reconstruction"] is None
    assert not (cache / "inversions").exists()


def test_a_killed_run_goes_on(backbone, art, tmp_path):
    whole = paint(art, backbone, out=tmp_path / "whole")

    def killed(stage, done, total, values):
        if stage == "painting" and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paint(art, backbone, out=tmp_path / "run", observe=killed)
    again = paint(art, backbone, out=tmp_path / "run", resume=True)
    assert same(again, whole)
    assert len(again.trace) == len(whole.trace) == 3


GIVEN = {
    "alpha.png": {"mode": "RGBA"},
    "grey.png": {"mode": "L"},
    "palette.gif": {"mode": "P"},
    "photo.jpg": {"size": (23, 23)},
}


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_pictures_of_every_kind_are_painted_into(backbone, tmp_path, name):
    run = paint(picture(tmp_path / name, **GIVEN[name]), backbone, num_images=1)
    assert run.images[0].size == (SIDE, SIDE)
    assert not any("padded" in warning for warning in run.summary["warnings"])


def test_sixteen_bits_are_painted_into(backbone, tmp_path):
    Image.new("I;16", (SIDE, SIDE), 40_000).save(tmp_path / "deep.png")
    run = paint(tmp_path / "deep.png", backbone, num_images=1)
    red = run.ordinary[0].getpixel((3, 3))[0]
    assert red == round(40_000 / 65_535 * 255)


@pytest.mark.parametrize(
    ("size", "says"),
    [((1, 1), "enlarged to 16 x 16"), ((20_000, 12), "20000 x 12: padded"), ((31, 17), "padded")],
)
def test_odd_shapes_are_fitted_and_that_is_said(backbone, tmp_path, size, says):
    run = paint(picture(tmp_path / "odd.png", size), backbone, num_images=1)
    assert any(says in warning for warning in run.summary["warnings"])
    assert run.images[0].size == (SIDE, SIDE)


def test_a_rotated_photograph_is_turned_upright(backbone, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture(tmp_path / "photo.png", (32, 16), exif=exif)
    run = paint(tmp_path / "photo.png", backbone, num_images=1)
    assert any("16 x 32" in warning for warning in run.summary["warnings"])
    upright = read_picture(tmp_path / "photo.png", size=SIDE)
    assert run.ordinary[0].tobytes() == to_pil(upright[None])[0].tobytes()


def test_an_animation_gives_its_first_frame(backbone, tmp_path):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    run = paint(tmp_path / "film.gif", backbone, num_images=1)
    assert any("2 frames" in warning for warning in run.summary["warnings"])
    assert run.ordinary[0].getpixel((3, 3))[2] < 20


def test_what_is_no_picture_is_refused_before_anything_is_written(backbone, art, tmp_path):
    text, bomb = tmp_path / "notes.png", tmp_path / "bomb.png"
    text.write_text("no picture")
    Image.new("1", (20_000, 20_000)).save(bomb)
    for bad, says in ((text, "cannot be decoded"), (bomb, "megapixels"),
                      (tmp_path / "none.png", "found no file"), (tmp_path, "picture")):  # fmt: skip
        with pytest.raises(ImageError, match=says):
            paint(bad, backbone, out=tmp_path / "run")
        with pytest.raises(ImageError, match=says):
            paint(art, backbone, bad, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("art", "error", "says"),
    [
        (torch.zeros(3, 15, 16), ShapeError, "multiples of 2"),
        (torch.zeros(16, 16), ShapeError, "artwork"),
        (torch.full((3, 16, 16), 1.5), RangeError, "0 to 1"),
        (torch.full((3, 16, 16), float("nan")), NotFiniteError, "artwork"),
    ],
)
def test_tensors_that_are_no_pictures(backbone, tmp_path, art, error, says):
    with pytest.raises(error, match=says):
        paint(art, backbone, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"strength": 2.0}, RangeError, "strength"),
        ({"strength": 0.5, "sweep": 3}, ConfigError, "both"),
        ({"sweep": 1}, ConfigError, "2 to 64"),
        ({"sweep": []}, ConfigError, "1 to 64"),
        ({"num_images": 0}, ConfigError, "num_images"),
        ({"config": {"no_such": 1}}, ConfigError, "no_such"),
        ({"method": "magicmix"}, ConfigError, "does not paint|setting"),
        ({"method": "creativesinth"}, UnknownNameError, "creativesynth"),
        ({"prompt": "pig " * 100}, PromptError, "tokens"),
    ],
)
def test_settings_that_cannot_be(backbone, art, tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        paint(art, backbone, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_paint_says_what_it_lacks(pocket, art, tmp_path):
    with pytest.raises(CapabilityError, match="pocket has none"):
        paint(art, pocket, out=tmp_path / "run")
    folder = tiny.build_sd(tmp_path / "bare", "sd", adapter=False)
    bare = StableDiffusionBackbone.load(folder)
    with pytest.raises(CapabilityError, match="ip_adapter"):
        paint(art, bare, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ShapeError, match="content"):
        paint(torch.zeros(3, 16, 16), bare, torch.zeros(3, 8, 8), config={"with_semantic": False})
    off = {**SMALL, "with_semantic": False}
    assert len(paint(art, bare, prompt="a pig", config=off).images) == 2


def test_the_command_line_paints_and_says_where(folder, tmp_path):
    art, content = picture(tmp_path / "art.png"), picture(tmp_path / "cat.png", (24, 16))
    common = ["paint", "--art", str(art), "--content", str(content), "--backbone", str(folder),
              "--set", "num_inference_steps=3"]  # fmt: skip
    out = tmp_path / "run"
    done = CliRunner().invoke(cli.app, [*common, "--prompt", "a pig", "-n", "2", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "cat.png and “a pig” in art.png" in done.stdout
    assert "dB" in done.stdout
    assert "24 x 16: padded" in done.stderr
    assert len(list((out / "images").iterdir())) == 2
    strip = CliRunner().invoke(cli.app, [*common, "--sweep", "--num", "3", "--out", f"{out}-2"])
    assert strip.exit_code == 0, strip.output
    assert offbeat.load_run(f"{out}-2").summary["strengths"] == [0.0, 0.5, 1.0]
    wrong = CliRunner().invoke(cli.app, [*common, "--strength", "3", "--out", f"{out}-3"])
    assert (wrong.exit_code, "strength" in wrong.stderr) == (2, True)
    assert "paint" in CliRunner().invoke(cli.app, ["--help"]).stdout
    assert "creativesynth" in CliRunner().invoke(cli.app, ["list", "methods"]).stdout
