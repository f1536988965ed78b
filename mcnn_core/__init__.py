"""Phenotypes from microscope fields, without segmentation and without labels.

One module per step of the method, in the order of the chapters: ``screen``, ``store`` and
``preprocessing``, ``surrogate``, ``model``, ``training``, ``features``, ``profiles``, then
``analysis``. Next to them ``readers`` read screens as they come, and ``machine`` is what all of it
runs on. Each module imports only earlier ones. The names that a script of one's own needs are
offered here, and a module is loaded when the first of its names is asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: The names that the package itself offers, each with the module that defines it.
PUBLIC: dict[str, str] = {
    "InputError": "errors",
    "Screen": "screen",
    "read_loaddata": "readers.loaddata",
    "read_bbbc021": "readers.bbbc021",
    "read_imagehts": "readers.imagehts",
    "load_screen": "screen",
    "save_screen": "screen",
    "Store": "store",
    "preprocess": "preprocessing",
    "surrogate_classes": "surrogate",
    "BalancedBatches": "surrogate",
    "CONFIGS": "model",
    "MCNN": "model",
    "RECIPES": "training",
    "train": "training",
    "load_model": "training",
    "embed": "features",
    "embed_screen": "features",
    "feature_frame": "profiles",
    "fit_pca": "profiles",
    "profile": "profiles",
    "cosine_distances": "analysis.distances",
    "nearest_neighbours": "analysis.mechanisms",
    "cluster_table": "analysis.clusters",
    "similarities": "analysis.response",
    "potency": "analysis.response",
    "novelty": "analysis.novelty",
    "hold_out": "analysis.sirna",
    "enrich_clusters": "analysis.enrichment",
}
__all__ = sorted(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
