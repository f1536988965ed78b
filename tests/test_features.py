import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import write_store
from sklearn.decomposition import PCA

from mcnn_book.__main__ import main
from mcnn_core import features as features_module
from mcnn_core import model as model_module
from mcnn_core.errors import InputError
from mcnn_core.features import embed, embed_screen
from mcnn_core.machine import files
from mcnn_core.model import CONFIGS, MCNN
from mcnn_core.profiles import feature_frame, fit_pca
from mcnn_core.training import Recipe, load_model, train


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 64, 3), dtype=np.uint8)
    return write_store(tmp_path_factory.mktemp("pixels") / "store", pixels)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MCNN(CONFIGS["default"], 4, 3, 32, 64).eval()


def frame(n=40, d=6, seed=0, training=True):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * [5, 4, 3, 2, 1, 0.1][:d]
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P1",
            "Metadata_Well": [f"B{row:02d}" for row in range(n)],
            "Metadata_Site": 1,
            "FileName_DAPI": "x.tif",
        }
    )
    return feature_frame(table, values.astype(np.float32), np.full(n, training))


def test_embedding_does_not_depend_on_order_or_state(store, model):
    model.train()
    one = embed(model, store, range(10), progress=False)
    assert (
        one.shape == (10, 128)
        and one.dtype == np.float32
        and not model.training
        and (one >= 0).all()
    )
    assert (embed(model, store, range(10), progress=False) == one).all()
    np.testing.assert_allclose(
        embed(model, store, rows=[7, 2], batch=1, progress=False), one[[7, 2]], rtol=0.05, atol=0.02
    )
    with torch.inference_mode():
        np.testing.assert_allclose(
            one, model.embed(model.standardise(np.array(store.pixels))), rtol=0.05, atol=0.02
        )


def test_large_fields_go_one_by_one(store, model, monkeypatch):
    sizes = []
    monkeypatch.setattr("mcnn_core.features.PIXELS_AT_ONCE", 32 * 64 * 3)
    embedding = model.embed
    monkeypatch.setattr(model, "embed", lambda x, bf16: sizes.append(len(x)) or embedding(x, bf16))
    embed(model, store, range(10), progress=False)
    assert sizes == [3, 3, 3, 1]


# ---------------------------------------------------------------- the whole screen, in parts

PARTS = ["part_00000000.npy", "part_00000004.npy", "part_00000008.npy"]


@pytest.fixture
def in_fours(monkeypatch):
    """Parts of four fields; returns the list that the rows of each part computed are added to."""
    computed, plain = [], features_module.embed
    monkeypatch.setattr(features_module, "PART", 4)
    monkeypatch.setattr(
        features_module,
        "embed",
        lambda model, store, rows, **rest: (
            computed.append(list(rows)) or plain(model, store, rows, **rest)
        ),
    )
    return computed


def test_a_screen_in_parts_is_the_screen(store, model, in_fours, tmp_path):
    whole = embed_screen(model, store, tmp_path / "new" / "parts", progress=False)
    assert (
        whole.shape == (10, 128)
        and whole.dtype == np.float32
        and in_fours == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    )
    for rows in in_fours:
        np.testing.assert_array_equal(whole[rows], embed(model, store, rows, progress=False))
    np.testing.assert_allclose(
        whole, embed(model, store, range(10), progress=False), rtol=0.05, atol=0.02
    )
    assert sorted(path.name for path in (tmp_path / "new" / "parts").iterdir()) == sorted(
        [
            ".lock",
            ".mcnn",
            "embedding.json",
            "network.yml",
            *PARTS,
            *(f"{part}.sha256" for part in PARTS),
            "weights.safetensors",
        ]
    )


