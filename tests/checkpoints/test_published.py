"""Every known name is loaded from a hub whose repositories look like the published ones."""

import fnmatch
import json
import shutil

import pytest
import torch
from published import INDEX, publish
from safetensors.torch import load_file, save_file

import tiny
import tiny_flow
from offbeat import fetch_model, inspect_model, load_backbone
from offbeat.backbones.verify import verify
from offbeat.checkpoints.known import flow, stable_diffusion, unclip
from offbeat.errors import CheckpointError

HALVES = {"kandinsky-2.1": "2.1", "kandinsky-2.2": "2.2"}
WHOLE = {
    "sd-1.5": lambda folder: tiny.build_sd(folder, "sd", scheduler="pndm", adapter=False),
    "sdxl": lambda folder: tiny.build_sd(folder, "xl", scheduler="euler", adapter=False),
    "sd3.5": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}
PIECES = {"flux": ("transformer", "text_encoder_2"), "sd3.5": ("text_encoder_3",)}
HUB_IDS = {**stable_diffusion.CHECKPOINTS, **flow.CHECKPOINTS}


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Return the folder of each hub id."""
    root, made = tmp_path_factory.mktemp("hub"), {}
    for name, build in WHOLE.items():
        folder = build(root / name)
        made[HUB_IDS[name]] = publish(folder, name, pieces=PIECES.get(name, ()))
    for name, version in HALVES.items():
        both = tiny.build(root / name, version)
        for half, hub_id in zip(("prior", "decoder"), unclip.CHECKPOINTS[name], strict=True):
            kind = f"{name}-prior" if half == "prior" else name
            made[hub_id] = publish(both / half, kind)
    return made


@pytest.fixture
def hub(repositories, monkeypatch, tmp_path):
    """A hub that gives just the files that are asked for; returns their names by hub id."""
    fetched = {}

    def snapshot(hub_id, allow_patterns, **settings):
        place = tmp_path / "fetched" / hub_id
        for file in repositories[hub_id].rglob("*"):
            name = file.relative_to(repositories[hub_id]).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(name, p) for p in allow_patterns):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place / name)
                fetched.setdefault(hub_id, set()).add(name)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    small = tmp_path / "fetched" / "kandinsky-community" / "card.json"
    small.parent.mkdir(parents=True)
    small.write_text(json.dumps(tiny.CARD))
    return fetched


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of Euler's scheduler
@pytest.mark.parametrize("name", [*WHOLE, *HALVES])
def test_a_known_name_is_loaded_as_it_is_published(hub, name):
    backbone = load_backbone(name, device="cpu")
    checks = verify(backbone)
    assert [check for check in checks if check.passed is False] == []
    assert sum(check.passed is True for check in checks) >= 5
    assert inspect_model(name).fingerprint in (backbone.fingerprint, None)
    unread = [n for names in hub.values() for n in names if n.endswith((".bin", ".onnx"))]
    assert unread == []


def test_a_refiner_is_refused_as_it_is_published(repositories, tmp_path):
    folder = shutil.copytree(repositories[HUB_IDS["sdxl"]], tmp_path / "refiner")
    publish(folder, "refiner")
    with pytest.raises(CheckpointError, match="got a refiner of SDXL"):
        load_backbone(folder, device="cpu")


def with_variant(source, folder, *, without=()):
    """Copy a checkpoint and add other weights of the variant fp16 beside the plain ones."""
    shutil.copytree(source, folder)
    for file in sorted(folder.rglob("*.safetensors")):
        if file.parent.name not in without:
            weights = {name: tensor * 1.01 for name, tensor in load_file(file).items()}
            save_file(weights, file.with_name(f"{file.stem}.fp16.safetensors"))
    return folder


def test_a_variant_is_read_where_it_is_asked_for(repositories, tmp_path):
    source = repositories[HUB_IDS["sd-1.5"]]
    folder = with_variant(source, tmp_path / "both", without=("vae",))
    plain, usual = load_backbone(folder, device="cpu"), load_backbone(source, device="cpu")
    other = load_backbone(folder, device="cpu", variant="fp16")
    assert plain.fingerprint == usual.fingerprint
    weights = [model.unet.conv_in.weight for model in (plain, other)]
    assert torch.allclose(weights[0] * 1.01, weights[1])
    pairs = zip(plain.vae.parameters(), other.vae.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)  # of what has no variant, the plain weights
    assert inspect_model(folder, variant="fp16").fingerprint == other.fingerprint
    assert other.fingerprint != plain.fingerprint
    assert other.numerics["variant"] == "fp16"
    for use in (load_backbone, inspect_model):
        with pytest.raises(CheckpointError, match="variant 'bf16', and found fp16, plain weights"):
            use(folder, variant="bf16")


def test_a_variant_is_fetched_without_the_plain_weights(hub, repositories, tmp_path, monkeypatch):
    hub_id = HUB_IDS["sdxl"]
    folder = with_variant(repositories[hub_id], tmp_path / "both", without=("vae",))
    monkeypatch.setitem(repositories, hub_id, folder)
    fetch_model("sdxl", variant="fp16")
    weights = sorted(name for name in hub[hub_id] if name.endswith(".safetensors"))
    assert weights == [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_prior_and_decoder_are_named_by_two_options(repositories):
    from typer.testing import CliRunner

    from offbeat import cli

    prior, decoder = (repositories[hub_id] for hub_id in unclip.CHECKPOINTS["kandinsky-2.2"])
    told = ["models", "inspect", str(decoder), "--prior", str(prior), "--json"]
    done = CliRunner().invoke(cli.app, told)
    found = json.loads(done.output)
    assert found["fingerprint"] == inspect_model(f"{prior}::{decoder}").fingerprint
    assert found["pipeline"] == INDEX["kandinsky-2.2"]["_class_name"]
    help_text = CliRunner().invoke(cli.app, ["generate", "--help"], terminal_width=200).output
    assert "--prior" in help_text
    assert "--variant" in help_text
