"""The Stable Diffusion adapter: the same pictures as the pipelines of diffusers, to 1e-4."""

import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import tiny
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream, streams
from offbeat.errors import (
    CapabilityError,
    CheckpointError,
    PromptError,
    RangeError,
    ShapeError,
    UnsafeWeightsError,
)
from offbeat.protocols import DenoisingBackbone, EncodesImage, PriorBackbone

STEPS, SCALE = 3, 4.0
PROMPT = "a red pig"


def pipeline(folder):
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    kind = StableDiffusionXLPipeline if "XL" in kind else StableDiffusionPipeline
    pipe = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_with(pipe, prompt=PROMPT, *, seed=1, scale=SCALE, steps=STEPS, **settings):
    images = pipe(
        prompt,
        generator=stream(seed),
        guidance_scale=scale,
        num_inference_steps=steps,
        output_type="np",
        **settings,
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def draw(backbone, prompt=PROMPT, *, seed=1, scale=SCALE, steps=STEPS, tokens=None, **settings):
    text = backbone.encode_text([prompt], tokens=tokens)
    if "negative" in settings:
        settings["negative"] = backbone.encode_text([settings["negative"]])
    return backbone.draw_text(
        text, generator=stream(seed), guidance_scale=scale, num_inference_steps=steps, **settings
    )


def same(ours, theirs, atol=1e-4):
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def pipe(tiny_sd_folder):
    return pipeline(tiny_sd_folder)


# --- the same as the pipelines ----------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_match_the_pipeline(tiny_sd, pipe, scale):
    same(draw(tiny_sd, scale=scale), draw_with(pipe, scale=scale))
    other = draw(tiny_sd, "green house on a hill", scale=scale)
    assert float((other - draw(tiny_sd, scale=scale)).abs().max()) > 0.003  # text shows


@torch.no_grad()
@pytest.mark.parametrize("negative", ["bad", ""])
def test_a_negative_prompt_steers_as_in_the_pipeline(tiny_sd, pipe, negative):
    ours = draw(tiny_sd, negative=negative)
    same(ours, draw_with(pipe, negative_prompt=negative))
    # SDXL steers from zeros if nothing is said, and from the empty prompt if that is said
    says_something = bool(negative) or tiny_sd.is_xl
    assert (float((ours - draw(tiny_sd)).abs().max()) > 0.003) == says_something


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [("ddim", "v_prediction"), *((name, "epsilon") for name in tiny.SCHEDULERS if name != "ddim")],
)
def test_other_schedulers_and_predictions_match_too(tmp_path, scheduler, prediction):
    folder = tmp_path / "model"
    tiny.build_sd(folder, "sd", scheduler=scheduler, prediction=prediction, adapter=False)
    backbone = StableDiffusionBackbone.load(folder)
    theirs = pipeline(folder)
    for steps in (1, 4):
        same(draw(backbone, steps=steps), draw_with(theirs, steps=steps))


@torch.no_grad()
def test_a_picture_that_is_no_square_is_guided_as_in_the_pipeline(tiny_sd_folder, pipe, tmp_path):
    folder = shutil.copytree(tiny_sd_folder, tmp_path / "wide")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "height": 32, "width": 64}))
    ours = draw(StableDiffusionBackbone.load(folder))
    assert ours.shape == (1, 3, 32, 64)
    same(ours, draw_with(pipe, height=32, width=64))


@torch.no_grad()
def test_a_model_distilled_with_guidance_is_told_the_scale(tmp_path):
    folder = tiny.build_sd(
        tmp_path / "model", "sd", scheduler="lcm", adapter=False, time_cond_proj_dim=16
    )
    same(draw(StableDiffusionBackbone.load(folder)), draw_with(pipeline(folder)))


