"""Threads that share a batch: their number changes nothing, and no group of a batch is special."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mcnn_core import features, training
from mcnn_core.machine import device
from mcnn_core.machine.fields import Fields
from mcnn_core.model import MCNN
from mcnn_core.training import Trainer, optimiser_for, train
from tests.test_train import RECIPE, TINY, toy

WHOLE = replace(RECIPE, epochs=2, batch=24, crop=1.0, flips=False, precision="float32")
STILL = replace(WHOLE, jitter_gain=0.0, jitter_offset=0.0)


def by(monkeypatch, threads):
    monkeypatch.setattr(training, "GROUP", (0, 8))
    for module in (training, features):
        monkeypatch.setattr(module, "workers", lambda: threads)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_any_number_of_threads_gives_the_same_bits(tmp_path, monkeypatch, dropout):
    store, labels = toy(50, size=32)  # batches of 25, so groups of unequal size
    weights, histories, embedded = [], [], []
    for threads in (1, 2, 5):
        by(monkeypatch, threads)
        config, folder = replace(TINY, dropout=dropout), tmp_path / str(threads)
        history = train(store, labels, config, WHOLE, folder, progress=False)
        histories.append(history.drop(columns="seconds"))
        weights.append(load_file(folder / "epoch_002.safetensors"))
        model = training.load_model(folder)
        embedded.append(features.embed(model, store, range(50), batch=7, progress=False))
    for n in (1, 2):
        pd.testing.assert_frame_equal(histories[0], histories[n], check_exact=True)
        assert all(torch.equal(weights[0][key], weights[n][key]) for key in weights[0])
        assert np.array_equal(embedded[0], embedded[n])


def test_a_batch_in_groups_has_the_gradient_of_the_whole(monkeypatch):
    """Without batch normalisation the groups are a matter of rounding alone."""
    by(monkeypatch, 2)
    store, labels = toy(24, size=32)
    torch.manual_seed(0)
    model = MCNN(replace(TINY, norm=False, dropout=0.0), int(labels.max()) + 1, 2, 32, 32).train()
    scores = model(model.standardise(store.pixels))
    loss = F.cross_entropy(scores, torch.from_numpy(labels))
    expected = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.cat([slope.flatten() for slope in expected]).norm()
    found = []
    monkeypatch.setattr(
        nn.utils,
        "clip_grad_norm_",
        lambda weights, _: found.extend(w.grad for w in weights) or norm,
    )
    trainer = Trainer(model, optimiser_for(model, STILL), Fields(store.pixels), labels, STILL)
    *_, (_, sums) = trainer.steps([np.arange(24)], [0.0], np.random.default_rng(0))
    for slope, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(slope, wanted, rtol=1e-3, atol=1e-5)
    assert sums[0] / 24 == pytest.approx(loss.item(), rel=1e-5) and sums[2] == 24


def test_running_statistics_are_the_mean_over_groups(monkeypatch):
    by(monkeypatch, 2)
    store, labels = toy(24, size=32)
    torch.manual_seed(0)
    model = MCNN(replace(TINY, norm=True), int(labels.max()) + 1, 2, 32, 32).train()
    first = model.scales[0][0]
    with torch.no_grad():
        units = first(model.standardise(store.pixels))
    norm = next(layer for layer in model.scales[0] if isinstance(layer, nn.BatchNorm2d))
    before = list(model.scales[0])[1 : list(model.scales[0]).index(norm)]
    for layer in before:
        units = layer(units)
    means = torch.stack([group.mean((0, 2, 3)) for group in units.split(8)])
    spreads = torch.stack([group.transpose(0, 1).flatten(1).var(1) for group in units.split(8)])
    trainer = Trainer(model, optimiser_for(model, STILL), Fields(store.pixels), labels, STILL)
    list(trainer.steps([np.arange(24)], [0.0], np.random.default_rng(0)))
    torch.testing.assert_close(norm.running_mean, 0.1 * means.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * spreads.mean(0), rtol=1e-4, atol=1e-5)
    assert norm.num_batches_tracked == 1


def test_threads_are_as_many_as_cores_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setattr(device, "device", lambda: torch.device("cpu"))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 4}, raising=False)
    for given, expected in (("", 3), ("2", 2), ("0", 3), ("many", 3)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert device.workers.__wrapped__() == expected
    monkeypatch.setattr(device, "device", lambda: torch.device("cuda"))
    assert device.workers.__wrapped__() == 1
