"""Plain pipelines of diffusers load the files that we write, and draw what we draw."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import (
    FluxPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import load_file

import tiny
import tiny_flow
from offbeat.backbones.flow.flux import FluxBackbone
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.core.rng import stream
from offbeat.files.concept import CONCEPT_FILE, about_of, made_on
from offbeat.files.exchange import encode_export
from offbeat.runs.result import concept_files
from offbeat.types import Concept

WORD = "<odd-fox>"
PROMPT = f"a photo of a {WORD} in the snow"
STEPS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("other-side")
    return {
        "sd": tiny.build_sd(root / "sd", "sd", adapter=False),
        "xl": tiny.build_sd(root / "xl", "xl", adapter=False),
        "2.2": tiny.build(root / "k", "2.2"),
    }


def load(folders, form):
    return (UnclipBackbone if form == "2.2" else StableDiffusionBackbone).load(folders[form])


def learned(backbone, num=2, rank=None):
    """A token with random rows as large as the checkpoint's, and factors that show."""
    like = backbone.token_embeds("a quick red fox")
    rows = torch.randn(num, like.shape[-1], generator=stream(1)) * float(like.std())
    lora = {}
    if rank:
        make = getattr(backbone, "init_unet_lora", None) or backbone.init_lora
        for name, part in make(rank, generator=stream(2)).items():
            drawn = torch.randn(part.shape, generator=stream(3, name)) * 0.3
            lora[name] = part if "lora_A" in name else drawn
    return Concept(
        template=PROMPT.replace(WORD, "{concept}"),
        subject="odd fox",
        token_embeds={WORD: rows},
        lora=lora,
        word=WORD,
    )


def written(folder, concept, backbone, style):
    """The concept's files as ``offbeat export`` writes them."""
    made = made_on(backbone)
    about = about_of(concept_files([concept], backbone)[CONCEPT_FILE], "")
    files = encode_export(concept, about, style=style, layout=made["layout"])
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def pipeline(folders, form):
    kind = StableDiffusionXLPipeline if form == "xl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(folders[form], local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read_to_the_end(encoder, tokenizer):
    """Mend what published configurations say of the end token: see docs/files.md."""
    encoder.config.eos_token_id = tokenizer.eos_token_id
    getattr(encoder, "text_model", encoder).eos_token_id = tokenizer.eos_token_id


def load_token(pipe, path):
    """Load a token as docs/files.md says."""
    if not hasattr(pipe, "text_encoder_2"):
        return pipe.load_textual_inversion(path, token=WORD)
    rows = load_file(path)
    for name, end in (("clip_l", ""), ("clip_g", "_2")):
        parts = {"text_encoder": getattr(pipe, f"text_encoder{end}")}
        parts["tokenizer"] = getattr(pipe, f"tokenizer{end}")
        pipe.load_textual_inversion(rows[name], token=WORD, **parts)


@torch.no_grad()
def theirs(pipe, latents):
    images = pipe(
        PROMPT, latents=latents, num_inference_steps=STEPS, guidance_scale=4.0, output_type="np"
    ).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def ours(backbone, concept, latents):
    text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    with backbone.adapted(concept.lora):
        latents = backbone.denoise(
            latents, text, generator=stream(0), num_inference_steps=STEPS, guidance_scale=4.0
        )
    return backbone.decode(latents)


def largest(one, other):
    return float((one - other).abs().max())


@pytest.mark.parametrize(
    ("form", "style"), [("sd", "diffusers"), ("sd", "a1111"), ("xl", "diffusers")]
)
def test_a_token_draws_the_same_in_their_pipeline(folders, tmp_path, form, style):
    backbone, pipe = load(folders, form), pipeline(folders, form)
    concept = learned(backbone)
    (path,) = written(tmp_path, concept, backbone, style)
    latents = torch.randn(1, 4, 8, 8, generator=stream(5))
    load_token(pipe, path)
    drawn = ours(backbone, concept, latents)
    if form == "xl":  # its U-Net hears the pooled vector, which the published configuration spoils
        unmended = theirs(pipe, latents)
        read_to_the_end(pipe.text_encoder_2, pipe.tokenizer_2)
        assert largest(drawn, unmended) > 1e-3
    assert largest(drawn, theirs(pipe, latents)) < 1e-4
    other = Concept(template=concept.template, subject="x", token_embeds={}, word="fox")
    assert largest(drawn, ours(backbone, other, latents)) > 3e-3


@pytest.mark.parametrize("style", ["diffusers", "kohya"])
@pytest.mark.parametrize("form", ["sd", "xl"])
def test_factors_draw_the_same_in_their_pipeline(folders, tmp_path, form, style):
    backbone, pipe = load(folders, form), pipeline(folders, form)
    concept = learned(backbone, rank=2)
    token, lora = written(tmp_path, concept, backbone, style)
    load_token(pipe, token)
    if form == "xl":
        read_to_the_end(pipe.text_encoder_2, pipe.tokenizer_2)
    latents = torch.randn(1, 4, 8, 8, generator=stream(5))
    without = theirs(pipe, latents)
    pipe.load_lora_weights(lora.parent, weight_name=lora.name)
    drawn = ours(backbone, concept, latents)
    assert largest(drawn, theirs(pipe, latents)) < 1e-4
    assert largest(drawn, without) > 1e-2


