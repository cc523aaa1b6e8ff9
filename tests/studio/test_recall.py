"""What a picture says of how it was made becomes a request again."""

import io

import pytest
from asking import SMALL
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import offbeat
from offbeat.errors import ConfigError
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.studio.uploads import recall, request_of


def said(run, tmp_path, index=0):
    """Return what a picture of a run recalls."""
    path = tmp_path / "picture.png"
    path.write_bytes(run.files[f"images/{index:04d}.png"])
    return recall(path, "picture.png")


def test_a_fusion_recalls_the_shares_of_this_very_picture(pocket, tmp_path):
    run = offbeat.sweep("frog", "owl", num=3, num_images=1, judge="none", backbone=pocket)
    middle = said(run, tmp_path, 1)["request"]
    assert middle["sources"] == [{"word": "frog", "share": 0.5}, {"word": "owl", "share": 0.5}]
    assert (middle["verb"], middle["method"], middle["backbone"]) == ("fuse", "distok", "pocket")
    end = said(run, tmp_path, 0)
    assert end["request"] is None
    assert "frog as it is" in end["reason"]


def test_what_was_changed_is_asked_again(pocket):
    config = LowProbabilityConfig(**SMALL, reach=1.5, novelty=None)
    asked = {
        "verb": "explore", "subject": "castle", "prompt": None, "num_images": 3, "num_trials": 1,
        "seed": 4, "judge": "none", "checkpoint": "pocket",
        "config": {name: getattr(config, name) for name in config.__dataclass_fields__},
    }  # fmt: skip
    found = request_of(asked)
    assert (found["subject"], found["reach"], found["num_images"]) == ("castle", 1.5, 3)
    assert "novelty" not in found
    assert found["config"] == SMALL


@pytest.mark.parametrize("asked", [{"verb": "render"}, {"verb": "paint"}, {"verb": "no such"}])
def test_what_needs_more_than_a_picture_is_said(asked):
    with pytest.raises(ConfigError, match="needs the runs and pictures"):
        request_of(asked)


def test_other_tools_are_read_and_nonsense_is_borne(tmp_path):
    info = PngInfo()
    text = "a cat on a mat\nNegative prompt: dog\nSteps: 20, Seed: 12345, Size: 8x8"
    info.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    found = recall(tmp_path / "a.png", "a.png")
    assert (found["by"], found["prompt"], found["seed"]) == ("other", "a cat on a mat", 12345)
    assert found["text"] == text
    empty = '{"verb": "fuse", "layout": "fuse", "weights": [[]]}'
    for nonsense in (empty, "[" * 5000, '{"request": 3}', "null"):
        info = PngInfo()
        info.add_itxt("offbeat", nonsense)
        data = io.BytesIO()
        Image.new("RGB", (8, 8)).save(data, "PNG", pnginfo=info)
        (tmp_path / "b.png").write_bytes(data.getvalue())
        assert recall(tmp_path / "b.png", "b.png")["request"] is None
