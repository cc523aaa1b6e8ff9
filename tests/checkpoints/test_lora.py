"""LoRA files of all tools: merged as diffusers' own pipelines load them, refused with a reason."""

import json
import re
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import (
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import save_file

import tiny
import tiny_flow
import tiny_language
from offbeat import again, explore, generate, import_concept, load_backbone, render
from offbeat.checkpoints.placement import Placement
from offbeat.core.drawing import draw
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, CorruptRunError, ResumeError, ShapeError, StoreError
from offbeat.files.lora import read_factors

BUILD = {
    "sd": lambda folder: tiny.build_sd(folder, "sd", adapter=False),
    "xl": lambda folder: tiny.build_sd(folder, "xl", adapter=False),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
    "2.2": lambda folder: tiny.build(folder, "2.2"),
}
PIPELINES = {
    "sd": StableDiffusionPipeline,
    "xl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
    "flux": FluxPipeline,
}
RANK, ALPHA = 3, 2.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    return {form: build(root / form) for form, build in BUILD.items()}


def layers(network, pattern):
    """The weights of a network's linear layers and convolutions whose names fit."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    found = {n: m.weight for n, m in network.named_modules() if isinstance(m, kinds)}
    return {name: weight for name, weight in found.items() if re.search(pattern, name)}


def factors(weight, name):
    """Two random factors that show, half precision as trainers save them."""
    wide = (weight.shape[1], *weight.shape[2:])
    ends = (1, 1) if weight.ndim == 4 else ()
    down = torch.randn(RANK, *wide, generator=stream(1, name)) * 0.4
    up = torch.randn(len(weight), RANK, *ends, generator=stream(2, name)) * 0.4
    return down.half(), up.half()


def kohya(prefix, weights):
    tensors = {}
    for name, weight in weights.items():
        stem = prefix + name.replace(".", "_")
        down, up = factors(weight, name)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return tensors


def named(weights, layer, down="lora_A", up="lora_B"):
    """Factors whose names are ``layer`` with the name of theirs in it."""
    tensors = {}
    for name, weight in weights.items():
        a, b = factors(weight, name)
        tensors[f"{layer.format(name)}.{down}.weight"] = a
        tensors[f"{layer.format(name)}.{up}.weight"] = b
    return tensors


ATTENTION = r"attn\d\.to_(q|k|v|out\.0)$"
CLIP = r"layers\.\d\.(self_attn\.\w+|mlp\.fc\d)$"


def kohya_default(model):
    """What kohya's scripts write if nothing is said: text encoder, feed-forward, projections."""
    usual = ATTENTION + r"|ff\.net|proj_(in|out)$"
    texts = [encoder.module for encoder in model._encoders]
    tensors = kohya("lora_unet_", layers(model.unet, usual))
    for prefix, text in zip(
        ("lora_te_",) if len(texts) == 1 else ("lora_te1_", "lora_te2_"), texts, strict=True
    ):
        inner = {n if "text_model" in n else f"text_model.{n}": w
                 for n, w in layers(text, CLIP).items()}  # fmt: skip
        tensors |= kohya(prefix, inner)
    return tensors


def lcm(model):
    """What LCM-LoRA is: convolutions and time embeddings, too."""
    tensors = kohya("lora_unet_", layers(model.unet, r"."))
    # some trainers write alpha as a list of one
    return {n: t.view(1) if n.endswith(".alpha") else t for n, t in tensors.items()}


def sgm(model):
    """SDXL's attention in the names of Stability's code, blocks numbered through."""
    per_block = model.unet.config.layers_per_block + 1
    weights = {}
    for name, weight in layers(model.unet, ATTENTION).items():
        place = re.match(r"(down|up|mid)_blocks?\.?(\d*)\.attentions\.(\d)\.(.+)", name)
        side, block, inner, rest = place.groups()
        if side == "mid":
            weights[f"middle_block.1.{rest}"] = weight
        elif side == "down":
            weights[f"input_blocks.{int(block) * per_block + int(inner) + 1}.1.{rest}"] = weight
        else:
            weights[f"output_blocks.{int(block) * per_block + int(inner)}.1.{rest}"] = weight
    return kohya("lora_unet_", weights)


def flux_kohya(model):
    first = model.transformer.transformer_blocks[0]
    qkv = torch.cat([first.attn.to_q.weight, first.attn.to_k.weight, first.attn.to_v.weight])
    return kohya(
        "lora_unet_",
        {
            "double_blocks.0.img_attn.qkv": qkv,
            "double_blocks.0.img_attn.proj": first.attn.to_out[0].weight,
            "double_blocks.0.txt_mlp.0": first.ff_context.net[0].proj.weight,
        },
    )


def flux_xlabs(model):
    proj = model.transformer.transformer_blocks[0].attn.to_out[0].weight
    return named({"proj_lora1": proj}, "double_blocks.0.processor.{}", "down", "up")


CASES = {
    "kohya-default": ("sd", kohya_default),
    "kohya-default-xl": ("xl", kohya_default),
    "lcm": ("sd", lcm),
    "sgm": ("xl", sgm),
    "diffusers-0.20": (
        "sd",
        lambda m: named(layers(m.unet, ATTENTION), "unet.{}.lora", "down", "up"),
    ),
    "diffusers": ("xl", lambda m: named(layers(m.unet, ATTENTION), "unet.{}")),
    "flux-aitoolkit": ("flux", lambda m: named(layers(m.transformer, r"attn"), "transformer.{}")),
    "flux-kohya": ("flux", flux_kohya),
    "flux-xlabs": ("flux", flux_xlabs),
    "sd3": ("sd3", lambda m: named(layers(m.transformer, r"attn\.to_"), "transformer.{}")),
}


def theirs(folder, form, file, scale):
    """What diffusers' pipeline draws with the file, from noise that it is given."""
    pipe = PIPELINES[form].from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="x")
    pipe.set_adapters(["x"], [scale])
    return pipe


