"""Where checkpoints run: devices, types, offloading, and what makes pictures fit into memory."""

import json

import pytest
import torch
from typer.testing import CliRunner

import far
import offbeat
import tiny
import tiny_flow
from offbeat import cli, load_backbone
from offbeat.checkpoints import base, memory, placement
from offbeat.checkpoints import open as opening
from offbeat.checkpoints.open import adapter_of
from offbeat.checkpoints.placement import Placement, placement_of
from offbeat.checkpoints.sizes import survey
from offbeat.core.drawing import draw as draw_word
from offbeat.core.drawing import plain_concept_of
from offbeat.core.rng import stream, streams
from offbeat.errors import CheckpointError, ConfigError
from offbeat.files.png import read_recipe
from offbeat.methods.low_probability.config import LowProbabilityConfig

BUILD = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.1": lambda folder: tiny.build(folder, "2.1"),
    "2.2": lambda folder: tiny.build(folder, "2.2"),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}
FORMS = list(BUILD)
WORD = "<new>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("placed")
    return {form: build(root / form) for form, build in BUILD.items()}


@pytest.fixture(scope="module")
def expected(folders):
    """What each form draws on the CPU."""
    return {form: draw(load_backbone(folder)) for form, folder in folders.items()}


@torch.no_grad()
def draw(backbone, prompt="a red castle", **told):
    text = backbone.encode_text([prompt])
    noise, settings = streams(0, "noise", num=2), {"num_inference_steps": 3}
    if hasattr(backbone, "draw_text"):
        return backbone.draw_text(text, generator=noise, **settings, **told).cpu()
    embeds = backbone.sample_prior(text, generator=streams(0, "prior", num=2), num_samples=2)
    return backbone.decode_embeds(embeds, generator=noise, **settings).cpu()


def placed(folder, **settings):
    loaded = adapter_of(folder).load(folder)
    with far.device():
        return loaded.place(Placement(device="meta", **settings))


def denoiser_of(backbone):
    return getattr(backbone, "unet", None) or backbone.transformer


def layer_of(backbone):
    """Return the first layer of the denoiser."""
    denoiser = denoiser_of(backbone)
    return denoiser.conv_in if hasattr(denoiser, "conv_in") else denoiser.x_embedder


