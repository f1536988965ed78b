"""The benchmarks: right results and whole records.

The textbook versions compute what the package computes, and the suite writes what it promises. No
time is asserted.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import squareform

from benchmarks import __main__ as suite
from benchmarks import cases, made, plain_network, textbook
from mcnn_book.check import cost
from mcnn_book.simulate.bbbc021 import simulate_screen
from mcnn_core.analysis.clusters import tree
from mcnn_core.analysis.distances import cosine_distances
from mcnn_core.analysis.enrichment import enrich
from mcnn_core.features import embed
from mcnn_core.model import CONFIGS, MCNN
from mcnn_core.preprocessing import preprocess
from mcnn_core.readers.bbbc021 import read_bbbc021
from mcnn_core.readers.images import read_field
from mcnn_core.store import Store
from mcnn_core.training import RECIPES, untrained_model
from tests.children import Module
from tools import book

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields") / "raw"
    made.write_fields(folder, 4, 64, 96)
    return made.read_fields(folder)


@pytest.fixture(scope="module")
def store(fields, tmp_path_factory) -> Store:
    return preprocess(fields, tmp_path_factory.mktemp("store") / "store", progress=False)


def test_the_textbook_reads_and_preprocesses_to_the_same(fields, store, tmp_path):
    for row, field in enumerate(textbook.read(fields, range(4))):
        np.testing.assert_array_equal(field, read_field(fields, row))
    plain = textbook.preprocess(fields, tmp_path / "plain.npy")
    assert plain.dtype == np.uint8 and np.ptp(plain) == 255
    np.testing.assert_array_equal(plain, store.pixels)
    np.testing.assert_array_equal(plain, np.load(tmp_path / "plain.npy"))


def test_the_textbook_draws_the_same_fields(tmp_path):
    layout = made.few_wells(1)
    simulate_screen(tmp_path / "ours", 0, layout, 64, 96, workers=1, progress=False)
    textbook.simulate(tmp_path, 0, layout, 64, 96)
    written = sorted(path.read_bytes()[-2 * 64 * 96 :] for path in tmp_path.glob("*.tif"))
    assert len(written) == 3 * len(read_bbbc021(tmp_path / "ours", simulated=True).table)
    assert written == sorted(
        path.read_bytes()[-2 * 64 * 96 :] for path in (tmp_path / "ours").rglob("*.tif")
    )


@pytest.mark.parametrize(
    "name, side", [("default", 64), ("published", 128), ("published-gap", 128)]
)
def test_the_textbook_network_is_the_same_network(name, side):
    torch.manual_seed(0)
    model = MCNN(CONFIGS[name], 5, 3, side, side).eval()
    x = torch.randn(2, 3, side, side)
    plain = plain_network.network(model).eval()
    assert x.is_contiguous() and all(weight.is_contiguous() for weight in plain.parameters())
    with torch.no_grad():
        torch.testing.assert_close(
            plain(x), model(x.contiguous(memory_format=torch.channels_last)), rtol=1e-3, atol=1e-4
        )


def test_the_textbook_network_is_the_one_that_chapter_4_writes_out():
    chapter: dict = {}
    exec(book.idea("04_network").partition("\npackage = ")[0], chapter)
    torch.manual_seed(0)
    model = MCNN(CONFIGS["default"], 5, 3, 64, 96)
    model(torch.randn(4, 3, 64, 96))  # so that batch normalisation has something to scale by
    written = chapter["MultiScale"](3, 5)
    lost = written.load_state_dict(model.state_dict(), strict=False)
    assert not lost.missing_keys and lost.unexpected_keys == ["grey_mean", "grey_std"]
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            written.eval()(x), plain_network.network(model).eval()(x), rtol=1e-5, atol=1e-5
        )


def test_the_textbook_embeds_to_the_same_features(store, monkeypatch):
    monkeypatch.setattr(plain_network, "WORKERS", (0,))
    model = untrained_model(store, np.arange(4) % 2, CONFIGS["default"])
    plain = plain_network.Embedding(model, store.pixels, 2).run()
    ours = embed(model, store, range(4), progress=False)
    # bfloat16 where the processor has it.
    assert np.abs(plain - ours).max() < 0.05 * np.abs(plain).max()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_textbook_loop_learns(store, monkeypatch, recipe):
    monkeypatch.setattr(plain_network, "WORKERS", (0,))
    torch.manual_seed(0)
    model = untrained_model(store, np.arange(4) % 2, CONFIGS["default"])
    before = [weight.detach().clone() for weight in model.parameters()]
    loop = plain_network.Training(
        model, store.pixels, np.arange(4) % 2, replace(recipe, batch=2), 2
    )
    assert loop.run() > 0 and loop.workers == 0
    shape = next(loop.batches)[0].shape
    assert shape == (2, 3, int(64 * recipe.crop), int(96 * recipe.crop))
    assert all(
        (weight != old).any()
        for weight, old in zip(model.classifier.parameters(), before[-2:], strict=True)
    )


def test_the_textbook_computes_the_same_distances_and_tree():
    profiles = np.random.default_rng(0).normal(size=(60, 16))
    distances, branches = textbook.ordered_tree(profiles)
    ours = cosine_distances(profiles)
    np.testing.assert_allclose(squareform(distances), ours, atol=1e-12)
    np.testing.assert_allclose(branches[:, 2], tree(ours)[:, 2], atol=1e-12)


def test_the_textbook_computes_the_same_p_values(tmp_path):
    made.write_ontology(tmp_path / "go", 200, 2000)
    space, clusters = made.read_library(tmp_path / "go", 80)
    genes = clusters.index[clusters <= 5]
    ours = enrich(space, genes, "classic").set_index("term")["p"]
    plain = textbook.fisher(space.members.toarray(), np.asarray(space.genes.isin(genes)))
    assert (ours < 1).sum() > 10
    np.testing.assert_allclose(plain, ours.loc[space.terms["term"]], rtol=1e-9)


def test_every_case_has_a_name_of_its_own_and_a_stage_that_is_predicted():
    for quick in (False, True):
        names = [
            case.name
            for case in [
                *cases.machine_cases(quick),
                *cases.all_cases(quick),
                *cases.flat_cases(quick),
            ]
        ]
        assert len(names) == len(set(names))
        stages = {case.stage for case in cases.all_cases(quick)}
        assert set(cost.STAGES) <= stages
    assert {
        (case.height, case.width)
        for case in cases.all_cases()
        if case.stage in ("simulate", "read", "preprocess", "train", "embed")
    } == {(128, 160), (512, 640), (1024, 1280)}


@pytest.fixture
def forked(monkeypatch):
    """Start the 70 processes of a run in a tenth of a second each."""
    monkeypatch.setattr(suite, "subprocess", SimpleNamespace(Popen=Module, PIPE=subprocess.PIPE))


def test_a_quick_run_keeps_what_is_promised(tmp_path, forked, capsys):
    suite.main(["--quick", "--out", str(tmp_path / "bench.json")])
    said = capsys.readouterr().out
    bench = json.loads((tmp_path / "bench.json").read_text())
    assert {
        "command",
        "cores",
        "threads",
        "machine",
        "base_bytes",
        "rows",
        "flat",
        "commit",
        "processor",
        "version.torch",
    } <= set(bench)
    assert (
        set(bench["machine"]) == {"copy", "float32", "bfloat16", "float64"}
        and min(bench["machine"].values()) > 0
    )
    assert {row["stage"] for row in bench["rows"]} >= {
        "simulate",
        "read",
        "preprocess",
        "train",
        "embed",
        "profiles",
        "medians",
        "distances",
        "enrichment",
        "discovery",
    }
    for row in bench["rows"]:
        ours = row["ours"]
        assert (
            min(ours["seconds"]) > 0
            and 2**25 < ours["anonymous_bytes"] <= ours["peak_bytes"] < 2**33
        ), row["stage"]
        if "textbook" in row:
            assert len(row["textbook"]["seconds"]) == len(ours["seconds"]) > 1, row["stage"]
    train = next(row for row in bench["rows"] if row["stage"] == "train")
    assert train["ours"]["flops"] == pytest.approx(
        2 * train["work"] * train["units"] / np.median(train["ours"]["seconds"])
    )
    assert (
        train["float32"]["facts"]["precision"] == "float32"
        and train["textbook"]["facts"]["workers"] in plain_network.WORKERS
    )
    assert [one["stage"] for one in bench["flat"]] == [
        stage for stage in ("profiles", "preprocess", "embed") for _ in range(2)
    ]
    assert "medians, 480 fields: pycytominer takes" in said
    assert "float32 against float32" in said and "of the limit" in said
    assert cost.predict(bench, cost.Workload(100, 64, 96, 3, 5))["seconds"].gt(0).all()


def test_a_large_run_stands_beside_its_prediction(tmp_path, forked):
    suite.main(["--large", "--quick", "--out", str(tmp_path / "large.json")])
    large = json.loads((tmp_path / "large.json").read_text())
    assert [one["stage"] for one in large["stages"]] == list(cost.STAGES)
    assert large["screen"]["n_fields"] == 128 and large["table_bytes"] > 0
    compared = cost.beside(cost.predict(cost.read_bench(), cost.Workload(**large["screen"])), large)
    # Bytes are no matter of speed: what is left on disk must come out as predicted.
    assert compared.loc[["simulate", "preprocess"], "disk_bytes_error"].abs().max() < 0.05


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["-m", "benchmarks", "--quick"], "--out"),
        ([ROOT / "benchmarks/gpu.py", "--small"], "--json"),
        (["-m", "benchmarks.store"], "--json"),
    ],
)
def test_a_file_that_is_there_is_not_measured_for(command, option, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    done = subprocess.run(
        [sys.executable, *command, option, tmp_path / "mine.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (
        done.returncode == 1
        and done.stderr
        == f"error: {tmp_path / 'mine.json'} is there already and would be replaced: "
        "move it, or name a new file\n"
    )
    assert (tmp_path / "mine.json").read_text() == "mine" and not done.stdout


def test_a_contestant_is_a_process_of_its_own(tmp_path):
    _, base = cases.machine_cases(quick=True)
    found = suite.measure(tmp_path, base, quick=True)
    assert list(found) == ["ours"] and len(found["ours"]["seconds"]) == 1
    assert 2**25 < found["ours"]["anonymous_bytes"] <= found["ours"]["peak_bytes"] < 2**33


@pytest.mark.filterwarnings("ignore:The 'mode.copy_on_write'")  # as it is imported
def test_medians_are_those_of_pycytominer(tmp_path):
    case = next(case for case in cases.all_cases(quick=True) if case.stage == "medians")
    ours, theirs = (make(tmp_path, case)[0]() for make in case.contestants.values())
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False, rtol=1e-6)


def test_a_package_of_others_that_is_absent_is_left_out(tmp_path, forked, monkeypatch, capsys):
    _, base = cases.machine_cases(quick=True)
    monkeypatch.setattr(cases, "PEERS", ("nobodys",))
    both = replace(base, contestants=base.contestants | {"nobodys": None})
    assert list(suite.measure(tmp_path, both, quick=True)) == ["ours"]
    assert "machine, base: nobodys is not installed and left out" in capsys.readouterr().err


def test_a_contestant_that_fails_is_named(tmp_path):
    case = next(case for case in cases.all_cases(quick=True) if case.stage == "read")
    (tmp_path / "raw-64").mkdir()  # taken for inputs, but empty
    with pytest.raises(RuntimeError, match="read, 64 x 96: ours ended"):
        suite.measure(tmp_path, case, quick=True)
