"""Each stage as a careful reader of tutorials would write it.

It is correct, plain, and with no thought of the hardware: float arrays of whole plates,
`np.percentile`, a loop over wells, a table for each term; the network is in `plain_network`.
Where a chapter shows a step as its idea in code, that is the code (`taught`).
`tests/test_benchmarks.py` holds these to the same results as the package.
"""

import ast
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
from scipy.spatial.distance import pdist
from scipy.stats import fisher_exact

from mcnn_core.readers.images import image_paths


def taught(chapter: str, **names: Any) -> dict[str, Any]:
    """Return what a chapter defines in its idea in code: functions and classes, by name.

    `names` are those that its set-up imports and they need. What the cell does with them stays
    undone.
    """
    from tools.book import idea

    cell = ast.parse(idea(chapter))
    cell.body = [part for part in cell.body if isinstance(part, (ast.FunctionDef, ast.ClassDef))]
    exec(compile(cell, chapter, "exec"), names)
    return names


def read(screen, rows) -> list[np.ndarray]:
    """Read fields, (H, W, C) uint16."""
    paths = image_paths(screen)
    return [np.stack([tifffile.imread(path) for path in paths[row]], axis=-1) for row in rows]


def preprocess(screen, path: Path) -> np.ndarray:
    """Pre-process each channel of each plate as chapter 2 does, save: (n, H, W, C) uint8."""
    eight_bit = taught("02_preprocessing", np=np)["eight_bit"]
    fields = []
    for _, rows in screen.table.groupby("Metadata_Plate", sort=False):
        counts = np.stack(read(screen, rows.index))
        channels = [eight_bit(counts[..., c]) for c in range(counts.shape[-1])]
        fields.append(np.stack(channels, axis=-1))
    grey = np.concatenate(fields)
    np.save(path, grey)
    return grey


def simulate(folder: Path, seed: int, layout, height: int, width: int) -> None:
    """Draw the wells of a screen one after another, in one process."""
    from mcnn_book.simulate.bbbc021 import truth_table
    from mcnn_book.simulate.cells import field

    wells, compounds = truth_table(seed, layout)
    for well in wells.to_dict("records"):
        for site in range(1, layout.sites + 1):
            image = field(seed, well, compounds[well["compound"]], site, height, width)
            for channel, pixels in enumerate(image):
                tifffile.imwrite(
                    folder / f"{well['plate']}_{well['well']}_{site}_{channel}.tif", pixels
                )


def ordered_tree(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine distances, condensed, and their tree with ordered leaves."""
    distances = pdist(profiles, "cosine")
    return distances, optimal_leaf_ordering(linkage(distances, "average"), distances)


def fisher(members: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the one-sided p of each term, by a table of 2 x 2 for each.

    `members` is (terms, genes) bool, `chosen` is (genes,) bool.
    """
    p = np.ones(len(members))
    for term, carried in enumerate(members):
        table = [
            [(carried & chosen).sum(), (carried & ~chosen).sum()],
            [(~carried & chosen).sum(), (~carried & ~chosen).sum()],
        ]
        p[term] = fisher_exact(table, alternative="greater").pvalue
    return p
