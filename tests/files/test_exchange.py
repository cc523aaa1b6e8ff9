"""Files of other tools: what we write they read, and what they write we read."""

import json

import pytest
import torch
from safetensors.torch import load, save, save_file
from typer.testing import CliRunner

from offbeat import export_concept, fuse, import_concept, load_run, render
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.cli import app
from offbeat.core.drawing import draw
from offbeat.core.rng import stream
from offbeat.errors import (
    ConfigError,
    CorruptRunError,
    FingerprintError,
    ShapeError,
    StoreError,
    UnsafeWeightsError,
)
from offbeat.files.concept import CONCEPT_FILE, LORA_FILE, about_of, encode_concept, layout_of
from offbeat.files.exchange import encode_export, read_weights
from offbeat.files.labels import architecture_of
from offbeat.files.lora import read_factors, to_kohya
from offbeat.files.png import to_pil
from offbeat.files.tokens import join_rows
from offbeat.runs.result import concept_files
from offbeat.types import PLACEHOLDER, Concept

HEADER = slice(0, 8)


def token(backbone, num=2, **changes):
    """A concept with random rows as large as the checkpoint's own."""
    like = backbone.token_embeds("a quick red fox")
    width = like.shape[-1]
    rows = torch.randn(num, width, generator=stream(3, "rows")) * float(like.std())
    fields = {
        "template": "a photo of a {concept} at night",
        "subject": "red fox",
        "token_embeds": {PLACEHOLDER: rows},
        "metadata": {"method": "distok", "weights": '{"red": 0.5, "fox": 0.5}'},
    }
    return Concept(**{**fields, **changes})


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[HEADER], "little")])["__metadata__"]


def kept_in(folder, concept, backbone):
    """The concept's own file, as a run folder has it."""
    for name, data in concept_files([concept], backbone).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / CONCEPT_FILE


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
    import tiny

    folder = tiny.build_sd(tmp_path_factory.mktemp("exchange") / "sd", "sd", adapter=False)
    return StableDiffusionBackbone.load(folder)


@pytest.fixture(scope="module")
def xl(tmp_path_factory):
    import tiny

    folder = tiny.build_sd(tmp_path_factory.mktemp("exchange") / "xl", "xl", adapter=False)
    return StableDiffusionBackbone.load(folder)


# --- tokens