@torch.no_grad()
def predictions(form, denoiser, texts, seed=4):
    """What the networks answer to random input: the denoiser, and the text encoders."""
    noise, config = stream(seed, form), denoiser.config
    drawn = {"hidden_states": torch.randn(1, 4, 8, 8, generator=noise)}
    if form in ("sd", "xl"):
        states = torch.randn(1, 7, config.cross_attention_dim, generator=noise)
        told = None
        if form == "xl":
            told = {"text_embeds": torch.randn(1, tiny.WIDTH, generator=noise)}
            told["time_ids"] = torch.arange(6.0)[None]
        drawn = denoiser(drawn["hidden_states"], 500, states, added_cond_kwargs=told).sample
    else:
        drawn["timestep"] = torch.tensor([0.5 if form == "flux" else 500.0])
        width = config.joint_attention_dim
        drawn["encoder_hidden_states"] = torch.randn(1, 7, width, generator=noise)
        pooled = torch.randn(1, config.pooled_projection_dim, generator=noise)
        drawn["pooled_projections"] = pooled
        if form == "flux":
            drawn["hidden_states"] = torch.randn(1, 16, config.in_channels, generator=noise)
            drawn |= {"img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(7, 3)}
            drawn["guidance"] = torch.tensor([3.0])
        drawn = denoiser(**drawn).sample
    ids = torch.arange(9)[None]
    return [drawn, *(text(ids).last_hidden_state for text in texts)]


@pytest.mark.parametrize("case", CASES)
def test_a_file_computes_what_their_pipeline_computes_with_it(folders, tmp_path, case):
    form, make = CASES[case]
    plain = load_backbone(folders[form])
    file = tmp_path / "style.safetensors"
    save_file(make(plain), file)
    ours = load_backbone(folders[form], lora=[f"{file}:0.7"])
    assert ours.notes == ()
    pipe = theirs(folders[form], form, file, 0.7)
    names = [name for name in ("text_encoder", "text_encoder_2") if name in ours.lora_parts()]
    network = "unet" if form in ("sd", "xl") else "transformer"
    answers = [
        predictions(form, getattr(model, network), [parts[name] for name in names])
        for model, parts in (
            (plain, plain.lora_parts()),
            (ours, ours.lora_parts()),
            (pipe, pipe.components),
        )
    ]
    for _, here, there in zip(*answers, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3 * float(there.abs().max()))
    moved = [
        not torch.allclose(before, here, atol=1e-3 * float(here.abs().max()))
        for before, here, _ in zip(*answers, strict=True)
    ]
    assert moved[0]
    assert all(moved) == ("default" in case or len(moved) == 1)


def test_a_picture_with_files_is_that_of_their_pipeline(folders, tmp_path):
    plain = load_backbone(folders["sd"])
    tensors = kohya_default(plain)
    first = {name: part for name, part in tensors.items() if "attn1" in name}
    save_file(first, tmp_path / "one.safetensors")
    save_file(
        {name: part for name, part in tensors.items() if name not in first},
        tmp_path / "two.safetensors",
    )
    ours = load_backbone(
        folders["sd"],
        lora=[f"{tmp_path / 'one.safetensors'}:0.5", f"{tmp_path / 'two.safetensors'}:-0.4"],
    )
    pipe = theirs(folders["sd"], "sd", tmp_path / "one.safetensors", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of every second file
        pipe.load_lora_weights(str(tmp_path), weight_name="two.safetensors", adapter_name="y")
    pipe.set_adapters(["x", "y"], [0.5, -0.4])
    latents = torch.randn(1, 4, 8, 8, generator=stream(5))
    drawn = pipe(
        "a red fox", latents=latents, num_inference_steps=2, guidance_scale=4.0, output_type="pt"
    ).images

    def drawn_by(model):
        text = model.encode_text(["a red fox"])
        steps = {"num_inference_steps": 2, "guidance_scale": 4.0}
        return model.decode(model.denoise(latents, text, generator=stream(0), **steps))

    with torch.no_grad():
        assert float((drawn_by(ours) - drawn).abs().max()) < 1e-3
        assert float((drawn_by(plain) - drawn).abs().max()) > 0.02
    assert not any(p.requires_grad for p in ours.unet.parameters())


def attn_procs(weights):
    """Names of diffusers before 0.15, and of its script for Kandinsky's prior."""
    ends = {
        "to_q": "to_q_lora",
        "to_k": "to_k_lora",
        "to_v": "to_v_lora",
        "to_out.0": "to_out_lora",
    }
    tensors = {}
    for name, weight in weights.items():
        attention, _, layer = name.partition(".to_")
        tensors |= named(
            {name: weight}, f"{attention}.processor.{ends[f'to_{layer}']}", "down", "up"
        )
    return tensors


@pytest.mark.parametrize("form", ["sd", "2.2"])
def test_names_that_leave_the_network_out_are_placed(folders, tmp_path, form):
    model = load_backbone(folders[form])
    part = "unet" if form == "sd" else "prior"
    network = model.lora_parts()[part]
    weights = layers(network, ATTENTION)
    save_file(attn_procs(weights), tmp_path / "old.safetensors")
    (tmp_path / "peft").mkdir()
    save_file(
        named(weights, "base_model.model.{}"), tmp_path / "peft" / "adapter_model.safetensors"
    )
    told = {"r": RANK, "lora_alpha": 6, "use_rslora": False, "peft_type": "LORA"}
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(told))
    for name, ratio in (("old.safetensors", 1.0), ("peft", 6 / RANK)):
        merged = load_backbone(folders[form], lora=[f"{tmp_path / name}:0.5"])
        assert merged.notes == ()
        for layer, weight in layers(merged.lora_parts()[part], ATTENTION).items():
            down, up = (factor.float() for factor in factors(weight, layer))
            torch.testing.assert_close(weight, weights[layer] + 0.5 * ratio * up @ down)


def test_a_text_encoder_of_which_one_projection_was_trained(folders, tmp_path):
    """diffusers' own loader cannot tell the names of such a file."""
    model = load_backbone(folders["sd"])
    weights = layers(model.lora_parts()["text_encoder"], r"q_proj$")
    prefix = "" if "text_model" in next(iter(weights)) else "text_model."
    tensors = kohya("lora_te_", {prefix + name: weight for name, weight in weights.items()})
    tensors |= kohya("lora_unet_", layers(model.unet, r"attn1\.to_q$"))
    save_file(tensors, tmp_path / "style.safetensors")
    merged = load_backbone(folders["sd"], lora=str(tmp_path / "style.safetensors"))
    assert merged.notes == ()
    for name, weight in layers(merged.lora_parts()["text_encoder"], r"q_proj$").items():
        down, up = (factor.float() for factor in factors(weight, prefix + name))
        torch.testing.assert_close(weight, weights[name] + ALPHA / RANK * up @ down)


@pytest.mark.parametrize("kind", ["chroma", "z-image", "qwen-image", "sana"])
def test_newer_families_take_diffusers_and_comfyui_s_names(tmp_path, kind):
    folder = tiny_language.build_language(tmp_path / kind, kind)
    weights = layers(load_backbone(folder).transformer, r"to_(q|k|v)$")
    for number, name in enumerate(("transformer.{}", "diffusion_model.{}")):
        file = tmp_path / f"{number}.safetensors"
        save_file(named(weights, name), file)
        merged = load_backbone(folder, lora=[f"{file}:0.5"])
        assert merged.notes == ()
        for layer, weight in layers(merged.transformer, r"to_(q|k|v)$").items():
            down, up = (factor.float() for factor in factors(weight, layer))
            torch.testing.assert_close(weight, weights[layer] + 0.5 * up @ down)


def test_a_dora_changes_length_and_direction(folders, tmp_path):
    """W' = m (W + B A) / |W + B A|, row by row; other layers of the file are plain."""
    model = load_backbone(folders["sd"])
    weights = layers(model.unet, r"attn1\.to_(q|k)$")
    tensors = kohya("lora_unet_", weights)
    layer = next(iter(weights))
    magnitude = torch.rand(len(weights[layer]), 1, generator=stream(6)) + 0.5
    tensors[f"lora_unet_{layer.replace('.', '_')}.dora_scale"] = magnitude
    save_file(tensors, tmp_path / "dora.safetensors")
    merged = layers(
        load_backbone(folders["sd"], lora=str(tmp_path / "dora.safetensors")).unet, "to_"
    )
    for name, weight in weights.items():
        down, up = (factor.float() for factor in factors(weight, name))
        expected = weight + ALPHA / RANK * up @ down
        if name == layer:
            expected = magnitude * expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(merged[name], expected)
    tensors[f"lora_unet_{layer.replace('.', '_')}.dora_scale"] = magnitude.T.contiguous()
    save_file(tensors, tmp_path / "columns.safetensors")
    with pytest.raises(ShapeError, match="expected factors of a layer"):
        load_backbone(folders["sd"], lora=str(tmp_path / "columns.safetensors"))


def test_what_does_nothing_is_an_error_and_what_is_left_out_is_said(folders, tmp_path):
    model = load_backbone(folders["sd"])
    tensors = kohya("lora_unet_", layers(model.unet, r"attn1\.to_q$"))
    stem = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"
    one = torch.ones(8, 8)

    def refused(error, says, content, lora="{}"):
        save_file(content, tmp_path / "x.safetensors")
        with pytest.raises(error, match=says):
            load_backbone(folders["sd"], lora=lora.format(tmp_path / "x.safetensors"))

    zero = {n: t * 0 if "lora_up" in n else t for n, t in tensors.items()}
    refused(ShapeError, "changes no weight", zero)
    with pytest.raises(ShapeError, match="changes nothing"):
        import_concept(tmp_path / "x.safetensors", backbone=model, word="fox")
    refused(ShapeError, "another family", named({"q": one}, "diffusion_model.blocks.0.attn.to_{}"))
    refused(ShapeError, "another family", named({"x": one}, "unet.nowhere.{}"))
    refused(ShapeError, "LoHa", {f"{stem}.hada_w1_a": one, f"{stem}.hada_w2_a": one + 1})
    refused(ShapeError, "LoKr", {f"{stem}.lokr_w1": one, f"{stem}.lokr_w2": one + 1})
    refused(ShapeError, "IA3", {f"{stem}.weight": one, f"{stem}.on_input": torch.tensor(True)})
    refused(CorruptRunError, "got nothing", {})
    refused(ShapeError, "one alpha", {**tensors, f"{stem}.alpha": torch.ones(2)})
    refused(ShapeError, "expected factors", {**tensors, f"{stem}.lora_up.weight": one})
    refused(ArithmeticError, "NaN", {n: t / 0 for n, t in tensors.items()})
    refused(ConfigError, "strength", tensors, "{}:0")
    refused(StoreError, "cannot be read", tensors, "{}.absent")
    extra = named({"x": one, "y": one}, "lora_unet_nowhere_{}", "lora_down", "lora_up")
    save_file({**tensors, **extra}, tmp_path / "x.safetensors")
    merged = load_backbone(folders["sd"], lora=str(tmp_path / "x.safetensors"))
    (note,) = merged.notes
    run = import_concept(tmp_path / "x.safetensors", backbone=model, word="fox")
    assert "2 layers of the LoRA are left out" in run.summary["warnings"][0]
    assert f"2 of its {len(tensors) // 3 + 2} layers are left out" in note


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"r": 0}', '{"alpha_pattern": "x"}', '{"rank_pattern": {"q": "y"}}']
)
def test_damaged_settings_of_peft_say_so(text):
    pair = {"q.lora_A.weight": torch.ones(2, 3), "q.lora_B.weight": torch.ones(3, 2)}
    with pytest.raises(CorruptRunError, match="settings are damaged"):
        read_factors(pair, {"lora_adapter_metadata": text}, "x")


