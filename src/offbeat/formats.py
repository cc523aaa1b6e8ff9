"""Files that other tools read: learned tokens, LoRA factors, pictures with their recipe.

Everything here goes between values and bytes; ``store`` puts the bytes on disk.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat._disk import pack_tensors, plain, unpack_tensors
from offbeat.checks import check_shape
from offbeat.errors import ConfigError, CorruptRunError, ImageError
from offbeat.types import Concept, Trained

if TYPE_CHECKING:
    from PIL import Image

CONCEPT_FILE = "concept.safetensors"
LORA_FILE = "lora/pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder."""

IMAGE_EMBEDS = "image_embeds"
ARCHITECTURE = "kandinsky-unclip-prior"
FORMAT_VERSION = 1

MAX_PIXELS = 64_000_000
"""A picture with more is refused before it is decoded."""

RECIPE_KEY, PARAMETERS_KEY = "offbeat", "parameters"

_INFOTEXT = {
    "num_inference_steps": "Steps",
    "scheduler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "fingerprint": "Model hash",
    "checkpoint": "Model",
    "subject": "Offbeat subject",
    "method": "Offbeat method",
    "novelty": "Offbeat novelty",
    "index": "Offbeat image",
    "version": "Version",
}
"""Recipe entries that AUTOMATIC1111's text shows, in its order and under its names."""


# --- concepts -------------------------------------------------------------------------------


def encode_concept(
    concept: Concept, *, fingerprint: str, checkpoint: str, method: str
) -> dict[str, bytes]:
    """Return the files of a concept, by their path in a run folder.

    ``concept.safetensors`` is a textual-inversion file that diffusers loads, with everything else
    of the concept in its header. Factors of a LoRA are a file of their own, in the names of
    diffusers and PEFT, with alpha = rank.

    Args:
        concept: What was learned.
        fingerprint: Of the checkpoint that it was learned on.
        checkpoint: Its name.
        method: The method's name.

    Raises:
        ConfigError: If a placeholder has the name of another entry of the file.
        ShapeError: If a token is not ``[E]`` or ``[K, E]``.
    """
    if IMAGE_EMBEDS in concept.token_embeds:
        raise ConfigError(f"word: expected a placeholder other than {IMAGE_EMBEDS!r}")
    tensors = {word: _rows(word, vectors) for word, vectors in concept.token_embeds.items()}
    if concept.image_embeds is not None:
        tensors[IMAGE_EMBEDS] = concept.image_embeds.float()
    about = {
        "format": FORMAT_VERSION,
        "method": method,
        "subject": concept.subject,
        "template": concept.template,
        "word": concept.word,
        "checkpoint": checkpoint,
        "fingerprint": fingerprint,
        "tokens": sorted(concept.token_embeds),
        "lora": bool(concept.lora),
        "metadata": dict(concept.metadata),
        "versions": versions(),
    }
    labels = _modelspec(concept, "textual-inversion")
    files = {CONCEPT_FILE: pack_tensors(tensors, about, labels=labels)}
    if concept.lora:
        factors = {name: factor.float() for name, factor in concept.lora.items()}
        labels = {"format": "pt", **_modelspec(concept, "lora")}
        files[LORA_FILE] = pack_tensors(factors, about, labels=labels)
    return files


def decode_concept(read: Callable[[str], bytes | None]) -> tuple[Concept, dict[str, Any]]:
    """Return a concept and what its file says of it (method, checkpoint, fingerprint, versions).

    Args:
        read: Gives the content of a file by its path in the run folder, or None.

    Raises:
        CorruptRunError: If a file is missing, damaged or of another kind.
    """
    tensors, about = _unpacked(read, CONCEPT_FILE)
    try:
        wanted = set(about["tokens"])
        has_lora, metadata = bool(about["lora"]), dict(about["metadata"])
        template, subject, word = (str(about[key]) for key in ("template", "subject", "word"))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRunError(f"{CONCEPT_FILE}: its header lacks {error}") from error
    if set(tensors) - {IMAGE_EMBEDS} != wanted:
        raise CorruptRunError(
            f"{CONCEPT_FILE}: expected the tokens {sorted(wanted)}, got {sorted(tensors)}"
        )
    lora: dict[str, Tensor] = {}
    if has_lora:
        lora, beside = _unpacked(read, LORA_FILE)
        if beside != about:
            raise CorruptRunError(f"{LORA_FILE}: belongs to another concept than {CONCEPT_FILE}")
    concept = Concept(
        template=template,
        subject=subject,
        token_embeds={name: tensors[name] for name in about["tokens"]},
        lora=lora,
        image_embeds=tensors.get(IMAGE_EMBEDS),
        word=word,
        metadata=metadata,
    )
    return concept, about


def encode_trained(trained: Trained) -> bytes:
    """Return one safetensors file of what a method learned once, with all about it in its header.

    A single tensor, such as CreTok's row, makes it a textual-inversion file that diffusers loads.
    """
    about = {
        "format": FORMAT_VERSION,
        "trained": trained.method,
        "checkpoint": trained.checkpoint,
        "fingerprint": trained.fingerprint,
        "vocabulary": list(trained.vocabulary),
        "config": dict(trained.config),
        "readings": dict(trained.readings),
        "versions": versions(),
    }
    return pack_tensors({name: value.float() for name, value in trained.tensors.items()}, about)


