"""Profiles: principal components, medians over wells and treatments, label-free normalisation.

A profile frame has ``Metadata_*`` columns and numeric feature columns, one row per
field of view, well or treatment. Nothing in this module reads ``Metadata_MoA``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError
from mcnn_core.screen import field_names, row_names

DESCRIBING = ("Metadata_", "FileName_", "PathName_", "Frame_")
NORMALISATIONS = ("none", "centre", "whiten")


def feature_columns(frame: pd.DataFrame) -> list[str]:
    """Return all columns but ``Metadata_*`` and those that name images (`DESCRIBING`)."""
    return [name for name in frame.columns if not name.startswith(DESCRIBING)]


def feature_matrix(frame: pd.DataFrame) -> np.ndarray:
    """Return the features as a (rows, features) float64 copy.

    InputError without rows or features, and naming all that are not numeric or not finite.
    """
    columns = feature_columns(frame)
    if not columns or frame.empty:
        raise InputError(
            f"expected rows and feature columns, got {len(frame)} rows and {len(columns)} features"
        )
    part = frame[columns]
    if texts := [k for k, kind in part.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
        raise InputError("expected numeric features; others need names with Metadata_", texts)
    values = part.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    bad = ~np.isfinite(values)
    if bad.any():
        names = row_names(frame)
        problems = [
            f"{names[row]}: {', '.join(np.array(columns)[bad[row]][:5])}"
            for row in np.flatnonzero(bad.any(axis=1))
        ]
        raise InputError("expected finite features: a median would hide missing ones", problems)
    return values


def with_features(frame: pd.DataFrame, values: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
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
            f"expected features and training marks of {len(table)} fields, got {len(features)} "
            f"rows of features and {len(training)} marks"
        )
    bad = ~np.isfinite(np.asarray(features)).all(axis=1)
    if bad.any():
        raise InputError("expected finite features", field_names(table[bad]))
    if not isinstance(features, pd.DataFrame):
        features = pd.DataFrame(features, columns=_numbered("MCNN", features.shape[1]))
    metadata = table.filter(regex="^Metadata_").assign(Metadata_Training=np.asarray(training, bool))
    return pd.concat([one.reset_index(drop=True) for one in (metadata, features)], axis=1)


def _training(fields: pd.DataFrame) -> np.ndarray:
    """Return the mask of the training fields, on which alone PCA and standardisation are fitted."""
    if "Metadata_Training" not in fields:
        raise InputError("expected a column Metadata_Training that marks the training fields")
    return fields["Metadata_Training"].fillna(False).to_numpy(dtype=bool)


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
        if missing := [f"column {name!r} is missing" for name in self.columns if name not in frame]:
            raise InputError("expected the features of the projection", missing)
        values = frame[list(self.columns)].to_numpy(dtype=np.float64)
        names = _numbered(self.columns[0].split("_")[0], len(self.components))
        return with_features(frame, (values - self.mean) @ self.components.T, names)


def fit_pca(frame: pd.DataFrame, variance: float = 0.99) -> Projection:
    """Fit the principal components that keep a part of the variance (paper: 0.99).

    InputError if a row is no training field (``Metadata_Training``), or no feature varies.
    """
    marked, columns = _training(frame), feature_columns(frame)
    if not marked.all():
        raise InputError(
            "expected training fields only for PCA: pass frame[frame.Metadata_Training]",
            [f"{name} was not trained on" for name in field_names(frame[~marked])],
        )
    values = frame[columns].to_numpy(dtype=np.float64)
    if len(values) < 2 or not np.ptp(values, axis=0).any():
        raise InputError(
            f"expected features that vary between at least two fields, got {len(values)} fields "
            f"of {len(columns)} features that do not: has the network learned anything?"
        )
    from sklearn.decomposition import PCA  # which takes a second to import

    pca = PCA(n_components=variance, svd_solver="full").fit(values)
    components = np.ascontiguousarray(pca.components_)
    return Projection(tuple(columns), pca.mean_, components, pca.explained_variance_ratio_)


def aggregate(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Take the element-wise median (float64) of all rows that agree in the columns `by`.

    Returns one row per group, sorted by `by`: those columns, every ``Metadata_*`` column that is
    constant within each group, and the medians. InputError as from `feature_matrix`.
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
        pairs = wells[[*by, "Metadata_Batch"]].drop_duplicates().sort_values("Metadata_Batch")
        joined = pairs.groupby(by)["Metadata_Batch"].agg(";".join)
        wells = wells.assign(Metadata_Batch=wells[by].join(joined, on=by)["Metadata_Batch"])
    return aggregate(wells, by)


def _controls(frame: pd.DataFrame) -> np.ndarray:
    """Return the mask of negative controls, on which normalisations are fitted."""
    mask = (frame["Metadata_control_type"] == "negcon").to_numpy()
    if not mask.any():
        raise InputError("expected rows with Metadata_control_type negcon, got none")
    return mask


def centre(frame: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each row the element-wise median of its plate's negative controls.

    InputError naming every plate without any.
    """
    values, controls, plates = feature_matrix(frame), _controls(frame), frame["Metadata_Plate"]
    medians = pd.DataFrame(values[controls]).groupby(plates.to_numpy()[controls]).median()
    if missing := sorted(set(plates) - set(medians.index)):
        raise InputError("expected negcon wells on every plate, got none on these", missing)
    return with_features(frame, values - medians.loc[plates].to_numpy(), feature_columns(frame))


