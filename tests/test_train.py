import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from mcnn_book.__main__ import main
from mcnn_book.training import augmented, first_steps, make_way
from mcnn_core import model, training
from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine import checkpoint, files
from mcnn_core.model import CONFIGS, MCNN, NetworkConfig, read_yaml
from mcnn_core.preprocessing import preprocess
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.surrogate import surrogate_classes
from mcnn_core.training import RECIPES, Recipe, load_model, train, untrained_model
from tests.children import child
from tests.helpers import write_screen

TINY = NetworkConfig(
    (4, 4), fusion=8, hidden=16, norm=True, pool_between=True, average=True, dropout=0.2
)
RECIPE = replace(RECIPES["default"], epochs=3, batch=6, seed=1)


def toy(n=24, classes=4, size=16, seed=0):
    """Fields whose class is the width of stripes.

    They run either way, under noise and any brightness.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    y, x = np.mgrid[:size, :size]
    fields = [
        np.sin((x if rng.integers(2) else y) * (0.5, 1.0, 1.6, 2.4)[label] + rng.uniform(0, 6))
        for label in labels
    ]
    pixels = (
        120
        + 40 * np.stack(fields)[..., None]
        + rng.normal(0, 15, (n, size, size, 2))
        + rng.normal(0, 20, (n, 1, 1, 1))
    )
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return SimpleNamespace(
        pixels=pixels, manifest={"sha256": f"toy {seed}"}, verify=lambda rows: None
    ), labels


def weights(folder):
    return load_file(sorted(folder.glob("epoch_*.safetensors"))[-1])


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_learning_happens(tmp_path):
    store, labels = toy(96, size=32)
    recipe = replace(RECIPE, epochs=15, batch=16, learning_rate=1e-2)
    history = train(store, labels, TINY, recipe, tmp_path, progress=False)
    assert (
        history["accuracy"].iloc[-1] > 0.8
        and history["loss"].iloc[-1] < 0.6 * history["loss"].iloc[0]
    )
    new, truth = toy(96, size=32, seed=5)
    model = load_model(tmp_path)
    with torch.inference_mode():
        found = model(model.standardise(new.pixels)).argmax(1).numpy()
    assert (found == truth).mean() > 0.8
    assert list(history) == ["epoch", "loss", "accuracy", "learning_rate", "seconds"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history)


def test_training_begins_with_another_network_and_adds_classes(tmp_path):
    store, labels = toy(24)
    few = np.where(labels < 3, labels, -1)
    train(store, few, TINY, RECIPE, tmp_path / "few", progress=False)
    first = load_model(tmp_path / "few")
    still = replace(RECIPE, epochs=1, max_steps=1, learning_rate=1e-30, weight_decay=0.0)
    train(store, labels, first, still, tmp_path / "more", progress=False)
    one, other = first.state_dict(), load_model(tmp_path / "more").state_dict()
    trained = {name for name, _ in first.named_parameters()} | {"grey_mean", "grey_std"}
    for name in trained - {"classifier.weight", "classifier.bias"}:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=1e-7)
    torch.testing.assert_close(
        other["classifier.weight"][:3], one["classifier.weight"], rtol=0, atol=1e-7
    )
    assert other["classifier.weight"].shape[0] == 4
    fresh = untrained_model(store, labels, TINY, still.seed).state_dict()
    torch.testing.assert_close(
        other["classifier.weight"][3], fresh["classifier.weight"][3], rtol=0, atol=1e-7
    )


def test_training_from_another_network_resumes_and_refuses_a_third(tmp_path):
    store, labels = toy(24)
    for name, seed in (("a", 1), ("b", 2)):
        train(store, labels, TINY, replace(RECIPE, seed=seed), tmp_path / name, progress=False)
    a, b = load_model(tmp_path / "a"), load_model(tmp_path / "b")
    train(store, labels, a, RECIPE, tmp_path / "on", progress=False)
    expected = weights(tmp_path / "on")
    newest = sorted((tmp_path / "on").glob("epoch_*"))[-2:]
    for path in newest:
        path.unlink()
    train(store, labels, a, RECIPE, tmp_path / "on", progress=False)
    assert same(weights(tmp_path / "on"), expected)
    for start in (b, TINY):  # one that began with random weights is another training too
        with pytest.raises(InputError, match="belongs to another training"):
            train(store, labels, start, RECIPE, tmp_path / "on", progress=False)
    train(store, labels, TINY, RECIPE, tmp_path / "off", progress=False)
    with pytest.raises(InputError, match="belongs to another training"):
        train(store, labels, a, RECIPE, tmp_path / "off", progress=False)


def test_a_network_for_other_fields_or_more_classes_is_no_beginning(tmp_path):
    store, labels = toy(24)
    larger, _ = toy(24, size=32)
    for fields, classes in ((larger, labels), (store, np.where(labels < 3, labels, -1))):
        with pytest.raises(InputError, match="can only begin with a network for the same fields"):
            start = untrained_model(store, labels, TINY)
            train(fields, classes, start, RECIPE, tmp_path, progress=False)


def test_published_recipe_runs_and_is_capped(tmp_path):
    store, labels = toy(8, 2, size=128)
    recipe = replace(RECIPES["published"], batch=4, max_steps=2)
    history = train(store, labels, CONFIGS["published"], recipe, tmp_path, progress=False)
    assert len(history) == 1 and load_model(tmp_path).spec[1:] == (2, 2, 128, 128)
    history = train(
        store, labels, TINY, replace(RECIPE, max_steps=3, batch=4), tmp_path / "two", progress=False
    )
    with safe_open(tmp_path / "two" / "epoch_002.safetensors", framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    assert (state["step"], state["finished"], len(history)) == (3, True, 2)


@pytest.mark.parametrize("optimiser", ["muon", "sgd"])
def test_same_seed_same_weights(tmp_path, optimiser):
    store, labels = toy()
    recipe = replace(RECIPE, optimiser=optimiser)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(len(list(tmp_path.iterdir())))  # nothing may depend on the state outside
        train(store, labels, TINY, replace(recipe, seed=seed), tmp_path / name, progress=False)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_train import RECIPE, TINY, toy
from mcnn_core.training import train
torch.set_num_threads(1)

class Pixels:
    "Kills its own process, without warning, when the given number of fields has been read."
    def __init__(self, array, left):
        self.array, self.left, self.shape = array, left, array.shape
    def __len__(self):
        return len(self.array)
    def __getitem__(self, row):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.array[row]

store, labels = toy()
store.pixels = Pixels(store.pixels, int(sys.argv[2]))
recipe = replace(RECIPE, optimiser=sys.argv[3], schedule=sys.argv[4])
train(store, labels, TINY, recipe, Path(sys.argv[1]), progress=False)
"""


