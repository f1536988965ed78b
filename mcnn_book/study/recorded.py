"""What declared runs have recorded, as the tables of the book."""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats

from mcnn_book.workspace import find_root
from mcnn_core.machine.files import read_json
from mcnn_core.screen import NOT_AVAILABLE

#: The columns of a recorded comparison, those of `mcnn_core.analysis.methods.comparison`.
COLUMNS = ["method", "protocol", "seed", "overall", "class_median", "n", "low", "high", "left_out"]

CLAIMED = "trained_whitened"  #: the row of a comparison that a claim is made about

HARD = ["DNA damage", "DNA replication", "Protein degradation"]  #: mechanisms of real cells

RANGES = [
    "potency.median_error",
    "potency.coverage",
    "potency.no_fit",
    "potency.median_width",
    "clusters.recovered",
    "clusters.hidden",
    "novel.precision.clusters",
    "novel.recall.clusters",
    "novel.precision.chance",
    "novel.precision.nearest_neighbour",
    "suspects.rank",
]  #: grades the prose quotes


KIMORPH_RANGES = [
    "random.trained",
    "random.handcrafted",
    "random.handcrafted_whitened",
    "random.untrained",
    "random.lead",
    "apart.trained",
    "apart.lead",
    "groups.groups",
    "groups.recovered",
    "groups.possible",
    "groups.possible_recovered",
    "groups.terms_planted",
    "groups.terms_found",
    "clusters.multi_gene",
    "clusters.multi_gene_two_terms",
    "permuted.classic.share",
    "permuted.elim.share",
    "permuted.elim.limit",
]


#: How an aim compares with a grade.
SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "at most": operator.le,
    "at least": operator.ge,
    "under": operator.lt,
    "above": operator.gt,
    "all of": operator.ge,
}


class Measure(NamedTuple):
    """What a grade is in words, how it is written, and perhaps its aim.

    That is a sign of `SIGNS`, and a number or the key of another grade.
    """

    words: str
    form: str
    sign: str = ""
    limit: float | str = 0


WHOLE_SCREEN: dict[str, Measure] = {
    "potency.median_error": Measure(
        "median error of the EC50, log10 units", ".2f", "at most", 0.35
    ),
    "potency.coverage": Measure("true EC50s inside their 95 % intervals", ".0%", "at least", 0.85),
    "potency.no_fit": Measure("compounds with a mechanism but no fit", ".0%", "under", 0.2),
    "potency.median_width": Measure(
        "median width of an interval, log10 units", ".2f", "at most", 1.5
    ),
    "clusters.recovered": Measure(
        "hidden mechanisms recovered", ".0f", "all of", "clusters.hidden"
    ),
    "clusters.hidden": Measure("hidden mechanisms", ".0f"),
    "suspects.rank": Measure("place of the planted wrong label", ".0f", "at most", 3),
    "clusters.called": Measure("treatments called novel", ".0f"),
} | {
    f"novel.{kind}.{detector}": Measure(f"{words}: {by}", form)
    for kind, words, form in (
        ("precision", "truly novel among those called", ".0%"),
        ("recall", "called among the truly novel", ".0%"),
        ("average_precision", "average precision of the ranking", ".2f"),
    )
    for detector, by in (
        ("clusters", "clusters"),
        ("nearest_neighbour", "nearest neighbour"),
        ("isolation_forest", "isolation forest"),
        ("chance", "chance"),
    )
}

