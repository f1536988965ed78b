"""Profiles: medians from fields to wells to treatments, and the label-free ways to normalise them.

A profile frame has ``Metadata_*`` columns and numeric feature columns, one row per
field of view, well or treatment. Nothing in this module reads ``Metadata_MoA``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError

DESCRIBING = ("Metadata_", "FileName_", "PathName_")
NAMING = ("Metadata_Treatment", "Metadata_Plate", "Metadata_Well", "Metadata_Site")
NORMALISATIONS = ("none", "centre", "whiten")


def feature_columns(frame: pd.DataFrame) -> list[str]:
    """Return the feature columns.

    All that are not ``Metadata_*``, ``FileName_*`` or ``PathName_*``.
    """
    return [name for name in frame.columns if not name.startswith(DESCRIBING)]


def feature_matrix(frame: pd.DataFrame) -> np.ndarray:
    """Return the features as a (rows, features) float64 copy.

    Raises
    ------
    InputError
        If there are no feature columns, or values that are no finite numbers; every
        such row is named with its columns.
    """
    columns = feature_columns(frame)
    if not columns or frame.empty:
        raise InputError(
            f"expected rows and feature columns, "
            f"found {len(frame)} rows and {len(columns)} features"
        )
    words = [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]
    if words:
        raise InputError(
            "feature columns must be numeric; name describing columns Metadata_...", words
        )
    values = frame[columns].to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    bad = ~np.isfinite(values)
    if bad.any():
        names = row_names(frame)
        problems = [
            f"{names[row]}: {', '.join(np.array(columns)[bad[row]][:5])}"
            for row in np.flatnonzero(bad.any(axis=1))
        ]
        raise InputError(
            "features must be finite numbers; a median would hide the missing ones", problems
        )
    return values


def row_names(frame: pd.DataFrame) -> list[str]:
    """Name each row for messages by its treatment, plate, well and site, as far as present."""
    known = [column for column in NAMING if column in frame]
    rows = frame[known].astype(str).to_numpy()
    return [" ".join(part for part in row if part) or f"row {i}" for i, row in enumerate(rows)]


def aggregate(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Take the element-wise median of all rows that agree in the columns `by`.

    Parameters
    ----------
    frame : DataFrame
        Profile frame with finite features.
    by : sequence of str
        ``Metadata_*`` columns that identify a group.

    Returns
    -------
    DataFrame
        One row per group, sorted by `by`: those columns, every ``Metadata_*`` column that
        is constant within each group, and the medians as float64.

    Raises
    ------
    InputError
        If a feature is missing or not finite; pandas would skip it silently.
    """
    by, features = list(by), feature_columns(frame)
    values = pd.DataFrame(feature_matrix(frame), columns=features, index=frame.index)
    keys = [frame[column] for column in by]
    groups = frame.groupby(by, dropna=False)
    others = [name for name in frame.columns if name.startswith("Metadata_") and name not in by]
    constant = [name for name in others if groups[name].nunique(dropna=False).max() == 1]
    described = frame[by + constant].drop_duplicates(by).set_index(by)
    return described.join(values.groupby(keys, dropna=False).median()).sort_index().reset_index()


def well_profiles(fields: pd.DataFrame) -> pd.DataFrame:
    """Return one profile per plate and well: medians over the well's fields of view."""
    return aggregate(fields, ["Metadata_Plate", "Metadata_Well"])


def treatment_profiles(wells: pd.DataFrame) -> pd.DataFrame:
    """Return one profile per treatment: medians over its replicate wells.

    Negative controls are pooled per plate only (as in the paper), wells without a
    treatment not at all; ``Metadata_Plate`` and ``Metadata_Well`` are empty where pooled.
    Positive controls that repeat a treatment of the screen are left out of its profile, as
    Ljosa et al. (2013) left out the taxol on every plate of BBBC021.
    A treatment in several batches keeps them all in ``Metadata_Batch``, joined by ``;``.
    """
    tested = wells.loc[wells["Metadata_control_type"] == "trt", "Metadata_Treatment"]
    wells = wells[
        (wells["Metadata_control_type"] != "poscon") | ~wells["Metadata_Treatment"].isin(tested)
    ]
    unknown = wells["Metadata_Treatment"] == ""
    control = wells["Metadata_control_type"] == "negcon"
    wells = wells.assign(
        Metadata_Plate=wells["Metadata_Plate"].where(control | unknown, ""),
        Metadata_Well=wells["Metadata_Well"].where(unknown, ""),
    )
    by = ["Metadata_Treatment", "Metadata_control_type", "Metadata_Plate", "Metadata_Well"]
    if "Metadata_Batch" in wells:
        batches = wells.groupby(by)["Metadata_Batch"].transform(
            lambda batch: ";".join(sorted(set(batch)))
        )
        wells = wells.assign(Metadata_Batch=batches)
    return aggregate(wells, by)


