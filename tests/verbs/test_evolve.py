"""`fuse` of picture files by ConceptLab: a child, learned from what its parents look like."""

import pytest
import torch

from offbeat import fuse, load_run
from offbeat.core.rng import stream, streams
from offbeat.errors import CapabilityError, ConfigError, ImageError
from offbeat.files.png import to_pil

QUICK = {"num_steps": 12, "prior_num_inference_steps": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def parents(pocket, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    with torch.no_grad():
        text = pocket.encode_text(["a picture of a pig", "a picture of an octopus"])
        embeds = pocket.sample_prior(text, generator=streams(1, num=2))
        images = pocket.decode_embeds(embeds, generator=stream(1), num_inference_steps=4)
    files = [folder / "pig.png", folder / "octopus.png"]
    for picture, file in zip(to_pil(images), files, strict=True):
        picture.save(file)
    return files


def child(parents, pocket, **settings):
    own = {"config": QUICK, "num_images": 2, "judge": "none", **settings}
    return fuse(parents, method="conceptlab", backbone=pocket, **own)


def test_a_child_is_nearer_to_its_parents_than_its_start(pocket, parents, tmp_path):
    run = child(parents, pocket, out=tmp_path / "run")
    start = child(parents, pocket, config={**QUICK, "num_steps": 1, "learning_rate": 1e-12})
    near, before = (sum(one.summary["concepts"][0]["likeness"]) for one in (run, start))
    assert near > before + 0.2
    again = load_run(tmp_path / "run")
    assert again.concept.token_embeds.keys() == run.concept.token_embeds.keys()
    assert len(again.images) == 2
    assert "pig.png" in again.summary["in_words"]


def test_a_killed_search_goes_on_to_the_same_child(pocket, parents, tmp_path):
    config = {**QUICK, "num_steps": 60}
    whole = child(parents, pocket, config=config)

    def killed(stage, done, total, values):
        if done == 55:
            raise KeyboardInterrupt

    common = {"config": config, "out": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        child(parents, pocket, observe=killed, **common)
    resumed = child(parents, pocket, resume=True, **common)
    (one,), (other,) = (run.concept.token_embeds.values() for run in (whole, resumed))
    assert torch.equal(one, other)


def test_what_has_no_child(pocket, pocket_sd, parents, tmp_path):
    with pytest.raises(ImageError, match=r"none\.png"):
        child([*parents, tmp_path / "none.png"], pocket)
    with pytest.raises(CapabilityError, match="decode_embeds"):
        child(parents, pocket_sd)
    with pytest.raises(ConfigError, match="nothing trained"):
        child(parents, pocket, trained="space.safetensors")
