"""Phenotypes from microscope fields, without segmentation and without labels.

One module per step of the method, in the order of the chapters: ``screen``, ``store`` and
``preprocessing``, ``surrogate``, ``model``, ``training``, ``features``, ``profiles``, then
``analysis``. Next to them ``readers`` read screens as they come, and ``machine`` is what all of it
runs on. Each module imports only earlier ones. What chapters and scripts use is offered here, and
a module is loaded when the first of its names is asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: The names that the package itself offers, each with the module that defines it.
PUBLIC: dict[str, str] = {
    "InputError": "errors",
    "Screen": "screen",
    "Reading": "readers.reading",
    "read_loaddata": "readers.loaddata",
    "read_bbbc021": "readers.bbbc021",
    "read_imagehts": "readers.imagehts",
    "load_screen": "screen",
    "save_screen": "screen",
    "field_names": "screen",
    "row_names": "screen",
    "in_words": "screen",
    "Store": "store",
    "plate_function": "illumination",
    "preprocess": "preprocessing",
    "default_columns": "surrogate",
    "training_fields": "surrogate",
    "surrogate_classes": "surrogate",
    "BalancedBatches": "surrogate",
    "Fields": "machine.fields",
    "CONFIGS": "model",
    "MCNN": "model",
    "RECIPES": "training",
    "train": "training",
    "load_model": "training",
    "embed": "features",
    "embed_screen": "features",
    "feature_frame": "profiles",
    "profile": "profiles",
    "cosine_distances": "analysis.distances",
    "tree": "analysis.clusters",
    "cut_tree": "analysis.clusters",
    "cluster_table": "analysis.clusters",
    "novelty": "analysis.novelty",
    "device": "machine.device",
    "read_table": "machine.files",
    "write_table": "machine.files",
}
#: The modules that it offers, for what belongs to one step alone: ``sirna.hold_out``.
MODULES: dict[str, str] = {
    "tables": "readers.tables",
    "spelling": "readers.spelling",
    "images": "readers.images",
    "ontology": "readers.ontology",
    "phenodist": "readers.phenodist",
    "preprocessing": "preprocessing",
    "model": "model",
    "training": "training",
    "profiles": "profiles",
    "mechanisms": "analysis.mechanisms",
    "methods": "analysis.methods",
    "response": "analysis.response",
    "clusters": "analysis.clusters",
    "sirna": "analysis.sirna",
    "activity": "analysis.activity",
    "position": "analysis.position",
    "counts": "analysis.counts",
    "occlusion": "analysis.occlusion",
    "enrichment": "analysis.enrichment",
    "files": "machine.files",
}
__all__ = sorted([*PUBLIC, *MODULES])


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return import_module(f"{__name__}.{MODULES[name]}")
    if name in PUBLIC:
        return getattr(import_module(f"{__name__}.{PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
