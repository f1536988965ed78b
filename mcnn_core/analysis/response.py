"""Concentration and response: similarity of wells to mechanisms, and the EC50 of each compound.

The paper compares every replicate well with the wells of each annotated mechanism and of DMSO
(*BBBC021 analysis and results*, Fig. 4a, Supplementary Table 6 and Figure 1). The fit of an EC50
goes beyond the paper; it reads no mechanism.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit
from scipy.stats import f as f_distribution
from scipy.stats import linregress

from mcnn_core.analysis.clusters import described
from mcnn_core.analysis.distances import cosine_distances, similarity
from mcnn_core.analysis.position import controls_differ
from mcnn_core.errors import InputError
from mcnn_core.profiles import centre, feature_matrix, has_controls
from mcnn_core.screen import CONTROL, row_names

#: How the similarities of a well to the many wells of a mechanism become one number [ours: the
#: paper does not say].
CHOICES: dict[str, Callable[..., np.ndarray]] = {"nearest": np.nanmax, "median": np.nanmedian}

TOP_DOSES = 2  #: highest doses of a compound whose wells say in which direction it acts
HILLS = np.geomspace(0.5, 4, 16)  #: steepnesses tried
STEP = 0.02  #: of the EC50s tried, log10 units
MARGIN = 1.0  #: how far beyond the tested doses an EC50 is looked for, log10 units
LEVEL = 0.95  #: of the interval
SIGNIFICANCE = 0.001  #: of the test whether there is a response at all
PLACE = 0.01  #: significance of the test whether negative controls differ with their place
FALLS = 0.01  #: significance of the test whether an effect falls again at higher doses

NO_FIT = {
    "flat": "no fit: no response",
    "few": "no fit: too few doses or wells",
    "low": "no fit: EC50 may lie below the tested doses",
    "high": "no fit: EC50 may lie above the tested doses",
    "open": "no fit: EC50 may lie anywhere",
}
#: Why neither an EC50 nor its interval can be trusted.
CAUTIONS = {
    "single": "one well per dose",
    "place": "controls differ with their place",
    "falls": "effect falls at high doses, so there is no plateau",
}
PARAMETERS = ["ec50", "low", "high", "hill", "bottom", "top"]


def _dosed(wells: pd.DataFrame) -> pd.Series:
    """Return the mask of wells, not controls, with a named compound at a known concentration."""
    return (
        (wells["Metadata_control_type"] == "trt")
        & (wells["Metadata_Concentration"] > 0)
        & (wells["Metadata_Compound"] != "")
    )


def similarities(wells: pd.DataFrame, choice: str = "nearest") -> pd.DataFrame:
    """Return how similar each well is to each mechanism and to the negative control.

    References are the wells of annotated treatments (positive controls left out) and the negative
    controls. A well is never its own reference, which would make it similar by definition.

    Parameters
    ----------
    wells : DataFrame
        Well profiles.
    choice : {"nearest", "median"}
        Name in `CHOICES`: the most similar reference well, or the median over all of them.

    Returns
    -------
    DataFrame
        Index as `wells`; columns the mechanisms, sorted, then `mcnn_core.screen.CONTROL`; from 0
        (opposite) to 2 (same direction), NaN where a well is a mechanism's only reference. No
        columns where a screen has neither annotation nor controls.
    """
    if choice not in CHOICES:
        raise InputError(f"choice must be one of {', '.join(CHOICES)}, got {choice!r}")
    group = wells["Metadata_MoA"].where(wells["Metadata_control_type"] == "trt", "")
    group = group.mask(wells["Metadata_control_type"] == "negcon", CONTROL).to_numpy()
    reference = np.flatnonzero(group != "")
    if not len(reference):
        return pd.DataFrame(index=wells.index)
    x = feature_matrix(wells)
    like = similarity(cosine_distances(x, x[reference], names=row_names(wells)))
    like[reference, np.arange(len(reference))] = np.nan
    table = {}
    for name in sorted(set(group) - {""}, key=lambda name: (name == CONTROL, name)):
        part = like[:, group[reference] == name]
        alone = np.isnan(part).all(axis=1, keepdims=True)
        found = CHOICES[choice](np.where(alone, 0, part), axis=1)
        table[name] = np.where(alone[:, 0], np.nan, found)
    return pd.DataFrame(table, index=wells.index)


def similarity_table(wells: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """Return ``similarity.csv``: what each well is, and how similar to each mechanism.

    The ``nearest`` of its similarities ("" where there are none), and each as ``like <mechanism>``.
    """
    nearest = like.dropna(how="all").idxmax(axis=1) if len(like.columns) else pd.Series(dtype=str)
    nearest = nearest.reindex(like.index, fill_value="")
    return described(wells).assign(nearest=nearest).join(like.add_prefix("like "))


def similarity_columns(similarity: pd.DataFrame) -> pd.DataFrame:
    """Return the similarities alone from ``similarity.csv``, rows as there."""
    columns = similarity.iloc[:, similarity.columns.get_loc("nearest") + 1 :]
    numbers = columns.apply(pd.to_numeric, errors="coerce")
    return numbers.rename(columns=lambda name: name.removeprefix("like "))


def curves(wells: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return similarity against concentration (Fig. 4a) from what `similarities` returned.

    Returns
    -------
    DataFrame
        One row per compound, concentration (uM) and mechanism, over its replicate wells:
        ``median``, ``mad`` (median absolute deviation, unscaled), ``n`` (wells), ``annotated`` (is
        this dose annotated with this mechanism?). Controls and wells without a concentration are
        left out.
    """
    names = {"Metadata_Compound": "compound", "Metadata_Concentration": "concentration"}
    part = wells.loc[_dosed(wells), [*names, "Metadata_MoA"]].rename(columns=names)
    # Not melt: a mechanism may have the name of any column.
    parts = [part.assign(mechanism=name, similarity=table[name]) for name in table]
    long = pd.concat(parts or [part.assign(mechanism="", similarity=np.nan)])
    groups = long.dropna(subset="similarity").groupby([*part, "mechanism"])["similarity"]
    found = groups.agg(median="median", n="count").reset_index()
    found["mad"] = groups.agg(lambda x: (x - x.median()).abs().median()).to_numpy()
    found["annotated"] = found["Metadata_MoA"] == found["mechanism"]
    return found[["compound", "concentration", "mechanism", "median", "mad", "n", "annotated"]]


