"""What generate and render are told beside a prompt: pictures, strengths, samplers, adapters."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import offbeat
import tiny
from offbeat import cli
from offbeat.core.drawing import draw, scaled
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, ConfigError, ShapeError, UnsafeWeightsError
from offbeat.types import Concept
from offbeat.verbs.session import with_strength

RUNNER = CliRunner()


@pytest.fixture
def files(tmp_path):
    """A picture that is no square, and a mask of its right half."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    mask = np.zeros((24, 40), dtype=np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path / "photo.png", tmp_path / "mask.png"


def run(*arguments):
    return RUNNER.invoke(cli.app, [str(part) for part in arguments])


@pytest.mark.parametrize("kind", ["2.2", "sd", "flux"])
def test_pictures_given_on_the_command_line_are_drawn_again_byte_for_byte(
    tiny_of, tmp_path, files, kind
):
    photo, mask = files
    plain, out = tmp_path / "plain", tmp_path / "run"
    common = ["generate", "a red pig", "--backbone", tiny_of(kind).name, "-n", 2, "--steps", 4]
    assert run(*common, "--out", plain).exit_code == 0
    pictures = ["--init-image", photo, "--mask", mask, "--strength", 0.6]
    more = [] if kind == "flux" else ["--image", photo, "--image-weight", 0.8]
    more += ["--sampler", "Euler", "--guider", "apg"]
    result = run(*common, *pictures, *more, "--out", out)
    assert result.exit_code == 0, result.output
    request = json.loads((out / "request.json").read_text())
    assert request["sampler"] == "euler"
    assert request["guider"] == "apg"
    assert request["strength"] == 0.6
    assert request["pictures"]["mask"]["picture"] == "mask.png"
    image = offbeat.load_run(out).images[1]
    assert image.width > image.height  # its own shape
    for file in files:  # the run folder keeps copies
        file.unlink()
    again = offbeat.again(out / "images" / "0001.png")
    assert again.same, again.notes


def test_what_does_not_go_together_is_refused_before_anything_is_loaded(files):
    photo, mask = files
    for settings, said in (
        ({"strength": 0.5}, "init_image beside it"),
        ({"mask": mask}, "init_image beside it"),
        ({"image_weight": 0.5}, "image beside it"),
        ({"init_image": photo, "strength": 2}, "strength"),
    ):
        with pytest.raises((ConfigError, ValueError), match=said):
            offbeat.generate("a pig", backbone="not-there", **settings)


def test_a_mask_of_another_shape_is_refused(tiny_of, files, tmp_path):
    Image.new("L", (30, 30)).save(tmp_path / "square.png")
    with pytest.raises(ShapeError, match=r"mask: expected the shape .*got 30 x 30"):
        offbeat.generate(
            "a pig", backbone=tiny_of("sd"), init_image=files[0], mask=tmp_path / "square.png"
        )


# --- IP-Adapters ------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """A checkpoint without an adapter, and adapters as ``h94/IP-Adapter`` has them."""

    def of(kind):
        whole = tiny.build_sd(tmp_path / "whole", kind)
        left_out = shutil.ignore_patterns("ip_adapter", "image_encoder")
        plain = shutil.copytree(whole, tmp_path / "plain", ignore=left_out)
        index = json.loads((plain / "model_index.json").read_text())
        index["image_encoder"] = [None, None]
        (plain / "model_index.json").write_text(json.dumps(index))
        place = "models" if kind == "sd" else "sdxl_models"
        name = "ip-adapter_sd15" if kind == "sd" else "ip-adapter_sdxl"
        repository = tmp_path / "IP-Adapter"
        (repository / place).mkdir(parents=True)
        file = repository / place / f"{name}.safetensors"
        shutil.copy(whole / "ip_adapter" / "ip_adapter.safetensors", file)
        shutil.copytree(whole / "image_encoder", repository / place / "image_encoder")
        return whole, plain, repository, file

    return of


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_an_adapter_by_name_draws_as_one_in_the_folder(published, files, kind):
    whole, plain, repository, file = published(kind)
    common = {"num_images": 1, "image": files[0], "image_weight": 0.7}
    expected = offbeat.generate("a pig", backbone=whole, **common).images[0]
    for source in (repository, file.parent, file):
        backbone = offbeat.load_backbone(plain, ip_adapter=str(source))
        found = offbeat.generate("a pig", backbone=backbone, **common)
        assert found.images[0].tobytes() == expected.tobytes()
        assert found.request["ip_adapter"] == str(source)
    assert backbone.fingerprint == offbeat.load_backbone(plain).fingerprint
    with pytest.raises(ConfigError, match="--ip-adapter"):
        offbeat.generate("a pig", backbone=plain, **common)
    assert not any(p.requires_grad for m in backbone._modules() for p in m.parameters())


