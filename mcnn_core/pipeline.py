"""Steps that the notebooks and `make study` share.

They are opening any screen, choosing fields, comparing methods.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core import kimorph, simulate
from mcnn_core.baselines import INTENSITY, handcrafted
from mcnn_core.compare import FLOORS, comparison, evaluate, profile, protocols
from mcnn_core.distances import cosine_distances
from mcnn_core.errors import InputError
from mcnn_core.features import embed, feature_frame
from mcnn_core.imagehts import EMPTY, KIMORPH_FIELD, read_imagehts, read_wells
from mcnn_core.images import read_field
from mcnn_core.model import NetworkConfig
from mcnn_core.profiles import NORMALISATIONS, feature_matrix, row_names
from mcnn_core.screen import (
    BBBC021_CHANNELS,
    Screen,
    fetched,
    field_names,
    in_words,
    read_bbbc021,
    read_loaddata,
)
from mcnn_core.statistics import field_statistics
from mcnn_core.train import Recipe, load_model, make_way, train, untrained_model

SUFFIXES = {"none": "", "centre": "_centred", "whiten": "_whitened"}
NOT_AVAILABLE = "not available"
#: What a contact sheet of `examples` shows one field of, by the column that decides.
EXAMPLES = {
    "Metadata_MoA": "mechanism at its highest annotated dose",
    "Metadata_Treatment": "treatment",
    "Metadata_Well": "well",
}
#: What colours the fields of a scatter, the first that a screen names, and what a caption says of
#: it.
COLOUR_COLUMNS = {
    "Metadata_MoA": "the mechanism, which the network was never told",
    "Metadata_Treatment": "the treatment",
    "Metadata_Plate": "the plate",
}
ANSWERED = {
    ("NSC", "NSCB"): "both can be asked of this screen",
    ("NSC",): (
        "NSCB cannot be asked of this screen: it names no batches, or no treatment has a compound "
        "of its mechanism in another batch"
    ),
    (): "neither can be asked of this screen: it names no mechanism that two compounds share",
}


def open_screen(
    name: str,
    data: str | os.PathLike,
    out: Path,
    seed: int = 0,
    layout: str = "default",
    height: int = 128,
    width: int = 160,
    taxol: str = "ljosa",
    workers: int = 2,
) -> Screen:
    """Return the table of a screen; a simulated one is first written to ``out/screen``.

    Parameters
    ----------
    name : str
        ``"simulated"``, ``"bbbc021"``, ``"kimorph"``, or the path of a CellProfiler LoadData CSV.
    data : path
        Folder of the real screen, for ``"bbbc021"`` and ``"kimorph"``; plates that are not there
        are named and left out. Without it ``"kimorph"`` is simulated too.
    out : Path
        Output folder.
    seed, layout, height, width, workers
        Of the simulated screen (`mcnn_core.simulate.simulate_screen`,
        `mcnn_core.kimorph.simulate_kimorph`).
    taxol : {"ljosa", "all"}
        Which taxol wells count as annotated (`mcnn_core.screen.read_bbbc021`).

    Raises
    ------
    InputError
        If there is no such screen or layout, the screen's own tables are wrong, or none of its
        plates has been fetched.
    """
    if name == "simulated" or (name == "kimorph" and not str(data)):
        module, write = (
            (simulate, simulate.simulate_screen)
            if name == "simulated"
            else (kimorph, kimorph.simulate_kimorph)
        )
        if layout not in module.LAYOUTS:
            raise InputError(
                f"layout must be one of {', '.join(module.LAYOUTS)}", [f"layout {layout!r}"]
            )
        folder = Path(out) / "screen"
        write(folder, seed, module.LAYOUTS[layout], height, width, workers=workers)
        screen = (
            read_bbbc021(folder, taxol, simulated=True)
            if name == "simulated"
            else read_imagehts(folder, simulated=True)
        )
        return dataclasses.replace(
            screen,
            name=f"the simulated {'screen' if name == 'simulated' else 'KiMorph'} (seed {seed})",
        )
    if name in ("bbbc021", "kimorph"):
        screen, absent = fetched(
            read_bbbc021(data, taxol) if name == "bbbc021" else _real_kimorph(Path(data))
        )
        if absent:
            print(
                f"{len(absent)} plates of {screen.name} are not in {screen.root} and are left out: "
                f"{', '.join(absent)}"
            )
        return screen
    if name.lower().endswith(".csv"):
        return read_loaddata(name)
    raise InputError(
        "a screen is simulated, bbbc021, kimorph, or the path of a LoadData .csv",
        [f"screen {name!r}"],
    )


def _real_kimorph(data: Path) -> Screen:
    """Read KiMorph from `data` and say how many wells are left out."""
    wells = read_wells(data)
    empty = wells["content"] == EMPTY
    print(
        f"{len(wells)} wells: {empty.sum()} are empty and {(wells['failed'] & ~empty).sum()} "
        "failed; they are left out"
    )
    return read_imagehts(data, KIMORPH_FIELD)


def pixel_size(screen: Screen, height: int, bin: int = 1) -> float | None:
    """Return um per pixel where it is known, for fields of `height` raw pixels.

    It is known of simulated screens and of BBBC021.
    """
    if screen.simulated:
        return simulate.pixel_size(height) * bin
    return simulate.MICROSCOPE_PIXEL * bin if screen.name == "BBBC021" else None


def field_scale(screen: Screen, store: Any) -> float | None:
    """Return um per pixel of the fields in a store, None where it is unknown."""
    bin = store.manifest["bin"]
    return pixel_size(screen, store.manifest["field"][0] * bin, bin)


def training_fields(table: pd.DataFrame, controls: bool = False) -> np.ndarray:
    """Return the mask of the fields that the network trains on.

    As in the paper those of annotated treatments (*Results*: "exclusively with the pixel data
    of annotated images"); where nothing is annotated, all treatments. Negative controls are added
    for the analysis of the whole screen (`controls`), positive ones never.
    Whether a field has an annotation is used, what it says is not.
    """
    treatment = (table["Metadata_control_type"] == "trt").to_numpy()
    annotated = treatment & (table["Metadata_MoA"] != "").to_numpy()
    chosen = annotated if annotated.any() else treatment
    return chosen | (table["Metadata_control_type"] == "negcon").to_numpy() if controls else chosen


def with_controls(recipe: Recipe, table: pd.DataFrame) -> Recipe:
    """Return a recipe for training with the negative controls as one more class.

    An epoch draws as many fields as there are training fields, so the many controls lengthen it;
    the epochs are cut in proportion, and every class is seen about as often as without controls.
    """
    share = training_fields(table).sum() / training_fields(table, controls=True).sum()
    return dataclasses.replace(recipe, epochs=max(1, round(recipe.epochs * share)))


def examples(table: pd.DataFrame, most: int = 13) -> pd.DataFrame:
    """Return one field per mechanism at its highest annotated dose, and one negative control.

    Without mechanisms it is one per treatment, else per well.
    """
    column, tested = _example_column(table), table[table["Metadata_control_type"] == "trt"]
    chosen = (
        tested[tested[column] != ""]
        .sort_values([column, "Metadata_Concentration"], kind="stable")
        .drop_duplicates(column, keep="last")
    )
    control = table[table["Metadata_control_type"] == "negcon"].head(1)
    return pd.concat([chosen.head(most - len(control)), control])


def example_rows(table: pd.DataFrame, most: int = 20, each: int = 4) -> list[int]:
    """Return rows for a small example of a screen.

    These are up to `each` fields of the negative control, then of one treatment (else well) after
    another. Annotated treatments come first; of each at least two fields are taken, as a surrogate
    class needs.
    """
    group = table["Metadata_Treatment"].mask(
        table["Metadata_Treatment"] == "", table["Metadata_Plate"] + " " + table["Metadata_Well"]
    )
    first = (table["Metadata_control_type"] != "negcon").astype(int) * 2 - (
        table["Metadata_MoA"] != ""
    )
    kept = group[table["Metadata_control_type"] != "poscon"]
    rows: list[int] = []
    for _, name in sorted(set(zip(first[kept.index], kept, strict=True))):
        part = kept.index[kept == name][:each].tolist()
        rows += part if len(part) > 1 and len(rows) + 2 <= most else []
    rows = rows[:most]
    alone = group.iloc[rows].value_counts()
    return [row for row in rows if alone[group.iloc[row]] > 1]


def _example_column(table: pd.DataFrame) -> str:
    tested = table[table["Metadata_control_type"] == "trt"]
    return next(name for name in EXAMPLES if (tested[name] != "").any() or name == "Metadata_Well")


def example_kind(table: pd.DataFrame) -> str:
    """Say of what `examples` holds one field each: "treatment, and one of the negative control"."""
    control = (table["Metadata_control_type"] == "negcon").any()
    return EXAMPLES[_example_column(table)] + (
        ", and one of the negative control" if control else ""
    )


def colour_column(table: pd.DataFrame) -> str:
    """Return the column of `COLOUR_COLUMNS` that tells the treatments of a screen apart best."""
    tested = table[table["Metadata_control_type"] == "trt"]
    return next(name for name in COLOUR_COLUMNS if (tested[name] != "").any())


def beside_paper(screen: Screen) -> str:
    """Say in a sentence how the numbers of a screen stand to the paper's."""
    if screen.simulated:
        return f"This build is of {screen.name}."
    kind = (
        "one of the paper's own screens"
        if screen.name in ("BBBC021", "KiMorph")
        else "another screen, so its numbers compare with nothing in the paper"
    )
    return f"This build is of {screen.name}, {kind}."


def known_treatments(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per named treatment of a screen.

    The rows are as `mcnn_core.profiles.treatment_profiles` describes them, without features.
    """
    tested = table[(table["Metadata_control_type"] == "trt") & (table["Metadata_Treatment"] != "")]
    groups = tested.groupby("Metadata_Treatment")
    return (
        groups.first()
        .assign(
            Metadata_Batch=groups["Metadata_Batch"].agg(lambda batch: ";".join(sorted(set(batch))))
        )
        .reset_index()
    )


def facts(table: pd.DataFrame) -> dict[str, bool]:
    """Say what a screen names.

    Pages show or leave out their parts by these (tags such as ``if:screen.has_doses``).

    Returns
    -------
    dict
        ``has_compounds``; ``has_doses``: of compounds, above 0; ``has_mechanisms``;
        ``has_batches``: two or more; ``has_any_controls``: negative ones; ``has_controls``: on
        every plate, two fields or more, as centring and whitening need.
    """
    tested, negative = (table[table["Metadata_control_type"] == kind] for kind in ("trt", "negcon"))
    named = tested["Metadata_Compound"] != ""
    return {
        "has_compounds": bool(named.any()),
        "has_doses": bool((named & (tested["Metadata_Concentration"] > 0)).any()),
        "has_mechanisms": bool((tested["Metadata_MoA"] != "").any()),
        "has_batches": table["Metadata_Batch"].replace("", pd.NA).nunique() > 1,
        "has_any_controls": len(negative) > 0,
        "has_controls": set(possible_normalisations(table)) == set(NORMALISATIONS),
    }


def answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return what can be asked of a screen.

    The columns are ``question``, ``chapter``, ``answer`` ("yes" or "no") and ``why`` not, with the
    columns that would help.
    """
    has, treatments = facts(table), known_treatments(table)
    asked = protocols(treatments)
    doses = (
        treatments[treatments["Metadata_Concentration"] > 0]
        .groupby("Metadata_Compound")["Metadata_Concentration"]
        .nunique()
    )
    no_controls = (
        "not every plate has a negative control (Metadata_control_type negcon, or the compound "
        "DMSO)"
    )
    shared = "no mechanism has two compounds (Metadata_MoA, Metadata_Compound)"
    rows = [
        ("Which treatments or wells look alike?", "7, 11", "" if len(table) else "no field"),
        (
            "Is the nearest neighbour's mechanism the right one (NSC)?",
            "8",
            "" if "NSC" in asked else shared,
        ),
        (
            "The same, neighbours of the same batch forbidden (NSCB)?",
            "8",
            ""
            if "NSCB" in asked
            else "no treatment has a compound of its mechanism in another batch (Metadata_MoA, "
            "Metadata_Batch)",
        ),
        (
            "What does each well resemble?",
            "9",
            ""
            if has["has_mechanisms"] or has["has_any_controls"]
            else "there is nothing known to compare with (Metadata_MoA, Metadata_control_type)",
        ),
        (
            "At which concentration does a compound act?",
            "10",
            no_controls
            if not has["has_controls"]
            else ""
            if (doses >= 3).any()
            else "no compound has three concentrations (Metadata_Compound, Metadata_Concentration)",
        ),
        (
            "Which phenotypes has nobody annotated?",
            "12",
            no_controls
            if not has["has_controls"]
            else ""
            if (treatments["Metadata_MoA"] == "").any()
            else "every treatment is annotated",
        ),
        (
            "Which annotations do the images contradict?",
            "12",
            shared
            if "NSC" not in asked
            else ""
            if treatments["Metadata_MoA"].replace("", pd.NA).nunique() > 1
            else "there is one mechanism alone",
        ),
    ]
    return pd.DataFrame(
        [(question, chapter, "no" if why else "yes", why) for question, chapter, why in rows],
        columns=["question", "chapter", "answer", "why"],
    )


def stretched(screen: Screen, row: int) -> np.ndarray:
    """Return a raw field as (H, W, C) uint8, for looking at.

    Each channel is scaled between its own 0.5 and 99.8 percentiles.
    """
    field = read_field(screen, row).astype(np.float32)
    low, high = np.percentile(field, (0.5, 99.8), axis=(0, 1))
    return (np.clip((field - low) / np.maximum(high - low, 1), 0, 1) * 255).astype(np.uint8)


def control_statistics(screen: Screen, height: int, most: int = 60) -> dict[str, Any] | None:
    """Return `mcnn_core.statistics.field_statistics` of raw negative controls.

    They are `height` pixels high. None where the real cells of BBBC021 are no yardstick: for any
    other screen, real or simulated.
    """
    if screen.channels != tuple(BBBC021_CHANNELS):
        return None
    pixel, controls = (
        pixel_size(screen, height),
        np.flatnonzero(screen.table["Metadata_control_type"] == "negcon")[:most],
    )
    return (
        field_statistics(np.stack([read_field(screen, row) for row in controls]), pixel)
        if pixel and len(controls)
        else None
    )


def nesting(table: pd.DataFrame) -> dict[str, int | str]:
    """Count the compounds of one batch and of several.

    Both are "not available" where a screen names no batches or compounds.
    """
    known = table[(table["Metadata_Batch"] != "") & (table["Metadata_Compound"] != "")]
    batches = known.groupby("Metadata_Compound")["Metadata_Batch"].nunique()
    counts: dict[str, int | str] = {
        "compounds_in_one_batch": int((batches == 1).sum()),
        "compounds_in_more": int((batches > 1).sum()),
    }
    return counts if len(known) else dict.fromkeys(counts, NOT_AVAILABLE)


def replicate_distances(wells: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the cosine distances between pairs of wells, of one treatment and of two.

    Their keys are "same treatment" and "different treatments". A well without a treatment is like
    no other. Either may be empty.
    """
    pairs = np.triu_indices(len(wells), k=1)
    names, distances = (
        wells["Metadata_Treatment"].to_numpy(),
        cosine_distances(feature_matrix(wells))[pairs],
    )
    same = (names[pairs[0]] == names[pairs[1]]) & (names[pairs[0]] != "")
    return {"same treatment": distances[same], "different treatments": distances[~same]}


def training_rows(
    table: pd.DataFrame, labels: np.ndarray, profile: pd.Series, most: int
) -> list[int]:
    """Return the first rows of the table that belong to one treatment profile.

    Only rows that were trained on count.
    """
    here = (np.asarray(labels) >= 0) & (
        table["Metadata_Treatment"] == profile["Metadata_Treatment"]
    )
    for place in ("Metadata_Plate", "Metadata_Well"):  # empty where wells were pooled
        here &= (table[place] == profile[place]) | (profile[place] == "")
    return np.flatnonzero(here)[:most].tolist()


def samples(
    table: pd.DataFrame, labels: np.ndarray, treatments: pd.DataFrame
) -> tuple[list[int], list[str]]:
    """Return one training field, and its title, of each compound in some profiles.

    It is at the dose that comes last.
    """
    compound = treatments["Metadata_Compound"]
    chosen = treatments[~compound.duplicated(keep="last") | (compound == "")]
    dosed = chosen["Metadata_Concentration"].notna()
    titles = [
        f"{in_words(name) if dose else name}\n{moa}".strip()
        for name, dose, moa in zip(row_names(chosen), dosed, chosen["Metadata_MoA"], strict=True)
    ]
    return [training_rows(table, labels, profile, 1)[0] for _, profile in chosen.iterrows()], titles


def possible_normalisations(table: pd.DataFrame) -> list[str]:
    """Return the names in `NORMALISATIONS` that the controls of a screen allow.

    Centring needs some on every plate.
    """
    controls = table[table["Metadata_control_type"] == "negcon"]
    lacking = (
        {"centre"} if set(table["Metadata_Plate"]) - set(controls["Metadata_Plate"]) else set()
    )
    lacking |= set(NORMALISATIONS) - {"none"} if len(controls) < 2 else set()
    return [name for name in NORMALISATIONS if name not in lacking]


def compare_methods(
    table: pd.DataFrame,
    labels: np.ndarray,
    store: Any,
    features: pd.DataFrame,
    network: NetworkConfig,
    recipe: Recipe,
    folder: Path,
    supervised: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Predict every annotated mechanism with the trained network and with all it is compared to.

    Parameters
    ----------
    table : DataFrame
        The screen's fields, row i of the store.
    labels : (n,) int array
        Surrogate class of each field, -1 where not trained on.
    store : Store
        Pre-processed fields.
    features : DataFrame
        `mcnn_core.features.feature_frame` of the trained network, all fields.
    network, recipe
        Of the untrained and of the supervised network.
    folder : Path
        Where the supervised network is trained.
    supervised : bool
        Also train a network on the mechanisms themselves. It has seen the answers of the very
        treatments it is asked about, so its figure is optimistic.

    Returns
    -------
    DataFrame
        As ``predictions.csv``; empty where the screen has no mechanism to predict. ``method`` is
        the name of the features, then ``_centred`` or ``_whitened``.
    """
    training = np.asarray(labels) >= 0
    used = training | (table["Metadata_control_type"] == "negcon").to_numpy()
    rows = np.flatnonzero(used)
    part = table.iloc[rows].reset_index(drop=True)

    def joined(values: pd.DataFrame) -> pd.DataFrame:
        metadata = part[[name for name in part if name.startswith("Metadata_")]]
        return pd.concat(
            [metadata.assign(Metadata_Training=training[rows]), values.reset_index(drop=True)],
            axis=1,
        )

    def embedded(model: Any) -> pd.DataFrame:
        return feature_frame(part, embed(model, store, rows, progress=progress), training[rows])

    frames = {"trained": features.iloc[rows].reset_index(drop=True)}
    if not protocols(profile(frames["trained"])[1]):
        return pd.DataFrame(columns=["method", "protocol", "seed", "MoA", "predicted"])
    frames["untrained"] = embedded(untrained_model(store, labels, network, recipe.seed))
    crafted = handcrafted(store, rows, progress)
    frames["intensity"] = joined(crafted.iloc[:, : len(INTENSITY) * len(store.channels)])
    frames["handcrafted"] = joined(crafted)
    mechanism = pd.Categorical(table["Metadata_MoA"].where(training)).codes.astype(np.int64)
    if supervised and mechanism.max() > 0:  # one mechanism alone teaches nothing
        make_way(store, mechanism, network, recipe, folder)
        train(store, mechanism, network, recipe, folder, field_names(table), progress)
        frames["supervised"] = embedded(load_model(folder))
    return pd.concat(
        [
            evaluate(
                profile(frame, normalisation, units_differ=name in ("intensity", "handcrafted"))[1],
                name + SUFFIXES[normalisation],
                recipe.seed,
            )
            for name, frame in frames.items()
            for normalisation in possible_normalisations(part)
        ],
        ignore_index=True,
    )


def overview(
    store: Any, table: pd.DataFrame, labels: np.ndarray, treatments: pd.DataFrame
) -> tuple[dict[str, list[np.ndarray]], np.ndarray, np.ndarray, list[str]]:
    """Return what `mcnn_core.figures.method_overview` draws.

    That is three classes of two fields, and up to 16 treatments.
    """
    spread = treatments.iloc[np.unique(np.linspace(0, len(treatments) - 1, 16).astype(int))]
    names, profiles = row_names(spread), feature_matrix(spread)
    groups = {
        names[i]: [store.pixels[row] for row in training_rows(table, labels, spread.iloc[i], 2)]
        for i in (0, len(spread) // 2, -1)
    }
    return groups, profiles, cosine_distances(profiles), names


def mechanism_results(
    predictions: pd.DataFrame, treatments: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, float | str]]:
    """Return the comparison table and its numbers by key.

    A key is ``nsc.overall.trained`` with and without ``.seed<k>``. Keys that the pages show and the
    screen cannot answer are there with the text "not available"; ``answered`` says in words which
    protocols could be asked.
    """
    shown = [
        "trained",
        "untrained",
        "handcrafted",
        "handcrafted_centred",
        "handcrafted_whitened",
        "intensity",
        "supervised",
        "chance",
        "label_frequency",
        "batch_only",
    ]
    found: dict[str, float | str] = {
        f"{protocol}.{kind}.{method}": NOT_AVAILABLE
        for protocol in ("nsc", "nscb")
        for kind in ("overall", "class_median", "n")
        for method in shown
    }
    asked = tuple(predictions["protocol"].unique())
    found |= {"answered": ANSWERED[asked], "asked": "NSC" in asked, "asked_nscb": "NSCB" in asked}
    table, floors = (
        comparison(predictions, treatments),
        {label: name for name, label in FLOORS.items()},
    )
    for method in ("supervised", "handcrafted_whitened", FLOORS["batch_only"]):
        found[f"has_{floors.get(method, method)}"] = method in set(table["method"])
    for row in table.itertuples():
        for kind in ("overall", "class_median", "n"):
            key, value = (
                f"{row.protocol.lower()}.{kind}.{floors.get(row.method, row.method)}",
                getattr(row, kind),
            )
            found[key] = value
            if pd.notna(row.seed):
                found[f"{key}.seed{row.seed}"] = value
    found["one"] = 1 / float(found["nsc.n.trained"]) if asked else NOT_AVAILABLE
    return table, found
