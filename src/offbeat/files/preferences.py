"""Read and write preferences: pictures, and which of them was preferred to which.

What is kept are small pictures instead of features, so that any encoder can learn from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from offbeat.errors import ConfigError
from offbeat.files.disk import digest_of, explained, pack_tensors, unpack_tensors, write_atomic

KIND = "offbeat preferences 1"
SIDE = 128
"""Pixels of a side of the pictures that are kept."""
MAX_PICTURES, MAX_PREFERENCES = 10_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pictures with preferences among them.

    Attributes:
        images: ``[N, 3, 128, 128]``, 0 to 1.
        winners: Which picture was preferred, ``[M]``, 0 to N - 1.
        losers: To which, ``[M]``.
    """

    images: Tensor
    winners: Tensor
    losers: Tensor

    @property
    def digest(self) -> str:
        """Return the digest of everything in it."""
        parts = (self.images, self.winners, self.losers)
        return digest_of(b"".join(part.numpy().tobytes() for part in parts))

    def save(self, path: str | Path) -> None:
        """Write them to a file.

        Raises:
            StoreError: If it cannot be written.
        """
        tensors = {
            "images": (self.images * 255).round().to(torch.uint8),
            "winners": self.winners.long(),
            "losers": self.losers.long(),
        }
        write_atomic(Path(path), pack_tensors(tensors, {"kind": KIND}))

    @classmethod
    def load(cls, path: str | Path) -> Preferences:
        """Read a file that ``save`` wrote.

        Raises:
            ConfigError: If it is no such file.
            StoreError: If it cannot be read.
        """
        file = Path(path).expanduser()
        try:
            tensors, about = unpack_tensors(file.read_bytes())
        except OSError as error:
            raise explained("read", file, error) from error
        except ValueError as error:
            raise ConfigError(
                f"{file}: expected a file of `offbeat study taste` ({error})"
            ) from error
        images, winners, losers = (tensors.get(each) for each in ("images", "winners", "losers"))
        if (
            about != {"kind": KIND}
            or images is None
            or winners is None
            or losers is None
            or images.shape[1:] != (3, SIDE, SIDE)
            or images.dtype != torch.uint8
            or winners.shape != losers.shape
            or winners.ndim != 1
            or not 2 <= len(images) <= MAX_PICTURES
            or not 1 <= len(winners) <= MAX_PREFERENCES
            or not int(torch.stack([winners, losers]).min()) >= 0
            or not int(torch.stack([winners, losers]).max()) < len(images)
        ):
            raise ConfigError(f"{file}: expected a file of `offbeat study taste`, got another kind")
        return cls(images.float() / 255, winners, losers)
