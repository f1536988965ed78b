"""Features and profiles for the tools of single-cell analysis."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.profiles import feature_columns, feature_matrix
from mcnn_core.screen import NAMING


def to_anndata(frame: pd.DataFrame, provenance: Mapping[str, str] = {}) -> Any:
    """Return features or profiles as an AnnData object, for the tools of single-cell analysis.

    Parameters
    ----------
    frame : DataFrame
        Fields, wells or treatments.
    provenance : mapping of str to str
        Where they come from, such as `mcnn_book.workspace.provenance`.

    Returns
    -------
    anndata.AnnData
        ``X`` the features (rows, features), float32 where all of them are, else float64; ``obs``
        the ``Metadata_*`` columns: text as categories, numbers as numbers. ``obs_names`` are
        plate_well_site as far as present, before them the treatment where wells were pooled.
        ``uns["renamed"]`` is the name of each column that has ``_`` for a slash here.

    Raises
    ------
    InputError
        If the package anndata is not installed, a feature is not finite, or two rows or two columns
        have one name.
    """
    try:
        from anndata import AnnData
    except ImportError as error:
        raise InputError(
            "AnnData needs the package anndata, which is not installed: "
            "pip install 'mcnn-core[anndata]'"
        ) from error
    columns, values = feature_columns(frame), feature_matrix(frame)
    obs = frame.filter(regex="^Metadata_")
    # a slash divides folders in an .h5ad file
    renamed = {name.replace("/", "_"): name for name in obs if "/" in name}
    if taken := sorted(set(renamed) & set(obs)):
        raise InputError(
            "names of columns must differ in more than a slash",
            [f"column {name!r} and {renamed[name]!r}" for name in taken],
        )
    parts = obs.reindex(columns=list(NAMING), fill_value="").astype(str)
    parts["Metadata_Treatment"] = parts["Metadata_Treatment"].where(
        parts["Metadata_Well"] == "", ""
    )
    names = pd.Index(["_".join(filter(None, row)) for row in parts.to_numpy()], dtype=object)
    if names.has_duplicates:
        raise InputError(
            "rows must differ in plate, well, site or treatment",
            sorted(set(names[names.duplicated()])),
        )
    single = all(frame[name].dtype == np.float32 for name in columns)
    return AnnData(
        values.astype(np.float32 if single else np.float64),
        obs=obs.apply(_plain).set_axis(names).rename(columns=lambda name: name.replace("/", "_")),
        var=pd.DataFrame(index=pd.Index(columns, dtype=object)),
        uns={"provenance": dict(provenance), "renamed": renamed},
    )


def _plain(column: pd.Series) -> pd.Series:
    """Return texts as categories of plain Python strings: an .h5ad file takes no other kind."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    texts = column.astype(str).astype(object)
    kinds = pd.Index(sorted(set(texts)), dtype=object)
    return pd.Series(pd.Categorical(texts, categories=kinds), column.index)
