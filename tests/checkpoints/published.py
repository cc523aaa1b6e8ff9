"""Turn a tiny checkpoint into the layout of a published one: index, settings, names of files.

The facts are those of the hub's repositories: what ``model_index.json`` says, which settings the
configs of that time had, how tokenizers lie there, and what else stands beside the weights.
"""

import json
import shutil

from safetensors.torch import load_file, save_file

TRANSFORMERS, DIFFUSERS = "transformers", "diffusers"
CLIP = {
    "text_encoder": [TRANSFORMERS, "CLIPTextModel"],
    "tokenizer": [TRANSFORMERS, "CLIPTokenizer"],
}
PROJECTED = [TRANSFORMERS, "CLIPTextModelWithProjection"]
SD = {
    **CLIP,
    "unet": [DIFFUSERS, "UNet2DConditionModel"],
    "vae": [DIFFUSERS, "AutoencoderKL"],
}
PRIOR = {
    "image_encoder": [TRANSFORMERS, "CLIPVisionModelWithProjection"],
    "image_processor": [TRANSFORMERS, "CLIPImageProcessor"],
    "prior": [DIFFUSERS, "PriorTransformer"],
    "scheduler": [DIFFUSERS, "UnCLIPScheduler"],
    **CLIP,
    "text_encoder": PROJECTED,
}
FLOW = {
    "scheduler": [DIFFUSERS, "FlowMatchEulerDiscreteScheduler"],
    "vae": [DIFFUSERS, "AutoencoderKL"],
}
T5 = [TRANSFORMERS, "T5EncoderModel"], [TRANSFORMERS, "T5TokenizerFast"]
MOVQ = {"movq": [DIFFUSERS, "VQModel"], "unet": [DIFFUSERS, "UNet2DConditionModel"]}
INDEX = {
    "sd-1.5": {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": [TRANSFORMERS, "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": [DIFFUSERS, "PNDMScheduler"],
        **SD,
    },
    "sdxl": {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "force_zeros_for_empty_prompt": True,
        "add_watermarker": None,
        "scheduler": [DIFFUSERS, "EulerDiscreteScheduler"],
        **SD,
        "text_encoder_2": PROJECTED,
        "tokenizer_2": CLIP["tokenizer"],
    },
    "refiner": {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "force_zeros_for_empty_prompt": False,
        "add_watermarker": None,
        "requires_aesthetics_score": True,
        "scheduler": [DIFFUSERS, "EulerDiscreteScheduler"],
        **SD,
        "text_encoder": [None, None],
        "tokenizer": [None, None],
        "text_encoder_2": PROJECTED,
        "tokenizer_2": CLIP["tokenizer"],
    },
    "sd3.5": {
        "_class_name": "StableDiffusion3Pipeline",
        "_diffusers_version": "0.30.3.dev0",
        **FLOW,
        **dict.fromkeys(("text_encoder", "text_encoder_2"), PROJECTED),
        **dict.fromkeys(("tokenizer", "tokenizer_2"), CLIP["tokenizer"]),
        "text_encoder_3": T5[0],
        "tokenizer_3": T5[1],
        "transformer": [DIFFUSERS, "SD3Transformer2DModel"],
    },
    "flux": {
        "_class_name": "FluxPipeline",
        "_diffusers_version": "0.30.0.dev0",
        **FLOW,
        **CLIP,
        "text_encoder_2": T5[0],
        "tokenizer_2": T5[1],
        "transformer": [DIFFUSERS, "FluxTransformer2DModel"],
    },
    "kandinsky-2.1-prior": {
        "_class_name": "KandinskyPriorPipeline", "_diffusers_version": "0.17.0.dev0", **PRIOR,
    },
    "kandinsky-2.1": {
        "_class_name": "KandinskyPipeline",
        "_diffusers_version": "0.17.0.dev0",
        **MOVQ,
        "scheduler": [DIFFUSERS, "DDIMScheduler"],
        "text_encoder": ["kandinsky", "MultilingualCLIP"],
        "tokenizer": [TRANSFORMERS, "XLMRobertaTokenizerFast"],
    },
    "kandinsky-2.2-prior": {
        "_class_name": "KandinskyV22PriorPipeline", "_diffusers_version": "0.18.0.dev0", **PRIOR,
    },
    "kandinsky-2.2": {
        "_class_name": "KandinskyV22Pipeline",
        "_diffusers_version": "0.18.0.dev0",
        **MOVQ,
        "scheduler": [DIFFUSERS, "DDPMScheduler"],
    },
}  # fmt: skip
SCHEDULERS = {
    "PNDMScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
        "steps_offset": 1, "trained_betas": None, "clip_sample": False,
    },
    "EulerDiscreteScheduler": {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "clip_sample": False, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
        "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading",
        "trained_betas": None, "use_karras_sigmas": False,
    },
    "DDPMScheduler": {
        "beta_end": 0.012, "beta_schedule": "linear", "beta_start": 0.00085, "clip_sample": False,
        "num_train_timesteps": 1000, "prediction_type": "epsilon", "variance_type": "learned_range",
    },
}  # fmt: skip
NEWER = (
    "_name_or_path",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
    "latents_mean",
    "latents_std",
    "shift_factor",
    "force_upcast",
    "dropout",
    "attention_type",
    "reverse_transformer_layers_per_block",
)
"""Settings that configs of SD 1.5's time do not have; each has its default then."""
BESIDE = ("model.onnx", "openvino_model.bin", "flax_model.msgpack", "pytorch_model.bin")
"""What stands beside the weights in such repositories, and is not read."""