@pytest.mark.parametrize("optimiser, schedule", [("muon", "one-cycle"), ("sgd", "steps")])
def test_a_run_killed_in_an_epoch_ends_with_the_same_weights(tmp_path, optimiser, schedule):
    def run(folder, fields):
        code = KILLED.format(tests=os.path.dirname(__file__))
        return child(code, tmp_path / folder, fields, optimiser, schedule).returncode

    assert run("whole", -1) == 0
    in_second_epoch = 24 + 24 + 13  # grey levels of 24 fields, an epoch of 24, two batches
    assert run("killed", in_second_epoch) == -signal.SIGKILL
    assert [path.name for path in sorted((tmp_path / "killed").glob("epoch*"))] == [
        "epoch_001.safetensors",
        "epoch_001.sha256",
    ]
    assert run("killed", -1) == 0
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    one, other = (
        pd.read_csv(tmp_path / name / "history.csv").drop(columns="seconds")
        for name in ("whole", "killed")
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_finished_training_returns_at_once(tmp_path, monkeypatch):
    store, labels = toy()
    history = train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    before = weights(tmp_path)
    monkeypatch.setattr(training, "augment", lambda *_: pytest.fail("it trains again"))
    pd.testing.assert_frame_equal(
        train(store, labels, TINY, RECIPE, tmp_path, progress=False), history
    )
    assert same(weights(tmp_path), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock",
        ".mcnn",
        "epoch_002.safetensors",
        "epoch_002.sha256",
        "epoch_003.safetensors",
        "epoch_003.sha256",
        "history.csv",
        "network.yml",
    ]


def test_checkpoint_of_another_training_is_refused(tmp_path):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    other = SimpleNamespace(pixels=store.pixels, manifest={"sha256": "other"}, verify=store.verify)
    for arguments, key in [
        ((store, labels[::-1], TINY, RECIPE), "surrogate classes"),
        ((other, labels, TINY, RECIPE), "store"),
        ((store, labels, replace(TINY, fusion=16), RECIPE), "network"),
        ((store, labels, TINY, replace(RECIPE, epochs=4)), "recipe"),
    ]:
        with pytest.raises(InputError, match="another training") as error:
            train(*arguments, tmp_path, progress=False)
        assert {problem.split(":")[0] for problem in error.value.problems} == {key}
    assert read_yaml(tmp_path / "network.yml")[1]["epochs"] == 3


def _cut(data):
    return data[:-100]


def _flip(data):
    return data[:-50] + bytes([data[-50] ^ 1]) + data[-49:]


@pytest.mark.parametrize("damage", [_cut, _flip])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    path = tmp_path / "epoch_003.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    for action in (
        lambda: load_model(tmp_path),
        lambda: train(store, labels, TINY, RECIPE, tmp_path, progress=False),
    ):
        with pytest.raises(InputError, match=r"epoch_003\.safetensors is damaged"):
            action()
    for name in ("epoch_003.safetensors", "epoch_003.sha256"):  # what the message advises
        (tmp_path / name).unlink()
    assert len(train(store, labels, TINY, RECIPE, tmp_path, progress=False)) == 3


