"""Profiles: medians from fields to wells to treatments, and the label-free ways to normalise them.

A profile frame has ``Metadata_*`` columns and numeric feature columns, one row per
field of view, well or treatment. Nothing in this module reads ``Metadata_MoA``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from mcnn_core.errors import InputError
from mcnn_core.screen import field_names

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


def variance_shares(wells: pd.DataFrame) -> pd.DataFrame:
    """Say how much of what tells wells apart goes with their plate, batch, place and treatment.

    Returns
    -------
    DataFrame
        One row for each of these that has two groups or more, and fewer than there are wells:
        ``grouping``, ``groups``, the ``share`` of the variance of all profiles that lies between
        the groups, and the share ``by chance``, (groups - 1) / (wells - 1); then both of the
        negative controls alone, as ``control share`` and ``control chance``, NaN where these are
        too few. What goes with the plate of a control is no effect of a treatment.
    """
    place = wells["Metadata_Well"].str.extract(r"([A-Z]+)0*([0-9]+)")
    groupings = {
        name: wells[f"Metadata_{name.capitalize()}"]
        for name in ("treatment", "batch", "plate")
        if f"Metadata_{name.capitalize()}" in wells
    } | {"row of the plate": place[0], "column of the plate": place[1]}
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    values = feature_matrix(wells)
    rows = []
    for name, groups in groupings.items():
        number, *all_wells = _between(values, groups)
        controls = _between(values[control], groups[control]) if name != "treatment" else (0, 0, 0)
        if np.isfinite(all_wells[0]):
            missing = not controls[0]
            rows.append((name, number, *all_wells, *([np.nan] * 2 if missing else controls[1:])))
    columns = ["grouping", "groups", "share", "by chance", "control share", "control chance"]
    return pd.DataFrame(rows, columns=columns)


def _between(values: np.ndarray, groups: pd.Series) -> tuple[int, float, float]:
    """Return the number of groups, the share of the variance between them, and that by chance.

    Rows of no name belong to no group. 0 and NaN where there is one group, or one row in each.
    """
    named = (groups != "").to_numpy()
    values = values[named] - values[named].mean(axis=0) if named.any() else values[named]
    number, total = groups[named].nunique(), np.square(values).sum()
    if not 1 < number < len(values) or not total:
        return 0, np.nan, np.nan
    means = pd.DataFrame(values).groupby(groups[named].to_numpy()).transform("mean")
    return number, float(np.square(means).sum().sum() / total), (number - 1) / (len(values) - 1)


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
        Where they come from, such as `mcnn_book.workspace.provenance`.

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


def feature_frame(
    table: pd.DataFrame, activations: np.ndarray, training: np.ndarray
) -> pd.DataFrame:
    """Join Metadata_*, Metadata_Training and MCNN_001 to MCNN_128.

    InputError if rows do not match or are not finite.
    """
    if not len(table) == len(activations) == len(training):
        raise InputError(
            f"{len(table)} fields need as many rows of features and training marks",
            [f"{len(activations)} rows of features", f"{len(training)} training marks"],
        )
    bad = ~np.isfinite(activations).all(axis=1)
    if bad.any():
        raise InputError("Features must be finite numbers", field_names(table[bad]))
    metadata = table[[column for column in table if column.startswith("Metadata_")]].reset_index(
        drop=True
    )
    features = pd.DataFrame(activations, columns=_numbered("MCNN", activations.shape[1]))
    return pd.concat(
        [metadata.assign(Metadata_Training=np.asarray(training, dtype=bool)), features], axis=1
    )


@dataclass(frozen=True)
class Projection:
    """Principal axes of the training fields."""

    columns: tuple[str, ...]  #: features, in order
    #: (d,) float64: mean of the training fields, subtracted first [ours: the paper is silent]
    mean: np.ndarray
    components: np.ndarray  #: (k, d) float64: orthonormal axes
    explained: np.ndarray  #: (k,) float64: part of the variance along each axis

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return Metadata_* columns and principal components (float64).

        They are named MCNN_001 ... as features were.
        """
        missing = [
            f"column {column!r} is missing" for column in self.columns if column not in frame
        ]
        if missing:
            raise InputError("The frame lacks features of the projection", missing)
        scores = (
            frame[list(self.columns)].to_numpy(dtype=np.float64) - self.mean
        ) @ self.components.T
        names = _numbered(self.columns[0].split("_")[0], len(self.components))
        metadata = frame[[column for column in frame if column.startswith("Metadata_")]]
        return pd.concat([metadata, pd.DataFrame(scores, columns=names, index=frame.index)], axis=1)