def decode_trained(data: bytes, name: str) -> Trained:
    """Return what ``encode_trained`` was given; ``name`` is the file's, for errors.

    Raises:
        CorruptRunError: If the file is cut, changed or of another kind.
    """
    try:
        tensors, about = unpack_tensors(data)
        return Trained(
            method=str(about["trained"]),
            checkpoint=str(about["checkpoint"]),
            fingerprint=str(about["fingerprint"]),
            tensors=tensors,
            vocabulary=tuple(map(str, about["vocabulary"])),
            config=dict(about["config"]),
            readings=dict(about["readings"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRunError(
            f"{name}: expected what `offbeat train` writes, and it is cut, changed or of another "
            f"kind ({error})"
        ) from error


def _unpacked(
    read: Callable[[str], bytes | None], name: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    data = read(name)
    if data is None:
        raise CorruptRunError(f"{name} is missing: no concept was saved here, or it was removed")
    try:
        tensors, about = unpack_tensors(data)
    except ValueError as error:
        raise CorruptRunError(f"{name}: {error}") from error
    if not isinstance(about, dict):
        raise CorruptRunError(f"{name}: holds no concept")
    return tensors, about


def _rows(word: str, vectors: Tensor) -> Tensor:
    rows = vectors[None] if vectors.ndim == 1 else vectors
    check_shape(f"token_embeds[{word!r}]", rows, None, None)
    return rows.float()


def _modelspec(concept: Concept, kind: str) -> dict[str, str]:
    """Return header entries in Stability's ModelSpec, which galleries and UIs show."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURE}/{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": f"Unusual {concept.subject}",
        "modelspec.trigger_phrase": concept.prompt(),
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on, of offbeat and the libraries under it."""
    found = {}
    for name in ("offbeat", "torch", "diffusers", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # used from a source tree
            found[name] = "unknown"
    return found


# --- pictures -------------------------------------------------------------------------------


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return ``images``, ``[B, 3, H, W]``, 0 to 1, as PIL pictures."""
    from PIL import Image

    check_shape("images", images, None, 3, None, None)
    pixels = (images.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pixels]


def encode_png(picture: Image.Image, recipe: Mapping[str, Any]) -> bytes:
    """Return a PNG that says how it was made; the same picture and recipe, the same bytes.

    The chunk ``offbeat`` holds the recipe as JSON, the chunk ``parameters`` what AUTOMATIC1111 and
    the tools after it show. Width and height are taken from the picture.

    Args:
        picture: What was drawn.
        recipe: JSON values: ``prompt``, ``negative_prompt``, ``seed``, ``index``,
            ``num_inference_steps``, ``guidance_scale``, ``checkpoint``, ``fingerprint``, and all
            else that draws the same picture again.

    Raises:
        ConfigError: If the recipe cannot be written as JSON.
    """
    from PIL.PngImagePlugin import PngInfo

    try:
        text = json.dumps(plain(recipe), ensure_ascii=False, sort_keys=True, allow_nan=False)
        text.encode()  # half a surrogate pair is text to Python and to nobody else
    except (TypeError, ValueError) as error:
        raise ConfigError(f"recipe: expected JSON values ({error})") from error
    info = PngInfo()
    info.add_itxt(RECIPE_KEY, text)
    size = f"{picture.width}x{picture.height}"
    info.add_text(PARAMETERS_KEY, infotext({"size": size, **recipe}))
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def infotext(recipe: Mapping[str, Any]) -> str:
    r"""Return a recipe as AUTOMATIC1111 writes it: prompt, negative prompt, settings.

    >>> infotext({"prompt": "a pig", "seed": 3, "size": "64x64", "checkpoint": "pocket"})
    'a pig\nSeed: 3, Size: 64x64, Model: pocket'
    """
    lines = [_one_line(recipe.get("prompt") or "")]
    if negative := recipe.get("negative_prompt"):
        lines.append(f"Negative prompt: {_one_line(negative)}")
    settings = [
        f"{label}: {_quoted(recipe[key])}"
        for key, label in _INFOTEXT.items()
        if recipe.get(key) is not None
    ]
    return "\n".join([*lines, ", ".join(settings)])


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _quoted(value: Any) -> str:
    """Quote what would end a setting early, as AUTOMATIC1111 does."""
    text = _one_line(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the recipe of a picture that Offbeat drew.

    Raises:
        ImageError: If the file is no picture, or has no recipe: many sites and editors remove it.
    """
    with _opened(path) as picture:
        text = picture.info.get(RECIPE_KEY)
    if text is None:
        raise ImageError(
            f"{path}: holds no recipe of Offbeat; a site or an editor may have removed it"
        )
    try:
        recipe = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{path}: its recipe is damaged ({error})") from error
    if not isinstance(recipe, dict):
        raise ImageError(f"{path}: its recipe is damaged (expected an object)")
    return recipe


def read_infotext(path: str | Path) -> str:
    """Return what AUTOMATIC1111 and the tools after it keep in a picture: prompt and settings.

    Raises:
        ImageError: If the file is no picture, or keeps nothing.
    """
    with _opened(path) as picture:
        text = picture.info.get(PARAMETERS_KEY)
    if not text:
        raise ImageError(f"{path}: holds no settings; a site or an editor may have removed them")
    return str(text)


def _opened(path: str | Path) -> Image.Image:
    """Open a picture without decoding it; its size is checked first."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too large ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read as a picture ({error})") from error
    if picture.width * picture.height > MAX_PIXELS:
        size = f"{picture.width} x {picture.height}"
        picture.close()
        raise ImageError(
            f"{path}: expected at most {MAX_PIXELS:,} pixels, got {size}; make it smaller"
        )
    return picture
