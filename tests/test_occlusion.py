"""A network that sees one channel, or one scale, is found to depend on it alone."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mcnn_core.analysis.occlusion import (
    Replaced,
    control_of_plate,
    occlusion,
    occlusion_map,
    silenced,
)
from mcnn_core.model import MCNN, NetworkConfig

CONFIG = NetworkConfig(scales=(4, 4), fusion=8, hidden=8, average=True, dropout=0.0)


@pytest.fixture
def screen():
    """Twelve fields of two mechanisms and four controls; the mechanisms differ in channel B."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 120, (16, 32, 32, 2)).astype(np.uint8)
    pixels[:6, ::2, :, 1] += 100
    pixels[6:12, :, ::4, 1] += 100
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": [f"A{row:02d}" for row in range(1, 17)],
            "Metadata_Site": 1,
            "Metadata_MoA": ["a"] * 6 + ["b"] * 6 + [""] * 4,
            "Metadata_control_type": ["trt"] * 12 + ["negcon"] * 4,
        }
    )
    return SimpleNamespace(pixels=pixels, channels=("A", "B")), table


@pytest.fixture
def model():
    """Make a network of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MCNN(CONFIG, 2, 2, 32, 32).eval()


def test_a_network_blind_to_a_channel_loses_nothing_with_it(screen, model):
    store, table = screen
    with torch.no_grad():
        for scale in model.scales:
            scale[0].weight[:, 0] = 0
    lost = occlusion(model, store, table, np.arange(12), progress=False)
    assert lost["channel A"].abs().max() < 1e-5
    assert lost["channel B"].median() > 0.05
    assert lost["Metadata_MoA"].tolist() == ["a"] * 6 + ["b"] * 6


def test_a_silent_scale_loses_nothing(screen, model):
    store, table = screen
    with torch.no_grad():
        for layer in model.scales[1]:
            if hasattr(layer, "weight"):
                layer.weight.zero_()
                layer.bias.zero_()
    lost = occlusion(model, store, table, np.arange(12), progress=False)
    assert lost["scale 1/2"].abs().max() < 1e-6
    assert lost["scale 1/1"].abs().max() > 1e-3
    x = torch.zeros(1, 2, 32, 32)
    before = model.embed(x)
    with silenced(model, 0):
        pass
    assert torch.equal(model.embed(x), before)  # the network is as it was


def test_the_square_that_matters_is_found(model):
    pixels = np.full((2, 32, 32, 2), 90, np.uint8)
    pixels[0, 16:24, 8:16] = 255
    found, _ = occlusion_map(model, pixels, 0, 1, size=8)
    assert np.unravel_index(found.argmax(), found.shape) == (2, 1)
    assert np.sort(found.ravel())[-2] < 1e-6


def test_channels_come_from_controls_of_the_plate(screen):
    store, table = screen
    source = control_of_plate(table)
    assert set(source) <= set(range(12, 16))
    assert (source[12:] != np.arange(12, 16)).all()
    field = Replaced(store.pixels, 1, source)[3]
    assert np.array_equal(field[..., 0], store.pixels[3][..., 0])
    assert np.array_equal(field[..., 1], store.pixels[source[3]][..., 1])