def fit_pca(frame: pd.DataFrame, variance: float = 0.99) -> Projection:
    """Fit principal components on the non-augmented training fields.

    They keep a part of the variance.

    Parameters
    ----------
    frame : DataFrame
        Rows of `feature_frame` (or other features beside Metadata_*). InputError if a row is not
        marked as a training field in Metadata_Training, or if no feature varies.
    variance : float
        Part of the variance to keep, between 0 and 1 (paper: 0.99).
    """
    if "Metadata_Training" not in frame:
        raise InputError(
            "PCA is fitted on training fields only: column Metadata_Training must mark them"
        )
    marked = frame["Metadata_Training"].fillna(False).astype(bool).to_numpy()
    if not marked.all():
        raise InputError(
            "PCA is fitted on training fields only: pass frame[frame.Metadata_Training]",
            [f"{name} was not trained on" for name in field_names(frame[~marked])],
        )
    columns = [column for column in frame if not column.startswith("Metadata_")]
    values = frame[columns].to_numpy(dtype=np.float64)
    if len(values) < 2 or not np.ptp(values, axis=0).any():
        raise InputError(
            f"PCA needs features that vary between at least two fields; {len(values)} fields of "
            f"{len(columns)} features do not: has the network learned anything?"
        )
    pca = PCA(n_components=variance, svd_solver="full").fit(values)
    return Projection(
        tuple(columns),
        pca.mean_,
        np.ascontiguousarray(pca.components_),
        pca.explained_variance_ratio_,
    )


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}_{number:03d}" for number in range(1, n + 1)]


def possible_normalisations(table: pd.DataFrame) -> list[str]:
    """Return the names in `NORMALISATIONS` that the controls of a screen allow.

    Centring needs some on every plate.
    """
    controls = table[table["Metadata_control_type"] == "negcon"]
    lacking = (
        {"centre"} if set(table["Metadata_Plate"]) - set(controls["Metadata_Plate"]) else set()
    )
    lacking |= set(NORMALISATIONS) - {"none"} if len(controls) < 2 else set()
    return [name for name in NORMALISATIONS if name not in lacking]


def has_controls(wells: pd.DataFrame) -> bool:
    """Whether every plate has negative controls and the screen two or more.

    Potency and novelty need them.
    """
    return {"centre", "whiten"} <= set(possible_normalisations(wells))


def standardise(fields: pd.DataFrame) -> pd.DataFrame:
    """Scale features to mean 0 and standard deviation 1 over the training fields.

    For features of different units; the activations of one layer share theirs and stay as they
    are. A feature that is constant over the training fields is dropped.
    """
    names = feature_columns(fields)
    values = pd.DataFrame(feature_matrix(fields), columns=names, index=fields.index)
    training = values[fields["Metadata_Training"].to_numpy(dtype=bool)]
    if len(training) < 2:
        raise InputError(
            f"standardisation needs two training fields or more, found {len(training)}"
        )
    spread = training.std()
    varying = spread.index[spread > 1e-9 * training.abs().max()]
    scaled = (values[varying] - training[varying].mean()) / spread[varying]
    return pd.concat([fields.drop(columns=names), scaled], axis=1)


def profile(
    fields: pd.DataFrame, normalisation: str = "none", units_differ: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take one method's fields to well and treatment profiles (steps 1 to 6).

    Parameters
    ----------
    fields : DataFrame
        ``Metadata_*`` columns with ``Metadata_Training``, and the features.
    normalisation : {"none", "centre", "whiten"}
        Nothing, `mcnn_core.profiles.centre` on the wells or `mcnn_core.profiles.whiten` on the
        fields.
    units_differ : bool
        Standardise first; for handcrafted features.

    Returns
    -------
    wells, treatments : DataFrame
        Principal components, with the metadata that is constant within a well or a treatment.
    """
    if normalisation not in NORMALISATIONS:
        raise InputError(
            f"normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}"
        )
    if "Metadata_Training" not in fields:
        raise InputError("the fields need Metadata_Training, which says what PCA may be fitted on")
    if units_differ:
        fields = standardise(fields)
    feature_matrix(fields)  # names every field with a missing value before scikit-learn meets it
    if normalisation == "whiten":
        fields = whiten(fields)
    projection = fit_pca(fields[fields["Metadata_Training"].to_numpy(dtype=bool)])
    wells = well_profiles(projection.transform(fields))
    if normalisation == "centre":
        wells = centre(wells)
    return wells, treatment_profiles(wells)
