"""Weights in fewer bits: configurations of diffusers and transformers, for what is large.

Transformers and language models are quantised when they are loaded; CLIP, autoencoders and U-Nets,
most of which is no linear layer, stay as they are. Tables of words are no linear layers, so learned
tokens are placed as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch

from offbeat.errors import MissingExtraError

Quantize = Literal["nf4", "int8", "fp8"]
BITS: dict[str, float] = {"nf4": 4.5, "int8": 8.25, "fp8": 8.25}
"""Of a weight, its scales included."""
_KIND: ContextVar[str | None] = ContextVar("quantize", default=None)
_LARGE = ("T5EncoderModel", "Qwen3Model", "Qwen2_5_VLForConditionalGeneration", "Gemma2Model")


@contextmanager
def quantizing(kind: str | None) -> Iterator[None]:
    """Let what is large be loaded in fewer bits in this block."""
    token = _KIND.set(kind)
    try:
        yield
    finally:
        _KIND.reset(token)


def is_large(class_name: str) -> bool:
    """Return whether a component of a class is quantised."""
    return class_name.endswith("Transformer2DModel") or class_name in _LARGE


def settings_for(loader: Any, dtype: torch.dtype | None) -> dict[str, Any]:
    """Return what ``from_pretrained`` of a class is told beside the rest, maybe nothing.

    Args:
        loader: The class.
        dtype: Of what is computed.

    Raises:
        MissingExtraError: If the package that does it is not installed.
    """
    kind = _KIND.get()
    if kind is None or not is_large(loader.__name__):
        return {}
    library = "transformers" if loader.__name__ in _LARGE else "diffusers"
    try:
        return {"quantization_config": config_of(kind, library, dtype)}
    except ImportError as error:
        raise MissingExtraError(f"--quantize {kind}", "quantize") from error


def config_of(kind: str, library: str, dtype: torch.dtype | None) -> Any:
    """Return a quantisation's configuration, for models of diffusers or transformers."""
    import diffusers
    import transformers

    module: Any = diffusers if library == "diffusers" else transformers
    if kind == "nf4":
        return module.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    from torchao import quantization

    name = "Int8WeightOnlyConfig" if kind == "int8" else "Float8WeightOnlyConfig"
    return module.TorchAoConfig(getattr(quantization, name)())
