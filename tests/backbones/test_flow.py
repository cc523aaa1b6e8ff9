"""The SD3 and FLUX adapters: the same pictures as the pipelines of diffusers, to 1e-5."""

import json
import shutil

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

import tiny_flow
from offbeat import load_backbone
from offbeat.backbones.flow.flux import FluxBackbone
from offbeat.backbones.flow.sd3 import SD3Backbone
from offbeat.core.rng import stream, streams
from offbeat.errors import (
    CapabilityError,
    CheckpointError,
    PromptError,
    RangeError,
    ShapeError,
    UnsafeWeightsError,
)
from offbeat.protocols import DenoisingBackbone

PROMPT = "a red pig, of a house"
LENGTH = tiny_flow.FLOW_CARD["max_sequence_length"]


def pipeline(folder):
    kind, without = StableDiffusion3Pipeline, {}
    if "flux" in folder.name:
        kind = FluxPipeline
    elif not (folder / "text_encoder_3").exists():
        without = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **without)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_with(pipe, prompt=PROMPT, *, seed=1, scale=4.0, steps=3, **settings):
    images = pipe(
        prompt,
        generator=stream(seed),
        guidance_scale=scale,
        num_inference_steps=steps,
        max_sequence_length=LENGTH,
        output_type="np",
        **{"height": 16, "width": 16, **settings},
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def draw(backbone, prompt=PROMPT, *, seed=1, scale=4.0, steps=3, tokens=None, **settings):
    text = backbone.encode_text([prompt], tokens=tokens)
    return backbone.draw_text(
        text, generator=stream(seed), guidance_scale=scale, num_inference_steps=steps, **settings
    )


def same(ours, theirs, atol=1e-5):
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def differ(one, other, least=0.003):
    assert float((one - other).abs().max()) > least


def encoders(backbone):
    return [encoder.module for encoder in backbone._encoders]


def random_token(backbone, seed=0):
    """Return a token as large as those of the table, in the part of each encoder."""
    own = backbone.token_embeds("green")
    return own.std() * torch.randn(own.shape[1], generator=stream(seed))


@pytest.fixture(scope="module")
def pipe(tiny_flow_folder):
    return pipeline(tiny_flow_folder)


# --- the same as the pipelines ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_match_the_pipeline(tiny_flow_backbone, pipe, scale):
    same(draw(tiny_flow_backbone, scale=scale), draw_with(pipe, scale=scale))
    same(
        draw(tiny_flow_backbone, scale=scale, steps=1, seed=2),
        draw_with(pipe, scale=scale, steps=1, seed=2),
    )
    differ(draw(tiny_flow_backbone, "green cow", scale=scale), draw(tiny_flow_backbone))


@torch.no_grad()
def test_a_negative_prompt_steers_as_in_the_pipeline(tiny_flow_backbone, pipe):
    negative = tiny_flow_backbone.encode_text(["blue"])
    true = {"true_cfg_scale": 2.5} if isinstance(tiny_flow_backbone, FluxBackbone) else {}
    ours = draw(tiny_flow_backbone, negative=negative)
    same(ours, draw_with(pipe, negative_prompt="blue", **true))
    differ(ours, draw(tiny_flow_backbone), 1e-4)


@torch.no_grad()
def test_a_picture_that_is_no_square_is_guided_as_in_the_pipeline(tiny_flow_folder, pipe, tmp_path):
    folder = shutil.copytree(tiny_flow_folder, tmp_path / tiny_flow_folder.name)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "height": 16, "width": 32}))
    ours = draw(load_backbone(folder))
    assert ours.shape == (1, 3, 16, 32)
    same(ours, draw_with(pipe, width=32))


@torch.no_grad()
def test_noise_levels_that_follow_the_size_match_too(tmp_path):
    folder = tiny_flow.build_sd3(tmp_path / "sd3", t5=False, use_dynamic_shifting=True)
    same(draw(SD3Backbone.load(folder)), draw_with(pipeline(folder)))


@torch.no_grad()
def test_only_a_network_that_was_distilled_so_is_told_the_scale(tiny_flow_backbone):
    if isinstance(tiny_flow_backbone, SD3Backbone):
        return
    is_told = tiny_flow_backbone.transformer.config.guidance_embeds
    one, other = (draw(tiny_flow_backbone, scale=scale) for scale in (1.0, 7.0))
    assert torch.equal(one, other) != is_told


