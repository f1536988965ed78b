"""Profiles: components and medians of fields, wells and treatments, and label-free normalisation.

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

DESCRIBING = ("Metadata_", "FileName_", "PathName_", "Frame_")
NAMING = ("Metadata_Treatment", "Metadata_Plate", "Metadata_Well", "Metadata_Site")
NORMALISATIONS = ("none", "centre", "whiten")


def feature_columns(frame: pd.DataFrame) -> list[str]:
    """Return all columns but ``Metadata_*`` and those that name images (`DESCRIBING`)."""
    return [name for name in frame.columns if not name.startswith(DESCRIBING)]


def feature_matrix(frame: pd.DataFrame) -> np.ndarray:
    """Return the features as a (rows, features) float64 copy.

    Raises
    ------
    InputError
        If there are no rows or features, or some are no finite numbers; all of these are named.
    """
    columns = feature_columns(frame)
    if not columns or frame.empty:
        raise InputError(
            f"expected rows and feature columns, got {len(frame)} rows and {len(columns)} features"
        )
    if texts := [name for name in columns if not pd.api.types.is_numeric_dtype(frame[name])]:
        raise InputError(
            "feature columns must be numeric; name describing columns Metadata_...", texts
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
    rows = frame[[column for column in NAMING if column in frame]].astype(str).to_numpy()
    return [" ".join(filter(None, row)) or f"row {i}" for i, row in enumerate(rows)]


def _with_features(frame: pd.DataFrame, values: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Return a copy of a frame with other features."""
    described = frame.drop(columns=feature_columns(frame))
    return pd.concat([described, pd.DataFrame(values, frame.index, names)], axis=1)


def _numbered(prefix: str, n: int) -> list[str]:
    return [f"{prefix}_{number:03d}" for number in range(1, n + 1)]


def feature_frame(
    table: pd.DataFrame, features: np.ndarray | pd.DataFrame, training: np.ndarray
) -> pd.DataFrame:
    """Join ``Metadata_*`` columns, ``Metadata_Training`` and the features of n fields.

    Parameters
    ----------
    table : DataFrame
        The fields.
    features : (n, d) array or DataFrame
        The columns of an array become ``MCNN_001``, ``MCNN_002``, ...
    training : (n,) bool array
        Which fields were trained on.

    Raises
    ------
    InputError
        If the numbers of rows differ, or features are not finite.
    """
    if not len(table) == len(features) == len(training):
        raise InputError(
            f"{len(table)} fields need as many rows of features and training marks",
            [f"{len(features)} rows of features", f"{len(training)} training marks"],
        )
    bad = ~np.isfinite(np.asarray(features)).all(axis=1)
    if bad.any():
        raise InputError("features must be finite numbers", field_names(table[bad]))
    if not isinstance(features, pd.DataFrame):
        features = pd.DataFrame(features, columns=_numbered("MCNN", features.shape[1]))
    metadata = table.filter(regex="^Metadata_").assign(Metadata_Training=np.asarray(training, bool))
    return pd.concat([one.reset_index(drop=True) for one in (metadata, features)], axis=1)


@dataclass(frozen=True)
class Projection:
    """Principal axes of the training fields."""

    columns: tuple[str, ...]  #: features, in order
    #: (d,) float64: mean of the training fields, subtracted first [ours: the paper is silent]
    mean: np.ndarray
    components: np.ndarray  #: (k, d) float64: orthonormal axes
    explained: np.ndarray  #: (k,) float64: part of the variance along each axis

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the frame with principal components (float64), named ``MCNN_001``, ... again."""
        if missing := [name for name in self.columns if name not in frame]:
            raise InputError(
                "the frame lacks features of the projection",
                [f"column {name!r} is missing" for name in missing],
            )
        values = frame[list(self.columns)].to_numpy(dtype=np.float64)
        names = _numbered(self.columns[0].split("_")[0], len(self.components))
        return _with_features(frame, (values - self.mean) @ self.components.T, names)


def fit_pca(frame: pd.DataFrame, variance: float = 0.99) -> Projection:
    """Fit the principal components that keep a part of the variance (paper: 0.99).

    Raises
    ------
    InputError
        If a row is not marked as a training field in ``Metadata_Training``, or no feature varies.
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
    columns = feature_columns(frame)
    values = frame[columns].to_numpy(dtype=np.float64)
    if len(values) < 2 or not np.ptp(values, axis=0).any():
        raise InputError(
            f"PCA needs features that vary between at least two fields; {len(values)} fields of "
            f"{len(columns)} features do not: has the network learned anything?"
        )
    pca = PCA(n_components=variance, svd_solver="full").fit(values)
    components = np.ascontiguousarray(pca.components_)
    return Projection(tuple(columns), pca.mean_, components, pca.explained_variance_ratio_)


