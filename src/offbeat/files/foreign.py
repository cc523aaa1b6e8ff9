"""Settings that other tools keep in pictures: ComfyUI, InvokeAI, NovelAI, Fooocus, and in EXIF.

Each is turned into entries of a recipe, so that all are shown and read the same way. What is read
may be a stranger's: nothing of it is trusted beyond its type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from offbeat.files.disk import parse_json

USER_COMMENT = "UserComment"
"""Where EXIF keeps what AUTOMATIC1111 and Fooocus write into JPEG and WebP."""

Graph = Mapping[str, Any]
_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "invokeai": {
        "prompt": ("positive_prompt", "prompt"),
        "negative_prompt": ("negative_prompt",),
        "num_inference_steps": ("steps",),
        "guidance_scale": ("cfg_scale",),
        "scheduler": ("scheduler", "sampler"),
        "seed": ("seed",),
    },
    "novelai": {
        "prompt": ("prompt",),
        "negative_prompt": ("uc",),
        "num_inference_steps": ("steps",),
        "guidance_scale": ("scale",),
        "scheduler": ("sampler",),
        "seed": ("seed",),
    },
    "fooocus": {
        "prompt": ("prompt",),
        "negative_prompt": ("negative_prompt",),
        "num_inference_steps": ("steps",),
        "guidance_scale": ("guidance_scale",),
        "scheduler": ("sampler",),
        "seed": ("seed",),
        "checkpoint": ("base_model",),
        "version": ("version",),
    },
}
"""Entries of a recipe, and what each tool calls them."""


def settings_of(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a picture's entries say of how it was made; None if they say nothing known.

    Args:
        info: Texts of a picture by their keywords, EXIF's comment under ``UserComment``.
    """
    comment = text_of(info.get(USER_COMMENT))
    for keyword, read in (
        ("invokeai_metadata", _invokeai),
        ("sd-metadata", _invokeai),
        ("parameters", _fooocus),
        (USER_COMMENT, _fooocus),
        ("Comment", _novelai),
        ("prompt", _comfyui),
    ):
        values = _object(comment if keyword == USER_COMMENT else info.get(keyword))
        settings = read(values, info) if values else {}
        if settings := {name: value for name, value in settings.items() if value not in (None, "")}:
            return settings
    return None


def text_of(comment: Any) -> str | None:
    """Return EXIF's comment as text; it says its code in its first eight bytes."""
    if not isinstance(comment, bytes):
        return comment if isinstance(comment, str) else None
    code, body = comment[:8], comment[8:]
    if code == b"UNICODE\0":
        big = body[0::2].count(0) >= body[1::2].count(0)
        return body.decode("utf-16-be" if big else "utf-16-le", errors="replace").strip("\0\ufeff")
    if code in (b"ASCII\0\0\0", bytes(8)):
        return body.decode(errors="replace").strip("\0")
    return comment.decode(errors="replace").strip("\0")


def _object(text: Any) -> dict[str, Any]:
    """Return a JSON object; empty if it is none."""
    if not isinstance(text, str) or not text.lstrip().startswith("{"):
        return {}
    try:
        values = parse_json(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _entries(values: Mapping[str, Any], tool: str) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, keys in _NAMES[tool].items():
        named = (values.get(key) for key in keys)
        entries[name] = next((v for v in named if isinstance(v, str | int | float)), None)
    return entries


def _size(width: Any, height: Any) -> str | None:
    return f"{width}x{height}" if isinstance(width, int) and isinstance(height, int) else None


def _invokeai(values: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    drawn = values.get("image") if isinstance(values.get("image"), dict) else values
    assert isinstance(drawn, Mapping)
    settings = _entries(drawn, "invokeai")
    if isinstance(drawn.get("prompt"), list):  # before version 3: parts with weights
        parts = (part.get("prompt") for part in drawn["prompt"] if isinstance(part, dict))
        settings["prompt"] = " ".join(part for part in parts if isinstance(part, str))
    model = values.get("model")
    if isinstance(model, dict):
        model = model.get("name") or model.get("model_name")
    settings["checkpoint"] = model or values.get("model_weights")
    settings["size"] = _size(drawn.get("width"), drawn.get("height"))
    settings["version"] = f"InvokeAI {values.get('app_version') or ''}".strip()
    return settings if settings.get("prompt") or settings.get("seed") is not None else {}


def _fooocus(values: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    settings = _entries(values, "fooocus")
    numbers = [part for part in _words(values.get("resolution")) if part.isdigit()]
    settings["size"] = "x".join(numbers) if len(numbers) == 2 else None
    return settings if settings.get("prompt") else {}


def _novelai(values: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    if "NovelAI" not in str(info.get("Software")) and "uc" not in values:
        return {}
    settings = _entries(values, "novelai")
    settings["prompt"] = settings["prompt"] or info.get("Description")
    settings["checkpoint"] = info.get("Source")
    settings["size"] = _size(values.get("width"), values.get("height"))
    settings["version"] = "NovelAI"
    return settings


def _words(text: Any) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in str(text)).split()


# --- ComfyUI: a graph of nodes, whose inputs are values or [node, output]


def _comfyui(graph: Graph, info: Mapping[str, Any]) -> dict[str, Any]:
    nodes = {key: node["inputs"] for key, node in graph.items()
             if isinstance(node, dict) and isinstance(node.get("inputs"), dict)}  # fmt: skip
    sampler = next((key for key, inputs in nodes.items() if _samples(inputs)), None)
    if sampler is None:
        return {}
    settings: dict[str, Any] = {"version": "ComfyUI"}
    for inputs in _upstream(nodes, sampler):
        for name, keys in (
            ("seed", ("seed", "noise_seed")),
            ("num_inference_steps", ("steps",)),
            ("guidance_scale", ("cfg", "guidance")),
            ("scheduler", ("sampler_name",)),
            ("checkpoint", ("ckpt_name", "unet_name")),
        ):
            value = next((inputs[key] for key in keys if _is_value(inputs.get(key))), None)
            if value is not None:
                settings.setdefault(name, value)
        if size := _size(inputs.get("width"), inputs.get("height")):
            settings.setdefault("size", size)
        for name, keys in (
            ("prompt", ("positive", "conditioning")),
            ("negative_prompt", ("negative",)),
        ):
            link = next((inputs[key] for key in keys if _is_link(inputs.get(key))), None)
            if link is not None and name not in settings:
                settings[name] = _prompt(nodes, link)
    return settings


def _samples(inputs: Mapping[str, Any]) -> bool:
    return ("positive" in inputs and ("seed" in inputs or "noise_seed" in inputs)) or (
        "guider" in inputs and "sigmas" in inputs
    )


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _is_value(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _upstream(nodes: Mapping[str, Any], start: str) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of a node, and of those that it depends on, nearest first."""
    seen, waiting = {start}, [start]
    while waiting:
        inputs = nodes.get(waiting.pop(0), {})
        yield inputs
        links = (value[0] for value in inputs.values() if _is_link(value))
        for key in links:
            if key not in seen:
                seen.add(key)
                waiting.append(key)


def _prompt(nodes: Mapping[str, Any], link: Any) -> str | None:
    """Return the text that a conditioning is made of: the nearest."""
    keys = ("text", "text_g", "t5xxl", "clip_l", "prompt", "string", "value")
    for inputs in _upstream(nodes, link[0]):
        texts = (inputs[key] for key in keys if isinstance(inputs.get(key), str))
        if (text := next(texts, None)) is not None:
            return str(text)
    return None
