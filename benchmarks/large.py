"""A simulated screen of more than 5,000 fields from end to end.

The predictions of `mcnn_book.check.cost` are held against it.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.cases import CORES, Case, prepare_nothing
from mcnn_book.workspace import provenance

HEIGHT, WIDTH, SITES, EPOCHS = 128, 160, 3, 3
STAGES = ("simulate", "preprocess", "train", "embed", "profiles", "distances")


def _layout(quick: bool):
    from mcnn_book.simulate.bbbc021 import LAYOUTS

    return LAYOUTS["tiny"] if quick else replace(LAYOUTS["default"], sites=SITES)


def _screen(folder: Path):
    from mcnn_core.readers.bbbc021 import read_bbbc021

    return read_bbbc021(folder / "screen", simulated=True)


def _stages(folder: Path, quick: bool) -> dict[str, Callable[[], Any]]:
    """Return what each stage does; a stage takes from the folder what those before it left."""
    import numpy as np

    def simulate() -> None:
        from mcnn_book.simulate.bbbc021 import simulate_screen

        simulate_screen(
            folder / "screen", 0, _layout(quick), HEIGHT, WIDTH, workers=CORES, progress=False
        )

    def preprocess() -> dict[str, Any]:
        from mcnn_core.preprocessing import preprocess

        screen, start = _screen(folder), time.perf_counter()
        preprocess(screen, folder / "store", workers=CORES, progress=False)
        return {
            "seconds": time.perf_counter() - start,
            "table_bytes": int(screen.table.memory_usage(deep=True).sum()),
        }

    def train() -> dict[str, Any]:
        from mcnn_core.model import CONFIGS
        from mcnn_core.store import Store
        from mcnn_core.training import RECIPES, train

        treatments = _screen(folder).table["Metadata_Treatment"]
        labels = pd.Categorical(treatments).codes.astype(np.int64)
        start = time.perf_counter()
        train(
            Store.open(folder / "store"),
            labels,
            CONFIGS["default"],
            replace(RECIPES["default"], epochs=EPOCHS),
            folder / "training",
            progress=False,
        )
        return {
            "seconds": time.perf_counter() - start,
            "n_classes": int(labels.max()) + 1,
            "n_fields": len(labels),
        }

    def embed() -> None:
        from mcnn_core.features import embed_screen
        from mcnn_core.store import Store
        from mcnn_core.training import load_model

        embed_screen(
            load_model(folder / "training"),
            Store.open(folder / "store"),
            folder / "embedding",
            progress=False,
        )

    def profiles() -> None:
        from mcnn_core.machine.files import write_table
        from mcnn_core.profiles import feature_frame, profile

        parts = sorted((folder / "embedding").glob("part_*.npy"))
        activations, table = (
            np.concatenate([np.load(part, allow_pickle=False) for part in parts]),
            _screen(folder).table,
        )
        features = feature_frame(table, activations, np.ones(len(table), bool))
        wells, treatments = profile(features)
        for name, frame in {"features": features, "wells": wells, "treatments": treatments}.items():
            write_table(folder / "profiles" / f"{name}.parquet", frame)

    def distances() -> None:
        from mcnn_core.analysis.clusters import tree
        from mcnn_core.analysis.distances import cosine_distances
        from mcnn_core.profiles import feature_matrix

        tree(
            cosine_distances(feature_matrix(pd.read_parquet(folder / "profiles" / "wells.parquet")))
        )

    return dict(zip(STAGES, (simulate, preprocess, train, embed, profiles, distances), strict=True))


def _contestant(folder: Path, case: Case):
    import mcnn_book.screens  # noqa: F401

    return _stages(folder, case.more["quick"])[case.stage.partition(" ")[2]], {}


def cases(quick: bool = False) -> list[Case]:
    """Return one case for each stage."""
    return [
        Case(
            f"large {stage}",
            "one screen",
            "run",
            1,
            prepare_nothing,
            {"ours": _contestant},
            repeats=1,
            warm=False,
            more={"quick": quick},
        )
        for stage in STAGES
    ]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(measure: Callable[..., dict], quick: bool = False) -> dict[str, Any]:
    """Run the stages, each in a process of its own; return what ``bench-large.json`` keeps."""
    start, stages = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before, facts = 0, {}
        for stage, case in zip(STAGES, cases(quick), strict=True):
            print(f"{time.monotonic() - start:6.0f} s  {case.name}", file=sys.stderr, flush=True)
            found, after = measure(folder, case, quick)["ours"], _bytes(folder)
            stages.append(
                {
                    "stage": stage,
                    "seconds": found["seconds"][0],
                    "memory_bytes": found["peak_bytes"],
                    "disk_bytes": after - before,
                }
            )
            before = after
            facts |= {
                key: found[key][0]
                for key in ("table_bytes", "n_classes", "n_fields")
                if key in found
            }
    screen = {
        "n_fields": facts["n_fields"],
        "height": HEIGHT,
        "width": WIDTH,
        "channels": 3,
        "n_classes": facts["n_classes"],
        "epochs": EPOCHS,
        "cores": CORES,
        "sites": 2 if quick else SITES,
    }
    return {
        "command": "make bench LARGE=1" + " QUICK=1" * quick,
        "screen": screen,
        "stages": stages,
        "table_bytes": facts["table_bytes"],
        "seconds": round(time.monotonic() - start),
        **provenance(),
    }


def table(bench: dict[str, Any], predicted: pd.DataFrame) -> str:
    """Return the table that is printed: measured next to predicted."""
    from mcnn_book.check.cost import beside

    return (
        "{n_fields:,} fields of {height} x {width}, {n_classes} classes, {epochs} epochs\n".format(
            **bench["screen"]
        )
        + beside(predicted, bench).to_string(float_format="{:,.3g}".format)
    )
