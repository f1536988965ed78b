from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA

from mcnn_core.errors import InputError
from mcnn_core.features import embed, feature_frame, fit_pca
from mcnn_core.model import CONFIGS, MCNN


@pytest.fixture(scope="module")
def store():
    pixels = np.random.default_rng(0).integers(0, 256, (10, 32, 64, 3), dtype=np.uint8)
    return SimpleNamespace(pixels=pixels, manifest={"sha256": ""})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MCNN(CONFIGS["default"], 4, 3, 32, 64).eval()


def frame(n=40, d=6, seed=0, training=True):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * [5, 4, 3, 2, 1, 0.1][:d]
    table = pd.DataFrame({"Metadata_Plate": "P1", "Metadata_Well": [f"B{row:02d}" for row in range(n)], "Metadata_Site": 1,
                          "FileName_DAPI": "x.tif"})
    return feature_frame(table, values.astype(np.float32), np.full(n, training))


def test_embedding_does_not_depend_on_order_or_state(store, model):
    model.train()
    one = embed(model, store, range(10), progress=False)
    assert one.shape == (10, 128) and one.dtype == np.float32 and not model.training and (one >= 0).all()
    assert (embed(model, store, range(10), progress=False) == one).all()
    np.testing.assert_allclose(embed(model, store, rows=[7, 2], batch=1, progress=False), one[[7, 2]], rtol=0.05, atol=0.02)
    with torch.inference_mode():
        np.testing.assert_allclose(one, model.embed(model.standardise(store.pixels)), rtol=0.05, atol=0.02)


def test_large_fields_go_one_by_one(store, model, monkeypatch):
    sizes = []
    monkeypatch.setattr("mcnn_core.features.PIXELS_AT_ONCE", 32 * 64 * 3)
    embedding = model.embed
    monkeypatch.setattr(model, "embed", lambda x, bf16: sizes.append(len(x)) or embedding(x, bf16))
    embed(model, store, range(10), progress=False)
    assert sizes == [3, 3, 3, 1]


def test_frame_holds_metadata_and_features():
    features = frame(5)
    assert list(features) == ["Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Training", "MCNN_001", "MCNN_002",
                              "MCNN_003", "MCNN_004", "MCNN_005", "MCNN_006"]
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
    reference = PCA(n_components=variance, svd_solver="full").fit(train[columns].to_numpy(np.float64))
    ours = projection.transform(test)
    names = [column for column in ours if column.startswith("MCNN_")]
    assert names == [f"MCNN_{k:03d}" for k in range(1, reference.n_components_ + 1)]
    np.testing.assert_allclose(ours[names], reference.transform(test[columns].to_numpy(np.float64)), atol=1e-10)
    centred = train[columns].to_numpy(np.float64) - train[columns].to_numpy(np.float64).mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    explained = singular ** 2 / (singular ** 2).sum()
    k = int(np.searchsorted(explained.cumsum(), variance)) + 1
    assert len(names) == k
    np.testing.assert_allclose(np.abs(ours[names]), np.abs((test[columns].to_numpy(np.float64) - centred_mean(train, columns))
                                                           @ axes[:k].T), atol=1e-9)
    pd.testing.assert_frame_equal(ours.filter(like="Metadata_"), test.filter(like="Metadata_"))


def centred_mean(train, columns):
    return train[columns].to_numpy(np.float64).mean(0)


def test_fields_that_were_not_trained_on_are_refused():
    mixed = frame()
    mixed.loc[[3, 8], "Metadata_Training"] = False
    with pytest.raises(InputError) as error:
        fit_pca(mixed)
    assert error.value.problems == ["plate P1, well B03, site 1 was not trained on", "plate P1, well B08, site 1 was not trained on"]
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