@pytest.mark.parametrize(
    "lost",
    [
        ["history.csv"],
        ["epoch_003.safetensors"],
        ["epoch_003.sha256"],
        ["network.yml", "epoch_002.sha256"],
    ],
)
def test_what_a_finished_training_has_lost_comes_back(tmp_path, lost):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    before = load_model(tmp_path).state_dict()
    for name in lost:
        (tmp_path / name).unlink()
    assert (
        len(train(store, labels, TINY, RECIPE, tmp_path, progress=False))
        == len(pd.read_csv(tmp_path / "history.csv"))
        == 3
    )
    after = load_model(tmp_path).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_checkpoint_with_a_right_digest_and_wrong_contents_is_refused(tmp_path):
    path = tmp_path / "epoch_001.safetensors"
    path.write_bytes(b"not tensors")
    path.with_suffix(".sha256").write_text(f"{files.sha256(path)}  {path.name}\n")
    with pytest.raises(InputError, match="is not a checkpoint"):
        load_model(tmp_path)
    path.unlink()
    # Its SHA-256 alone is not a checkpoint.
    with pytest.raises(MissingStageError, match="holds no trained network"):
        load_model(tmp_path)


def test_network_file_of_another_network_is_refused(tmp_path):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path / "a", progress=False)
    train(store, labels, replace(TINY, fusion=16), RECIPE, tmp_path / "b", progress=False)
    (tmp_path / "b" / "network.yml").replace(tmp_path / "a" / "network.yml")
    with pytest.raises(InputError, match="is not the network of"):
        load_model(tmp_path / "a")


