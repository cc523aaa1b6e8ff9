"""Run folders that an earlier Offbeat wrote stay readable."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

import offbeat
from offbeat import cli
from offbeat.errors import FingerprintError
from offbeat.files.disk import pack_tensors, unpack_tensors
from offbeat.judges.classifier import ClassifierJudge
from offbeat.runs.folder import DONE, digest_of

OLD = Path(__file__).parent.parent / "fixtures" / "runs"


@pytest.mark.parametrize(("name", "pictures"), [("explore", 1), ("fuse", 1), ("raw-prompt", 1)])
def test_an_old_run_is_read_and_shown(name, pictures):
    run = offbeat.load_run(OLD / name)
    assert len(run.images) == pictures
    assert run.summary["in_words"]
    shown = CliRunner().invoke(cli.app, ["show", str(OLD / name / "images" / "0000.png")])
    assert shown.exit_code == 0, shown.output
    assert "Model: pocket" in shown.stdout


@pytest.fixture
def old_as_ours(pocket, tmp_path):
    """Copies an old folder as if the weights of today had written it."""

    def copy(name, pictures=False):
        folder = shutil.copytree(OLD / name, tmp_path / name)
        old = json.loads((folder / "request.json").read_text())
        pairs = [(old["fingerprint"], pocket.fingerprint)]
        if old["judge"].startswith("classifier:"):
            pairs.append((old["judge"], ClassifierJudge.load(pocket.card["judge"]).name))
        for file in folder.rglob("*.json"):
            text = file.read_text()
            for before, after in pairs:
                text = text.replace(before, after)
            file.write_text(text)
        for file in folder.rglob("concept.safetensors"):
            tensors, about = unpack_tensors(file.read_bytes())
            file.write_bytes(pack_tensors(tensors, {**about, "fingerprint": pocket.fingerprint}))
        for file in folder.glob("images/*.png") if pictures else ():
            with Image.open(file) as image:
                told = PngInfo()
                for key, text in image.text.items():
                    told.add_itxt(key, text.replace(*pairs[0]))
                image.save(file, pnginfo=told)
        done = json.loads((folder / DONE).read_text())
        for name, told in done["files"].items():
            data = (folder / name).read_bytes()
            told |= {"bytes": len(data), "blake2b": digest_of(data)}
        (folder / DONE).write_text(json.dumps(done))
        return folder

    return copy


@pytest.mark.parametrize("name", ["explore", "fuse"])
def test_an_old_concept_is_drawn_and_exported(name, pocket, old_as_ours, tmp_path):
    with pytest.raises(FingerprintError, match="fits no other weights"):
        offbeat.render(OLD / name, num_images=1, backbone=pocket)
    folder = old_as_ours(name)
    drawn = offbeat.render(folder, num_images=1, seed=3, backbone=pocket)
    assert drawn.images[0].size == (pocket.card["width"], pocket.card["height"])
    (file,) = offbeat.export_concept(folder, out=tmp_path / "out")
    assert file.stat().st_size > 1000


def test_an_old_picture_is_made_again(pocket, old_as_ours):
    with pytest.raises(FingerprintError, match="other weights draw another picture"):
        offbeat.again(OLD / "raw-prompt" / "images" / "0000.png", backbone=pocket)
    made = offbeat.again(
        old_as_ours("raw-prompt", pictures=True) / "images" / "0000.png", backbone=pocket
    )
    assert not made.same_pixels  # its pixels are those of the first weights


def test_an_old_run_is_finished_for_its_own_request(pocket, old_as_ours):
    folder = old_as_ours("raw-prompt")
    run = offbeat.explore("pet", method="raw-prompt", num_images=1, backbone=pocket,
                          out=folder, resume=True)  # fmt: skip
    assert run.folder == folder
