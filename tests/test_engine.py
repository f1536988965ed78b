import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mcnn_core.errors import InputError
from mcnn_core.features import activations
from mcnn_core.machine import device
from mcnn_core.machine.device import ahead, bfloat16
from mcnn_core.machine.fields import Fields
from mcnn_core.model import CONFIGS, MCNN
from mcnn_core.training import (
    RECIPES,
    augment,
    crop_size,
    draw,
    learning_rate,
    train,
    untrained_model,
)
from tests.test_train import RECIPE, TINY, toy


def test_rates():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    recipe = replace(RECIPES["default"], epochs=10)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=70, pct_start=0.2, cycle_momentum=False
    )
    for step in range(70):
        assert learning_rate(recipe, step, 7) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < 69:
            scheduler.step()
    recipe = replace(RECIPES["published"], warm_up=20)
    rates = [learning_rate(recipe, step, 4) / recipe.learning_rate for step in range(27 * 4)]
    np.testing.assert_allclose(rates[:20], np.arange(1, 21) / 20)
    np.testing.assert_allclose(rates[20:], np.repeat([1, 0.1, 0.01], 36)[20:])
    assert learning_rate(replace(recipe, warm_up=0), 0, 4) == recipe.learning_rate


def test_one_cycle_ends_where_training_is_stopped(tmp_path):
    recipe = replace(RECIPES["default"], epochs=50, max_steps=30)
    assert learning_rate(recipe, 29, 7) == pytest.approx(recipe.learning_rate / 25e4)
    assert max(learning_rate(recipe, step, 7) for step in range(30)) == pytest.approx(
        recipe.learning_rate
    )
    assert learning_rate(replace(recipe, max_steps=10_000), 3, 7) == learning_rate(
        replace(recipe, max_steps=None), 3, 7
    )


def test_one_step_schedule_does_not_divide_by_zero():
    assert all(
        learning_rate(replace(RECIPES["default"], epochs=1), 0, steps) > 0 for steps in range(1, 20)
    )


@pytest.mark.parametrize("shape, n_views", [((16, 24), 4), ((16, 16), 8)])
def test_flips_and_right_angle_rotations(shape, n_views):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, *shape, 2), dtype=np.uint8)
    store = SimpleNamespace(pixels=np.repeat(pixels, 4, 0), manifest={"sha256": ""})
    model = untrained_model(store, np.array([0, 0, 1, 1]), TINY)
    size = crop_size(model, replace(RECIPE, crop=1.0))
    fields = Fields(store.pixels)

    def views_of(n, flips):
        drawn = draw(rng, n, (*shape, 2), size, flips)
        return fields.views(np.zeros(n, int), size, drawn.corners, drawn.turns).numpy()

    views = views_of(200, True)
    assert len({view.tobytes() for view in views}) == n_views
    assert (np.rot90(pixels[0], 2) == views).all((1, 2, 3)).any()
    assert (views_of(5, False) == pixels).all()


def test_crops_and_jitter():
    store, labels = toy(size=32)
    model = untrained_model(store, labels, TINY)
    rng = np.random.default_rng(0)
    drawn = draw(rng, 24, (32, 32, 2), crop_size(model, RECIPE), False)
    views = Fields(store.pixels).views(np.arange(24), (16, 16), drawn.corners, drawn.turns)
    crops = views.numpy()
    assert crops.shape == (24, 16, 16, 2) and crops.dtype == np.uint8
    windows = np.lib.stride_tricks.sliding_window_view(
        store.pixels[3], (16, 16), axis=(0, 1)
    ).transpose(0, 1, 3, 4, 2)
    assert (windows == crops[3]).all((2, 3, 4)).any()
    x = model.standardise(views)
    jittered = augment(model, views, replace(RECIPE, jitter_gain=0.2, jitter_offset=0.15), drawn)
    gain = jittered.std((2, 3), keepdim=True) / x.std((2, 3), keepdim=True)
    offset = jittered.mean((2, 3), keepdim=True) - gain * x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(gain * x + offset, jittered, rtol=1e-3, atol=1e-3)
    assert 0.1 < gain.log().std() < 0.3 and 0.08 < offset.std() < 0.25
    with pytest.raises(InputError, match="whole fields"):
        crop_size(untrained_model(store, labels, replace(TINY, average=False)), RECIPE)