def test_load_needs_a_finished_training(tmp_path, monkeypatch):
    with pytest.raises(MissingStageError, match="no trained network"):
        load_model(tmp_path)
    store, labels = toy()
    sampled = training.augment
    calls = iter(range(100))
    monkeypatch.setattr(
        training, "augment", lambda *args: sampled(*args) if next(calls) < 6 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    with pytest.raises(MissingStageError, match="stopped in epoch 2"):
        load_model(tmp_path)


def test_loss_that_is_not_finite_names_the_fields(tmp_path, monkeypatch):
    store, labels = toy()
    names = [f"plate P, well B{row:02d}, site 1" for row in range(24)]
    augment, calls = training.augment, iter(range(100))
    monkeypatch.setattr(
        training, "augment", lambda *args: augment(*args) * (1 if next(calls) < 5 else np.nan)
    )
    with pytest.raises(InputError, match="not a finite number in epoch 2") as error:
        train(store, labels, TINY, RECIPE, tmp_path, names=names, progress=False)
    assert len(error.value.problems) == 6 and set(error.value.problems) <= set(names)
    monkeypatch.setattr(training, "augment", augment)
    # Goes on from epoch 1.
    assert len(train(store, labels, TINY, RECIPE, tmp_path, progress=False)) == 3


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    store, labels = toy()
    with pytest.raises(InputError, match="finite number"):
        train(
            store,
            labels,
            TINY,
            replace(RECIPE, learning_rate=1e38, max_steps=1, epochs=1, schedule="steps"),
            tmp_path,
            progress=False,
        )
    assert not list(tmp_path.glob("epoch*"))


def test_grey_constants_are_those_of_the_training_fields():
    store, labels = toy()
    labels[12:] = -1
    model = untrained_model(store, labels, TINY)
    x = model.standardise(store.pixels[:12])
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std((0, 2, 3), correction=0), 1, atol=1e-4)
    store.pixels[..., 1] = 7
    assert float(untrained_model(store, labels, TINY).grey_std[1]) == 1
    assert not model.training and same(
        model.state_dict(), untrained_model(*toy()[:1], labels, TINY).state_dict()
    )


def test_weights_are_xaviers_unless_they_are_to_be_scaled(tmp_path):
    store, labels = toy()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plain = MCNN(TINY, 4, 2, 16, 16).state_dict()
    default = untrained_model(store, labels, TINY, 3)
    assert RECIPES["default"].initialisation == "xavier" and RECIPES["default"].warm_up == 0
    assert all(torch.equal(plain[key], weight) for key, weight in default.named_parameters())

    network = replace(CONFIGS["published"], scales=(4, 4))
    fresh = untrained_model(store, labels, network, 3, "scaled")
    scores = fresh(fresh.standardise(store.pixels)).detach()
    assert (
        scores.std(0).mean() == pytest.approx(0.1, rel=1e-3) and scores.mean(0).abs().max() < 1e-5
    )
    recipe = replace(RECIPES["published"], batch=4, max_steps=1, learning_rate=1e-30, seed=3)
    train(store, labels, network, recipe, tmp_path, progress=False)
    assert torch.equal(load_model(tmp_path).classifier.weight, fresh.classifier.weight)


def test_wrong_recipes_and_labels_are_refused(tmp_path):
    with pytest.raises(InputError) as error:
        Recipe(
            epochs=0,
            batch=2,
            optimiser="adam",
            learning_rate=1,
            schedule="cosine",
            crop=0,
            precision="half",
        )
    assert len(error.value.problems) == 5
    store, labels = toy()
    with pytest.raises(InputError, match="24 fields in the store, but 23 labels"):
        train(store, labels[1:], TINY, RECIPE, tmp_path)


def test_what_the_book_alone_trained_makes_way_in_a_line(tmp_path, monkeypatch, capsys):
    store, labels = toy()
    monkeypatch.setenv("MCNN_BUILD", str(tmp_path))
    make_way(store, labels, TINY, RECIPE, tmp_path / "model")  # nothing there
    train(store, labels, TINY, RECIPE, tmp_path / "model", progress=False)
    make_way(store, labels, TINY, RECIPE, tmp_path / "model")
    assert len(checkpoint.checkpoints(tmp_path / "model")) == 2 and not capsys.readouterr().err
    make_way(store, labels, TINY, replace(RECIPE, seed=9, epochs=4), tmp_path / "model")
    assert not list(tmp_path.glob("model/epoch*"))
    assert (
        "makes way (recipe: epochs 3 there, 4 here; recipe: seed 1 there, 9 here)"
        in capsys.readouterr().err
    )
    # Checkpoints that are gone, by hand too, are trained again; whoever goes on with a training by
    # a command has a part in it.
    train(store, labels, TINY, RECIPE, tmp_path / "model", progress=False)
    for path in tmp_path.glob("model/epoch_003.*"):
        path.unlink()
    monkeypatch.delenv("MCNN_BUILD")
    assert len(train(store, labels, TINY, RECIPE, tmp_path / "model", progress=False)) == 3
    assert [
        checkpoint.read(path)[1]["by"] for path in checkpoint.checkpoints(tmp_path / "model")
    ] == ["book", "command"]


