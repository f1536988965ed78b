"""Training on surrogate classes: a checkpoint per epoch, exact resume, and any number of processes.

The paper (Methods, "Learning details") states SGD, dropout, weight decay, 27 epochs and a rate held
for 9 epochs at a time; what we had to choose is marked [ours] in `mcnn_core.engine`. All randomness
comes from the seed and the epoch, so a run that was killed goes on from its last checkpoint to the
same weights.

A build folder that has been pre-processed and labelled (chapters 1 to 3) is trained on the eight
GPUs of a machine by::

    .venv/bin/python -m mcnn_core.train --out _build --processes 8

and ``make book`` then finds the training finished. Without ``--processes`` the command uses one
GPU, or the CPU. torchrun can start ``-m mcnn_core.train --out _build`` on several machines; its
store listens on every network interface and obeys whoever reaches it, so that is for a network that
you trust.
"""

import argparse
import ast
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mcnn_core import checkpoint
from mcnn_core.engine import (
    RECIPES,
    Fields,
    Recipe,
    augment,
    bfloat16,
    crop_size,
    device,
    draw,
    learning_rate,
    optimiser_for,
    reproducible,
    run_steps,
    total_steps,
)
from mcnn_core.errors import InputError, MissingStageError, reporting, whole
from mcnn_core.files import claim, exclusive, refuse_foreign, write_table
from mcnn_core.model import CONFIGS, MCNN, NetworkConfig, digest, multiple_of
from mcnn_core.parallel import MEETING, Team, launch, team
from mcnn_core.preprocess import Store
from mcnn_core.screen import field_names
from mcnn_core.surrogate import BalancedBatches
from mcnn_core.workspace import in_build

KIND = "trained network"  #: what the marker of the folder says (`mcnn_core.files.claim`)


def train(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
    names: Sequence[str] | None = None,
    progress: bool = True,
    start: MCNN | None = None,
) -> pd.DataFrame:
    """Train an M-CNN, or go on with one that was interrupted; return at once if it is finished.

    Parameters
    ----------
    store : Store
        Pre-processed fields: ``pixels`` (n, H, W, C) uint8, ``manifest["sha256"]``, ``verify``.
    labels : (n,) int array
        Surrogate class of each field of the store; -1 where not trained on.
    network, recipe : NetworkConfig, Recipe
    folder : path
        Where network.yml, history.csv and the checkpoints are written.
    names : sequence of str, optional
        Name of each field for messages (`mcnn_core.screen.field_names`).
    progress : bool
        Show a bar with loss, accuracy and the time left.
    start : MCNN, optional
        A trained network whose weights to begin with, for the same fields. Its classes are the
        first of `labels`, which may have more: the score of a new class begins with random weights.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, accuracy (of the fields as augmented), learning_rate,
        seconds.

    Raises
    ------
    InputError
        If the folder holds what `train` has not written, if another run trains in it, if pixels to
        train on are not as they were written, if the folder holds a damaged checkpoint or one of
        another training, if `start` is a network for other fields or more classes, or if the loss
        is not a finite number: the fields of the batch are named, the last good checkpoint stays.
    """
    with team() as us, _held(Path(folder), us):
        return _train(
            store,
            np.asarray(labels),
            network,
            recipe,
            Path(folder),
            names,
            progress and us.rank == 0,
            start,
            us,
        )


@contextmanager
def _held(folder: Path, us: Team) -> Iterator[None]:
    """Hold the folder of a training for the first of its processes."""
    if us.rank == 0:
        claim(folder, KIND)
        with exclusive(folder):
            yield
    else:
        yield


