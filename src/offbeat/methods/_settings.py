"""Settings of a method on a checkpoint: its defaults, the checkpoint's card, what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from offbeat.errors import ConfigError

Config = TypeVar("Config")


def on_card(card: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what a card says of a method, by the names of its settings."""
    return dict(card.get("methods", {}).get(name, {}))


def configured(cls: type[Config], name: str, settings: Mapping[str, Any]) -> Config:
    """Return a config of class ``cls``, of settings that may come from a file or a command.

    Raises:
        ConfigError: If a setting is unknown, or of another kind.
    """
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for one in settings:
        if one not in known:
            raise ConfigError(f"{one}: expected a setting of {name}, one of {known}")
    try:
        return cls(**settings)
    except (TypeError, AttributeError) as error:
        raise ConfigError(f"settings of {name}: {error}") from error
