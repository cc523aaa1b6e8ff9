"""Pictures that a command is given, brought to what its checkpoint reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from offbeat.core.checks import check_finite, check_shape
from offbeat.errors import ImageError, RangeError, ShapeError
from offbeat.files.disk import digest_of
from offbeat.files.pictures import FORMATS, read_picture, read_whole

PictureLike = str | Path | Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was given: its file, if there was one, and what was done with it."""

    name: str
    image: Tensor
    """``[3, H, W]``, 0 to 1; of a mask ``[1, H, W]``."""
    digest: str
    """Of its pixels as they are used."""
    file: Path | None = None
    """Where it was read."""
    note: str = ""
    """How it was brought to the checkpoint's size, in a sentence."""

    @classmethod
    def read(cls, source: str | Path | Tensor, role: str, size: int) -> Picture:
        """Read a file as a square of ``size`` pixels, or take a tensor as it is.

        Raises:
            ImageError: If the file is no picture, or is too large.
            ShapeError: If the tensor is no picture.
            RangeError: If its values lie outside 0 to 1.
        """
        if isinstance(source, Tensor):
            return cls._of(role, source, role)
        file = _file(role, source)
        return cls._of(role, read_picture(file, size=size), file.name, file, _fitted(file, size))

    @classmethod
    def read_fitted(
        cls, source: str | Path | Tensor, role: str, *, area: int, grid: int
    ) -> Picture:
        """Read a picture in its own shape, with about so many pixels, sides multiples of ``grid``.

        It is scaled; at most half of ``grid`` of a side is lost or added by that. The rest is as
        in ``read``.
        """
        image, file = _whole(role, source)
        plain = cls._of(role, image, role)
        height, width = plain.image.shape[-2:]
        scale = (area / (height * width)) ** 0.5
        size = [max(1, round(side * scale / grid)) * grid for side in (height, width)]
        return cls._of(role, _scaled(plain.image, size), file.name if file else role, file)

    @classmethod
    def read_mask(cls, source: str | Path | Tensor, like: Picture) -> Picture:
        """Read a mask, ``[1, H, W]``, of the shape of a picture; white is 1.

        Raises:
            ShapeError: If it has another shape than the picture.
        """
        image, file = _whole("mask", source)
        plain = cls._of("mask", image.expand(3, -1, -1) if len(image) == 1 else image, "mask")
        (height, width), (wanted, across) = plain.image.shape[-2:], like.image.shape[-2:]
        if abs(height * across / (width * wanted) - 1) > 0.05:
            raise ShapeError(
                f"mask: expected the shape of the picture that it lies over ({across} x {wanted}), "
                f"got {width} x {height}; make both of one size"
            )
        grey = _scaled(plain.image, [wanted, across]).mean(dim=0, keepdim=True)
        name = file.name if file else "mask"
        return cls(name=name, image=grey, digest=_digest(grey), file=file)

    @classmethod
    def _of(
        cls, role: str, image: Tensor, name: str, file: Path | None = None, note: str = ""
    ) -> Picture:
        check_shape(role, image, 3, None, None)
        check_finite(role, image)
        if float(image.min()) < 0 or float(image.max()) > 1:
            raise RangeError(f"{role}: expected values from 0 to 1")
        image = image.detach().cpu().float()
        return cls(name=name, image=image, digest=_digest(image), note=note, file=file)


def _fitted(file: Path, size: int) -> str:
    """Return what ``read_picture`` does with this file, if it is anything; it was read already."""
    import warnings

    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if picture.getexif().get(0x0112, 1) >= 5:  # lies on its side
                width, height = height, width
            frames = int(getattr(picture, "n_frames", 1))
    done = []
    if frames > 1 and not file.suffix.lower().startswith(".tif"):
        done.append(f"is an animation of {frames} frames, of which the first is used")
    if width != height:
        done.append(f"is {width} x {height}: padded to a square with the colour of its border")
    if max(width, height) < size:
        done.append(f"is small ({width} x {height}): enlarged to {size} x {size}, so it is blurred")
    return f"{file.name} {'; it '.join(done)}." if done else ""


def _digest(image: Tensor) -> str:
    return digest_of(image.contiguous().numpy().tobytes())


def _file(role: str, source: object) -> Path:
    if not isinstance(source, str | Path):
        raise ImageError(f"{role}: expected a file or a tensor, got {source!r}")
    return Path(source).expanduser()


def _whole(role: str, source: object) -> tuple[Tensor, Path | None]:
    """Return a picture in its own shape, and its file if it was read from one."""
    if isinstance(source, Tensor):
        return source, None
    file = _file(role, source)
    return read_whole(file), file


def _scaled(image: Tensor, size: list[int]) -> Tensor:
    if list(image.shape[-2:]) == size:
        return image
    return torch.nn.functional.interpolate(image[None], size, mode="bicubic", antialias=True)[
        0
    ].clamp(0, 1)
