import hashlib
import json
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers import tiny_rows, write_screen
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnn_book.__main__ import main
from mcnn_core import preprocessing as module
from mcnn_core.errors import InputError
from mcnn_core.machine.files import write_json
from mcnn_core.preprocessing import (
    COUNTS,
    PERCENTILES,
    REFERENCES,
    Z_RANGE,
    Conversion,
    anscombe,
    auto_bin,
    bin_counts,
    histogram_percentiles,
    padding,
    preprocess,
)
from mcnn_core.readers.images import image_paths, read_field
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.screen import save_screen
from mcnn_core.store import Store
from tests.children import child


@pytest.fixture
def screen(tmp_path):
    return read_loaddata(write_screen(tmp_path))


def run(screen, folder, workers=2, **options):
    return preprocess(screen, folder, Conversion(**options), workers, progress=False)


def refused(screen, folder, **options) -> InputError:
    with pytest.raises(InputError) as error:
        run(screen, folder, **options)
    assert not list(folder.parent.glob("*store*")), "something half-written is left"
    return error.value


def plain(screen, reference, multiple):
    """Compute the textbook version, with floats of whole plates."""
    fields = anscombe(np.stack([read_field(screen, row) for row in range(len(screen.table))]))
    out = np.empty(fields.shape, np.uint8)
    for _, rows in screen.table.groupby("Metadata_Plate").indices.items():
        if reference == "dmso":
            control = fields[rows][
                screen.table["Metadata_control_type"].to_numpy()[rows] == "negcon"
            ]
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
    assert (np.abs(store.pixels.astype(int) - expected) <= 1).all() and (
        store.pixels != expected
    ).mean() < 1e-3


def test_manifest_says_what_was_done(screen, tmp_path):
    store = run(screen, tmp_path / "store", bin=2, multiple=8)
    facts = json.loads((tmp_path / "store" / "store.json").read_text())
    assert facts == store.manifest
    assert (facts["shape"], facts["field"], facts["padding"], facts["bin"]) == (
        [8, 8, 8, 2],
        [6, 8],
        [2, 0],
        2,
    )
    assert (facts["reference"], facts["channels"], set(facts["limits"])) == (
        "plate-percentile",
        ["DNA", "Actin"],
        {"P1", "P2"},
    )
    assert [(block["plate"], block["first"], block["fields"]) for block in facts["blocks"]] == [
        ("P1", 0, 4),
        ("P2", 4, 4),
    ]
    halves = [hashlib.sha256(store.pixels[rows]).hexdigest() for rows in (slice(0, 4), slice(4, 8))]
    assert halves == [block["sha256"] for block in facts["blocks"]]
    assert sorted(path.name for path in tmp_path.glob("*store*")) == ["store"]
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == [
        ".mcnn",
        "pixels.npy",
        "store.json",
    ]
    assert all(low < high for plate in facts["limits"].values() for low, high in plate.values())


def test_the_result_depends_on_neither_workers_nor_run(screen, tmp_path):
    sums = {
        run(screen, tmp_path / f"store{workers}", workers=workers).manifest["sha256"]
        for workers in (1, 2, 5)
    }
    assert len(sums) == 1