@pytest.mark.parametrize(
    "shape, size", [((24, 32), (16, 16)), ((24, 32), (16, 24)), ((16, 16), (16, 16))]
)
def test_fields_kept_on_a_device_give_the_bytes_that_the_store_gives(shape, size):
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (9, *shape, 3), dtype=np.uint8)
    rows = np.array([8, 2, 2, 5, 0, 8])
    fields = Fields(pixels)
    drawn = draw(rng, len(rows), (*shape, 3), size, True)
    corners, turns = drawn.corners, drawn.turns
    read = fields.views(rows, size, corners, turns)
    fields.resident, fields.slots = (
        torch.from_numpy(pixels[[0, 2, 5, 8]]),
        np.array([0, 9, 1, 9, 9, 2, 9, 9, 3]),
    )
    assert turns.sum(0)[:2].all()
    assert torch.equal(fields.views(rows, size, corners, turns), read)
    parts = [fields.views(rows[k::2], size, corners[k::2], turns[k::2]) for k in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), read)


def test_precision():
    assert bfloat16("bfloat16") and not bfloat16("float32")
    assert isinstance(bfloat16("auto"), bool)


def test_bfloat16_only_where_the_processor_is_fast_at_it(monkeypatch):
    monkeypatch.setattr(device, "device", lambda: torch.device("cpu"))
    intel, amd = "Intel Xeon Processor", "AMD EPYC"
    for able, chosen in (
        ({"cpu_name": intel, "amx_bf16": True, "avx512_bf16": True}, True),
        ({"cpu_name": intel, "amx_bf16": False, "avx512_bf16": True}, False),
        ({"cpu_name": amd, "amx_bf16": False, "avx512_bf16": True}, True),
        ({"cpu_name": amd, "amx_bf16": False, "avx512_bf16": False}, False),
        ({"bf16": True}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert bfloat16() is chosen
        assert bfloat16("bfloat16") and not bfloat16("float32")


#: What two precisions, or two devices, may differ by on the same seed: loss of an epoch, and cosine
#: similarity of features.
LOSS_TOLERANCE, COSINE = 0.05, 0.99


def test_precisions_agree(tmp_path):
    store, labels = toy(48, size=32)
    losses, features = [], []
    for precision in ("float32", "bfloat16"):
        recipe = replace(RECIPE, epochs=4, batch=12, precision=precision)
        losses.append(
            train(store, labels, TINY, recipe, tmp_path / precision, progress=False)["loss"]
        )
    np.testing.assert_allclose(*losses, rtol=LOSS_TOLERANCE)
    model = untrained_model(store, labels, CONFIGS["default"])
    x = model.standardise(store.pixels)
    with torch.inference_mode():
        features = [model.embed(x, bf16) for bf16 in (False, True)]
    assert torch.cosine_similarity(*features).min() > COSINE


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_devices_agree(tmp_path, monkeypatch):
    store, labels = toy(48, size=32)
    recipe = replace(RECIPE, epochs=4, batch=12, precision="float32")
    losses = [train(store, labels, TINY, recipe, tmp_path / "gpu", progress=False)["loss"]]
    for module in ("mcnn_core.training", "mcnn_core.machine.device"):
        monkeypatch.setattr(f"{module}.device", lambda: torch.device("cpu"))
    losses.append(train(store, labels, TINY, recipe, tmp_path / "cpu", progress=False)["loss"])
    np.testing.assert_allclose(*losses, rtol=LOSS_TOLERANCE)


def test_embedding_does_not_depend_on_the_batch():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 2), dtype=np.uint8)
    model = MCNN(CONFIGS["default"], 2, 2, 32, 32)
    parts = list(activations(model, pixels, range(7), 3, "auto"))
    assert [len(part) for part in parts] == [3, 3, 1]
    several = np.concatenate(parts)
    assert several.shape == (7, 128) and several.dtype == np.float32
    (few,) = activations(model, pixels, [6, 0], 64, "auto")
    np.testing.assert_allclose(few[::-1], several[[0, 6]], rtol=1e-3, atol=1e-4)


def test_items_are_made_ahead_in_order_and_errors_come_through(monkeypatch):
    monkeypatch.setattr(device, "device", lambda: torch.device("cuda"))
    assert list(ahead(iter(range(5)))) == list(range(5))
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // n for n in (1, 0)))


def test_the_engine_needs_only_torch_numpy_and_pandas():
    code = """
import sys
sys.modules.update(dict.fromkeys(["safetensors", "tqdm", "yaml", "tifffile", "sklearn",
                                  "scipy", "PIL", "pyarrow", "matplotlib"]))
import mcnn_core.features, mcnn_core.training
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