def test_what_a_command_trained_is_kept_and_all_that_differs_is_named(tmp_path, monkeypatch):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setenv("MCNN_BUILD", str(tmp_path))
    other = store, labels[::-1], replace(TINY, fusion=16), replace(RECIPE, epochs=4, batch=3)
    problems = [
        "network: fusion 8 there, 16 here",
        "recipe: epochs 3 there, 4 here",
        f"recipe: batch {RECIPE.batch} there, 3 here",
        "surrogate classes: not the same",
    ]
    for function, text in (
        (make_way, "to train another, name another OUT, or delete that folder"),
        (train, "another training"),
    ):
        with pytest.raises(InputError, match=text) as error:
            function(*other, tmp_path)
        assert error.value.problems == problems and "PARAMS" not in str(error.value)
    monkeypatch.setitem(model.CONFIGS, "small", TINY)
    for network, recipe in (
        (TINY, replace(RECIPE, epochs=4)),
        (replace(TINY, fusion=16), RECIPE),
        (TINY, replace(RECIPES["published"], seed=1)),
    ):
        use = f"network=small recipe=default epochs=3 batch={RECIPE.batch} max_steps=0"
        with pytest.raises(InputError, match=f'add PARAMS="{use}" to make book'):
            make_way(store, labels, network, recipe, tmp_path)
    with pytest.raises(
        InputError, match="to train another"
    ) as error:  # a seed goes to the screen too
        make_way(store, labels, TINY, replace(RECIPE, seed=5), tmp_path)
    assert "PARAMS" not in str(error.value)
    assert there == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_checkpoints_of_others_are_neither_read_nor_removed(tmp_path):
    store, labels = toy()
    train(store, labels, TINY, replace(RECIPE, epochs=1), tmp_path / "model", progress=False)
    theirs = [tmp_path / "model" / f"epoch_999.{suffix}" for suffix in ("safetensors", "sha256")]
    for path in theirs:
        path.write_text("mine")
    again = replace(RECIPE, epochs=1), tmp_path / "model"
    for action in (
        lambda: train(store, labels, TINY, *again),
        lambda: load_model(tmp_path / "model"),
        lambda: make_way(store, labels, TINY, *again),
    ):
        with pytest.raises(InputError, match="not written there by this program") as error:
            action()
        assert error.value.problems == ["epoch_999.safetensors", "epoch_999.sha256"]
    assert [path.read_text() for path in theirs] == ["mine", "mine"]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError,
        match=r"holds 'notes\.txt' and was not made by this program as a trained network",
    ):
        train(store, labels, TINY, RECIPE, tmp_path / "foreign", progress=False)
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]


def test_a_checkpoint_of_before_counts_as_trained_by_a_command(tmp_path):
    path, state = (
        tmp_path / "epoch_001.safetensors",
        {"step": 1, "history": [], "finished": True, "precision": "float32", "identity": {}},
    )
    path.write_bytes(save_tensors({"x": torch.zeros(1)}, metadata={"state": json.dumps(state)}))
    path.with_suffix(".sha256").write_text(f"{files.sha256(path)}  {path.name}\n")
    assert checkpoint.read(path)[1] == {**state, "by": "command"}


def test_what_differs_is_said_field_by_field():
    here = {
        "recipe": "Recipe(epochs=27, batch=16)",
        "network": "(NetworkConfig(scales=(4, 4)), 3, 2, 16, 16)",
        "store": "a" * 64,
    }
    there = {
        "recipe": "Recipe(epochs=120)",
        "network": "(NetworkConfig(scales=(4, 4)), 3, 2, 16, 32)",
        "store": "1" * 64,
        "start": "b",
    }
    assert checkpoint.differences(there, here) == [
        "recipe: epochs 120 there, 27 here",
        "recipe: batch not named there, 16 here",
        "network: width 32 there, 16 here",
        "store: not the same",
        "start: none here",
    ]
    assert checkpoint.differences({"recipe": "Recipe(epochs=27,)"}, {"recipe": "R(epochs=27)"}) == [
        "recipe: not the same"
    ]
    assert checkpoint.differences({"recipe": "(" * 10_000}, {"recipe": "Recipe(epochs=27)"}) == [
        "recipe: not the same"
    ]
    assert checkpoint.differences(here, here) == []