def test_plates_are_normalised_apart(tmp_path):
    screen = read_loaddata(write_screen(tmp_path))
    bright = [
        path
        for row, paths in enumerate(image_paths(screen))
        if screen.table["Metadata_Plate"][row] == "P2"
        for path in paths
    ]
    for path in bright:
        tifffile.imwrite(path, tifffile.imread(path.replace("P2", "P1")) * 4)
    store = run(screen, tmp_path / "store", multiple=1)
    assert np.abs(store.pixels[:4].astype(int) - store.pixels[4:]).max() <= 4, (
        "a gain of 4 is all but undone"
    )


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
    block = image[:size, size * (width // size - 1) : size * (width // size)]
    assert abs(int(binned[0, -1]) - block.mean()) <= 0.5


@pytest.mark.parametrize(
    ("shape", "n_fields", "size"),
    [
        ((128, 160), 2_472, 1),
        ((64, 64), 1_996, 1),
        ((1024, 1280), 2_000, 6),
        ((1024, 1280), 13_200, 8),
        ((2048, 2048), 500, 11),
        ((128, 160), 10**6, 1),
    ],
)
def test_auto_bin(shape, n_fields, size):
    assert auto_bin(shape, n_fields) == size


# ---------------------------------------------------------------------------- bad input


def test_constant_fields_are_kept_and_named_together(screen, tmp_path, capsys):
    paths = image_paths(screen)
    for path in (paths[1][0], paths[6][1]):
        tifffile.imwrite(path, np.full((12, 16), 7, np.uint16))
    store = run(screen, tmp_path / "store")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "2 constant images, which are kept:",
        "  - row 1 of the table: plate P1, well B02, site 2, channel DNA: every pixel is 7",
        "  - row 6 of the table: plate P2, well C03, site 1, channel Actin: every pixel is 7",
    ]
    assert (
        np.ptp(store.pixels[1, ..., 0]) == 0
        and np.ptp(store.pixels[1, ..., 1]) > 0
        and np.ptp(store.pixels[6, ..., 1]) == 0
    )
    run(screen, tmp_path / "store")
    screen = read_loaddata(write_screen(tmp_path / "other"))
    run(screen, tmp_path / "without")
    assert capsys.readouterr().out.count("constant") == 1  # the same two again


def test_pixels_that_fail_only_in_decoding_are_named(screen, tmp_path):
    path = Path(image_paths(screen)[4][0])
    tifffile.imwrite(
        path,
        np.random.default_rng(0).integers(0, 60_000, (12, 16), dtype=np.uint16),
        compression="zlib",
    )
    whole = bytearray(path.read_bytes())
    whole[-100:-50] = bytes(50)
    path.write_bytes(whole)
    error = refused(screen, tmp_path / "store")
    assert (
        len(error.problems) == 1
        and str(path) in error.problems[0]
        and "row 4 of the table" in error.problems[0]
    )


def test_wrong_headers_stop_before_anything_is_written(screen, tmp_path):
    tifffile.imwrite(image_paths(screen)[0][0], np.zeros((12, 16), np.complex64))
    assert "float32" in refused(screen, tmp_path / "store").problems[0]


def test_plates_without_controls_are_named_together(tmp_path):
    rows = tiny_rows(plates=3)
    rows.loc[rows["Metadata_Plate"] != "P2", "Metadata_Compound"] = "drug"
    rows["Metadata_MoA"] = ""
    screen = read_loaddata(write_screen(tmp_path, rows))
    assert refused(screen, tmp_path / "store", reference="dmso").problems == [
        "plate P1",
        "plate P3",
    ]
    assert run(screen, tmp_path / "store").shape[0] == len(rows)


def test_a_plate_without_spread_is_named(screen, tmp_path):
    for paths in image_paths(screen)[:4]:
        dark = np.full((40, 40), 3, np.uint16)
        dark[0, 0] = 4
        tifffile.imwrite(paths[0], dark)
        tifffile.imwrite(paths[1], dark + np.arange(40, dtype=np.uint16))
    for paths in image_paths(screen)[4:]:
        for path in paths:
            tifffile.imwrite(
                path, np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16)
            )
    assert refused(screen, tmp_path / "store").problems == [
        "plate P1, channel DNA: the reference 'plate-percentile' has no spread; take another"
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"reference": "best"},
        {"illumination": "best"},
        {"bin": 0},
        {"multiple": 0},
        {"workers": 0},
        {"bin": 13},
    ],
)
def test_wrong_options_are_refused(screen, tmp_path, options):
    refused(screen, tmp_path / "store", **options)


def test_an_image_that_changes_while_it_is_read_is_named(screen, tmp_path, monkeypatch):
    plain, path = module._write, image_paths(screen)[5][1]
    monkeypatch.setattr(
        module, "_write", lambda *arguments: [plain(*arguments), os.utime(path, (1, 1))][0]
    )
    assert refused(screen, tmp_path / "store").problems == [
        f"{path} has changed while the screen was read"
    ]

    def shrunk(images, *arguments):
        # Only now, when all its plate has been counted.
        if any(path == one.path for field in images for one in field):
            tifffile.imwrite(path, np.zeros((9, 9), np.uint16))
        return plain(images, *arguments)

    monkeypatch.setattr(module, "_write", shrunk)
    with pytest.raises(InputError, match="has changed while the screen was read: 9 x 9 pixels now"):
        run(screen, tmp_path / "store")


