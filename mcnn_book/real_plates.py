"""Real plates of others, described by CellProfiler: what ways of normalising do to an accuracy."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from mcnn_book.results import subgroups
from mcnn_book.workspace import find_root
from mcnn_core.analysis.activity import activity, consistency
from mcnn_core.analysis.mechanisms import (
    PROTOCOLS,
    floors,
    nearest_neighbours,
    scores,
    suspects,
)
from mcnn_core.analysis.position import correct_position, places, position_effects, position_map
from mcnn_core.analysis.response import CAUTIONS, NO_FIT, potencies
from mcnn_core.errors import InputError
from mcnn_core.machine.files import read_json
from mcnn_core.profiles import (
    feature_columns,
    feature_matrix,
    profile,
    treatment_profiles,
    whiten,
    with_features,
)
from mcnn_core.readers.bbbc021 import examine_bbbc021
from mcnn_core.readers.features import read_features

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
    return with_features(wells, found.to_numpy(), list(found))


def components(wells: pd.DataFrame, variance: float = 0.99) -> pd.DataFrame:
    """Return wells on the principal components of all their features that keep `variance`."""
    from sklearn.decomposition import PCA

    values = PCA(n_components=variance, svd_solver="full").fit_transform(feature_matrix(wells))
    return with_features(wells, values, [f"PC_{k:03d}" for k in range(1, values.shape[1] + 1)])


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


# ------------------------------------------------------------------ three real tables

LJOSA = "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz"
JUMPMOA = "jumpmoa_*.csv*"
LINCS = "lincs_SQ00015054.csv.gz"

#: The way of the grid in which Ljosa's wells are looked at more closely: the simplest that puts all
#: plates on one scale. Picked when the grid had been seen; it is not the best.
CLOSER = ("mean of the plate, SD of the screen", "all features", "as they are")

#: The paper's median accuracy over the 12 mechanisms under NSC (Results, l. 235-236).
PAPER = 0.88
#: The mechanisms that the paper gets right in every case (Results, l. 237-238).
PERFECT = {
    "aurora": "Aurora kinase inhibitors",
    "cholesterol": "Cholesterol-lowering",
    "degradation": "Protein degradation",
    "synthesis": "Protein synthesis",
}
RECORD = "real-plates.json"  #: in ``book/recorded``


def _found(data: Path, name: str) -> list[Path]:
    """Return the files of a name anywhere below a folder; InputError if there is none."""
    paths = sorted(data.rglob(name))
    if not paths:
        raise InputError(f"{data} holds no {name}: name the folder of the real tables")
    return paths


def ljosa_wells(data: Path) -> pd.DataFrame:
    """Return the wells of the real BBBC021 as CellProfiler describes them (Ljosa et al. 2013)."""
    images = _found(data, "BBBC021_v1_image.csv*")[0].parent
    screen, problems, _ = examine_bbbc021(images)
    if problems:
        raise InputError(f"{images}: expected the tables of BBBC021 without problems", problems)
    return read_features(_found(data, LJOSA)[0], screen.table)[0]


def _answers(wells: pd.DataFrame) -> dict[str, Any]:
    """Return activity, consistency and accuracies of one plate's wells as numbers."""
    named = wells[wells["Metadata_control_type"] != "poscon"]
    active, treatments = activity(named), treatment_profiles(named)
    treated = named[named["Metadata_control_type"] == "trt"]
    places = treated.groupby("Metadata_Treatment")["Metadata_Well"].nunique()
    consistent = consistency(treatments)
    found = scores(nearest_neighbours(treatments))
    return {
        "wells": len(wells),
        "features": len(feature_columns(wells)),
        "treatments": len(active),
        "one_place": float((places == 1).mean()),
        "active": int(active["significant"].sum()),
        "mechanisms": len(consistent),
        "consistent": int(consistent["significant"].sum()),
        "nsc": found["overall"],
        "nsc_low": found["low"],
        "nsc_high": found["high"],
        "nsc_n": found["n"],
        "chance": float(floors(treatments)["chance"].mean()),
    }