def shown(backbone):
    """Return how many weights are on the far device, of each module that has some there."""
    counts = [
        sum(weight.device.type == "meta" for weight in module.parameters())
        for module in backbone._modules()
        if not isinstance(module, torch.nn.ModuleList)  # of an IP-Adapter: always there
    ]
    return [count for count in counts if count]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "int8"}, "dtype: expected float32, bfloat16, float16, auto, got 'int8'"),
        ({"offload": "disk"}, "offload: expected none, model, group, sequential"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda"),
        ({"device": "cpu", "offload": "model"}, "needs|on an accelerator"),
        ({"device": "cuda", "offload": "model", "compile": True}, "compile: expected --offload"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_said(settings, said):
    with pytest.raises(ConfigError, match=said):
        Placement(**settings)


def test_auto_is_the_first_accelerator_and_the_cpu_for_what_is_bundled(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: True)
    assert Placement().resolved().device == "cuda"
    assert Placement().resolved(bundled=True).device == "cpu"
    assert Placement(offload="model").resolved(bundled=True).device == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Placement().resolved().device == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert Placement().resolved().device == "cpu"
    with pytest.raises(ConfigError, match="the device is the CPU"):
        Placement(offload="model").resolved()


def test_the_usual_type_is_bfloat16_on_a_card_that_computes_in_it(monkeypatch):
    able = {"now": True}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: able["now"])
    card = Placement(device="cuda")
    assert card.resolved().dtype == "bfloat16"
    assert card.resolved(bundled=True).dtype == "float32"
    assert Placement(device="cuda", dtype="float32").resolved().dtype == "float32"
    assert Placement(device="cpu").resolved().dtype == "float32"
    able["now"] = False
    assert card.resolved().dtype == "float32"


def test_options_change_a_placement_and_nothing_changes_none():
    half = Placement(device="cuda", dtype="float16")
    assert placement_of(half) is half
    assert placement_of(half, dtype=None, offload="model") == Placement(
        device="cuda", dtype="float16", offload="model"
    )
    assert placement_of("cpu", vae_tiling=True) == Placement(device="cpu", vae_tiling=True)


def test_a_device_that_is_not_here_is_an_error_with_advice(folders):
    with pytest.raises(CheckpointError, match=r"'cuda:7' cannot be used.*offbeat doctor"):
        load_backbone(folders["sd"], device="cuda:7")


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
@pytest.mark.parametrize("form", FORMS)
def test_a_second_device_draws_what_the_cpu_draws(folders, expected, form, offload):
    backbone = placed(folders[form], offload=offload)
    assert backbone.device.type == "meta"
    with far.device():
        images = draw(backbone)
    torch.testing.assert_close(images, expected[form], rtol=0, atol=1e-3)


@pytest.mark.parametrize("form", ["xl", "2.1", "flux"])
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_weights_are_on_the_device_only_in_their_turn(folders, form, offload):
    backbone = placed(folders[form], offload=offload)
    with far.device():
        seen = []
        assert shown(backbone) == []
        with layer_of(backbone).register_forward_hook(lambda *_: seen.append(shown(backbone))):
            draw(backbone)
        unet = sum(1 for _ in denoiser_of(backbone).parameters())
        assert seen
        assert all(one == ([unet] if offload == "model" else []) for one in seen)
        if offload == "sequential":
            assert shown(backbone) == []
    with pytest.raises(ConfigError, match="its weights are offloaded"):
        backbone.to("cpu")
    with pytest.raises(ConfigError, match="is placed already"):
        backbone.place(Placement(device="cpu"))


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("form", ["sd", "2.2"])
def test_a_gradient_passes_weights_that_have_left(folders, form, offload):
    def slope(backbone, token):
        text = backbone.encode_text([f"a {WORD} castle"], tokens={WORD: token})
        found = text.text_embeds.square().sum()
        if form == "2.2":
            embeds = backbone.sample_prior(text, generator=streams(0, "prior", num=1))
            found = found + embeds.square().sum()
        # another model comes between the way there and the way back
        backbone.decode(torch.randn(1, 4, 8, 8, generator=stream(0)).to(backbone.device))
        found.backward()
        return token.grad

    plain = load_backbone(folders[form])
    start = torch.randn(len(plain.token_embed("x")), generator=stream(1)) * 0.1
    wanted = slope(plain, start.clone().requires_grad_())
    backbone = placed(folders[form], offload=offload)
    with far.device():
        got = slope(backbone, start.clone().requires_grad_())
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["sd", "2.2", "flux"])
def test_an_accelerator_draws_as_many_at_once_as_its_memory_is_for(folders, monkeypatch, form):
    def drawn(backbone):
        sizes, decode = [], backbone.decode
        monkeypatch.setattr(backbone, "decode", lambda x: (sizes.append(len(x)), decode(x))[1])
        word = plain_concept_of("castle", backbone)
        return draw_word(backbone, word, seed=0, num=9, decoding={"num_inference_steps": 2}), sizes

    on_cpu, sizes = drawn(load_backbone(folders[form]))
    assert sizes == [2, 2, 2, 2, 1]  # the card's, within eight at a time
    backbone = placed(folders[form])
    with far.device() as device:
        placement = Placement(device=device, dtype="float32")
        assert memory.pictures_at_once(folders[form], placement) is None  # it cannot be asked
        found = survey(folders[form])
        each = max(memory._activations(part, found, placement) for part in found.parts)
        for room, fit in ((1, 1), (7.9, 4), (900, 64)):
            monkeypatch.setattr(memory, "free_memory", lambda device, room=room: 2 * each * room)
            assert memory.pictures_at_once(folders[form], placement) == fit
        backbone.drawing_at_once(64)
        images, sizes = drawn(backbone)
        assert sizes == [9]
        torch.testing.assert_close(images, on_cpu, rtol=0, atol=1e-3)
    assert memory.pictures_at_once(folders[form], Placement(device="cpu")) is None
    monkeypatch.setattr(opening, "pictures_at_once", lambda source, placement: 32)
    assert load_backbone(folders[form]).card["decode_batch_size"] == 32