def test_what_is_done_is_not_done_again(store, model, in_fours, monkeypatch, tmp_path):
    expected = embed_screen(model, store, tmp_path / "once", progress=False)
    counted = features_module.embed

    def stops(model, store, rows, **rest):
        if rows[0] == 8:
            raise KeyboardInterrupt
        return counted(model, store, rows, **rest)

    monkeypatch.setattr(features_module, "embed", stops)
    with pytest.raises(KeyboardInterrupt):
        embed_screen(model, store, tmp_path / "twice", progress=False)
    assert sorted(path.name for path in (tmp_path / "twice").iterdir()) == sorted(
        [
            ".lock",
            ".mcnn",
            "embedding.json",
            "network.yml",
            *PARTS[:2],
            *(f"{part}.sha256" for part in PARTS[:2]),
            "weights.safetensors",
        ]
    )
    monkeypatch.setattr(features_module, "embed", counted)
    del in_fours[:]
    np.testing.assert_array_equal(
        embed_screen(model, store, tmp_path / "twice", progress=False), expected
    )
    assert in_fours == [[8, 9]]
    np.testing.assert_array_equal(
        embed_screen(model, store, tmp_path / "twice", progress=False), expected
    )
    assert in_fours == [[8, 9]]


HANGS_IN_THE_THIRD_PART = """
import sys, time
import torch
from mcnn_core import features
from mcnn_core.model import CONFIGS, MCNN
from mcnn_core.store import Store

torch.set_num_threads(int(sys.argv[2]))
torch.manual_seed(0)
model, plain = MCNN(CONFIGS["default"], 4, 3, 32, 64).eval(), features.embed
features.PART = 4
features.embed = lambda model, store, rows, **rest: (
    plain(model, store, rows, **rest) if rows[0] < 8 else time.sleep(600))
features.embed_screen(model, Store.open(sys.argv[3]), sys.argv[1], progress=False)
"""


def test_a_killed_run_goes_on_where_it_was(store, model, in_fours, tmp_path):
    """Killed by the system, without a chance to tidy up, in a process of its own."""
    folder = tmp_path / "parts"
    command = [
        sys.executable,
        "-c",
        HANGS_IN_THE_THIRD_PART,
        folder,
        str(torch.get_num_threads()),
        store.folder,
    ]
    process = subprocess.Popen(command, cwd=Path(features_module.__file__).parents[1])
    try:
        while not (folder / f"{PARTS[1]}.sha256").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # What a kill while writing leaves.
    half = folder / f".{PARTS[2]}.{files._here()}-{process.pid}-99.part.npy"
    half.write_bytes(b"half of it")
    finished = {name: (folder / name).stat().st_mtime_ns for name in PARTS[:2]}
    resumed = embed_screen(model, store, folder, progress=False)
    assert not half.exists()
    assert (
        in_fours == [[8, 9]]
        and {name: (folder / name).stat().st_mtime_ns for name in finished} == finished
    )
    np.testing.assert_array_equal(
        resumed, embed_screen(model, store, tmp_path / "at once", progress=False)
    )


@pytest.mark.parametrize("changed", ["weights", "statistics", "store", "part"])
def test_parts_of_anything_else_are_discarded(
    store, model, in_fours, monkeypatch, tmp_path, changed
):
    embed_screen(model, store, tmp_path, progress=False)
    stray = tmp_path / "part_00000099.npy"
    files.write_array(stray, np.zeros(1))
    del in_fours[:]
    other = MCNN(CONFIGS["default"], 4, 3, 32, 64).eval()
    other.load_state_dict(model.state_dict())
    again = store
    if changed == "weights":
        with torch.no_grad():
            next(other.parameters()).add_(0.01)
    # Of the normalisation: part of what the network does, though not trained.
    if changed == "statistics":
        next(
            buffer for name, buffer in other.named_buffers() if name.endswith("running_mean")
        ).add_(1)
    if changed == "store":
        again = write_store(tmp_path / "store", 255 - store.pixels)
    if changed == "part":
        monkeypatch.setattr(features_module, "PART", 5)
    got = embed_screen(other, again, tmp_path, progress=False)
    assert [rows[0] for rows in in_fours] == (
        [0, 5] if changed == "part" else [0, 4, 8]
    ) and not stray.exists()
    np.testing.assert_array_equal(
        got, np.concatenate([embed(other, again, rows, progress=False) for rows in in_fours])
    )
    same = MCNN(CONFIGS["default"], 4, 3, 32, 64).eval()
    same.load_state_dict(other.state_dict())
    embed_screen(same, again, tmp_path, progress=False)
    # Equal weights in another object are the same.
    assert len(in_fours) == (2 if changed == "part" else 3)


