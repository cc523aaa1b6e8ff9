"""Rename the weights of open_clip (HPSv2 is published so) to those of transformers' CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

_MARK = "visual.conv1.weight"
_PARTS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",  # the library's own spelling
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "transformer.resblocks": "text_model.encoder.layers",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
_IN_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_TURNED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Kept as a matrix that rows are multiplied with: a linear layer keeps its transpose."""
_NO_WEIGHTS = ("attn_mask",)


def is_open_clip(names: Iterable[str]) -> bool:
    """Whether weights of these names are in open_clip's layout."""
    return any(name.removeprefix("module.") == _MARK for name in names)


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip's weights under the names of ``CLIPModel``.

    A name that is not known is kept as it is, for the loader to complain about.
    """
    renamed: dict[str, Tensor] = {}
    for full, weight in weights.items():
        name = full.removeprefix("module.")
        if name in _NO_WEIGHTS:
            continue
        if name in _TURNED:
            renamed[_TURNED[name]] = weight.T.contiguous()
            continue
        start = next((part for part in _PARTS if name == part or name.startswith(part + ".")), None)
        if start is None:
            renamed[name] = weight
            continue
        renamed |= _in_layer(_PARTS[start] + name[len(start) :], weight)
    return renamed


def _in_layer(name: str, weight: Tensor) -> dict[str, Tensor]:
    """Return one tensor of a layer under its new name; keys, queries and values are cut apart."""
    head, joined, kind = name.partition("attn.in_proj_")
    if joined:
        return {
            f"{head}self_attn.{part}_proj.{kind}": piece.contiguous()
            for part, piece in zip("qkv", weight.chunk(3), strict=True)
        }
    for old, new in _IN_LAYER.items():
        if f".{old}." in name:
            return {name.replace(f".{old}.", f".{new}."): weight}
    return {name: weight}
