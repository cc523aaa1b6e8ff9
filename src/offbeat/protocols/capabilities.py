"""Which registered backbones can do what: read off their classes, no checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from offbeat import protocols, registry
from offbeat.errors import OffbeatError

CAPABILITIES: tuple[tuple[str, ...], ...] = (
    ("token_embed", "token_embeds", "num_tokens", "encode_text"),
    ("sample_prior",),
    ("init_lora",),
    ("decode_embeds",),
    ("draw_text",),
    ("init_latents", "denoise", "decode"),
    ("predict_clean",),
    ("add_noise",),
    ("encode_latents",),
    ("invert",),
    ("empty_text",),
    ("encode_image",),
    ("edit_attention",),
    ("init_unet_lora", "adapted", "denoising_loss"),
)
"""What a backbone may offer, by the names of its functions; those of a row come together."""


def capabilities_of(backbone: Any) -> list[tuple[str, ...]]:
    """Return the capabilities that a backbone, or its class, offers."""
    return [names for names in CAPABILITIES if all(hasattr(backbone, name) for name in names)]


def members(needs: type) -> Iterator[str]:
    """Yield what a protocol asks for; what is basic first, and what it is called last.

    A capability that is missing tells a reader more than a missing ``device``.
    """
    ranks: dict[type, int] = {protocols.TextBackbone: -2, protocols.DrawingBackbone: -1}
    for part in sorted(needs.__mro__, key=lambda part: ranks.get(part, 0)):
        if part not in (object, Protocol):
            yield from (name for name in vars(part) if not name.startswith("_"))


def offers(backbone: Any, needs: type) -> bool:
    """Return whether a backbone, or its class, has all that a protocol asks for.

    Args:
        backbone: A class, or an object.
        needs: The protocol.
    """
    return all(hasattr(backbone, name) for name in members(needs))


def backbones_for(needs: type) -> list[str]:
    """Return the registered backbones whose class has all that a protocol asks for, sorted."""
    return [name for name, kind in _classes() if offers(kind, needs)]


def backbones_with(member: str) -> list[str]:
    """Return the registered backbones whose class has a method of this name, sorted."""
    return [name for name, kind in _classes() if hasattr(kind, member)]


def _classes() -> Iterator[tuple[str, Any]]:
    """Yield every registered backbone and its class.

    A plug-in that cannot be imported is left out: whoever asks for it is told why.
    """
    for name in registry.names("backbone"):
        with suppress(OffbeatError):
            yield name, registry.find("backbone", name)
