"""Creative image generation: still what was asked for, and not what everyone has seen.

>>> import offbeat
>>> run = offbeat.explore("handbag", novelty=2)  # doctest: +SKIP
>>> run.images[0].show()  # doctest: +SKIP

Importing this loads no torch; the names in ``__init__.pyi`` load on first use.
"""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import get_data
from typing import Any

__version__ = "0.1.0"

_STUB = (get_data(__name__, "__init__.pyi") or b"").decode()
_MODULES = {name: module for module, name in re.findall(r"^from (\S+) import (\w+)", _STUB, re.M)}
"""The public names, and the module that each is loaded from: the stub is their only list."""

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'offbeat' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
