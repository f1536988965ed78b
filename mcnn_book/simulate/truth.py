"""How well the answers agree with the planted truth of a simulated screen.

The only module that reads ``truth.csv``, ``effects.csv`` and ``light.csv``; nothing that it returns
goes back into an analysis.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.spatial.distance import cdist

from mcnn_book.simulate.cells import MECHANISMS, PAINTED, lamp_of
from mcnn_core.analysis.clusters import cut_tree, tree
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.novelty import known, treatment_names, unannotated
from mcnn_core.profiles import feature_matrix
from mcnn_core.screen import NOT_AVAILABLE, Screen, in_words, treatment_key

#: a cluster recovers a mechanism if it is this pure and holds this share of its top doses
PURE, HALF = 0.8, 0.5


ACTS = 0.5  #: response from which a treatment counts as showing its mechanism


#: Jaccard index of a recovered group of genes; false discovery rate at which a term is found
RECOVERED, FDR = 0.5, 0.05


#: Jaccard index from which a group counts as one that the true effects alone set apart
POSSIBLE = 0.8


def read_truth(screen: Screen, column: str = "concentration") -> pd.DataFrame | None:
    """Return what really acts in each well.

    None for a real screen, and for a simulated one without that `column`. A simulated BBBC021 has
    doses ("concentration", and then ``treatment`` is added), a simulated KiMorph has groups of
    genes ("group").
    """
    path = screen.root / "truth.csv"
    if not screen.simulated or not path.is_file():
        return None
    truth = pd.read_csv(path, keep_default_na=False)
    if column not in truth:
        return None
    dosed = column == "concentration"
    return (
        truth.assign(
            treatment=[
                treatment_key(*one)
                for one in zip(truth["compound"], truth["concentration"], strict=True)
            ]
        )
        if dosed
        else truth
    )


def read_light(screen: Screen, rows: Sequence[int], shape: tuple[int, int]) -> np.ndarray | None:
    """Return the mean light of some fields as it truly is, (H, W) of mean 1.

    None for a real screen, and for a simulated one without ``light.csv``.
    """
    path = screen.root / "light.csv"
    if not screen.simulated or not path.is_file():
        return None
    files = screen.table[f"FileName_{screen.channels[0]}"].iloc[rows]
    fields = pd.read_csv(path).set_index("file").loc[files].to_dict("records")
    lamp = np.mean([lamp_of(field, *shape) for field in fields], axis=0)
    return lamp / lamp.mean()


def read_effects(screen: Screen) -> pd.DataFrame | None:
    """Return the mean shifts of each siRNA of a simulated KiMorph; None for any other screen.

    They are those of `mcnn_book.simulate.kimorph.effect_table`.
    """
    path = screen.root / "effects.csv"
    return pd.read_csv(path, keep_default_na=False) if screen.simulated and path.is_file() else None


def _by(truth: pd.DataFrame, key: str, column: str) -> pd.Series:
    return truth.drop_duplicates(key).set_index(key)[column]


def _available(found: dict[str, float]) -> dict[str, float | str]:
    """Put "not available" where a screen is too small for a grade.

    Nothing is planted there, or nothing fitted.
    """
    return {key: value if np.isfinite(value) else NOT_AVAILABLE for key, value in found.items()}


def planted_ec50(truth: pd.DataFrame | None) -> pd.Series | None:
    """Return the true EC50 (uM) by compound; None for a real screen."""
    return None if truth is None else _by(truth, "compound", "ec50")


def grade_potency(potency: pd.DataFrame, truth: pd.DataFrame | None) -> dict[str, float | str]:
    """Compare EC50s with the true ones, over the compounds that have a mechanism.

    Returns
    -------
    dict
        ``graded`` compounds; ``no_fit`` share of them without a fit; over those with one:
        ``median_error`` (absolute, log10 units), ``coverage`` (share of true values inside the
        interval), ``median_width`` (of the interval, log10 units). "not available" without truth.
    """
    if truth is None:
        return dict.fromkeys(
            ("graded", "no_fit", "median_error", "coverage", "median_width"), NOT_AVAILABLE
        )
    mechanism, ec50 = (
        potency["compound"].map(_by(truth, "compound", column)) for column in ("mechanism", "ec50")
    )
    acting = ~mechanism.isin(["Inactive", ""])
    fitted = acting & (potency["status"] == "fit")
    part, true = potency[fitted], ec50[fitted]
    return _available(
        {
            "graded": int(acting.sum()),
            "no_fit": float(1 - fitted.sum() / acting.sum()),
            "median_error": float(np.log10(part["ec50"] / true).abs().median()),
            "coverage": float(((part["low"] <= true) & (true <= part["high"])).mean()),
            "median_width": float(np.log10(part["high"] / part["low"]).median()),
        }
    )


def grade_clusters(clusters: pd.DataFrame, truth: pd.DataFrame | None) -> pd.DataFrame:
    """Return for each planted hidden mechanism its best cluster; no rows without truth.

    Parameters
    ----------
    clusters : DataFrame
        ``treatment`` and ``cluster``, as in ``clusters.csv``.
    truth : DataFrame

    Returns
    -------
    DataFrame
        Indexed by mechanism: ``cluster``, ``held`` of ``top_doses`` (highest dose of each of its
        compounds), ``size``, ``purity`` (share of the cluster's treatments that belong to it) and
        ``recovered`` (`PURE`, `HALF`).
    """
    columns, rows = ["cluster", "held", "top_doses", "size", "purity", "recovered"], {}
    if truth is None:
        return pd.DataFrame(columns=columns)
    hidden = truth[truth["planted"] == "hidden mechanism"]
    mechanism = clusters["treatment"].map(_by(truth, "treatment", "mechanism"))
    for name, part in hidden.groupby("mechanism"):
        highest = part.sort_values("concentration").drop_duplicates("compound", keep="last")[
            "treatment"
        ]
        top = clusters["treatment"].isin(highest)
        found = [
            {
                "cluster": cluster,
                "held": int(n),
                "top_doses": len(highest),
                "size": int((clusters["cluster"] == cluster).sum()),
                "purity": float((mechanism[clusters["cluster"] == cluster] == name).mean()),
            }
            for cluster, n in clusters.loc[top, "cluster"].value_counts().items()
        ]
        best = max(found, key=lambda one: (one["purity"] >= PURE, one["held"], one["purity"]))
        rows[name] = best | {
            "recovered": best["purity"] >= PURE and best["held"] >= HALF * len(highest)
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("mechanism")


def outliers(treatments: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Score the same treatments by two general detectors of outliers, fitted on the known profiles.

    Returns
    -------
    DataFrame
        ``treatment``, ``nearest neighbour`` (Euclidean distance to the nearest known profile) and
        ``isolation forest`` (Liu et al. 2008; 300 trees); larger is stranger.
    """
    from sklearn.ensemble import IsolationForest

    candidates, x = unannotated(treatments), feature_matrix(treatments)
    new, old = x[candidates], x[known(treatments)]
    forest = IsolationForest(n_estimators=300, random_state=seed).fit(old)
    return pd.DataFrame(
        {
            "treatment": treatment_names(treatments[candidates]),
            "nearest neighbour": cdist(new, old).min(axis=1),
            "isolation forest": -forest.score_samples(new),
        }
    )


def grade_novelty(
    novel: pd.DataFrame, treatments: pd.DataFrame, truth: pd.DataFrame | None
) -> pd.DataFrame:
    """Compare ``novel.csv`` and two general detectors with the planted hidden mechanisms.

    No rows without truth. A treatment is truly novel where a hidden mechanism acts with a response
    of `ACTS` or more. Each detector calls as many treatments novel as ours does.

    Returns
    -------
    DataFrame
        Indexed by detector ("clusters" is ours): ``called``, ``precision``, ``recall`` and
        ``average_precision`` over its whole ranking; the last row, "chance", has the share of truly
        novel treatments.
    """
    from sklearn.metrics import average_precision_score

    if truth is None or novel.empty:
        return pd.DataFrame(columns=["called", "precision", "recall", "average_precision"])
    planted, response = (
        novel["treatment"].map(_by(truth, "treatment", column))
        for column in ("planted", "response")
    )
    true = ((planted == "hidden mechanism") & (response >= ACTS)).to_numpy()
    rank = pd.Series(-np.arange(len(novel), dtype=float))  # rows are ranked already
    others = novel[["treatment"]].merge(outliers(treatments), on="treatment", how="left")
    n, rows = int(novel["novel"].sum()), {}
    for name, score in {
        "clusters": rank,
        **{name: others[name] for name in others.columns[1:]},
    }.items():
        called = np.argsort(-score.to_numpy(), kind="stable")[:n]
        rows[name] = {
            "called": n,
            "precision": true[called].mean() if n else np.nan,
            "recall": true[called].sum() / true.sum() if true.any() else np.nan,
            "average_precision": average_precision_score(true, score) if true.any() else np.nan,
        }
    rows["chance"] = {
        "called": n,
        "precision": true.mean(),
        "recall": n / len(novel),
        "average_precision": true.mean(),
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("detector")


def novelty_grades(detectors: pd.DataFrame) -> dict[str, float | str]:
    """Return `grade_novelty`'s table by key, ``precision.clusters`` and so on."""
    names, kinds = (
        ("clusters", "nearest neighbour", "isolation forest", "chance"),
        ("precision", "recall", "average_precision"),
    )
    table = detectors.reindex(index=names, columns=kinds).astype(float)
    return _available(
        {
            f"{kind}.{name.replace(' ', '_')}": float(table.loc[name, kind])
            for name in names
            for kind in kinds
        }
    )


def suspect_grades(suspects: pd.DataFrame, truth: pd.DataFrame | None) -> dict[str, int | str]:
    """Return the first suspect, what it is like, how many there are, and a ``rank``.

    The rank, from 1, is that of the first planted wrong label.
    """
    if suspects.empty:
        return dict.fromkeys(("suspect", "suspect_like", "suspects", "rank"), NOT_AVAILABLE)
    first, wrong = suspects.iloc[0], np.zeros(0, int)
    if truth is not None:
        wrong = np.flatnonzero(
            suspects["treatment"].map(_by(truth, "treatment", "planted")) == "wrong label"
        )
    return {
        "suspect": f"{in_words(first['treatment'])} ({first['MoA']})",
        "suspect_like": first["nearest_other"],
        "suspects": len(suspects),
        "rank": int(wrong[0]) + 1 if len(wrong) else NOT_AVAILABLE,
    }


def grade_choice(classes: dict[str, list[str]], truth: pd.DataFrame | None) -> pd.DataFrame:
    """Say of treatments chosen as classes in several ways what they really are.

    No rows without truth.

    Returns
    -------
    DataFrame
        Indexed by way: number of ``classes``, ``acting`` (share whose mechanism acts with a
        response of `ACTS` or more), and how many different ``compounds`` and ``mechanisms`` these
        have. A way whose classes are no treatments is left out.
    """
    columns, rows = ["classes", "acting", "compounds", "mechanisms"], {}
    if truth is not None:
        known = truth.drop_duplicates("treatment").set_index("treatment")
        for way, names in classes.items():
            if set(names) <= set(known.index):
                acting = known.loc[names].query(
                    "response >= @ACTS and mechanism not in ('', 'Inactive')"
                )
                rows[way] = {
                    "classes": len(names),
                    "acting": len(acting) / len(names) if names else np.nan,
                    "compounds": acting["compound"].nunique(),
                    "mechanisms": acting["mechanism"].nunique(),
                }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("way")


def choice_grades(
    classes: dict[str, list[str]], truth: pd.DataFrame | None
) -> dict[str, float | str]:
    """Return ``acting`` and ``mechanisms`` of `grade_choice` by key, ``<way>.acting`` and so on."""
    table = grade_choice(classes, truth).reindex(list(classes)).astype(float)
    return _available(
        {
            f"{way}.{kind}": float(table.loc[way, kind])
            for way in classes
            for kind in ("acting", "mechanisms")
        }
    )


def grade_tops(tops: pd.DataFrame, truth: pd.DataFrame | None) -> dict[str, int | str]:
    """Count the compounds of `mcnn_book.results.unannotated_tops` whose nearest reference is right.

    ``tops_known`` are those that act by one of its mechanisms, ``tops_right`` those of them that
    are most like it; "not available" without truth.
    """
    if truth is None:
        return dict.fromkeys(("tops_known", "tops_right"), NOT_AVAILABLE)
    acts = dict(zip(truth["treatment"].map(in_words), truth["mechanism"], strict=True))
    known = tops[[acts.get(name) in tops.columns for name in tops.index]]
    right = [row.idxmax() == acts[name] for name, row in known.iterrows()]
    return {"tops_known": len(known), "tops_right": sum(right)}


def grade_occlusion(means: pd.DataFrame, truth: pd.DataFrame | None) -> pd.DataFrame:
    """Compare the channel that occlusion names for a mechanism with those that it changes.

    No rows without truth.

    Parameters
    ----------
    means : DataFrame
        The losses of `mcnn_core.analysis.occlusion.occlusion`, a row for each mechanism.
    truth : DataFrame

    Returns
    -------
    DataFrame
        Indexed by mechanism: ``named``, the channel with the largest loss; ``changed``, the
        channels whose light the mechanism changes (`mcnn_book.simulate.cells.PAINTED`); ``right``;
        and ``chance``, how likely a channel picked at random is.
    """
    rows = {}
    for name, losses in means.filter(regex="^channel ").iterrows() if truth is not None else ():
        changed = [one for one, painted in PAINTED.items() if painted & MECHANISMS[name].keys()]
        named = str(losses.idxmax()).removeprefix("channel ")
        chance = len(changed) / len(PAINTED)
        rows[name] = (named, ", ".join(changed), named in changed, chance)
    columns = ["named", "changed", "right", "chance"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("mechanism")


def _jaccard(one: set, other: set) -> float:
    return len(one & other) / len(one | other)


def best_clusters(groups: pd.Series, clusters: pd.Series) -> pd.DataFrame:
    """Return for each planted group the cluster with the largest Jaccard index.

    Both series are indexed by gene. Columns ``genes``, ``cluster``, ``size`` and ``jaccard``; index
    the group.
    """
    rows, members = {}, {cluster: set(part.index) for cluster, part in clusters.groupby(clusters)}
    for group, part in groups.groupby(groups):
        best = max(members, key=lambda cluster: _jaccard(set(part.index), members[cluster]))
        rows[group] = {
            "genes": len(part),
            "cluster": best,
            "size": len(members[best]),
            "jaccard": _jaccard(set(part.index), members[best]),
        }
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["genes", "cluster", "size", "jaccard"]
    ).rename_axis("group")


def effect_clusters(effects: pd.DataFrame, inactive: pd.Index) -> pd.Series:
    """Cluster siRNAs by their true effects exactly as profiles are.

    Effects are relative to the mean of the `inactive` ones; the result is indexed by siRNA.
    """
    shifts = effects.set_index("compound")
    shifts = shifts - shifts.loc[shifts.index.isin(inactive)].mean()
    shifts = shifts[(shifts != 0).any(axis=1)]  # a lone inactive siRNA has no direction
    return pd.Series(
        cut_tree(tree(cosine_distances(shifts.to_numpy())))["cluster"].to_numpy(), shifts.index
    )


def grade_groups(
    clusters: pd.DataFrame,
    enriched: pd.DataFrame,
    truth: pd.DataFrame | None,
    effects: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return for each planted group of genes of a simulated KiMorph its best cluster.

    It is said too whether its term was found there.

    Parameters
    ----------
    clusters : DataFrame
        ``treatment`` and ``cluster``, as of `mcnn_core.analysis.sirna.sirna_clusters`.
    enriched : DataFrame
        What `mcnn_core.analysis.enrichment.enrich_clusters` returned.
    truth : DataFrame or None
        `read_truth`; no rows without.
    effects : DataFrame or None
        `read_effects`.

    Returns
    -------
    DataFrame
        As `best_clusters`, with ``recovered`` (Jaccard of `RECOVERED` or more), ``possible`` (best
        Jaccard of the group where the true effects are clustered instead of profiles; missing
        without `effects`) and ``term`` ("found", "missed", or "" where none is planted). The group
        without an effect is left out.
    """
    if truth is None:
        return pd.DataFrame(
            columns=["genes", "cluster", "size", "jaccard", "recovered", "possible", "term"]
        )
    library = truth[truth["group"] != ""].drop_duplicates("compound").set_index("compound")
    planted = library[library["phenotype"] != "neutral"]
    found = clusters.set_index("treatment")["cluster"]
    table = best_clusters(planted["group"], found[found.index.isin(library.index)])
    table["recovered"], table["possible"] = table["jaccard"] >= RECOVERED, np.nan
    if effects is not None:
        best = effect_clusters(effects, library.index[library["phenotype"] == "neutral"])
        table["possible"] = best_clusters(planted["group"], best[best.index.isin(library.index)])[
            "jaccard"
        ]
    terms = planted.groupby("group")["term"].first()
    strong = enriched[(enriched["algorithm"] == "elim") & (enriched["q"] <= FDR)]
    pairs = set(zip(strong["cluster"], strong["name"], strict=True))
    # A group's genes are annotated to its term or to one of its two parts.
    table["term"] = [
        ""
        if not terms[group]
        else "found"
        if any(cluster == here and name.startswith(terms[group]) for here, name in pairs)
        else "missed"
        for group, cluster in table["cluster"].items()
    ]
    return table


def group_grades(
    groups: pd.DataFrame, clusters: pd.DataFrame, truth: pd.DataFrame | None
) -> dict[str, float | str]:
    """Return `grade_groups`'s table in numbers.

    Returns
    -------
    dict
        ``groups`` and those ``recovered``; ``possible``, groups whose true effects reach
        `POSSIBLE`, and ``possible_recovered`` of them; ``terms_planted`` and ``terms_found``;
        ``rand``, the adjusted Rand index of clusters and groups. "not available" without truth.
    """
    from sklearn.metrics import adjusted_rand_score

    if truth is None:
        return dict.fromkeys(
            (
                "groups",
                "recovered",
                "possible",
                "possible_recovered",
                "terms_planted",
                "terms_found",
                "rand",
            ),
            NOT_AVAILABLE,
        )
    group = clusters["treatment"].map(_by(truth, "compound", "group"))
    library, possible = group.notna() & (group != ""), groups["possible"] >= POSSIBLE
    known = groups["possible"].notna().any()
    return {
        "groups": len(groups),
        "recovered": int(groups["recovered"].sum()),
        "possible": int(possible.sum()) if known else NOT_AVAILABLE,
        "possible_recovered": int((possible & groups["recovered"]).sum())
        if known
        else NOT_AVAILABLE,
        "terms_planted": int((groups["term"] != "").sum()),
        "terms_found": int((groups["term"] == "found").sum()),
        "rand": float(adjusted_rand_score(group[library], clusters.loc[library, "cluster"])),
    }


def grades(
    tables: dict[str, pd.DataFrame], treatments: pd.DataFrame, truth: pd.DataFrame | None
) -> dict[str, float | str]:
    """Return all grades of `mcnn_book.study.study.discover`'s tables as one flat dict.

    Its keys are ``potency.coverage``, ``novel.recall.clusters``, ...
    """
    hidden = grade_clusters(tables["clusters"], truth)
    parts: dict[str, Mapping[str, float | str]] = {
        "potency": grade_potency(tables["potency"], truth),
        "novel": novelty_grades(grade_novelty(tables["novel"], treatments, truth)),
        "clusters": {
            "hidden": len(hidden),
            "recovered": int(hidden["recovered"].sum()),
            "called": int(tables["novel"]["novel"].sum()),
        },
        "suspects": suspect_grades(tables["suspects"], truth),
    }
    return {f"{part}.{key}": value for part, found in parts.items() for key, value in found.items()}
