"""Which treatments should be surrogate classes? (paper: *Discussion*, an open question).

The paper restricts the classes to annotated treatments and suggests to add classes iteratively
"based on a certain performance criterion". The criterion here reads no annotation: a treatment is
worth a class if each of its wells lies near its other wells and far from the negative controls and
from every class taken already. `Metadata_MoA` is read by `grade` alone, after all is chosen.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.mechanisms import (
    average_precisions,
    floors,
    nearest_neighbours,
    protocols,
    scores,
)
from mcnn_core.errors import InputError
from mcnn_core.features import embed
from mcnn_core.model import MCNN, NetworkConfig
from mcnn_core.profiles import feature_frame, feature_matrix, profile, treatment_profiles
from mcnn_core.screen import field_names, row_names
from mcnn_core.training import Recipe, load_model, train

CONTROLS = "negative controls"


COLUMNS = ["treatment", "wells", "own", "other", "nearest", "distinctness"]


ASIDE = 1 / 3  #: of the compounds


GROUPINGS = {
    "well": ["Metadata_Plate", "Metadata_Well"],
    "treatment": ["Metadata_Treatment"],
    "compound": ["Metadata_Compound"],
}


@dataclass(frozen=True)
class Plan:
    """How classes are added."""

    first: int = 18  #: classes of the first round
    add: int = 18  #: classes added before each later round
    #: batches in each round, the same for every way of choosing
    steps: tuple[int, ...] = (250, 250, 250, 250)


def _tested(frame: pd.DataFrame) -> np.ndarray:
    return (
        (frame["Metadata_control_type"] == "trt") & (frame["Metadata_Treatment"] != "")
    ).to_numpy()


def _own(wells: pd.DataFrame) -> np.ndarray:
    """Return each well's cosine distance to its treatment's other wells.

    It is that to their element-wise median; NaN where the well is the only one.
    """
    values, own = feature_matrix(wells), np.full(len(wells), np.nan)
    for members in wells.reset_index(drop=True).groupby("Metadata_Treatment").indices.values():
        for well in members if len(members) > 1 else []:
            others = np.median(values[members[members != well]], axis=0, keepdims=True)
            own[well] = cosine_distances(values[[well]], others)[0, 0]
    return own


def _measured(
    wells: pd.DataFrame, taken: Sequence[str]
) -> tuple[pd.DataFrame, np.ndarray, list[str], pd.DataFrame]:
    """Return the candidates' wells and what they are measured against.

    With them come their distances to each reference, the references' names, and the treatment
    profiles.
    """
    pooled, tested = treatment_profiles(wells), _tested(wells)
    profiles, controls = (
        pooled[_tested(pooled)].set_index("Metadata_Treatment"),
        pooled[pooled["Metadata_control_type"] == "negcon"],
    )
    missing = sorted(set(taken) - set(profiles.index))
    if missing:
        raise InputError("A class that is taken needs wells in the profiles", missing)
    names = [CONTROLS] * len(controls) + list(taken)
    if not names:
        raise InputError(
            "Classes are chosen by what they differ from: negative controls are needed, or a class "
            "to begin with"
        )
    candidates = wells[tested & ~wells["Metadata_Treatment"].isin(taken)].reset_index(drop=True)
    if candidates.empty:
        raise InputError(
            "No treatment is left that could become a class: all are taken, or none has a name"
        )
    references = feature_matrix(pd.concat([controls, profiles.loc[list(taken)]]))
    return (
        candidates,
        cosine_distances(feature_matrix(candidates), references, names=row_names(candidates)),
        names,
        profiles,
    )


def _ranked(
    candidates: pd.DataFrame, own: np.ndarray, distances: np.ndarray, names: Sequence[str]
) -> pd.DataFrame:
    other = distances.min(axis=1)
    table = pd.DataFrame(
        {
            "treatment": candidates["Metadata_Treatment"].to_numpy(),
            "wells": 1,
            "own": own,
            "other": other,
            "nearest": np.array(names)[distances.argmin(axis=1)],
            "distinctness": (other - own) / np.maximum(np.maximum(own, other), 1e-12),
        }
    )
    groups = table.sort_values("other", kind="stable").groupby("treatment")
    found = groups.agg(
        {"wells": "sum", "own": "mean", "other": "mean", "nearest": "first", "distinctness": "mean"}
    ).reset_index()
    # float noise decides no tie: the first by name wins
    return found.iloc[np.argsort(-found["distinctness"].round(12), kind="stable")].reset_index(
        drop=True
    )


def distinctness(wells: pd.DataFrame, taken: Sequence[str] = ()) -> pd.DataFrame:
    """Score every treatment that is no class yet by how well it would make one.

    No annotation is read. For a well, *own* is the cosine distance to the element-wise median of
    its treatment's other wells, and *other* that to the nearest reference: the profile of a class
    already taken, or of the negative controls of any plate. The distinctness of a treatment is the
    mean of (other - own) / max(own, other) over its wells, a silhouette (Rousseeuw 1987): near 1 if
    its wells agree and resemble nothing taken, below 0 if they resemble a reference more than each
    other.

    Parameters
    ----------
    wells : DataFrame
        Well profiles. Positive controls and wells without a treatment are no candidates.
    taken : sequence of str
        Treatments that are classes already.

    Returns
    -------
    DataFrame
        Most distinct first, equals by name: ``treatment``, ``wells``, mean ``own`` and ``other``,
        ``nearest`` (the reference that one of its wells comes closest to) and ``distinctness`` (-1
        to 1; NaN, and last, for a treatment of one well, which cannot be scored).

    Raises
    ------
    InputError
        If a class taken has no wells, there is no reference at all, or no treatment is left.
    """
    candidates, distances, names, _ = _measured(wells, taken)
    return _ranked(candidates, _own(candidates), distances, names)


def choose(wells: pd.DataFrame, taken: Sequence[str], n: int) -> pd.DataFrame:
    """Take the `n` most distinct treatments one after another, each a reference for those after it.

    So a second dose of a compound is not taken only because, like the first, it is far from
    everything before (farthest-first traversal, Gonzalez 1985).

    Parameters
    ----------
    wells, taken
        As in `distinctness`.
    n : int
        Treatments to add.

    Returns
    -------
    DataFrame
        In the order of choice, the row of each as in `distinctness` when it was the first.

    Raises
    ------
    InputError
        Also if fewer than `n` treatments can be scored.
    """
    candidates, distances, names, profiles = _measured(wells, taken)
    own, chosen = _own(candidates), []
    able = candidates.loc[np.isfinite(own), "Metadata_Treatment"].nunique()
    if able < n:
        raise InputError(
            f"{n} treatments were to become classes, but only {able} of those left have two wells "
            "or more"
        )
    for _ in range(n):
        chosen.append(_ranked(candidates, own, distances, names).iloc[0])
        name = chosen[-1]["treatment"]
        left = (candidates["Metadata_Treatment"] != name).to_numpy()
        candidates, own, distances, names = (
            candidates[left],
            own[left],
            distances[left],
            [*names, name],
        )
        if left.any():
            nearer = cosine_distances(
                feature_matrix(candidates), feature_matrix(profiles.loc[[name]])
            )
            distances = np.hstack([distances, nearer])
    return pd.DataFrame(chosen, columns=COLUMNS).reset_index(drop=True)


def first_choices(wells: pd.DataFrame, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `distinctness` with no class taken, and the first `n` that `choose` would take.

    These are fewer if the screen has fewer. Both are empty on a screen without negative controls,
    or without a treatment of two wells.
    """
    counts = wells.loc[_tested(wells), "Metadata_Treatment"].value_counts()
    able = int((counts > 1).sum())
    if not able or not (wells["Metadata_control_type"] == "negcon").any():
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=COLUMNS)
    return distinctness(wells), choose(wells, [], min(n, able))


