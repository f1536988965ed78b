"""The distances between the wells of KiMorph's plate 1 that Bioconductor's phenoDist publishes."""

import io
import os

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.machine.files import read_text


def _plate_matrix(path: str | os.PathLike) -> tuple[str, pd.DataFrame]:
    """Return the number of a plate and the mean numbers between its positions, by their wells."""
    matrix = pd.read_csv(io.StringIO(read_text(path)), index_col=0)
    names = matrix.index.astype(str)
    parts = names.str.split("-", expand=True).to_frame(index=False)
    if parts.shape[1] != 3 or list(names) != list(matrix.columns) or parts[0].nunique() != 1:
        raise InputError(
            f"{path}: expected equal names of rows and columns, plate-replicate-well, of one plate"
        )
    values = matrix.to_numpy(np.float64, copy=True)
    off = ~np.eye(len(values), dtype=bool)
    if not ((values[off] >= 0) & (values[off] <= 1)).all():
        raise InputError(f"{path}: expected numbers from 0 to 1, none missing off the diagonal")
    values[~off] = np.nan
    pooled = pd.DataFrame(values).groupby(parts[2]).mean().T.groupby(parts[2]).mean()
    return str(int(parts[0][0])), pooled


def read_plate(
    distances: str | os.PathLike, annotation: str | os.PathLike
) -> tuple[pd.DataFrame, np.ndarray]:
    """Read the published distance matrix of KiMorph's plate 1, with what stands in its wells.

    It is that of the Bioconductor package phenoDist. The distance of two wells is how well a
    classifier tells their cells apart, from 0.5 (not at all) to 1; 0.5 becomes 0 (and so does what
    is below it by chance), 1 stays 1. Its two triangles were estimated separately and differ a
    little: they are averaged. Two positions are as far apart as the four pairs of their replicates
    are on average.

    Parameters
    ----------
    distances : path
        CSV, also gzip; rows and columns named plate-replicate-well, as ``001-02-P24``. Only the
        diagonal may be missing.
    annotation : path
        CSV with plate, well, controlStatus, GeneID (the symbol) and LocusID (Entrez).

    Returns
    -------
    DataFrame
        One row per position, in the order of the wells: ``well``, ``content``, ``treatment`` (the
        symbol) and ``entrez`` ("" in controls).
    (n, n) float64 array
        Distances.

    Raises
    ------
    InputError
        If the matrix is not square, complete, named like this and within 0 to 1, or a well of it is
        not in the annotation.
    """
    plate, pooled = _plate_matrix(distances)
    facts = pd.read_csv(io.StringIO(read_text(annotation)), dtype=str, keep_default_na=False)
    facts = facts[facts["plate"] == plate].set_index("well")
    if strange := sorted(set(pooled.index) - set(facts.index)):
        raise InputError(
            f"{annotation}: expected every well of {distances}",
            [f"well {well}" for well in strange],
        )
    facts = facts.loc[pooled.index]
    table = pd.DataFrame(
        {
            "well": pooled.index,
            "content": facts["controlStatus"].str.lower(),
            "treatment": facts["GeneID"],
            "entrez": facts["LocusID"].where(facts["controlStatus"] == "sample", ""),
        }
    ).reset_index(drop=True)
    scaled = np.clip(pooled.to_numpy() + pooled.to_numpy().T - 1, 0, 1)
    np.fill_diagonal(scaled, 0)
    return table, scaled
