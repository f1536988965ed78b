"""What the book needs around `mcnn_core`: simulated screens and their truth, figures, checks.

`mcnn_core` never imports it. What chapters use is offered here, and a module is loaded when it, or
the first of its names, is asked for.
"""

from importlib import import_module
from typing import Any

#: The names that the package itself offers, each with the module that defines it.
PUBLIC: dict[str, str] = {
    "Workspace": "workspace",
    "provenance": "workspace",
    "augmented": "training",
    "make_way": "training",
    "first_steps": "training",
    "to_anndata": "interchange",
}
#: The modules that it offers.
MODULES: dict[str, str] = {
    "results": "results",
    "sets": "sets",
    "real_plates": "real_plates",
    "figures": "figures",
    "interactive": "interactive",
    "explore": "explore",
    "sheets": "sheets",
    "pictures": "pictures",
    "screens": "screens",
    "words": "words",
    "truth": "simulate.truth",
    "field_statistics": "simulate.field_statistics",
    "examine": "check.examine",
    "cost": "check.cost",
    "recorded": "study.recorded",
    "choosing": "study.choosing",
}
__all__ = sorted([*PUBLIC, *MODULES])


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"{__name__}.{MODULES[name]}")
    if name in PUBLIC:
        return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
