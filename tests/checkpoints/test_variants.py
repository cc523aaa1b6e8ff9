"""Folders as they are published: weights in variants and in pieces, and files that nobody reads."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
import tiny_flow
from offbeat import load_backbone
from offbeat.checkpoints.models import inspect_model
from offbeat.checkpoints.weights import fingerprint
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError

BUILD = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "flux": tiny_flow.build_flux,
}
FORMS = list(BUILD)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("published")
    return {form: build(place / form) for form, build in BUILD.items()}


def weights_of(folder):
    """Return the plain weights of a checkpoint's models, an IP-Adapter's left out."""
    return [file for file in sorted(folder.rglob("*.safetensors"))
            if file.stem in ("model", "diffusion_pytorch_model")]  # fmt: skip


def renamed(file, variant):
    return file.with_name(f"{file.stem}.{variant}.safetensors")


def fingerprints(folder):
    loaded = load_backbone(folder, device="cpu")
    assert inspect_model(folder).fingerprint == loaded.fingerprint
    return loaded.fingerprint


@torch.no_grad()
def draw(backbone):
    text = backbone.encode_text(["a red castle"])
    if hasattr(backbone, "draw_text"):
        return backbone.draw_text(text, generator=stream(1), num_inference_steps=2)
    settings = {"num_inference_steps": 3, "prior_guidance_scale": 3.0}
    return backbone.sample_prior(text, generator=stream(1), **settings)


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_with_one_variant_alone_is_read(folders, tmp_path, form):
    """As ``download --variant fp16`` leaves it: today's weights under another name."""
    folder = shutil.copytree(folders[form], tmp_path / "copy")
    for file in weights_of(folder):
        file.rename(renamed(file, "fp16"))
    plain, variant = (load_backbone(place, device="cpu") for place in (folders[form], folder))
    assert torch.equal(draw(plain), draw(variant))
    told, usual = inspect_model(folder), inspect_model(folders[form])
    assert told.fingerprint == variant.fingerprint
    assert told.parameters == usual.parameters


@pytest.mark.parametrize("form", FORMS)
def test_files_that_are_not_read_do_not_change_the_fingerprint(folders, tmp_path, form):
    folder = shutil.copytree(folders[form], tmp_path / "copy")
    before = fingerprints(folder)
    for file in weights_of(folder):
        save_file({"other": torch.zeros(2)}, renamed(file, "fp16"))
        save_file({"other": torch.zeros(2)}, renamed(file, "non_ema"))
        pieces = file.with_name(f"{file.stem}.fp16-00001-of-00002.safetensors")
        save_file({"other": torch.zeros(2)}, pieces)
        file.with_name(f"{file.stem}.safetensors.index.fp16.json").write_text("{}")
    for place in (folder, *(file.parent for file in weights_of(folder))):
        (place / ".cache").mkdir()
        (place / ".cache" / "download.json").write_text("{}")
    if (folder / "model_index.json").is_file():
        save_file({"other": torch.zeros(2)}, folder / "v1-5-pruned.safetensors")
    assert fingerprints(folder) == before
    weights = load_file(weights_of(folder)[0])
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, weights_of(folder)[0])
    assert fingerprints(folder) != before


def test_several_variants_and_no_plain_weights_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["sd"], tmp_path / "copy")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, renamed(file, "bf16"))
    file.rename(renamed(file, "fp16"))
    for use in (load_backbone, inspect_model):
        with pytest.raises(CheckpointError, match=r"unet: .*of one, got bf16, fp16; name one"):
            use(folder)


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_weights_in_pieces_are_read(folders, tmp_path, variant):
    folder = shutil.copytree(folders["sd"], tmp_path / "copy")
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        file = folder / part / f"{stem}.safetensors"
        weights, places = load_file(file), {}
        for number in (1, 2):
            end = f".{variant}" if variant else ""
            name = f"{stem}{end}-0000{number}-of-00002.safetensors"
            part_of = {key: weights[key] for key in sorted(weights)[number - 1 :: 2]}
            save_file(part_of, folder / part / name, metadata={"format": "pt"})
            places |= dict.fromkeys(part_of, name)
        index = f"{stem}.safetensors.index{f'.{variant}' if variant else ''}.json"
        told = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / part / index).write_text(json.dumps(told))
        file.unlink()
    loaded = load_backbone(folder, device="cpu")
    assert torch.equal(draw(loaded), draw(load_backbone(folders["sd"], device="cpu")))
    told = inspect_model(folder)
    assert told.parameters == inspect_model(folders["sd"]).parameters
    assert told.fingerprint == loaded.fingerprint