def jumpmoa(data: Path) -> pd.DataFrame:
    """Return, per acquisition of the JUMP-MOA plate, which compounds act and how often NSC holds.

    The wells are as their publishers normalised them, each microscope's plate by itself.
    """
    rows = []
    for path in _found(data, JUMPMOA):
        wells, _ = read_features(path)
        microscope = path.name.removeprefix("jumpmoa_").partition(".")[0].replace("_", " ")
        rows.append({"acquisition": microscope, **_answers(wells)})
    return pd.DataFrame(rows)


def lincs(data: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the potencies and the effects of place on a LINCS plate of one well per dose.

    Potencies before and after the correction by place (`mcnn_core.analysis.position`), and in how
    many ``rows`` of the plate a compound lies; the effects; and the map of places, rows and columns
    from 0.
    """
    frame, _ = read_features(_found(data, LINCS)[0])
    wells, _ = profile(frame, units_differ=True)
    corrected = correct_position(wells)
    before, after = (potencies(one).set_index("compound") for one in (wells, corrected))
    columns = ["ec50", "low", "high", "status", "caution"]
    table = before[columns].join(after[columns].add_suffix(" corrected"))
    rows = places(wells)["row"].groupby(wells["Metadata_Compound"]).nunique()
    table = table.join(rows.rename("rows")).reset_index()
    shares = position_effects(corrected)[["share", "p_value"]].add_suffix(" corrected")
    effects = position_effects(wells).join(shares)
    return table, effects.reset_index(), position_map(wells)


def measured(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Return everything the chapter on real plates shows, as records of its tables."""
    wells = ljosa_wells(data)
    closer = dict(normalised(wells))[CLOSER]
    treatments = treatment_profiles(closer)
    nearest = nearest_neighbours(treatments)
    right = nearest["MoA"] == nearest["predicted"]
    by_mechanism = right.groupby(nearest["MoA"]).agg(["size", "sum"])
    by_compound = right.groupby(nearest["compound"]).agg(["size", "sum"])
    potency, effects, by_place = lincs(data)
    tables = {
        "grid": grid(wells),
        "ljosa": pd.DataFrame([_answers(closer)]),
        "mechanisms": by_mechanism.join(consistency(treatments)).reset_index(names="mechanism"),
        "compounds": by_compound.reset_index(names="compound"),
        "subgroups": subgroups(treatments).reset_index(),
        "suspects": suspects(treatments).head(12),
        "neighbours": nearest.loc[nearest["compound"] == "colchicine"],
        "floors": floors(treatments).drop(columns="MoA").mean().to_frame("share").reset_index(),
        "jumpmoa": jumpmoa(data),
        "potency": potency,
        "effects": effects,
        "places": by_place.stack().rename("distance").rename_axis(["row", "column"]).reset_index(),
    }
    return {name: _plain(table) for name, table in tables.items()}


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as JSON takes them: numbers to six digits, None for NaN."""
    rounded = table.map(lambda x: float(f"{x:.6g}") if isinstance(x, float) else x)
    return json.loads(rounded.to_json(orient="records"))


def read_tables(data: str = "") -> dict[str, pd.DataFrame]:
    """Return the tables of the chapter by name.

    They are measured where `data` names the folder of the real tables, else those in `RECORD`.
    """
    path = find_root() / "book" / "recorded" / RECORD
    found = measured(Path(data).expanduser()) if data else read_json(path)["tables"]
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


# ------------------------------------------------------------------ the numbers of the prose


def _ends(values: pd.Series) -> dict[str, float]:
    """Return the lowest and the highest of some numbers."""
    return {"lowest": float(values.min()), "highest": float(values.max())}


def grid_numbers(ways: pd.DataFrame) -> dict[str, Any]:
    """Return how far accuracies of `grid` lie apart, and what whitening changes (points)."""
    names = ["scaling", "features", "whitening"]
    nsc, nscb = (ways[ways["protocol"] == name].set_index(names) for name in PROTOCOLS)
    overall = nsc["overall"].unstack("whitening") * 100
    gain = overall["whitened"] - overall["as they are"]
    whole = gain.index.get_level_values("scaling").str.endswith("of the screen")
    above = nsc["class_median"] > PAPER
    widest = ways.loc[(ways["class_median"] - ways["overall"]).idxmax()]
    return {
        "n_ways": len(nsc),
        "n_above": int(above.sum()),
        "above": _ends(nsc.loc[above, "overall"]),
        "nsc": _ends(nsc["overall"]),
        "median": _ends(nsc["class_median"]),
        "nscb": _ends(nscb["overall"]),
        "widest": widest[["protocol", "overall", "class_median"]],
        "whitened_screen": _ends(gain[whole]),
        "whitened_plate": _ends(gain[~whole]),
        "closer": nsc.loc[CLOSER, ["overall", "class_median"]].to_dict(),
    }


def ljosa_numbers(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what the wells of Ljosa et al. say of the paper's statements (`CLOSER` way)."""
    by_name = tables["mechanisms"].set_index("mechanism")
    right = by_name["sum"].astype(str) + " of " + by_name["size"].astype(str)
    perfect = by_name.index[by_name["sum"] == by_name["size"]]
    compounds, doubted = tables["compounds"], tables["suspects"]
    colchicine = tables["neighbours"].iloc[0]
    floor = tables["floors"].set_index("index")["share"]
    aurora = tables["subgroups"].set_index("MoA").loc[PERFECT["aurora"]]
    return {
        "right": {key: right[name] for key, name in PERFECT.items()},
        "perfect": ", ".join(perfect),
        "n_perfect": len(perfect),
        "n_apart": int((tables["subgroups"]["silhouette"] > 0).sum()),
        "aurora": aurora[["within", "between", "silhouette"]],
        "colchicine": colchicine["predicted"],
        "neighbour": colchicine["neighbour"].replace(" | ", " ") + " µM",
        "suspects": ", ".join(doubted["compound"].drop_duplicates()),
        "n_compounds": len(compounds),
        "by_compound": float((compounds["sum"] / compounds["size"]).mean()),
        "n_single": int((compounds["size"] == 1).sum()),
        "most_doses": int(compounds["size"].max()),
        "floor": floor,
        "ljosa": tables["ljosa"].iloc[0],
    }


def jumpmoa_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return between what ends the acquisitions of the JUMP-MOA plate lie."""
    return {
        "n_acquisitions": len(table),
        "jump_compounds": int(table["treatments"].max()),
        "jump_one_place": float(table["one_place"].max()),
        "jump_mechanisms": int(table["mechanisms"].max()),
        "jump_consistent": int(table["consistent"].max()),
        "jump": _ends(table["nsc"]),
        "jump_chance": float(table["chance"].mean()),
        "active": _ends(table["active"]),
        "active_share": _ends(table["active"] / table["treatments"]),
    }


def lincs_numbers(tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Return what place does to controls and potencies of the LINCS plate."""
    potency = tables["potency"]
    before, after = potency["status"] == "fit", potency["status corrected"] == "fit"
    low = [int((potency[name] == NO_FIT["low"]).sum()) for name in ("status", "status corrected")]
    cautions = potency["caution"].str.split("; ").explode().value_counts()
    effects = tables["effects"].query("wells == 'negative controls'").set_index("grouping")
    return {
        "lincs_compounds": len(potency),
        "fits_before": int(before.sum()),
        "fits_after": int(after.sum()),
        "fits_both": int((before & after).sum()),
        "below_before": low[0],
        "below_after": low[1],
        "in_one_row": int((potency["rows"] == 1).sum()),
        "cautions": {name: int(cautions.get(text, 0)) for name, text in CAUTIONS.items()},
        "controls": effects.rename(columns={"by chance": "chance"})[
            ["n", "share", "chance", "p_value", "share corrected"]
        ],
    }