def grouped(table: pd.DataFrame, grouping: str) -> pd.Series:
    """Return the name of each field's group, by a key of `GROUPINGS`.

    It is "" for controls and for wells without a treatment.
    """
    first, *others = (table[column].astype(str) for column in GROUPINGS[grouping])
    return first.str.cat(others, sep=" ").where(_tested(table), "")


def numbered(groups: pd.Series, classes: Sequence[str]) -> np.ndarray:
    """Return the label of each field: the place of its group in `classes`; -1 for the rest.

    So classes keep theirs when others join.
    """
    return (
        groups.map({name: label for label, name in enumerate(classes)})
        .fillna(-1)
        .to_numpy(dtype=np.int64)
    )


def train_rounds(
    table: pd.DataFrame,
    store: Any,
    groups: pd.Series,
    classes: Sequence[str],
    add: Callable[[MCNN, list[str]], Sequence[str]],
    plan: Plan,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
) -> tuple[MCNN, list[str]]:
    """Train in rounds, each beginning with the weights of the one before.

    Each also trains on the classes that `add` names after the one before. Each round takes its
    ``plan.steps`` batches, has a learning-rate cycle of its own, and draws all its classes equally
    often. Rounds that begin alike are trained once: their folder is named by their labels. A run
    that was killed resumes.

    Parameters
    ----------
    table, store
        The screen's fields.
    groups : Series of str
        What `grouped` returned.
    classes : sequence of str
        Groups with which to begin.
    add : callable
        Given the network and its classes, returns the classes to add; not asked after the last
        round.
    plan, network, recipe
        The length of training is that of `plan`.
    folder : path

    Returns
    -------
    model : MCNN
    classes : list of str
        All classes of the last round, in the order of their labels.
    """
    classes = list(classes)
    model: MCNN | None = None
    for number, steps in enumerate(plan.steps):
        classes += add(model, classes) if model is not None else []
        labels = numbered(groups, classes)
        place = (
            Path(folder) / f"round-{number + 1}-{hashlib.sha256(labels.tobytes()).hexdigest()[:12]}"
        )
        one = replace(recipe, epochs=steps, max_steps=steps, seed=1000 * recipe.seed + number)
        train(store, labels, model or network, one, place, field_names(table))
        model = load_model(place)
    assert model is not None  # a plan has a round
    return model, classes


