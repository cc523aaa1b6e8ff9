"""The nodes. Files are chosen by name from ``models/offbeat`` and ComfyUI's ``embeddings``."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import folder_paths  # ComfyUI's own
import torch

from . import files

FOLDER = "offbeat"
if FOLDER not in folder_paths.folder_names_and_paths:
    place = os.path.join(folder_paths.models_dir, FOLDER)
    os.makedirs(place, exist_ok=True)
    folder_paths.folder_names_and_paths[FOLDER] = ([place], {".safetensors"})


def _names(kind: str, *folders: str) -> list[str]:
    """Return the files of one kind in ComfyUI's folders, as choices of a node."""
    names = {
        name
        for folder in folders
        for name in folder_paths.get_filename_list(folder)
        if name.endswith(".safetensors")
    }
    return sorted(name for name in names if files.kind_of(_path(name)) == kind)


def _directions() -> list[str]:
    """Return the directions of explorations: concepts of run folders in models/offbeat."""
    found = (Path(name) for name in _names("concept", FOLDER))
    return [name.as_posix() for name in found if name.name == "concept.safetensors"]


def _path(name: str) -> str:
    for folder in (FOLDER, "embeddings"):
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    raise files.OffbeatFileError(f"{name}: is neither in models/{FOLDER} nor in embeddings")


def _stamp(name: str) -> str:
    """Return what changes when a file does, for ComfyUI's cache."""
    return hashlib.blake2b(Path(_path(name)).read_bytes(), digest_size=16).hexdigest()


def _install(parts: dict) -> str:
    """Keep a token in ComfyUI's embeddings folder; returns its name there.

    The name comes from the content: the same token is written once, and two never share a name.
    """
    data = files.embedding_file(parts)
    name = f"offbeat-{hashlib.blake2b(data, digest_size=6).hexdigest()}"
    folder = Path(folder_paths.get_folder_paths("embeddings")[0])
    target = folder / f"{name}.safetensors"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle, temp = tempfile.mkstemp(dir=folder, prefix=".offbeat-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temp, target)
        except BaseException:
            Path(temp).unlink(missing_ok=True)
            raise
    return name


def _encoded(clip: object, concept: files.Concept, prompt: str) -> tuple:
    """Return conditioning and the prompt as ComfyUI reads it, ``embedding:NAME`` for each token."""
    text = concept.prompt(prompt)
    tokenizer = getattr(clip, "tokenizer", None)
    sizes = {
        name: getattr(getattr(tokenizer, name, None), "embedding_size", None)
        for name in files.ENCODERS
    }
    widths = {name: size for name, size in sizes.items() if isinstance(size, int)}
    for parts in concept.tokens.values():
        files.check_widths(parts, widths)
    for word in sorted(concept.tokens, key=len, reverse=True):
        # blanks around it: ComfyUI ends the name at one
        text = text.replace(word, f" embedding:{_install(concept.tokens[word])} ")
    text = " ".join(text.split())
    return _conditioning(clip, text), text


def _conditioning(clip: object, text: str) -> list:
    tokens = clip.tokenize(text)
    if hasattr(clip, "encode_from_tokens_scheduled"):
        return clip.encode_from_tokens_scheduled(tokens)
    states, pooled = clip.encode_from_tokens(tokens, return_pooled=True)  # ComfyUI of 2024
    return [[states, {"pooled_output": pooled}]]


def _between(start: list, end: list, strength: float) -> list:
    """Return a conditioning on the line through two: 0 is the first, 1 the second."""
    found = []
    for (first, told), (second, also) in zip(start, end, strict=True):
        length = min(first.shape[1], second.shape[1])
        states = torch.lerp(first[:, :length], second[:, :length], strength)
        extras = dict(also)
        pooled, other = told.get("pooled_output"), also.get("pooled_output")
        if pooled is not None and other is not None:
            extras["pooled_output"] = torch.lerp(pooled, other, strength)
        found.append([states, extras])
    return found


PROMPT = (
    "STRING",
    {"default": "", "multiline": True, "tooltip": "With {concept}; empty is its own."},
)


class OffbeatConcept:
    """Encode a prompt with a concept that Offbeat learned."""

    CATEGORY, FUNCTION = "offbeat", "encode"
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "STRING"), ("conditioning", "prompt")
    DESCRIPTION = "A concept.safetensors in a prompt, for the checkpoint that it was learned on."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return what the node takes."""
        return {
            "required": {
                "clip": ("CLIP",),
                "concept": (_names("concept", FOLDER, "embeddings"),),
                "prompt": PROMPT,
            }
        }

    @classmethod
    def IS_CHANGED(cls, concept: str, **_: object) -> str:
        """Return a digest of the file: a concept that was replaced is read anew."""
        return _stamp(concept)

    def encode(self, clip: object, concept: str, prompt: str) -> tuple:
        """Return the conditioning, and the prompt as ComfyUI reads it."""
        return _encoded(clip, files.read_concept(_path(concept)), prompt)


class OffbeatFuse:
    """Make one thing of several words, by a space that Offbeat trained."""

    CATEGORY, FUNCTION = "offbeat", "fuse"
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "STRING"), ("conditioning", "prompt")
    DESCRIPTION = "Weighted words as one token, by a distok.safetensors for the same checkpoint."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return what the node takes."""
        even = {"default": 1.0, "min": 0.05, "max": 5.0, "step": 0.05}
        even["tooltip"] = "Shares are raised to it: below 1 the lesser words show more."
        return {
            "required": {
                "clip": ("CLIP",),
                "space": (_names("space", FOLDER),),
                "weights": ("STRING", {"default": "pig=0.6, owl=0.4"}),
                "share_exponent": ("FLOAT", even),
                "prompt": PROMPT,
            }
        }

    @classmethod
    def IS_CHANGED(cls, space: str, **_: object) -> str:
        """Return a digest of the file."""
        return _stamp(space)

    def fuse(
        self, clip: object, space: str, weights: str, share_exponent: float, prompt: str
    ) -> tuple:
        """Return the conditioning, and the prompt as ComfyUI reads it."""
        found = files.read_space(_path(space))
        token = found.token(files.parse_weights(weights), share_exponent)
        parts = files.parts_of(token, found.encoders)
        concept = files.Concept(found.template, "<fused>", "fused words", {"<fused>": parts})
        return _encoded(clip, concept, prompt)