def test_convolutions_are_laid_out_for_the_device(folders, expected, monkeypatch):
    monkeypatch.setattr(base, "CHANNELS_LAST", ("meta",))
    for offload in ("none", "model"):
        backbone = placed(folders["sd"], offload=offload)
        for layer in (backbone.unet.conv_in, backbone.vae.decoder.conv_in):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        with far.device():
            torch.testing.assert_close(draw(backbone), expected["sd"], rtol=0, atol=1e-3)
    assert load_backbone(folders["sd"]).unet.conv_in.weight.is_contiguous()  # the CPU keeps its own


def test_pictures_as_prompts_edits_and_factors_work_offloaded(folders):
    def drawn(backbone):
        noise = stream(0)
        factors = backbone.init_unet_lora(2, generator=noise)
        factors = {name: torch.randn(v.shape, generator=noise) for name, v in factors.items()}
        embeds = backbone.encode_image(torch.rand(1, 3, 20, 20, generator=noise))
        with backbone.edit_attention(lambda seen: seen), backbone.adapted(factors):
            return draw(backbone, image_embeds=embeds)

    wanted = drawn(load_backbone(folders["sd"]))
    for offload in ("model", "sequential"):
        backbone = placed(folders["sd"], offload=offload)
        with far.device():
            got = drawn(backbone)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["pocket", "pocket-sd"])
def test_half_precision_draws_almost_the_same(name, pocket, pocket_sd):
    exact = {"pocket": pocket, "pocket-sd": pocket_sd}[name]
    half = load_backbone(name, dtype="bfloat16")
    assert half.numerics == {"device": "cpu", "dtype": "bfloat16"}
    assert exact.numerics == {"device": "cpu", "dtype": "float32"}
    images = draw(half)
    assert images.dtype == torch.float32
    assert 0 < float((images - draw(exact)).abs().mean()) < 0.02


def test_slow_halves_are_noted():
    assert "float16 is slow on a CPU" in Placement(device="cpu", dtype="float16").notes()[0]
    assert Placement(device="cuda", dtype="float16").notes() == []


def test_slices_and_tiles_decode_the_same(folders):
    plain = load_backbone(folders["sd"])
    latents = torch.randn(2, 4, 16, 16, generator=stream(0))
    sliced = load_backbone(folders["sd"], vae_slicing=True)
    torch.testing.assert_close(sliced.decode(latents), plain.decode(latents), rtol=0, atol=1e-5)
    tiled = load_backbone(folders["sd"], vae_tiling=True)
    assert tiled.vae.use_tiling
    assert tiled.numerics["vae_tiling"]
    tiled.vae.tile_latent_min_size, tiled.vae.tile_sample_min_size = 8, 16
    found = tiled.decode(latents)
    assert found.shape == (2, 3, 32, 32)
    assert not torch.equal(found, plain.decode(latents))
    # random weights see far: only the first tile's corner has no seam
    torch.testing.assert_close(found.mean(), plain.decode(latents).mean(), rtol=0.2, atol=0)


@pytest.mark.parametrize("name", ["slicing", "tiling"])
def test_an_autoencoder_without_tiles_says_so(folders, name):
    with pytest.raises(ConfigError, match=f"vae_{name}: .*VQModel.* has none"):
        load_backbone(folders["2.2"], **{f"vae_{name}": True})


def test_attention_of_a_u_net_is_torchs_own(folders):
    assert load_backbone(folders["sd"], attention="native").numerics["attention"] == "native"
    with pytest.raises(ConfigError, match="UNet2DConditionModel always uses torch's own"):
        load_backbone(folders["sd"], attention="flash")
    with pytest.raises(ConfigError, match="attention: expected one of flash"):
        load_backbone(folders["sd"], attention="lightning")


def test_a_transformer_takes_another_attention():
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=0,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    try:
        placement.set_attention(model, "_native_math")
        chosen = {
            module.processor._attention_backend
            for module in model.modules()
            if hasattr(getattr(module, "processor", None), "_attention_backend")
        }
        assert {one.value for one in chosen} == {"_native_math"}
        with pytest.raises(ConfigError, match="'flash' cannot be used here"):
            placement.set_attention(model, "flash")
    finally:
        model.reset_attention_backend()


