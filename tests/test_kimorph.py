"""The simulated KiMorph.

Its imageHTS layout, determinism, truth, cells like the real ones, a plain ontology.
"""

import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_simulate import digest

from mcnn_book import screens
from mcnn_book.__main__ import main
from mcnn_book.simulate import cells as cells_module
from mcnn_book.simulate import kimorph
from mcnn_book.simulate.field_statistics import field_statistics
from mcnn_book.simulate.kimorph import (
    ARTEFACT,
    CONTROLS,
    LAYOUTS,
    PHENOTYPES,
    Layout,
    simulate_kimorph,
)
from mcnn_core.errors import InputError
from mcnn_core.preprocessing import Conversion, preprocess
from mcnn_core.readers.imagehts import KIMORPH_FIELD, read_imagehts, read_wells
from mcnn_core.readers.images import check_headers, read_field
from mcnn_core.surrogate import surrogate_classes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kimorph") / "tiny"
    simulate_kimorph(folder, 0, LAYOUTS["tiny"], workers=2, progress=False)
    return folder


def test_bytes_do_not_depend_on_workers_but_on_the_seed(tiny, tmp_path):
    simulate_kimorph(tmp_path / "one", 0, LAYOUTS["tiny"], workers=1, progress=False)
    simulate_kimorph(tmp_path / "other", 1, LAYOUTS["tiny"], workers=1, progress=False)
    assert digest(tmp_path / "one") == digest(tiny) != digest(tmp_path / "other")


def test_the_screen_is_read_and_preprocessed(tiny, tmp_path):
    screen = read_imagehts(tiny, simulated=True)
    truth = pd.read_csv(tiny / "truth.csv", keep_default_na=False)
    assert (
        screen.name == "simulated KiMorph"
        and len(screen.table) == 2 * len(truth) == 96
        and check_headers(screen) == (128, 160)
    )
    wells = screen.table.drop_duplicates(["Metadata_Plate", "Metadata_Well"])
    told = wells[
        [
            "Metadata_Plate",
            "Metadata_Replicate",
            "Metadata_Well",
            "Metadata_Compound",
            "Metadata_siRNA",
            "Metadata_Entrez",
        ]
    ]
    assert (
        told.to_numpy().tolist()
        == truth[["plate", "replicate", "well", "compound", "sirna", "entrez"]].to_numpy().tolist()
    )
    store = preprocess(screen, tmp_path / "store", progress=False)
    assert store.shape == (96, 128, 160, 3) and store.channels == ("Hoechst", "Tritc", "FITC")
    controls = (screen.table["Metadata_control_type"] != "trt").to_numpy()
    labels = surrogate_classes(screen.table, ["Metadata_Position"], controls)
    assert labels["label"].max() + 1 == 8 and labels["label"].value_counts()[0] == 4


def test_a_field_does_not_depend_on_the_rest_of_the_screen(tiny):
    truth, sirnas = kimorph.truth_table(0, LAYOUTS["tiny"])
    well = truth.query("compound == 'SIM003'").iloc[0].to_dict()
    screen = read_imagehts(tiny, simulated=True)
    row = np.flatnonzero(
        (screen.table["Metadata_Compound"] == "SIM003") & (screen.table["Metadata_Site"] == 2)
    )[0]
    drawn = kimorph.field(0, well, sirnas["SIM003"], 2).transpose(1, 2, 0)
    assert np.abs(read_field(screen, row).astype(int) - drawn).mean() < 2  # JPEG


