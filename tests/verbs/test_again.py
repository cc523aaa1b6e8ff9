"""A picture of every verb, made again from what it keeps inside: the same bytes."""

import shutil

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

import offbeat
import tiny
from offbeat import cli
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.errors import CorruptRunError, FingerprintError, ImageError, StoreError
from offbeat.files.png import CONCEPT_KEY, encode_png, read_concept_file, read_recipe
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.runs import images

SMALL = LowProbabilityConfig(
    num_baseline=40, num_held_out=10, num_components=3, num_steps=2, num_probes=4, probe_every=1,
    judge_every=1, num_judged=1, lora_rank=2, quantile=0.999,
    use_support=False,
)  # fmt: skip
MIX = {"num_inference_steps": 3, "k_min": 0.3, "k_max": 0.8}
PAINT = {"num_inference_steps": 3, "guidance_scale": 3.0}
SEARCH = {"num_steps": 2, "prior_num_inference_steps": 2}
MORPH = {"num_inference_steps": 3, "rank": 2, "num_steps": 2}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("OFFBEAT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name, colour, size in (("red", "red", (50, 30)), ("blue", "blue", (64, 64))):
        picture = Image.new("RGB", size, colour)
        picture.paste("white", (10, 10, 30, 25))
        picture.save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint that draws from text, so small that a picture takes no time."""
    folder = tiny.build_sd(tmp_path_factory.mktemp("small") / "sd", "sd")
    return StableDiffusionBackbone.load(folder)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """As small a checkpoint that has a prior."""
    return UnclipBackbone.load(tiny.build(tmp_path_factory.mktemp("small") / "k", "2.2"))


def remade(path, backbone, **settings):
    found = offbeat.again(path, backbone=backbone, **settings)
    assert found.same, found.notes
    assert found.data == path.read_bytes()
    assert found.notes == ()


def alone(path, tmp_path):
    """The picture far from its run folder."""
    place = tmp_path / "far" / "away"
    place.mkdir(parents=True)
    return shutil.copy(path, place / "x.png")


def test_generated(pocket, tmp_path):
    offbeat.generate("a pig", negative_prompt="mud", num_images=5, seed=3, guidance_scale=2.0,
                     num_inference_steps=4, backbone=pocket, out=tmp_path / "run")  # fmt: skip
    remade(alone(tmp_path / "run/images/0004.png", tmp_path), pocket)


def test_explored(prior, tmp_path):
    offbeat.explore("handbag", config=SMALL, num_trials=2, num_images=2, judge="none",
                    directions=2, candidates=2, backbone=prior, out=tmp_path / "run")  # fmt: skip
    remade(tmp_path / "run/images/0001.png", prior)
    remade(tmp_path / "run/ordinary/0001.png", prior)
    far = alone(tmp_path / "run/images/0001.png", tmp_path)
    with pytest.raises(StoreError, match="--run"):
        offbeat.again(far, backbone=prior)
    remade(far, prior, run=tmp_path / "run")


def test_drawn_another_way(prior, tmp_path):
    offbeat.explore("pet", method="high-guidance", num_images=2, judge="none", backbone=prior,
                    out=tmp_path / "run")  # fmt: skip
    remade(tmp_path / "run/images/0001.png", prior)
    remade(tmp_path / "run/ordinary/0001.png", prior)


@pytest.mark.parametrize("space", ["adjective", "direct"])
def test_explored_in_another_space(prior, tmp_path, space):
    offbeat.explore("pet", config=SMALL, space=space, num_images=1, judge="none",
                    directions=1, candidates=1, backbone=prior, out=tmp_path / "run")  # fmt: skip
    remade(alone(tmp_path / "run/images/0000.png", tmp_path), prior)


def test_fused_and_rendered(prior, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    common = {"num_images": 1, "judge": "none", "backbone": prior}
    words, quick = ["pig", "owl", "fox", "bee", "cat"], {"num_steps": 2, "batch_size": 2}
    spaces = {
        method: offbeat.train(method, vocabulary=words, config=quick, judge="none", backbone=prior)
        for method in ("distok", "cretok")
    }
    offbeat.sweep("pig", "owl", num=3, trained=spaces["distok"], out=first, **common)
    remade(alone(first / "images/0001.png", tmp_path), prior)
    remade(first / "ordinary/0001.png", prior)
    offbeat.fuse(["pig", "owl"], method="cretok", trained=spaces["cretok"], out=second, **common)
    remade(second / "images/0000.png", prior)
    offbeat.render([f"{first}:1", second], prompt="a {concept2} near {concept}", num_images=1,
                   backbone=prior, out=tmp_path / "third")  # fmt: skip
    remade(tmp_path / "third/images/0000.png", prior)


def test_searched_evolved_and_dreamt(prior, photos, tmp_path):
    common = {"num_images": 1, "judge": "none", "backbone": prior, "method": "conceptlab"}
    offbeat.fuse(["pig", "owl"], config=SEARCH, out=tmp_path / "a", **common)
    remade(tmp_path / "a/images/0000.png", prior)
    files = [photos / "red.png", photos / "blue.png"]
    offbeat.fuse(files, config=SEARCH, out=tmp_path / "b", **common)
    remade(tmp_path / "b/images/0000.png", prior)
    with pytest.raises(ImageError, match="was given; nothing drew it"):
        offbeat.again(tmp_path / "b/ordinary/0000.png", backbone=prior)
    offbeat.dream(2, backbone=prior, judge="none", method="conceptlab", config=SEARCH,
                  max_cosine=1.0, out=tmp_path / "c")  # fmt: skip
    remade(tmp_path / "c/images/0001.png", prior)


@pytest.mark.parametrize(
    ("method", "few"),
    [("bass", {"num_swaps": 3, "num_pilot": 2}), ("agswap", {"num_draws": 2})],
)
def test_swapped(small, tmp_path, method, few):
    offbeat.fuse(["owl", "teapot"], method=method, num_images=1, judge="none",
                 config={"num_inference_steps": 2, **few}, backbone=small,
                 out=tmp_path / "run")  # fmt: skip
    remade(tmp_path / "run/images/0000.png", small)


def test_mixed_from_files_and_words(small, photos, tmp_path):
    own = shutil.copytree(photos, tmp_path / "own")
    common = {"judge": "none", "backbone": small}
    offbeat.sweep(own / "red.png", "owl", num=2, num_images=5, method="magicmix", config=MIX,
                  out=tmp_path / "run", **common)  # fmt: skip
    path = tmp_path / "run/images/0009.png"  # the last, alone in its batch
    remade(path, small)
    remade(tmp_path / "run/ordinary/0005.png", small)  # the word
    moved = own.rename(tmp_path / "moved")
    remade(path, small)  # from the copy in the run folder
    far = alone(path, tmp_path)
    with pytest.raises(ImageError, match="--source"):
        offbeat.again(far, backbone=small)
    remade(far, small, sources=[moved / "blue.png", moved])


def test_morphed(small, photos, tmp_path):
    offbeat.sweep(photos / "red.png", photos / "blue.png", num=3, num_images=1, judge="none",
                  method="diffmorpher", config=MORPH, backbone=small,
                  out=tmp_path / "run")  # fmt: skip
    remade(tmp_path / "run/images/0001.png", small)


def test_painted(small, photos, tmp_path):
    offbeat.paint(photos / "red.png", photos / "blue.png", "a pig", sweep=[0.2, 0.7], num_images=2,
                  config=PAINT, backbone=small, out=tmp_path / "run")  # fmt: skip
    far = alone(tmp_path / "run/images/0003.png", tmp_path)
    with pytest.raises(ImageError, match="--source"):
        offbeat.again(far, backbone=small)
    remade(far, small, sources=[photos])
    remade(tmp_path / "run/images/0000.png", small)


@pytest.fixture(scope="module")
def drawn(pocket, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "run"
    offbeat.generate("a pig", num_images=1, num_inference_steps=2, backbone=pocket, out=folder)
    return folder / "images/0000.png"


def test_the_command(drawn, tmp_path):
    run = CliRunner().invoke
    done = run(cli.app, ["again", str(drawn), "--out", str(tmp_path / "x.png")])
    assert done.exit_code == 0, done.output
    assert "byte for byte" in done.stdout
    assert (tmp_path / "x.png").read_bytes() == drawn.read_bytes()
    done = run(cli.app, ["again", str(drawn), "--out", str(tmp_path / "x.png")])
    assert (done.exit_code, "exists already" in done.output) == (2, True)


def saved(path, picture, recipe, concept=None):
    path.write_bytes(encode_png(picture, recipe, concept=concept))
    return path


def test_what_is_not_as_it_was_is_said(drawn, pocket, tmp_path, monkeypatch):
    recipe, inside = read_recipe(drawn), read_concept_file(drawn)
    with Image.open(drawn) as opened:
        picture = opened.convert("RGB")
        info = PngInfo()
        for name in ("offbeat", CONCEPT_KEY):
            info.add_text(name, opened.info[name])
    picture.save(tmp_path / "resaved.png", pnginfo=info)  # as another tool would
    found = offbeat.again(tmp_path / "resaved.png", backbone=pocket)
    assert (found.same, found.same_pixels) == (False, True)
    older = {**recipe, "versions": {**recipe["versions"], "torch": "1.0"}}
    found = offbeat.again(saved(tmp_path / "a.png", picture, older, inside), backbone=pocket)
    assert found.same
    assert "torch was 1.0" in found.notes[0]
    changed = Image.eval(picture, lambda value: value // 2)
    path = saved(tmp_path / "b.png", changed, recipe, inside)
    found = offbeat.again(path, backbone=pocket)
    assert (found.same, found.same_pixels) == (False, False)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.app, ["again", str(path)]).exit_code == 1
    assert (tmp_path / "b-again.png").exists()
    other = {**recipe, "fingerprint": "0" * 16}
    with pytest.raises(FingerprintError, match="other weights"):
        offbeat.again(saved(tmp_path / "c.png", picture, other, inside), backbone=pocket)
    early = {name: value for name, value in recipe.items() if name != "drawing"}
    with pytest.raises(ImageError, match="early Offbeat"):
        offbeat.again(saved(tmp_path / "d.png", picture, early, inside), backbone=pocket)
    with pytest.raises(CorruptRunError, match=r"e\.png: concept"):
        offbeat.again(saved(tmp_path / "e.png", picture, recipe, inside[:-1] + b"x"),
                      backbone=pocket)  # fmt: skip
    picture.save(tmp_path / "f.png")
    with pytest.raises(ImageError, match="holds no recipe"):
        offbeat.again(tmp_path / "f.png", backbone=pocket)


def test_a_large_concept_is_left_to_the_run_folder(drawn, pocket, monkeypatch):
    concept = offbeat.load_run(drawn.parent.parent).concept
    monkeypatch.setattr(images, "MAX_EMBEDDED", 10)
    request = read_recipe(drawn)["request"]
    files = images.png_files("images", [Image.open(drawn)], request, concept, pocket)
    assert CONCEPT_KEY.encode() not in files["images/0000.png"]