@torch.no_grad()
def test_a_card_may_name_the_timesteps_of_a_one_step_model(tmp_path):
    folder = tiny.build_sd(tmp_path / "model", "sd", scheduler="lcm", adapter=False)
    card = {"num_inference_steps": 1, "timesteps": [800], "guidance_scale": 0}
    (folder / "card.json").write_text(json.dumps(card))
    backbone = StableDiffusionBackbone.load(folder)
    ours = backbone.draw_text(backbone.encode_text([PROMPT]), generator=stream(1))
    same(ours, draw_with(pipeline(folder), scale=0, steps=None, timesteps=[800]))
    other = draw(backbone, scale=0, steps=1, seed=2)
    assert float((other - ours).abs().max()) > 0.05
    (folder / "card.json").write_text(json.dumps({**card, "timesteps": [600]}))
    assert StableDiffusionBackbone.load(folder).fingerprint != backbone.fingerprint


@torch.no_grad()
@pytest.mark.parametrize("said", [True, False])
def test_old_settings_of_a_scheduler_are_mended_as_the_pipeline_mends_them(tmp_path, said):
    folder = tiny.build_sd(tmp_path / "model", "sd", adapter=False)
    file = folder / "scheduler" / "scheduler_config.json"
    old = {**json.loads(file.read_text()), "steps_offset": 0, "clip_sample": True}
    if not said:  # these are the library's defaults
        del old["steps_offset"], old["clip_sample"]
    file.write_text(json.dumps(old))
    with pytest.warns(FutureWarning, match="outdated|clip_sample"):
        theirs = draw_with(pipeline(folder))
    same(draw(StableDiffusionBackbone.load(folder)), theirs)


@torch.no_grad()
def test_text_is_what_the_pipeline_makes_of_it(tiny_sd, pipe):
    text = tiny_sd.encode_text([PROMPT, "x"])
    theirs = pipe.encode_prompt([PROMPT, "x"], device="cpu", num_images_per_prompt=1,
                                do_classifier_free_guidance=False)  # fmt: skip
    torch.testing.assert_close(text.text_encoder_hidden_states, theirs[0], rtol=0, atol=1e-6)
    assert text.text_mask.sum(1).tolist() == [len(PROMPT.replace(" ", "")) + 2, 3]
    if not tiny_sd.is_xl:
        assert (text.text_embeds.shape, text.widths) == ((2, 32), ())
        return
    assert (text.text_embeds.shape, text.widths) == ((2, 64), (32, 32))
    torch.testing.assert_close(text.text_embeds[:, 32:], theirs[2], rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_picture_is_the_same_in_any_batch(tiny_sd):
    text = tiny_sd.encode_text([PROMPT])
    together = tiny_sd.draw_text(text, generator=streams(1, num=5))
    alone = tiny_sd.draw_text(text, generator=streams(1, num=1, start=4))
    assert together.shape == (5, 3, 16, 16)
    torch.testing.assert_close(together[4:], alone, rtol=0, atol=1e-4)
    prompts = tiny_sd.encode_text(["x", "y", "z", "u", PROMPT])
    each = tiny_sd.draw_text(prompts, generator=streams(1, num=5), negative=prompts)
    assert each.shape == (5, 3, 16, 16)
    with pytest.raises(ShapeError, match="expected one, or 3 streams, got 2"):
        tiny_sd.draw_text(text, generator=streams(1, num=2), num_samples=3)
    two = tiny_sd.encode_text(["x", "y"])
    for prompts in ({"text": two}, {"text": text, "negative": two}):
        with pytest.raises(ShapeError, match="one prompt, or 3, got 2"):
            tiny_sd.draw_text(generator=streams(1, num=3), **prompts)


@torch.no_grad()
def test_memory_that_runs_out_halves_the_batch_and_changes_no_picture(tiny_sd, monkeypatch):
    text = tiny_sd.encode_text([PROMPT])
    whole = tiny_sd.draw_text(text, generator=streams(1, num=3))
    decode = tiny_sd.decode

    def small(latents):
        if len(latents) > 1:
            raise torch.cuda.OutOfMemoryError("too many")
        return decode(latents)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_sd, "decode", small)
        halved = tiny_sd.draw_text(text, generator=streams(1, num=3))
    torch.testing.assert_close(halved, whole, rtol=0, atol=1e-4)