def _categories(texts: pd.Series) -> pd.Categorical:
    """Return texts as categories of plain Python strings: an .h5ad file takes no other kind."""
    codes, found = pd.factorize(texts.to_numpy(dtype=object), sort=True)
    return pd.Categorical.from_codes(codes, pd.Index(found, dtype=object))


def to_anndata(frame: pd.DataFrame, provenance: Mapping[str, str] = {}) -> Any:
    """Return features or profiles as an AnnData object, for the tools of single-cell analysis.

    Parameters
    ----------
    frame : DataFrame
        Fields, wells or treatments.
    provenance : mapping of str to str
        Where they come from, such as `mcnn_core.workspace.provenance`.

    Returns
    -------
    anndata.AnnData
        ``X`` the features (rows, features), float32 where all of them are, else float64;
        ``var_names`` theirs. ``obs`` the ``Metadata_*`` columns: text as categories, numbers as
        numbers, an unknown concentration as NaN. ``obs_names`` are plate_well_site as far as
        present, before them the treatment where wells were pooled. ``uns["provenance"]`` is
        `provenance`, ``uns["renamed"]`` the name of each column that has ``_`` for a slash here.
        ``write_h5ad`` takes it as it is.

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
    obs = frame[[name for name in frame if name.startswith("Metadata_")]]
    renamed = {
        name.replace("/", "_"): name for name in obs if "/" in name
    }  # a slash divides folders in an .h5ad file
    if taken := sorted(set(renamed) & set(obs)):
        raise InputError(
            "names of columns that differ in more than a slash are right",
            [f"column {name!r} and {renamed[name]!r}" for name in taken],
        )
    pooled = obs["Metadata_Well"] == "" if "Metadata_Well" in obs else pd.Series(True, obs.index)
    parts = [
        obs[name].where(pooled, "") if name == "Metadata_Treatment" else obs[name]
        for name in NAMING
        if name in obs
    ]
    names = pd.Index(
        ["_".join(str(part) for part in row if str(part)) for row in zip(*parts, strict=True)],
        dtype=object,
    )
    if names.has_duplicates:
        raise InputError(
            "rows that plate, well, site or treatment tell apart are right",
            sorted(set(names[names.duplicated()])),
        )
    texts = [name for name in obs if not pd.api.types.is_numeric_dtype(obs[name])]
    obs = obs.assign(**{name: _categories(obs[name].astype(str)) for name in texts}).set_axis(names)
    obs = obs.rename(columns={name: name.replace("/", "_") for name in renamed.values()})
    single = all(frame[name].dtype == np.float32 for name in columns)
    return AnnData(
        values.astype(np.float32 if single else np.float64),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(columns, dtype=object)),
        uns={"provenance": dict(provenance), "renamed": renamed},
    )


def _controls(frame: pd.DataFrame) -> np.ndarray:
    """Return the mask of negative controls; at least one must be there."""
    mask = (frame["Metadata_control_type"] == "negcon").to_numpy()
    if not mask.any():
        raise InputError(
            "no row has Metadata_control_type negcon, and this normalisation is fitted on those"
        )
    return mask


def _replaced(frame: pd.DataFrame, values: np.ndarray) -> pd.DataFrame:
    """Return a copy of `frame` with other feature values."""
    features = feature_columns(frame)
    return pd.concat(
        [frame.drop(columns=features), pd.DataFrame(values, frame.index, features)], axis=1
    )


def centre(frame: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each row the element-wise median of its plate's negative controls.

    Raises
    ------
    InputError
        Naming every plate without negative controls.
    """
    values, controls, plates = feature_matrix(frame), _controls(frame), frame["Metadata_Plate"]
    medians = pd.DataFrame(values[controls]).groupby(plates.to_numpy()[controls]).median()
    missing = sorted(set(plates) - set(medians.index))
    if missing:
        raise InputError("centring needs negcon wells on every plate; these have none", missing)
    return _replaced(frame, values - medians.loc[plates].to_numpy())


def whiten(frame: pd.DataFrame, regularisation: float = 0.01) -> pd.DataFrame:
    """Rotate and scale so that the negative controls have mean 0 and about unit covariance (ZCA).

    The covariance of the negative controls alone is inverted, with `regularisation` times
    its mean variance added to every eigenvalue, because there may be fewer controls than
    features. What varies among untreated wells is nuisance and shrinks; the rest grows.
    """
    values, controls = feature_matrix(frame), _controls(frame)
    mean = values[controls].mean(axis=0)
    deviations = values[controls] - mean
    variances, axes = np.linalg.eigh(deviations.T @ deviations / max(len(deviations) - 1, 1))
    if variances.mean() <= 0:
        raise InputError("whitening needs negcon rows that differ from each other")
    scale = 1 / np.sqrt(variances.clip(min=0) + regularisation * variances.mean())
    return _replaced(frame, (values - mean) @ (axes * scale) @ axes.T)