def set_aside(table: pd.DataFrame, seed: int) -> list[str]:
    """Draw the compounds that no way of choosing may use; sorted.

    They are the share `ASIDE` of all, whether annotated or not.
    """
    compounds = sorted(set(table.loc[_tested(table), "Metadata_Compound"]))
    return sorted(
        np.random.default_rng([seed, 4])
        .permutation(compounds)[: round(ASIDE * len(compounds))]
        .tolist()
    )


def _profiles(
    table: pd.DataFrame, store: Any, model: MCNN, labels: np.ndarray, rows: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame]:
    part = table.iloc[rows].reset_index(drop=True)
    return profile(feature_frame(part, embed(model, store, rows), labels[rows] >= 0))


def compare_choices(
    table: pd.DataFrame,
    store: Any,
    plan: Plan,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Train with classes chosen in several ways, and ask each network the same questions.

    All train for the same number of batches. The ways: ``chosen`` (`choose`), ``random 1`` and
    ``random 2``, all three beginning with the same random classes; ``every well``, ``every
    treatment`` and ``every compound``; and ``annotated``, as in the paper: every treatment that has
    an annotation. The compounds of `set_aside` are in no class of any of them.

    Parameters
    ----------
    table : DataFrame
        The screen's fields, row i of the store.
    store, plan, network, recipe, folder
        As in `train_rounds`.

    Returns
    -------
    answers : DataFrame
        One row per way, protocol and annotated treatment that can be asked: ``way, protocol,
        treatment, compound, MoA, predicted, average_precision, chance`` and ``part``: "set aside"
        (its compound is in no class of any way), "a class" or "no class" (the treatment, in this
        way).
    classes : dict
        The classes of each way.

    Raises
    ------
    InputError
        If the plan needs more treatments than the screen has.
    """
    aside = set_aside(table, recipe.seed)
    free = _tested(table) & ~table["Metadata_Compound"].isin(aside).to_numpy()
    groups = {name: grouped(table, name).where(free, "") for name in GROUPINGS}
    every = {name: sorted(set(groups[name]) - {""}) for name in GROUPINGS}
    needed = plan.first + plan.add * (len(plan.steps) - 1)
    if needed > len(every["treatment"]):
        raise InputError(
            f"The plan needs {needed} treatments, but the screen has {len(every['treatment'])} "
            "that are not set aside"
        )
    annotated = (table["Metadata_MoA"] != "").to_numpy() & _tested(table)
    candidates = np.flatnonzero(free | (table["Metadata_control_type"] == "negcon").to_numpy())
    draws = [np.random.default_rng([recipe.seed, 5, k]) for k in range(3)]
    first = draws[0].permutation(every["treatment"])[: plan.first].tolist()

    def most_distinct(model: MCNN, classes: list[str]) -> list[str]:
        wells, _ = _profiles(
            table, store, model, numbered(groups["treatment"], classes), candidates
        )
        return choose(wells, classes, plan.add)["treatment"].tolist()

    def at_random(rng: np.random.Generator) -> Callable[[MCNN, list[str]], list[str]]:
        return lambda _, classes: rng.permutation(sorted(set(every["treatment"]) - set(classes)))[
            : plan.add
        ].tolist()

    ways: dict[str, tuple[str, list[str], Callable[[MCNN, list[str]], list[str]]]] = {
        "chosen": ("treatment", first, most_distinct)
    }
    ways |= {f"random {k}": ("treatment", first, at_random(draws[k])) for k in (1, 2)}
    ways |= {f"every {name}": (name, every[name], lambda *_: []) for name in GROUPINGS}
    ways["annotated"] = (
        "treatment",
        sorted(set(groups["treatment"][annotated]) - {""}),
        lambda *_: [],
    )
    answers, used = [], {}
    for way, (grouping, begin, add) in ways.items():
        model, used[way] = train_rounds(
            table, store, groups[grouping], begin, add, plan, network, recipe, folder
        )
        labels = numbered(groups[grouping], used[way])
        _, treatments = _profiles(
            table, store, model, labels, np.flatnonzero(annotated | (labels >= 0))
        )
        taught = set(table.loc[labels >= 0, "Metadata_Treatment"])
        found = _answers(treatments)
        answers.append(found.assign(way=way, taught=found["treatment"].isin(taught)))
    table = pd.concat(answers, ignore_index=True)
    part = np.where(
        table["compound"].isin(aside), "set aside", np.where(table["taught"], "a class", "no class")
    )
    return table.assign(part=part).drop(columns="taught"), used


def _answers(treatments: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for protocol in protocols(treatments):
        precisions = average_precisions(treatments, protocol)
        parts.append(
            nearest_neighbours(treatments, protocol).assign(
                treatment=precisions.index,
                average_precision=precisions.to_numpy(),
                chance=floors(treatments, protocol)["chance"].to_numpy(),
            )
        )
    return pd.concat(parts, ignore_index=True)


def graded(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the scores per way, protocol and part (and "all").

    They are `mcnn_core.analysis.mechanisms.scores`, and the means of ``average_precision`` and
    ``chance``.
    """
    rows = []
    for (way, protocol), group in answers.groupby(["way", "protocol"], sort=False):
        for part, some in [("all", group), *group.groupby("part")]:
            means = some[["average_precision", "chance"]].mean().to_dict()
            rows.append({"way": way, "protocol": protocol, "part": part, **scores(some), **means})
    return pd.DataFrame(rows)
