"""Tokens that people have: every layout, words that are whole, and negative prompts."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import Parameter, ParameterDict

import tiny
import tiny_flow
from offbeat import again, generate, import_concept, load_backbone
from offbeat.backbones.text import Encoder
from offbeat.checkpoints.placement import Placement
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, FingerprintError, PromptError, ShapeError, StoreError
from offbeat.files.concept import CONCEPT_FILE, encode_concept
from offbeat.types import Concept

WIDTH = 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    return {
        "sd": tiny.build_sd(root / "sd", "sd", adapter=False),
        "xl": tiny.build_sd(root / "xl", "xl", adapter=False),
        "flux": tiny_flow.build_flux(root / "flux"),
    }


def rows(num, width=WIDTH, seed=1):
    return torch.randn(num, width, generator=stream(seed, "rows", num, width)) * 0.2


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("charturner.pt", lambda v: {"string_to_token": {"*": 265}, "string_to_param": {"*": v},
                                     "name": "charturnerv2", "step": 500}, "<charturner>"),
        ("first.pt", lambda v: {"string_to_param": ParameterDict({"*": Parameter(v)})}, "<first>"),
        ("bare.pt", lambda v: v, "<bare>"),
        ("learned_embeds.bin", lambda v: {"<cat-toy>": v[0]}, "<cat-toy>"),
        ("plain.safetensors", lambda v: {"toy": v[0].clone()}, "<toy>"),
        ("star.safetensors", lambda v: {"*": v[0].clone()}, "<star>"),
        ("EasyNegative.safetensors", lambda v: {"emb_params": v.half()}, "<EasyNegative>"),
    ],
)  # fmt: skip
def test_a_token_of_one_encoder_is_read(folders, tmp_path, name, content, word):
    vectors = rows(2)
    kept = content(vectors)
    (save_file if name.endswith(".safetensors") else torch.save)(kept, tmp_path / name)
    concept = import_concept(tmp_path / name, backbone=folders["sd"]).concept
    (read,) = concept.token_embeds.values()
    assert (concept.word, list(concept.token_embeds)) == (word, [word])
    torch.testing.assert_close(read, vectors[: len(read)], rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("form", "names", "widths"),
    [
        ("xl", ("text_encoders_0", "text_encoders_1"), (32, 16)),
        ("xl", ("clip_l", "clip_g"), (32, 16)),
        ("flux", ("clip_l", "t5"), (32, 64)),
        ("flux", ("text_encoders_0", "text_encoders_1"), (32, 64)),
    ],
)
def test_rows_of_two_encoders_find_theirs(folders, tmp_path, form, names, widths):
    model = load_backbone(folders[form])
    parts = {name: rows(2, width) for name, width in zip(names, widths, strict=True)}
    save_file(parts, tmp_path / "two.safetensors")
    concept = import_concept(tmp_path / "two.safetensors", backbone=model).concept
    read = model.token_parts(concept.token_embeds["<two>"])
    for (_, part), expected in zip(read, parts.values(), strict=True):
        torch.testing.assert_close(part, expected)


def test_a_word_never_replaces_letters_of_another(folders):
    model = load_backbone(folders["sd"])
    encoder = model._encoders[0]
    assert isinstance(encoder, Encoder)
    vectors = {"toy": rows(1), "*": rows(1, seed=2), "<x>": rows(1, seed=3)}

    def places(prompt):
        return len(encoder._cut(prompt, vectors)[1])

    assert [places(p) for p in ("a toy, a toy!", "toys and atoy", "toy_2", "toy-box")] == [
        2,
        0,
        0,
        1,
    ]
    assert [places(p) for p in ("a photo of *", "*, red", "2*3", "a<x>b <x><x>")] == [1, 1, 0, 3]


def test_a_negative_embedding_is_named_in_a_negative_prompt(folders, tmp_path):
    file = tmp_path / "EasyNegative.safetensors"
    save_file({"emb_params": rows(8)}, file)
    place = Placement(embeddings=(str(file),))
    drawing = {"num_images": 1, "num_inference_steps": 2, "backbone": folders["sd"]}

    def drawn(negative, **settings):
        run = generate("a fox", negative_prompt=negative, **drawing, **settings)
        return run.images[0].tobytes()

    by_name = drawn("EasyNegative, red", device=place, out=tmp_path / "run")
    assert by_name == drawn("<EasyNegative>, red", device=place)
    assert by_name == drawn("embedding:EasyNegative, red", device=place)
    assert by_name != drawn("EasyNegative, red")
    assert by_name != drawn("red", device=place)
    model = load_backbone(folders["sd"], embeddings=str(file))
    (told,) = model.numerics["embeddings"]
    assert told["path"] == str(file)
    picture = tmp_path / "run" / "images" / "0000.png"
    assert again(picture).same
    file.rename(tmp_path / "gone")
    with pytest.raises(StoreError, match="--source"):
        again(picture)


def test_75_vectors_fit_alone_and_else_the_message_names_what_helps(folders, tmp_path):
    file = tmp_path / "ng_deepnegative_v1_75t.safetensors"
    save_file({"emb_params": rows(75).half()}, file)
    with pytest.raises(PromptError, match=r"--prompt \{concept\}.*--embedding FILE"):
        import_concept(file, backbone=folders["sd"])
    assert import_concept(file, backbone=folders["sd"], prompt="{concept}").concept.token_embeds
    run = generate(
        "a fox",
        negative_prompt=file.stem,
        num_images=1,
        num_inference_steps=1,
        backbone=folders["sd"],
        device=Placement(embeddings=(str(file),)),
    )
    assert run.request["negative_prompt"] == file.stem


def test_an_embedding_that_is_none_is_refused(folders, tmp_path):
    save_file({"emb_params": rows(1, 7)}, tmp_path / "wide.safetensors")
    with pytest.raises(ShapeError, match="got 7"):
        load_backbone(folders["sd"], embeddings=str(tmp_path / "wide.safetensors"))
    concept = Concept(template="{concept}", subject="x", token_embeds={"<x>": rows(1)}, word="<x>")
    made = {"fingerprint": "another", "checkpoint": "sdxl", "method": "distok"}
    (tmp_path / "own.safetensors").write_bytes(encode_concept(concept, **made)[CONCEPT_FILE])
    with pytest.raises(FingerprintError, match="learned on sdxl"):
        load_backbone(folders["sd"], embeddings=str(tmp_path / "own.safetensors"))
    lora = {f"unet.x.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    save_file(lora, tmp_path / "lora.safetensors")
    with pytest.raises(ConfigError, match="--lora"):
        load_backbone(folders["sd"], embeddings=str(tmp_path / "lora.safetensors"))
    with pytest.raises(StoreError, match="cannot be read"):
        load_backbone(folders["sd"], embeddings="absent.safetensors")