@torch.no_grad()
def test_latents_and_pictures_go_both_ways_as_the_autoencoder_does(tiny_flow_backbone, pipe):
    images = torch.rand(2, 3, 16, 24, generator=stream(0))
    latents = tiny_flow_backbone.encode_latents(images)
    config = pipe.vae.config
    assert config.shift_factor == 0.3  # a sign or a scale left out shows
    theirs = pipe.vae.encode(images * 2 - 1).latent_dist.mode()
    theirs = (theirs - config.shift_factor) * config.scaling_factor
    torch.testing.assert_close(latents, theirs)
    decoded = pipe.vae.decode(theirs / config.scaling_factor + config.shift_factor).sample
    torch.testing.assert_close(tiny_flow_backbone.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
    with pytest.raises(ShapeError, match="multiples of 4"):
        tiny_flow_backbone.encode_latents(images[..., :22])


@torch.no_grad()
def test_a_picture_is_the_same_in_any_batch(tiny_flow_backbone):
    text = tiny_flow_backbone.encode_text([PROMPT])
    together = tiny_flow_backbone.draw_text(text, generator=streams(1, num=3))
    alone = tiny_flow_backbone.draw_text(text, generator=streams(1, num=1, start=2))
    assert together.shape == (3, 3, 16, 16)
    torch.testing.assert_close(together[2:], alone, rtol=0, atol=1e-4)


# --- learned tokens ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_learned_token_is_the_same_as_a_row_of_every_table(tiny_flow_backbone, tiny_flow_folder):
    pipe, token = pipeline(tiny_flow_folder), random_token(tiny_flow_backbone)
    parts = tiny_flow_backbone.token_parts(token)
    for end, (_, part) in zip(("", "_2", "_3"), parts, strict=False):
        tokenizer, encoder = getattr(pipe, f"tokenizer{end}"), getattr(pipe, f"text_encoder{end}")
        tokenizer.add_tokens("<new>")
        if "T5" in type(encoder).__name__:
            assert encoder.shared.weight is encoder.encoder.embed_tokens.weight
        encoder.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)
        encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<new>")] = part[0]
        if hasattr(encoder, "text_model"):  # otherwise it pools at the largest id: the new one
            encoder.config.eos_token_id = tokenizer.eos_token_id
            encoder.text_model.eos_token_id = tokenizer.eos_token_id
        elif hasattr(encoder, "eos_token_id"):
            encoder.config.eos_token_id = encoder.eos_token_id = tokenizer.eos_token_id
    ours = draw(tiny_flow_backbone, "a <new> cow", tokens={"<new>": token})
    same(ours, draw_with(pipe, "a <new> cow"))
    differ(ours, draw(tiny_flow_backbone, "a dog cow"))


@torch.no_grad()
def test_a_known_word_passed_in_as_token_changes_nothing(tiny_flow_backbone):
    prompts = ["a {} here", "{} and {}", "a {}, red"]
    plain = tiny_flow_backbone.encode_text([p.format("pig", "pig") for p in prompts])
    tokens = {"<x>": tiny_flow_backbone.token_embeds("pig")}  # three tokens of CLIP, one of T5
    placed = tiny_flow_backbone.encode_text(
        [p.format("<x>", "<x>") for p in prompts], tokens=tokens
    )
    for name in ("text_embeds", "text_encoder_hidden_states", "text_mask"):
        torch.testing.assert_close(getattr(placed, name), getattr(plain, name))


@torch.no_grad()
def test_words_after_a_learned_token_are_not_ignored_by_any_encoder(tiny_flow_backbone):
    assert tiny_flow_backbone._encoders[0].module.config.eos_token_id == 2  # as published
    tokens = {"<new>": random_token(tiny_flow_backbone)}
    text = tiny_flow_backbone.encode_text(["a <new> cow", "a <new> dog"], tokens=tokens)
    for cow, dog in text.text_embeds.split(list(text.widths), dim=-1):
        differ(cow, dog, 0.01)
    other = {"<new>": random_token(tiny_flow_backbone, 1)}
    again = tiny_flow_backbone.encode_text(["a <new> cow"], tokens=other)
    for one, two in zip(*(t.split(list(text.widths), -1) for t in (text.text_embeds[:1],
                                                                     again.text_embeds)),
                        strict=True):  # fmt: skip
        differ(one, two, 0.01)


def test_gradient_reaches_every_part_of_a_token_and_no_weight(tiny_flow_backbone):
    token = random_token(tiny_flow_backbone)[None].repeat(2, 1).requires_grad_()
    modules = list(tiny_flow_backbone._modules())
    before = [p.clone() for module in modules for p in module.parameters()]
    text = tiny_flow_backbone.encode_text(["a <x>"], tokens={"<x>": token})
    text.text_embeds.square().sum().backward()
    assert float(token.grad.abs().min()) > 0
    grads = []
    for steps in (None, 1):
        text = tiny_flow_backbone.encode_text(["a <x>"], tokens={"<x>": token})
        latents = tiny_flow_backbone.init_latents(stream(1))
        latents = tiny_flow_backbone.denoise(
            latents, text, generator=stream(2), gradient_steps=steps
        )
        grads += torch.autograd.grad(tiny_flow_backbone.decode(latents).square().sum(), token)
    for _, part in tiny_flow_backbone.token_parts(grads[0]):
        assert float(part.abs().max()) > 0
    differ(*grads, 0)
    after = [p for module in modules for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in after)
    hooks = [h for one in modules for m in one.modules() for h in m._forward_hooks.values()]
    assert not any("offbeat" in hook.__module__ for hook in hooks)  # transformers leaves its own