@pytest.mark.parametrize(
    ("style", "name"),
    [("diffusers", "<red-fox>"), ("a1111", "emb_params"), ("comfyui", "emb_params")],
)
def test_one_encoder_s_token_goes_out_and_comes_back(sd, tmp_path, style, name):
    concept = token(sd)
    source = kept_in(tmp_path, concept, sd)
    (path,) = export_concept(source, style, out=tmp_path / "out")
    assert path.name == "red-fox.safetensors"
    # the published loaders of A1111 and ComfyUI take `emb_params`, or an only tensor, [K, E]
    tensors = load(path.read_bytes())
    assert list(tensors) == [name]
    assert torch.equal(tensors[name], concept.token_embeds[PLACEHOLDER])
    about = header_of(path)
    assert about["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    assert about["modelspec.trigger_phrase"] == "a photo of a <red-fox> at night"
    for said in ("distok", sd.fingerprint, '"fox": 0.5'):
        assert said in about["modelspec.description"]
    back = import_concept(path, backbone=sd).concept
    assert (back.template, back.word) == (concept.template, "<red-fox>")
    assert torch.equal(back.token_embeds["<red-fox>"], concept.token_embeds[PLACEHOLDER])
    # and without our header, as another tool writes it
    plain = tmp_path / "cat-toy.safetensors"
    save_file(tensors, plain)
    back = import_concept(plain, backbone=sd, prompt="one {concept}").concept
    word = "<red-fox>" if style == "diffusers" else "<cat-toy>"
    assert back.prompt() == f"one {word}"
    assert torch.equal(back.token_embeds[word], concept.token_embeds[PLACEHOLDER])


def test_two_encoders_rows_are_kept_apart(xl, tmp_path):
    concept = token(xl)
    for style in ("diffusers", "sdxl", "a1111"):
        (path,) = export_concept(
            kept_in(tmp_path, concept, xl), style, out=tmp_path / f"{style}.safetensors"
        )
        tensors = load(path.read_bytes())
        assert {name: rows.shape for name, rows in tensors.items()} == {
            "clip_l": (2, 32),
            "clip_g": (2, 16),
        }
    both = torch.cat([tensors["clip_l"], tensors["clip_g"]], dim=-1)
    assert torch.equal(both, concept.token_embeds[PLACEHOLDER])
    assert header_of(path)["modelspec.architecture"] == (
        "stable-diffusion-xl-v1-base/textual-inversion"
    )
    save_file(tensors, tmp_path / "bare.safetensors")
    back = import_concept(tmp_path / "bare.safetensors", backbone=xl).concept
    assert torch.equal(back.token_embeds["<bare>"], both)


def test_a_concept_of_an_early_offbeat_is_split_by_its_checkpoint(xl, tmp_path):
    concept = token(xl)
    made = {"fingerprint": xl.fingerprint, "checkpoint": str(xl.name), "method": "distok"}
    files = encode_concept(concept, **made)  # its header names no text encoders
    (tmp_path / "concept.safetensors").write_bytes(files[CONCEPT_FILE])
    (path,) = export_concept(tmp_path / "concept.safetensors", out=tmp_path)
    assert set(load(path.read_bytes())) == {"clip_l", "clip_g"}


def test_rows_in_another_unit_and_number_come_back(tmp_path):
    layout = [("clip_l", 3, 1.0), ("t5xxl", 2, 4.0)]
    rows = torch.tensor([[1.0, 2, 3, 4, 5], [6, 7, 8, 0, 0]])  # T5 cuts the word into one token
    made = {"fingerprint": "f", "checkpoint": "flux", "method": "m", "layout": layout}
    made["architecture"] = architecture_of(["clip_l", "t5xxl"], has_prior=False)
    concept = Concept(template="{concept}", subject="x", token_embeds={"<x>": rows}, word="<x>")
    data = encode_concept(concept, **made)[CONCEPT_FILE]
    about = about_of(data, "")
    file = encode_export(concept, about, style="comfyui", layout=layout_of(about))["x.safetensors"]
    tensors = load(file)
    assert tensors["t5xxl"].tolist() == [[16, 20]]
    assert tensors["clip_l"].tolist() == [[1, 2, 3], [6, 7, 8]]
    found = read_weights(file, "x")
    assert torch.equal(join_rows("<x>", found.tokens["<x>"], layout), rows)


def test_a_fused_word_and_a_trained_one_go_out(pocket, tmp_path):
    run = fuse(["pig", "owl"], method="cretok", backbone=pocket, judge="none", num_images=1)
    (path,) = run.export("diffusers", out=tmp_path)
    assert path.name == "cretok.safetensors"
    assert list(load(path.read_bytes())) == ["<cretok>"]
    assert "<cretok>" in header_of(path)["modelspec.trigger_phrase"]
    back = import_concept(path, backbone=pocket, out=tmp_path / "run")
    drawn = render(tmp_path / "run", num_images=1, backbone=pocket)
    assert drawn.images[0].tobytes() == run.images[0].tobytes()
    assert load_run(tmp_path / "run").concept.word == back.concept.word
    (tmp_path / "lone.png").write_bytes(run.files["images/0000.png"])  # it holds the concept too
    inside = import_concept(tmp_path / "lone.png", backbone=pocket).concept
    assert torch.equal(inside.token_embeds["<cretok>"], back.concept.token_embeds["<cretok>"])
    run.images[0].save(tmp_path / "bare.png")
    with pytest.raises(ConfigError, match="keeps no concept"):
        import_concept(tmp_path / "bare.png", backbone=pocket)


def test_a_token_of_another_tool_is_drawn_at_once(sd, tmp_path):
    rows = token(sd, num=1).token_embeds[PLACEHOLDER]
    save_file({"emb_params": rows[0]}, tmp_path / "toy.safetensors")  # [E], as some tools write
    run = render(tmp_path / "toy.safetensors", num_images=1, backbone=sd, prompt="my {concept}")
    concept = Concept(
        template="my {concept}", subject="toy", token_embeds={"<toy>": rows}, word="<toy>"
    )
    (expected,) = to_pil(draw(sd, concept, seed=0, num=1))
    assert run.images[0].tobytes() == expected.tobytes()


def test_conceptlab_s_token_is_read_and_no_other_pickle(tiny_backbone, tmp_path):
    rows = token(tiny_backbone, num=1).token_embeds[PLACEHOLDER]
    torch.save({"t2": {"<concept>": rows[0]}}, tmp_path / "learned_embeds.bin")
    back = import_concept(tmp_path / "learned_embeds.bin", backbone=tiny_backbone).concept
    assert torch.equal(back.token_embeds["<concept>"], rows)
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.touch, ()

    for bad in ({"t2": {"<x>": 3}}, {"<x>": rows[0], "y": Evil()}, {"t2": {"<x>": Evil()}}, Evil()):
        for old in (False, True):
            torch.save(bad, tmp_path / "bad.bin", _use_new_zipfile_serialization=not old)
            with pytest.raises(UnsafeWeightsError, match="can run code"):
                import_concept(tmp_path / "bad.bin", backbone=tiny_backbone)
    assert not ran.exists()


def test_what_cannot_be_used_says_why(sd, xl, tmp_path):
    source = kept_in(tmp_path, token(sd), sd)
    (path,) = export_concept(source, out=tmp_path / "a")
    data = path.read_bytes()
    rows = token(sd).token_embeds[PLACEHOLDER]

    def refused(error, says, content, backbone=sd, **settings):
        file = tmp_path / "x.safetensors"
        file.write_bytes(content if isinstance(content, bytes) else save(content))
        with pytest.raises(error, match=says):
            import_concept(file, backbone=backbone, **settings)

    refused(FingerprintError, "fits no other weights", data, xl)
    refused(CorruptRunError, "cut, damaged", data[:-9])
    refused(CorruptRunError, "cut, damaged", data[:20])
    refused(CorruptRunError, "cut, damaged", b"")
    refused(CorruptRunError, "digest", data[:-1] + bytes([data[-1] ^ 1]))
    refused(CorruptRunError, "expected a token", {"a": rows, "b": rows.clone()})
    refused(CorruptRunError, "got strange too", {"clip_l": rows, "strange": rows.clone()})
    refused(ShapeError, "width 32 for clip_l, got 31", {"<x>": rows[:, 1:].contiguous()})
    refused(ShapeError, "belongs to another family", {"clip_l": rows, "clip_g": rows.clone()})
    refused(ShapeError, "belongs to another family", {"<x>": rows}, xl)
    refused(ArithmeticError, "finite", {"<x>": rows / 0})
    refused(ConfigError, "brings its own", {"<x>": rows}, word="cat")
    refused(ConfigError, "--backbone", {"<x>": rows}, None)
    with pytest.raises(StoreError, match="cannot be read"):
        import_concept(tmp_path / "absent.safetensors", backbone=sd)
    with pytest.raises(StoreError, match="exists already"):
        export_concept(source, out=tmp_path / "a")
    with pytest.raises(ConfigError, match="expected one of common, diffusers"):
        export_concept(source, "webui", out=tmp_path)
    with pytest.raises(ConfigError, match="this checkpoint has one"):
        export_concept(source, "sdxl", out=tmp_path)


def test_the_commands(sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = kept_in(tmp_path, token(sd), sd)
    run = CliRunner().invoke
    done = run(app, ["export", str(source), "-f", "a1111", "--out", "emb/pigowl.safetensors"])
    assert (done.exit_code, done.stdout) == (0, "emb/pigowl.safetensors\n")
    assert "write pigowl\n" in done.stderr
    done = run(app, ["export", str(source), "-f", "comfyui", "--out", "emb/owl.safetensors"])
    assert "write embedding:owl\n" in done.stderr
    done = run(app, ["import", "emb/pigowl.safetensors"])  # it says which checkpoint
    assert done.exit_code == 0, done.output
    assert load_run("runs/pigowl").concept.word == "<pigowl>"
    assert run(app, ["import", "no.safetensors", "--backbone", "pocket"]).exit_code == 2


def invokeai_width(tensors):
    """The width that InvokeAI's probe reads of a token's file, by its published code."""
    if "emb_params" in tensors:
        return tensors["emb_params"].shape[-1]
    if "clip_g" in tensors:
        return tensors["clip_g"].shape[-1]
    return next(iter(tensors.values())).shape[0]


def a1111_rows(tensors):
    """The rows that AUTOMATIC1111 and ComfyUI take of a token's file, by their published code."""
    if "emb_params" in tensors:
        return tensors["emb_params"]
    (rows,) = tensors.values()
    return rows[None] if rows.ndim == 1 else rows


@pytest.mark.parametrize("num", [1, 3])
def test_what_goes_out_is_read_by_all(sd, tmp_path, num):
    concept = token(sd, num=num, lora=factors(sd))
    rows = concept.token_embeds[PLACEHOLDER]
    path, lora = export_concept(kept_in(tmp_path, concept, sd), out=tmp_path / "out")
    tensors = load(path.read_bytes())
    assert invokeai_width(tensors) == 32
    assert torch.equal(a1111_rows(tensors), rows)
    assert len(tensors) == 1  # diffusers' loader takes an only tensor, and is told its word
    assert all(name.startswith("lora_unet_") for name in load(lora.read_bytes()))
    if num == 1:  # its own format then fits them too
        (path,) = export_concept(kept_in(tmp_path, token(sd, num=1), sd), "diffusers", out=tmp_path)
        assert invokeai_width(load(path.read_bytes())) == 32
        assert torch.equal(a1111_rows(load(path.read_bytes())), rows)


# --- LoRA


def factors(backbone, rank=3):
    """Random factors that show."""
    make = getattr(backbone, "init_unet_lora", None) or backbone.init_lora
    lora = make(rank, generator=stream(1, "lora"))
    return {
        name: part if "lora_A" in name else torch.randn(part.shape, generator=stream(2, name)) * 0.3
        for name, part in lora.items()
    }


@pytest.mark.parametrize("kind", ["sd", "prior"])
def test_factors_go_to_kohya_and_back_exactly(kind, request):
    backbone = request.getfixturevalue("sd" if kind == "sd" else "pocket")
    lora = factors(backbone)
    kohya = to_kohya(lora)
    prefix = "lora_unet_" if kind == "sd" else "lora_prior_"
    assert len(kohya) == len(lora) * 3 // 2
    for name, tensor in kohya.items():
        assert name.startswith(prefix)
        stem, _, rest = name.partition(".")
        assert rest in ("lora_down.weight", "lora_up.weight", "alpha")
        if rest == "alpha":  # a scalar, equal to the rank
            assert tensor.shape == ()
            assert float(tensor) == len(kohya[f"{stem}.lora_down.weight"]) == 3
    back, left_out = backbone.read_lora(read_factors(kohya, {}, "x"))
    assert (back.keys(), left_out) == (lora.keys(), [])
    assert all(torch.equal(back[name], lora[name]) for name in lora)


def test_alpha_is_kept_wherever_it_is_said():
    name = "unet.a.to_q.lora_{}.weight"
    lora = {name.format("A"): torch.rand(4, 3), name.format("B"): torch.rand(3, 4)}
    kohya = to_kohya(lora)
    kohya["lora_unet_a_to_q.alpha"] = torch.tensor(2.0)
    told = json.dumps({"unet.r": 4, "unet.lora_alpha": 2})
    half = lora[name.format("B")] / 2
    found = read_factors(kohya, {}, "x")
    assert torch.equal(found["lora_unet_a_to_q.lora_up.weight"], half)
    found = read_factors(lora, {"lora_adapter_metadata": told}, "x")
    assert torch.equal(found[name.format("B")], half)


def test_factors_that_cannot_be_used_say_why(sd, tmp_path):
    lora = factors(sd)
    name = next(iter(lora))

    def refused(error, says, tensors, **settings):
        save_file(tensors, tmp_path / "x.safetensors")
        with pytest.raises(error, match=says):
            import_concept(tmp_path / "x.safetensors", backbone=sd, word="cat", **settings)

    refused(CorruptRunError, "lacks one of its two", {name: lora[name]})
    layer = name.removesuffix(".lora_A.weight")
    magnitude = torch.ones(len(lora[f"{layer}.lora_B.weight"]))
    refused(ShapeError, "--lora", {**lora, f"{layer}.lora_magnitude_vector": magnitude})
    refused(ShapeError, "expected factors of a layer of shape", {
        **lora, name: torch.ones(3, 7)})  # fmt: skip
    refused(ShapeError, "another family", {
        f"unet.x.lora_{half}.weight": torch.ones(2, 2) for half in "AB"})  # fmt: skip
    save_file(lora, tmp_path / "y.safetensors")
    with pytest.raises(ConfigError, match="--word"):
        import_concept(tmp_path / "y.safetensors", backbone=sd)


def test_a_token_and_its_factors_go_together(sd, tmp_path):
    concept = token(sd, lora=factors(sd))
    paths = export_concept(kept_in(tmp_path, concept, sd), "kohya", out=tmp_path / "out")
    assert [path.name for path in paths] == ["red-fox.safetensors", "red-fox-lora.safetensors"]
    about = header_of(paths[1])
    assert (about["ss_network_dim"], about["ss_network_module"]) == ("3", "networks.lora")
    assert about["ss_base_model_version"] == "sd_v1"
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
    back = import_concept(paths, backbone=sd).concept
    one, other = (draw(sd, this, seed=1, num=1) for this in (concept, back))
    assert torch.equal(one, other)
    for path, lacks in zip(paths, ("factors", "a token"), strict=True):
        with pytest.raises(ConfigError, match=f"has {lacks} too; name all of its files"):
            import_concept(path, backbone=sd)
    own = [tmp_path / CONCEPT_FILE, tmp_path / LORA_FILE]
    with pytest.raises(ConfigError, match="its run, alone"):
        import_concept(own, backbone=sd)
    assert import_concept(own[0], backbone=sd).concept.lora.keys() == concept.lora.keys()
    with pytest.raises(ConfigError, match="has a token too"):
        import_concept(own[1], backbone=sd)
    assert import_concept(paths[1], backbone=sd, word="a pig").concept.prompt().startswith("a ph")
