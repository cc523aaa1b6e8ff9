"""Pictures as files: PNG with the recipe that drew it, and the text that AUTOMATIC1111 shows."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offbeat.core.checks import check_finite, check_shape
from offbeat.core.samplers import title_of
from offbeat.errors import ConfigError, ImageError
from offbeat.files.disk import parse_json, plain
from offbeat.files.foreign import USER_COMMENT, settings_of, text_of

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000
"""A picture with more is refused before it is decoded."""

RECIPE_KEY, PARAMETERS_KEY, CONCEPT_KEY = "offbeat", "parameters", "offbeat-concept"

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


def to_pil(images: Tensor) -> list[Image.Image]:
    """Return ``images``, ``[B, 3, H, W]``, 0 to 1, as PIL pictures.

    Raises:
        NotFiniteError: If a pixel is NaN or infinite: it would become black without a word.
    """
    from PIL import Image

    check_shape("images", images, None, 3, None, None)
    check_finite("images", images, hint="weights or settings overflow; try --dtype float32")
    pixels = (images.detach().cpu().float().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()) for picture in pixels]


def pixels_of(picture: Image.Image) -> Tensor:
    """Return a picture as ``[3, H, W]``, 0 to 1: what ``to_pil`` makes the same picture of."""
    import numpy as np
    import torch

    values = torch.from_numpy(np.array(picture.convert("RGB")))
    return values.permute(2, 0, 1).float() / 255


def encode_png(
    picture: Image.Image, recipe: Mapping[str, Any], *, concept: bytes | None = None
) -> bytes:
    """Return a PNG that says how it was made; the same picture and recipe, the same bytes.

    The chunk ``offbeat`` holds the recipe as JSON, the chunk ``parameters`` what AUTOMATIC1111 and
    the tools after it show. Width and height are taken from the picture.

    Args:
        picture: What was drawn.
        recipe: JSON values: ``prompt``, ``negative_prompt``, ``seed``, ``index``,
            ``num_inference_steps``, ``guidance_scale``, ``checkpoint``, ``fingerprint``, and all
            else that draws the same picture again.
        concept: A small file that it is drawn with, to be kept in the chunk ``offbeat-concept``.

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
    if concept is not None:
        info.add_itxt(CONCEPT_KEY, base64.b64encode(concept).decode(), zip=True)
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def infotext(recipe: Mapping[str, Any]) -> str:
    r"""Return a recipe as AUTOMATIC1111 writes it: prompt, negative prompt, settings.

    >>> infotext({"prompt": "a pig", "seed": 3, "size": "64x64", "checkpoint": "pocket"})
    'a pig\nSeed: 3, Size: 64x64, Model: pocket'
    """
    lines = [_lines(recipe.get("prompt") or "")]
    if negative := recipe.get("negative_prompt"):
        lines.append(f"{NEGATIVE} {_lines(negative)}")
    shown = {**recipe, "scheduler": title_of(recipe.get("sampler") or recipe.get("scheduler"))}
    settings = [
        f"{label}: {_quoted(shown[key])}"
        for key, label in _INFOTEXT.items()
        if shown.get(key) is not None and _one_line(shown[key])
    ]
    return "\n".join([*lines, ", ".join(settings)])


NEGATIVE = "Negative prompt:"
_SETTING = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
"""A setting, as AUTOMATIC1111 finds it in the last line."""


def parse_infotext(text: str) -> dict[str, str]:
    r"""Return what AUTOMATIC1111 reads in an infotext: ``Prompt``, ``Negative prompt``, settings.

    >>> parse_infotext('a pig,\na "pink" one\nSteps: 3, Model: "a,b", Size: 64x64')["Model"]
    'a,b'
    """
    *lines, last = text.strip().split("\n")
    settings = _SETTING.findall(last)
    if len(settings) < 3:  # so few are taken for words of a prompt
        lines, settings = [*lines, last], []
    parts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    place = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            place, line = "Negative prompt", line.removeprefix(NEGATIVE).strip()
        parts[place].append(line)
    fields = {name: "\n".join(texts).strip() for name, texts in parts.items()}
    return {**fields, **{name: _unquoted(value) for name, value in settings}}


