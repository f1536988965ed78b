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

from mcnn_core.analysis.clusters import _described
from mcnn_core.analysis.distances import cosine_distances, similarity
from mcnn_core.errors import InputError
from mcnn_core.profiles import centre, feature_matrix, has_controls, row_names
from mcnn_core.screen import CONTROL, NOT_AVAILABLE, in_words

#: How the similarities of a well to the many wells of a mechanism become one number [ours: the
#: paper does not say].
CHOICES: dict[str, Callable[..., np.ndarray]] = {"nearest": np.nanmax, "median": np.nanmedian}


TOP_DOSES = 2  #: highest doses of a compound whose wells say in which direction it acts


HILLS = np.geomspace(0.5, 4, 16)  #: steepnesses tried


STEP = 0.02  #: of the EC50s tried, log10 units


MARGIN = 1.0  #: how far beyond the tested doses an EC50 is looked for, log10 units


#: of the interval; of the test whether there is a response at all
LEVEL, SIGNIFICANCE = 0.95, 0.001


NO_FIT = {
    "flat": "no fit: no response",
    "few": "no fit: too few doses or wells",
    "low": "no fit: EC50 may lie below the tested doses",
    "high": "no fit: EC50 may lie above the tested doses",
    "open": "no fit: EC50 may lie anywhere",
}


def _dosed(wells: pd.DataFrame) -> pd.Series:
    """Return the mask of wells with a named compound at a known concentration.

    Controls are left out.
    """
    return (
        (wells["Metadata_control_type"] == "trt")
        & (wells["Metadata_Concentration"] > 0)
        & (wells["Metadata_Compound"] != "")
    )


def similarities(wells: pd.DataFrame, choice: str = "nearest") -> pd.DataFrame:
    """Return how similar each well is to each mechanism and to the negative control.

    This is Supplementary Table 6.

    Parameters
    ----------
    wells : DataFrame
        Well profiles. References are the wells of annotated treatments (positive controls left out)
        and the negative controls. A well is never its own reference, which would make it similar by
        definition.
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
    names = [*sorted(set(group) - {"", CONTROL}), *({CONTROL} & set(group))]
    table = {}
    for name in names:
        part = like[:, group[reference] == name]
        alone = np.isnan(part).all(axis=1)
        table[name] = np.where(
            alone, np.nan, CHOICES[choice](np.where(alone[:, None], 0, part), axis=1)
        )
    return pd.DataFrame(table, index=wells.index)


def curves(wells: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return similarity against concentration (Fig. 4a).

    Median and MAD over the replicate wells of each dose.

    Parameters
    ----------
    wells : DataFrame
    table : DataFrame
        What `similarities` returned for these wells.

    Returns
    -------
    DataFrame
        One row per compound, concentration (uM) and mechanism: ``median``, ``mad`` (median absolute
        deviation, unscaled), ``n`` (wells), ``annotated`` (is this dose annotated with this
        mechanism?). Controls and wells without a concentration are left out.
    """
    dosed = _dosed(wells)
    keys = ["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA"]
    part = wells.loc[dosed, keys]
    # Not melt: a mechanism may have the name of any column.
    parts = [part.assign(mechanism=name, similarity=table[name]) for name in table]
    long = pd.concat(parts or [part.assign(mechanism="", similarity=np.nan)]).dropna(
        subset="similarity"
    )
    groups = long.groupby([*keys, "mechanism"])["similarity"]
    found = (
        groups.agg(["median", "count"])
        .join(groups.agg(lambda x: (x - x.median()).abs().median()).rename("mad"))
        .reset_index()
    )
    found["annotated"] = found.pop("Metadata_MoA") == found["mechanism"]
    found = found.rename(
        columns={
            "Metadata_Compound": "compound",
            "Metadata_Concentration": "concentration",
            "count": "n",
        }
    )
    return found[["compound", "concentration", "mechanism", "median", "mad", "n", "annotated"]]


