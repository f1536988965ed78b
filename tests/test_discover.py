"""The analyses of the whole screen together.

Unusual screens, and what is shown beside the tables.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import well_table
from matplotlib.figure import Figure

from mcnn_book import figures
from mcnn_book.results import (
    agreement_of_choices,
    cluster_names,
    cluster_summary,
    potency_summary,
    unannotated_tops,
)
from mcnn_book.sheets import fields_of, novel_sheet, shown_compounds, suspect_sheet, thumbnails
from mcnn_book.study.study import discover
from mcnn_core.analysis.clusters import cluster_table
from mcnn_core.analysis.mechanisms import SUSPECT_COLUMNS, suspects
from mcnn_core.analysis.novelty import COLUMNS, novelty
from mcnn_core.analysis.response import (
    NO_FIT,
    potencies,
    potency,
    similarities,
    similarity_columns,
    similarity_table,
)
from mcnn_core.errors import InputError
from mcnn_core.machine.files import write_table
from mcnn_core.profiles import feature_columns, feature_matrix, has_controls, treatment_profiles
from mcnn_core.screen import CONTROL, in_words

EVIL = "<script>alert('a' + \"b\")</script>"
MECHANISM = {"a1": "A", "a2": "A", "b1": "B", "b2": "B"}
DESCRIBED = ["treatment", "plate", "well", "compound", "concentration", "MoA", "control"]
CURVES = ["compound", "concentration", "mechanism", "median", "mad", "n", "annotated"]
POTENCY = ["compound", "ec50", "low", "high", "status", "hill", "bottom", "top"]
POTENCY += ["caution"]
FEATURES = 8
KINDS = [
    "annotated in part",
    "annotated throughout",
    "without annotation",
    "without controls",
    "neither",
    "without doses",
    "one control per plate",
    "without compounds",
    "one compound per mechanism",
    "controls only",
]


def whole(kind="annotated in part", new="new"):
    """Return the wells of three plates.

    Two mechanisms of two compounds, one new phenotype and one compound without effect.
    """
    generator = np.random.default_rng(1)
    directions = {"A": 0, "B": 1, new: 2}
    rows, values = [], []
    for plate in ("P1", "P2", "P3"):
        offset = generator.normal(0, 0.5, FEATURES)
        wells = [("DMSO", 0.0, "negcon")] * 5 + [
            (c, d, "trt")
            for c in ("a1", "a2", "b1", "b2", new, "weak")
            for d in (0.03, 0.1, 0.3, 1, 3)
        ]
        for compound, dose, control in wells:
            strong = compound in MECHANISM and dose > 0.2
            rows.append((plate, compound, dose, MECHANISM[compound] if strong else "", control))
            effect = np.zeros(FEATURES)
            if compound in {*MECHANISM, new}:
                effect[directions[MECHANISM.get(compound, compound)]] = 12 / (1 + (0.1 / dose) ** 2)
            values.append(offset + generator.normal(0, 0.5, FEATURES) + effect)
    table = well_table(rows, np.array(values))
    treated = table["Metadata_control_type"] == "trt"
    if kind == "annotated throughout":
        table["Metadata_MoA"] = table["Metadata_Compound"].where(treated, "")
    if kind in ("without annotation", "neither"):
        table["Metadata_MoA"] = ""
    if kind in ("without controls", "neither"):
        table = table[treated]
    if kind == "without doses":
        table = table[~treated | (table["Metadata_Concentration"] == 3)]
        table = table.assign(
            Metadata_Concentration=np.nan, Metadata_Treatment=table["Metadata_Compound"]
        )
    if kind == "one control per plate":
        table = table[treated | (table.groupby("Metadata_Plate").cumcount() == 0)]
    if kind == "without compounds":
        table = table[treated].assign(
            Metadata_Compound="",
            Metadata_Treatment="",
            Metadata_Concentration=np.nan,
            Metadata_MoA="",
        )
    if kind == "one compound per mechanism":
        table = table[~table["Metadata_Compound"].isin(["a2", "b2"])]
    if kind == "controls only":
        table = table[~treated]
    return table.reset_index(drop=True)


@pytest.fixture(scope="module")
def screen():
    wells = whole()
    treatments = treatment_profiles(wells)
    return wells, treatments, discover(wells, treatments)


# ------------------------------------------------------------------------ the tables


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_screen_cannot_answer_has_no_rows(kind, tmp_path):
    wells = whole(kind)
    treatments = treatment_profiles(wells)
    tables = discover(wells, treatments)
    assert list(tables) == ["similarity", "curves", "potency", "clusters", "novel", "suspects"]
    mechanisms = sorted(set(wells["Metadata_MoA"]) - {""})
    like = mechanisms + ([CONTROL] if "negcon" in set(wells["Metadata_control_type"]) else [])
    columns = {
        "similarity": [*DESCRIBED, "nearest", *("like " + name for name in like)],
        "curves": CURVES,
        "potency": POTENCY,
        "clusters": [*DESCRIBED, "cluster"],
        "novel": COLUMNS,
        "suspects": SUSPECT_COLUMNS,
    }
    assert {name: table.columns.tolist() for name, table in tables.items()} == columns
    assert len(tables["similarity"]) == len(wells) and len(tables["clusters"]) == len(treatments)
    assert (tables["similarity"]["nearest"] == "").all() == (not like)
    dosed = kind not in ("without doses", "without compounds", "controls only")
    assert tables["curves"].empty == (not dosed or not like)
    controlled = kind not in ("without controls", "neither", "without compounds")
    assert has_controls(wells) == controlled and tables["potency"].empty == (
        not dosed or not controlled
    )
    assert tables["novel"].empty == (
        kind in ("annotated throughout", "controls only") or not controlled
    )
    assert tables["suspects"].empty == (
        kind
        not in ("annotated in part", "without controls", "without doses", "one control per plate")
    )
    # what the chapters make of them
    agreed = agreement_of_choices(wells)
    assert agreed == "not available" if not like else 0 < agreed <= 1
    tops = unannotated_tops(wells, similarities(wells))
    assert (
        tops.columns.tolist() == like
        and len(tops)
        == wells.loc[wells["Metadata_control_type"] == "trt"]
        .groupby("Metadata_Compound")["Metadata_MoA"]
        .max()
        .drop("", errors="ignore")
        .eq("")
        .sum()
    )
    assert (
        cluster_summary(tables["clusters"])["treatments"].sum()
        == len(treatments)
        == len(cluster_names(tables["clusters"]))
    )
    assert (novel_sheet(wells, tables["novel"]) == ([], [])) == (not tables["novel"]["novel"].any())
    assert (suspect_sheet(wells, tables["suspects"]) == ([], [])) == tables["suspects"].empty
    assert set(potency_summary(tables["potency"])) == {
        "n_compounds",
        "n_fit",
        "n_caution",
        "n_flat",
    }
    write_table(tmp_path / "similarity.csv", tables["similarity"])
    again = similarity_columns(pd.read_csv(tmp_path / "similarity.csv", keep_default_na=False))
    np.testing.assert_allclose(again, similarities(wells))


def test_what_was_planted_is_found(screen):
    wells, _, tables = screen
    potency = tables["potency"].set_index("compound")
    assert (potency.drop("weak")["status"] == "fit").all() and potency.loc[
        "weak", "status"
    ] == NO_FIT["flat"]
    assert potency_summary(tables["potency"]) == {
        "n_compounds": 6,
        "n_fit": 5,
        "n_caution": 0,
        "n_flat": 1,
    }
    assert set(tables["novel"].loc[tables["novel"]["novel"], "treatment"]) >= {
        f"new | {dose}" for dose in ("0.1", "0.3", "1", "3")
    }
    strong = tables["similarity"][tables["similarity"]["MoA"] != ""]
    assert (strong["nearest"] == strong["MoA"]).all() and (
        tables["suspects"]["silhouette"] > 0.5
    ).all()
    tops = unannotated_tops(wells, similarities(wells))
    assert (
        tops.index.tolist() == ["new 3 µM", "weak 3 µM"]
        and tops.loc["weak 3 µM"].idxmax() == CONTROL
    )


@pytest.mark.parametrize("moa", ["", "A"])
def test_a_single_profile_makes_no_tree(moa):
    """A treatment alone ends in an error that says why.

    A control beside it makes two profiles, which is enough.
    """
    wells = (
        whole()
        .query("Metadata_Compound == 'a1' and Metadata_Concentration == 1")
        .assign(Metadata_MoA=moa)
    )
    with pytest.raises(InputError, match="two profiles or more for a tree, got 1"):
        discover(wells, treatment_profiles(wells))
    both = pd.concat(
        [wells, whole().query("Metadata_Compound == 'DMSO' and Metadata_Plate == 'P1'")],
        ignore_index=True,
    )
    both = both[both["Metadata_Plate"] == "P1"]
    assert len(discover(both, treatment_profiles(both))["clusters"]) == 2


def test_the_only_well_of_the_only_mechanism_is_like_nothing():
    wells = whole("without controls").query("Metadata_Compound == 'new'").reset_index(drop=True)
    wells.loc[4, "Metadata_MoA"] = "C"
    table = similarity_table(wells, similarities(wells))
    assert (
        table["nearest"].tolist() == ["C"] * 4 + [""] + ["C"] * 10
        and agreement_of_choices(wells) == 1
    )


def test_plates_without_controls_have_no_potency(screen):
    wells = screen[0]
    part = wells[(wells["Metadata_Plate"] != "P2") | (wells["Metadata_control_type"] == "trt")]
    treatments = treatment_profiles(part)
    assert potencies(part).empty and novelty(part, treatments, cluster_table(treatments)[0]).empty
    pd.testing.assert_frame_equal(potencies(wells), potency(wells), check_exact=True)
    assert (
        suspects(treatments).columns.tolist() == SUSPECT_COLUMNS and len(suspects(treatments)) == 12
    )


def test_analyses_do_not_depend_on_the_order_of_wells_or_on_names_of_mechanisms(screen):
    wells, treatments, tables = screen
    mixed = wells.sample(frac=1, random_state=0, ignore_index=True)
    again = discover(mixed, treatment_profiles(mixed))
    for name in ("curves", "potency", "clusters", "suspects"):
        pd.testing.assert_frame_equal(again[name], tables[name])
    other = {"A": "Z", "B": "Y", "": ""}
    renamed = discover(
        *(
            table.assign(Metadata_MoA=table["Metadata_MoA"].map(other))
            for table in (wells, treatments)
        )
    )
    for name in ("potency", "novel"):
        pd.testing.assert_frame_equal(renamed[name], tables[name], check_exact=True)
    assert renamed["clusters"]["cluster"].equals(tables["clusters"]["cluster"])


def test_rows_of_clusters_map_back_to_the_profiles(screen):
    _, treatments, _ = screen
    # The index counts rows, and does not repeat theirs.
    shuffled = treatments.sample(frac=1, random_state=2)
    table, distances = cluster_table(shuffled)
    assert sorted(table.index) == list(range(len(treatments)))
    for row in (0, 7, len(table) - 1):
        profile = shuffled.iloc[table.index[row]]
        assert table.iloc[row][DESCRIBED].tolist() == [
            profile[f"Metadata_{name}"]
            for name in (
                "Treatment",
                "Plate",
                "Well",
                "Compound",
                "Concentration",
                "MoA",
                "control_type",
            )
        ]
    values = feature_matrix(shuffled)[table.index]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    np.testing.assert_allclose(distances, 1 - values @ values.T, atol=1e-12)
    along = table["cluster"].to_numpy()
    assert along[0] == 1 and set(np.diff(along)) == {0, 1}


def test_summary_counts_each_cluster(screen):
    clusters = screen[2]["clusters"]
    summary = cluster_summary(clusters)
    assert (
        summary["treatments"].is_monotonic_decreasing
        and summary["cluster"].is_unique
        and summary["solvent"].sum() == 3
    )
    for row in summary.itertuples():
        part = clusters[clusters["cluster"] == row.cluster]
        named = [moa for moa in part["MoA"] if moa]
        assert (row.treatments, row.annotated, row.solvent) == (
            len(part),
            len(named),
            (part["compound"] == "DMSO").sum(),
        )
        assert row.mechanism == (max(sorted(set(named)), key=named.count) if named else "")
    assert {"A", "B", ""} == set(summary["mechanism"])


# -------------------------------------------------------------- what is shown beside


def fields(wells, sites=2):
    """Return a table of fields: `sites` of each well, row by row."""
    return (
        wells.loc[wells.index.repeat(sites)]
        .reset_index(drop=True)
        .assign(Metadata_Site=list(range(1, sites + 1)) * len(wells))
    )


def test_sheet_of_novel_clusters(screen):
    """The first treatment of each cluster, beside the controls of its plates."""
    table, novel = fields(screen[0]), screen[2]["novel"]
    groups, titles = novel_sheet(table, novel)
    first = novel[novel["novel"]].drop_duplicates("cluster").head(3)
    assert len(groups) == len(titles) == 2 * len(first)
    for n, one in enumerate(first.itertuples()):
        treated, control = table.iloc[groups[2 * n]], table.iloc[groups[2 * n + 1]]
        assert (treated["Metadata_Treatment"] == one.treatment).all() and len(treated) == 6
        assert titles[2 * n] == f"{in_words(one.treatment)}\ncluster {one.cluster}"
        assert (control["Metadata_control_type"] == "negcon").all()
        assert set(control["Metadata_Plate"]) == set(treated["Metadata_Plate"])
    assert len(novel_sheet(table, novel, most=1)[0]) == 2


def test_sheet_of_the_first_suspect(screen):
    table, suspects = fields(screen[0]), screen[2]["suspects"]
    suspect = suspects.iloc[0]
    groups, titles = suspect_sheet(table, suspects)
    shown = [table.iloc[group] for group in groups]
    names = [part["Metadata_Treatment"].iloc[0] for part in shown]
    doses = [name for name in names if name.startswith(f"{suspect['compound']} | ")]
    assert suspect["treatment"] in doses and 3 <= len(doses) <= 4 and doses == names[: len(doses)]
    assert doses[0].endswith("| 0.03") and doses[-1].endswith("| 3")
    assert titles[doses.index(suspect["treatment"])].endswith("suspected")
    others = [part["Metadata_MoA"].iloc[0] for part in shown[len(doses) : -1]]
    assert others == [suspect["MoA"]] + [suspect["nearest_other"]] * 2
    assert [title.split("\n")[1] for title in titles[len(doses) : -1]] == others
    assert (shown[-1]["Metadata_control_type"] == "negcon").all()


def test_positive_controls_are_shown_last(screen):
    wells = screen[0].copy()
    wells.loc[wells.index[wells["Metadata_Treatment"] == "a1 | 1"][0], "Metadata_control_type"] = (
        "poscon"
    )
    wells.loc[wells["Metadata_Compound"] == "weak", "Metadata_control_type"] = "poscon"
    table = fields(wells)
    found = fields_of(table, "a1 | 1", most=99)
    assert (
        len(found) == 6
        and (table["Metadata_control_type"].iloc[found] == ["trt"] * 4 + ["poscon"] * 2).all()
    )
    assert fields_of(table, "a1 | 1", "P3") == [found[2]] and fields_of(table, "nothing") == []
    assert len(fields_of(table, "weak | 1", most=2)) == 2  # shown by positive controls alone


def test_each_treatment_has_a_picture(screen):
    """Of each its own field.

    Of a treatment, of the solvent on each plate, and of a well that nobody named.
    """
    wells = screen[0].copy()
    wells.loc[wells["Metadata_Compound"] == "weak", ["Metadata_Compound", "Metadata_Treatment"]] = (
        ""
    )
    table = fields(wells)
    # Eight bands, black or white, tell which field it is.
    bits = np.arange(len(table))[:, None] >> np.arange(8) & 1
    pixels = np.broadcast_to(
        255 * bits.repeat(16, axis=1)[:, :, None, None], (len(table), 128, 192, 1)
    ).astype(np.uint8)
    clusters, _ = cluster_table(treatment_profiles(wells))
    pictures = thumbnails(SimpleNamespace(pixels=pixels), table, clusters)
    assert len(pictures) == len(clusters) and {(one.shape, one.dtype) for one in pictures} == {
        ((64, 96, 3), np.dtype(np.uint8))
    }
    for picture, row in zip(pictures, clusters.itertuples(), strict=True):
        shown = table.iloc[int((picture[::8, 0, 0] > 127) @ 2 ** np.arange(8))]
        assert shown["Metadata_Treatment"] == row.treatment
        assert not row.plate or (
            shown["Metadata_Plate"] == row.plate
            and (not row.well or shown["Metadata_Well"] == row.well)
        )


def test_names_in_the_matrix_tell_profiles_apart(screen):
    names = cluster_names(screen[2]["clusters"])
    assert names.columns.tolist() == ["name", "cluster", "Metadata_MoA"] and names["name"].is_unique
    assert {"DMSO P1", "DMSO P2", "DMSO P3", "a1 0.03 µM", "new 3 µM"} <= set(names["name"])
    unnamed = cluster_names(cluster_table(treatment_profiles(whole("without compounds")))[0])
    assert unnamed["name"].is_unique and unnamed["name"].str.fullmatch(r"P[123] A\d\d").all()


def test_compounds_of_the_small_figure(screen):
    points = screen[2]["curves"]
    assert shown_compounds(points, ["weak", "absent", "b2"]) == ["weak", "b2", "a1", "a2"]
    assert (
        shown_compounds(points, [], most=2) == ["a1", "a2"]
        and shown_compounds(points.iloc[:0], ["weak"]) == []
    )


def test_a_compound_named_like_markup_travels_as_it_is(tmp_path):
    wells = whole(new=EVIL)
    tables = discover(wells, treatment_profiles(wells))
    for name in ("similarity", "curves", "potency", "clusters"):
        assert EVIL in set(tables[name]["compound"])
    assert f"{EVIL} | 3" in set(tables["novel"]["treatment"]) and f"{EVIL} 3 µM" in set(
        cluster_names(tables["clusters"])["name"]
    )
    groups, titles = novel_sheet(fields(wells), tables["novel"])
    assert any(EVIL in title for title in titles)
    figure = Figure()
    figures.contact_sheet(
        figure.add_subplot(), [np.zeros((8, 8, 1), np.uint8)] * len(groups), titles
    )
    figures.response_curves(figure.add_subplot(), tables["curves"].query("compound == @EVIL"))
    figure.savefig(tmp_path / "sheet.png")


def test_no_table_changes_what_it_was_given(screen):
    wells, treatments, _ = screen
    before = wells.copy(), treatments.copy()
    discover(wells, treatments)
    pd.testing.assert_frame_equal(wells, before[0])
    pd.testing.assert_frame_equal(treatments, before[1])
    assert len(feature_columns(wells)) == FEATURES


def test_mechanisms_may_have_the_names_of_columns(tmp_path):
    """Every table says the same as with other names.

    The screen's mechanisms are called like its columns.
    """
    names = {"A": "well", "B": "similarity"}
    wells = whole()
    odd = wells.assign(Metadata_MoA=wells["Metadata_MoA"].replace(names))
    assert set(odd["Metadata_MoA"]) - {""} <= {
        "well",
        "similarity",
        "nearest",
        "mechanism",
    } and set(odd["Metadata_MoA"]) != set(wells["Metadata_MoA"])
    plain, tables = (discover(one, treatment_profiles(one)) for one in (wells, odd))
    write_table(tmp_path / "similarity.csv", tables["similarity"])
    read = pd.read_csv(tmp_path / "similarity.csv", keep_default_na=False)
    assert read["well"].tolist() == wells["Metadata_Well"].tolist() and "like well" in read
    pd.testing.assert_frame_equal(similarity_columns(read), similarities(odd), check_exact=False)
    one, other = (
        table["curves"].sort_values(
            ["compound", "concentration", "median", "mechanism"], ignore_index=True
        )
        for table in (plain, tables)
    )
    pd.testing.assert_frame_equal(one.replace(names), other)