KIMORPH: dict[str, Measure] = {
    "random.trained": Measure("controls named right, trained network", ".1%", "at least", 0.97),
    "random.trained.low": Measure("its 95 % interval, from", ".1%"),
    "random.trained.high": Measure("its 95 % interval, to", ".1%"),
    "random.lead": Measure("lead over the better handcrafted row", ".1%", "above", 0),
    "random.handcrafted": Measure("handcrafted features", ".1%"),
    "random.handcrafted_whitened": Measure("handcrafted features, whitened", ".1%"),
    "random.untrained": Measure("untrained network", ".1%"),
    "apart.trained": Measure("without the other replicate: trained network", ".1%"),
    "apart.handcrafted": Measure("without it: handcrafted features", ".1%"),
    "apart.handcrafted_whitened": Measure("without it: handcrafted features, whitened", ".1%"),
    "apart.lead": Measure("without it: lead over the better of these", ".1%"),
    "groups.groups": Measure("planted groups of genes", ".0f"),
    "groups.recovered": Measure("groups recovered by a cluster", ".0f"),
    "groups.possible": Measure("groups that the planted effects set apart", ".0f"),
    "groups.possible_recovered": Measure("of these recovered", ".0f", "all of", "groups.possible"),
    "groups.rand": Measure("adjusted Rand index", ".2f"),
    "groups.terms_planted": Measure("planted terms", ".0f"),
    "groups.terms_found": Measure("planted terms found", ".0f", "all of", "groups.terms_planted"),
    "clusters.n": Measure("clusters", ".0f"),
    "clusters.of_artefact": Measure("size of the cluster with the artefact", ".0f"),
    "clusters.multi_gene": Measure("clusters of more than one gene", ".0f"),
    "clusters.multi_gene_two_terms": Measure("of these with two terms or more", ".0f"),
    "permuted.classic.share": Measure(
        "clusters with a term by chance, classic",
        ".1%",
        "at most",
        "permuted.classic.limit",
    ),
    "permuted.elim.share": Measure(
        "clusters with a term by chance, elim",
        ".1%",
        "at most",
        "permuted.elim.limit",
    ),
    "permuted.classic.limit": Measure("limit of chance, classic", ".1%"),
    "permuted.elim.limit": Measure("limit of chance, elim", ".1%"),
}


def verdicts(found: pd.DataFrame, measures: Mapping[str, Measure]) -> pd.DataFrame:
    """Return the grades of `recorded_grades` in words, with aim and verdict.

    The rows are those of `measures`, none without a seed; the columns one per seed, ``aim`` and
    ``verdict``, all text.
    """
    numbers = found.apply(pd.to_numeric, errors="coerce").reindex(list(measures))
    rows = {}
    for key, (words, form, sign, limit) in measures.items() if len(found.columns) else ():
        values = numbers.loc[key]
        row = {f"seed {seed}": format(x, form) if x == x else "" for seed, x in values.items()}
        rows[words] = row | {"aim": "", "verdict": ""}
        if sign:
            named = isinstance(limit, str)
            met = SIGNS[sign](values, numbers.loc[limit] if named else limit)[values.notna()]
            some = f"met on {met.sum()} of {len(met)}" if met.any() else "missed"
            said = f"the {measures[str(limit)].words}" if named else format(limit, form)
            verdict = NOT_AVAILABLE if met.empty else "met" if met.all() else some
            rows[words] |= {"aim": f"{sign} {said}", "verdict": verdict}
    return pd.DataFrame.from_dict(rows, orient="index")


