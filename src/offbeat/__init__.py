"""Creative image generation: still what was asked for, and not what everyone has seen.

>>> import offbeat
>>> run = offbeat.explore("handbag", novelty=2)  # doctest: +SKIP
>>> run.images[0].show()  # doctest: +SKIP

Importing this loads no torch and touches no disk; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what an editor and mypy see; a test holds it equal to the table below
    from offbeat.checkpoints.models import fetch_model as fetch_model
    from offbeat.checkpoints.models import inspect_model as inspect_model
    from offbeat.checkpoints.models import list_models as list_models
    from offbeat.checkpoints.open import load_backbone as load_backbone
    from offbeat.checkpoints.placement import Placement as Placement
    from offbeat.errors import OffbeatError as OffbeatError
    from offbeat.methods.low_probability.config import LowProbabilityConfig as LowProbabilityConfig
    from offbeat.runs.result import Run as Run
    from offbeat.runs.result import load_run as load_run
    from offbeat.types import Concept as Concept
    from offbeat.types import Request as Request
    from offbeat.types import Trained as Trained
    from offbeat.verbs.again import again as again
    from offbeat.verbs.doctor import doctor as doctor
    from offbeat.verbs.dream import dream as dream
    from offbeat.verbs.explore import explore as explore
    from offbeat.verbs.export import export_concept as export_concept
    from offbeat.verbs.export import import_concept as import_concept
    from offbeat.verbs.fuse import fuse as fuse
    from offbeat.verbs.fuse import grid as grid
    from offbeat.verbs.fuse import sweep as sweep
    from offbeat.verbs.generate import generate as generate
    from offbeat.verbs.paint import paint as paint
    from offbeat.verbs.render import render as render
    from offbeat.verbs.score import score as score
    from offbeat.verbs.train import train as train

__version__ = "0.1.0"

_MODULES = {
    "Concept": "offbeat.types",
    "LowProbabilityConfig": "offbeat.methods.low_probability.config",
    "OffbeatError": "offbeat.errors",
    "Placement": "offbeat.checkpoints.placement",
    "Request": "offbeat.types",
    "Run": "offbeat.runs.result",
    "Trained": "offbeat.types",
    "again": "offbeat.verbs.again",
    "doctor": "offbeat.verbs.doctor",
    "dream": "offbeat.verbs.dream",
    "explore": "offbeat.verbs.explore",
    "export_concept": "offbeat.verbs.export",
    "fetch_model": "offbeat.checkpoints.models",
    "fuse": "offbeat.verbs.fuse",
    "generate": "offbeat.verbs.generate",
    "grid": "offbeat.verbs.fuse",
    "import_concept": "offbeat.verbs.export",
    "inspect_model": "offbeat.checkpoints.models",
    "list_models": "offbeat.checkpoints.models",
    "load_backbone": "offbeat.checkpoints.open",
    "load_run": "offbeat.runs.result",
    "paint": "offbeat.verbs.paint",
    "render": "offbeat.verbs.render",
    "score": "offbeat.verbs.score",
    "sweep": "offbeat.verbs.fuse",
    "train": "offbeat.verbs.train",
}
"""The public names, and the module that each loads on first use."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'offbeat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
