from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage, stats

from mcnn_core.analysis import baselines

CHANNELS = ("DAPI", "Actin", "Tubulin")


@pytest.fixture
def store():
    generator = np.random.default_rng(5)
    smooth = ndimage.gaussian_filter(generator.normal(size=(4, 40, 56, 3)), (0, 2, 2, 0))
    return SimpleNamespace(
        pixels=np.clip(120 + 400 * smooth, 0, 255).astype(np.uint8), channels=CHANNELS
    )


def test_statistics_agree_with_numpy_and_scipy(store):
    table = baselines.handcrafted(store, rows=[2, 0], progress=False).iloc[:, :36]
    assert (
        table.index.tolist() == [2, 0]
        and table.columns.str.endswith(tuple(baselines.INTENSITY)).all()
    )
    for row in table.index:
        for c, channel in enumerate(CHANNELS):
            pixels = store.pixels[row, ..., c].ravel().astype(float)
            got = table.loc[row].filter(like=f"_{channel}_").to_numpy()
            share = np.unique(pixels, return_counts=True)[1] / pixels.size
            expected = [
                pixels.mean(),
                pixels.std(),
                stats.skew(pixels),
                stats.kurtosis(pixels, fisher=False),
                stats.entropy(share, base=2),
                *np.percentile(pixels, baselines.PERCENTILES, method="inverted_cdf"),
            ]
            np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("radius", baselines.RADII)
def test_opening_agrees_with_scipy(store, radius):
    size = (2 * radius + 1, 2 * radius + 1, 1)
    eroded = ndimage.minimum_filter(store.pixels[0], size, mode="constant", cval=255)
    expected = ndimage.maximum_filter(eroded, size, mode="constant", cval=0)
    np.testing.assert_array_equal(baselines.opening(store.pixels[0], radius), expected)


def test_handcrafted_has_all_features_and_agrees_with_numpy(store):
    table = baselines.handcrafted(store, progress=False)
    assert (
        table.shape == (4, 87)
        and table.columns.is_unique
        and table.columns.str.startswith("HC_").all()
    )
    assert np.isfinite(table.to_numpy()).all()
    pixels = store.pixels[1].reshape(-1, 3).astype(float).T
    correlation = np.corrcoef(pixels)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(table.filter(like="Correlation").loc[1], correlation, atol=1e-5)
    dapi = table.filter(like="HC_DAPI_Granularity").loc[1]
    assert (dapi >= 0).all() and dapi.sum() <= 1
    np.testing.assert_allclose((10 ** table.filter(like="HC_DAPI_Power")).sum(axis=1), 1, rtol=1e-6)


def test_power_lies_in_the_ring_of_its_frequency():
    wave = 100 + 50 * np.cos(2 * np.pi * 0.3 * np.arange(60))
    field = np.broadcast_to(wave[None, :, None], (40, 60, 1)).astype(np.uint8)
    power = baselines._radial_power(field, baselines._rings(40, 60))
    assert power[:, 0].argmax() == baselines.BANDS - 2  # 0.25 to 0.354 cycles per pixel
    assert (np.unique(baselines._rings(40, 60)) == np.arange(baselines.BANDS + 1)).all()


def test_constant_fields_and_other_channel_numbers_give_finite_features():
    for channels in (1, 2, 6):
        constant = SimpleNamespace(
            pixels=np.full((2, 32, 32, channels), 7, np.uint8),
            channels=[f"C{i}" for i in range(channels)],
        )
        table = baselines.handcrafted(constant, progress=False)
        assert (
            table.shape == (2, 28 * channels + channels * (channels - 1) // 2)
            and np.isfinite(table.to_numpy()).all()
        )
        assert (table.filter(like="Correlation") == 0).all(axis=None)