def test_each_network_goes_by_its_own_alpha():
    names = ("unet.a.to_q", "text_encoder.b.q_proj", "unet.c.to_q")
    pairs = {f"{name}.lora_{half}.weight": torch.ones(4, 4) for name in names for half in "AB"}
    told = {"unet.r": 4, "unet.lora_alpha": 2, "text_encoder.r": 4, "text_encoder.lora_alpha": 12}
    told["unet.alpha_pattern"] = {"^c.to_q": 1}
    read = read_factors(pairs, {"lora_adapter_metadata": json.dumps(told)}, "x")
    scales = [float(read[f"{name}.lora_B.weight"][0, 0]) for name in names]
    assert scales == [0.5, 3.0, 0.25]


def test_a_run_records_it_and_is_drawn_again_with_it(folders, tmp_path):
    save_file(kohya_default(load_backbone(folders["sd"])), tmp_path / "style.safetensors")
    place = Placement(lora=(f"{tmp_path / 'style.safetensors'}:0.6",))
    drawing = {"backbone": folders["sd"], "num_images": 1, "num_inference_steps": 2}
    run = generate("a fox", **drawing, device=place, out=tmp_path / "run")
    assert run.images[0].tobytes() != generate("a fox", **drawing).images[0].tobytes()
    (told,) = run.request["lora"]
    assert (told["path"], told["scale"]) == (str(tmp_path / "style.safetensors"), 0.6)
    picture = tmp_path / "run" / "images" / "0000.png"
    assert again(picture).same
    moved = tmp_path / "moved"
    moved.mkdir()
    (tmp_path / "style.safetensors").rename(moved / "style.safetensors")
    with pytest.raises(StoreError, match="--source"):
        again(picture)
    assert again(picture, sources=[moved]).same
    save_file(lcm(load_backbone(folders["sd"])), tmp_path / "style.safetensors")
    with pytest.raises(ConfigError, match="another file"):
        again(picture)
    # a token is drawn with a LoRA that it was not learned with
    rows = torch.randn(2, 32, generator=stream(3)) * 0.2
    save_file({"emb_params": rows}, tmp_path / "toy.safetensors")
    plain = render(tmp_path / "toy.safetensors", num_images=1, backbone=folders["sd"])
    styled = render(
        tmp_path / "toy.safetensors", num_images=1, backbone=folders["sd"], device=place
    )
    assert plain.images[0].tobytes() != styled.images[0].tobytes()