def aggregate(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Take the element-wise median (float64) of all rows that agree in the columns `by`.

    Returns one row per group, sorted by `by`: those columns, every ``Metadata_*`` column that is
    constant within each group, and the medians. InputError if a feature is missing or not finite,
    which pandas would skip silently.
    """
    by = list(by)
    values = pd.DataFrame(feature_matrix(frame), frame.index, feature_columns(frame))
    medians = values.groupby([frame[column] for column in by], dropna=False).median()
    groups = frame.groupby(by, dropna=False)
    others = frame.filter(regex="^Metadata_").columns.drop(by, errors="ignore")
    constant = [name for name in others if groups[name].nunique(dropna=False).max() == 1]
    described = frame[by + constant].drop_duplicates(by).set_index(by)
    return described.join(medians).sort_index().reset_index()


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
    kind, treatment = wells["Metadata_control_type"], wells["Metadata_Treatment"]
    wells = wells[(kind != "poscon") | ~treatment.isin(treatment[kind == "trt"])]
    unknown = wells["Metadata_Treatment"] == ""
    control = wells["Metadata_control_type"] == "negcon"
    wells = wells.assign(
        Metadata_Plate=wells["Metadata_Plate"].where(control | unknown, ""),
        Metadata_Well=wells["Metadata_Well"].where(unknown, ""),
    )
    by = ["Metadata_Treatment", "Metadata_control_type", "Metadata_Plate", "Metadata_Well"]
    if "Metadata_Batch" in wells:
        batches = wells.groupby(by)["Metadata_Batch"]
        joined = batches.transform(lambda batch: ";".join(sorted(set(batch))))
        wells = wells.assign(Metadata_Batch=joined)
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
    named = {name: f"Metadata_{name.capitalize()}" for name in ("treatment", "batch", "plate")}
    groupings = {name: wells[column] for name, column in named.items() if column in wells}
    groupings |= {"row of the plate": place[0], "column of the plate": place[1]}
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    values, rows = feature_matrix(wells), []
    for name, groups in groupings.items():
        alone = control & (name != "treatment")
        number, *shares = _between(values, groups)
        if number:
            rows.append((name, number, *shares, *_between(values[alone], groups[alone])[1:]))
    columns = ["grouping", "groups", "share", "by chance", "control share", "control chance"]
    return pd.DataFrame(rows, columns=columns)


def _between(values: np.ndarray, groups: pd.Series) -> tuple[int, float, float]:
    """Return the number of groups, the share of the variance between them, and that by chance.

    Rows of no name belong to no group. 0 and NaN where there is one group, or one row in each.
    """
    named = (groups != "").to_numpy()
    values, groups = values[named], groups[named]
    number, centred = groups.nunique(), values - values.mean(axis=0) if len(values) else values
    total = np.square(centred).sum()
    if not 1 < number < len(values) or not total:
        return 0, np.nan, np.nan
    means = pd.DataFrame(centred).groupby(groups.to_numpy()).transform("mean")
    return number, float(np.square(means).sum().sum() / total), (number - 1) / (len(values) - 1)


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


def _controls(frame: pd.DataFrame) -> np.ndarray:
    """Return the mask of negative controls; at least one must be there."""
    mask = (frame["Metadata_control_type"] == "negcon").to_numpy()
    if not mask.any():
        raise InputError(
            "no row has Metadata_control_type negcon, and this normalisation is fitted on those"
        )
    return mask


def centre(frame: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each row the element-wise median of its plate's negative controls.

    InputError naming every plate without any.
    """
    values, controls, plates = feature_matrix(frame), _controls(frame), frame["Metadata_Plate"]
    medians = pd.DataFrame(values[controls]).groupby(plates.to_numpy()[controls]).median()
    if missing := sorted(set(plates) - set(medians.index)):
        raise InputError("centring needs negcon wells on every plate; these have none", missing)
    return _with_features(frame, values - medians.loc[plates].to_numpy(), feature_columns(frame))


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
    return _with_features(frame, (values - mean) @ (axes * scale) @ axes.T, feature_columns(frame))


def possible_normalisations(table: pd.DataFrame) -> list[str]:
    """Return those of `NORMALISATIONS` that a screen allows; centring needs controls everywhere."""
    controls = table[table["Metadata_control_type"] == "negcon"]
    if len(controls) < 2:
        return ["none"]
    lacking = set(table["Metadata_Plate"]) - set(controls["Metadata_Plate"])
    return ["none", "whiten"] if lacking else list(NORMALISATIONS)


def has_controls(wells: pd.DataFrame) -> bool:
    """Whether every plate has negative controls, as potency and novelty need."""
    return "centre" in possible_normalisations(wells)


def standardise(fields: pd.DataFrame) -> pd.DataFrame:
    """Scale features to mean 0 and standard deviation 1 over the training fields.

    For features of different units; the activations of one layer share theirs and stay as they
    are. A feature that is constant over the training fields is dropped.
    """
    values = pd.DataFrame(feature_matrix(fields), fields.index, feature_columns(fields))
    training = values[fields["Metadata_Training"].to_numpy(dtype=bool)]
    if len(training) < 2:
        raise InputError(f"standardisation needs two training fields or more, got {len(training)}")
    spread = training.std()
    varying = spread.index[spread > 1e-9 * training.abs().max()]
    scaled = (values[varying] - training[varying].mean()) / spread[varying]
    return _with_features(fields, scaled.to_numpy(), varying)


def profile(
    fields: pd.DataFrame, normalisation: str = "none", units_differ: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take one method's fields to well and treatment profiles.

    Parameters
    ----------
    fields : DataFrame
        ``Metadata_*`` columns with ``Metadata_Training``, and the features.
    normalisation : {"none", "centre", "whiten"}
        Nothing, `centre` on the wells or `whiten` on the fields.
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