def publish(folder, kind, *, pieces=()):
    """Rewrite a tiny pipeline's folder as the published one of a kind is; return the folder.

    Args:
        folder: As ``tiny`` saved it.
        kind: A key of ``INDEX``.
        pieces: Components whose weights lie in two pieces.
    """
    index = INDEX[kind]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    for name, told in index.items():
        if not isinstance(told, list):
            continue
        place = folder / name
        if told[1] is None:
            shutil.rmtree(place, ignore_errors=True)
        elif name.startswith("tokenizer"):
            _old_tokenizer(place, told[1])
        elif name == "scheduler" and told[1] in SCHEDULERS:
            settings = {"_class_name": told[1], **SCHEDULERS[told[1]]}
            (place / "scheduler_config.json").write_text(json.dumps(settings))
        elif (place / "config.json").is_file():
            _old_config(place, told, NEWER if kind == "sd-1.5" else ())
            for beside in BESIDE:
                (place / beside).write_bytes(b"not read")
    for name in pieces:
        _in_pieces(folder / name)
    return folder


def _old_config(place, told, newer):
    config = json.loads((place / "config.json").read_text())
    if told[0] == DIFFUSERS:
        config = {key: value for key, value in config.items() if key not in newer}
        # before 0.9.0 the library takes a U-Net of fewer than 64 cells for one of 64
        config["_class_name"], config["_diffusers_version"] = told[1], "0.9.0"
    else:
        config.pop("dtype", None)
        config |= {"architectures": [told[1]], "torch_dtype": "float32"}
    (place / "config.json").write_text(json.dumps(config, indent=2))


def _old_tokenizer(place, kind):
    """Leave a CLIP tokenizer as vocab.json and merges.txt, and others as tokenizer.json."""
    config = json.loads((place / "tokenizer_config.json").read_text())
    kept = ("pad_token", "bos_token", "eos_token", "unk_token", "model_max_length", "mask_token")
    config = {name: config[name] for name in kept if name in config}
    if kind == "CLIPTokenizer" and (place / "tokenizer.json").is_file():
        model = json.loads((place / "tokenizer.json").read_text())["model"]
        (place / "vocab.json").write_text(json.dumps(model["vocab"]))
        (place / "merges.txt").write_text("#version: 0.2\n")
        (place / "tokenizer.json").unlink()
        config |= {"add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    (place / "special_tokens_map.json").write_text(json.dumps(named))
    config["tokenizer_class"] = kind.removesuffix("Fast")
    (place / "tokenizer_config.json").write_text(json.dumps(config))


def _in_pieces(place):
    (file,) = place.glob("*.safetensors")
    weights, places = load_file(file), {}
    for number in (1, 2):
        name = f"{file.stem}-0000{number}-of-00002.safetensors"
        part = {key: weights[key] for key in sorted(weights)[number - 1 :: 2]}
        save_file(part, place / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    file.unlink()
    told = {"metadata": {"total_size": 1}, "weight_map": places}
    (place / f"{file.name}.index.json").write_text(json.dumps(told))