def _train(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: Path,
    names: Sequence[str] | None,
    progress: bool,
    start: MCNN | None,
    us: Team,
) -> pd.DataFrame:
    if len(labels) != len(store.pixels):
        raise InputError(
            f"{len(store.pixels)} fields in the store, but {len(labels)} labels: both must come "
            "from one table"
        )
    names = names if names is not None else [f"row {row}" for row in range(len(labels))]
    model = untrained_model(store, labels, network, recipe.seed)
    if start is not None:
        _begin_with(model, start)
    model = model.to(device()).train()
    optimiser = optimiser_for(model, recipe)
    sampler = BalancedBatches(labels, recipe.batch, recipe.seed)
    total = total_steps(recipe, len(sampler))
    identity = _identity(store, labels, model, recipe) | (
        {} if start is None else {"start": digest(start)}
    )
    state = checkpoint.resume(folder, identity, model, optimiser)
    state["by"] = state["by"] if in_build() else "command"
    # Measured once for a whole training, whatever a resumed run would measure.
    if recipe.precision == "auto":
        measured = "bfloat16" if bfloat16() else "float32"
        state["precision"] = measured if state["precision"] == "auto" else state["precision"]
        recipe = replace(recipe, precision=state["precision"])
    us.wait()  # all have read the folder before one writes to it
    if us.rank == 0:
        checkpoint.write_yaml(folder / "network.yml", model, asdict(recipe))
    if state["step"] >= total:
        if us.rank == 0:  # it may have been lost since
            write_table(folder / "history.csv", pd.DataFrame(state["history"]))
        return pd.DataFrame(state["history"])
    if us.rank == 0:
        store.verify(np.flatnonzero(labels >= 0))
    fields, spread = Fields(store.pixels, np.flatnonzero(labels >= 0)), us.spread(model)
    with tqdm(
        total=total, initial=state["step"], disable=not progress, desc="training", unit="batch"
    ) as bar:
        while state["step"] < total:
            epoch, first, began = len(state["history"]), state["step"], time.perf_counter()
            steps = min(len(sampler), total - first)
            rates = [learning_rate(recipe, first + step, len(sampler)) for step in range(steps)]

            def seen(done: int, loss: float, accuracy: float) -> None:
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
                bar.update(done)

            try:
                with reproducible(recipe.seed, epoch, us.rank) as rng:
                    sums = run_steps(
                        spread,
                        optimiser,
                        fields,
                        labels,
                        islice(sampler.batches(epoch), steps),
                        rates,
                        recipe,
                        rng,
                        us.rank,
                        us.size,
                        seen,
                    )
            except FloatingPointError as error:
                raise InputError(
                    f"The loss is not a finite number in epoch {epoch + 1}; the last checkpoint "
                    "was kept. Look at these fields, or lower the learning rate",
                    [names[row] for row in error.args[0]],
                ) from None
            sums = us.total(sums)
            loss, accuracy = (sums[:2] / sums[2]).tolist()
            state["step"] += steps
            state["history"].append(
                {
                    "epoch": epoch + 1,
                    "loss": loss,
                    "accuracy": accuracy,
                    "learning_rate": rates[-1],
                    "seconds": time.perf_counter() - began,
                }
            )
            state["finished"] = state["step"] >= total
            if us.rank == 0:
                write_table(folder / "history.csv", pd.DataFrame(state["history"]))
                checkpoint.save(folder, {**state, "identity": identity}, model, optimiser)
            us.wait()
    return pd.DataFrame(state["history"])


def make_way(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    recipe: Recipe,
    folder: str | Path,
    as_given: bool = True,
) -> None:
    """Delete the checkpoints of another training, if ``make book`` has trained them.

    They are deleted if they belong to another training than this one and ``make book`` has trained
    them. They follow from the parameters of the book, so that `train`, which refuses such a folder,
    can replace them; a line says in what they differ.

    Parameters
    ----------
    store, labels, network, recipe, folder
        As of `train`.
    as_given : bool
        Whether `recipe` is what the parameters of a book say, so that a message can name those that
        would use the network.

    Raises
    ------
    InputError
        If they belong to another training that a command, or a notebook run by hand, has made or
        continued: it may have taken days. All that differs is listed.
    """
    folder = Path(folder)
    refuse_foreign(folder, KIND)
    found = checkpoint.checkpoints(folder)
    if not found:
        return
    state, model = (
        checkpoint.read(found[-1])[1],
        untrained_model(store, labels, network, recipe.seed),
    )
    there, here = state["identity"], _identity(store, np.asarray(labels), model, recipe)
    other = checkpoint.differences(there, here)
    if other and state["by"] != "book":
        use = _parameters(there, here, model, recipe) if as_given else ""
        raise InputError(
            f"{folder} holds a network that was not trained by make book alone, "
            "and with other settings: "
            + (
                f'to use it, add PARAMS="{use}" to make book, for all chapters that train; '
                if use
                else ""
            )
            + "to train another, name another OUT, or delete that folder",
            other,
        )
    if other:
        # To stderr, which a build shows and leaves out of its pages.
        print(
            f"{folder}: the network that make book trained before with other settings makes way "
            f"({'; '.join(other)})",
            file=sys.stderr,
        )
        for path in found:
            path.with_suffix(".sha256").unlink()
            path.unlink()