@torch.no_grad()
def test_a_prior_s_token_and_factors_draw_the_same_in_their_pipelines(folders, tmp_path):
    backbone = load(folders, "2.2")
    concept = learned(backbone, num=1, rank=2)
    token, lora = written(tmp_path, concept, backbone, "diffusers")
    where = folders["2.2"]
    prior = KandinskyV22PriorPipeline.from_pretrained(where / "prior", local_files_only=True)
    decoder = KandinskyV22Pipeline.from_pretrained(where / "decoder", local_files_only=True)
    for pipe in (prior, decoder):
        pipe.set_progress_bar_config(disable=True)
    prior.tokenizer.add_tokens(WORD)  # Kandinsky's pipelines load no tokens: their loader's steps
    prior.text_encoder.resize_token_embeddings(len(prior.tokenizer), mean_resizing=False)
    table = prior.text_encoder.get_input_embeddings().weight
    table[prior.tokenizer.convert_tokens_to_ids(WORD)] = load_file(token)[WORD]
    read_to_the_end(prior.text_encoder, prior.tokenizer)

    def embeds():
        return prior(
            PROMPT, generator=stream(1), num_inference_steps=STEPS, guidance_scale=4.0
        ).image_embeds

    without = embeds()
    prior.prior.load_lora_adapter(lora.parent, prefix=None, weight_name=lora.name)
    found = embeds()
    text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    settings = {"num_inference_steps": STEPS, "prior_guidance_scale": 4.0}
    mine = backbone.sample_prior(text, generator=stream(1), lora=concept.lora, **settings)
    torch.testing.assert_close(mine, found, rtol=1e-4, atol=1e-4)
    assert largest(mine, without) > 1e-2
    images = decoder(
        image_embeds=found,
        negative_image_embeds=backbone.unconditional_embeds(),
        generator=stream(2),
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        height=32,
        width=32,
        output_type="np",
    ).images
    drawn = backbone.decode_embeds(
        mine, generator=stream(2), num_inference_steps=STEPS, guidance_scale=4.0
    )
    assert largest(drawn, torch.from_numpy(images).permute(0, 3, 1, 2)) < 1e-3


@torch.no_grad()
def test_a_token_of_flux_draws_the_same_in_their_pipeline(tmp_path):
    folder = tiny_flow.build_flux(tmp_path / "flux")
    backbone = FluxBackbone.load(folder)
    concept = learned(backbone)
    (path,) = written(tmp_path, concept, backbone, "diffusers")
    pipe = FluxPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    rows = load_file(path)
    for name, end in (("clip_l", ""), ("t5xxl", "_2")):
        parts = {"text_encoder": getattr(pipe, f"text_encoder{end}")}
        parts["tokenizer"] = getattr(pipe, f"tokenizer{end}")
        pipe.load_textual_inversion(rows[name], token=WORD, **parts)

    def draw_with(pipe):
        images = pipe(
            PROMPT,
            generator=stream(5),
            guidance_scale=4.0,
            num_inference_steps=STEPS,
            height=16,
            width=16,
            max_sequence_length=tiny_flow.FLOW_CARD["max_sequence_length"],
            output_type="np",
        ).images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    unmended = draw_with(pipe)
    read_to_the_end(pipe.text_encoder, pipe.tokenizer)
    text = backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    drawn = backbone.draw_text(
        text, generator=stream(5), num_inference_steps=STEPS, guidance_scale=4.0
    )
    assert largest(drawn, draw_with(pipe)) < 1e-4
    assert largest(drawn, unmended) > 1e-3


def test_every_header_is_text(folders, tmp_path):
    """ModelSpec and kohya's readers take strings alone."""
    backbone = load(folders, "sd")
    for path in written(tmp_path, learned(backbone, rank=2), backbone, "kohya"):
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        assert header.keys() >= {"modelspec.architecture", "modelspec.title", "offbeat"}
        assert all(isinstance(value, str) for value in header.values())


def test_the_page_s_program_draws_a_token_on_pocket_sd(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "files.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(from pathlib.*?)^```", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokens").mkdir()
    backbone = StableDiffusionBackbone.load("pocket-sd")
    rows = backbone.token_embeds("owl")
    owl = Concept(template="{concept}", subject="teapot", token_embeds={"<teapot>": rows},
                  word="<teapot>")  # fmt: skip
    written(tmp_path / "tokens", owl, backbone, "common")
    names = {}
    exec(program, names)  # the word <teapot> is an owl here
    pipe, sizes = names["pipe"], {"height": 128, "width": 128, "guidance_scale": 2.5}
    pictures = [
        pipe(f"a picture of a {word}", generator=stream(0), output_type="pt", **sizes).images
        for word in ("<teapot>", "owl", "teapot")
    ]
    assert largest(pictures[0], pictures[1]) < 1e-4
    assert largest(pictures[0], pictures[2]) > 0.1
    assert (tmp_path / "teapot.png").exists()