def test_a_run_goes_on_with_the_same_files_alone(folders, tmp_path):
    file = tmp_path / "style.safetensors"
    save_file(kohya("lora_unet_", layers(load_backbone(folders["sd"]).unet, ATTENTION)), file)
    asked = {"method": "raw-prompt", "num_images": 1, "judge": "none", "backbone": folders["sd"]}
    asked |= {"out": tmp_path / "run", "resume": True}
    place = Placement(lora=(file,))
    first = explore("fox", device=place, **asked)
    assert explore("fox", device=place, **asked).request == first.request
    for other in (Placement(), Placement(lora=(f"{file}:0.5",))):
        with pytest.raises(ResumeError, match="lora"):
            explore("fox", device=other, **asked)


def test_an_imported_file_draws_as_a_merged_one(folders, tmp_path):
    """Factors beside the weights: of text encoders and convolutions, too."""
    file = tmp_path / "style.safetensors"
    for make in (lcm, kohya_default):
        save_file(make(load_backbone(folders["sd"])), file)
        model = load_backbone(folders["sd"])
        concept = import_concept(file, backbone=model, word="fox", prompt="a {concept}").concept
        merged = load_backbone(folders["sd"], lora=str(file))
        beside = draw(model, concept, seed=0, num=1)
        inside = draw(merged, replace(concept, lora={}), seed=0, num=1)
        assert float((beside - inside).abs().max()) < 2e-3
        assert not any(m._forward_hooks for m in model._encoders[0].module.modules())