def records(prefix: str, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the records in ``book/recorded`` whose name begins with `prefix`, by name."""
    folder = folder or find_root() / "book" / "recorded"
    return {path.stem: read_json(path) for path in sorted(folder.glob(f"{prefix}*.json"))}


def of_first_recipe(records: dict[str, dict[str, Any]]) -> str:
    """Name the studies whose networks were trained by AdamW, as all were at first; "none" if none.

    The seed at the end of a record's name is left out.
    """

    def recipe(run: dict[str, Any]) -> dict[str, Any]:
        return run.get("recipe") or run.get("default", {}).get("recipe") or {"optimiser": "adamw"}

    names = {
        name.rstrip("0123456789").rstrip("-")
        for name, record in records.items()
        for run in record["runs"].values()
        if recipe(run)["optimiser"] == "adamw"
    }
    return ", ".join(sorted(names)) or "none"


def recorded_comparison(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the comparison tables of all runs in `records` as one.

    They are marked ``recorded`` for the figures.
    """
    rows = [
        row
        for record in records.values()
        for run in record["runs"].values()
        for row in run["comparison"]
    ]
    return (
        pd.DataFrame(rows, columns=COLUMNS)
        .astype({"seed": "Int64", "low": float, "high": float})
        .assign(recorded=True)
    )


def recorded_mechanisms(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return what the runs in `records` know of each mechanism, on average over their seeds.

    One row per protocol and mechanism: ``asked``, the treatments, and for each method those that
    were ``right`` and the mean ``average_precision``, as columns of two levels.
    """
    columns = ["method", "protocol", "MoA", "right", "asked", "average_precision"]
    runs = [run for record in records.values() for run in record["runs"].values()]
    rows = pd.DataFrame([row for run in runs for row in run.get("mechanisms", [])], columns=columns)
    rows = rows.astype(dict.fromkeys(columns[3:], float))
    means = rows.groupby(["protocol", "MoA", "asked", "method"])[columns[3::2]].mean()
    return means.unstack("method").swaplevel(axis=1).sort_index(axis=1)


def hard_counts(mechanisms: pd.DataFrame) -> dict[str, float]:
    """Count what `recorded_mechanisms` knows of `HARD` under NSCB: ``asked``, and right by method.

    NaN where nothing is recorded.
    """
    names = ["asked", "trained", "trained_whitened", "handcrafted_whitened"]
    part = mechanisms[mechanisms.index.isin(HARD, level="MoA")]
    part = part[part.index.isin(["NSCB"], level="protocol")]
    if part.empty:
        return dict.fromkeys(names, float("nan"))
    right = part.xs("right", axis=1, level=1).reset_index("asked").sum()
    return right[names].to_dict()


def recorded_grades(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the grades of the runs of `whole_screen`, one column per seed, one row per grade."""
    runs = {
        seed: run["grades"] for record in records.values() for seed, run in record["runs"].items()
    }
    return pd.DataFrame(runs, columns=list(runs))


def recorded_choices(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the scores of the runs of `choosing` as one table.

    Columns: ``seed``, ``way``, ``protocol``, ``part`` and the scores.
    """
    rows = [
        {"seed": int(seed), **row}
        for record in records.values()
        for seed, run in record["runs"].items()
        for row in run["scores"]
    ]
    columns = [
        "seed",
        "way",
        "protocol",
        "part",
        "overall",
        "class_median",
        "n",
        "low",
        "high",
        "average_precision",
        "chance",
    ]
    return pd.DataFrame(rows, columns=columns)


def worst_and_best(found: pd.DataFrame, wanted: list[str] = RANGES) -> pd.DataFrame:
    """Return the ``lowest`` and ``highest`` grade over the seeds; NaN if a seed has none."""
    table = found.apply(pd.to_numeric, errors="coerce").reindex(wanted)
    ends = {"lowest": table.min(axis=1, skipna=False), "highest": table.max(axis=1, skipna=False)}
    return pd.DataFrame(ends)


def choice_gains(table: pd.DataFrame) -> dict[str, float | str]:
    """Return by how much the ``chosen`` classes of `recorded_choices` are better than others.

    It is the lowest and the highest over the seeds. Keys ``<measure>.<rival>.lowest`` and
    ``.highest``. Measures: accuracy under NSC (``nsc``) and NSCB (``nscb``), that under NSC on the
    compounds set aside (``aside``), all in percentage points, and their mean average precision
    (``aside_precision``). Rivals: the mean of both ``random`` draws, ``every_treatment`` and
    ``annotated``. "not available" where nothing is recorded.
    """
    measures = {
        "nsc": ("overall", "NSC", "all"),
        "nscb": ("overall", "NSCB", "all"),
        "aside": ("overall", "NSC", "set aside"),
        "aside_precision": ("average_precision", "NSC", "set aside"),
    }
    rivals = {
        "random": ["random 1", "random 2"],
        "every_treatment": ["every treatment"],
        "annotated": ["annotated"],
    }
    found = {}
    for measure, (column, protocol, part) in measures.items():
        wide = table[(table["protocol"] == protocol) & (table["part"] == part)].pivot(
            index="seed", columns="way", values=column
        )
        for rival, ways in rivals.items():
            gain = (
                (wide["chosen"] - wide[ways].mean(axis=1)) * (100 if column == "overall" else 1)
                if len(wide)
                else []
            )
            for end, value in (("lowest", min), ("highest", max)):
                found[f"{measure}.{rival}.{end}"] = (
                    float(value(gain)) if len(gain) else NOT_AVAILABLE
                )
    return found


def choice_counts(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return numbers of the runs of `choosing` over the seeds, as "31" or "30 to 34".

    "not available" where nothing is recorded. Keys: treatments asked under NSC (``asked.all``,
    ``asked.aside``); classes (``classes.every_well``, ``classes.every_compound``).
    """
    runs, scores = (
        [run for record in records.values() for run in record["runs"].values()],
        recorded_choices(records),
    )
    nsc = scores[scores["protocol"] == "NSC"]
    found = {
        f"asked.{key}": nsc.loc[nsc["part"] == part, "n"]
        for key, part in (("all", "all"), ("aside", "set aside"))
    }
    found |= {
        f"classes.{way.replace(' ', '_')}": [run["classes"][way] for run in runs]
        for way in ("every well", "every compound")
    }
    ends = {
        key: sorted({min(values), max(values)}) if len(values) else [NOT_AVAILABLE]
        for key, values in found.items()
    }
    return {key: " to ".join(map(str, values)) for key, values in ends.items()}


def recorded_places(records: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of the runs of `planted_place` as one table, NSC and NSCB in percent."""
    columns = ["seed", "planted", "features", "corrected", "NSC", "NSCB", "share", "chance", "p"]
    rows = [
        {"seed": int(seed), **row}
        for record in records.values()
        for seed, run in record["runs"].items()
        for row in run["places"]
    ]
    return pd.DataFrame(rows, columns=columns)


def place_numbers(places: pd.DataFrame) -> dict[str, float | str]:
    """Say of the first features in `recorded_places` what a planted effect of place costs.

    Returns
    -------
    dict
        ``share``, ``chance`` and ``p`` of the effect among control wells; the ``cost`` of the
        effect under NSC, what the correction ``restored``, its ``harm`` where there is no effect,
        and what whitening restored instead, in percentage points; "not available" where nothing is
        recorded.
    """
    keys = ["share", "chance", "p", "cost", "restored", "harm", "whitening"]
    if places.empty:
        return dict.fromkeys(keys, NOT_AVAILABLE)
    part = places[places["features"] == places["features"].iloc[0]]
    plain, corrected = (part[part["corrected"] == kind] for kind in (False, True))
    (none, planted), (none_after, after) = (
        [one.loc[one["planted"] == kind, "NSC"].mean() for kind in (False, True)]
        for one in (plain, corrected)
    )
    effect = plain[plain["planted"]].mean(numeric_only=True)
    white = places[(places["features"] == "trained_whitened") & places["planted"]]
    whitened = white.loc[~white["corrected"].astype(bool), "NSC"].mean()
    found = [*effect[keys[:3]], none - planted, after - planted, none_after - none]
    found.append(whitened - planted)
    return dict(zip(keys, map(float, found), strict=True))


def _nsc_by_seed(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracies under NSC, one row per seed and one column per method."""
    return comparison[comparison["protocol"] == "NSC"].pivot_table("overall", "seed", "method")


def beside_whitened(comparison: pd.DataFrame) -> dict[str, str]:
    """Say what the network and whitened handcrafted features reach under NSC, over all seeds.

    Keys ``trained``, ``claimed`` (`CLAIMED`) and ``whitened`` (handcrafted), each as "64 %" or "76
    to 83 %", and the number of ``seeds``; "not available" where nothing is recorded.
    """
    rows = {"trained": "trained", "claimed": CLAIMED, "whitened": "handcrafted_whitened"}
    wide = _nsc_by_seed(comparison)
    if not set(rows.values()) <= set(wide):
        return dict.fromkeys([*rows, "seeds"], NOT_AVAILABLE)
    found = {key: (100 * wide[name]).agg(["min", "max"]) for key, name in rows.items()}
    ends = {key: dict.fromkeys(f"{end:.0f}" for end in both) for key, both in found.items()}
    said = {key: " to ".join(both) + " %" for key, both in ends.items()}
    return said | {"seeds": str(len(wide))}


def margins(comparison: pd.DataFrame) -> dict[str, float | str]:
    """Return mean accuracies under NSC and the lead over the best handcrafted row, over all seeds.

    Returns
    -------
    dict
        ``trained`` and ``trained_whitened``, the mean accuracies; of the lead of the whitened
        network, the row that was declared beforehand, ``lead_smallest``, ``lead_largest``,
        ``lead`` (the mean) and its 95 % interval over seeds by Student's t, ``lead_low`` and
        ``lead_high``. Fractions, or "not available" where fewer than two seeds are recorded.
    """
    wide = _nsc_by_seed(comparison)
    rows = ["trained", CLAIMED]
    keys = ["lead_smallest", "lead_largest", "lead", "lead_low", "lead_high"]
    if not {*rows} <= {*wide} or len(wide) < 2:
        return dict.fromkeys([*rows, *keys], NOT_AVAILABLE)
    best = wide[[name for name in wide if name.startswith("handcrafted")]].max(axis=1)
    lead = wide[CLAIMED] - best
    ends = stats.t.interval(0.95, len(lead) - 1, lead.mean(), stats.sem(lead))
    found = [*wide[rows].mean(), lead.min(), lead.max(), lead.mean(), *ends]
    return dict(zip([*rows, *keys], map(float, found), strict=True))