@torch.no_grad()
def test_denoising_in_two_parts_is_denoising_at_once(tiny_sd):
    text = tiny_sd.encode_text([PROMPT])
    latents = tiny_sd.init_latents(stream(1), num_inference_steps=4)
    settings = {"generator": stream(2), "num_inference_steps": 4}
    once = tiny_sd.denoise(latents, text, **settings)
    half = tiny_sd.denoise(latents, text, stop=2, **settings)
    torch.testing.assert_close(tiny_sd.denoise(half, text, start=2, **settings), once)
    seen = []
    moved = tiny_sd.denoise(
        latents, text, after_step=lambda i, x: (seen.append(i), x + 0.1 * (i == 1))[1], **settings
    )
    assert seen == [0, 1, 2, 3]
    assert float((moved - once).abs().max()) > 0.05


@torch.no_grad()
def test_latents_and_pictures_go_both_ways_as_the_autoencoder_does(tiny_sd, pipe):
    images = torch.rand(2, 3, 16, 24, generator=stream(0))
    latents = tiny_sd.encode_latents(images)
    assert latents.shape == (2, 4, 8, 12)
    theirs = pipe.vae.encode(images * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(latents, theirs)
    decoded = pipe.vae.decode(theirs / pipe.vae.config.scaling_factor).sample
    torch.testing.assert_close(tiny_sd.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
    with pytest.raises(ShapeError, match="multiples of 2"):
        tiny_sd.encode_latents(images[..., :15])


@torch.no_grad()
def test_an_autoencoder_that_says_mean_and_spread_is_heard(tmp_path):
    folder = tiny.build_sd(tmp_path / "model", "xl", adapter=False)
    file = folder / "vae" / "config.json"
    stats = {"latents_mean": [0.1, 0.2, -0.3, 0.4], "latents_std": [1.5, 0.7, 2.0, 1.0]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **stats}))
    backbone = StableDiffusionBackbone.load(folder)
    same(draw(backbone), draw_with(pipeline(folder)))
    latents = torch.randn(1, 4, 8, 8, generator=stream(0))
    backbone.vae.encode = lambda pixels: type("Posterior", (), {"latent_dist": Fixed})
    mean, spread = (torch.tensor(v).view(1, -1, 1, 1) for v in stats.values())
    raw = latents * spread / backbone.vae.config.scaling_factor + mean
    Fixed.mode = staticmethod(lambda: raw)
    torch.testing.assert_close(backbone.encode_latents(torch.zeros(1, 3, 16, 16)), latents)


class Fixed:
    """A posterior whose mode is given."""


# --- pocket -----------------------------------------------------------------------------------

needs_pocket = pytest.mark.skipif(
    not (tiny.ROOT / "src/offbeat/pocket/stable_diffusion/model_index.json").is_file(),
    reason="pocket's second half is not built yet",
)


@needs_pocket
@torch.no_grad()
def test_pocket_draws_what_the_pipeline_draws(pocket_sd):
    card = pocket_sd.card
    settings = {"scale": card["guidance_scale"], "steps": 4}
    theirs = draw_with(tiny.pocket_pipeline(), **settings)
    same(draw(pocket_sd, **settings), theirs)
    assert theirs.shape == (1, 3, 128, 128)
    assert {"pig", "castle"} <= card["concepts"].keys()
    assert card["judge"]


