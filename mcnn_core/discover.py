"""The analyses of the whole screen in one place.

Their tables, and the fields to look at beside them. Chapters 9 to 12 take one step each; `discover`
takes all, for `make study` and the benchmark. What a screen cannot answer (no annotation, no
controls, no doses) is a table without rows.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mcnn_core.clusters import cut_tree, tree
from mcnn_core.compare import protocols
from mcnn_core.distances import cosine_distances
from mcnn_core.figures import composite
from mcnn_core.neighbors import SUSPECT_COLUMNS, suspects
from mcnn_core.novelty import NOTHING, activity, novelty
from mcnn_core.pipeline import NOT_AVAILABLE, possible_normalisations
from mcnn_core.profiles import feature_matrix, row_names
from mcnn_core.response import CHOICES, NO_FIT, curves, potency, similarities
from mcnn_core.screen import in_words

THUMBNAIL = 64  #: rows of a thumbnail, pixels
DESCRIBED = {
    "treatment": "Metadata_Treatment",
    "plate": "Metadata_Plate",
    "well": "Metadata_Well",
    "compound": "Metadata_Compound",
    "concentration": "Metadata_Concentration",
    "MoA": "Metadata_MoA",
    "control": "Metadata_control_type",
}


def _described(profiles: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {name: profiles[column] for name, column in DESCRIBED.items() if column in profiles},
        index=profiles.index,
    )


def has_controls(wells: pd.DataFrame) -> bool:
    """Whether every plate has negative controls and the screen two or more.

    Potency and novelty need them.
    """
    return {"centre", "whiten"} <= set(possible_normalisations(wells))


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

    The choices are those of `mcnn_core.response.CHOICES`.
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
    """Return ``potency.csv``, `mcnn_core.response.potency`."""
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


def cluster_table(treatments: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Cluster treatment profiles (Supplementary Table 7).

    Returns
    -------
    DataFrame
        ``clusters.csv``: what each treatment is, and its ``cluster``, in the order of the leaves;
        the index says which row of `treatments`.
    (n, n) float64 array
        Cosine distances in the same order.
    """
    distances = cosine_distances(feature_matrix(treatments), names=row_names(treatments))
    found = cut_tree(tree(distances))
    order = np.argsort(found["position"].to_numpy())
    table = (
        _described(treatments.reset_index(drop=True)).assign(cluster=found["cluster"]).iloc[order]
    )
    return table, distances[np.ix_(order, order)]


