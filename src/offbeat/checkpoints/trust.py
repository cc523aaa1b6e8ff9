"""What a stranger's folder may say: data that is checked first, and never code that is run.

The libraries below could run code of a folder in three ways: by a class that the index names, by
settings that name code, and by pickled weights. All three are refused here, before a library reads
the folder. ``docs/security.md`` says what this leaves open.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from offbeat.errors import CheckpointError, OffbeatError, UnsafeWeightsError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

MODULES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "kandinsky": "diffusers.pipelines.kandinsky.text_encoder",
}
"""The libraries that an index may name, and the module that each stands for."""
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")
CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "tokenizer": {
        "transformers": (
            *TOKENIZERS,
            "XLMRobertaTokenizer",
            "XLMRobertaTokenizerFast",
            "Qwen2Tokenizer",
            "Qwen2TokenizerFast",
            "GemmaTokenizer",
            "GemmaTokenizerFast",
        ),
    },
    "text_encoder": {
        "transformers": (
            "CLIPTextModel",
            "CLIPTextModelWithProjection",
            "T5EncoderModel",
            "Qwen3Model",
            "Qwen2_5_VLForConditionalGeneration",
            "Gemma2Model",
        ),
        "kandinsky": ("MultilingualCLIP",),
    },
    "image_encoder": {"transformers": ("CLIPVisionModelWithProjection",)},
    "unet": {"diffusers": ("UNet2DConditionModel",)},
    "transformer": {
        "diffusers": (
            "SD3Transformer2DModel",
            "FluxTransformer2DModel",
            "ChromaTransformer2DModel",
            "ZImageTransformer2DModel",
            "QwenImageTransformer2DModel",
            "SanaTransformer2DModel",
        )
    },
    "prior": {"diffusers": ("PriorTransformer",)},
    "vae": {"diffusers": ("AutoencoderKL", "AutoencoderKLQwenImage", "AutoencoderDC")},
    "movq": {"diffusers": ("VQModel",)},
    "scheduler": {"diffusers": ("*Scheduler",)},
}
"""Library and classes of each component; ``*Scheduler`` is every scheduler of diffusers."""

MAX_NUMBER, MAX_LENGTH = 10**9, 100_000
LIMITS = {"num_train_timesteps": 100_000, "layers": 1000, "layers_per_block": 100}
"""The largest value of a setting by the end of its name, and ``MAX_NUMBER`` of any other."""
ADAPTER_CONFIG = "adapter_config.json"
NAMES_CODE = (
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "custom_generate",
)
"""Settings whose value, if it is a repository, is code to be fetched and run."""


def component_class(name: str, library: Any, class_name: Any) -> Any:
    """Return the class of a component that an index names; nothing else is imported.

    Args:
        name: Of the component, such as ``text_encoder_2``.
        library: As the index has it.
        class_name: As the index has it.

    Raises:
        CheckpointError: If the component, the library or the class is not one of those known.
    """
    known = CLASSES.get(name.rstrip("_0123456789"), {})
    if not known:
        raise CheckpointError(f"{name}: expected a component of {', '.join(CLASSES)}")
    classes = known.get(library, ()) if isinstance(library, str) else ()
    if not isinstance(class_name, str) or not _is_among(class_name, classes):
        expected = [f"{lib}.{one}" for lib, names in known.items() for one in names]
        raise CheckpointError(
            f"{name}: expected the class to be one of {', '.join(expected)}, got "
            f"{library!r}, {class_name!r}; no other class is imported, as it could run code"
        )
    found = getattr(import_module(MODULES[library]), class_name, None)
    if found is None or not hasattr(found, "from_pretrained"):
        raise CheckpointError(f"{name}: the {library} installed here has no class {class_name}")
    return found


def _is_among(class_name: str, classes: tuple[str, ...]) -> bool:
    if class_name in classes:
        return True
    return (
        "*Scheduler" in classes and class_name.isidentifier() and class_name.endswith("Scheduler")
    )


def check_settings(folder: Path) -> None:
    """Raise if settings name code, the weights of another model, or numbers beyond all sizes.

    A scheduler with ``num_train_timesteps: 1e10`` would fill the memory before anything is checked.

    Classes that ``auto_map`` names for other programs are allowed: they are not read here.

    Raises:
        CheckpointError: With the file and the setting.
    """
    if (file := folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{file}: an adapter's settings in place of a model's: it names code and weights of "
            "another model. Merge the adapter where you trust it, and save the model"
        )
    for file in sorted(folder.glob("*.json")):
        if file.name not in ("config.json", "generation_config.json", "scheduler_config.json"):
            continue
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # the library says what is wrong with it
        for key, value in _entries(settings):
            if key in NAMES_CODE and "/" in str(value):
                raise CheckpointError(
                    f"{file}: the setting {key} = {str(value)[:80]!r} names code to be fetched and "
                    "run, which is refused; delete the setting"
                )
            limit = next((top for end, top in LIMITS.items() if key.endswith(end)), MAX_NUMBER)
            if isinstance(value, list):
                value, limit = len(value), MAX_LENGTH
            if isinstance(value, float) and limit == MAX_NUMBER and math.isinf(value):
                continue  # schedulers say "no limit" so
            if isinstance(value, int | float) and not abs(value) <= limit:
                raise CheckpointError(
                    f"{file}: {key}: expected at most {limit:,}, got {value}; the settings are "
                    "damaged"
                )


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key and value of nested objects and lists."""
    left = [settings]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield from part.items()
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)


@contextmanager
def readable(source: object) -> Iterator[None]:
    """Say that a checkpoint's settings are damaged where this block fails by their values.

    Raises:
        CheckpointError: In place of errors that are not Offbeat's own.
    """
    try:
        yield
    except OffbeatError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{source}: its settings are damaged, or of another kind of checkpoint "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from error


def refuse_broken(module: Any, place: Path) -> None:
    """Raise if a weight holds NaN or infinity: it would draw black pictures without a word.

    Args:
        module: As it was loaded.
        place: The folder or file that it came from, for the error.

    Raises:
        CheckpointError: With the weight's name.
    """
    for name, weight in module.state_dict().items():
        if not weight.is_floating_point() or weight.is_meta or not weight.numel():
            continue
        low, high = (weight if weight.element_size() > 1 else weight.float()).aminmax()
        if not (low.isfinite() and high.isfinite()):
            dtype = str(weight.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{place}: expected finite weights, and {name} holds NaN or infinity as {dtype}; "
                "the file is damaged, or its numbers do not fit this type: try --dtype float32, "
                "or fetch it again"
            )


def refuse_pickles(folder: Path) -> None:
    """Raise unless a folder has weights in safetensors.

    Raises:
        CheckpointError: If it has no weights.
        UnsafeWeightsError: If it has pickled ones alone: with the file, and how to convert it.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise UnsafeWeightsError(
            f"{pickled[0]}: pickled weights can run code when read, so they are refused. Load them "
            "once where you trust them and save with safe_serialization=True."
        )
    raise CheckpointError(f"{folder}: expected weights in *.safetensors, and found none")