def test_parts_that_others_have_put_there_are_named_and_stay(store, model, tmp_path):
    embed_screen(model, store, tmp_path, progress=False)
    (tmp_path / "part_00000099.npy").write_text("mine")
    with pytest.raises(InputError, match="not written there by this program") as error:
        embed_screen(model, store, tmp_path, progress=False)
    assert (
        error.value.problems == ["part_00000099.npy"]
        and (tmp_path / "part_00000099.npy").read_text() == "mine"
    )


def test_the_precision_of_the_first_run_is_kept(store, model, monkeypatch, tmp_path):
    """A worker on another machine might choose another; the parts of one screen must be alike."""
    used, plain = [], features_module.embed
    monkeypatch.setattr(features_module, "PART", 4)
    monkeypatch.setattr(
        features_module,
        "embed",
        lambda *given, precision, **rest: (
            used.append(precision) or plain(*given, precision=precision, **rest)
        ),
    )
    monkeypatch.setattr(
        features_module, "bfloat16", lambda precision="auto": precision != "float32"
    )
    first = embed_screen(model, store, tmp_path, progress=False)
    (tmp_path / PARTS[1]).unlink()
    monkeypatch.setattr(
        features_module, "bfloat16", lambda precision="auto": precision == "bfloat16"
    )
    np.testing.assert_array_equal(embed_screen(model, store, tmp_path, progress=False), first)
    assert used == ["bfloat16"] * 4


def test_altered_pixels_stop_the_embedding_at_their_part(store, model, in_fours, tmp_path):
    own = write_store(tmp_path / "store", np.array(store.pixels))
    with open(own.folder / "pixels.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(bytes([int(own.pixels[-1, -1, -1, -1]) ^ 1]))
    with pytest.raises(InputError) as error:
        embed_screen(model, own, tmp_path / "parts", progress=False)
    assert error.value.problems == ["plate P1: fields 8 to 9"] and in_fours == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_altered_weights_are_not_used_and_written_anew(store, model, tmp_path, in_fours):
    before = embed_screen(model, store, tmp_path, progress=False)
    path = tmp_path / "weights.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    features_module._sent.cache_clear()
    with pytest.raises(InputError, match=r"weights\.safetensors is not what was written"):
        features_module._sent(tmp_path, model_module.digest(model))
    for lost in (PARTS[1], "network.yml"):
        (tmp_path / lost).unlink()
    assert np.array_equal(embed_screen(model, store, tmp_path, progress=False), before)


@pytest.mark.parametrize("lost", ["network.yml", "weights.safetensors", "embedding.json"])
def test_what_an_embedding_has_lost_comes_back(store, model, tmp_path, in_fours, lost):
    before = embed_screen(model, store, tmp_path, progress=False)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / lost).unlink()
    (tmp_path / PARTS[1]).unlink()
    features_module._sent.cache_clear()
    assert np.array_equal(embed_screen(model, store, tmp_path, progress=False), before)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


def test_frame_holds_metadata_and_features():
    features = frame(5)
    assert list(features) == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Site",
        "Metadata_Training",
        "MCNN_001",
        "MCNN_002",
        "MCNN_003",
        "MCNN_004",
        "MCNN_005",
        "MCNN_006",
    ]
    assert features["Metadata_Training"].dtype == bool and features["MCNN_001"].dtype == np.float32