# --- learned tokens ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_learned_token_is_the_same_as_a_row_of_the_table(tiny_sd, tiny_sd_folder):
    pipe = pipeline(tiny_sd_folder)
    width = sum(encoder.width for encoder in tiny_sd._encoders)
    token = torch.randn(width, generator=stream(3))
    parts = token.split([encoder.width for encoder in tiny_sd._encoders])
    ends = ("", "_2")[: len(parts)]
    for end, part in zip(ends, parts, strict=True):
        tokenizer = getattr(pipe, f"tokenizer{end}")
        encoder = getattr(pipe, f"text_encoder{end}")
        tokenizer.add_tokens("<new>")
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<new>")] = part
        if hasattr(encoder, "text_model"):  # otherwise it pools at the largest id: the new one
            encoder.config.eos_token_id = tokenizer.eos_token_id
            encoder.text_model.eos_token_id = tokenizer.eos_token_id
    prompt = "a <new> cat"
    ours = draw(tiny_sd, prompt, tokens={"<new>": token})
    same(ours, draw_with(pipe, prompt))
    assert float((ours - draw(tiny_sd, "a dog cat")).abs().max()) > 0.003


def test_a_known_word_passed_in_as_token_changes_nothing(tiny_sd):
    plain = tiny_sd.encode_text(["a pig here", "pig and pig"])
    tokens = {"<x>": tiny_sd.token_embeds("pig")}
    placed = tiny_sd.encode_text(["a <x> here", "<x> and <x>"], tokens=tokens)
    for name in ("text_embeds", "text_encoder_hidden_states", "text_mask"):
        torch.testing.assert_close(getattr(placed, name), getattr(plain, name))
    assert tiny_sd.num_tokens("pig") == 3
    torch.testing.assert_close(tiny_sd.token_embed("pig"), tokens["<x>"].mean(0))


def test_words_after_a_learned_token_are_not_ignored(tiny_sd):
    tokens = {"<new>": torch.randn(len(tiny_sd.token_embed("x")), generator=stream(0))}
    cat, dog = tiny_sd.encode_text(["a <new> cat", "a <new> dog"], tokens=tokens).text_embeds
    for width in (slice(32), slice(32, None))[: len(tiny_sd._encoders)]:
        assert float((cat[width] - dog[width]).abs().max()) > 0.01


def test_gradient_reaches_tokens_through_text_and_pictures_alone(tiny_sd):
    width = len(tiny_sd.token_embed("x"))
    token = torch.randn(2, width, generator=stream(0)).requires_grad_()
    tiny_sd.encode_text(["a <x>"], tokens={"<x>": token}).text_embeds.sum().backward()
    assert float(token.grad.abs().min()) > 0
    grads = []
    for steps in (None, 2, 1, 0):
        text = tiny_sd.encode_text(["a <x>"], tokens={"<x>": token})
        latents = tiny_sd.init_latents(stream(1), num_inference_steps=3)
        latents = tiny_sd.denoise(
            latents, text, generator=stream(2), num_inference_steps=3, gradient_steps=steps
        )
        images = tiny_sd.decode(latents)
        if steps == 0:
            assert not images.requires_grad
            continue
        (grad,) = torch.autograd.grad(images.sum(), token)
        grads.append(grad)
    assert all(float(grad.abs().max()) > 0 for grad in grads)
    assert not torch.equal(grads[0], grads[1])
    assert not torch.equal(grads[1], grads[2])
    assert all(p.grad is None for module in tiny_sd._modules() for p in module.parameters())


def test_prompts_and_tokens_that_do_not_fit_are_refused(tiny_sd):
    width = len(tiny_sd.token_embed("x"))
    with pytest.raises(ShapeError, match="another checkpoint"):
        tiny_sd.encode_text(["a <x>"], tokens={"<x>": torch.zeros(width - 1)})
    with pytest.raises(PromptError, match="at most 75 tokens"):
        tiny_sd.encode_text(["a " * 76])
    with pytest.raises(PromptError, match="at least one"):
        tiny_sd.encode_text([])
    with pytest.raises(PromptError, match="expected a word"):
        tiny_sd.token_embed(" ")


