"""What is measured on.

That is: camera-like fields on disk, a layout as large as BBBC021's, an ontology as large as GO's.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.screen import Screen

CHANNELS = ("DNA", "Actin", "Tubulin")
CLASSES = 8
TERMS, ANNOTATIONS, GENES, LIBRARY, CLUSTERS = 43_558, 348_116, 20_000, 777, 27


def write_fields(folder: Path, fields: int, height: int, width: int) -> None:
    """Write one plate of bright blurred spots on a noisy background, and ``screen.csv``.

    Fields are uint16, uncompressed.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = [
        "Metadata_Plate,Metadata_Well,Metadata_Site,"
        + ",".join(f"FileName_{c},PathName_{c}" for c in CHANNELS)
    ]
    light = np.kron(rng.gamma(0.3, 2000, (height // 16, width // 16)), np.ones((16, 16))) + 400
    for site in range(fields):
        for channel in CHANNELS:
            # Gaussian noise of Poisson's variance: many times faster to draw than Poisson's own.
            here = np.roll(light, site * 7, axis=1)
            noisy = here + np.sqrt(here) * rng.standard_normal(here.shape, dtype=np.float32)
            tifffile.imwrite(
                folder / f"{site}_{channel}.tif", noisy.clip(0, 65_535).astype(np.uint16)
            )
        lines.append(f"P1,B02,{site}," + ",".join(f"{site}_{c}.tif," for c in CHANNELS))
    (folder / "screen.csv").write_text("\n".join(lines) + "\n")


def read_fields(folder: Path, fields: int | None = None) -> Screen:
    """Open what `write_fields` wrote, or its first fields."""
    screen = read_loaddata(folder / "screen.csv")
    return dataclasses.replace(screen, table=screen.table.head(fields or len(screen.table)))


def few_wells(sites: int):
    """Return a simulated layout of two compounds and their controls, on eight wells or so."""
    from mcnn_book.simulate.bbbc021 import LAYOUTS

    tiny = LAYOUTS["tiny"]
    few = tiny.compounds["compound"].isin(["taxol", "nocodazole"])
    return dataclasses.replace(
        tiny, compounds=tiny.compounds[few], columns=(4, 5), controls=1, sites=sites
    )


def screen_layout(plates: int) -> pd.DataFrame:
    """Return plates of 60 wells and 4 sites; 55 are as large as BBBC021.

    They hold six compounds at eight doses, six wells each of DMSO and taxol.
    """
    rows, wells = [], [f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 12)]
    for plate in range(plates):
        for place, well in enumerate(wells):
            layout, row, column = plate // 3, place // 10, place % 10
            kind = {0: "negcon", 9: "poscon"}.get(column, "trt")
            compound = {"negcon": "DMSO", "poscon": "taxol"}.get(
                kind, f"compound {layout:02d}-{row}"
            )
            dose = (
                0.0 if kind == "negcon" else 0.3 if kind == "poscon" else 10.0 ** (1 - column / 2)
            )
            annotated = kind == "trt" and column < 4 and (layout * 6 + row) % 3 == 0
            rows += [
                {
                    "Metadata_Plate": f"Week{layout // 2}_{plate}",
                    "Metadata_Well": well,
                    "Metadata_Site": site,
                    "Metadata_Compound": compound,
                    "Metadata_Concentration": dose,
                    "Metadata_Treatment": "DMSO"
                    if kind == "negcon"
                    else f"{compound} | {dose:.4g}",
                    "Metadata_MoA": f"mechanism {(layout * 6 + row) // 3 % 12}"
                    if annotated
                    else "",
                    "Metadata_Replicate": plate % 3 + 1,
                    "Metadata_Batch": f"Week{layout // 2}",
                    "Metadata_control_type": kind,
                }
                for site in range(1, 5)
            ]
    return pd.DataFrame(rows)


def random_features(plates: int) -> pd.DataFrame:
    """Return 128 random features for every field of `screen_layout`."""
    from mcnn_core.profiles import feature_frame
    from mcnn_core.surrogate import training_fields

    table = screen_layout(plates)
    values = np.random.default_rng(0).normal(size=(len(table), 128)).astype(np.float32)
    return feature_frame(table, values, training_fields(table, controls=True))


def write_ontology(folder: Path, terms: int = TERMS, annotations: int = ANNOTATIONS) -> None:
    """Write ``made.obo`` and ``made.gaf``.

    The terms of ``made.obo`` have one or two parents and, as in GO, some 15 levels.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(folder / "made.obo", "w") as obo:
        for term in range(terms):
            parents = {int(term * share) for share in rng.uniform(0.2, 0.8, rng.integers(1, 3))} - {
                term
            }
            obo.write(f"\n[Term]\nid: T:{term}\nname: term {term}\nnamespace: biological_process\n")
            obo.writelines(f"is_a: T:{parent}\n" for parent in parents)
    with open(folder / "made.gaf", "w") as gaf:
        for gene, term in zip(
            rng.integers(1, GENES, annotations),
            (terms * rng.power(0.7, annotations)).astype(int),
            strict=True,
        ):
            cells = [
                "X",
                str(gene),
                f"G{gene}",
                "",
                f"T:{term}",
                "",
                "IEA",
                "",
                "P",
                "",
                "",
                "protein",
                "taxon:9606",
                "",
                "",
                "",
                "",
            ]
            gaf.write("\t".join(cells) + "\n")


def read_library(folder: Path, genes: int = LIBRARY):
    """Return the ontology, the universe of a library drawn at random, and its clusters.

    The clusters are dealt at random.
    """
    from mcnn_core.analysis.enrichment import universe
    from mcnn_core.readers.ontology import load_go

    go = load_go(folder / "made.obo", folder / "made.gaf", folder / "cache")
    rng = np.random.default_rng(0)
    known = go.annotation["gene"].drop_duplicates()
    library = rng.choice(known, min(genes, len(known)), replace=False)
    return universe(go, library), pd.Series(rng.integers(1, CLUSTERS + 1, len(library)), library)