def test_rows_of_every_encoder_are_of_like_size(tiny_flow_backbone):
    rows = tiny_flow_backbone.token_embed("green house")
    parts = rows.split([encoder.width for encoder in tiny_flow_backbone._encoders])
    sizes = torch.stack([part.square().mean().sqrt() for part in parts])
    assert float(sizes.max() / sizes.min()) < 4
    raw = dict(tiny_flow_backbone.token_parts(rows))
    if "t5" in raw:  # its table holds numbers more than ten times as large
        assert float(raw["t5"].square().mean().sqrt()) > 10 * float(sizes[0])
        assert torch.equal(raw["t5"][0], tiny_flow_backbone._t5.table[
            tiny_flow_backbone._t5.ids("green house")].mean(0))  # fmt: skip


@torch.no_grad()
def test_a_long_prompt_is_read_whole_by_t5_and_refused_without_it(tiny_flow_backbone):
    long = "a " * 30 + "pig here and"
    too_long = long + " a" * 80
    if tiny_flow_backbone._t5 is None:
        with pytest.raises(PromptError, match="at most 75 tokens"):
            tiny_flow_backbone.encode_text([too_long])
        return
    with pytest.raises(PromptError, match=f"at most {LENGTH - 1} tokens"):
        tiny_flow_backbone.encode_text([too_long])
    wide = "pig " * 30  # 90 letters: CLIP holds 75, T5 reads 30 pieces
    one, other = tiny_flow_backbone.encode_text([wide + "dog", wide + "cow"]).text_embeds
    clip = tiny_flow_backbone.transformer.config.pooled_projection_dim
    torch.testing.assert_close(one[:clip], other[:clip])
    differ(one[clip:], other[clip:], 0.001)
    tokens = {"<new>": random_token(tiny_flow_backbone)}
    placed = tiny_flow_backbone.encode_text([wide + "<new>"], tokens=tokens).text_embeds[0]
    torch.testing.assert_close(placed[:clip], one[:clip])
    differ(placed[clip:], one[clip:], 0.001)


# --- denoising --------------------------------------------------------------------------------


@torch.no_grad()
def test_denoising_in_two_parts_is_denoising_at_once(tiny_flow_backbone):
    text = tiny_flow_backbone.encode_text([PROMPT])
    latents = tiny_flow_backbone.init_latents(stream(1), num_inference_steps=4)
    settings = {"generator": stream(2), "num_inference_steps": 4}
    once = tiny_flow_backbone.denoise(latents, text, **settings)
    half = tiny_flow_backbone.denoise(latents, text, stop=2, **settings)
    torch.testing.assert_close(tiny_flow_backbone.denoise(half, text, start=2, **settings), once)
    seen = []
    moved = tiny_flow_backbone.denoise(
        latents, text, model_input=lambda i, x: (seen.append(i), x + 0.1)[1],
        after_step=lambda i, x: x + 0.1 * (i == 1), **settings,
    )  # fmt: skip
    assert seen == [0, 1, 2, 3]
    differ(moved, once)


@torch.no_grad()
def test_where_it_goes_is_read_on_the_way(tiny_flow_backbone):
    text = tiny_flow_backbone.encode_text([PROMPT])
    latents = tiny_flow_backbone.init_latents(stream(1), num_inference_steps=4)
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0}
    once = tiny_flow_backbone.denoise(latents, text, generator=stream(2), **settings)
    half = tiny_flow_backbone.denoise(latents, text, generator=stream(2), stop=3, **settings)
    clean = tiny_flow_backbone.predict_clean(half, text, step=3, **settings)
    torch.testing.assert_close(clean, once)  # before the last step the estimate is where it ends
    early = tiny_flow_backbone.predict_clean(latents, text, step=0, **settings)
    differ(early, once)
    with pytest.raises(RangeError, match="step"):
        tiny_flow_backbone.predict_clean(half, text, step=4, **settings)


@torch.no_grad()
def test_noise_is_added_along_the_flow(tiny_flow_backbone, pipe):
    clean, noise = (torch.randn(2, 4, 8, 8, generator=stream(seed)) for seed in (1, 2))
    settings = {"num_inference_steps": 4}
    first = tiny_flow_backbone.add_noise(clean, noise, step=0, **settings)
    torch.testing.assert_close(first, noise)
    assert torch.equal(tiny_flow_backbone.add_noise(clean, noise, step=4, **settings), clean)
    scheduler = tiny_flow_backbone.scheduler
    noised = tiny_flow_backbone.add_noise(clean, noise, step=2, **settings)
    theirs = scheduler.scale_noise(clean, scheduler.timesteps[2].expand(2), noise)
    torch.testing.assert_close(noised, theirs)


