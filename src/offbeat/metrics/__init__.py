"""Metrics: pure functions of tensors, and scorers that name the checkpoint they use."""

from offbeat.metrics.base import BaseMetric
from offbeat.metrics.common import bootstrap_interval, pictures, summarise, texts_for
from offbeat.metrics.encoders import (
    BackboneEncoder,
    ClipEncoder,
    Encoder,
    EncoderMetric,
    SharedEncoder,
)

__all__ = [
    "BackboneEncoder",
    "BaseMetric",
    "ClipEncoder",
    "Encoder",
    "EncoderMetric",
    "SharedEncoder",
    "bootstrap_interval",
    "pictures",
    "summarise",
    "texts_for",
]