# ------------------------------------------------------------------- interrupted runs

#: Written as a program of its own, so that it can be killed by the system: once so many blocks are
#: written, and the plates that are finished by them kept, it leaves half a block and dies.
DIES = """
import os, pathlib, signal, sys, time
from mcnn_core import preprocessing as preprocess
from mcnn_core.readers.loaddata import read_loaddata

preprocess.BLOCK, plain, done = 2, preprocess._write, []

def write(images, source, extra, limits, file, offset):
    if len(done) == int(sys.argv[3]):
        while len(list(pathlib.Path(file).parents[1].glob("[!.]*-*.json"))) < len(done) // 2:
            time.sleep(0.01)  # another thread keeps what this one has done
        handle = os.open(file, os.O_WRONLY)
        os.pwrite(handle, bytes([99]) * 50, offset)
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(offset)
    return plain(images, source, extra, limits, file, offset)

preprocess._write = write
preprocess.preprocess(
    read_loaddata(sys.argv[1]), sys.argv[2], preprocess.Conversion(sys.argv[4]), 1, False)
"""


def killed(tmp_path, after=3, reference="plate-percentile"):
    ended = child(DIES, tmp_path / "screen.csv", tmp_path / "store", after, reference)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / ".store.work").is_dir()


def interrupted(screen, folder, after=3, **options):
    """Do the same in this process, quicker."""
    plain, done = module._write, []

    def write(*arguments):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(0)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "_write", write)
        run(screen, folder, workers=1, **options)


@pytest.fixture
def in_pairs(monkeypatch):
    """Write blocks of two fields.

    Returns the list that the first row of each block written is added to.
    """
    written, plain = [], module._write
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(
        module,
        "_write",
        lambda *arguments: [
            written.append((arguments[-1] - 128) // (32 * 32 * 2)),
            plain(*arguments),
        ][1],
    )
    return written


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def undisturbed(screen, tmp_path, in_pairs):
    run(screen, tmp_path / "at once")
    assert sorted(in_pairs) == [0, 2, 4, 6]
    in_pairs.clear()
    return contents(tmp_path / "at once")


def test_a_killed_run_leaves_no_store_and_an_old_one_stays(screen, tmp_path):
    old = run(screen, tmp_path / "store").manifest["sha256"]
    killed(tmp_path, reference="dmso")
    assert Store.open(tmp_path / "store").manifest["sha256"] == old


@pytest.mark.parametrize("after, left", [(1, 4), (2, 2), (3, 2)])
def test_a_killed_run_resumes_with_the_unfinished_plates(
    screen, tmp_path, undisturbed, in_pairs, after, left
):
    killed(tmp_path, after)
    write_json(tmp_path / ".store.work" / "shared-5", {})
    run(screen, tmp_path / "store")
    assert len(in_pairs) == left and sorted(in_pairs) in ([0, 2], [4, 6], [0, 2, 4, 6])
    assert contents(tmp_path / "store") == undisturbed
    assert not (tmp_path / ".store.work").exists()


def test_a_block_that_the_kill_has_damaged_is_done_again(screen, tmp_path, undisturbed, in_pairs):
    interrupted(screen, tmp_path / "store")
    in_pairs.clear()
    pixels = next((tmp_path / ".store.work").glob("*/pixels.npy"))
    with open(pixels, "r+b") as file:
        file.seek(128 + 32 * 32 * 2 + 7)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    run(screen, tmp_path / "store")
    assert 0 in in_pairs and contents(tmp_path / "store") == undisturbed


@pytest.mark.parametrize("changed", ["image", "options", "note", "pixels", "size"])
def test_what_was_done_for_something_else_does_not_count(
    screen, tmp_path, undisturbed, in_pairs, changed
):
    interrupted(screen, tmp_path / "store")
    in_pairs.clear()
    path, pixels = image_paths(screen)[7][0], next((tmp_path / ".store.work").glob("*/pixels.npy"))
    if changed == "image":
        tifffile.imwrite(path, tifffile.imread(path) + np.uint16(100))
    if changed == "note":
        os.truncate(next((tmp_path / ".store.work").glob("[!.]*-*.json")), 50)
    if changed == "pixels":
        pixels.write_bytes(b"")
    if changed == "size":
        pixels.write_bytes(pixels.read_bytes() + b"x")
    store = run(
        screen, tmp_path / "store", reference="dmso" if changed == "options" else "plate-percentile"
    )
    assert sorted(in_pairs) == [0, 2, 4, 6]
    store.verify()
    assert (contents(tmp_path / "store") == undisturbed) == (changed in ("note", "pixels", "size"))


def test_interrupted_when_all_was_done(screen, tmp_path, undisturbed, in_pairs, monkeypatch):
    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "put", dies)
        with pytest.raises(KeyboardInterrupt):
            run(screen, tmp_path / "store")
    in_pairs.clear()
    run(screen, tmp_path / "store")
    assert not in_pairs and contents(tmp_path / "store") == undisturbed


