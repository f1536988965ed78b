"""Uneven light: found from a plate's fields, taken from files, and divided out."""

import dataclasses
import json

import numpy as np
import pytest
import tifffile
from helpers import tiny_rows, write_screen
from test_preprocess import contents, interrupted, refused, run

from mcnn_core import preprocessing
from mcnn_core.illumination import LEAST, divided, plate_function, read_function
from mcnn_core.readers.images import image_paths
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.store import Store

Y, X = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 48), indexing="ij")
LAMP = (1 - 0.2 * (Y**2 + X**2)) * (1 + 0.15 * X)
LAMP /= LAMP.mean()


@pytest.fixture
def screen(tmp_path):
    """Return two plates of 40 fields whose light falls off, all else being noise."""
    wells = tuple(f"{row}{column:02d}" for row in "BCDE" for column in range(1, 11))
    screen = read_loaddata(write_screen(tmp_path, tiny_rows(2, wells, 1), (40, 48)))
    for paths in image_paths(screen):
        for path in paths:
            counts = 10 * tifffile.imread(path) * LAMP
            tifffile.imwrite(path, np.rint(counts).astype(np.uint16))
    return screen


def given(screen, tmp_path, functions):
    """Return the screen with columns that name functions, by plate and channel."""
    (tmp_path / "illum").mkdir()
    table = screen.table.copy()
    for channel in screen.channels:
        for plate in ("P1", "P2"):
            np.save(tmp_path / "illum" / f"{plate}_{channel}.npy", functions[plate, channel])
        table[f"FileName_Illum{channel}"] = table["Metadata_Plate"] + f"_{channel}.npy"
        table[f"PathName_Illum{channel}"] = "illum"
    return dataclasses.replace(screen, table=table)


def unevenness(store):
    """Return the root mean square by which the means of 8 x 8 parts differ, as a fraction."""
    field = store.pixels[:, :40, :48].astype(float).mean(0)
    parts = field.reshape(5, 8, 6, 8, -1).mean((1, 3))
    return (parts / parts.mean((0, 1))).std()


def test_the_light_of_a_plate_is_found_and_divided_out(screen, tmp_path):
    before = run(screen, tmp_path / "before")
    after = run(screen, tmp_path / "after", illumination="plate", workers=3)
    found = np.load(tmp_path / "after" / "illumination-1.npy")
    assert found.shape == (2, 40, 48) and found.dtype == np.float32
    assert np.sqrt(((found / LAMP - 1) ** 2).mean()) < 0.03 < LAMP.std()
    assert unevenness(after) < unevenness(before) / 3
    assert "illumination" not in before.manifest and after.manifest["illumination"] == "plate"
    alone = run(screen, tmp_path / "alone", illumination="plate", workers=1)
    assert contents(tmp_path / "alone") == contents(tmp_path / "after")
    assert alone.manifest["sha256"] != before.manifest["sha256"]


def test_a_dark_corner_does_not_explode_and_a_dark_channel_stays():
    mean = np.full((40, 40), 1000.0)
    mean[:20, :20] = 0
    assert plate_function(mean).min() == np.float32(LEAST)
    assert (plate_function(np.zeros((5, 7))) == 1).all()
    counts = divided(np.array([[0, 7, 65_535]], np.uint16), np.float32([[0.2, 2, 0.5]]))
    assert counts.dtype == np.uint16 and counts.tolist() == [[0, 4, 65_535]]


