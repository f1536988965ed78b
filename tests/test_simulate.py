"""The simulated screen: BBBC021's format and counts, determinism, cells like the real ones."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from mcnn_book.__main__ import main
from mcnn_book.simulate import bbbc021 as simulated
from mcnn_book.simulate import cells
from mcnn_book.simulate.bbbc021 import LAYOUTS, Layout, simulate_screen
from mcnn_book.simulate.cells import hill_response
from mcnn_book.simulate.field_statistics import field_statistics, noise
from mcnn_core.machine.files import read_json
from mcnn_core.readers.bbbc021 import read_bbbc021

RECORDED = Path(__file__).resolve().parents[1] / "book" / "recorded" / "cell_statistics.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("screen") / "tiny"
    simulate_screen(folder, 0, LAYOUTS["tiny"], workers=2, progress=False)
    return folder


def digest(folder: Path) -> str:
    """Hash every file of a folder by name and content."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return total.hexdigest()


def test_bytes_do_not_depend_on_workers_but_on_the_seed(tiny, tmp_path):
    simulate_screen(tmp_path / "one", 0, LAYOUTS["tiny"], workers=1, progress=False)
    simulate_screen(tmp_path / "other", 1, LAYOUTS["tiny"], workers=1, progress=False)
    assert digest(tmp_path / "one") == digest(tiny) != digest(tmp_path / "other")


def test_tiny_is_small_and_has_controls_on_every_plate(tiny):
    table = pd.read_csv(tiny / "BBBC021_v1_image.csv")
    assert len(table) <= 150
    control = table[table["Image_Metadata_Compound"] == "DMSO"]
    assert set(control["Image_Metadata_Plate_DAPI"]) == set(table["Image_Metadata_Plate_DAPI"])
    for row in table.to_dict("records"):
        for channel in ("DAPI", "Tubulin", "Actin"):
            image = tifffile.imread(
                tiny / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"]
            )
            assert image.shape == (128, 160) and image.dtype == np.uint16 and image.std() > 0


def test_moa_file_has_bare_carriage_returns_and_plain_decimals(tiny):
    raw = (tiny / "BBBC021_v1_moa.csv").read_bytes()
    assert (
        b"\n" not in raw
        and not raw.endswith(b"\r")
        and raw.startswith(b"compound,concentration,moa\r")
    )
    assert b"AZ-C,0.03,Eg5 inhibitors\r" in raw and raw.endswith(b"DMSO,0,DMSO")


def test_image_table_is_bbbc021s(tiny):
    header = (
        "TableNumber,ImageNumber,Image_FileName_DAPI,Image_PathName_DAPI,Image_FileName_Tubulin,"
        "Image_PathName_Tubulin,Image_FileName_Actin,Image_PathName_Actin,"
        "Image_Metadata_Plate_DAPI,Image_Metadata_Well_DAPI,Replicate,"
        "Image_Metadata_Compound,Image_Metadata_Concentration"
    )
    table = pd.read_csv(tiny / "BBBC021_v1_image.csv", dtype=str)
    assert ",".join(table.columns) == header
    assert (
        table["Image_FileName_Actin"]
        .str.fullmatch(r"[B-G]\d\d_s\d_w4[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}\.tif")
        .all()
    )
    assert table["Image_PathName_DAPI"].str.fullmatch(r"Week\d+/Week\d+_\d{5}").all()
    assert table["Image_Metadata_Concentration"].str.fullmatch(r"\d+\.\d{6}").all()
    written = {path.relative_to(tiny).as_posix() for path in tiny.rglob("*.tif")}
    assert written == {
        f"{row[f'Image_PathName_{c}']}/{row[f'Image_FileName_{c}']}"
        for _, row in table.iterrows()
        for c in ("DAPI", "Actin", "Tubulin")
    }