class OffbeatDirection:
    """Go from the ordinary subject into a direction that an exploration found."""

    CATEGORY, FUNCTION = "offbeat", "go"
    RETURN_TYPES, RETURN_NAMES = ("CONDITIONING", "STRING"), ("conditioning", "prompt")
    DESCRIPTION = "From the plain word, 0, to what `offbeat explore` found, 1, and beyond."

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return what the node takes."""
        strength = {"default": 1.0, "min": -2.0, "max": 3.0, "step": 0.05}
        strength["tooltip"] = "0 is the ordinary subject, 1 the direction, below 0 away from it."
        return {
            "required": {
                "clip": ("CLIP",),
                "direction": (_directions(),),
                "strength": ("FLOAT", strength),
                "prompt": PROMPT,
            }
        }

    @classmethod
    def IS_CHANGED(cls, direction: str, **_: object) -> str:
        """Return a digest of the file."""
        return _stamp(direction)

    def go(self, clip: object, direction: str, strength: float, prompt: str) -> tuple:
        """Return the conditioning, and the prompt of the direction itself."""
        concept = files.read_concept(_path(direction))
        reached, text = _encoded(clip, concept, prompt)
        plain = concept.prompt(prompt).replace(concept.word, concept.subject)
        return _between(_conditioning(clip, plain), reached, strength), text


class OffbeatNovelty:
    """Say how far pictures are from what a checkpoint usually draws."""

    CATEGORY, FUNCTION = "offbeat", "measure"
    RETURN_TYPES = ("FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("novelty", "times_ordinary", "text")
    OUTPUT_NODE = True
    DESCRIPTION = (
        "By the baseline.safetensors of an `offbeat explore` run, and its CLIP vision model."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        """Return what the node takes."""
        return {
            "required": {
                "clip_vision_output": ("CLIP_VISION_OUTPUT",),
                "baseline": (_names("baseline", FOLDER),),
            }
        }

    @classmethod
    def IS_CHANGED(cls, baseline: str, **_: object) -> str:
        """Return a digest of the file."""
        return _stamp(baseline)

    def measure(self, clip_vision_output: object, baseline: str) -> dict:
        """Return novelty, 0 to 1, of the median picture, and times as far as an ordinary one."""
        found = files.read_baseline(_path(baseline))
        distances = found.distance(clip_vision_output["image_embeds"])
        middle = float(distances.quantile(0.5))
        novelty, times = found.quantile(middle), found.times(middle)
        text = f"novelty {novelty:.4f}, {times:.2f} times as far as an ordinary picture"
        if len(distances) > 1:
            text += f" (median of {len(distances)})"
        return {"ui": {"text": [text]}, "result": (novelty, times, text)}


NODE_CLASS_MAPPINGS = {
    "OffbeatConcept": OffbeatConcept,
    "OffbeatFuse": OffbeatFuse,
    "OffbeatDirection": OffbeatDirection,
    "OffbeatNovelty": OffbeatNovelty,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "OffbeatConcept": "Offbeat: Concept",
    "OffbeatFuse": "Offbeat: Fuse words",
    "OffbeatDirection": "Offbeat: Direction",
    "OffbeatNovelty": "Offbeat: Novelty",
}
