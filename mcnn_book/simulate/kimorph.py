"""A simulated KiMorph on disk, in the imageHTS layout, with known truth and a toy ontology.

HeLa cells are drawn by `mcnn_book.simulate.cells` with other baselines; here is what else KiMorph
has: four control siRNAs in twelve positions each, a library of siRNAs in duplicate among which
groups of genes share a phenotype, one siRNA whose first replicate is spoilt by an artefact (the
paper's LAK, l. 201-205), pictures as JPEG montages of fields, and a Gene Ontology in which some of
the groups have a term. Phenotypes are those the paper names (l. 187-211). Genes, siRNAs and terms
are invented. Nothing in the analysis reads ``truth.csv`` or ``effects.csv``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mcnn_book.simulate.bbbc021 import draw_wells
from mcnn_book.simulate.cells import (
    _BIOLOGY,
    _INDEX,
    _TABLE,
    BACKGROUND,
    PARAMETERS,
    Compound,
    draw_field,
    generator,
    photograph,
    pixel_size,
)
from mcnn_core.machine.files import atomic
from mcnn_core.readers.imagehts import EMPTY, KIMORPH_CHANNELS, SAMPLE

# --------------------------------------------------------------------------- layout

ROWS, COLUMNS = "ABCDEFGHIJKLMNOP", range(1, 25)


CONTROLS = ("ubc", "clspn", "trappc3", "rluc")


REPLICATES = {1: "10", 2: "11"}  # as in KiMorph's plate barcodes, PK-10B-pl1 and PK-11B-pl1


ARTEFACT = "LAK"


@dataclass(frozen=True)
class Layout:
    """Which siRNAs stand in which wells of one 384-well plate, and how many fields are taken.

    Attributes
    ----------
    groups : dict of str to int
        Number of genes in each group of `GROUPS`; `ARTEFACT` comes on top.
    columns : tuple of int
        Plate columns of the controls; the four alternate from row to row and from column to column.
    rows : int
        Rows in which controls stand.
    grid : (int, int)
        Rows and columns of fields in a picture.
    """

    groups: dict[str, int]
    columns: tuple[int, ...] = (3, 12, 21)
    rows: int = 16
    grid: tuple[int, int] = (2, 5)

    def wells(self) -> pd.DataFrame:
        """Return one row per well of the plate in the order A01, A02 ...: well, content."""
        content = {
            f"{row}{column:02d}": CONTROLS[(r + j) % len(CONTROLS)]
            for j, column in enumerate(self.columns)
            for r, row in enumerate(ROWS[: self.rows])
        }
        # KiMorph leaves the first two columns empty too.
        free = [
            f"{row}{column:02d}"
            for column in COLUMNS[2:]
            if column not in self.columns
            for row in ROWS
        ]
        content |= dict.fromkeys(free[: sum(self.groups.values()) + 1], SAMPLE)
        names = [f"{row}{column:02d}" for row in ROWS for column in COLUMNS]
        return pd.DataFrame(
            {"well": names, "content": [content.get(name, EMPTY) for name in names]}
        )


# -------------------------------------------------------------------------- biology

# HeLa next to the cells of `mcnn_book.simulate.cells`: no epithelial islands, drawn out, brighter
# nuclei; in the units of PARAMETERS.
HELA = {
    "radius": 0.5,
    "elongation": 0.16,
    "spikes": 0.12,
    "islands": -0.1,
    "junction": -0.3,
    "stress": 0.1,
    "nucleus": 0.1,
    "nucleus_elongation": 0.05,
    "dna": 1.1,
    "density": -0.25,
    "apoptosis": -0.8,
    "mitosis": -0.2,
}


# What a siRNA moves at strength 1 in a responding cell.
PHENOTYPES = {
    "neutral": {},
    "lethal": {
        "density": -1.5,
        "radius": -4.5,
        "nucleus": -1.0,
        "apoptosis": 2.8,
        "elongation": -0.15,
        "spikes": -0.2,
    },
    "enlarged cells": {"radius": 5.0, "nucleus": 1.9, "density": -0.25},
    "elongated cells": {"elongation": 0.42, "spikes": 0.2, "parallel": 5.0, "radius": 1.0},
    "large nuclei, strong actin": {
        "nucleus": 1.9,
        "radius": 4.0,
        "actin": 0.5,
        "stress": 0.4,
        "elongation": -0.15,
    },
    "few small cells": {"density": -0.7, "radius": -4.0, "nucleus": -0.9},
    "two nuclei": {"pieces": 1.1, "scatter": -0.5, "radius": 2.5},
    "mitotic arrest": {"mitosis": 2.6, "monopolar": 9.0, "density": -0.5},
}


# group: (phenotype, control with that phenotype, term of the toy ontology)
GROUPS = {
    "essential": ("lethal", "ubc", "toy checkpoint signaling"),
    "replication": ("enlarged cells", "clspn", "toy cell cycle control"),
    "adhesion": ("elongated cells", "trappc3", "toy integrin signaling"),
    "growth": ("large nuclei, strong actin", "", "toy growth factor response"),
    "spreading": ("few small cells", "", "toy Rho signaling"),
    "cytokinesis": ("two nuclei", "", ""),
    "spindle": ("mitotic arrest", "", ""),
    "inactive": ("neutral", "rluc", ""),
}


CONTROL_PHENOTYPES = {control: phenotype for phenotype, control, _ in GROUPS.values() if control}


STRENGTHS = (0.45, 1.15)  # of a library siRNA; a control has 1


LAYOUTS = {
    "default": Layout(
        {
            "essential": 12,
            "replication": 14,
            "adhesion": 14,
            "growth": 14,
            "spreading": 14,
            "cytokinesis": 12,
            "spindle": 10,
            "inactive": 213,
        }
    ),
    "tiny": Layout(
        {"essential": 3, "replication": 3, "growth": 3, "cytokinesis": 2, "inactive": 4},
        (3,),
        8,
        (1, 2),
    ),
}


def draw_sirna(
    seed: int, name: str, phenotype: str, strength: float, penetrance: float
) -> Compound:
    """Return what one siRNA does to HeLa cells.

    Its phenotype in responding cells, off-target shifts in all (none in a control).
    """
    rng = generator(seed, "sirna", name)
    effect, side = np.zeros((2, len(PARAMETERS)))
    for parameter, shift in PHENOTYPES[phenotype].items():
        effect[_INDEX[parameter]] = strength * shift * np.exp(0.15 * rng.standard_normal())
    if name.lower() not in CONTROLS:
        side[:_BIOLOGY] = (
            0.3 * rng.standard_normal(len(PARAMETERS)) * np.hypot(_TABLE[1], 0.5 * _TABLE[2])
        )[:_BIOLOGY]
    for parameter, shift in HELA.items():
        side[_INDEX[parameter]] += shift
    return Compound(effect, side, 1.0, 1.0, penetrance)


#: Columns of the truth, in their order.
TRUTH = ["plate", "replicate", "well", "content", "compound", "sirna", "entrez"]
TRUTH += ["group", "phenotype", "like", "strength", "penetrance", "artefact", "term"]


def _library(rng: np.random.Generator, layout: Layout) -> list[dict[str, Any]]:
    """Return the siRNAs of the library, in an order that says nothing of their groups."""
    genes = [
        (group, *facts)
        for group, facts in GROUPS.items()
        for _ in range(layout.groups.get(group, 0))
    ]
    order = rng.permutation(len(genes))
    library = [
        {
            "compound": f"SIM{number:03d}",
            "sirna": f"S-{number:06d}-00",
            "entrez": str(990_000_000 + number),
            "group": genes[i][0],
            "phenotype": genes[i][1],
            "like": genes[i][2],
            "term": genes[i][3],
        }
        for number, i in enumerate(order, 1)
    ]
    library.append(
        {
            "compound": ARTEFACT,
            "sirna": f"S-{len(genes) + 1:06d}-00",
            "entrez": str(990_000_001 + len(genes)),
            "group": "inactive",
            "phenotype": "neutral",
            "like": "rluc",
            "term": "",
        }
    )
    for one in library:
        one["strength"] = 0.0 if one["phenotype"] == "neutral" else rng.uniform(*STRENGTHS)
        one["penetrance"] = rng.uniform(0.7, 0.95)
    return library


def _controls() -> dict[str, dict[str, Any]]:
    """Return the controls by their name."""
    return {
        name: {
            "compound": name.upper(),
            "sirna": "",
            "entrez": "",
            "group": "",
            "phenotype": phenotype,
            "like": name,
            "term": "",
            "strength": 1.0,
            "penetrance": 0.9,
        }
        for name, phenotype in CONTROL_PHENOTYPES.items()
    }


def truth_table(seed: int, layout: Layout) -> tuple[pd.DataFrame, dict[str, Compound]]:
    """Return what really acts in each well that is not empty, and the siRNAs of this world by name.

    Returns
    -------
    DataFrame
        One row per replicate and well: plate (barcode), replicate, well, content, compound (the
        gene's symbol), sirna, entrez, group ("" in controls), phenotype, like (control with that
        phenotype, "" if none), strength, penetrance, artefact (bool), term (name in the toy
        ontology, "" if none).
    dict of str to Compound
    """
    rng = generator(seed, "library")
    library, controls = _library(rng, layout), _controls()
    wells = layout.wells().query("content != @EMPTY")
    places = iter(rng.permutation(len(library)))  # where a gene stands says nothing of its group
    acting = [
        library[next(places)] if content == SAMPLE else controls[content]
        for content in wells["content"]
    ]
    plate = pd.concat([wells.reset_index(drop=True), pd.DataFrame(acting)], axis=1)
    truth = pd.concat(
        [
            plate.assign(
                plate=f"PK-{name}B-pl1",
                replicate=replicate,
                artefact=(plate["compound"] == ARTEFACT) & (replicate == 1),
            )
            for replicate, name in REPLICATES.items()
        ],
        ignore_index=True,
    )
    return truth[TRUTH], {
        one["compound"]: draw_sirna(
            seed, one["compound"], one["phenotype"], one["strength"], one["penetrance"]
        )
        for one in [*library, *controls.values()]
    }


def effect_table(sirnas: dict[str, Compound]) -> pd.DataFrame:
    """Return how each siRNA moves the mean cell, its off-target shifts included.

    This is what perfect features could know of it.

    Returns
    -------
    DataFrame
        One row per siRNA, controls among them: compound, and for every biological parameter of
        `PARAMETERS` its mean shift, penetrance x effect + side, relative to the cells of
        `mcnn_book.simulate.cells` (so that HeLa's own baseline is part of every row), in units of
        its spread: the root of the summed variances between cells and between fields.
    """
    spread, names = np.hypot(_TABLE[1], _TABLE[2])[:_BIOLOGY], list(PARAMETERS)[:_BIOLOGY]
    shifts = np.array(
        [(one.penetrance * one.effect + one.side)[:_BIOLOGY] / spread for one in sirnas.values()]
    )
    return pd.concat(
        [pd.DataFrame({"compound": list(sirnas)}), pd.DataFrame(shifts, columns=names)], axis=1
    )


# --------------------------------------------------------------------------- pictures

# Grey levels of a background and counts per level, Hoechst, Tritc, FITC: what the 12 real wells
# have in the median and the 95th percentile.
BLACK, COUNTS_PER_LEVEL = np.array([15.0, 15.5, 18.5]), np.array([76.0, 105.0, 115.0])


JPEG_QUALITY = 92  # of the real files, by their quantisation table


def _fibre(rng: np.random.Generator, light: np.ndarray, pixel: float) -> None:
    """Lay a bright fibre out of focus over a field, in place: light (3, H, W) in um per `pixel`."""
    height, width = light.shape[1:]
    y, x = (
        np.arange(height, dtype=np.float32)[:, None] * pixel,
        np.arange(width, dtype=np.float32) * pixel,
    )
    angle, bend = rng.uniform(-0.5, 0.5), rng.uniform(15, 30)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = (
        y * np.cos(angle)
        - x * np.sin(angle)
        - 0.5 * height * pixel * np.cos(angle)
        + 0.5 * width * pixel * np.sin(angle)
    )
    distance = across - bend * np.sin(along / 40 + rng.uniform(0, 2 * np.pi))
    glow = 1.3 * np.exp(-0.5 * (distance / 7) ** 2) + 0.4 * np.exp(-0.5 * (distance / 30) ** 2)
    light += np.array([1.2, 0.8, 1.4], np.float32)[:, None, None] * glow


def field(
    seed: int, well: dict, sirna: Compound, site: int, height: int = 128, width: int = 160
) -> np.ndarray:
    """Return one field, uint8 (3, H, W): DNA, actin, tubulin; `well` is a row of `truth_table`.

    Its conditions are mostly its own, partly those of its plate, of its well, and of the position
    on both replicates.
    """
    pixel, own = pixel_size(height), (well["plate"], well["well"], site)
    shift = sum(
        (
            weight * generator(seed, "conditions", *key).standard_normal(len(PARAMETERS))
            for weight, key in (
                (0.4, (well["plate"],)),
                (0.2, ("position", well["well"])),
                (0.3, own[:2]),
                (0.8, own),
            )
        ),
        np.zeros(len(PARAMETERS)),
    )
    rng = generator(seed, *own)
    light = draw_field(rng, sirna, 1.0, shift, height, width, pixel)
    if well["artefact"]:
        _fibre(rng, light, pixel)
    counts = photograph(rng, light, shift, pixel).astype(np.float32)
    levels = (
        BLACK[:, None, None]
        + (counts - BACKGROUND[:, None, None]) / COUNTS_PER_LEVEL[:, None, None]
    )
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _write_well(task: tuple) -> None:
    """Draw the fields of one well and write its three pictures."""
    folder, seed, well, sirna, (rows, columns), height, width = task
    fields = [
        field(seed, well, sirna, site, height, width) for site in range(1, rows * columns + 1)
    ]
    montage = np.concatenate(
        [
            np.concatenate(fields[row * columns : (row + 1) * columns], axis=2)
            for row in range(rows)
        ],
        axis=1,
    )
    target = Path(folder) / "source" / well["plate"] / f"Well-{well['well'][0]}0{well['well'][1:]}"
    target.mkdir(parents=True)
    for channel, pixels in zip(KIMORPH_CHANNELS, montage, strict=True):
        Image.fromarray(pixels).save(target / f"{channel}.jpeg", quality=JPEG_QUALITY)


# -------------------------------------------------------------------------- conf files


def _write_conf(folder: Path, layout: Layout, truth: pd.DataFrame) -> None:
    """Write the conf files as imageHTS and cellHTS2 read them."""
    wells = layout.wells()
    columns = ", ".join(f"{column:02d}" for column in COLUMNS)
    lines = [
        "AssayName: simulated",
        "SourceFilenamePattern: source/PK-{replicate}B-pl{plate}/Well-{row}0{col}/{channel}.jpeg",
        "PlateNames: 1",
        f"ReplicateNames: {', '.join(REPLICATES.values())}",
        f"RowNames: {', '.join(ROWS)}",
        f"ColNames: {columns}",
        "ChannelNames: Tritc, FITC, Hoechst",
        f"Montage: {layout.grid[1]}, {layout.grid[0]}",
    ]
    (folder / "imageconf.txt").write_text("\n".join(lines) + "\n")
    used = wells[wells["content"] != EMPTY]
    groups = used.groupby([used["content"] != SAMPLE, used["well"].str[1:], "content"])["well"]
    rules = [
        f"*\t[{''.join(names.str[0])}]{column}\t{content}" for (_, column, content), names in groups
    ]
    (folder / "plateconf.txt").write_text(
        "\n".join(["Wells: 384", "Plates: 1", "Plate\tWell\tContent", f"*\t*\t{EMPTY}", *rules])
        + "\n"
    )
    (folder / "screenlog.txt").write_text("Plate\tReplicate\tWell\tFlag\tComment\n")
    (folder / "description.txt").write_text(
        "[Screen description]\nTitle: Simulated RNAi screen of cell morphology\n"
        "Celltype: HeLa-like, drawn by a program\n"
    )
    _write_annotation(folder / "annotation.txt", wells, truth)


def _write_annotation(path: Path, wells: pd.DataFrame, truth: pd.DataFrame) -> None:
    """Write what each well holds."""
    facts = truth[truth["replicate"] == 1].set_index("well")
    lines = ["PlateName\tPlate\tWell\tContent\tsiRNAID\tGeneID\tLocusID\tAccession"]
    for well, content in wells.itertuples(index=False):
        if content == EMPTY:
            cells = ["NA"] * 4
        elif content == SAMPLE:
            cells = ["sample", *facts.loc[well, ["sirna", "compound", "entrez"]]]
        else:
            cells = ["control", "NA", content.upper(), "NA"]
        lines.append("\t".join(["P1", "1", well, *cells, "NA"]))
    path.write_text("\n".join(lines) + "\n")


# ------------------------------------------------------------------------ toy ontology

BRANCHES = ("toy signaling", "toy cell cycle", "toy metabolism", "toy transport")


NOISE_TERMS = 30


def ontology(seed: int, truth: pd.DataFrame) -> tuple[list[dict], pd.DataFrame]:
    """Return the terms of the toy ontology and the annotation of the library.

    A group's term is annotated, partly by way of one of two more special terms, to most of its
    genes and to few others; two groups have no term, the other terms have genes at random, and some
    genes have no term at all.

    Returns
    -------
    list of dict
        id, name, namespace, parents: tuples of relation and id.
    DataFrame
        entrez, symbol, term, aspect (P or F), not (bool: the annotation denies it).
    """
    rng, genes = (
        generator(seed, "ontology"),
        truth[truth["entrez"] != ""]
        .drop_duplicates("entrez")
        .sort_values("entrez", ignore_index=True),
    )
    terms: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []

    def add(name: str, *parents: tuple[str, str], namespace: str = "biological_process") -> str:
        terms.append(
            {
                "id": f"GO:99{len(terms):05d}",
                "name": name,
                "namespace": namespace,
                "parents": parents,
            }
        )
        return terms[-1]["id"]

    def annotate(mask: np.ndarray, *choices: str, aspect: str = "P", denied: bool = False) -> None:
        rows.extend(
            {
                "entrez": one.entrez,
                "symbol": one.compound,
                "term": str(rng.choice(choices)),
                "aspect": aspect,
                "not": denied,
            }
            for one in genes[mask].itertuples(index=False)
        )

    known = rng.random(len(genes)) < 0.95
    roots = {"biological_process": "GO:0008150", "molecular_function": "GO:0003674"}
    terms += [
        {"id": identifier, "name": name, "namespace": name, "parents": ()}
        for name, identifier in roots.items()
    ]
    branches = [add(name, ("is_a", roots["biological_process"])) for name in BRANCHES]
    for name in dict.fromkeys(term for _, _, term in GROUPS.values() if term):
        term = add(name, ("is_a", str(rng.choice(branches))))
        special = [
            add(f"{name}, part {letter}", (relation, term))
            for letter, relation in (("A", "is_a"), ("B", "part_of"))
        ]
        inside = (genes["term"] == name).to_numpy()
        annotate(known & (rng.random(len(genes)) < np.where(inside, 0.85, 0.03)), term, *special)
    for number in range(1, NOISE_TERMS + 1):
        term = add(
            f"toy process {number:02d}",
            ("is_a", str(rng.choice(branches))),
            *([("regulates", branches[0])] if number % 10 == 0 else []),
        )
        annotate(known & (rng.random(len(genes)) < rng.uniform(0.02, 0.12)), term)
        annotate(rng.random(len(genes)) < 0.003, term, denied=True)
    annotate(known, branches[2])
    annotate(
        rng.random(len(genes)) < 0.98,
        add(
            "toy kinase activity",
            ("is_a", roots["molecular_function"]),
            namespace="molecular_function",
        ),
        aspect="F",
    )
    return terms, pd.DataFrame(rows)


def _write_ontology(folder: Path, terms: list[dict], annotation: pd.DataFrame) -> None:
    """Write ``go.obo`` (OBO 1.2) and ``go.gaf`` (GAF 2.1)."""
    names = {term["id"]: term["name"] for term in terms}
    lines = ["format-version: 1.2", "data-version: simulated", "ontology: go"]
    for term in terms:
        lines += [
            "",
            "[Term]",
            f"id: {term['id']}",
            f"name: {term['name']}",
            f"namespace: {term['namespace']}",
        ]
        lines += [
            f"{'is_a:' if relation == 'is_a' else f'relationship: {relation}'} "
            f"{parent} ! {names[parent]}"
            for relation, parent in term["parents"]
        ]
    lines += [
        "",
        "[Term]",
        "id: GO:9999999",
        "name: obsolete toy process",
        "namespace: biological_process",
        "is_obsolete: true",
    ]
    for relation in ("part_of", "regulates"):
        lines += ["", "[Typedef]", f"id: {relation}", f"name: {relation.replace('_', ' ')}"]
    (folder / "go.obo").write_text("\n".join(lines) + "\n")
    rows = [
        f"NCBIGene\t{one.entrez}\t{one.symbol}\t{'NOT' if denied else ''}\t{one.term}\t"
        f"PMID:0\tIEA\t\t{one.aspect}\tsimulated gene\t\tprotein\ttaxon:9606\t"
        "20180101\tsimulated\t\t"
        for one, denied in zip(annotation.itertuples(), annotation["not"], strict=True)
    ]
    (folder / "go.gaf").write_text(
        "\n".join(["!gaf-version: 2.1", "!simulated: genes and terms are invented", *rows]) + "\n"
    )


# -------------------------------------------------------------------------- writing


def simulate_kimorph(
    folder: str | Path,
    seed: int,
    layout: Layout = LAYOUTS["default"],
    height: int = 128,
    width: int = 160,
    workers: int = 2,
    progress: bool = True,
) -> None:
    """Write a screen: its pictures, its tables and what is true of it.

    JPEG montages below ``source``, ``conf``, ``go.obo``, ``go.gaf``, ``truth.csv`` (`truth_table`)
    and ``effects.csv`` (`effect_table`). The folder appears when the screen is complete, or not at
    all.

    Parameters
    ----------
    folder : path
        Absent, empty, or one that this function has made, which is replaced; what others have put
        into it stays.
    seed : int
        Same seed, same bytes, whatever the number of workers (with the same JPEG library).
    layout : Layout
    height, width : int
        Pixels per field.
    workers : int
        Processes.
    progress : bool
    """
    truth, sirnas = truth_table(seed, layout)
    with atomic(folder, "simulated KiMorph") as temporary:
        (temporary / "conf").mkdir(parents=True)
        _write_conf(temporary / "conf", layout, truth)
        _write_ontology(temporary, *ontology(seed, truth))
        truth.to_csv(temporary / "truth.csv", index=False)
        effect_table(sirnas).to_csv(temporary / "effects.csv", index=False, float_format="%.6g")
        tasks = [
            (str(temporary), seed, well, sirnas[well["compound"]], layout.grid, height, width)
            for well in truth.to_dict("records")
        ]
        draw_wells(_write_well, tasks, workers, progress)
