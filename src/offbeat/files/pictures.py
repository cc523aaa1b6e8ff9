"""Read the user's own pictures from untrusted files.

Every picture comes back as a square of one size, so that a list of them can be stacked. It is made
square by padding, not by cropping: what matters may stand at an edge. The padding has the median
colour of the picture's own border, so a product photo on grey stays one on grey. Transparent parts
are laid over white.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from offbeat.errors import ConfigError, ImageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif"}
)
"""What ``read_folder`` takes for a picture."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is decoded, by content; formats that run other programs (EPS) are left out."""


def read_picture(path: str | Path, *, size: int = 256, max_megapixels: float = 64.0) -> Tensor:
    """Read one picture as a square.

    The camera's rotation and the colour profile are applied, grey and palette pictures become RGB,
    16 bits of grey become float without loss, transparent parts are laid over white, and of an
    animation the first frame counts.

    Args:
        path: A PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF file, known by its content.
        size: Side of the square, pixels.
        max_megapixels: Larger pictures are refused before they are decoded.

    Returns:
        ``[3, size, size]``, float32, 0 to 1, RGB.

    Raises:
        ConfigError: If ``size`` or ``max_megapixels`` is not positive.
        ImageError: If the file cannot be read, is no picture, or is too large.
    """
    if size < 1 or not max_megapixels > 0:
        raise ConfigError(
            f"size, max_megapixels: expected positive numbers, got {size}, {max_megapixels}"
        )
    return _square(_decoded(path, size, max_megapixels), size)