# --- image prompts ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompted_pipe(tiny_sd_folder):
    pipe = pipeline(tiny_sd_folder)
    pipe.load_ip_adapter(
        str(tiny_sd_folder), subfolder="ip_adapter", weight_name="ip_adapter.safetensors"
    )
    return pipe


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_picture_as_prompt_does_what_it_does_in_the_pipeline(
    tiny_sd, prompted_pipe, scale, weight
):
    plain = draw(tiny_sd, scale=scale)
    image_embeds = torch.randn(1, 32, generator=stream(5))
    asked = image_embeds[None]
    if scale > 1:
        asked = torch.cat([torch.zeros_like(asked), asked])
    prompted_pipe.set_ip_adapter_scale(weight)
    theirs = draw_with(prompted_pipe, scale=scale, ip_adapter_image_embeds=[asked])
    ours = draw(tiny_sd, scale=scale, image_embeds=image_embeds, ip_adapter_scale=weight)
    same(ours, theirs)
    if weight == 0:
        same(ours, plain, atol=1e-6)
    else:
        assert float((ours - plain).abs().max()) > 0.003
    same(draw(tiny_sd, scale=scale), plain, atol=0)  # nothing is left of it


@torch.no_grad()
def test_pictures_are_read_as_the_pipeline_reads_them(tiny_sd, tiny_sd_folder, prompted_pipe):
    pixels = (torch.rand(1, 3, 16, 16, generator=stream(0)) * 255).byte()
    processor = CLIPImageProcessorPil.from_pretrained(tiny_sd_folder / "feature_extractor")
    values = processor(list(pixels), return_tensors="pt").pixel_values
    theirs = prompted_pipe.image_encoder(values).image_embeds
    image_embeds = tiny_sd.encode_image(pixels / 255)
    torch.testing.assert_close(image_embeds, theirs, rtol=1e-4, atol=1e-4)
    prompted_pipe.set_ip_adapter_scale(1.0)
    same(
        draw(tiny_sd, image_embeds=image_embeds),
        draw_with(prompted_pipe, ip_adapter_image=values),
        atol=1e-3,
    )
    assert tiny_sd.takes_images


def test_the_unet_is_plain_after_an_image_prompt_even_after_an_error(tiny_sd, monkeypatch):
    before = tiny_sd.unet.attn_processors
    names = set(tiny_sd.unet.state_dict())

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_sd.unet.conv_out, "forward", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            draw(tiny_sd, image_embeds=torch.zeros(1, 32))
    assert tiny_sd.unet.attn_processors == before
    assert tiny_sd.unet.encoder_hid_proj is None
    assert set(tiny_sd.unet.state_dict()) == names


@torch.no_grad()
def test_image_prompts_of_a_batch_are_cut_with_it(tiny_sd):
    image_embeds = torch.randn(3, 32, generator=stream(5))
    text = tiny_sd.encode_text([PROMPT])
    many = tiny_sd.draw_text(text, generator=streams(1, num=3), image_embeds=image_embeds)
    one = tiny_sd.draw_text(
        text, generator=streams(1, num=1, start=2), image_embeds=image_embeds[2:]
    )
    torch.testing.assert_close(many[2:], one, rtol=0, atol=1e-4)
    with pytest.raises(ShapeError, match="image_embeds"):
        draw(tiny_sd, image_embeds=torch.zeros(1, 31))
    with pytest.raises(RangeError, match="ip_adapter_scale"):
        draw(tiny_sd, image_embeds=torch.zeros(1, 32), ip_adapter_scale=-1.0)