def test_the_fingerprint_of_an_ordinary_folder_is_that_of_before(folders):
    """Runs and concepts name it: a change of the rule must not make them strangers."""
    digest = hashlib.blake2b(b"settings", digest_size=8)
    for number, place in enumerate((folders["sd"], folders["xl"] / "unet")):
        files = {file.relative_to(place).as_posix(): file for file in place.rglob("*")}
        for name, file in sorted(files.items()):
            if file.suffix in (".json", ".safetensors", ".txt", ".model"):
                digest.update(f"{number}/{name}:{file.stat().st_size};".encode())
                digest.update(file.read_bytes())
    now = fingerprint(folders["sd"], folders["xl"] / "unet", settings="settings")
    assert now == digest.hexdigest()


def test_a_refiner_is_refused_before_it_is_loaded(folders, tmp_path):
    """As published: one text encoder, the second, and an aesthetic score that nobody sends here."""
    folder = shutil.copytree(folders["xl"], tmp_path / "copy")
    index = json.loads((folder / "model_index.json").read_text())
    none = {name: [None, None] for name in ("text_encoder", "tokenizer")}
    kind = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}
    (folder / "model_index.json").write_text(json.dumps({**index, **none, **kind}))
    shutil.rmtree(folder / "unet")
    for use in (lambda place: load_backbone(place, device="cpu"), inspect_model):
        with pytest.raises(CheckpointError, match=r"got a refiner of SDXL.* name the base model"):
            use(folder)


@pytest.mark.parametrize(("said", "kept"), [(True, torch.float32), (False, None), (None, None)])
def test_an_autoencoder_is_upcast_only_if_its_own_settings_say_so(folders, tmp_path, said, kept):
    folder = shutil.copytree(folders["xl"], tmp_path / "copy")
    config = json.loads((folder / "vae" / "config.json").read_text())
    config.pop("force_upcast", None)
    if said is not None:
        config["force_upcast"] = said
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(folder, device="cpu", dtype="bfloat16")
    assert backbone.vae.dtype == (kept or torch.bfloat16)
    assert backbone.unet.dtype == torch.bfloat16
    assert draw(backbone).isfinite().all()


@pytest.mark.parametrize("names", [("kandinsky-2-2-prior", "kandinsky-2-2-decoder"),
                                   ("kandinsky-2-1-prior", "kandinsky-2-1")])  # fmt: skip
def test_prior_and_decoder_in_folders_side_by_side_find_each_other(folders, tmp_path, names):
    for part, name in zip(("prior", "decoder"), names, strict=True):
        shutil.copytree(folders["2.2"] / part, tmp_path / name)
    whole = draw(load_backbone(folders["2.2"], device="cpu"))
    for name in names:
        assert torch.equal(draw(load_backbone(tmp_path / name, device="cpu")), whole)


def test_prior_and_decoder_that_lie_apart_are_named_together(folders, tmp_path):
    for part in ("prior", "decoder"):
        shutil.copytree(folders["2.2"] / part, tmp_path / f"place-of-{part}" / "model")
    prior, decoder = (tmp_path / f"place-of-{part}" / "model" for part in ("prior", "decoder"))
    both = load_backbone(f"{prior}::{decoder}", device="cpu")
    assert torch.equal(draw(both), draw(load_backbone(folders["2.2"], device="cpu")))
    assert inspect_model(f"{prior}::{decoder}").fingerprint == both.fingerprint
    with pytest.raises(
        CheckpointError, match=r"holds a decoder alone. Name both as PRIOR::DECODER"
    ):
        load_backbone(decoder, device="cpu")
