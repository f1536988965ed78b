"""The cost model.

It repeats what was measured, grows as the work does, and refuses what is no screen.
"""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mcnn_book.check import cost
from mcnn_book.check.cost import Workload
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.model import CONFIGS, MCNN

FIELD = 3 * 128 * 160


def case(stage, work, load, seconds, units=1, network="", peak=2**30, **more):
    return {
        "stage": stage,
        "case": f"{work}",
        "network": network,
        "unit": "field",
        "units": units,
        "work": work,
        "load": load,
        "ours": {"seconds": seconds, "peak_bytes": peak},
        **more,
    }


@pytest.fixture
def bench():
    rows = [
        case(stage, size, size, [size * 1e-6], 10)
        for stage in ("simulate", "preprocess")
        for size in (FIELD, 16 * FIELD)
    ]
    rows += [
        case(stage, 1e8, 32 * FIELD, [1.0, 3.0, 2.0], 20, network)
        for stage in ("train", "embed")
        for network in ("default", "published")
    ]
    rows += [case("profiles", n, n, [1e-4 * n], peak=2**29 + 1000 * n) for n in (1000, 4000)]
    rows += [case("distances", n, n**2, [1e-6 * n**2], peak=2**29 + 40 * n**2) for n in (500, 1000)]
    return {"cores": 2, "base_bytes": 2**29, "rows": rows}


def predict(bench, n_fields=1000, **more):
    return cost.predict(bench, Workload(n_fields, 128, 160, 3, 10, **more)).set_index("stage")


@pytest.mark.parametrize("name, side", [("default", 64), ("published", 128)])
def test_training_macs_are_those_that_torch_counts(name, side):
    model = MCNN(CONFIGS[name], 10, 3, side, side)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, 3, side, side)).sum().backward()
    assert cost.training_macs(model) == pytest.approx(counter.get_total_flops() / 2 / 2, rel=1e-9)


def test_a_measured_case_is_predicted_as_measured(bench):
    found = predict(bench, 10)
    assert found.loc["preprocess", "seconds"] == pytest.approx(FIELD * 1e-6)
    assert found.loc["preprocess", "memory_bytes"] == 2**30
    assert predict(bench, 4000).loc[
        "profiles", ["seconds", "memory_bytes"]
    ].tolist() == pytest.approx([0.4, 2**29 + 4_000_000])
    assert predict(bench, 4000).loc["distances", "memory_bytes"] == 2**29 + 40 * 1000**2
    assert predict(bench, 4000).loc["preprocess", "disk_bytes"] == 4000 * FIELD


def test_costs_grow_as_the_work_does(bench):
    one, two, four = predict(bench), predict(bench, 2000), predict(bench, 4000)
    ratio = (four["seconds"] / two["seconds"]).to_dict()
    assert ratio == pytest.approx(
        {"simulate": 2, "preprocess": 2, "train": 2, "embed": 2, "profiles": 2, "distances": 4}
    )
    beyond = predict(bench, 40_000)["seconds"] / four["seconds"]
    assert beyond["profiles"] == pytest.approx(10) and beyond["distances"] == pytest.approx(100)
    assert (four["memory_bytes"] == one["memory_bytes"])[["simulate", "preprocess", "embed"]].all()
    cores = one["seconds"] / predict(bench, cores=8)["seconds"]
    assert cores.to_dict() == pytest.approx(
        {stage: 1 if stage in cost.ALONE else 4 for stage in cost.STAGES}
    )
    assert predict(bench, epochs=160).loc["train", "seconds"] == pytest.approx(
        2 * one.loc["train", "seconds"]
    )
    assert predict(bench, training=100).loc["train", "seconds"] == pytest.approx(
        one.loc["train", "seconds"] / 10
    )
    large = cost.predict(bench, Workload(1000, 512, 640, 3, 10)).set_index("stage")
    assert large.loc["preprocess", "seconds"] == pytest.approx(
        16 * one.loc["preprocess", "seconds"]
    )


def test_rates_are_read_off_in_logarithms():
    assert cost.read_off([100, 1], [10, 1], 10) == pytest.approx(10**0.5)
    # At least in proportion beyond.
    assert cost.read_off([1, 100], [1, 10], 10_000) == pytest.approx(1000)
    assert cost.read_off([1, 10], [1, 1000], 100) == pytest.approx(1e6)
    assert cost.read_off([5], [3], 1) == pytest.approx(3)


def test_bounds_are_met_where_the_model_meets_them(bench):
    screen = {
        "height": 128,
        "width": 160,
        "channels": 3,
        "n_classes": 10,
        "n_fields": 1000,
        "training": 10,
    }
    table = cost.growth(bench, np.geomspace(1e3, 1e6, 13), Workload(**screen))
    bound = 2**29 + 40 * 50_000**2
    assert cost.passes(table, "memory_bytes", bound)["distances"] == pytest.approx(
        200_000, rel=0.05
    )
    assert np.isnan(cost.passes(table, "memory_bytes", bound)["preprocess"])
    assert (table.loc[table["stage"] == "train", "seconds"].iloc[0]) == pytest.approx(
        predict(bench, training=10).loc["train", "seconds"]
    )


def test_money_counts_cores_hours_and_bytes():
    table = pd.DataFrame(
        {"stage": ["train", "distances"], "seconds": [3600.0, 3600.0], "disk_bytes": [10**9, 0]}
    )
    assert cost.money(
        table, cores=4, core_hour=0.5, gb_month=0.1, months=2
    ).tolist() == pytest.approx([2.2, 0.5])


def test_predicted_stands_beside_measured(bench):
    predicted = predict(bench).reset_index()
    stages = [
        {
            "stage": "embed",
            "seconds": predict(bench).loc["embed", "seconds"] / 2,
            "memory_bytes": 10,
            "disk_bytes": 0,
        }
    ]
    found = cost.beside(predicted, {"stages": stages}).loc["embed"]
    assert found["seconds_error"] == pytest.approx(1) and np.isnan(found["disk_bytes_error"])


def test_what_is_no_screen_or_was_not_measured_is_said(bench, monkeypatch, tmp_path):
    with pytest.raises(InputError) as raised:
        Workload(0, 128, 160, 3, 10, network="none")
    assert raised.value.problems == [
        "n_fields: expected 1 or more, got 0",
        f"network: expected one of {', '.join(CONFIGS)}, got 'none'",
    ]
    part = copy.deepcopy(bench)
    part["rows"] = [row for row in part["rows"] if row["network"] != "published"]
    with pytest.raises(MissingStageError, match="stage train of network 'published'"):
        cost.predict(part, Workload(10, 128, 256, 3, 10, network="published"))
    monkeypatch.setattr(cost, "find_root", lambda: tmp_path)
    with pytest.raises(MissingStageError, match="make bench"):
        cost.read_bench()


def test_the_recorded_bench_answers_for_a_screen():
    table = cost.estimate(13_200, 1024, 1280, 3, 103)
    assert table.columns.tolist() == ["stage", "seconds", "memory_bytes", "disk_bytes"]
    assert table["stage"].tolist() == list(cost.STAGES[1:])
    assert (table["seconds"] > 0).all() and (table["memory_bytes"] > 0).all()


def test_memory_of_all_pairs_grows_however_many_there_are():
    table = cost.growth(
        cost.read_bench(),
        [10**6, 10**7, 10**8, 10**9],
        Workload(10**6, 1080, 1080, 5, 1000, sites=9),
    )
    memory = table.loc[table["stage"] == "distances", "memory_bytes"].to_numpy(dtype=float)
    assert memory[1:] / memory[:-1] == pytest.approx(100, rel=0.05)
