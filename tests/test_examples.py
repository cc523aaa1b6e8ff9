"""Every example runs on pocket, smaller than it stands."""

import runpy
from pathlib import Path

import pytest

from offbeat.methods.low_probability.config import LowProbabilityConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
SETTINGS = {
    "low_probability": {
        "config": LowProbabilityConfig(
            num_baseline=60,
            num_held_out=20,
            num_components=4,
            num_steps=2,
            lora_rank=2,
            use_support=False,
        )
    },
    "conceptlab": {"config": {"num_steps": 4}},
    "cretok": {},
    "creativesynth": {"config": {"num_inference_steps": 6}},
    "distok": {},
    "magicmix": {"num_images": 1, "config": {"num_inference_steps": 4}},
    "diffmorpher": {"num": 3, "config": {"num_steps": 2, "num_inference_steps": 3}},
    "bass": {"num_images": 1, "config": {"num_swaps": 4, "num_pilot": 2}},
    "agswap": {"num_images": 1, "config": {"num_draws": 2}},
    "rivals": {
        "num_images": 1,
        "of_a_subject": ("guidance-interval",),
        "of_a_pair": ("interpolation",),
    },
}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_runs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    assert len(file.read_text().splitlines()) <= 60
    run = runpy.run_path(str(file))["main"](str(tmp_path / "run"), **SETTINGS[file.stem])
    assert run.images
    assert "saved in" in capsys.readouterr().out
