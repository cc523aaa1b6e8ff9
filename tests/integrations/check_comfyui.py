"""Check the nodes and the exported files in ComfyUI itself; no part of the test suite.

    python tests/integrations/check_comfyui.py PATH_TO_COMFYUI

ComfyUI 0.3.64, with the packages that it needs, must be importable from there. torchvision and
torchaudio may be absent: stand-ins are enough, as no picture or sound of theirs is touched. The
CLIP has the published size and random weights.
"""

import asyncio
import importlib.util
import logging
import sys
import tempfile
import types
from pathlib import Path
from unittest.mock import MagicMock

import torch
from diffusers import UNet2DConditionModel  # they look for packages before stand-ins are there
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import offbeat
from offbeat.backbones.lora import init_lora
from offbeat.backbones.text import Encoder
from offbeat.checkpoints.known.unclip import POCKET
from offbeat.core.rng import stream
from offbeat.files.concept import CONCEPT_FILE, about_of, encode_concept
from offbeat.files.exchange import encode_export
from offbeat.files.lora import to_kohya
from offbeat.types import PLACEHOLDER, Concept

WIDTH = 768
PACK = Path(offbeat.__file__).parent / "comfyui"
LAYOUT = [("clip_l", WIDTH, 1.0)]
MADE = {"fingerprint": "f", "checkpoint": "sd", "method": "distok", "layout": LAYOUT}


def load_comfyui(place):
    """Import ComfyUI from its folder."""
    for package in ("torchvision", "torchaudio"):
        if importlib.util.find_spec(package) is None:
            for part in ("", ".transforms", ".transforms.functional", ".functional"):
                sys.modules[package + part] = MagicMock()
    sys.path.insert(0, str(place))
    sys.argv = ["check", "--cpu", "--fp32-text-enc"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfyui_version
    import folder_paths
    import nodes

    print("ComfyUI", comfyui_version.__version__)
    return folder_paths, nodes


def small_weights():
    """CLIP-L as SD 1.5 has it, with random weights; both sides get the same."""
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12,
        vocab_size=49408, projection_dim=WIDTH, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def comfy_clip(model, embeddings):
    import comfy.sd
    import comfy.sd1_clip

    target = types.SimpleNamespace(
        params={}, clip=comfy.sd1_clip.SD1ClipModel, tokenizer=comfy.sd1_clip.SD1Tokenizer
    )
    clip = comfy.sd.CLIP(target, embedding_directory=[str(embeddings)])
    names = {name if name.startswith("text_model") else f"text_model.{name}": weight
             for name, weight in model.state_dict().items()}  # fmt: skip
    missing, unexpected = clip.load_sd(names)
    assert not [name for name in missing if "logit_scale" not in name and "projection" not in name]
    assert not unexpected, unexpected
    return clip


def check_tokens(clip, encoder, pack, home):
    rows = torch.randn(2, WIDTH, generator=stream(1)) * 0.02
    concept = Concept(
        template="a photo of a {concept} in snow",
        subject="red fox",
        token_embeds={PLACEHOLDER: rows},
    )
    (home / "concept.safetensors").write_bytes(encode_concept(concept, **MADE)[CONCEPT_FILE])
    cond, text = pack["OffbeatConcept"]().encode(clip, "concept.safetensors", "")
    with torch.no_grad():
        output, _ = encoder.read([concept.prompt()], concept.token_embeds, to_limit=True)
        plain, _ = encoder.read(["a photo of a red fox in snow"], {}, to_limit=True)
    theirs, ours = cond[0][0], output.last_hidden_state
    apart = float((theirs - ours).abs().max())
    moved = float((ours - plain.last_hidden_state).abs().max())
    print(
        f"a concept in a prompt: {text!r}; apart from ours {apart:.1e}, from the plain {moved:.1e}"
    )
    assert apart < 1e-3 * moved
    half, _ = pack["OffbeatDirection"]().go(clip, "concept.safetensors", 0.0, "")
    assert float((half[0][0] - plain.last_hidden_state).abs().max()) < 1e-3 * moved

    about = about_of(encode_concept(concept, **MADE)[CONCEPT_FILE], "")
    import comfy.sd1_clip
    import folder_paths

    embeddings = folder_paths.get_folder_paths("embeddings")
    for style in ("common", "diffusers", "a1111", "comfyui"):
        ((name, data),) = encode_export(concept, about, style=style, layout=LAYOUT).items()
        (Path(embeddings[0]) / name).write_bytes(data)
        read = comfy.sd1_clip.load_embed(Path(name).stem, embeddings, WIDTH, "clip_l")
        assert torch.equal(read.reshape(-1, WIDTH), rows), style
    print("exported tokens: read by ComfyUI in the formats common, diffusers, a1111, comfyui")


def check_refused(clip, pack, home):
    (home / "distok.safetensors").write_bytes(
        (POCKET / "trained" / "distok.safetensors").read_bytes()
    )
    try:
        pack["OffbeatFuse"]().fuse(clip, "distok.safetensors", "pig, owl", 1.0, "{concept}")
    except ValueError as error:
        print("a space of another width is refused:", error)
    else:
        raise AssertionError("a space of another width was taken")


def check_lora():
    """Factors of SD 1.5's attention: kohya's names are taken, PEFT's are passed over."""
    import comfy.lora
    import comfy.lora_convert
    import comfy.ops
    import comfy.supported_models
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    settings = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "num_heads": 8,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
        "adm_in_channels": None,
    }  # fmt: skip
    with torch.device("meta"):
        unet = UNetModel(**settings, operations=comfy.ops.disable_weight_init)

    class Model:
        model_config = comfy.supported_models.SD15({**settings})

        def state_dict(self):
            return {f"diffusion_model.{name}": w for name, w in unet.state_dict().items()}

    with torch.device("meta"):
        ours = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
        )  # fmt: skip
    factors = init_lora(ours, 2, stream(1))
    keys = comfy.lora.model_lora_keys_unet(Model(), {})
    expected = len(factors) // 2
    for style, tensors in (("kohya", to_kohya(factors)), ("diffusers", factors)):
        taken = len(comfy.lora.load_lora(comfy.lora_convert.convert_lora(dict(tensors)), keys))
        print(f"LoRA in {style}'s names: ComfyUI takes {taken} of {expected} layers")
        assert taken == (expected if style == "kohya" else 0)


def main(place):
    folder_paths, nodes = load_comfyui(place)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as top:
        home, embeddings = Path(top) / "offbeat", Path(top) / "embeddings"
        home.mkdir()
        embeddings.mkdir()
        folder_paths.folder_names_and_paths["embeddings"] = ([str(embeddings)], {".safetensors"})
        folder_paths.folder_names_and_paths["offbeat"] = ([str(home)], {".safetensors"})
        assert asyncio.run(nodes.load_custom_node(str(PACK)))  # as ComfyUI loads a pack
        pack = nodes.NODE_CLASS_MAPPINGS
        model = small_weights()
        tokenizer = CLIPTokenizer.from_pretrained(Path(place) / "comfy" / "sd1_tokenizer")
        encoder = Encoder(tokenizer, model, "sd")
        clip = comfy_clip(model, embeddings)
        check_tokens(clip, encoder, pack, home)
        check_refused(clip, pack, home)
        check_lora()
        choices = pack["OffbeatConcept"].INPUT_TYPES()["required"]["concept"][0]
        assert "concept.safetensors" in choices
        assert "distok.safetensors" not in choices
    print("all as it should be")


if __name__ == "__main__":
    main(sys.argv[1])