@torch.no_grad()
def test_an_inverted_picture_is_drawn_again(tiny_flow_backbone):
    text = tiny_flow_backbone.encode_text(["a pig"])
    image = tiny_flow_backbone.draw_text(text, generator=stream(4), guidance_scale=1.0)
    settings = {"num_inference_steps": 8, "guidance_scale": 1.0}
    way = tiny_flow_backbone.invert(image, text, num_refinements=8, **settings)
    assert way.shape == (9, 1, 4, 8, 8)
    back = tiny_flow_backbone.denoise(way[0], text, generator=stream(0), sampler="ddim", **settings)
    own = tiny_flow_backbone.encode_latents(image)
    torch.testing.assert_close(way[-1], own)
    torch.testing.assert_close(back, own, rtol=0, atol=0.01)
    rough = tiny_flow_backbone.invert(image, text, **settings)
    differ(rough[0], way[0], 0.001)


# --- files ------------------------------------------------------------------------------------


def test_it_says_what_it_can_and_what_suits_it(tiny_flow_backbone):
    assert isinstance(tiny_flow_backbone, DenoisingBackbone)
    assert tiny_flow_backbone.card["height"] == 16
    text = tiny_flow_backbone.encode_text(["x"])
    with pytest.raises(CapabilityError, match="ip_adapter"):
        tiny_flow_backbone.draw_text(text, generator=stream(0), image_embeds=torch.zeros(1, 32))


def test_a_folder_without_a_card_gets_what_its_kind_is_run_with(tmp_path, tiny_flow_folder):
    folder = tmp_path / tiny_flow_folder.name
    shutil.copytree(tiny_flow_folder, folder, ignore=shutil.ignore_patterns("card.json"))
    card = (SD3Backbone if "sd3" in folder.name else FluxBackbone).load(folder).card
    wanted = {"sd3": (28, 7.0), "flux": (28, 3.5), "flux-schnell": (4, 0.0)}
    steps, scale = wanted[folder.name.removesuffix("-without-t5")]
    assert (card["num_inference_steps"], card["guidance_scale"]) == (steps, scale)
    assert card["height"] == (256 if "flux" in folder.name else 16)  # 128 or 8 cells of 2 pixels


def test_checkpoints_that_are_no_plain_flow_are_refused(tmp_path):
    folder = tiny_flow.build_sd3(tmp_path / "sd3", t5=False)
    with pytest.raises(CheckpointError, match="FluxPipeline, got StableDiffusion3Pipeline"):
        FluxBackbone.load(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchHeunDiscreteScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="expected a FlowMatchEulerDiscreteScheduler"):
        SD3Backbone.load(folder)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeWeightsError, match=r"\.bin"):
        SD3Backbone.load(folder)


@torch.no_grad()
def test_names_of_older_libraries_in_an_index_still_load(tiny_flow_folder, tmp_path):
    """Published repositories name the fast tokenizers, and CLIP's weights as before a rename."""
    folder = tmp_path / tiny_flow_folder.name
    shutil.copytree(tiny_flow_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    fast = {"T5Tokenizer": "T5TokenizerFast", "CLIPTokenizer": "CLIPTokenizerFast"}
    for entry in index.values():
        if isinstance(entry, list):
            entry[1] = fast.get(entry[1], entry[1])
    (folder / "model_index.json").write_text(json.dumps(index))
    file = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{n.removeprefix('text_model.')}": w for n, w in load_file(file).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if "text_model.text_projection.weight" in weights:
        weights["text_projection.weight"] = weights.pop("text_model.text_projection.weight")
    save_file(weights, file, {"format": "pt"})
    kind = SD3Backbone if "sd3" in folder.name else FluxBackbone
    same(draw(kind.load(folder)), draw(kind.load(tiny_flow_folder)))


def test_half_precision_draws_almost_the_same_and_passes_a_gradient(
    tiny_flow_backbone, tiny_flow_folder
):
    half = type(tiny_flow_backbone).load(tiny_flow_folder, dtype=torch.bfloat16)
    with torch.no_grad():
        ours, whole = draw(half), draw(tiny_flow_backbone)
    assert ours.dtype == torch.float32
    assert float((ours - whole).abs().mean()) < 0.03
    token = half.token_embeds("pig").requires_grad_()
    text = half.encode_text(["a <x>"], tokens={"<x>": token})
    (grad,) = torch.autograd.grad(text.text_embeds.square().sum(), token)
    assert bool(grad.isfinite().all())
    assert float(grad.abs().max()) > 0