def _parameters(there: dict[str, str], here: dict[str, str], model: MCNN, recipe: Recipe) -> str:
    """Return the ``PARAMS`` by which a book trains as was trained there.

    They are in words of chapter 5; "" if there are none.
    """
    if {**there, "network": "", "recipe": ""} != {**here, "network": "", "recipe": ""}:
        return ""
    free = ("epochs", "batch", "max_steps")

    def named(told: str, given: dict[str, Any]) -> list[str]:
        return [
            name
            for name, one in RECIPES.items()
            if repr(replace(one, seed=recipe.seed, **given)) == told
        ]

    networks = [
        name
        for name, config in CONFIGS.items()
        if repr((config, *model.spec[1:])) == there.get("network")
        and multiple_of(config) == multiple_of(model.config)
    ]
    with suppress(KeyError, ValueError, TypeError, SyntaxError):  # a recipe of another version
        fields = checkpoint.parts(there["recipe"])
        given = {key: ast.literal_eval(fields[key]) for key in free}
        recipes = named(there["recipe"], given)
        if networks and recipes:
            same = recipes == named(repr(recipe), {key: getattr(recipe, key) for key in free})
            pairs: dict[str, str | int] = (
                {"network": networks[0]} if there.get("network") != here["network"] else {}
            )
            pairs |= {} if same else {"recipe": recipes[0]}
            pairs |= {
                key: value or 0
                for key, value in given.items()
                if not same or value != getattr(recipe, key)
            }
            return " ".join(f"{key}={value}" for key, value in pairs.items())
    return ""


def untrained_model(store: Any, labels: np.ndarray, network: NetworkConfig, seed: int = 0) -> MCNN:
    """Return the network that training with `seed` begins with, in eval mode.

    It is the baseline of random weights.
    """
    _, height, width, channels = store.pixels.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MCNN(network, int(np.max(labels)) + 1, channels, height, width)
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    # A hundred tell mean and spread of grey levels.
    fields = (store.pixels[row] for row in rows[:: max(1, len(rows) // 100)])
    mean, square = np.mean(
        [(f.mean((0, 1)), np.square(f, dtype=np.float64).mean((0, 1))) for f in fields], axis=0
    )
    std = np.sqrt(square - mean**2)
    model.grey_mean.copy_(torch.from_numpy(mean)[:, None, None])
    model.grey_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0))[:, None, None])
    return model.eval()


def _begin_with(model: MCNN, start: MCNN) -> None:
    """Give a network the weights of another one, which may have fewer classes."""
    (config, classes, *field), (their_config, their_classes, *their_field) = model.spec, start.spec
    if (config, field) != (their_config, their_field) or their_classes > classes:
        raise InputError(
            "Training can only begin with a network of the same kind, for the same fields and no "
            "more classes",
            [f"network to begin with: {start.spec}", f"network to train: {model.spec}"],
        )
    weights, own = start.state_dict(), model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = torch.cat([weights[key].to(own[key].device), own[key][their_classes:]])
    model.load_state_dict(weights)