def test_a_checkpoint_without_an_adapter_says_so(tmp_path, tiny_sd_folder):
    folder = tiny.build_sd(tmp_path / "model", "sd", adapter=False)
    backbone = StableDiffusionBackbone.load(folder)
    assert not backbone.takes_images
    with pytest.raises(CapabilityError, match="`ip_adapter`"):
        draw(backbone, image_embeds=torch.zeros(1, 32))
    with pytest.raises(CapabilityError, match="`image_encoder`"):
        backbone.encode_image(torch.zeros(1, 3, 16, 16))
    with pytest.raises(CheckpointError, match="there is none"):
        StableDiffusionBackbone.load(folder, ip_adapter=tmp_path / "none.safetensors")


@torch.no_grad()
def test_an_adapter_from_elsewhere_brings_its_image_encoder(tmp_path):
    whole = tiny.build_sd(tmp_path / "whole", "sd")
    plain = tiny.build_sd(tmp_path / "plain", "sd", adapter=False)
    (tmp_path / "models").mkdir()
    shutil.copytree(whole / "image_encoder", tmp_path / "models" / "image_encoder")
    file = shutil.copy(whole / "ip_adapter" / "ip_adapter.safetensors", tmp_path / "models")
    first, second = (
        StableDiffusionBackbone.load(whole),
        StableDiffusionBackbone.load(plain, ip_adapter=file),
    )
    image_embeds = [
        backbone.encode_image(torch.rand(1, 3, 16, 16, generator=stream(0)))
        for backbone in (first, second)
    ]
    same(
        draw(second, image_embeds=image_embeds[1]),
        draw(first, image_embeds=image_embeds[0]),
        atol=1e-6,
    )
    assert second.fingerprint != StableDiffusionBackbone.load(plain).fingerprint


@pytest.mark.parametrize("damage", ["cut", "other", "faceid"])
def test_an_adapter_that_does_not_fit_is_refused(tmp_path, damage):
    folder = tiny.build_sd(tmp_path / "model", "sd")
    file = folder / "ip_adapter" / "ip_adapter.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:500])
    else:
        weights = load_file(file)
        if damage == "other":
            weights = {k: v[:, :7].contiguous() if "_ip" in k else v for k, v in weights.items()}
        else:
            weights["image_proj.proj.3.weight"] = weights.pop("image_proj.proj.weight")[0]
            weights["image_proj.proj.0.weight"] = torch.zeros(32, 32)
        save_file(weights, file)
    with pytest.raises(CheckpointError, match="IP-Adapter"):
        StableDiffusionBackbone.load(folder)


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_sd_folder, tmp_path):
    return shutil.copytree(tiny_sd_folder, tmp_path / "copy")


def test_the_adapter_offers_its_capabilities_and_no_prior(tiny_sd):
    assert isinstance(tiny_sd, DenoisingBackbone)
    assert isinstance(tiny_sd, DenoisingBackbone)
    assert isinstance(tiny_sd, EncodesImage)
    assert not isinstance(tiny_sd, PriorBackbone)


def test_weights_hooks_and_global_streams_are_as_before(tiny_sd):
    def state():
        return [v.clone() for module in tiny_sd._modules() for v in module.state_dict().values()]

    def hooks():
        return [len(m._forward_hooks) for top in tiny_sd._modules() for m in top.modules()]

    draw(tiny_sd)  # transformers leaves hooks of its own at the first call
    before, random, hooked = state(), torch.get_rng_state(), hooks()
    tokens = {"<x>": tiny_sd.token_embed("cat")}
    draw(tiny_sd, "a <x>", tokens=tokens, image_embeds=torch.zeros(1, 32))
    assert hooks() == hooked
    assert not any(e.module.get_input_embeddings()._forward_hooks for e in tiny_sd._encoders)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    parameters = [p for module in tiny_sd._modules() for p in module.parameters()]
    assert not any(p.requires_grad for p in parameters)