def test_augmented_views_are_pictures():
    store, labels = toy(size=32)
    views = augmented(store, labels, TINY, RECIPE, 3, 4)
    assert len(views) == 4 and {(view.shape, view.dtype.name) for view in views} == {
        ((16, 16, 2), "uint8")
    }
    plain = replace(RECIPE, crop=1.0, flips=False, jitter_gain=0.0, jitter_offset=0.0)
    assert (augmented(store, labels, TINY, plain, 3, 1)[0] == store.pixels[3]).all()


def test_progress_bar_shows_loss_and_accuracy(tmp_path, capsys):
    store, labels = toy()
    train(store, labels, TINY, replace(RECIPE, epochs=1), tmp_path, progress=True)
    bar = capsys.readouterr().err
    assert "loss=" in bar and "accuracy=" in bar and "training: 100%" in bar


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_gives_a_model_that_the_cpu_reads(tmp_path):
    store, labels = toy()
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    assert next(load_model(tmp_path).parameters()).device.type == "cpu"


def test_precision_is_chosen_once_for_a_whole_training(tmp_path, monkeypatch):
    store, labels = toy()
    kept, calls = training.augment, iter(range(6))
    monkeypatch.setattr(
        training,
        "augment",
        lambda *args: kept(*args) if next(calls, None) is not None else 1 / 0,
    )
    with pytest.raises(ZeroDivisionError):
        train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    used = read_yaml(tmp_path / "network.yml")[1]["precision"]
    monkeypatch.undo()
    # As another machine might.
    other = {"float32": True, "bfloat16": False}[used]
    monkeypatch.setattr(
        training,
        "bfloat16",
        lambda precision: other if precision == "auto" else precision == "bfloat16",
    )
    train(store, labels, TINY, RECIPE, tmp_path, progress=False)
    assert read_yaml(tmp_path / "network.yml")[1]["precision"] == used


def test_command_line_trains_what_the_chapters_left(tmp_path, capsys):
    with pytest.raises(SystemExit, match="run the notebooks 01 to 03 first"):
        main(["train", "--out", str(tmp_path)])
    (tmp_path / "surrogate.parquet").write_text("no table")
    with pytest.raises(SystemExit, match=r"^error: .*surrogate\.parquet is not a readable table"):
        main(["train", "--out", str(tmp_path)])
    screen = read_loaddata(write_screen(tmp_path, shape=(32, 32)))
    preprocess(screen, tmp_path / "store", progress=False)
    labels = surrogate_classes(screen.table, ["Metadata_Well"], np.ones(len(screen.table), bool))
    labels.to_parquet(tmp_path / "surrogate.parquet")
    main(["train", "--out", str(tmp_path), "--epochs", "1", "--batch", "4"])
    assert load_model(tmp_path / "model").spec[1:] == (2, 2, 32, 32)
    capsys.readouterr()
    main(["train", "--out", str(tmp_path), "--epochs", "1", "--batch", "4"])  # finished: at once
    with pytest.raises(SystemExit, match="belongs to another training"):
        main(["train", "--out", str(tmp_path), "--epochs", "2", "--batch", "4"])


def test_first_steps_measure_every_layer_of_both_initialisations():
    store, labels = toy()
    network = replace(CONFIGS["published"], scales=(4, 4), fusion=8, hidden=16)
    recipe = replace(RECIPES["published"], batch=6)
    table = first_steps(store.pixels, labels, network, recipe, 2)
    assert len(table) == 2 * 2 * (2 * 3 + 3) and table["gradient"].gt(0).all()
    start = table[table["moment"] == "at the start"].set_index("initialisation")
    assert start.loc["scaled", "spread"].iloc[:-1].to_numpy() == pytest.approx(1, abs=0.05)
    assert (start.loc["xavier", "spread"] < 0.95).all()
    assert (start.loc["scaled", "silent"].iloc[:-1] == 0).all()
    scores = table["layer"] == "scores"
    assert table.loc[scores, "silent"].isna().all() and scores.sum() == 4
    after = table[table["moment"] == "after 2 steps"].set_index("initialisation")
    assert (after["spread"] != start["spread"]).all()