def hill(
    concentration: np.ndarray,
    bottom: float,
    top: float,
    log_ec50: float | np.ndarray,
    slope: float | np.ndarray,
) -> np.ndarray:
    """Return the four-parameter log-logistic response.

    `concentration` may hold 0, where it is `bottom`.
    """
    with np.errstate(divide="ignore", over="ignore"):
        return bottom + (top - bottom) / (1 + 10 ** (slope * (log_ec50 - np.log10(concentration))))


def _profile(concentration: np.ndarray, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the EC50s tried and the least squared residual for each, with its steepness.

    EC50s are (E,), log10, residuals (E, len(HILLS)). Given both, bottom and top follow from linear
    regression; so no local minimum is missed.
    """
    tested = np.log10(concentration[concentration > 0])
    tried = np.arange(tested.min() - MARGIN, tested.max() + MARGIN + STEP / 2, STEP)
    shape = hill(concentration, 0, 1, tried[:, None, None], HILLS[:, None])
    shape = shape - shape.mean(axis=-1, keepdims=True)
    centred = response - response.mean()
    explained = (shape @ centred) ** 2 / np.maximum(np.square(shape).sum(axis=-1), 1e-12)
    return tried, centred @ centred - explained


def fit(concentration: np.ndarray, response: np.ndarray) -> dict[str, float | str]:
    """Fit a four-parameter log-logistic curve, or say why not.

    The EC50 has its profile-likelihood interval.

    Parameters
    ----------
    concentration : (n,) array
        uM; 0 for wells of the negative control.
    response : (n,) array
        In any unit.

    Returns
    -------
    dict
        ``ec50``, ``low``, ``high`` (uM), ``hill``, ``bottom``, ``top`` and ``status``: "fit", or a
        text of `NO_FIT` and NaN for all numbers. An interval that reaches the end of the range
        searched (`MARGIN`) is no fit: the doses do not bracket the EC50. Wells count as
        independent.
    """
    nothing = dict.fromkeys(("ec50", "low", "high", "hill", "bottom", "top"), np.nan)
    free = len(response) - 4
    if free < 1 or len(np.unique(concentration[concentration > 0])) < 3:
        return nothing | {"status": NO_FIT["few"]}
    tried, residual = _profile(concentration, response)
    best, null = residual.min(), np.square(response - response.mean()).sum()
    if f_distribution.sf((null - best) / 3 / max(best / free, 1e-300), 3, free) > SIGNIFICANCE:
        return nothing | {"status": NO_FIT["flat"]}
    inside = np.flatnonzero(
        residual.min(axis=1) <= best * (1 + f_distribution.ppf(LEVEL, 1, free) / free)
    )
    below, above = inside[0] == 0, inside[-1] == len(tried) - 1
    if below or above:
        return nothing | {
            "status": NO_FIT["open" if below and above else "low" if below else "high"]
        }
    at, steep = np.unravel_index(residual.argmin(), residual.shape)
    top, bottom = np.polyfit(hill(concentration, 0, 1, tried[at], HILLS[steep]), response, 1)
    limits = ([-np.inf, -np.inf, tried[0], HILLS[0]], [np.inf, np.inf, tried[-1], HILLS[-1]])
    (bottom, top, middle, slope), _ = curve_fit(
        hill,
        concentration,
        response,
        [bottom, bottom + top, tried[at], HILLS[steep]],
        bounds=limits,
    )
    # outward, to the first EC50s that are excluded
    low, high = tried[inside[0] - 1], tried[inside[-1] + 1]
    return {
        "ec50": 10**middle,
        "low": 10**low,
        "high": 10**high,
        "hill": slope,
        "bottom": bottom,
        "top": top,
        "status": "fit",
    }


def effects(wells: pd.DataFrame, compound: str) -> tuple[np.ndarray, np.ndarray]:
    """Return concentration (uM, 0 for controls) and effect of wells.

    They are a compound's wells and those of the negative controls of their plates. The effect of a
    well is how far its profile goes, from its plate's negative controls, in the direction in which
    the compound's `TOP_DOSES` highest doses go (the median of their wells, itself left out, scaled
    to length 1).
    """
    here = (wells["Metadata_Compound"] == compound) & _dosed(wells)
    control = (wells["Metadata_control_type"] == "negcon") & wells["Metadata_Plate"].isin(
        wells.loc[here, "Metadata_Plate"]
    )
    used = centre(wells[here | control])
    values, dose = (
        feature_matrix(used),
        used["Metadata_Concentration"].where(here[used.index], 0.0).to_numpy(),
    )
    top = dose >= np.unique(dose[dose > 0])[-TOP_DOSES:].min()
    response = []
    for row, value in enumerate(values):
        others = top.copy()
        others[row] = False
        axis = np.median(values[others], axis=0) if others.any() else np.zeros(values.shape[1])
        response.append(value @ axis / max(np.linalg.norm(axis), 1e-300))
    return dose, np.array(response)


def potency(wells: pd.DataFrame) -> pd.DataFrame:
    """Fit the EC50 of every compound of a screen (``potency.csv``).

    Parameters
    ----------
    wells : DataFrame
        Well profiles with concentrations; every plate of a compound needs negative controls.

    Returns
    -------
    DataFrame
        One row per compound, sorted: ``compound`` and what `fit` returned. Nothing in it depends on
        ``Metadata_MoA``.
    """
    dosed = _dosed(wells)
    rows = [
        {"compound": compound, **fit(*effects(wells, compound))}
        for compound in sorted(wells.loc[dosed, "Metadata_Compound"].unique())
    ]
    return pd.DataFrame(
        rows, columns=["compound", "ec50", "low", "high", "status", "hill", "bottom", "top"]
    )


def similarity_table(wells: pd.DataFrame, like: pd.DataFrame) -> pd.DataFrame:
    """Return ``similarity.csv``: what each well is, and how similar to each mechanism.

    The ``nearest`` of its similarities ("" where there are none), and each as ``like <mechanism>``.
    """
    nearest = (
        like.dropna(how="all").idxmax(axis=1).reindex(like.index, fill_value="")
        if len(like.columns)
        else ""
    )
    return _described(wells).assign(nearest=nearest).join(like.add_prefix("like "))


def agreement_of_choices(wells: pd.DataFrame) -> float | str:
    """Return the share of wells for which all choices name the same most similar mechanism.

    The choices are those of `mcnn_core.analysis.response.CHOICES`.
    """
    nearest = [similarities(wells, choice) for choice in CHOICES]
    if nearest[0].empty:
        return NOT_AVAILABLE
    first, *others = (like.dropna(how="all").idxmax(axis=1) for like in nearest)
    return float(np.mean(np.all([first == other for other in others], axis=0)))


def unannotated_tops(wells: pd.DataFrame, like: pd.DataFrame, most: int = 40) -> pd.DataFrame:
    """Return the median similarities of each compound without annotation.

    They are taken over its wells at its highest concentration.
    """
    tested = wells[(wells["Metadata_control_type"] == "trt") & (wells["Metadata_Compound"] != "")]
    annotated = tested.loc[tested["Metadata_MoA"] != "", "Metadata_Compound"]
    rest = tested[~tested["Metadata_Compound"].isin(annotated)]
    highest = rest.groupby("Metadata_Compound")["Metadata_Concentration"].transform("max")
    top = rest[(rest["Metadata_Concentration"] == highest) | highest.isna()]
    return like.loc[top.index].groupby(top["Metadata_Treatment"].map(in_words)).median().head(most)


def potencies(wells: pd.DataFrame) -> pd.DataFrame:
    """Return ``potency.csv``, `mcnn_core.analysis.response.potency`."""
    return potency(wells if has_controls(wells) else wells.iloc[:0])


def similarity_columns(similarity: pd.DataFrame) -> pd.DataFrame:
    """Return the similarities alone from ``similarity.csv``, rows as there."""
    columns = similarity.iloc[:, similarity.columns.get_loc("nearest") + 1 :].apply(
        pd.to_numeric, errors="coerce"
    )
    return columns.rename(columns=lambda name: name.removeprefix("like "))


def potency_summary(potency: pd.DataFrame) -> dict[str, int]:
    """Count compounds, those with an EC50, and those without a response."""
    status = potency["status"]
    return {
        "n_compounds": len(potency),
        "n_fit": int((status == "fit").sum()),
        "n_flat": int((status == NO_FIT["flat"]).sum()),
    }