def centre_cautiously(frame: pd.DataFrame) -> pd.DataFrame:
    """Subtract from each row its plate's negative control, as far as the plate's wells assure it.

    What is subtracted is (s + 3 m) / (n + 3) [ours]: n control wells of the plate, s the sum of
    their means, m the mean over all plates. A plate without controls gets m.
    """
    values, controls = feature_matrix(frame), _controls(frame)
    part = frame.loc[controls, ["Metadata_Plate", "Metadata_Well"]]
    wells = pd.DataFrame(values[controls]).groupby([part[name].to_numpy() for name in part]).mean()
    plates, overall = wells.groupby(level=0), wells.mean()
    means = (plates.sum() + 3 * overall).div(plates.size() + 3, axis=0)
    means = means.reindex(frame["Metadata_Plate"]).fillna(overall)
    return with_features(frame, values - means.to_numpy(), feature_columns(frame))


def whiten(frame: pd.DataFrame, regularisation: float = 0.01) -> pd.DataFrame:
    """Rotate and scale so that the negative controls have mean 0 and about unit covariance (ZCA).

    The covariance of the negative controls is inverted, with `regularisation` times its mean
    variance added to every eigenvalue, because there may be fewer controls than features.
    What varies among untreated wells is nuisance and shrinks; the rest grows.
    """
    values, controls = feature_matrix(frame), _controls(frame)
    mean = values[controls].mean(axis=0)
    deviations = values[controls] - mean
    variances, axes = np.linalg.eigh(deviations.T @ deviations / max(len(deviations) - 1, 1))
    if variances.mean() <= 0:
        raise InputError("expected negcon rows that differ from each other, got equal ones")
    scale = 1 / np.sqrt(variances.clip(min=0) + regularisation * variances.mean())
    return with_features(frame, (values - mean) @ (axes * scale) @ axes.T, feature_columns(frame))


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
    training = values[_training(fields)]
    if len(training) < 2:
        raise InputError(f"expected two training fields or more, got {len(training)}")
    spread = training.std()
    varying = spread.index[spread > 1e-9 * training.abs().max()]
    scaled = (values[varying] - training[varying].mean()) / spread[varying]
    return with_features(fields, scaled.to_numpy(), varying)


def profile(
    fields: pd.DataFrame, normalisation: str = "none", units_differ: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take one method's fields to well and treatment profiles.

    Parameters
    ----------
    fields : DataFrame
        ``Metadata_*`` columns with ``Metadata_Training``, and the features.
    normalisation : {"none", "centre", "whiten"}
        Nothing, `centre` on the wells, or `whiten` on the fields: the activations of a layer after
        `centre_cautiously` and with a regularisation of 1 [ours].
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
    training = _training(fields)
    if units_differ:
        fields = standardise(fields)
    feature_matrix(fields)  # names every field with a missing value before scikit-learn meets it
    if normalisation == "whiten":
        fields = whiten(fields) if units_differ else whiten(centre_cautiously(fields), 1.0)
    wells = well_profiles(fit_pca(fields[training]).transform(fields))
    if normalisation == "centre":
        wells = centre(wells)
    return wells, treatment_profiles(wells)