def hill(
    concentration: np.ndarray,
    bottom: float,
    top: float,
    log_ec50: float | np.ndarray,
    slope: float | np.ndarray,
) -> np.ndarray:
    """Return the four-parameter log-logistic response; at concentration 0 it is `bottom`."""
    with np.errstate(divide="ignore", over="ignore"):
        return bottom + (top - bottom) / (1 + 10 ** (slope * (log_ec50 - np.log10(concentration))))


def _grid(concentration: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the EC50s tried, (E,) log10, and the least squared residuals, (E, len(HILLS)).

    Given EC50 and steepness, bottom and top follow from linear regression; so no local minimum is
    missed.
    """
    tested = np.log10(concentration[concentration > 0])
    tried = np.arange(tested.min() - MARGIN, tested.max() + MARGIN + STEP / 2, STEP)
    doses, which = np.unique(concentration, return_inverse=True)
    shape = hill(doses, 0, 1, tried[:, None, None], HILLS[:, None])[..., which]
    shape = shape - shape.mean(axis=-1, keepdims=True)
    centred = response - response.mean()
    explained = (shape @ centred) ** 2 / np.maximum(np.square(shape).sum(axis=-1), 1e-12)
    return tried, centred @ centred - explained


def fit(concentration: np.ndarray, response: np.ndarray) -> dict[str, float | str]:
    """Fit a four-parameter log-logistic curve, with the profile likelihood's interval of the EC50.

    Parameters
    ----------
    concentration : (n,) array
        uM; 0 for wells of the negative control.
    response : (n,) array
        In any unit; wells count as independent.

    Returns
    -------
    dict
        ``ec50``, ``low``, ``high`` (uM), ``hill``, ``bottom``, ``top`` and ``status``: "fit", or a
        text of `NO_FIT` and NaN for all numbers. An interval that reaches the end of the range
        searched (`MARGIN`) is no fit: the doses do not bracket the EC50.
    """

    def no_fit(reason: str) -> dict[str, float | str]:
        return {**dict.fromkeys(PARAMETERS, np.nan), "status": NO_FIT[reason]}

    free = len(response) - 4
    if free < 1 or len(np.unique(concentration[concentration > 0])) < 3:
        return no_fit("few")
    tried, residual = _grid(concentration, response)
    best, null = residual.min(), np.square(response - response.mean()).sum()
    if f_distribution.sf((null - best) / 3 / max(best / free, 1e-300), 3, free) > SIGNIFICANCE:
        return no_fit("flat")
    excess = f_distribution.ppf(LEVEL, 1, free) / free
    inside = np.flatnonzero(residual.min(axis=1) <= best * (1 + excess))
    below, above = inside[0] == 0, inside[-1] == len(tried) - 1
    if below or above:
        return no_fit("open" if below and above else "low" if below else "high")
    at, steep = np.unravel_index(residual.argmin(), residual.shape)
    height, bottom = np.polyfit(hill(concentration, 0, 1, tried[at], HILLS[steep]), response, 1)
    start = [bottom, bottom + height, tried[at], HILLS[steep]]
    limits = ([-np.inf, -np.inf, tried[0], HILLS[0]], [np.inf, np.inf, tried[-1], HILLS[-1]])
    (bottom, top, middle, slope), _ = curve_fit(hill, concentration, response, start, bounds=limits)
    # outward, to the first EC50s that are excluded
    low, high = tried[inside[0] - 1], tried[inside[-1] + 1]
    found = (10**middle, 10**low, 10**high, slope, bottom, top)
    return {**dict(zip(PARAMETERS, found, strict=True)), "status": "fit"}


def _falls(dose: np.ndarray, response: np.ndarray, high: float) -> bool:
    """Whether wells beyond the upper end of the EC50's interval do less, the higher their dose."""
    beyond = dose > high
    if beyond.sum() < 3 or len(np.unique(dose[beyond])) < 2:
        return False
    line = linregress(np.log10(dose[beyond]), response[beyond], alternative="less")
    return bool(line.pvalue < FALLS)


def effects(wells: pd.DataFrame, compound: str) -> tuple[np.ndarray, np.ndarray]:
    """Return concentration (uM, 0 for controls) and effect of a compound's wells and its controls.

    The controls are the negative ones of their plates. The effect of a well is how far its profile
    goes, from its plate's negative controls, in the direction in which the compound's `TOP_DOSES`
    highest doses go (the median of their wells, itself left out, scaled to length 1).
    """
    here = (wells["Metadata_Compound"] == compound) & _dosed(wells)
    plates = wells["Metadata_Plate"].isin(wells.loc[here, "Metadata_Plate"])
    used = centre(wells[here | (wells["Metadata_control_type"] == "negcon") & plates])
    dose = used["Metadata_Concentration"].where(here[used.index], 0.0).to_numpy()
    return dose, _along(feature_matrix(used), dose)


def _along(values: np.ndarray, dose: np.ndarray) -> np.ndarray:
    """Return how far each centred profile, (n, d), goes in the direction of the highest doses."""
    top = dose >= np.unique(dose[dose > 0])[-TOP_DOSES:].min()

    def axis(others: np.ndarray) -> np.ndarray:
        return np.median(values[others], axis=0) if others.any() else np.zeros(values.shape[1])

    response, of_all = [], axis(top)
    for row, value in enumerate(values):
        towards = axis(top & (np.arange(len(top)) != row)) if top[row] else of_all
        response.append(value @ towards / max(np.linalg.norm(towards), 1e-300))
    return np.array(response)


def potency(wells: pd.DataFrame) -> pd.DataFrame:
    """Fit the EC50 of every compound of a screen.

    Every plate of a compound needs negative controls. Nothing here depends on ``Metadata_MoA``.

    Returns
    -------
    DataFrame
        ``potency.csv``: one row per compound, sorted, ``compound``, what `fit` returned, and
        ``caution``: texts of `CAUTIONS` joined by "; ", or "". The interval of a fit rests on how
        wells of one dose differ, and on untreated wells being alike: where every dose has one well,
        or where the screen's negative controls differ with their row or column
        (`mcnn_core.analysis.position.controls_differ`, p below `PLACE`), a difference of place
        passes for a response. And the curve ends in a plateau, which an effect that falls again at
        higher doses (p below `FALLS`) does not have.
    """
    dosed, rows = _dosed(wells), []
    plates = wells["Metadata_Plate"].isin(wells.loc[dosed, "Metadata_Plate"])
    used = wells[dosed | (wells["Metadata_control_type"] == "negcon") & plates]
    differ = dosed.any() and controls_differ(wells, PLACE)
    values = feature_matrix(centre(used)) if dosed.any() else np.empty((0, 0))
    dose = used["Metadata_Concentration"].where(dosed, 0.0).to_numpy()
    plate, compounds = (used[f"Metadata_{name}"].to_numpy() for name in ("Plate", "Compound"))
    place = pd.Series(np.arange(len(used)))
    untreated = dict(list(place[dose == 0].groupby(plate[dose == 0])))
    for compound, own in place[dose > 0].groupby(compounds[dose > 0]):
        single = len(set(dose[own])) == len(own)
        reasons = [CAUTIONS["single"]] * single + [CAUTIONS["place"]] * differ
        here = np.sort(np.concatenate([own, *(untreated[name] for name in set(plate[own]))]))
        response = _along(values[here], dose[here])
        found = fit(dose[here], response)
        reasons += [CAUTIONS["falls"]] * _falls(dose[here], response, float(found["high"]))
        rows.append({"compound": compound, **found, "caution": "; ".join(reasons)})
    columns = ["compound", *PARAMETERS[:3], "status", *PARAMETERS[3:], "caution"]
    return pd.DataFrame(rows, columns=columns)


def potencies(wells: pd.DataFrame) -> pd.DataFrame:
    """Return `potency`, without rows where a plate lacks negative controls."""
    return potency(wells if has_controls(wells) else wells.iloc[:0])
