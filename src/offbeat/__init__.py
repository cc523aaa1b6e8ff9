"""Creative image generation: still what was asked for, and not what everyone has seen.

>>> import offbeat
>>> run = offbeat.explore("handbag", novelty=0.999)  # doctest: +SKIP
>>> run.images[0].show()  # doctest: +SKIP

Importing this loads no torch and touches no disk; the names below load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbeat.errors import OffbeatError
    from offbeat.methods.low_probability import LowProbabilityConfig
    from offbeat.run import (
        Placement,
        Run,
        again,
        doctor,
        dream,
        explore,
        export_concept,
        fetch_model,
        fuse,
        generate,
        grid,
        import_concept,
        inspect_model,
        list_models,
        load_backbone,
        load_run,
        paint,
        render,
        score,
        sweep,
        train,
    )
    from offbeat.types import Concept, Request, Trained

__version__ = "0.1.0"

_WHERE = {
    "Concept": "offbeat.types",
    "LowProbabilityConfig": "offbeat.methods.low_probability",
    "OffbeatError": "offbeat.errors",
    "Placement": "offbeat.run",
    "Request": "offbeat.types",
    "Run": "offbeat.run",
    "Trained": "offbeat.types",
    "doctor": "offbeat.run",
    "again": "offbeat.run",
    "dream": "offbeat.run",
    "explore": "offbeat.run",
    "export_concept": "offbeat.run",
    "fetch_model": "offbeat.run",
    "fuse": "offbeat.run",
    "generate": "offbeat.run",
    "grid": "offbeat.run",
    "import_concept": "offbeat.run",
    "inspect_model": "offbeat.run",
    "list_models": "offbeat.run",
    "load_backbone": "offbeat.run",
    "load_run": "offbeat.run",
    "paint": "offbeat.run",
    "render": "offbeat.run",
    "score": "offbeat.run",
    "sweep": "offbeat.run",
    "train": "offbeat.run",
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
