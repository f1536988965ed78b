"""What a live build has no time for, recorded for the book (``make study``).

Seeds, variants and baselines. Each study writes one file in ``book/recorded`` and is skipped where
that file exists, so a stopped run resumes; delete a file to measure anew. Training
resumes from its own checkpoints. Seeds 101 to 103, for the comparison of methods 101 to 108, are
those on which the frozen simulator and recipe are judged; seeds 104 to 106 those on which ways of
choosing surrogate classes, and the published network, are.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_book.placing import moved, movement
from mcnn_book.results import control_grades, permuted
from mcnn_book.screens import open_screen
from mcnn_book.simulate.bbbc021 import LAYOUTS, simulate_screen
from mcnn_book.simulate.kimorph import ARTEFACT, CONTROLS
from mcnn_book.simulate.truth import (
    grade_choice,
    grade_clusters,
    grade_groups,
    grades,
    group_grades,
    read_effects,
    read_truth,
)
from mcnn_book.study.choosing import Plan, compare_choices, graded
from mcnn_core.analysis.clusters import cluster_table
from mcnn_core.analysis.enrichment import count_enriched, enrich_clusters, universe
from mcnn_core.analysis.mechanisms import scores, suspects
from mcnn_core.analysis.methods import (
    compare_methods,
    comparison,
    evaluate,
    method_frames,
    method_profiles,
)
from mcnn_core.analysis.novelty import novelty
from mcnn_core.analysis.position import correct_position, position_effects
from mcnn_core.analysis.response import curves, potencies, similarities, similarity_table
from mcnn_core.analysis.sirna import (
    compare_controls,
    control_fields,
    sirna_clusters,
    sirna_profiles,
)
from mcnn_core.errors import InputError
from mcnn_core.features import embed_screen
from mcnn_core.model import CONFIGS, MCNN, NetworkConfig, multiple_of, parameters
from mcnn_core.preprocessing import Conversion, auto_bin, preprocess
from mcnn_core.profiles import feature_frame, profile, treatment_profiles
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.readers.images import check_headers
from mcnn_core.readers.ontology import load_go
from mcnn_core.screen import Screen, field_names, load_screen, save_screen, summary
from mcnn_core.store import Store
from mcnn_core.surrogate import default_columns, surrogate_classes, training_fields
from mcnn_core.training import (
    RECIPES,
    Recipe,
    load_model,
    shortened,
    train,
    untrained_model,
    with_controls,
)

FRESH_SEEDS = (101, 102, 103)


COMPARED_SEEDS = tuple(range(101, 109))  # of the comparison of methods: three would say little


CHOICE_SEEDS = (104, 105, 106)


TUNED_SEED = 0


PLAN = Plan()


FOLDS = 4


WATCHED = ("trained", "trained_whitened", "handcrafted_whitened")  # mechanism by mechanism


PLACE = "row"  # where the plates of `planted_place` have dried


OTHER_RECORDS = {
    "bench",
    "bench-large",
    "cell_statistics",
    "faults",
    "fuzz",
    "tuning",
}  #: in book/recorded, by other commands than this


CELLS = replace(RECIPES["default"], batch=64, crop=0.75)


"""For crops of one cell each: a quarter of a cell says little, so the views are larger."""


def prepared(
    name: str,
    folder: Path,
    seed: int,
    network: NetworkConfig = CONFIGS["default"],
    illumination: str = "none",
) -> tuple[pd.DataFrame, Store]:
    """Return table and store of a screen, made once per folder and way of evening out the light."""
    if not (folder / "screen.json").exists():
        save_screen(open_screen(name, "", folder, seed), folder)
    screen = load_screen(folder)
    place = folder / ("store" if illumination == "none" else f"store-{illumination}")
    if not (place / "store.json").exists():
        preprocess(
            screen,
            place,
            Conversion(
                bin=auto_bin(check_headers(screen), len(screen.table)),
                multiple=multiple_of(network),
                illumination=illumination,
            ),
        )
    return screen.table, Store.open(place)


def labelled(table: pd.DataFrame, left_out: np.ndarray | bool = False) -> np.ndarray:
    """Return the surrogate class of each field by the default columns.

    It is -1 where not trained on or `left_out`.
    """
    training = training_fields(table) & np.logical_not(left_out)
    return surrogate_classes(table, default_columns(table), training)["label"].to_numpy()


def features_of(
    table: pd.DataFrame,
    store: Store,
    labels: np.ndarray,
    network: NetworkConfig | MCNN,
    recipe: Recipe,
    folder: Path,
) -> pd.DataFrame:
    """Train (or resume) in `folder` and return the features of every field."""
    train(store, labels, network, recipe, folder, field_names(table))
    return feature_frame(
        table, embed_screen(load_model(folder), store, folder / "activations"), labels >= 0
    )


def full_comparison(name: str, folder: Path, seed: int, recipe: Recipe) -> dict[str, Any]:
    """Compare all methods on one screen with one seed, as chapter 8 does."""
    table, store = prepared(name, folder, seed)
    labels, recipe = labelled(table), replace(recipe, seed=seed)
    features = features_of(
        table, store, labels, CONFIGS["default"], recipe, folder / f"model-{seed}"
    )
    predictions = compare_methods(
        features,
        labels,
        store,
        CONFIGS["default"],
        shortened(recipe, 1 / 3),
        folder / f"supervised-{seed}",
    )
    compared = comparison(predictions, profile(features)[1])
    rows = compared.astype(object).where(compared.notna(), None).to_dict("records")
    found = {"screen": summary(table), "recipe": asdict(recipe), "comparison": rows}
    return found | {"mechanisms": by_mechanism(predictions)}


def by_mechanism(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what `WATCHED` methods know of each mechanism.

    Rows of ``method, protocol, MoA, right`` and ``asked`` (treatments), and the mean
    ``average_precision``.
    """
    part = predictions[predictions["method"].isin(WATCHED)]
    part = part.assign(right=part["MoA"] == part["predicted"], asked=1)
    counted = {"right": "sum", "asked": "sum", "average_precision": "mean"}
    groups = part.groupby(["method", "protocol", "MoA"], as_index=False)
    return groups.agg(counted).to_dict("records")


