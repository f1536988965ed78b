"""Which fields, treatments and wells the pages show."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from mcnn_book.figures import composite
from mcnn_book.pictures import clear_rows
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.machine.files import atomic
from mcnn_core.profiles import feature_matrix
from mcnn_core.readers.images import pictures, read_image
from mcnn_core.screen import Screen, in_words, row_names


def far_clusters(
    clusters: pd.DataFrame, names: Sequence[str], nearest: bool = False, most: int = 4
) -> list[str]:
    """Return one library siRNA each of the `most` clusters farthest from every control.

    With `nearest`, return one each of the clusters that hold the controls `names`.
    """
    library = clusters[~clusters["content"].isin(list(names))]
    if nearest:
        homes = [clusters.loc[clusters["content"] == name, "cluster"].iloc[0] for name in names]
        return (
            library[library["cluster"].isin(homes)]
            .drop_duplicates("cluster")["treatment"]
            .head(most)
            .tolist()
        )
    return (
        library[library["holds"] == ""]
        .sort_values("far", ascending=False, kind="stable")
        .drop_duplicates("cluster")["treatment"]
        .head(most)
        .tolist()
    )


def _controls(table: pd.DataFrame, rows: Sequence[int]) -> list[int]:
    """Return the rows of the negative control on the plates of some rows."""
    plates = table["Metadata_Plate"].iloc[list(rows)]
    here = table["Metadata_Plate"].isin(plates) & (table["Metadata_control_type"] == "negcon")
    return np.flatnonzero(here).tolist()


def replicate_sheet(
    table: pd.DataFrame, treatments: Sequence[str], most: int = 4
) -> tuple[list[list[int]], list[str]]:
    """Return groups of rows, and their titles, for `mcnn_book.pictures.of`.

    They are the first two replicates of up to `most` siRNAs, one after the other.
    """
    groups, titles = [], []
    for name in list(treatments)[:most]:
        for replicate in sorted(table["Metadata_Replicate"].unique())[:2]:
            here = np.flatnonzero(
                (table["Metadata_Treatment"] == name) & (table["Metadata_Replicate"] == replicate)
            )
            groups += [here.tolist()] * (len(here) > 0)
            titles += [f"{name}, replicate {replicate}"] * (len(here) > 0)
    return groups, titles


THUMBNAIL = 64  #: rows of a thumbnail, pixels


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
    table: pd.DataFrame, novel: pd.DataFrame, most: int = 3
) -> tuple[list[list[int]], list[str]]:
    """Return groups of rows, and their titles, for `mcnn_book.pictures.of`.

    Of each of the first novel clusters they are the treatment of the highest score (Fig. 4b), and
    beside it the negative control of its plates.
    """
    groups, titles = [], []
    for one in novel[novel["novel"]].drop_duplicates("cluster").head(most).itertuples():
        rows = fields_of(table, one.treatment, most=len(table))
        groups += [rows, _controls(table, rows)]
        titles += [f"{in_words(one.treatment)}\ncluster {one.cluster}", "control,\nsame plates"]
    return groups, titles


def suspect_sheet(
    table: pd.DataFrame, suspects: pd.DataFrame, columns: int = 4
) -> tuple[list[list[int]], list[str]]:
    """Return groups of rows, and their titles, for `mcnn_book.pictures.of`.

    Of the first suspect: a line of up to `columns` doses of its compound (Supplementary Fig. 2),
    the suspected one among them; then another compound of its mechanism, two of the nearest other
    mechanism as far as there are, and the negative control of the suspect's plates. Empty without
    suspects.
    """
    if suspects.empty:
        return [], []
    suspect, tested = suspects.iloc[0], table[table["Metadata_control_type"] == "trt"]
    own = tested["Metadata_Compound"] == suspect["compound"]
    doses = tested[own].drop_duplicates("Metadata_Treatment").sort_values("Metadata_Concentration")
    names = doses["Metadata_Treatment"].tolist()
    spread = {names[i] for i in np.linspace(0, len(names) - 1, columns - 1).astype(int)}
    names = [name for name in names if name in spread | {suspect["treatment"]}]
    titles = [
        in_words(name) + "\n" + "suspected" * (name == suspect["treatment"]) for name in names
    ]
    for mechanism, most in ((suspect["MoA"], 1), (suspect["nearest_other"], 2)):
        others = tested[(tested["Metadata_MoA"] == mechanism) & ~own]
        others = others.sort_values("Metadata_Concentration", kind="stable")
        others = others.drop_duplicates("Metadata_Compound", keep="last").head(most)
        names += others["Metadata_Treatment"].tolist()
        titles += [f"{in_words(name)}\n{mechanism}" for name in others["Metadata_Treatment"]]
    groups = [fields_of(table, name, most=len(table)) for name in names]
    if controls := _controls(table, fields_of(table, suspect["treatment"], most=len(table))):
        groups, titles = [*groups, controls], [*titles, "control,\nsame plates"]
    return groups, titles


#: What a contact sheet of `examples` shows one field of, by the column that decides.
EXAMPLES = {
    "Metadata_MoA": "mechanism at its highest annotated dose",
    "Metadata_Treatment": "treatment",
    "Metadata_Well": "well",
}


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


def example_groups(
    table: pd.DataFrame, most: int = 13, each: int = 12
) -> tuple[list[list[int]], list[str]]:
    """Return groups of rows, and their titles, for `mcnn_book.pictures.of`.

    They are up to `each` fields of every treatment, else well, in `examples`.
    """
    shown = examples(table, most)
    titles = shown[["Metadata_MoA", "Metadata_Treatment", "Metadata_Well"]].replace("", None)
    groups = []
    for _, one in shown.iterrows():
        same = table["Metadata_Treatment"] == one["Metadata_Treatment"]
        if not one["Metadata_Treatment"]:
            same &= (
                table[["Metadata_Plate", "Metadata_Well"]]
                == one[["Metadata_Plate", "Metadata_Well"]]
            ).all(axis=1)
        groups.append(np.flatnonzero(same)[:each].tolist())
    return groups, titles.bfill(axis="columns").iloc[:, 0].tolist()


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
) -> tuple[list[list[int]], list[str]]:
    """Return groups of rows, and their titles, for `mcnn_book.pictures.of`.

    Of some profiles they are the training fields of each compound at the dose that comes last, then
    the negative control of their plates, if it is on them.
    """
    compound = treatments["Metadata_Compound"]
    chosen = treatments[~compound.duplicated(keep="last") | (compound == "")]
    dosed = chosen["Metadata_Concentration"].notna()
    titles = [
        f"{in_words(name) if dose else name}\n{moa}".strip()
        for name, dose, moa in zip(row_names(chosen), dosed, chosen["Metadata_MoA"], strict=True)
    ]
    groups = [training_rows(table, labels, profile, len(table)) for _, profile in chosen.iterrows()]
    if controls := _controls(table, [row for rows in groups for row in rows]):
        groups, titles = [*groups, controls], [*titles, "control,\nsame plates"]
    return groups, titles


def overview(
    store: Any, table: pd.DataFrame, labels: np.ndarray, treatments: pd.DataFrame
) -> tuple[dict[str, list[np.ndarray]], np.ndarray, np.ndarray, list[str]]:
    """Return what `mcnn_book.figures.method_overview` draws.

    That is three classes of two sharp fields, and up to 16 treatments.
    """
    spread = treatments.iloc[np.unique(np.linspace(0, len(treatments) - 1, 16).astype(int))]
    names, profiles = row_names(spread), feature_matrix(spread)
    groups = {}
    for i in (0, len(spread) // 2, -1):
        rows = training_rows(table, labels, spread.iloc[i], len(table))
        groups[names[i]] = [store.pixels[row] for row in clear_rows(store.pixels, rows)[:2]]
    return groups, profiles, cosine_distances(profiles), names


def copy_fields(screen: Screen, folder: str | os.PathLike, rows: Sequence[int]) -> Path:
    """Write some fields of a screen as a small screen of its own.

    Return the path of its LoadData table.

    Parameters
    ----------
    folder : path
        Receives ``example.csv`` and each image as a grey TIFF in ``images``: absent, empty, or one
        that this function has made.
    rows : sequence of int
        Rows of the table.

    Returns
    -------
    Path
        What `read_loaddata` reads, with the same ``Metadata_*`` columns.
    """
    table = screen.table.iloc[list(rows)].drop(columns="Metadata_Treatment")
    with atomic(folder, "copy of fields") as temporary:
        (temporary / "images").mkdir(parents=True)
        columns = zip(*pictures(replace(screen, table=table)), strict=True)
        for number, images in enumerate(columns, 1):
            whole = [one.whole for one in images]
            names = {
                one: f"{n:03d}_channel{number}.tif" for n, one in enumerate(dict.fromkeys(whole), 1)
            }
            for one, name in names.items():
                tifffile.imwrite(temporary / "images" / name, read_image(one))
            channel = screen.channels[number - 1]
            table = table.assign(
                **{f"FileName_{channel}": [names[one] for one in whole]},
                **{f"PathName_{channel}": "images"},
            ).drop(columns=f"Frame_{channel}", errors="ignore")
        table.to_csv(temporary / "example.csv", index=False)
    return Path(folder) / "example.csv"
