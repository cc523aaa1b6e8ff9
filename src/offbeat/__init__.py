"""Creative image generation: still what was asked for, and not what everyone has seen.

>>> import offbeat
>>> run = offbeat.explore("handbag", novelty=0.999)  # doctest: +SKIP
>>> run.images[0].show()  # doctest: +SKIP

Importing this loads no torch and touches no disk; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbeat.checkpoints.models import fetch_model, inspect_model, list_models
    from offbeat.checkpoints.open import load_backbone
    from offbeat.checkpoints.placement import Placement
    from offbeat.errors import OffbeatError
    from offbeat.methods.low_probability.config import LowProbabilityConfig
    from offbeat.runs.result import Run, load_run
    from offbeat.types import Concept, Request, Trained
    from offbeat.verbs.again import again
    from offbeat.verbs.doctor import doctor
    from offbeat.verbs.dream import dream
    from offbeat.verbs.explore import explore
    from offbeat.verbs.export import export_concept, import_concept
    from offbeat.verbs.fuse import fuse, grid, sweep
    from offbeat.verbs.generate import generate
    from offbeat.verbs.paint import paint
    from offbeat.verbs.render import render
    from offbeat.verbs.score import score
    from offbeat.verbs.train import train

__version__ = "0.1.0"

_WHERE = {
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

__all__ = [
    "Concept",
    "LowProbabilityConfig",
    "OffbeatError",
    "Placement",
    "Request",
    "Run",
    "Trained",
    "__version__",
    "again",
    "doctor",
    "dream",
    "explore",
    "export_concept",
    "fetch_model",
    "fuse",
    "generate",
    "grid",
    "import_concept",
    "inspect_model",
    "list_models",
    "load_backbone",
    "load_run",
    "paint",
    "render",
    "score",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'offbeat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
