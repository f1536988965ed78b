import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import tiny_rows, write_screen
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnn_core.errors import InputError
from mcnn_core.files import sha256
from mcnn_core.images import image_paths, read_field
from mcnn_core.preprocess import (COUNTS, PERCENTILES, REFERENCES, Z_RANGE, Store, anscombe, auto_bin, bin_counts, histogram_percentiles, padding,
                                  preprocess)
from mcnn_core.screen import read_loaddata


@pytest.fixture
def screen(tmp_path):
    return read_loaddata(write_screen(tmp_path))


def run(screen, folder, **options):
    return preprocess(screen, folder, progress=False, **options)


def refused(screen, folder, **options) -> InputError:
    with pytest.raises(InputError) as error:
        run(screen, folder, **options)
    assert not list(folder.parent.glob("*store*")), "something half-written is left"
    return error.value


def plain(screen, reference, multiple):
    """The textbook version, with floats of whole plates."""
    fields = anscombe(np.stack([read_field(screen, row) for row in range(len(screen.table))]))
    out = np.empty(fields.shape, np.uint8)
    for _, rows in screen.table.groupby("Metadata_Plate").indices.items():
        if reference == "dmso":
            control = fields[rows][screen.table["Metadata_control_type"].to_numpy()[rows] == "negcon"]
            low, high = (control.mean((0, 1, 2)) + z * control.std((0, 1, 2)) for z in Z_RANGE)
        else:
            low, high = np.percentile(fields[rows], PERCENTILES, axis=(0, 1, 2))
        out[rows] = np.rint(np.clip((fields[rows] - low) / (high - low), 0, 1) * 255)
    bottom, right = padding(fields.shape[1:3], multiple)
    return np.pad(out, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_store_equals_the_plain_computation(screen, tmp_path, reference, workers):
    store = run(screen, tmp_path / "store", reference=reference, multiple=10, workers=workers)
    expected = plain(screen, reference, 10)
    assert store.shape == expected.shape == (8, 20, 20, 2) and store.pixels.dtype == np.uint8
    # Sums in another order may move a value that lies on the edge between two grey levels.
    assert (np.abs(store.pixels.astype(int) - expected) <= 1).all() and (store.pixels != expected).mean() < 1e-3


def test_manifest_says_what_was_done(screen, tmp_path):
    store = run(screen, tmp_path / "store", bin=2, multiple=8)
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert facts == store.manifest
    assert (facts["shape"], facts["field"], facts["padding"], facts["bin"]) == ([8, 8, 8, 2], [6, 8], [2, 0], 2)
    assert (facts["reference"], facts["channels"], set(facts["limits"])) == ("plate-percentile", ["DNA", "Actin"], {"P1", "P2"})
    assert facts["sha256"] == sha256(tmp_path / "store" / "pixels.npy")
    assert all(low < high for plate in facts["limits"].values() for low, high in plate.values())


def test_the_result_depends_on_neither_workers_nor_run(screen, tmp_path):
    sums = {run(screen, tmp_path / f"store{workers}", workers=workers).manifest["sha256"] for workers in (1, 2, 5)}
    assert len(sums) == 1


def test_plates_are_normalised_apart(tmp_path):
    screen = read_loaddata(write_screen(tmp_path))
    bright = [path for row, paths in enumerate(image_paths(screen)) if screen.table["Metadata_Plate"][row] == "P2" for path in paths]
    for path in bright:
        tifffile.imwrite(path, tifffile.imread(path.replace("P2", "P1")) * 4)
    store = run(screen, tmp_path / "store", multiple=1)
    assert np.abs(store.pixels[:4].astype(int) - store.pixels[4:]).max() <= 4, "a gain of 4 is all but undone"


@pytest.mark.parametrize("percent", [(0.1, 99.9), (0, 50, 100), (33.3,)])
@given(st.lists(st.integers(0, COUNTS - 1), min_size=1, max_size=60))
def test_percentiles_equal_numpy(percent, counts):
    expected = np.percentile(anscombe(np.array(counts)), percent)
    found = histogram_percentiles(np.bincount(counts, minlength=COUNTS), percent)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_anscombe_stabilises_the_variance():
    rng = np.random.default_rng(0)
    for mean in (10, 100, 10_000):
        assert anscombe(rng.poisson(mean, 200_000)).var() == pytest.approx(1, abs=0.03)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 64))
