"""Image prompts: an IP-Adapter beside a U-Net, in it only while a picture is drawn with one.

Source: Ye et al., IP-Adapter, arXiv:2308.06721, in the file format of diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.offload import runs_on, uncompiled
from offbeat.checkpoints.trust import refuse_broken
from offbeat.core.checks import check_range, check_shape
from offbeat.errors import CheckpointError


class IpAdapter:
    """The attention processors and the projection of one adapter; the U-Net is left plain."""

    def __init__(self, unet: Any, file: Path) -> None:
        """Read ``file`` by the loader of diffusers.

        Raises:
            CheckpointError: If it is damaged, of another U-Net, or of another kind than the plain
                adapter (of pooled image embeddings).
        """
        plain = unet.attn_processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
        try:
            with _quiet():
                unet._load_ip_adapter_weights([_read(file)])
            self._processors = unet.attn_processors
            self._projection = unet.encoder_hid_proj
        except Exception as error:  # the loader has one kind for each way of not fitting
            raise CheckpointError(
                f"{file}: cannot be loaded as an IP-Adapter of this U-Net "
                f"({type(error).__name__}: {error})"
            ) from error
        finally:
            _install(unet, *plain)
        (projection,) = self._projection.image_projection_layers
        embeds = getattr(projection, "image_embeds", None)
        if not isinstance(embeds, torch.nn.Linear):
            raise CheckpointError(
                f"{file}: expected a plain IP-Adapter, which reads pooled image embeddings, got "
                f"one with {type(projection).__name__}"
            )
        refuse_broken(self.modules, file)
        self.width: int = embeds.in_features
        """Width D of the image embeddings that it reads."""

    @property
    def modules(self) -> torch.nn.ModuleList:
        """Its own weights, to be frozen and moved."""
        own = (p for p in self._processors.values() if isinstance(p, torch.nn.Module))
        return torch.nn.ModuleList([*own, self._projection])

    @contextmanager
    def prompted(self, unet: Any, scale: float) -> Iterator[None]:
        """Let ``unet`` hear image embeddings inside this block, and put it back after.

        Args:
            unet: The U-Net that it was loaded for.
            scale: Weight of the picture beside the text; 0 is the text alone.
        """
        check_range("ip_adapter_scale", scale, 0, 10)
        plain = unet.attn_processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
        for processor in self._processors.values():
            if hasattr(processor, "to_k_ip"):
                processor.scale = [scale]
        try:
            _install(unet, self._processors, self._projection, "ip_image_proj")
            with uncompiled(unet):
                yield
        finally:
            _install(unet, *plain)

    def conditions(self, image_embeds: Tensor, batch: int, guided: bool, like: Any) -> Tensor:
        """Return what the U-Net is told, ``[B, 1, D]``, twice B with guidance: from a zero picture.

        Args:
            image_embeds: ``[1, D]`` or ``[B, D]``.
            batch: B.
            guided: Whether the unguided half comes first.
            like: Where, and in which type.

        Raises:
            ShapeError: If the width or the number does not fit.
        """
        count = batch if len(image_embeds) > 1 else 1
        check_shape("image_embeds", image_embeds, count, self.width)
        embeds = image_embeds.to(runs_on(like), like.dtype).expand(batch, -1)
        if guided:
            embeds = torch.cat([torch.zeros_like(embeds), embeds])
        return embeds[:, None]


def _install(unet: Any, processors: dict[str, Any], projection: Any, kind: str | None) -> None:
    unet.set_attn_processor(dict(processors))  # it takes the entries out of what it is given
    unet.encoder_hid_proj = projection
    unet.config.encoder_hid_dim_type = kind


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader from warning of a cast that changes nothing."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _read(file: Path) -> dict[str, dict[str, Tensor]]:
    from safetensors.torch import load_file

    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(file).items():
        part, _, rest = name.partition(".")
        if part in parts:
            parts[part][rest] = tensor
    return parts