@pytest.mark.parametrize("bin", [1, 3])
def test_given_functions_are_applied_whatever_their_scale(screen, tmp_path, bin):
    names = [(plate, channel) for plate in ("P1", "P2") for channel in screen.channels]
    screen = given(screen, tmp_path, dict.fromkeys(names, 0.001 * LAMP))
    store = run(screen, tmp_path / "store", illumination="given", bin=bin)
    found = np.load(tmp_path / "store" / "illumination-0.npy")
    blocks = LAMP[: 40 // bin * bin].reshape(40 // bin, bin, 48 // bin, bin).mean((1, 3))
    np.testing.assert_allclose(found, [blocks / blocks.mean()] * 2, rtol=1e-5)
    if bin == 1:
        assert unevenness(store) < unevenness(run(screen, tmp_path / "none")) / 3


def test_unusable_functions_are_named_together(screen, tmp_path):
    wrong = LAMP.copy()
    wrong[3, 4], wrong[5, 6] = np.nan, 0
    functions = {
        ("P1", "DNA"): LAMP[:-1],
        ("P1", "Actin"): wrong,
        ("P2", "DNA"): LAMP.astype(str),
        ("P2", "Actin"): LAMP,
    }
    screen = given(screen, tmp_path, functions)
    illum = tmp_path / "illum"
    (illum / "P2_Actin.npy").unlink()
    screen.table.loc[3, "FileName_IllumActin"] = "other.npy"
    np.save(illum / "other.npy", LAMP)
    assert refused(screen, tmp_path / "store", illumination="given").problems == [
        f"plate P1, channel DNA: {illum}/P1_DNA.npy: expected numbers of shape (40, 48), got "
        "float64 of shape (39, 48)",
        f"plate P2, channel DNA: {illum}/P2_DNA.npy: expected numbers of shape (40, 48), got "
        "<U32 of shape (40, 48)",
        f"plate P1, channel Actin: {illum}/P1_Actin.npy: expected finite numbers above 0, got 2 "
        "that are not",
        f"plate P2, channel Actin: {illum}/P2_Actin.npy: no such file",
        "plate P1, channel Actin: expected one file, got 2",
    ]
    table = screen.table.drop(columns=["FileName_IllumDNA"])
    error = refused(dataclasses.replace(screen, table=table), tmp_path / "s", illumination="given")
    assert error.problems[0] == "channel DNA: expected a column FileName_IllumDNA, got none"


def test_a_file_that_is_no_array_is_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("light")
    np.savez(tmp_path / "several", LAMP)
    for name in ("objects.npy", "text.npy", "several.npz"):
        with pytest.raises(preprocessing.InputError, match=r"expected an array in a \.npy file"):
            read_function(tmp_path / name, (40, 48))


def test_a_killed_run_resumes(screen, tmp_path, monkeypatch):
    run(screen, tmp_path / "at once", illumination="plate")
    plain, summed = preprocessing._sum, []
    interrupted(screen, tmp_path / "store", after=4, illumination="plate")
    monkeypatch.setattr(preprocessing, "_sum", lambda *a: [summed.append(a[2]), plain(*a)][1])
    run(screen, tmp_path / "store", illumination="plate")
    assert sorted(summed) == [40, 56, 72]  # of the second plate only
    assert contents(tmp_path / "store") == contents(tmp_path / "at once")
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert list(facts["functions"]["P2"]) == ["illumination-1.npy"]
    Store.open(tmp_path / "store").verify()


def test_a_damaged_function_is_made_again(screen, tmp_path):
    run(screen, tmp_path / "at once", illumination="plate")
    interrupted(screen, tmp_path / "store", after=4, illumination="plate")
    path = next((tmp_path / ".store.work").glob("*/illumination-0.npy"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    run(screen, tmp_path / "store", illumination="plate")
    assert contents(tmp_path / "store") == contents(tmp_path / "at once")


def test_an_unreadable_image_is_named_once(screen, tmp_path):
    path = image_paths(screen)[4][0]
    tifffile.imwrite(path, np.zeros((40, 48), np.uint16), compression="zlib")
    with open(path, "r+b") as file:
        file.seek(-40, 2)
        file.write(bytes(40))
    error = refused(screen, tmp_path / "store", illumination="plate")
    assert sum(str(path) in problem for problem in error.problems) == len(error.problems) == 1