def test_two_runs_of_one_store(screen, tmp_path, undisturbed, monkeypatch):
    """The second says so and leaves the first alone."""
    plain, begun, go_on = module._write, threading.Event(), threading.Event()

    def waits(*arguments):
        begun.set()
        assert go_on.wait(60)
        return plain(*arguments)

    monkeypatch.setattr(module, "_write", waits)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(run, screen, tmp_path / "store")
        assert begun.wait(60)
        with pytest.raises(InputError, match="is in use by another run"):
            run(screen, tmp_path / "store", reference="dmso")
        go_on.set()
        first.result()
    assert contents(tmp_path / "store") == undisturbed


def test_a_full_disk_stops_the_run_which_goes_on_when_there_is_room(
    screen, tmp_path, undisturbed, in_pairs
):
    code = (
        "import resource, signal, sys; from mcnn_core import preprocessing as preprocess\n"
        "from mcnn_core.readers.loaddata import read_loaddata\n"
        "preprocess.BLOCK = 2; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "plain = preprocess._write\n"
        "preprocess._write = lambda *given: "
        "[resource.setrlimit(resource.RLIMIT_FSIZE, (10000, -1)), plain(*given)][1]\n"
        "preprocess.preprocess(read_loaddata(sys.argv[1]), sys.argv[2], workers=1, progress=False)"
    )
    found = child(code, tmp_path / "screen.csv", tmp_path / "store")
    assert found.returncode == 1 and (
        "File too large" in found.stderr or "no space left for the store" in found.stderr
    )
    assert not (tmp_path / "store").exists()
    run(screen, tmp_path / "store")
    assert (
        sorted(in_pairs) in ([4, 6], [0, 2, 4, 6]) and contents(tmp_path / "store") == undisturbed
    )


# ------------------------------------------------------------------------ the store itself


def test_altered_blocks_are_named_together(screen, tmp_path, in_pairs):
    store = run(screen, tmp_path / "store")
    store.verify()
    for row in (1, 5):
        with open(tmp_path / "store" / "pixels.npy", "r+b") as file:
            file.seek(128 + row * 32 * 32 * 2 + 1000)
            file.write(bytes([int(store.pixels[row].ravel()[1000]) ^ 1]))
    store = Store.open(tmp_path / "store")
    with pytest.raises(InputError) as error:
        store.verify()
    assert (
        error.value.problems == ["plate P1: fields 0 to 1", "plate P2: fields 4 to 5"]
        and "2 of 4 blocks" in error.value.what
    )
    with pytest.raises(InputError) as error:
        store.verify([7, 6, 5])
    assert error.value.problems == ["plate P2: fields 4 to 5"]
    store.verify([2, 3, 7])
    store.verify([])


def test_fields_of_one_plate_need_not_lie_together(tmp_path):
    rows = tiny_rows(plates=2).sort_values(["Metadata_Site", "Metadata_Plate"], kind="stable")
    screen = read_loaddata(write_screen(tmp_path, rows))
    assert [block["first"] for block in run(screen, tmp_path / "store").manifest["blocks"]] == [
        0,
        4,
        2,
        6,
    ]
    expected = plain(screen, "plate-percentile", 32)
    assert (np.abs(Store.open(tmp_path / "store").pixels.astype(int) - expected) <= 1).all()