def test_frame_refuses_what_is_not_finite_or_does_not_match():
    table = frame(3).filter(like="Metadata_")
    values = np.array([[1, 2], [np.nan, 1], [np.inf, 0]])
    with pytest.raises(InputError) as error:
        feature_frame(table, values, np.ones(3, bool))
    assert error.value.problems == ["plate P1, well B01, site 1", "plate P1, well B02, site 1"]
    with pytest.raises(InputError, match="3 fields"):
        feature_frame(table, values[:2], np.ones(3, bool))


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99])
def test_projection_equals_scikit_learn_and_svd(variance):
    train, test = frame(), frame(10, seed=3, training=False)
    projection = fit_pca(train, variance)
    columns = list(projection.columns)
    reference = PCA(n_components=variance, svd_solver="full").fit(
        train[columns].to_numpy(np.float64)
    )
    ours = projection.transform(test)
    names = [column for column in ours if column.startswith("MCNN_")]
    assert names == [f"MCNN_{k:03d}" for k in range(1, reference.n_components_ + 1)]
    np.testing.assert_allclose(
        ours[names], reference.transform(test[columns].to_numpy(np.float64)), atol=1e-10
    )
    centred = train[columns].to_numpy(np.float64) - train[columns].to_numpy(np.float64).mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    explained = singular**2 / (singular**2).sum()
    k = int(np.searchsorted(explained.cumsum(), variance)) + 1
    assert len(names) == k
    np.testing.assert_allclose(
        np.abs(ours[names]),
        np.abs((test[columns].to_numpy(np.float64) - centred_mean(train, columns)) @ axes[:k].T),
        atol=1e-9,
    )
    pd.testing.assert_frame_equal(ours.filter(like="Metadata_"), test.filter(like="Metadata_"))


def centred_mean(train, columns):
    return train[columns].to_numpy(np.float64).mean(0)


def test_fields_that_were_not_trained_on_are_refused():
    mixed = frame()
    mixed.loc[[3, 8], "Metadata_Training"] = False
    with pytest.raises(InputError) as error:
        fit_pca(mixed)
    assert error.value.problems == [
        "plate P1, well B03, site 1 was not trained on",
        "plate P1, well B08, site 1 was not trained on",
    ]
    fit_pca(mixed[mixed["Metadata_Training"]])
    with pytest.raises(InputError, match="Metadata_Training"):
        fit_pca(mixed.drop(columns="Metadata_Training"))


def test_dead_features_are_harmless_and_all_dead_are_refused():
    features = frame()
    alive = fit_pca(features)
    features["MCNN_002"] = features["MCNN_002"] * 0
    projection = fit_pca(features)
    assert np.isfinite(projection.transform(features).filter(like="MCNN_").to_numpy()).all()
    assert len(projection.components) <= len(alive.components)
    features[list(projection.columns)] = 3.0
    with pytest.raises(InputError, match="learned anything"):
        fit_pca(features)
    with pytest.raises(InputError, match="at least two fields"):
        fit_pca(frame(1))


def test_any_prefix_is_kept_and_missing_columns_are_named():
    features = frame().rename(columns=lambda column: column.replace("MCNN_", "HC_"))
    projection = fit_pca(features)
    assert "HC_001" in projection.transform(features)
    with pytest.raises(InputError) as error:
        projection.transform(features.drop(columns=["HC_002", "HC_004"]))
    assert error.value.problems == ["column 'HC_002' is missing", "column 'HC_004' is missing"]


# ------------------------------------------------------------------------- the command line


def test_the_command_line(store, tmp_path, capsys, in_fours):
    labels, recipe = (
        np.arange(10) % 2,
        Recipe(
            epochs=1,
            batch=4,
            optimiser="muon",
            learning_rate=1e-3,
            schedule="one-cycle",
            max_steps=1,
        ),
    )
    train(store, labels, CONFIGS["default"], recipe, tmp_path / "model", progress=False)
    main(
        [
            "embed",
            "--store",
            str(store.folder),
            "--model",
            str(tmp_path / "model"),
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert "10 fields, 128 activations each" in capsys.readouterr().out
    expected = embed_screen(
        load_model(tmp_path / "model"), store, tmp_path / "again", progress=False
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "activations.npy"), expected)
    with pytest.raises(SystemExit, match=r"^error: .* holds no trained network"):
        main(
            [
                "embed",
                "--store",
                str(store.folder),
                "--model",
                str(tmp_path),
                "--out",
                str(tmp_path / "out"),
            ]
        )
    with pytest.raises(SystemExit, match=r"^error: .* holds no whole store"):
        main(
            [
                "embed",
                "--store",
                str(tmp_path),
                "--model",
                str(tmp_path / "model"),
                "--out",
                str(tmp_path / "out"),
            ]
        )