def test_padding_is_least(height, width, multiple):
    bottom, right = padding((height, width), multiple)
    assert 0 <= bottom < multiple and 0 <= right < multiple
    assert (height + bottom) % multiple == (width + right) % multiple == 0


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(5, 23), st.integers(5, 23), st.integers(0, 2**32 - 1))
def test_bins_are_rounded_means(size, height, width, seed):
    image = np.random.default_rng(seed).integers(0, COUNTS, (height, width), dtype=np.uint16)
    binned = bin_counts(image, size)
    assert binned.dtype == np.uint16 and binned.shape == (height // size, width // size)
    block = image[:size, size * (width // size - 1):size * (width // size)]
    assert abs(int(binned[0, -1]) - block.mean()) <= 0.5


@pytest.mark.parametrize(("shape", "n_fields", "size"), [((128, 160), 2_472, 1), ((64, 64), 1_996, 1), ((1024, 1280), 2_000, 6), ((1024, 1280), 13_200, 8),
                                                       ((2048, 2048), 500, 11), ((128, 160), 10**6, 1)])
def test_auto_bin(shape, n_fields, size):
    assert auto_bin(shape, n_fields) == size


# ---------------------------------------------------------------------------- bad input

def test_constant_fields_are_named_together(screen, tmp_path):
    paths = image_paths(screen)
    for path in (paths[1][0], paths[6][1]):
        tifffile.imwrite(path, np.full((12, 16), 7, np.uint16))
    error = refused(screen, tmp_path / "store")
    assert len(error.problems) == 2 and "every pixel is 7 (row 1 of the table: plate P1, well B02, site 2, channel DNA)" in error.problems[0]
    assert paths[6][1] in error.problems[1] and "plate P2, well C03, site 1, channel Actin" in error.problems[1]


def test_pixels_that_fail_only_in_decoding_are_named(screen, tmp_path):
    path = Path(image_paths(screen)[4][0])
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 60_000, (12, 16), dtype=np.uint16), compression="zlib")
    whole = bytearray(path.read_bytes())
    whole[-100:-50] = bytes(50)
    path.write_bytes(whole)
    error = refused(screen, tmp_path / "store")
    assert len(error.problems) == 1 and str(path) in error.problems[0] and "row 4 of the table" in error.problems[0]


def test_wrong_headers_stop_before_anything_is_written(screen, tmp_path):
    tifffile.imwrite(image_paths(screen)[0][0], np.zeros((12, 16), np.float32))
    assert "float32" in refused(screen, tmp_path / "store").problems[0]


def test_plates_without_controls_are_named_together(tmp_path):
    rows = tiny_rows(plates=3)
    rows.loc[rows["Metadata_Plate"] != "P2", "Metadata_Compound"] = "drug"
    rows["Metadata_MoA"] = ""
    screen = read_loaddata(write_screen(tmp_path, rows))
    assert refused(screen, tmp_path / "store", reference="dmso").problems == ["plate P1", "plate P3"]
    assert run(screen, tmp_path / "store").shape[0] == len(rows)


def test_a_plate_without_spread_is_named(screen, tmp_path):
    for paths in image_paths(screen)[:4]:
        dark = np.full((40, 40), 3, np.uint16)
        dark[0, 0] = 4
        tifffile.imwrite(paths[0], dark)
        tifffile.imwrite(paths[1], dark + np.arange(40, dtype=np.uint16))
    for paths in image_paths(screen)[4:]:
        for path in paths:
            tifffile.imwrite(path, np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16))
    assert refused(screen, tmp_path / "store").problems == ["plate P1, channel DNA: the reference 'plate-percentile' has no spread; take another"]


@pytest.mark.parametrize("options", [{"reference": "best"}, {"bin": 0}, {"multiple": 0}, {"workers": 0}, {"bin": 13}])
def test_wrong_options_are_refused(screen, tmp_path, options):
    refused(screen, tmp_path / "store", **options)


def test_a_killed_run_leaves_no_store_and_an_old_one_stays(screen, tmp_path):
    old = run(screen, tmp_path / "store").manifest["sha256"]
    code = ("import os, sys; from mcnn_core import preprocess; from mcnn_core.screen import read_loaddata\n"
            "preprocess._write = lambda *_: os._exit(9)\n"
            "preprocess.preprocess(read_loaddata(sys.argv[1]), sys.argv[2], reference='dmso', progress=False)")
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "screen.csv", tmp_path / "store"], check=False).returncode == 9
    assert Store.open(tmp_path / "store").manifest["sha256"] == old


def test_a_damaged_store_is_refused(screen, tmp_path):
    folder = tmp_path / "store"
    with pytest.raises(InputError, match="holds no whole store"):
        Store.open(folder)
    run(screen, folder)
    whole = (folder / "pixels.npy").read_bytes()
    (folder / "pixels.npy").write_bytes(whole[:-1])
    with pytest.raises(InputError, match="holds no whole store"):
        Store.open(folder)
    np.save(folder / "pixels.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="where store.json says"):
        Store.open(folder)


# --------------------------------------------------------------------------- real pixels

@pytest.mark.parametrize("reference", REFERENCES)
def test_real_fields(shared_data, tmp_path, reference):
    folder = shared_data / "bbbc021" / "fields"
    rows = pd.DataFrame({"Metadata_Plate": "Week2_24381", "Metadata_Well": "B02", "Metadata_Site": [1, 2], "Metadata_Compound": "DMSO"})
    for channel, wheel in {"DAPI": 1, "Actin": 4, "Tubulin": 2}.items():
        rows[f"FileName_{channel}"] = [next(folder.glob(f"*_s{site}_w{wheel}*.tif")).name for site in (1, 2)]
        rows[f"PathName_{channel}"] = str(folder)
    rows.to_csv(tmp_path / "screen.csv", index=False)
    screen = read_loaddata(tmp_path / "screen.csv", root=folder)
    store = run(screen, tmp_path / "store", reference=reference, multiple=128)
    assert store.shape == (2, 1024, 1280, 3)
    pixels = store.pixels.reshape(-1, 3)
    if reference == "plate-percentile":
        assert ((pixels == 255).mean(0) < 0.0015).all() and ((pixels == 0).mean(0) < 0.003).all()
    else:
        np.testing.assert_allclose(pixels.mean(0), 51, atol=0.2)
        assert ((pixels == 255).mean(0) < 1e-4).all() and ((pixels == 0).mean(0) == 0).all()