def test_a_compiled_denoiser_draws_the_same_and_sees_later_hooks(folders, monkeypatch):
    monkeypatch.setattr(placement, "BACKEND", "eager")
    plain, compiled = load_backbone(folders["sd"]), load_backbone(folders["sd"], compile=True)
    torch.testing.assert_close(draw(compiled), draw(plain), rtol=0, atol=1e-4)
    assert compiled.numerics["compile"] is True
    steps = []
    with compiled.edit_attention(lambda seen: steps.append(seen.step) or seen):
        draw(compiled)
    assert set(steps) == {0, 1, 2}
    with compiled.counting() as counted:
        draw(compiled)
    assert counted.denoiser == 2 * 2 * 3


def test_a_verb_that_counts_evaluations_runs_what_was_compiled(folders, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(placement, "BACKEND", backend)
    made = offbeat.generate("a red castle", backbone=folders["sd"], num_images=1,
                            num_inference_steps=2, device=Placement(compile=True))  # fmt: skip
    assert made.request["compile"] is True
    assert made.evaluations.denoiser == 4
    assert len(graphs) > 1  # the first is the probe


def test_a_missing_compiler_is_named(folders, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no g++")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler.*no g\+\+"):
        load_backbone(folders["sd"], compile=True)


@pytest.mark.parametrize("command", ["explore", "fuse", "dream", "paint", "generate", "render"])
def test_every_command_that_draws_takes_the_options(command):
    said = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    for name in ("device", "dtype", "offload", "vae-slicing", "vae-tiling", "attention", "compile"):
        assert f"--{name}" in said, name


def test_a_run_keeps_what_its_numbers_depend_on(tmp_path):
    out = tmp_path / "run"
    words = ["generate", "a pig", "-n", "1", "--steps", "2", "--dtype", "bfloat16"]
    done = CliRunner().invoke(cli.app, [*words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    request = json.loads((out / "request.json").read_text())
    assert (request["device"], request["dtype"]) == ("cpu", "bfloat16")
    assert read_recipe(out / "images" / "0000.png")["dtype"] == "bfloat16"


def test_a_bad_option_is_one_line():
    done = CliRunner().invoke(
        cli.app, ["generate", "a pig", "--device", "cpu", "--offload", "model"]
    )
    assert done.exit_code == 2
    assert "error: offload: 'model' keeps idle weights" in done.output
    done = CliRunner().invoke(cli.app, ["generate", "a pig", "--dtype", "float8"])
    assert done.exit_code == 2
    assert "float8" in done.output


def test_a_verb_takes_a_placement():
    run = offbeat.generate(
        "a pig",
        num_images=1,
        num_inference_steps=2,
        device=offbeat.Placement(device="cpu", dtype="bfloat16"),
    )
    assert run.request["dtype"] == "bfloat16"


VERBS = {
    "explore": lambda backbone, art: offbeat.explore(
        "pig",
        num_steps=2,
        num_images=1,
        directions=1,
        candidates=1,
        config=LowProbabilityConfig(num_baseline=60, num_components=4, use_support=False),
        backbone=backbone,
    ),
    "conceptlab": lambda backbone, art: offbeat.fuse(
        ["pig", "frog"],
        method="conceptlab",
        config={"num_steps": 2},
        num_images=1,
        backbone=backbone,
    ),
    "train": lambda backbone, art: offbeat.train(
        "cretok", config={"num_steps": 2}, backbone=backbone
    ),
    "paint": lambda backbone, art: offbeat.paint(
        art, prompt="an owl", config={"num_inference_steps": 4}, num_images=1, backbone=backbone
    ),
    "magicmix": lambda backbone, art: offbeat.fuse(
        ["pig", "frog"], method="magicmix", num_images=1, backbone=backbone
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_run_on_a_second_device(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFBEAT_CACHE", str(tmp_path / "cache"))
    name = "pocket-sd" if verb in ("paint", "magicmix") else "pocket"
    offbeat.generate("a castle", num_images=1, backbone="pocket-sd").images[0].save(
        tmp_path / "art.png"
    )
    backbone = placed(name, offload="model")
    with far.device():
        run = VERBS[verb](backbone, tmp_path / "art.png")
    if verb != "train":
        assert len(run.images) == 1
        assert run.request["device"] == "meta"
