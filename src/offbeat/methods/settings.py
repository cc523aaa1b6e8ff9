"""Settings of a method on a checkpoint: its defaults, the checkpoint's card, what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from offbeat import registry
from offbeat.errors import ConfigError
from offbeat.protocols import HasCard, TextBackbone

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


def with_metric(method: Any, backbone: TextBackbone) -> Any:
    """Return a method with the metric that its settings name; most name none.

    Raises:
        UnknownNameError: If there is no such metric.
        ConfigError: If the method cannot use it.
    """
    wanted = getattr(method, "wants_metric", None)
    if wanted is None:
        return method
    metric = registry.find("metric", wanted)
    return method.with_metric(metric.load(backbone=backbone, device=str(backbone.device)))


def make_method(name: str, backbone: HasCard, settings: dict[str, Any] | None) -> Any:
    """Return a method with what suits the checkpoint, and ``settings`` before that.

    Raises:
        UnknownNameError: If there is no such method.
        ConfigError: If it has no such setting, or one is out of its range.
    """
    found = registry.find("method", name)
    config = getattr(found, "config_class", None)
    if config is None:
        if settings:
            raise ConfigError(f"settings: {name} takes none, got {', '.join(settings)}")
        return found()
    return found(config.for_card(backbone.card, **(settings or {})))


def config_of(method: Any) -> dict[str, Any]:
    """Return a method's settings as a run keeps them; none of a plug-in that has none."""
    config = getattr(method, "config", None)
    return asdict(config) if is_dataclass(config) else {}  # type: ignore[arg-type]
