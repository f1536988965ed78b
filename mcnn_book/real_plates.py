"""Real plates of others, described by CellProfiler: what ways of normalising do to an accuracy."""

from collections.abc import Callable, Iterator
from itertools import product

import pandas as pd
from sklearn.decomposition import PCA

from mcnn_core.analysis.mechanisms import PROTOCOLS, nearest_neighbours, scores
from mcnn_core.profiles import (
    _with_features,
    feature_columns,
    feature_matrix,
    treatment_profiles,
    whiten,
)

Scale = Callable[[pd.DataFrame], tuple[pd.Series | float, pd.Series | None]]


def _percentiles(controls: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    low = controls.quantile(0.01)
    return low, controls.quantile(0.99) - low


def _mad(controls: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    middle = controls.median()
    return middle, 1.4826 * (controls - middle).abs().median()


#: What is subtracted from a feature on each plate, and what it is divided by, from the negative
#: controls of that plate; None is the standard deviation of the controls of all plates, after what
#: is subtracted.
SCALINGS: dict[str, Scale] = {
    "percentiles of the plate": _percentiles,
    "mean and SD of the plate": lambda controls: (controls.mean(), controls.std()),
    "median and MAD of the plate": _mad,
    "mean of the plate, SD of the screen": lambda controls: (controls.mean(), None),
    "median of the plate, SD of the screen": lambda controls: (controls.median(), None),
    "SD of the screen": lambda controls: (0.0, None),
}


def scaled(wells: pd.DataFrame, scaling: str) -> pd.DataFrame:
    """Return wells whose features are scaled by a way named in `SCALINGS`.

    Features that do not vary among the controls, and so cannot be divided, are left out.
    """
    values = pd.DataFrame(feature_matrix(wells), wells.index, feature_columns(wells))
    control, parts = wells["Metadata_control_type"] == "negcon", []
    for _, plate in values.groupby(wells["Metadata_Plate"]):
        middle, width = SCALINGS[scaling](plate[control[plate.index]])
        parts.append((plate - middle) / (1.0 if width is None else width.where(width > 0)))
    found = pd.concat(parts).loc[wells.index]
    if width is None:
        spread = found[control].std()
        found = found / spread.where(spread > 0)
    found = found.dropna(axis=1)
    return _with_features(wells, found.to_numpy(), list(found))


def components(wells: pd.DataFrame, variance: float = 0.99) -> pd.DataFrame:
    """Return wells on the principal components of all their features that keep `variance`."""
    values = PCA(n_components=variance, svd_solver="full").fit_transform(feature_matrix(wells))
    return _with_features(wells, values, [f"PC_{k:03d}" for k in range(1, values.shape[1] + 1)])


def normalised(wells: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Yield wells under every way of normalising: its three names, and the wells."""
    for scaling, reduction in product(SCALINGS, ("all features", "PCA 99 %")):
        part = scaled(wells, scaling)
        part = part if reduction == "all features" else components(part)
        yield (scaling, reduction, "as they are"), part
        yield (scaling, reduction, "whitened"), whiten(part)


def grid(wells: pd.DataFrame) -> pd.DataFrame:
    """Return what every way of normalising makes of one table of well features.

    Parameters
    ----------
    wells : DataFrame
        With mechanisms, negative controls on every plate and batches.

    Returns
    -------
    DataFrame
        One row per way and protocol: ``scaling``, ``features``, ``whitening``, ``protocol``, and
        what `mcnn_core.analysis.mechanisms.scores` returns.
    """
    rows = []
    for (scaling, reduction, whitening), part in normalised(wells):
        treatments = treatment_profiles(part)
        for protocol in PROTOCOLS:
            way = {"scaling": scaling, "features": reduction, "whitening": whitening}
            found = scores(nearest_neighbours(treatments, protocol))
            rows.append(way | {"protocol": protocol} | found)
    return pd.DataFrame(rows)