def read_whole(path: str | Path, *, longest: int = 1024, max_megapixels: float = 64.0) -> Tensor:
    """Read one picture in its own shape and size, for what resizes it in a way of its own.

    All else is as in ``read_picture``.

    Args:
        path: As in ``read_picture``.
        longest: One with a side of twice this or more is reduced by a whole number, so that no
            side is much longer; all others keep every pixel.
        max_megapixels: As in ``read_picture``.

    Returns:
        ``[3, H, W]``, float32, 0 to 1, RGB.

    Raises:
        ImageError: If the file cannot be read, is no picture, or is too large.
    """
    return _decoded(path, -(-longest // 4), max_megapixels).clamp(0, 1).contiguous()


def whole(picture: Image.Image, *, longest: int = 1024) -> Tensor:
    """Return a picture of PIL as ``read_whole`` does that of a file."""
    return _to_float(picture, -(-longest // 4)).clamp(0, 1).contiguous()


def clean_png(
    path: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    max_side: int = 2048,
    max_megapixels: float = 64.0,
    longest: int = 2**16,
) -> tuple[bytes, int, int]:
    """Return a picture as a new PNG without anything else that its file held; width and height.

    All else is as in ``read_picture``.

    Args:
        path: As in ``read_picture``.
        formats: What is decoded, by content: names of Pillow.
        max_side: A larger picture is made smaller, pixels.
        max_megapixels: Larger pictures are refused before they are decoded.
        longest: So are those with a longer side than this, pixels.

    Raises:
        ImageError: If the file cannot be read, is no picture, or is too large.
    """
    planes = _decoded(
        path, -(-max_side // 4), max_megapixels, formats=formats, longest=longest, shrinks=True
    )
    values = (planes.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()
    plain = Image.fromarray(values.numpy())
    plain.thumbnail((max_side, max_side))
    data = io.BytesIO()
    plain.save(data, format="PNG")
    return data.getvalue(), *plain.size


def _decoded(
    path: str | Path,
    size: int,
    max_megapixels: float,
    *,
    formats: Sequence[str] = FORMATS,
    longest: int = 2**16,
    shrinks: bool = False,
) -> Tensor:
    """Return the planes of a stranger's file, ``[3, H, W]``, with sides of less than 8 ``size``."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ImageError(f"{file}: expected a picture file, and found no file there")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata and Pillow's own size limit
            with Image.open(file, formats=tuple(formats)) as picture:
                _check_size(file, picture.size, max_megapixels, longest)
                if shrinks:  # a JPEG is decoded smaller at once
                    picture.draft("RGB", (4 * size, 4 * size))
                return _to_float(picture, size)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{file}: expected at most {max_megapixels:g} megapixels, got far more; make it smaller"
        ) from error
    except PermissionError as error:
        raise ImageError(f"{file}: cannot be read ({error.strerror}); check its rights") from error
    except Exception as error:  # each decoder raises its own kinds on damaged data
        raise ImageError(
            f"{file}: expected a picture ({', '.join(formats)}), and it cannot be decoded "
            f"({error}); save it again or take it out"
        ) from error


def read_folder(
    folder: str | Path, *, size: int = 256, max_megapixels: float = 64.0
) -> list[Tensor]:
    """Read every picture of ``picture_files``, as ``read_picture`` does.

    Args:
        folder: A folder with at least one picture.
        size: Side of the squares, pixels.
        max_megapixels: As in ``read_picture``.

    Returns:
        Tensors ``[3, size, size]``, 0 to 1, ready for ``torch.stack``.

    Raises:
        ImageError: If it is no folder, holds no picture, or one of them cannot be read.
    """
    files = picture_files(folder)
    return [read_picture(file, size=size, max_megapixels=max_megapixels) for file in files]


def picture_files(folder: str | Path) -> list[Path]:
    """Return a folder's pictures by file name; subfolders and hidden files are left out.

    Files without a picture's suffix are passed over; one that has it must be a picture.

    Raises:
        ImageError: If it is no folder, or holds no picture.
    """
    path = Path(folder).expanduser()
    try:
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise ImageError(
            f"{path}: expected a folder of pictures, and it cannot be listed ({error.strerror})"
        ) from error
    pictures = [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not pictures:
        raise ImageError(
            f"{path}: expected at least one picture ({' '.join(sorted(SUFFIXES))}), got none "
            f"among {len(files)} files"
        )
    return pictures


def _check_size(file: Path, size: tuple[int, int], max_megapixels: float, longest: int) -> None:
    width, height = size
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{file}: expected at most {max_megapixels:g} megapixels, got {width} x {height}; "
            "make it smaller"
        )
    if max(size) > longest:
        raise ImageError(f"{file}: expected at most {longest} pixels a side, got {max(size)}")


def _to_float(picture: Image.Image, size: int) -> Tensor:
    """Return ``[3, H, W]``, 0 to 1, upright, in sRGB, over white, not far above ``size``."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I") or upright.mode == "F":
        return _grey(np.asarray(upright, dtype=np.float32), upright.mode).expand(3, -1, -1)
    clear = upright.has_transparency_data
    pixels = _in_srgb(upright)
    if clear:  # RGBa is RGBA with the colour times alpha: only so may neighbours be averaged
        pixels.putalpha(upright.convert("RGBA").getchannel("A"))
        pixels = pixels.convert("RGBa")
    if (factor := max(pixels.size) // (4 * size)) > 1:
        pixels = pixels.reduce(factor)  # floats of the full picture would take a gigabyte
    values = torch.from_numpy(np.asarray(pixels, dtype=np.float32) / 255).permute(2, 0, 1)
    return values[:3] + (1 - values[3:]) if clear else values


def _in_srgb(picture: Image.Image) -> Image.Image:
    """Return a picture in RGB, its colours changed to sRGB if it says which it has.

    A profile that is damaged, or of another kind than the picture, is left out.
    """
    data = picture.info.get("icc_profile")
    plain = picture if picture.mode in ("L", "CMYK") else picture.convert("RGB")
    if data:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
            if "sRGB" not in ImageCms.getProfileDescription(profile):
                changed = ImageCms.profileToProfile(
                    plain, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                plain = plain if changed is None else changed
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
            pass
    return plain.convert("RGB")


def _grey(values: np.ndarray[tuple[int, int], np.dtype[np.float32]], mode: str) -> Tensor:
    """Return ``[1, H, W]`` of one plane of 16 or 32 bits; floats may be 0 to 1, 255 or 65,535."""
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("its values are below 0 or not finite")
    top = float(values.max())
    whites = (1.0, 255.0, 65535.0) if mode == "F" else (65535.0,)
    white = next((white for white in whites if top <= white), top)
    return torch.from_numpy(values / white)[None]


def _square(planes: Tensor, size: int) -> Tensor:
    """Shrink or enlarge ``[3, H, W]`` to fit, and pad to ``[3, size, size]``."""
    height, width = planes.shape[-2:]
    scale = size / max(height, width)
    inner = [max(1, math.floor(side * scale + 0.5)) for side in (height, width)]
    fitted = torch.nn.functional.interpolate(
        planes[None].contiguous(), inner, mode="bicubic", antialias=True
    )[0].clamp(0, 1)
    border = torch.cat([fitted[:, 0], fitted[:, -1], fitted[:, :, 0], fitted[:, :, -1]], dim=1)
    square = border.median(dim=1).values[:, None, None].expand(3, size, size).clone()
    top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[:, top : top + inner[0], left : left + inner[1]] = fitted
    return square


def has_suffix(name: str) -> bool:
    """Return whether a name ends as a picture's file does."""
    return Path(name).suffix.lower() in SUFFIXES


def is_picture(name: str) -> bool:
    """Return whether a source is meant as a file: by its suffix, or because it names a folder."""
    return has_suffix(name) or "/" in name or "\\" in name
