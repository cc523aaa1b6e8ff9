"""The unCLIP adapter: the same pictures as the pipelines, tokens passed in, bad input refused."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, KandinskyPipeline, KandinskyV22Pipeline
from safetensors.torch import load_file, save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.checkpoints.known.unclip import POCKET
from offbeat.checkpoints.pipeline import PipelineFolder
from offbeat.core.rng import stream, streams
from offbeat.errors import CheckpointError, PromptError, ShapeError, UnsafeWeightsError
from offbeat.protocols import PriorBackbone

STEPS = 3


def draw_with_pipeline(folder, image_embeds, negative, scale, size, generator, width=None):
    old = json.loads((folder / "model_index.json").read_text())
    old = old["_class_name"] == "KandinskyPipeline"
    version = KandinskyPipeline if old else KandinskyV22Pipeline
    pipe = version.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        **({"prompt": [""] * len(image_embeds)} if old else {}),
        image_embeds=image_embeds,
        negative_image_embeds=negative.expand(len(image_embeds), -1),
        guidance_scale=scale,
        num_inference_steps=STEPS,
        height=size,
        width=width or size,
        generator=generator,
        output_type="np",
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_match_the_pipeline(tiny_backbone, tiny_folder, scale):
    negative = tiny_backbone.unconditional_embeds()
    for index in range(2):
        image_embeds = torch.randn(1, 32, generator=stream(index))
        theirs = draw_with_pipeline(
            tiny_folder / "decoder", image_embeds, negative, scale, 32, stream(1, index)
        )
        ours = tiny_backbone.decode_embeds(
            image_embeds,
            generator=stream(1, index),
            num_inference_steps=STEPS,
            guidance_scale=scale,
        )
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_picture_that_is_no_square_is_guided_as_in_the_pipeline(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "wide")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "height": 32, "width": 64}))
    backbone = UnclipBackbone.load(folder)
    embeds, negative = torch.randn(2, 32, generator=stream(0)), backbone.unconditional_embeds()
    settings = {"num_inference_steps": STEPS, "guidance_scale": 4.0}
    ours = backbone.decode_embeds(embeds, generator=stream(1), **settings)
    assert ours.shape == (2, 3, 32, 64)
    theirs = draw_with_pipeline(folder / "decoder", embeds, negative, 4.0, 32, stream(1), width=64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variance", ["learned_range", "fixed_small"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_a_learned_variance_is_used_as_in_the_pipeline(tiny_folder, tmp_path, variance, scale):
    """Kandinsky 2.2 is published with ``DDPMScheduler`` and ``learned_range``."""
    folder = shutil.copytree(tiny_folder, tmp_path / "copy")
    index = json.loads((folder / "decoder" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDPMScheduler"]
    (folder / "decoder" / "model_index.json").write_text(json.dumps(index))
    DDPMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, variance_type=variance,
        clip_sample=False,
    ).save_pretrained(folder / "decoder" / "scheduler")  # fmt: skip
    backbone = UnclipBackbone.load(folder)
    embeds, negative = torch.randn(2, 32, generator=stream(0)), backbone.unconditional_embeds()
    settings = {"num_inference_steps": STEPS, "guidance_scale": scale}
    ours = backbone.decode_embeds(embeds, generator=stream(1), **settings)
    theirs = draw_with_pipeline(folder / "decoder", embeds, negative, scale, 32, stream(1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
def test_pocket_draws_what_the_pipeline_draws(pocket):
    image_embeds = torch.randn(2, pocket.unet_embed_width, generator=stream(0))
    theirs = draw_with_pipeline(
        POCKET / "decoder", image_embeds, pocket.unconditional_embeds(), 3.0, 128, stream(1)
    )
    ours = pocket.decode_embeds(
        image_embeds, generator=stream(1), num_inference_steps=STEPS, guidance_scale=3.0
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_picture_is_the_same_in_any_batch(tiny_backbone):
    image_embeds = torch.randn(5, 32, generator=stream(0))
    together = tiny_backbone.decode_embeds(image_embeds, generator=streams(1, num=5))
    alone = tiny_backbone.decode_embeds(image_embeds[4:], generator=streams(1, num=1, start=4))
    # the pipelines differ from themselves by as much: random networks magnify rounding
    torch.testing.assert_close(together[4:], alone, rtol=0, atol=1e-3)
    with pytest.raises(ShapeError, match="expected one, or 5 streams, got 3"):
        tiny_backbone.decode_embeds(image_embeds, generator=streams(1, num=3))


@torch.no_grad()
def test_pictures_are_read_as_the_image_processor_reads_them(tiny_backbone, tiny_folder):
    pixels = (torch.rand(1, 3, 16, 16, generator=stream(0)) * 255).byte()
    processor = CLIPImageProcessorPil.from_pretrained(tiny_folder / "prior" / "image_processor")
    theirs = tiny_backbone.image_encoder(
        processor(list(pixels), return_tensors="pt").pixel_values
    ).image_embeds
    torch.testing.assert_close(
        tiny_backbone.encode_image(pixels / 255), theirs, rtol=1e-4, atol=1e-4
    )


# --- learned tokens ---------------------------------------------------------------------------


def test_a_known_word_passed_in_as_token_changes_nothing(pocket):
    tokens = {"<x>": pocket.token_embed("pig")}
    plain = pocket.encode_text(["a picture of a pig", "a pig and a pig on grass"])
    placed = pocket.encode_text(["a picture of a <x>", "a <x> and a <x> on grass"], tokens=tokens)
    for name in ("text_embeds", "text_encoder_hidden_states", "text_mask"):
        torch.testing.assert_close(getattr(placed, name), getattr(plain, name), rtol=0, atol=1e-5)


def test_a_word_of_many_tokens_passed_in_row_by_row_changes_nothing(tiny_backbone):
    ids = tiny_backbone.tokenizer("pig", add_special_tokens=False).input_ids
    rows = tiny_backbone.text_encoder.get_input_embeddings().weight[ids]
    plain = tiny_backbone.encode_text(["a pig here"])
    placed = tiny_backbone.encode_text(["a <x> here"], tokens={"<x>": rows})
    torch.testing.assert_close(placed.text_embeds, plain.text_embeds)


def test_words_after_a_learned_token_are_not_ignored(tiny_backbone):
    # published CLIP configs name eos_token_id 2, and pooling then happens at the largest id
    assert tiny_backbone.text_encoder.config.eos_token_id == 2
    tokens = {"<new>": torch.randn(32, generator=stream(0))}
    cat, dog = tiny_backbone.encode_text(["a <new> cat", "a <new> dog"], tokens=tokens).text_embeds
    assert float((cat - dog).abs().max()) > 0.01


def test_gradient_reaches_the_tokens_alone(tiny_backbone):
    tokens = {"<a>": torch.randn(2, 32).requires_grad_(), "<b>": torch.randn(32).requires_grad_()}
    tiny_backbone.encode_text(["<a> on <b>"], tokens=tokens).text_embeds.sum().backward()
    assert all(float(token.grad.abs().sum()) > 0 for token in tokens.values())
    assert all(p.grad is None for m in tiny_backbone._modules() for p in m.parameters())


def test_weights_and_hooks_are_as_before_even_after_an_error(tiny_backbone, monkeypatch):
    def state():
        return {
            (index, name): value.clone()
            for index, module in enumerate(tiny_backbone._modules())
            for name, value in module.state_dict().items()
        }

    table = tiny_backbone.text_encoder.get_input_embeddings()
    before = state()
    token = tiny_backbone.token_embed("cat").requires_grad_()
    text = tiny_backbone.encode_text(["a <x>"], tokens={"<x>": token})
    lora = tiny_backbone.init_lora(2, generator=stream(0))
    embeds = tiny_backbone.sample_prior(text, generator=stream(1), lora=lora)
    images = tiny_backbone.decode_embeds(embeds.detach(), generator=stream(2))
    tiny_backbone.encode_image(images)
    embeds.sum().backward()

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(tiny_backbone.text_encoder, "forward", fail)
        with pytest.raises(RuntimeError, match="out of luck"):
            tiny_backbone.encode_text(["a <x>"], tokens={"<x>": token})
    after = state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not table._forward_hooks
    assert not any(p.requires_grad for m in tiny_backbone._modules() for p in m.parameters())


def test_nothing_draws_from_the_global_stream(tiny_backbone):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    text = tiny_backbone.encode_text(["a cat"])
    embeds = tiny_backbone.sample_prior(text, generator=streams(0, num=1))
    tiny_backbone.decode_embeds(embeds.detach(), generator=streams(1, num=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [2, 5])
def test_tokens_of_another_width_are_refused(tiny_backbone, count):
    with pytest.raises(ShapeError, match="another checkpoint"):
        tiny_backbone.encode_text(["a <x>"], tokens={"<x>": torch.zeros(count, 31)})


def test_prompts_too_long_or_empty_are_refused_not_cut(pocket, tiny_backbone):
    for backbone in (pocket, tiny_backbone):
        limit = backbone.text_encoder.config.max_position_embeddings - 2
        backbone.encode_text(["a " * limit])
        with pytest.raises(PromptError, match=f"at most {limit} tokens"):
            backbone.encode_text(["a " * (limit + 1)])
        with pytest.raises(PromptError, match="expected a word"):
            backbone.token_embed("  ")
    with pytest.raises(PromptError, match=r"at most \d+ tokens.*got 100"):
        pocket.encode_text(["pig " * 100])
    with pytest.raises(PromptError, match="at least one"):
        pocket.encode_text([])


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_the_adapter_offers_what_the_search_needs(tiny_backbone):
    assert isinstance(tiny_backbone, PriorBackbone)


def test_fingerprint_follows_the_weights_not_the_place(tiny_backbone, copied):
    assert UnclipBackbone.load(copied).fingerprint == tiny_backbone.fingerprint
    file = next((copied / "prior" / "prior").glob("*.safetensors"))
    weights = load_file(file)
    weights["proj_in.bias"] += 1
    save_file(weights, file)
    assert UnclipBackbone.load(copied).fingerprint != tiny_backbone.fingerprint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("poket", "name of a checkpoint, its folder, or a hub id"),
        ("nobody/nothing", "the hub did not give it"),
        ("./absent", "not one"),
    ],
)
def test_unknown_checkpoint(source, message):
    with pytest.raises(CheckpointError, match=message):
        UnclipBackbone.load(source)


def test_folder_that_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="prior/ and decoder/"):
        UnclipBackbone.load(tmp_path)
    for part in ("prior", "decoder"):
        (tmp_path / part).mkdir()
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        UnclipBackbone.load(tmp_path)


def test_a_device_that_is_not_there(tiny_folder):
    with pytest.raises(CheckpointError, match="'nonsense' cannot be used"):
        UnclipBackbone.load(tiny_folder, device="nonsense")


@pytest.mark.parametrize("part", ["prior/prior", "prior/text_encoder", "decoder/unet"])
def test_pickled_weights_are_refused(copied, part):
    for file in (copied / part).glob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(UnsafeWeightsError, match="can run code"):
        UnclipBackbone.load(copied)


@pytest.mark.parametrize("part", ["prior/prior", "prior/image_encoder", "decoder/movq"])
def test_damaged_weights_are_refused(copied, part):
    file = next((copied / part).glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        UnclipBackbone.load(copied)


@pytest.mark.parametrize("part", ["prior/prior", "prior/text_encoder", "decoder/unet"])
def test_weights_that_lack_a_tensor_are_refused_not_invented(copied, part):
    file = next((copied / part).glob("*.safetensors"))
    weights = load_file(file)
    lost = sorted(weights)[-1]
    del weights[lost]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=lost.split(".")[-1]):
        UnclipBackbone.load(copied)


@pytest.mark.parametrize("entry", [["os", "system"], ["diffusers", "logging"], ["diffusers", "No"]])
def test_an_index_cannot_name_arbitrary_code(copied, entry):
    file = copied / "prior" / "model_index.json"
    index = json.loads(file.read_text())
    index["prior"] = entry
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError):
        UnclipBackbone.load(copied)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("card.json", "{"),
        ("card.json", "[1]"),
        ("prior/model_index.json", "[]"),
        ("prior/prior/config.json", "{"),
        ("prior/image_processor/preprocessor_config.json", "{}"),
    ],
)
def test_damaged_settings_are_refused(copied, name, text):
    (copied / name).write_text(text)
    with pytest.raises(CheckpointError):
        UnclipBackbone.load(copied)


def test_a_component_that_is_not_there(copied):
    shutil.rmtree(copied / "prior" / "image_encoder")
    with pytest.raises(CheckpointError, match="not there"):
        UnclipBackbone.load(copied)
    with pytest.raises(CheckpointError, match="expected a component 'vae'"):
        PipelineFolder.open(copied / "prior").load("vae")