def test_a_store_is_sent_as_its_folder(screen, tmp_path):
    store = run(screen, tmp_path / "store")
    sent = pickle.dumps(store)
    assert len(sent) < 500 and (pickle.loads(sent).pixels == store.pixels).all()
    run(screen, tmp_path / "store", reference="dmso")
    with pytest.raises(InputError, match="holds another store than the one that was sent"):
        pickle.loads(sent)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: b"",
        lambda whole: whole[:60],
        lambda whole: whole.replace(b"False", b"True ", 1),
    ],
)
def test_a_file_of_another_size_or_form_is_refused(screen, tmp_path, damage):
    folder = tmp_path / "store"
    with pytest.raises(InputError, match="holds no whole store"):
        Store.open(folder)
    run(screen, folder)
    whole = (folder / "pixels.npy").read_bytes()
    (folder / "pixels.npy").write_bytes(damage(whole))
    with pytest.raises(InputError, match="pre-process again"):
        Store.open(folder)


def test_a_damaged_store_is_refused(screen, tmp_path):
    folder = tmp_path / "store"
    run(screen, folder)
    manifest = (folder / "store.json").read_text()
    for one, other in (
        ('"bin": 1', '"bin": 2'),
        ('"fields": 4', '"fields": 3'),
        ('"sha256": "', '"sha256": "0'),
    ):
        (folder / "store.json").write_text(manifest.replace(one, other, 1))
        with pytest.raises(InputError, match="has been altered, it does not match its own SHA-256"):
            Store.open(folder)
    (folder / "store.json").write_text(manifest[:-20])
    with pytest.raises(InputError, match="holds no whole store"):
        Store.open(folder)
    (folder / "store.json").write_text(manifest)
    np.save(folder / "pixels.npy", np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match=r"as store\.json says"):
        Store.open(folder)


# ------------------------------------------------------------------------- the command line


def test_the_command_line(screen, tmp_path, capsys):
    def run(screen, store):
        sizes = ["--multiple", "10", "--bin", "2"]
        main(["preprocess", "--screen", str(screen), "--out", str(store), *sizes])

    run(tmp_path / "screen.csv", tmp_path / "store")
    assert (
        capsys.readouterr().out
        == f"{tmp_path / 'store'}: 8 x 10 x 10 x 2 (fields, height, width, channels)\n"
    )
    save_screen(screen, tmp_path / "out")
    run(tmp_path / "out", tmp_path / "again")
    assert contents(tmp_path / "store") == contents(tmp_path / "again")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--screen", "nowhere"], "neither a LoadData .csv nor a folder"),
        (["--screen", "nowhere.csv"], "nowhere.csv"),
        (["--scheduler", "nonsense"], "no scheduler answers at 'nonsense'"),
    ],
)
def test_a_wrong_command_line_ends_in_one_message(screen, tmp_path, monkeypatch, given, message):
    monkeypatch.setattr("mcnn_core.machine.scheduler.PATIENCE", 1.0)
    with pytest.raises(SystemExit, match=r"^error: ") as error:
        main(
            [
                "preprocess",
                "--screen",
                str(tmp_path / "screen.csv"),
                "--out",
                str(tmp_path / "store"),
                *given,
            ]
        )
    assert message in str(error.value)


# --------------------------------------------------------------------------- real pixels


@pytest.mark.parametrize("reference", REFERENCES)
def test_real_fields(shared_data, tmp_path, reference):
    folder = shared_data / "bbbc021" / "fields"
    rows = pd.DataFrame(
        {
            "Metadata_Plate": "Week2_24381",
            "Metadata_Well": "B02",
            "Metadata_Site": [1, 2],
            "Metadata_Compound": "DMSO",
        }
    )
    for channel, wheel in {"DAPI": 1, "Actin": 4, "Tubulin": 2}.items():
        rows[f"FileName_{channel}"] = [
            next(folder.glob(f"*_s{site}_w{wheel}*.tif")).name for site in (1, 2)
        ]
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