def cluster_summary(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return one row per cluster, largest first.

    It has its treatments, how many are annotated, their commonest mechanism, and solvent profiles.
    """
    moa = clusters["MoA"].where(clusters["MoA"] != "")
    rows = clusters.assign(
        annotated=moa.notna(), named=moa, solvent=clusters["control"] == "negcon"
    ).groupby("cluster")
    table = rows.agg(
        treatments=("treatment", "size"),
        annotated=("annotated", "sum"),
        solvent=("solvent", "sum"),
        mechanism=("named", lambda names: next(iter(names.mode()), "")),
    )
    return table.sort_values("treatments", ascending=False, kind="stable").reset_index()


def cluster_names(clusters: pd.DataFrame) -> pd.DataFrame:
    """Return ``name``, ``cluster`` and ``Metadata_MoA`` of each row of `cluster_table`.

    They are for the interactive matrix.
    """
    place = (
        clusters[[column for column in ("plate", "well") if column in clusters]]
        .agg(" ".join, axis=1)
        .str.strip()
    )
    names = (
        clusters["treatment"].map(in_words) + " " + place.where(clusters["plate"] != "", "")
    ).str.strip()
    return pd.DataFrame(
        {"name": names, "cluster": clusters["cluster"], "Metadata_MoA": clusters["MoA"]}
    ).reset_index(drop=True)


def with_clusters(wells: pd.DataFrame, clusters: pd.DataFrame) -> pd.DataFrame:
    """Return the wells with ``Metadata_Cluster``.

    It is that of their profile in `cluster_table` as text; "" for positive controls outside all
    profiles.
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
    return wells.assign(
        Metadata_Cluster=found.astype("Int64").astype("string").fillna("").to_numpy()
    )


def novelties(
    wells: pd.DataFrame, treatments: pd.DataFrame, clusters: pd.DataFrame
) -> pd.DataFrame:
    """Return ``novel.csv``, `mcnn_core.novelty.novelty`, on the clusters of `cluster_table`."""
    if not has_controls(wells):
        return NOTHING
    return novelty(treatments, clusters["cluster"].sort_index(), activity(wells))


def suspicions(treatments: pd.DataFrame) -> pd.DataFrame:
    """Return ``suspects.csv``, `mcnn_core.neighbors.suspects`."""
    return suspects(treatments) if protocols(treatments) else pd.DataFrame(columns=SUSPECT_COLUMNS)


def discover(wells: pd.DataFrame, treatments: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return every table by name: ``similarity, curves, potency, clusters, novel, suspects``."""
    like, (clusters, _) = similarities(wells), cluster_table(treatments)
    return {
        "similarity": similarity_table(wells, like),
        "curves": curves(wells, like),
        "potency": potencies(wells),
        "clusters": clusters,
        "novel": novelties(wells, treatments, clusters),
        "suspects": suspicions(treatments),
    }


def shown_compounds(points: pd.DataFrame, wanted: Sequence[str], most: int = 4) -> list[str]:
    """Return the compounds of a small figure.

    Those wanted that the screen has, then those with most annotated doses, then the rest.
    """
    annotated = (
        points.groupby("compound")["annotated"].sum().sort_values(ascending=False, kind="stable")
    )
    return [
        *dict.fromkeys([*(name for name in wanted if name in annotated.index), *annotated.index])
    ][:most]


def fields_of(table: pd.DataFrame, treatment: str, plate: str = "", most: int = 1) -> list[int]:
    """Return the first rows of the screen's table that show a treatment.

    Those of positive controls last; on one plate if named.
    """
    here = np.flatnonzero(
        (table["Metadata_Treatment"] == treatment)
        & ((table["Metadata_Plate"] == plate) | (plate == ""))
    )
    control = (table["Metadata_control_type"] == "poscon").to_numpy()[here]
    return here[np.argsort(control, kind="stable")][:most].tolist()


def thumbnails(store, table: pd.DataFrame, clusters: pd.DataFrame) -> list[np.ndarray]:
    """Return one small picture, (h, w, 3) uint8, of each treatment in `cluster_table`."""
    rows = [
        fields_of(table, one.treatment, one.plate)[0]
        if one.treatment
        else int(
            np.flatnonzero(
                (table["Metadata_Plate"] == one.plate) & (table["Metadata_Well"] == one.well)
            )[0]
        )
        for one in clusters.itertuples()
    ]
    step = max(1, round(store.pixels.shape[1] / THUMBNAIL))
    return [(composite(store.pixels[row][::step, ::step]) * 255).astype(np.uint8) for row in rows]


def novel_sheet(
    table: pd.DataFrame, novel: pd.DataFrame, most: int = 3, columns: int = 4
) -> tuple[list[int], list[str]]:
    """Return rows and titles of a contact sheet of the first novel clusters (Fig. 4b).

    Each cluster has two lines: fields of its treatments, highest score first, and under each one
    field of the negative control of the same plate.
    """
    rows, titles = [], []
    found = novel[novel["novel"]]
    for cluster in found["cluster"].unique()[:most]:
        names = found.loc[found["cluster"] == cluster, "treatment"].tolist()
        shown = [
            (name, row)
            for nth in range(columns)
            for name in names
            for row in fields_of(table, name, most=columns)[nth : nth + 1]
        ][:columns]
        shown += [shown[-1]] * (columns - len(shown))
        controls = table["Metadata_control_type"] == "negcon"
        beside = [
            np.flatnonzero(
                controls & (table["Metadata_Plate"] == table["Metadata_Plate"].iloc[row])
            )
            for _, row in shown
        ]
        under = [int(fields[place % len(fields)]) for place, fields in enumerate(beside)]
        rows += [row for _, row in shown] + under
        titles += [f"cluster {cluster}:\n{in_words(name)}" for name, _ in shown] + [
            "control, same plate"
        ] * columns
    return rows, titles


def suspect_sheet(
    table: pd.DataFrame, suspects: pd.DataFrame, columns: int = 4
) -> tuple[list[int], list[str]]:
    """Return rows and titles of a contact sheet of the first suspect.

    Its compound at each dose (Supplementary Fig. 2), then both mechanisms. Of its own and of the
    nearest other mechanism `columns` fields of other compounds follow, of as many compounds as
    there are. Empty without suspects.
    """
    if suspects.empty:
        return [], []
    suspect = suspects.iloc[0]
    here = table[
        (table["Metadata_Compound"] == suspect["compound"])
        & (table["Metadata_control_type"] == "trt")
    ]
    doses = here.drop_duplicates("Metadata_Treatment").sort_values("Metadata_Concentration")
    rows = [fields_of(table, name)[0] for name in doses["Metadata_Treatment"]]
    titles = [f"{in_words(name)}\n" for name in doses["Metadata_Treatment"]]
    for mechanism in (suspect["MoA"], suspect["nearest_other"]):
        others = table[
            (table["Metadata_MoA"] == mechanism)
            & (table["Metadata_Compound"] != suspect["compound"])
            & (table["Metadata_control_type"] == "trt")
        ]
        nth = others.groupby("Metadata_Compound").cumcount()
        others = others.loc[nth.sort_values(kind="stable").index[:columns]]
        rows += others.index.tolist()
        titles += [f"{in_words(name)}\n{mechanism}" for name in others["Metadata_Treatment"]]
    return rows, titles