def test_fingerprint_follows_the_weights_and_the_card_not_the_place(tiny_sd, copied):
    load = StableDiffusionBackbone.load
    assert load(copied).fingerprint == tiny_sd.fingerprint
    card = json.loads((copied / "card.json").read_text())
    (copied / "card.json").write_text(json.dumps({**card, "guidance_scale": 9.0}))
    assert load(copied).fingerprint != tiny_sd.fingerprint
    (copied / "card.json").write_text(json.dumps(card))
    file = next((copied / "unet").glob("*.safetensors"))
    weights = load_file(file)
    weights["conv_in.bias"] += 1
    save_file(weights, file)
    assert load(copied).fingerprint != tiny_sd.fingerprint


def test_pipelines_of_other_forms_are_refused(copied):
    file = copied / "model_index.json"
    index = json.loads(file.read_text())
    for other in ("StableDiffusion3Pipeline", "StableDiffusionInpaintPipeline", None):
        file.write_text(json.dumps({**index, "_class_name": other}))
        with pytest.raises(CheckpointError, match=f"StableDiffusionXLPipeline.*got {other}"):
            StableDiffusionBackbone.load(copied)


def test_a_unet_that_reads_more_than_latents_is_refused(tmp_path):
    folder = tiny.build_sd(tmp_path / "model", "sd", adapter=False, in_channels=9)
    with pytest.raises(CheckpointError, match="got 9: is it for inpainting"):
        StableDiffusionBackbone.load(folder)


def test_a_folder_inside_another_checkpoint_takes_its_vocabulary(tmp_path):
    folder = tiny.build_sd(tmp_path / "whole" / "model", "sd", adapter=False)
    (folder / "card.json").unlink()
    (tmp_path / "whole" / "prior").mkdir()
    card = {"concepts": {"pig": ["animal"]}, "guidance_scale": 9.0, "prompt_template": "{subject}!"}
    (tmp_path / "whole" / "card.json").write_text(json.dumps(card))
    found = StableDiffusionBackbone.load(folder).card
    assert found["concepts"] == {"pig": ["animal"]}
    assert found["prompt_template"] == "{subject}!"
    assert found["guidance_scale"] == 7.5
    assert (found["height"], found["width"], found["scheduler"]) == (16, 16, "DDIMScheduler")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused(copied, part):
    for file in (copied / part).glob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(UnsafeWeightsError, match="can run code"):
        StableDiffusionBackbone.load(copied)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
def test_weights_that_lack_a_tensor_are_refused_not_invented(copied, part):
    file = next((copied / part).glob("*.safetensors"))
    weights = load_file(file)
    lost = sorted(weights)[-1]
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=lost.split(".")[-1]):
        StableDiffusionBackbone.load(copied)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"num_inference_steps": 1001}, RangeError),
        ({"guidance_scale": -1.0}, RangeError),
        ({"guidance_scale": float("nan")}, RangeError),
    ],
)
def test_settings_out_of_range_are_refused(tiny_sd, settings, error):
    with pytest.raises(error):
        tiny_sd.draw_text(tiny_sd.encode_text(["x"]), generator=stream(0), **settings)


def test_a_device_that_is_not_there(tiny_sd_folder):
    with pytest.raises(CheckpointError, match="'nonsense' cannot be used"):
        StableDiffusionBackbone.load(tiny_sd_folder, device="nonsense")


@torch.no_grad()
def test_half_precision_stays_inside(tiny_sd, tiny_sd_folder):
    half = StableDiffusionBackbone.load(tiny_sd_folder, dtype=torch.bfloat16)
    text = half.encode_text(["a <x>"], tokens={"<x>": half.token_embed("pig")})
    images = half.draw_text(text, generator=stream(1), image_embeds=torch.zeros(1, 32))
    assert text.text_encoder_hidden_states.dtype == images.dtype == torch.float32
    assert half.encode_image(images).dtype == half.encode_latents(images).dtype == torch.float32
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.vae.parameters()} == {torch.float32}  # it asks for that
    whole = draw(tiny_sd, "a pig", steps=3, scale=3.0)
    assert float((draw(half, "a pig", steps=3, scale=3.0) - whole).abs().mean()) < 0.05
