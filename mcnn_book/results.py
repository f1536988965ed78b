"""Tables and numbers that pages make of the answers, beyond the tables that the analysis leaves."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.analysis import activity as precision
from mcnn_core.analysis.counts import can_count_out, count_table, without_count
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.enrichment import Universe, count_enriched, enrich_clusters
from mcnn_core.analysis.mechanisms import FLOORS, annotated
from mcnn_core.analysis.novelty import activity
from mcnn_core.analysis.response import CHOICES, NO_FIT, similarities
from mcnn_core.analysis.sirna import VARIANTS
from mcnn_core.profiles import centre, feature_matrix
from mcnn_core.screen import NOT_AVAILABLE, in_words, row_names

#: The methods whose numbers the pages always show.
SHOWN = ["trained", "untrained", "handcrafted", "handcrafted_centred", "handcrafted_whitened"]
SHOWN += ["intensity", "supervised", *FLOORS]

ANSWERED = {
    ("NSC", "NSCB"): "both can be asked of this screen",
    ("NSC",): (
        "NSCB cannot be asked of this screen: it names no batches, or no treatment has a compound "
        "of its mechanism in another batch"
    ),
    (): "neither can be asked of this screen: it names no mechanism that two compounds share",
}


def strengths(wells: pd.DataFrame) -> pd.DataFrame:
    """Say of each well how far it lies from untreated ones of its plate.

    Untreated are the negative controls where every plate has some; elsewhere the median of all
    wells of a plate stands for them.

    Returns
    -------
    DataFrame
        Rows as in `wells`: ``name`` (of the treatment, else the well), ``strength`` (distance
        between the profiles, in units of the median distance of an untreated well, so that 1 is
        ordinary), ``control`` (whether it is a negative one), and ``replicates``: "agree", "do not
        agree" (`activity`) or "not tested".
    """
    control = (wells["Metadata_control_type"] == "negcon").to_numpy()
    if everywhere := set(wells["Metadata_Plate"]) == set(wells.loc[control, "Metadata_Plate"]):
        centred = feature_matrix(centre(wells))
    else:
        values = pd.DataFrame(feature_matrix(wells))
        centred = values - values.groupby(wells["Metadata_Plate"].to_numpy()).transform("median")
    length = np.linalg.norm(centred, axis=1)
    ordinary = length[control] if everywhere and length[control].any() else length
    tested = activity(wells) if everywhere else pd.DataFrame(columns=["agreement", "active"])
    tested = tested.dropna(subset="agreement")["active"]
    words = {name: "agree" if active else "do not agree" for name, active in tested.items()}
    names = zip(wells["Metadata_Treatment"], row_names(wells), strict=True)
    return pd.DataFrame(
        {
            "name": [in_words(treatment) or place for treatment, place in names],
            "strength": length / (np.median(ordinary[ordinary > 0]) if length.any() else 1),
            "control": control,
            "replicates": [words.get(name, "not tested") for name in wells["Metadata_Treatment"]],
        },
        index=wells.index,
    )


FEW = 0.8  #: of the controls' nuclei, below which a treatment has fewer cells
COUNTED = ["nuclei", "share_of_controls"]
COUNTED += ["distance", "distance_left", "replicates", "replicates_left"]


def beside_count(wells: pd.DataFrame) -> pd.DataFrame:
    """Set how far each treatment lies from the controls beside its number of nuclei.

    Returns
    -------
    DataFrame
        Indexed by treatment, without rows where nothing is counted: ``nuclei`` per field and
        ``share_of_controls``; ``distance`` (its median `strengths`, 1 is a control's) and what
        ``replicates`` do (as there); both as ``_left`` when the count is regressed out.
    """
    if not can_count_out(wells):
        return pd.DataFrame(columns=COUNTED)
    names, table = wells["Metadata_Treatment"], count_table(wells)
    for end, part in {"": wells, "_left": without_count(wells)}.items():
        found = strengths(part).groupby(names)
        table[f"distance{end}"] = found["strength"].median()
        table[f"replicates{end}"] = found["replicates"].first()
    tested = names[(wells["Metadata_control_type"] == "trt") & (names != "")]
    return table.loc[table.index.isin(tested), COUNTED]


def count_numbers(beside: pd.DataFrame) -> dict[str, Any]:
    """Return what `beside_count` says in numbers.

    Returns
    -------
    dict
        ``n_treatments``; ``n_fewer`` of them with less than ``few`` of the controls' nuclei;
        ``correlation`` of share and distance (Spearman); ``n_agree`` whose replicates agree, and
        ``n_agree_left``; ``kept``, the median share of their distance that is left.
    """
    agree = beside["replicates"] == "agree"
    number = beside[["share_of_controls", "distance", "distance_left"]].astype(float)
    return {
        "n_treatments": len(beside),
        "few": FEW,
        "n_fewer": int((number["share_of_controls"] < FEW).sum()),
        "correlation": number["share_of_controls"].corr(number["distance"], method="spearman"),
        "n_agree": int(agree.sum()),
        "n_agree_left": int((beside["replicates_left"] == "agree").sum()),
        "kept": (number["distance_left"] / number["distance"])[agree].median(),
    }


def clearest_field(lost: pd.DataFrame) -> tuple[int, str]:
    """Return an ordinary field of the mechanism that depends most on one channel, and its name.

    `lost` is what `mcnn_core.analysis.occlusion.occlusion` returned; -1 and "" without fields.
    """
    if lost.empty:
        return -1, ""
    means = lost.groupby("Metadata_MoA").mean().filter(regex="^channel ")
    mechanism, channel = means.stack().idxmax()
    own = lost.loc[lost["Metadata_MoA"] == mechanism, channel]
    return int((own - own.median()).abs().idxmin()), str(mechanism)


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


def by_activity(
    predictions: pd.DataFrame, compared: pd.DataFrame, wells: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mark the predictions of inactive treatments, and score methods on the active ones alone.

    Parameters
    ----------
    predictions, compared : DataFrame
        From `mcnn_core.analysis.methods`.
    wells : DataFrame
        Profiles by which `mcnn_core.analysis.activity.activity` says what is active.

    Returns
    -------
    predictions : DataFrame
        With ``active``: True, False, or "" where there are no replicates or no controls.
    compared : DataFrame
        With ``n_active`` and ``overall_active``, NaN where nothing asked is active.
    """
    significant = precision.activity(wells)["significant"].astype(object)
    names = ["Metadata_Compound", "Metadata_Concentration", "Metadata_Treatment"]
    rows = wells.loc[wells["Metadata_control_type"] == "trt", names].drop_duplicates()
    known = {(row[0], row[1]): significant.get(row[2], "") for row in rows.itertuples(index=False)}
    pairs = zip(predictions["compound"], predictions["concentration"], strict=True)
    marked = predictions.assign(
        active=pd.Series([known.get(pair, "") for pair in pairs], dtype=object)
    )
    part = marked[marked["active"] == True]  # noqa: E712
    right = (part["MoA"] == part["predicted"]).groupby([part["method"], part["protocol"]])
    found = right.agg(n_active="size", overall_active="mean")
    return marked, compared.join(found, on=["method", "protocol"])


def activity_results(compared: pd.DataFrame) -> dict[str, Any]:
    """Return the accuracy of the trained network over active treatments, and of how many."""
    row = compared[(compared["method"] == "trained") & (compared["protocol"] == "NSC")]
    row = row[row["n_active"].notna()]
    return {
        "has_active": len(row) > 0,
        "nsc.n_active.trained": int(row["n_active"].iloc[0]) if len(row) else 0,
        "nsc.overall_active.trained": row["overall_active"].iloc[0] if len(row) else NOT_AVAILABLE,
    }


def mechanism_results(table: pd.DataFrame) -> dict[str, float | str]:
    """Return by key what `mcnn_core.analysis.methods.comparison` found, and what could be asked.

    A key is ``nsc.overall.trained`` with and without ``.seed<k>``; those of the methods in `SHOWN`
    are always there, "not available" where the screen cannot answer.
    """
    kinds = ["overall", "class_median", "n"]
    found: dict[str, Any] = {
        f"{protocol}.{kind}.{method}": NOT_AVAILABLE
        for protocol, kind, method in product(("nsc", "nscb"), kinds, SHOWN)
    }
    method = table["method"].replace({label: name for name, label in FLOORS.items()})
    seeds = ".seed" + table["seed"].astype("string")
    for kind in kinds:
        key = table["protocol"].str.lower() + f".{kind}." + method
        found |= dict(zip(key, table[kind], strict=True))
        found |= dict(zip((key + seeds)[seeds.notna()], table[kind][seeds.notna()], strict=True))
    asked = tuple(table["protocol"].unique())
    found |= {"answered": ANSWERED[asked], "asked": "NSC" in asked, "asked_nscb": "NSCB" in asked}
    for name in ("supervised", "handcrafted_whitened", "batch_only"):
        found[f"has_{name}"] = name in set(method)
    return found | {"one": 1 / found["nsc.n.trained"] if asked else NOT_AVAILABLE}


def subgroups(profiles: pd.DataFrame) -> pd.DataFrame:
    """Compare distances within and between the compounds of each mechanism (the paper's Aurora).

    Returns
    -------
    DataFrame
        Indexed by mechanism: ``compounds``, ``treatments``, median cosine distance ``within`` a
        compound and ``between`` compounds, and the mean ``silhouette`` with compounds as groups
        (near 1: one sub-phenotype per compound; near 0: none). NaN where there is nothing to
        compare.
    """
    from sklearn.metrics import silhouette_score

    table = []
    for mechanism, part in annotated(profiles).groupby("Metadata_MoA"):
        distances = cosine_distances(feature_matrix(part), names=row_names(part))
        compound, silhouette = part["Metadata_Compound"].to_numpy(), np.nan
        same, kinds = compound[:, None] == compound, len(set(compound))
        if 1 < kinds < len(part):
            silhouette = silhouette_score(distances, compound, metric="precomputed")
        within = pd.Series(distances[same & ~np.eye(len(part), dtype=bool)]).median()
        between = pd.Series(distances[~same]).median()
        table.append((mechanism, kinds, len(part), within, between, silhouette))
    columns = ["MoA", "compounds", "treatments", "within", "between", "silhouette"]
    return pd.DataFrame(table, columns=columns).set_index("MoA")


def agreement_of_choices(wells: pd.DataFrame) -> float | str:
    """Return the share of wells for which all `CHOICES` name the same most similar mechanism."""
    tables = [similarities(wells, choice) for choice in CHOICES]
    if tables[0].empty:
        return NOT_AVAILABLE
    nearest = pd.concat([like.dropna(how="all").idxmax(axis=1) for like in tables], axis=1)
    return float((nearest.nunique(axis=1) == 1).mean())


def unannotated_tops(wells: pd.DataFrame, like: pd.DataFrame, most: int = 40) -> pd.DataFrame:
    """Return the median similarities of compounds without annotation at their highest dose."""
    tested = wells[(wells["Metadata_control_type"] == "trt") & (wells["Metadata_Compound"] != "")]
    annotated = tested.loc[tested["Metadata_MoA"] != "", "Metadata_Compound"]
    rest = tested[~tested["Metadata_Compound"].isin(annotated)]
    highest = rest.groupby("Metadata_Compound")["Metadata_Concentration"].transform("max")
    top = rest[(rest["Metadata_Concentration"] == highest) | highest.isna()]
    return like.loc[top.index].groupby(top["Metadata_Treatment"].map(in_words)).median().head(most)


def potency_summary(potency: pd.DataFrame) -> dict[str, int]:
    """Count compounds, those with an EC50 (and a caution), and those without a response."""
    status = potency["status"]
    return {
        "n_compounds": len(potency),
        "n_fit": int((status == "fit").sum()),
        "n_caution": int((potency["caution"] != "")[status == "fit"].sum()),
        "n_flat": int((status == NO_FIT["flat"]).sum()),
    }


def cluster_summary(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cluster of `mcnn_core.analysis.clusters.cluster_table`, largest first.

    ``treatments``, how many are ``annotated``, how many profiles are ``solvent``, and the
    commonest ``mechanism``.
    """
    moa = clusters["MoA"].where(clusters["MoA"] != "")
    rows = clusters.assign(
        annotated=moa.notna(), named=moa, solvent=clusters["control"] == "negcon"
    )
    table = rows.groupby("cluster").agg(
        treatments=("treatment", "size"),
        annotated=("annotated", "sum"),
        solvent=("solvent", "sum"),
        mechanism=("named", lambda names: next(iter(names.mode()), "")),
    )
    return table.sort_values("treatments", ascending=False, kind="stable").reset_index()


def cluster_names(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return ``name``, ``cluster`` and ``Metadata_MoA`` of each row, for the interactive matrix."""
    place = clusters[["plate", "well"]].agg(" ".join, axis=1)
    names = clusters["treatment"].map(in_words) + " " + place
    return pd.DataFrame(
        {"name": names.str.strip(), "cluster": clusters["cluster"], "Metadata_MoA": clusters["MoA"]}
    ).reset_index(drop=True)


def with_clusters(wells: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """Return the wells with ``Metadata_Cluster``, that of their profile in `clusters` as text.

    It is "" for positive controls outside all profiles.
    """
    control, unknown = wells["Metadata_control_type"] == "negcon", wells["Metadata_Treatment"] == ""
    keys = pd.DataFrame(
        {
            "treatment": wells["Metadata_Treatment"],
            "control": wells["Metadata_control_type"],
            "plate": wells["Metadata_Plate"].where(control | unknown, ""),
            "well": wells["Metadata_Well"].where(unknown, ""),
        }
    )
    found = keys.merge(clusters[[*keys, "cluster"]], how="left", on=list(keys))["cluster"]
    names = found.astype("Int64").astype("string").fillna("")
    return wells.assign(Metadata_Cluster=names.to_numpy())


def control_grades(comparison: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of `mcnn_core.analysis.sirna.compare_controls` by key.

    A key is such as ``apart.handcrafted_whitened.low``;
    ``random`` is the paper's hold-out, ``apart`` the other variant; ``random.lead`` is the trained
    network's accuracy minus that of the best handcrafted row.
    """
    found: dict[str, float] = {}
    for variant, kind in zip(VARIANTS, ("random", "apart"), strict=True):
        part = comparison[comparison["variant"] == variant].set_index("method")
        part.index = part.index.str.replace(", ", "_")
        for column, end in {"accuracy": "", "low": ".low", "high": ".high"}.items():
            found |= {f"{kind}.{name}{end}": value for name, value in part[column].items()}
        rivals = part.loc[part.index.str.startswith("handcrafted"), "accuracy"]
        found[f"{kind}.lead"] = found[f"{kind}.trained"] - float(rivals.max())
    return found


def permuted(
    space: Universe,
    clusters: pd.Series,
    repeats: int = 20,
    seed: int = 0,
    fdr: float = 0.05,
    algorithms: Sequence[str] = ("classic", "elim"),
) -> pd.DataFrame:
    """Count clusters with an enriched term after dealing the genes to them at random.

    No term belongs to such clusters; about `fdr` of them should hold one nevertheless, or fewer.

    Returns
    -------
    DataFrame
        Indexed by algorithm, over all `repeats`: ``clusters``; ``any``, those with a term or more
        at `fdr`; ``share`` of them; ``limit``, `fdr` plus two binomial standard errors.
    """
    rng, counts = np.random.default_rng(seed), []
    for _ in range(repeats):
        dealt = pd.Series(rng.permutation(clusters.to_numpy()), clusters.index)
        counts.append(count_enriched(enrich_clusters(space, dealt, algorithms), dealt, fdr))
    total = sum(counts)[["clusters", "any"]]
    return total.assign(
        share=total["any"] / total["clusters"],
        limit=fdr + 2 * np.sqrt(fdr * (1 - fdr) / total["clusters"]),
    )
