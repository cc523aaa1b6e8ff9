"""`offbeat models`: what is known, what a checkpoint is made of, and what is fetched."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import tiny
import tiny_flow
from offbeat import cli, load_backbone, registry
from offbeat.checkpoints import hub as hub_module
from offbeat.checkpoints import models
from offbeat.checkpoints.known import stable_diffusion
from offbeat.checkpoints.models import fetch_model, inspect_model, list_models
from offbeat.errors import CheckpointError, UnknownNameError

BUILD = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub; returns what puts a folder's files into it as a repository."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    def put(hub_id, fill):
        repository = tmp_path / f"models--{hub_id.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("1" * 40)
        fill(repository / "snapshots" / ("1" * 40))
        return repository / "snapshots" / ("1" * 40)

    return put


@pytest.mark.parametrize("source", ["pocket", "pocket-sd", *BUILD])
def test_what_is_told_is_what_loading_finds(source, tmp_path):
    place = BUILD[source](tmp_path / source) if source in BUILD else source
    found, backbone = inspect_model(place), load_backbone(place, device="cpu")
    assert found.fingerprint == backbone.fingerprint
    loaded = {id(w): w.numel() for module in backbone._modules() for w in module.parameters()}
    assert found.parameters == pytest.approx(sum(loaded.values()), rel=0.03)
    assert (found.height, found.width) == (backbone.card["height"], backbone.card["width"])
    assert "encode_text" in found.capabilities
    assert ("sample_prior" in found.capabilities) == hasattr(backbone, "sample_prior")
    assert ("draw_text" in found.capabilities) == hasattr(backbone, "draw_text")
    need = found.memory["--dtype float32 --offload none"]["device"]
    assert need > found.memory["--dtype bfloat16 --offload sequential"]["device"]


def test_every_name_is_listed_without_a_network(hub):
    found = {one.name: one for one in list_models()}
    assert set(found) == set(registry.names("backbone"))
    assert found["pocket"].state == "bundled"
    assert found["pocket"].num_bytes > 10**7
    assert found["sdxl"].state == "not here"
    assert found["sdxl"].sources == (SDXL,)
    assert all(one.licence != "unknown" for one in found.values())
    assert set(models.LICENCES) == set(found)


def test_what_lies_here_is_found_and_so_is_what_is_missing_of_it(hub):
    def fill(folder):
        tiny.build_sd(folder, "xl", adapter=False)
        (folder / "README.md").write_text("---\nlicense: my-own\n---\n# A model\n")

    folder = hub(SDXL, fill)
    (sdxl,) = (one for one in list_models() if one.name == "sdxl")
    assert (sdxl.state, sdxl.licence) == ("here", "my-own")
    assert sdxl.num_bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert inspect_model("sdxl").licence == "my-own"
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (sdxl,) = (one for one in list_models() if one.name == "sdxl")
    assert sdxl.state == "partly here"


def test_just_what_loading_reads_is_fetched(hub, monkeypatch, tmp_path):
    asked = []

    def snapshot(hub_id, allow_patterns, **settings):
        asked.append((hub_id, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert fetch_model("sdxl") == [tmp_path]
    assert asked == [(SDXL, (*stable_diffusion.FILES, "README.md"))]
    assert len(fetch_model("kandinsky-2.2")) == 2
    assert fetch_model("pocket")[0].name == "prior"
    with pytest.raises(UnknownNameError, match="Did you mean sdxl"):
        fetch_model("sdxk")


def test_offline_says_so_and_what_to_do(hub):
    with pytest.raises(CheckpointError, match=r"hub is switched off.*models fetch"):
        fetch_model("sdxl")
    done = CliRunner().invoke(cli.app, ["models", "fetch", "sdxl"])
    assert done.exit_code == 2
    assert "error: stabilityai" in done.output


def test_errors_of_the_hub_are_told_in_words(monkeypatch):
    from huggingface_hub import constants, errors

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    answer = SimpleNamespace(headers={}, request=None)
    assert "hf auth login" in hub_module.why("a/b", errors.GatedRepoError("no", response=answer))
    gone = errors.RepositoryNotFoundError("no", response=answer)
    assert "no such repository" in hub_module.why("a/b", gone)
    assert "OSError: x" in hub_module.why("a/b", OSError("x\ny"))


@pytest.mark.parametrize("words", [["--offline", "list", "methods"], ["list", "methods"]])
def test_offline_is_said_before_the_hub_is_imported(words):
    code = (
        "import os, sys; os.environ.pop('HF_HUB_OFFLINE', None); from offbeat.cli import app\n"
        f"try: app({words})\n"
        "except SystemExit: pass\n"
        "from huggingface_hub import constants; print('offline:', constants.HF_HUB_OFFLINE)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"offline: {words[0] == '--offline'}" in done.stdout


def test_commands_show_it_and_tell_programs():
    done = CliRunner().invoke(cli.app, ["models", "inspect", "pocket-sd"])
    assert done.exit_code == 0, done.output
    assert "StableDiffusionPipeline, 128 x 128 pixels" in done.stdout
    assert "unet" in done.stdout
    told = json.loads(CliRunner().invoke(cli.app, ["models", "inspect", "pocket", "--json"]).stdout)
    assert told["components"][0]["parameters"] > 10**6
    listed = json.loads(CliRunner().invoke(cli.app, ["models", "list", "--json"]).stdout)
    assert {one["name"] for one in listed} == set(registry.names("backbone"))
    done = CliRunner().invoke(cli.app, ["models", "inspect", "nowhere"])
    assert done.exit_code == 2
    assert "unknown backbone 'nowhere'" in done.output