def test_pictures_are_grey_jpeg_montages(tiny):
    paths = list(tiny.glob("source/*/*/*"))
    assert {path.name for path in paths} == {"Hoechst.jpeg", "Tritc.jpeg", "FITC.jpeg"} and len(
        paths
    ) == 144
    with Image.open(paths[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "L", (320, 128))
    assert sorted(path.name for path in tiny.iterdir()) == [
        ".mcnn",
        "conf",
        "effects.csv",
        "go.gaf",
        "go.obo",
        "source",
        "truth.csv",
    ]


def test_default_layout_has_the_counts_of_kimorph():
    layout = LAYOUTS["default"]
    counts = layout.wells()["content"].value_counts().to_dict()
    assert counts == {"sample": 304, "empty": 32, **dict.fromkeys(CONTROLS, 12)}
    truth, sirnas = kimorph.truth_table(0, layout)
    assert len(truth) == 704 and len(sirnas) == 308 and truth.groupby("compound").size().min() == 2
    library = truth[truth["entrez"] != ""].drop_duplicates("compound")
    assert library["group"].value_counts().to_dict() == {**layout.groups, "inactive": 214}
    assert library["entrez"].is_unique and library["sirna"].is_unique
    assert (
        library.query("group != 'inactive'")["strength"].between(*kimorph.STRENGTHS).all()
        and library["strength"].nunique() > 80
    )
    unlike = set(library[library["like"] == ""]["phenotype"])
    assert unlike == {
        "large nuclei, strong actin",
        "few small cells",
        "two nuclei",
        "mitotic arrest",
    }
    assert {name for _, control, name in kimorph.GROUPS.values() if control == ""} > {
        ""
    }  # groups of both kinds: with a term and without


def test_each_control_stands_in_rows_and_columns_all_over_the_plate():
    wells = LAYOUTS["default"].wells().query("content in @CONTROLS")
    assert wells.groupby(["content", wells["well"].str[1:]]).size().eq(4).all()


def test_the_artefact_is_in_one_replicate_of_one_sirna():
    truth, sirnas = kimorph.truth_table(0, LAYOUTS["tiny"])
    spoilt = truth[truth["artefact"]]
    assert spoilt[["compound", "replicate"]].to_numpy().tolist() == [[ARTEFACT, 1]]
    both = truth[truth["compound"] == ARTEFACT].to_dict("records")
    bright = [np.percentile(kimorph.field(0, well, sirnas[ARTEFACT], 1), 90) for well in both]
    assert bright[0] > 1.5 * bright[1]


def test_genes_stand_elsewhere_and_do_other_things_with_another_seed():
    one, other = (kimorph.truth_table(seed, LAYOUTS["default"])[0] for seed in (0, 1))
    assert (one["well"] == other["well"]).all() and (one["compound"] != other["compound"]).any()
    groups = [
        truth.drop_duplicates("compound").set_index("compound")["group"] for truth in (one, other)
    ]
    assert (groups[0] != groups[1].reindex(groups[0].index)).any()


def test_phenotypes_measure_as_named():
    truth, _ = kimorph.truth_table(0, LAYOUTS["default"])
    well = truth[truth["content"] == "rluc"].iloc[0].to_dict()

    def measured(phenotype: str) -> dict:
        sirna = kimorph.draw_sirna(0, "RLUC", phenotype, 1.0, 0.95)
        fields = np.array([kimorph.field(0, well, sirna, site) for site in range(24)]).transpose(
            0, 2, 3, 1
        )
        seen = [field for field in fields if np.ptp(field[..., 0]) > 30]
        return field_statistics(np.array(seen), 1.0) | {"actin": fields[..., 1].mean()}

    found = {name: measured(name) for name in PHENOTYPES}
    neutral = found["neutral"]
    assert (
        found["lethal"]["nuclei_per_mm2"] < 0.6 * neutral["nuclei_per_mm2"]
        and found["lethal"]["coverage"] < 0.5 * neutral["coverage"]
    )
    assert found["enlarged cells"]["nucleus_area_um2"][1] > 1.2 * neutral["nucleus_area_um2"][1]
    assert found["enlarged cells"]["cell_area_um2"] > 1.2 * neutral["cell_area_um2"]
    assert (
        found["large nuclei, strong actin"]["nucleus_area_um2"][1]
        > 1.2 * neutral["nucleus_area_um2"][1]
    )
    assert found["large nuclei, strong actin"]["contrast"][1] > 1.1 * neutral["contrast"][1]
    assert found["few small cells"]["nuclei_per_mm2"] < 0.9 * neutral["nuclei_per_mm2"]
    assert found["few small cells"]["cell_area_um2"] < 0.9 * neutral["cell_area_um2"]


#: Neutral and lethal wells of the real sample in tiles of 128 x 160 um, at an assumed 0.645 um per
#: pixel.
REAL = {
    "rluc": {
        "nuclei_per_mm2": 470,
        "nucleus_area_um2": 197,
        "coverage": 0.39,
        "contrast": (1.94, 3.08, 1.69),
    },
    "ubc": {
        "nuclei_per_mm2": 165,
        "nucleus_area_um2": 189,
        "coverage": 0.09,
        "contrast": (2.43, 4.12, 2.40),
    },
}


@pytest.mark.parametrize("control", REAL)
def test_controls_measure_like_the_real_wells(control):
    truth, sirnas = kimorph.truth_table(0, LAYOUTS["default"])
    wells = truth[truth["content"] == control].to_dict("records")[::3]
    fields = np.array(
        [
            kimorph.field(0, well, sirnas[control.upper()], site).transpose(1, 2, 0)
            for well in wells
            for site in range(1, 5)
        ]
    )
    fields = np.array([field for field in fields if np.ptp(field[..., 0]) > 30])
    ours, real = field_statistics(fields, 1.0), REAL[control]
    assert ours["nuclei_per_mm2"] == pytest.approx(real["nuclei_per_mm2"], rel=0.35)
    assert ours["coverage"] == pytest.approx(real["coverage"], abs=0.06)
    assert ours["contrast"] == pytest.approx(real["contrast"], rel=0.35)
    if control == "rluc":
        assert ours["nucleus_area_um2"][1] == pytest.approx(real["nucleus_area_um2"], rel=0.15)
        assert np.percentile(fields, 50, axis=(0, 1, 2)) == pytest.approx([16, 19, 22], abs=3)


def test_effects_are_mean_shifts_in_units_of_spread(tiny):
    truth, sirnas = kimorph.truth_table(0, LAYOUTS["tiny"])
    table = pd.read_csv(tiny / "effects.csv", keep_default_na=False).set_index("compound")
    assert table.index.tolist() == list(sirnas) and set(table.index) == set(truth["compound"])
    assert (
        list(table)
        == list(cells_module.PARAMETERS)[: list(cells_module.PARAMETERS).index("stain_dna")]
    )
    _, cells, fields, *_ = cells_module.PARAMETERS["radius"]
    place = list(cells_module.PARAMETERS).index("radius")
    for name, one in sirnas.items():
        expected = (one.penetrance * one.effect[place] + one.side[place]) / (
            cells**2 + fields**2
        ) ** 0.5
        assert table.loc[name, "radius"] == pytest.approx(expected, rel=1e-5)
    # a control has no off-target shifts, and RLUC no effect: what remains of it is HeLa
    assert table.loc["RLUC"][table.loc["RLUC"] != 0].index.tolist() == [
        name for name in table if name in kimorph.HELA
    ]


# ----------------------------------------------------------------------------- ontology


def test_go_files_are_plain_obo_and_gaf(tiny):
    stanzas = (tiny / "go.obo").read_text().split("\n\n")
    assert stanzas[0].startswith("format-version: 1.2\n")
    terms = {}
    for stanza in stanzas[1:]:
        kind, *lines = stanza.strip().splitlines()
        assert kind in ("[Term]", "[Typedef]") and all(
            re.fullmatch(r"\w+: \S.*", line) for line in lines
        )
        if kind == "[Term]" and "is_obsolete: true" not in lines:
            terms[lines[0][4:]] = [
                re.search(r"GO:\d{7}", line)[0]
                for line in lines
                if line.startswith(("is_a", "relationship"))
            ]
    assert all(re.fullmatch(r"GO:\d{7}", term) for term in terms) and all(
        parent in terms for parents in terms.values() for parent in parents
    )
    assert [term for term, parents in terms.items() if not parents] == ["GO:0008150", "GO:0003674"]
    header, *rows = (tiny / "go.gaf").read_text().splitlines()
    rows = [row.split("\t") for row in rows if not row.startswith("!")]
    assert header == "!gaf-version: 2.1" and {len(row) for row in rows} == {17}
    genes = {
        (one["Metadata_Entrez"], one["Metadata_Gene"])
        for one in read_imagehts(tiny).table.to_dict("records")
    }
    for row in rows:
        assert (
            (row[1], row[2]) in genes
            and row[4] in terms
            and row[8] in "PF"
            and row[12] == "taxon:9606"
        )


def test_terms_match_their_groups():
    truth, _ = kimorph.truth_table(0, LAYOUTS["default"])
    terms, annotation = kimorph.ontology(0, truth)
    planted = truth.drop_duplicates("compound").set_index("compound")["term"]
    assert set(planted) == {"", *(name for _, _, name in kimorph.GROUPS.values() if name)}
    below = {
        term["id"]: {term["id"]}
        | {
            child["id"]
            for child in terms
            if any(parent == term["id"] for _, parent in child["parents"])
        }
        for term in terms
    }
    for term in terms:
        if term["name"] in set(planted):
            carriers = set(
                annotation[annotation["term"].isin(below[term["id"]]) & ~annotation["not"]][
                    "symbol"
                ]
            )
            group = set(planted[planted == term["name"]].index)
            assert len(carriers & group) > 0.5 * len(group) and len(carriers - group) < 0.1 * len(
                planted
            )
    assert 0 < annotation["not"].sum() < 40 and set(annotation["aspect"]) == {"P", "F"}
    without = set(planted.index) - set(annotation[annotation["aspect"] == "P"]["symbol"])
    assert 3 < len(without) < 40


# ----------------------------------------------------------------------------- pipeline


def test_open_screen_simulates_kimorph(tmp_path):
    screen = screens.open_screen(
        "kimorph", "", tmp_path, seed=4, layout="tiny", height=64, width=96, workers=1
    )
    assert (screen.name, screen.simulated, len(screen.table)) == (
        "the simulated KiMorph (seed 4)",
        True,
        96,
    )
    assert screens.pixel_size(screen, 64) == 1.0 and screens.control_statistics(screen, 64) is None
    with pytest.raises(InputError, match="layout must be one of default, tiny"):
        screens.open_screen("kimorph", "", tmp_path, layout="huge")


def test_open_screen_reads_the_real_kimorph(shared_data, tmp_path, capsys):
    screen = screens.open_screen("kimorph", shared_data / "kimorph", tmp_path)
    assert (
        not screen.simulated
        and check_headers(screen) == KIMORPH_FIELD
        and screens.pixel_size(screen, 510) is None
    )
    assert capsys.readouterr().out == "768 wells: 756 are empty and 0 failed; they are left out\n"
    store = preprocess(screen, tmp_path / "store", Conversion(bin=2), progress=False)
    assert store.shape == (12, 256, 352, 3)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(kimorph, "_write_ontology", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        simulate_kimorph(tmp_path / "screen", 0, LAYOUTS["tiny"], workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_command_line_and_other_layouts(tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "tiny", Layout({"essential": 1}, (3,), 4, (2, 2)))
    main(
        [
            "simulate",
            "--screen",
            "kimorph",
            "--out",
            str(tmp_path / "s"),
            "--seed",
            "3",
            "--layout",
            "tiny",
            "--height",
            "64",
            "--width",
            "96",
            "--workers",
            "1",
        ]
    )
    screen = read_imagehts(tmp_path / "s")
    assert len(screen.table) == 2 * 6 * 4 and check_headers(screen) == (64, 96)
    assert (read_wells(tmp_path / "s")["content"] == "empty").sum() == 2 * 378