def test_paint_works_on_a_published_layout_with_an_adapter(published, files, tmp_path):
    _, plain, repository, _ = published("sd")
    common = ["paint", "--art", files[0], "--content", files[0], "--backbone", plain, "-n", 1,
              "--set", "num_inference_steps=3"]  # fmt: skip
    assert "--ip-adapter" in run(*common, "--out", tmp_path / "no").output.replace("\n", " ")
    result = run(*common, "--ip-adapter", repository, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output


def test_adapters_that_do_not_fit_are_refused(published, tmp_path):
    _, plain, repository, file = published("sd")
    config = file.parent / "image_encoder" / "config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "projection_dim": 16}))
    with pytest.raises(CheckpointError, match=r"32 wide.*image_encoder is 16 wide"):
        offbeat.load_backbone(plain, ip_adapter=str(repository))
    with pytest.raises(UnsafeWeightsError, match=r"take the \.safetensors"):
        offbeat.load_backbone(plain, ip_adapter=str(file.rename(file.with_suffix(".bin"))))
    with pytest.raises(CheckpointError, match=r"ip-adapter_sd15\.safetensors or ip_adapter"):
        offbeat.load_backbone(plain, ip_adapter=str(repository))


# --- strength of concepts ---------------------------------------------------------------------


def concept_of(backbone, subject="pig"):
    rows = backbone.token_embeds(subject)[:1] + 0.3 * torch.randn(
        1, len(backbone.token_embed("x")), generator=stream(0)
    )
    return Concept(
        template="a {concept}", subject=subject, word="<new>", token_embeds={"<new>": rows}
    )


@pytest.mark.parametrize("kind", ["2.2", "sd", "sd3"])
def test_strength_one_is_the_concept_and_none_is_its_subject(tiny_of, kind):
    backbone = tiny_of(kind)
    concept = concept_of(backbone)
    assert scaled(concept, backbone, 1.0) is concept
    zero = torch.stack([backbone.token_embed("pig")])
    assert torch.allclose(scaled(concept, backbone, 0.0).token_embeds["<new>"], zero, atol=1e-6)
    half, minus = (scaled(concept, backbone, s).token_embeds["<new>"] for s in (0.5, -1.0))
    learned = concept.token_embeds["<new>"]
    assert torch.allclose(2 * half, learned + zero, atol=1e-5)
    assert torch.allclose(minus, 2 * zero - learned, atol=1e-5)


def test_rows_that_an_encoder_lacks_stay_empty_and_factors_are_multiplied(tiny_of):
    backbone = tiny_of("sd3")
    rows = backbone.token_embeds("pig")  # three letters of CLIP, one piece of T5
    width = backbone.token_layout[-1][1]
    assert not bool(rows[1:, -width:].any())
    factors = {"a.lora_A.weight": torch.ones(2), "a.lora_B.weight": torch.ones(2)}
    concept = Concept(
        template="{concept}", subject="owl", token_embeds={"<new>": rows}, lora=factors
    )
    weak = scaled(concept, backbone, 0.5)
    assert not bool(weak.token_embeds["<new>"][1:, -width:].any())
    assert float(weak.lora["a.lora_A.weight"][0]) == 1
    assert float(weak.lora["a.lora_B.weight"][0]) == 0.5


def test_strengths_are_read_from_sources_and_prompts(tiny_of, tmp_path):
    backbone = tiny_of("sd")
    concept = concept_of(backbone)
    for name in ("one", "two"):
        run_of(backbone, concept, tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {"num_images": 1, "num_inference_steps": 2}
    rendered = offbeat.render(
        [f"{one}:0.5", f"{two}:-1.0"], prompt="a {concept} and a {concept2}", **settings
    )
    assert rendered.request["learned"]["strength"] == 0.5
    in_prompt = offbeat.render(
        [one, two], prompt="a {concept:0.5} and a {concept2:-1.0}", **settings
    )
    generated = offbeat.generate(
        "a {concept:0.5} and a {concept2}", concept=[one, f"{two}:-1.0"], **settings
    )
    pictures = {run.images[0].tobytes() for run in (rendered, in_prompt, generated)}
    assert len(pictures) == 1
    full = offbeat.render([one, two], prompt="a {concept} and a {concept2}", **settings)
    assert full.images[0].tobytes() not in pictures
    with pytest.raises(ValueError, match="strength"):
        offbeat.render(f"{one}:11.0", **settings)
    assert with_strength("runs/a:3") == ("runs/a:3", None)
    assert with_strength("runs/a:3:+2") == ("runs/a:3", 2.0)


def run_of(backbone, concept, out):
    """Write a run folder that holds a concept."""
    from offbeat.files.png import to_pil
    from offbeat.runs.result import concept_files
    from offbeat.verbs.session import Session

    session = Session(backbone, out=out)
    session.load()
    session.open({"verb": "fuse", "prompt": None, "seed": 0, "num_images": 1, "method": "x"})
    images = to_pil(draw(backbone, concept, seed=0, num=1))
    session.write([concept], images, concept_files([concept], backbone), views={})