def _lines(text: Any) -> str:
    """Return a prompt as it survives: its lines stripped, and none that would end it early."""
    lines = [line.strip() for line in str(text).replace("\r", "\n").split("\n")]
    kept = [line for line in lines if line]
    return (" " if any(line.startswith(NEGATIVE) for line in kept[1:]) else "\n").join(kept)


def _one_line(text: Any) -> str:
    return " ".join(str(text).split())


def _quoted(value: Any) -> str:
    """Quote what would end a setting early, as AUTOMATIC1111 does."""
    text = _one_line(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,:"\n]', text) else text


def _unquoted(text: str) -> str:
    if len(text) < 2 or not text[0] == text[-1] == '"':
        return text
    try:
        return str(parse_json(text))
    except ValueError:
        return text


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Return the recipe of a picture that Offbeat drew.

    Raises:
        ImageError: If the file is no picture, or has no recipe: many sites and editors remove it.
    """
    text = _text(path, RECIPE_KEY)
    if text is None:
        raise ImageError(
            f"{path}: holds no recipe of Offbeat; a site or an editor may have removed it"
        )
    try:
        recipe = parse_json(text)
    except (TypeError, ValueError) as error:
        raise ImageError(f"{path}: its recipe is damaged ({error})") from error
    if not isinstance(recipe, dict):
        raise ImageError(f"{path}: its recipe is damaged (expected an object)")
    return recipe


def read_concept_file(path: str | Path) -> bytes | None:
    """Return the file of the concept that a picture keeps inside; None if it keeps none.

    Raises:
        ImageError: If the file is no picture, or what it keeps is damaged.
    """
    text = _text(path, CONCEPT_KEY)
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ImageError(f"{path}: the concept in it is damaged ({error})") from error


def same_pixels(path: str | Path, picture: Image.Image) -> bool:
    """Return whether a file shows just what ``picture`` does.

    Raises:
        ImageError: If it is no picture.
    """
    with _opened(path) as other:
        return other.size == picture.size and other.convert("RGB").tobytes() == picture.tobytes()


def read_infotext(path: str | Path) -> str:
    """Return prompt and settings that a picture keeps, as AUTOMATIC1111 writes them.

    Read are its text, EXIF's comment, and what ComfyUI, InvokeAI, NovelAI and Fooocus keep.

    Raises:
        ImageError: If the file is no picture, or keeps nothing.
    """
    info = _info(path, PARAMETERS_KEY)
    if settings := settings_of(info):
        return infotext(settings)
    text = info.get(PARAMETERS_KEY) or text_of(info.get(USER_COMMENT))
    if not text:
        raise ImageError(f"{path}: holds no settings; a site or an editor may have removed them")
    return str(text)


def _text(path: str | Path, key: str) -> Any:
    """Return what a picture keeps under a key; None if nothing."""
    return _info(path, key).get(key)


def _info(path: str | Path, key: str) -> dict[str, Any]:
    """Return the entries of a picture, those behind its pixels too where ``key`` is not before.

    Some tools write text behind the pixels: only then are these decoded.
    """
    with _opened(path) as picture:
        if key not in picture.info and picture.format == "PNG":
            with suppress(Exception):  # damaged pixels: what stands before them is known already
                picture.load()
        info: dict[str, Any] = {str(name): value for name, value in picture.info.items()}
        from PIL.ExifTags import IFD, Base

        with suppress(Exception):  # EXIF that is damaged says nothing
            exif = picture.getexif()
            info[USER_COMMENT] = exif.get_ifd(IFD.Exif).get(Base.UserComment)
            for tag in (Base.Make, Base.Model):  # where ComfyUI keeps its graph in WebP
                keyword, colon, text = str(exif.get(tag, "")).partition(":")
                if colon and keyword.lower() == "prompt":
                    info["prompt"] = text
        return info


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
