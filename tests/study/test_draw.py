"""Designs that name a verb: it draws once, and again after a kill."""

import pytest

from offbeat.errors import ConfigError
from offbeat.study.draw import draw

ASKED = {"prompt": "a picture of an owl", "num_images": 1, "num_inference_steps": 2}


def test_a_finished_run_is_kept_and_a_cut_off_one_is_drawn_anew(tmp_path):
    folder = tmp_path / "owl"
    draw("generate", ASKED, folder)
    first = (folder / "images" / "0000.png").stat().st_mtime_ns
    draw("generate", ASKED, folder)
    assert (folder / "images" / "0000.png").stat().st_mtime_ns == first
    (folder / "done.json").unlink()
    draw("generate", ASKED, folder)
    assert (folder / "images" / "0000.png").stat().st_mtime_ns != first


@pytest.mark.parametrize(
    ("verb", "arguments"), [("paint", {}), ("generate", {"promt": "an owl"}), ("explore", {})]
)
def test_what_is_no_verb_or_no_argument_is_told(tmp_path, verb, arguments):
    with pytest.raises(ConfigError, match="conditions"):
        draw(verb, arguments, tmp_path / "owl")