def test_the_screen_is_read_by_the_pipeline_without_its_truth(tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    (copy / "truth.csv").unlink()
    pd.testing.assert_frame_equal(read_bbbc021(copy).table, read_bbbc021(tiny).table)


def test_default_layout_has_bbbc021s_counts():
    layout = LAYOUTS["default"]
    wells, annotation = layout.wells(), layout.annotation().query("moa != 'DMSO'")
    assert (len(annotation), annotation["compound"].nunique(), annotation["moa"].nunique()) == (
        103,
        38,
        12,
    )
    assert annotation["moa"].value_counts().to_dict() == {
        "Microtubule destabilizers": 14,
        "Aurora kinase inhibitors": 12,
        "Eg5 inhibitors": 12,
        "Microtubule stabilizers": 9,
        "DNA damage": 9,
        "Epithelial": 8,
        "Protein synthesis": 8,
        "DNA replication": 8,
        "Protein degradation": 7,
        "Cholesterol-lowering": 6,
        "Actin disruptors": 5,
        "Kinase inhibitors": 5,
    }
    control = wells[wells["compound"] == "DMSO"]
    assert (
        control.groupby("plate")["well"].agg(tuple) == ("B02", "C02", "D02", "E11", "F11", "G11")
    ).all()
    assert not wells.duplicated(["plate", "well"]).any()
    assert wells["well"].str.fullmatch("[B-G](0[2-9]|1[01])").all()
    named = wells.merge(annotation, on=["compound", "concentration"])
    positive = (named["compound"] == "taxol") & (named["concentration"] == 0.3)
    kept = named[~positive | ((named["week"] == "Week1") & (named["well"] == "D05"))]
    assert (
        len(kept) == 302
        and kept["well"].where(kept["compound"] == "taxol").dropna().str.startswith("D").all()
    )
    fields = kept.groupby(["compound", "concentration"]).size() * layout.sites
    assert fields.value_counts().to_dict() == {12: 96, 8: 7}
    assert kept.groupby(["compound", "concentration"])["week"].nunique().eq(1).all()


def test_weeks_doses_and_annotation_are_those_of_the_real_tables(shared_data):
    folder = shared_data / "bbbc021" / "metadata"
    real = pd.read_csv(folder / "BBBC021_v1_image.csv.gz").rename(
        columns=lambda name: name.replace("Image_Metadata_", "")
    )
    real["week"] = real["Plate_DAPI"].str.split("_").str[0]
    moa = pd.read_csv(folder / "BBBC021_v1_moa.csv", lineterminator="\r")
    ours = LAYOUTS["default"].annotation()
    assert set(ours.itertuples(index=False, name=None)) == set(
        moa.itertuples(index=False, name=None)
    )
    for one in LAYOUTS["default"].compounds.query("moa != ''").itertuples():
        wells = real[
            (real["Compound"] == one.compound)
            & real["Well_DAPI"].str[1:].astype(int).between(3, 10)
        ]
        assert set(wells["week"]) == {f"Week{one.week}"}
        assert sorted(wells["Concentration"].unique()) == pytest.approx(sorted(one.doses))
        assert wells["Plate_DAPI"].nunique() == one.replicates


def test_truth_names_what_was_planted():
    wells, compounds = simulated.truth_table(0, LAYOUTS["default"])
    by = wells.drop_duplicates("compound").set_index("compound")
    assert by["planted"].value_counts().to_dict() == {
        "": 38,
        "hidden mechanism": 8,
        "known mechanism": 4,
        "inactive": 4,
        "wrong label": 1,
    }
    assert by.loc["colchicine", "mechanism"] == "Kinase inhibitors"
    assert not compounds["SX-03"].effect.any() and compounds["SX-03"].side.any()
    other, _ = simulated.truth_table(1, LAYOUTS["default"])
    assert (wells["well"] == other["well"]).all() and (wells["ec50"] != other["ec50"]).any()


def test_hill_response_rises_from_nothing_through_half_at_the_ec50():
    doses = [0, 0.001, 0.1, 0.3, 1, 100]
    responses = [hill_response(dose, 0.3, 1.7) for dose in doses]
    assert (
        responses == sorted(responses)
        and responses[0] == 0
        and responses[3] == 0.5
        and responses[-1] > 0.99
    )


def test_every_annotated_treatment_but_the_wrong_label_acts_as_annotated():
    wells, _ = simulated.truth_table(0, LAYOUTS["default"])
    named = wells.merge(LAYOUTS["default"].annotation(), on=["compound", "concentration"]).query(
        "moa != 'DMSO'"
    )
    assert (named["response"] > 0.6).all()
    assert set(named.loc[named["moa"] != named["mechanism"], "compound"]) == {"colchicine"}


def test_a_field_does_not_depend_on_the_rest_of_the_screen(tiny):
    wells, compounds = simulated.truth_table(0, LAYOUTS["tiny"])
    well = wells.query("compound == 'AZ-C'").iloc[0].to_dict()
    again = cells.field(0, well, compounds["AZ-C"], 2)
    table = pd.read_csv(tiny / "BBBC021_v1_image.csv").set_index(
        ["Image_Metadata_Plate_DAPI", "Image_Metadata_Well_DAPI"]
    )
    row = table.loc[(well["plate"], well["well"])].iloc[1]
    for image, channel in zip(again, simulated.CHANNELS, strict=True):
        assert (
            image
            == tifffile.imread(
                tiny / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"]
            )
        ).all()


def test_only_dry_wells_differ_from_a_screen_without_an_effect_of_place(tiny, tmp_path):
    planted = replace(LAYOUTS["tiny"], place="row")
    simulate_screen(tmp_path / "dry", 0, planted, workers=1, progress=False)
    truth = pd.read_csv(tmp_path / "dry" / "truth.csv")
    assert set(truth["drift"]) > {0.0, 1.0} and "drift" not in pd.read_csv(tiny / "truth.csv")
    dry = truth.set_index(["plate", "well"])["drift"]
    for path in tiny.rglob("*_w1*.tif"):
        same = path.read_bytes() == (tmp_path / "dry" / path.relative_to(tiny)).read_bytes()
        assert same == (dry[path.parent.name, path.name[:3]] == 0)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Layout, "annotation", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        simulate_screen(tmp_path / "screen", 0, LAYOUTS["tiny"], workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_command_line_writes_a_screen_of_any_size(tmp_path):
    main(
        [
            "simulate",
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
        ]
    )
    assert tifffile.imread(next((tmp_path / "s").rglob("*.tif"))).shape == (64, 96)


def test_untreated_cells_measure_like_the_real_ones():
    wells, compounds = simulated.truth_table(0, LAYOUTS["default"])
    control = wells.query("compound == 'DMSO'").iloc[::6].to_dict("records")
    fields = np.array(
        [cells.field(0, well, compounds["DMSO"], 1).transpose(1, 2, 0) for well in control]
    )
    ours, real = field_statistics(fields, 1.0), read_json(RECORDED)["small"]
    assert ours["coverage"] == pytest.approx(real["coverage"], rel=0.2)
    assert ours["nuclei_per_mm2"] == pytest.approx(real["nuclei_per_mm2"], rel=0.3)
    assert ours["nucleus_area_um2"][1:] == pytest.approx(real["nucleus_area_um2"][1:], rel=0.15)
    assert np.abs(np.subtract(ours["spectrum"], real["spectrum"])).max() < 0.4  # decades
    # 95 and 99 %.
    assert np.allclose(
        np.array(ours["intensity"])[:, 5:], np.array(real["intensity"])[:, 5:], rtol=0.3
    )


def test_full_field_is_drawn_at_the_microscopes_pixel():
    compound = simulated.truth_table(0, LAYOUTS["tiny"])[1]["DMSO"]
    image = cells.render_field(
        cells.generator(0), compound, 0.0, np.zeros(len(cells.PARAMETERS)), 1024, 1280
    )
    measured = field_statistics(image.transpose(1, 2, 0)[None], cells.MICROSCOPE_PIXEL)
    real = read_json(RECORDED)["full"]
    assert measured["nuclei_per_mm2"] == pytest.approx(real["nuclei_per_mm2"], rel=0.35)
    assert measured["nucleus_area_um2"][1] == pytest.approx(real["nucleus_area_um2"][1], rel=0.2)


@pytest.mark.parametrize("screen", ["simulated", "kimorph"])
def test_a_folder_that_holds_something_else_is_refused_before_anything_is_drawn(tmp_path, screen):
    (tmp_path / "notes.txt").write_text("mine")
    command = [
        sys.executable,
        "-m",
        "mcnn_book",
        "simulate",
        "--screen",
        screen,
        "--out",
        tmp_path,
        "--seed",
        "0",
        "--layout",
        "tiny",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and ended.stderr.startswith(
        f"error: {tmp_path} holds 'notes.txt' and was not made by this program"
    )
    assert os.listdir(tmp_path) == ["notes.txt"] and (tmp_path / "notes.txt").read_text() == "mine"


def test_noise_is_found_at_every_brightness():
    """On a slope of light whose counts are drawn as photons are."""
    light = np.linspace(200, 2000, 400) * np.ones((2, 100, 1))
    counts = np.random.default_rng(0).poisson(light)
    brightness, found = noise(counts, light, 4)
    np.testing.assert_allclose(found, np.sqrt(brightness), rtol=0.1)
    _, after = noise(2 * np.sqrt(counts + 0.375), light, 4)
    np.testing.assert_allclose(after, 1, atol=0.05)