def whole_screen(folder: Path, seed: int) -> dict[str, Any]:
    """Train with DMSO as one more class, apply to every field and grade what follows.

    These are potency, clusters, novelty and suspects, as in chapters 9 to 12. As there, training
    goes on from the network without that class.
    """
    table, store = prepared("simulated", folder, seed)
    recipe, place = replace(RECIPES["default"], seed=seed), folder / f"model-{seed}"
    train(store, labelled(table), CONFIGS["default"], recipe, place, field_names(table))
    labels, recipe = with_controls(labelled(table), recipe, table)
    features = features_of(
        table, store, labels, load_model(place), recipe, folder / f"whole-{seed}"
    )
    wells, treatments = profile(features)
    tables, truth = discover(wells, treatments), read_truth(load_screen(folder))
    return {
        "screen": summary(table),
        "recipe": asdict(recipe),
        "grades": grades(tables, treatments, truth),
        "clusters": grade_clusters(tables["clusters"], truth).to_dict("index"),
    }


def _terms(
    screen: Screen, clusters: pd.DataFrame, cache: Path
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the terms of the clusters, how many there are, and how many by chance."""
    library = clusters[clusters["entrez"] != ""]
    ontology = load_go(screen.root / "go.obo", screen.root / "go.gaf", cache)
    space = universe(ontology, library.set_index("treatment")["entrez"])
    members = library.set_index("entrez")["cluster"]
    enriched = enrich_clusters(space, members)
    return enriched, count_enriched(enriched, members), permuted(space, members)


def kimorph(
    folder: Path, seed: int, by: tuple[str, ...] = ("Metadata_Position",)
) -> dict[str, Any]:
    """Train on the control wells of a simulated KiMorph, each value of `by` a class.

    Grade controls, clusters and terms, as the chapters on KiMorph do.
    """
    table, store = prepared("kimorph", folder, seed)
    classes = surrogate_classes(table, by, control_fields(table, CONTROLS))
    labels = classes["label"].to_numpy()
    network, recipe = CONFIGS["default"], shortened(replace(RECIPES["default"], seed=seed), 1 / 2)
    place = folder / f"model-{'-'.join(by).replace('Metadata_', '').lower()}"
    features = features_of(table, store, labels, network, recipe, place)
    networks = {"untrained": untrained_model(store, labels, network, seed)}
    frames = method_frames(features, store, networks)
    del frames["intensity"]  # a part of the handcrafted features
    compared = compare_controls(method_profiles(frames, ["none", "whiten"]))
    clusters, _ = sirna_clusters(sirna_profiles(profile(features)[0]), CONTROLS)
    screen = load_screen(folder)
    enriched, counts, dealt = _terms(screen, clusters, folder / "go")
    truth, sizes = read_truth(screen, "group"), clusters["cluster"].value_counts()
    groups = grade_groups(clusters, enriched, truth, read_effects(screen))
    graded = group_grades(groups, clusters, truth)
    spoilt = sizes[clusters.loc[clusters["treatment"] == ARTEFACT, "cluster"]]
    found = {
        **control_grades(compared),
        **{f"groups.{key}": value for key, value in graded.items()},
        "clusters.n": len(sizes),
        "clusters.of_artefact": int(spoilt.iloc[0]),
        **{f"clusters.{key}": int(value) for key, value in counts.loc["elim"].items()},
        **{
            f"permuted.{name}.{key}": float(dealt.at[name, key])
            for name in dealt.index
            for key in ("share", "limit")
        },
    }
    return {
        "screen": summary(table),
        "recipe": asdict(recipe),
        "classes": int(labels.max()) + 1,
        "grades": found,
        "groups": groups.to_dict("index"),
        "comparison": compared.to_dict("records"),
        "enriched": counts.to_dict("index"),
        "permuted": dealt.to_dict("index"),
    }


def choosing(folder: Path, seed: int) -> dict[str, Any]:
    """Compare ways of choosing surrogate classes.

    Each is trained for the same number of batches, fewer than in the other chapters.
    """
    table, store = prepared("simulated", folder, seed)
    recipe = replace(RECIPES["default"], seed=seed)
    answers, classes = compare_choices(
        table, store, PLAN, CONFIGS["default"], recipe, folder / "choosing"
    )
    taught = grade_choice(classes, read_truth(load_screen(folder)))
    return {
        "screen": summary(table),
        "recipe": asdict(recipe),
        "plan": asdict(PLAN),
        "scores": graded(answers).to_dict("records"),
        "classes": {way: len(names) for way, names in classes.items()},
        "taught": taught.to_dict("index"),
        "chosen": classes["chosen"],
        "set_aside": sorted(set(answers.loc[answers["part"] == "set aside", "compound"])),
    }


def variant(folder: Path, network: str, recipe: str) -> dict[str, Any]:
    """Train one named network with one named recipe on the screen that was tuned on.

    Each for the paper's 27 epochs.
    """
    config, chosen = (
        CONFIGS[network],
        replace(RECIPES[recipe], epochs=RECIPES["published"].epochs, seed=TUNED_SEED),
    )
    base = folder / f"screen-{multiple_of(config)}"
    table, store = prepared("simulated", base, TUNED_SEED, config)
    labels, place = labelled(table), folder / f"{network}-{recipe}"
    features = features_of(table, store, labels, config, chosen, place)
    history = pd.read_csv(place / "history.csv")
    predictions = evaluate(profile(features)[1], "trained", TUNED_SEED)
    return {
        "network": network,
        "recipe": asdict(chosen),
        "parameters": parameters(load_model(place)),
        "loss": history["loss"].iloc[-1],
        "accuracy": history["accuracy"].iloc[-1],
        "training_seconds": history["seconds"].sum(),
        **_accuracies(predictions),
    }


def published(folder: Path, seed: int) -> dict[str, Any]:
    """Train the published network by the published recipe, and the default one by its own."""
    found: dict[str, Any] = {}
    for name in ("published", "default"):
        config, recipe = CONFIGS[name], replace(RECIPES[name], seed=seed)
        place = folder / f"screen-{multiple_of(config)}"
        table, store = prepared("simulated", place, seed, config)
        features = features_of(table, store, labelled(table), config, recipe, place / "model")
        found[name] = {"recipe": asdict(recipe)} | {
            normalisation: _accuracies(evaluate(profile(features, normalisation)[1], name, seed))
            for normalisation in ("none", "whiten")
        }
    return found


def illumination(folder: Path, seed: int) -> dict[str, Any]:
    """Train and judge with and without the plate's own light divided out, all else being equal."""
    found: dict[str, Any] = {}
    for way, model in (("none", f"model-{seed}"), ("plate", f"model-{seed}-plate")):
        table, store = prepared("simulated", folder, seed, illumination=way)
        recipe = replace(RECIPES["default"], seed=seed)
        features = features_of(
            table, store, labelled(table), CONFIGS["default"], recipe, folder / model
        )
        found[way] = _accuracies(evaluate(profile(features)[1], "trained", seed))
    return {"recipe": asdict(recipe), **found}


def held_out_compounds(folder: Path, seed: int) -> dict[str, Any]:
    """Judge treatments by networks that never saw their compound.

    The compounds of each mechanism are dealt to `FOLDS` folds. A network trains without a fold's
    compounds, principal components included; only that fold's treatments are then asked.
    """
    table, store = prepared("simulated", folder / "screen-32", seed)
    annotated = training_fields(table)
    compounds = (
        table.loc[annotated, ["Metadata_MoA", "Metadata_Compound"]]
        .drop_duplicates()
        .sort_values(["Metadata_MoA", "Metadata_Compound"])
    )
    fold_of = dict(
        zip(compounds["Metadata_Compound"], np.arange(len(compounds)) % FOLDS, strict=True)
    )
    parts = []
    for fold in range(FOLDS):
        asked = annotated & (table["Metadata_Compound"].map(fold_of) == fold).to_numpy()
        features = features_of(
            table,
            store,
            labelled(table, asked),
            CONFIGS["default"],
            replace(RECIPES["default"], seed=seed),
            folder / f"fold-{fold}-of-seed-{seed}",
        )
        predictions = evaluate(profile(features)[1], "held out", seed)
        parts.append(predictions[predictions["compound"].map(fold_of) == fold])
    recipe = asdict(replace(RECIPES["default"], seed=seed))
    return {"folds": FOLDS, "recipe": recipe, **_accuracies(pd.concat(parts))}


def unseen_weeks(folder: Path, seed: int) -> dict[str, Any]:
    """Place whole weeks that a network never saw, and judge the treatments on them alone.

    The weeks are dealt to `FOLDS` folds. A network trains without a fold's weeks, principal
    components included; then the weeks are placed. ``old`` says what that does to the answers about
    the treatments of the other weeks, over all folds together.
    """
    table, store = prepared("simulated", folder, seed)
    annotated, names = training_fields(table), table["Metadata_Treatment"]
    weeks = sorted(set(table["Metadata_Batch"]))
    folds = min(FOLDS, len(weeks))
    fold_of = dict(zip(weeks, np.arange(len(weeks)) % folds, strict=True))
    parts, moves = [], []
    for fold in range(folds):
        new = (table["Metadata_Batch"].map(fold_of) == fold).to_numpy()
        features = features_of(
            table,
            store,
            labelled(table, new),
            CONFIGS["default"],
            replace(RECIPES["default"], seed=seed),
            folder / f"weeks-{fold}-of-seed-{seed}",
        )
        treatments = profile(features)[1]
        unseen = set(names[annotated & new]) - set(names[annotated & ~new])
        asked = table.loc[names.isin(unseen), ["Metadata_Compound", "Metadata_Concentration"]]
        predictions = evaluate(treatments, "unseen weeks", seed)
        pairs = pd.MultiIndex.from_frame(predictions[["compound", "concentration"]])
        parts.append(predictions[pairs.isin(pd.MultiIndex.from_frame(asked))])
        moves.append(moved(profile(features[~new])[1], treatments))
    recipe = asdict(replace(RECIPES["default"], seed=seed))
    found = {"folds": folds, "recipe": recipe, **_accuracies(pd.concat(parts))}
    return found | {"old": movement(pd.concat(moves))}


def planted_place(folder: Path, seed: int) -> dict[str, Any]:
    """Judge a network without and with a planted effect of row, and the correction by place.

    It is trained on the screen without the effect, and describes both.
    """
    config, recipe = CONFIGS["default"], replace(RECIPES["default"], seed=seed)
    table, store = prepared("simulated", folder, seed)
    place, dry = folder / f"model-{seed}", folder / PLACE
    frames = {False: features_of(table, store, labelled(table), config, recipe, place)}
    if not (dry / "screen.json").exists():
        simulate_screen(dry / "screen", seed, replace(LAYOUTS["default"], place=PLACE))
        save_screen(read_bbbc021(dry / "screen", simulated=True), dry)
    table, store = prepared("simulated", dry, seed)
    found = embed_screen(load_model(place), store, dry / "activations")
    frames[True] = feature_frame(table, found, labelled(table) >= 0)
    rows = []
    for planted, frame in frames.items():
        for features, wells, _ in method_profiles({"trained": frame}, ("none", "whiten")):
            for corrected, part in ((False, wells), (True, correct_position(wells))):
                row = {"planted": planted, "features": features, "corrected": corrected}
                rows.append(row | _placed(part, seed))
    return {"recipe": asdict(recipe), "place": PLACE, "places": rows}


def _placed(wells: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Return NSC and NSCB (%) of well profiles, and what of their controls goes with `PLACE`."""
    effect = position_effects(wells).loc[("negative controls", PLACE)]
    found = _accuracies(evaluate(treatment_profiles(wells), "trained", seed))
    right = {kind.upper(): 100 * one["overall"] for kind, one in found.items()}
    return right | {
        "share": float(effect["share"]),
        "chance": float(effect["by chance"]),
        "p": float(effect["p_value"]),
    }


def _accuracies(predictions: pd.DataFrame) -> dict[str, Any]:
    return {protocol.lower(): scores(part) for protocol, part in predictions.groupby("protocol")}


#: Networks and recipes that are compared on the seed that choices were tuned on.
VARIANTS = (
    ("default", "default"),
    ("default-no-norm", "default"),
    ("default-three-scales", "default"),
    ("published-gap", "default"),
    ("published", "published"),
)

#: What makes each well a class of its own.
WELLS = ("Metadata_Plate", "Metadata_Well")


Study = Callable[[int], dict[str, Any]]  # what it finds on a seed


def _own_studies(work: Path) -> dict[str, tuple[list[int], Study]]:
    """Return the studies of the book itself."""

    def one_variant(network: str, recipe: str) -> Study:
        return lambda _: variant(work / "tuned", network, recipe)

    def on_screen(function: Callable[[Path, int], dict[str, Any]]) -> Study:
        return lambda seed: function(work / f"seed-{seed}", seed)

    def compared(folder: Path, seed: int) -> dict[str, Any]:
        return full_comparison("simulated", folder, seed, RECIPES["default"])

    with_tuned = (TUNED_SEED, *FRESH_SEEDS)
    per_seed: dict[str, tuple[tuple[int, ...], Study]] = {
        "simulated": (COMPARED_SEEDS, on_screen(compared)),
        "whole": (FRESH_SEEDS, on_screen(whole_screen)),
        "kimorph": (FRESH_SEEDS, lambda seed: kimorph(work / f"kimorph-{seed}", seed)),
        "kimorph96": (FRESH_SEEDS, lambda seed: kimorph(work / f"kimorph-{seed}", seed, WELLS)),
        "published": (CHOICE_SEEDS, lambda seed: published(work / f"published-{seed}", seed)),
        "choosing": (CHOICE_SEEDS, on_screen(choosing)),
        "unseen-weeks": (FRESH_SEEDS, on_screen(unseen_weeks)),
        "illumination": (with_tuned, on_screen(illumination)),
        "place": (with_tuned, on_screen(planted_place)),
    }
    named = {
        f"{name}-{seed}": ([seed], study)
        for name, (seeds, study) in per_seed.items()
        for seed in seeds
    }
    for network, recipe in VARIANTS:
        named[f"variant-{network}-{recipe}"] = [TUNED_SEED], one_variant(network, recipe)
    named["held-out"] = ([TUNED_SEED], lambda seed: held_out_compounds(work / "tuned", seed))
    return named


def studies(work: Path, screen: str) -> dict[str, tuple[list[int], Study]]:
    """Return the seeds and the function of each study, by the name of its file.

    Raises
    ------
    InputError
        If `screen` has the name of one of the book's own records.
    """
    if not screen:
        return _own_studies(work)
    name = Path(screen).stem
    if name in OTHER_RECORDS | _own_studies(work).keys():
        raise InputError(
            f"{screen}: the book has a record {name}.json of its own; give the table another name"
        )
    seeds = list(FRESH_SEEDS)
    return {name: (seeds, lambda seed: full_comparison(screen, work / name, seed, CELLS))}


def discover(wells: pd.DataFrame, treatments: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return every table by name: ``similarity, curves, potency, clusters, novel, suspects``."""
    like, (clusters, _) = similarities(wells), cluster_table(treatments)
    return {
        "similarity": similarity_table(wells, like),
        "curves": curves(wells, like),
        "potency": potencies(wells),
        "clusters": clusters,
        "novel": novelty(wells, treatments, clusters),
        "suspects": suspects(treatments),
    }