def augmented(
    store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, row: int, n: int
) -> list[np.ndarray]:
    """Return `n` views of one field as training shows it, back in grey levels.

    They are (h, w, C) uint8, for looking at.
    """
    model, rng = (
        untrained_model(store, labels, network).to(device()),
        np.random.default_rng(recipe.seed),
    )
    size = crop_size(model, recipe)
    drawn = draw(rng, n, store.pixels.shape[1:], size, recipe.flips)
    x = augment(model, Fields(store.pixels).views(np.full(n, row), size, drawn), recipe, drawn)
    grey = x * model.grey_std + model.grey_mean
    return list(grey.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def load_model(folder: str | Path) -> MCNN:
    """Return the trained network of a folder that `train` has finished, in eval mode.

    Raises MissingStageError if training has not begun or not finished, InputError if a file is
    damaged.
    """
    found = checkpoint.checkpoints(folder := Path(folder))
    if not found:
        raise MissingStageError(
            f"{folder} holds no trained network: run the notebook on training first"
        )
    tensors, state = checkpoint.read(found[-1])
    if not state["finished"]:
        raise MissingStageError(
            f"Training in {folder} stopped in epoch {len(state['history']) + 1}: run it to its end "
            "first"
        )
    model, _ = checkpoint.read_yaml(folder / "network.yml")
    if repr(model.spec) != state["identity"]["network"]:
        raise InputError(
            f"{folder / 'network.yml'} is not the network of {found[-1]}: run the training again "
            "to write it"
        )
    checkpoint.load_weights(found[-1], tensors, model)
    return model.eval()


def _identity(store: Any, labels: np.ndarray, model: MCNN, recipe: Recipe) -> dict[str, str]:
    """Return what a checkpoint must share with a training that goes on from it."""
    classes = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    return {
        "network": repr(model.spec),
        "recipe": repr(recipe),
        "surrogate classes": classes,
        "store": store.manifest["sha256"],
    }


def _check_processes(processes: int) -> None:
    gpus = torch.cuda.device_count()
    most = gpus or os.cpu_count() or 1
    if processes > most:
        raise InputError(
            f"--processes takes 1 to {most} here, one per {'GPU' if gpus else 'core of the CPU'}, "
            f"got {processes}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as chapter 5 does, from the command line.

    It trains alone, in several processes, or in each of those that torchrun started.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mcnn_core.train",
        description="Train on the surrogate classes of a build folder.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder with store/ and surrogate.parquet (chapters 1 to 3); receives model/",
    )
    parser.add_argument("--network", choices=CONFIGS, default="default")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    parser.add_argument("--seed", type=whole(), default=0)
    parser.add_argument("--epochs", type=whole(1), help="the recipe's where not given")
    parser.add_argument(
        "--batch",
        type=whole(1),
        help="fields per step of all processes together; the recipe's where not given",
    )
    parser.add_argument("--max-steps", type=whole(1), help="stop after so many steps")
    parser.add_argument(
        "--processes",
        type=whole(1),
        default=1,
        help="of this machine, one per GPU, that train together",
    )
    options = parser.parse_args(arguments)
    given = {
        key: getattr(options, key)
        for key in ("epochs", "batch", "max_steps")
        if getattr(options, key) is not None
    }
    with reporting():
        if not (options.out / "surrogate.parquet").is_file():
            raise MissingStageError(
                f"{options.out} holds no surrogate.parquet: run the notebooks 01 to 03 first"
            )
        if options.processes != 1 and MEETING not in os.environ:
            _check_processes(options.processes)
            launch(
                [
                    sys.executable,
                    "-m",
                    "mcnn_core.train",
                    *(sys.argv[1:] if arguments is None else arguments),
                ],
                options.processes,
            )
            return
        try:
            classes = pd.read_parquet(options.out / "surrogate.parquet")
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise InputError(
                f"{options.out / 'surrogate.parquet'} is not a readable table ({error}): run the "
                "notebook 03_surrogate_classes again"
            ) from error
        train(
            Store.open(options.out / "store"),
            classes["label"].to_numpy(),
            CONFIGS[options.network],
            replace(RECIPES[options.recipe], seed=options.seed, **given),
            options.out / "model",
            field_names(classes),
        )


if __name__ == "__main__":
    main()
