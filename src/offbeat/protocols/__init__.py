"""What a backbone, a judge or a method must offer: one capability, one Protocol.

Import them from here; each file beside this one holds those of one kind of part.
"""

from __future__ import annotations

from typing import Any

from offbeat.protocols import methods
from offbeat.protocols.backbones import (
    ComparingBackbone,
    DenoisingBackbone,
    DrawingBackbone,
    EncodesImage,
    ExploringBackbone,
    Generators,
    PaintingBackbone,
    PriorBackbone,
    SeeingBackbone,
    TextBackbone,
)
from offbeat.protocols.judges import (
    AnswersQuestions,
    AnswersYes,
    CalibratedJudge,
    ChecksSubject,
    Metric,
    NamesThings,
    Need,
    ReadsClasses,
    ReadsPresence,
    Segments,
)
from offbeat.protocols.methods import Source, SourceKind, Takes

__all__ = [
    "AnswersQuestions",
    "AnswersYes",
    "CalibratedJudge",
    "ChecksSubject",
    "ComparingBackbone",
    "DenoisingBackbone",
    "DrawingBackbone",
    "EncodesImage",
    "ExploringBackbone",
    "Generators",
    "Metric",
    "NamesThings",
    "Need",
    "PaintingBackbone",
    "PriorBackbone",
    "ReadsClasses",
    "ReadsPresence",
    "SeeingBackbone",
    "Segments",
    "Source",
    "SourceKind",
    "Takes",
    "TextBackbone",
]

BEFORE = {
    "AdaptsDenoiser": "PaintingBackbone",
    "AdaptsPrior": "ExploringBackbone",
    "AddsNoise": "DenoisingBackbone",
    "DecodesEmbeds": "PriorBackbone",
    "DenoisesText": "DenoisingBackbone",
    "DrawsText": "DrawingBackbone",
    "EditsAttention": "PaintingBackbone",
    "EncodesLatents": "DenoisingBackbone",
    "EncodesText": "TextBackbone",
    "HasCard": "TextBackbone",
    "HasEmptyText": "DenoisingBackbone",
    "InvertsImages": "DenoisingBackbone",
    "LookingBackbone": "DenoisingBackbone",
    "MixingBackbone": "DenoisingBackbone",
    "MorphingBackbone": "PaintingBackbone",
    "PredictsClean": "DenoisingBackbone",
    "SamplesPrior": "ExploringBackbone",
    "SteppedBackbone": "DenoisingBackbone",
}
"""Names of before, which plug-ins may import, and the protocol that each is part of now."""


def __getattr__(name: str) -> Any:
    if name in BEFORE:
        return globals()[BEFORE[name]]
    if name in methods.BEFORE:
        return object
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
