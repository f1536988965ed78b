"""Seconds and memory from 13,200 rows of features to every table and figure of chapters 9 to 12.

    python benchmarks/discovery.py [--metadata FOLDER]

Features are random numbers, 128 to a field. The layout is that of BBBC021: its own, read from FOLDER with
``BBBC021_v1_image.csv`` and ``BBBC021_v1_moa.csv``, or one made here with as many plates, wells, sites and annotated treatments.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mcnn_core import figures, interactive
from mcnn_core.compare import profile
from mcnn_core.discover import cluster_names, cluster_table, discover, novel_sheet, suspect_sheet, thumbnails, unannotated_tops
from mcnn_core.features import feature_frame
from mcnn_core.files import write_table
from mcnn_core.pipeline import training_fields
from mcnn_core.response import effects, similarities
from mcnn_core.screen import read_bbbc021

plt.switch_backend("agg")


def made_layout() -> pd.DataFrame:
    """Return 55 plates of 60 wells and 4 sites: six compounds at eight doses, six wells each of DMSO and taxol."""
    rows, wells = [], [f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 12)]
    for plate in range(55):
        for place, well in enumerate(wells):
            layout, row, column = plate // 3, place // 10, place % 10
            kind = {0: "negcon", 9: "poscon"}.get(column, "trt")
            compound = {"negcon": "DMSO", "poscon": "taxol"}.get(kind, f"compound {layout:02d}-{row}")
            dose = 0.0 if kind == "negcon" else 0.3 if kind == "poscon" else 10.0 ** (1 - column / 2)
            annotated = kind == "trt" and column < 4 and (layout * 6 + row) % 3 == 0
            rows += [{"Metadata_Plate": f"Week{layout // 2}_{plate}", "Metadata_Well": well, "Metadata_Site": site, "Metadata_Compound": compound,
                      "Metadata_Concentration": dose, "Metadata_Treatment": "DMSO" if kind == "negcon" else f"{compound} | {dose:.4g}",
                      "Metadata_MoA": f"mechanism {(layout * 6 + row) // 3 % 12}" if annotated else "", "Metadata_Replicate": plate % 3 + 1,
                      "Metadata_Batch": f"Week{layout // 2}", "Metadata_control_type": kind} for site in range(1, 5)]
    return pd.DataFrame(rows)


def run(table: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Return the seconds of each step."""
    rng, took, clock = np.random.default_rng(0), {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        took[name], clock = time.perf_counter() - clock, time.perf_counter()

    features = feature_frame(table, rng.normal(size=(len(table), 128)).astype(np.float32), training_fields(table, controls=True))
    store = SimpleNamespace(pixels=np.broadcast_to(rng.integers(0, 256, (128, 160, 3), dtype=np.uint8), (len(table), 128, 160, 3)))
    lap("random features")
    wells, treatments = profile(features)
    lap("PCA and medians")
    tables = discover(wells, treatments)
    lap("analyses")
    for name, frame in tables.items():
        write_table(folder / f"{name}.csv", frame)
    lap("tables as CSV")
    like, points, potency = similarities(wells), tables["curves"], tables["potency"]
    clusters, distances = cluster_table(treatments)
    compounds = potency["compound"].head(4)
    drawn = {
        "similarity": lambda ax: figures.similarity_heat(ax, unannotated_tops(wells, like)),
        **{f"curves {name}": lambda ax, name=name: figures.response_curves(ax, points[points["compound"] == name]) for name in compounds},
        **{f"effect {name}": lambda ax, name=name: figures.dose_effect(ax, *effects(wells, name), potency.set_index("compound", drop=False).loc[name])
           for name in compounds},
        "potency": lambda ax: figures.potency_intervals(ax, potency), "matrix": lambda ax: figures.ordered_matrix(ax, distances, clusters["cluster"]),
        "novelty": lambda ax: figures.novelty_map(ax, tables["novel"])}
    for name, (rows, titles) in {"novel": novel_sheet(table, tables["novel"]), "suspect": suspect_sheet(table, tables["suspects"])}.items():
        drawn[name] = lambda ax, rows=rows, titles=titles: figures.contact_sheet(ax, store.pixels[rows], titles) if rows else figures.not_available(ax)
    for name, draw in drawn.items():
        figure, ax = plt.subplots(figsize=(7.2, 6), layout="constrained")
        draw(ax)
        figure.savefig(folder / f"{name}.png")
        plt.close(figure)
    lap("figures")
    pages = [interactive.table(tables["similarity"]), interactive.curves(points, potency),
             interactive.matrix(distances, cluster_names(clusters), thumbnails(store, table, clusters))]
    (folder / "interactive.html").write_text("".join(page._repr_html_() for page in pages), encoding="utf-8")
    lap("interactive figures")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", type=Path, help="folder with the tables of BBBC021")
    given = parser.parse_args()
    table = read_bbbc021(given.metadata).table if given.metadata else made_layout()
    with tempfile.TemporaryDirectory() as folder:
        took = run(table, Path(folder))
    for name, seconds in took.items():
        print(f"{name:22s} {seconds:6.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'all':22s} {sum(took.values()):6.1f} s of 60 for {len(table):,} fields; peak memory {peak:.2f} of 2 GiB")


if __name__ == "__main__":
    main()
