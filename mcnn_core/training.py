"""Training: the recipe, random views of the fields, the step, and the loop that resumes.

A batch is computed in groups of a few fields [ours], by as many threads as there are cores to use;
they meet twice per step, at the scores and at the gradients. What is drawn at random is drawn on
the CPU from one generator. So neither the device nor the number of threads changes what is
computed, and a CPU gives the same bits with any number. What we had to choose is marked [ours].

torch, NumPy and pandas are enough to import this module and to take steps: what else a whole
training needs is imported where it is used.
"""

import copy
import hashlib
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from mcnn_core.errors import InputError
from mcnn_core.machine import checkpoint
from mcnn_core.machine.device import ahead, bfloat16, device, reproducible, workers
from mcnn_core.machine.fields import Fields
from mcnn_core.machine.files import claim, exclusive, in_build, write_table
from mcnn_core.model import (
    MCNN,
    NetworkConfig,
    by_rows,
    digest,
    read_yaml,
    scale_weights,
    write_yaml,
)
from mcnn_core.surrogate import BalancedBatches

KIND = "trained network"  #: what the marker of the folder says (`mcnn_core.machine.files.claim`)
#: Pixels of all views, about, and fewest fields, that one thread computes together and that batch
#: normalisation of the convolutions sees [ours]; smaller groups cost more time per field.
GROUP = (16 * 64 * 80, 8)
CHECK_EVERY = 32  #: steps between looks at a GPU's numbers: each look waits for it


@dataclass(frozen=True)
class Recipe:
    """How to train."""

    epochs: int  #: each draws about as many fields as there are training fields
    batch: int  #: fields per step
    optimiser: str  #: "sgd" or "muon"
    learning_rate: float  #: the highest rate
    #: "steps": a tenth after every 9 epochs; "one-cycle": cosine up over 20 % of all steps, and
    #: down
    schedule: str
    momentum: float = 0.9  #: of the gradients, from step to step
    #: factor of the squared L2 norm, as Caffe's (the paper prints the norm unsquared)
    weight_decay: float = 5e-4
    clip: float = 5.0  #: largest norm of the gradient
    #: of the weights: "xavier", or "scaled", which then fits each layer to what it sees
    initialisation: str = "xavier"
    warm_up: int = 0  #: first steps, over which the rate of "steps" grows in proportion
    #: part of each side shown in training, at random places; features see the full field
    crop: float = 1.0
    #: flip along each axis, and transpose if square: so all right-angle rotations that fit occur
    flips: bool = True
    jitter_gain: float = 0.0  #: multiply each channel of each field by exp(jitter_gain * N(0, 1))
    jitter_offset: float = 0.0  #: and add jitter_offset * N(0, 1), in standard units
    #: "float32", "bfloat16", or "auto": bfloat16 where it is fast (`mcnn_core.machine.device`)
    precision: str = "auto"
    seed: int = 0  #: of weights, batches, augmentation and dropout
    #: stop after so many steps, where the one-cycle schedule then ends
    max_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        choices = {
            "optimiser": ("sgd", "muon"),
            "schedule": ("steps", "one-cycle"),
            "precision": ("auto", "float32", "bfloat16"),
            "initialisation": ("xavier", "scaled"),
        }
        problems = [
            f"{key}: expected one of {', '.join(values)}, got {getattr(self, key)!r}"
            for key, values in choices.items()
            if getattr(self, key) not in values
        ]
        problems += [
            f"{key}: expected more than 0, got {getattr(self, key)}"
            for key in ("epochs", "batch", "learning_rate", "clip", "crop")
            if getattr(self, key) <= 0
        ]
        if self.crop > 1:
            problems.append(f"crop: expected at most 1, got {self.crop}")
        if problems:
            raise InputError("Invalid training recipe", problems)


RECIPES = {
    # [ours] initialisation, rate and its warm-up, momentum, decay, batch, clip, the factor of 0.1
    # per 9 epochs, and flips as augmentation.
    "published": Recipe(
        epochs=27,
        batch=16,
        optimiser="sgd",
        learning_rate=1e-2,
        schedule="steps",
        initialisation="scaled",
        warm_up=300,
    ),
    "default": Recipe(
        epochs=80,
        batch=32,
        optimiser="muon",
        learning_rate=4e-3,
        schedule="one-cycle",
        momentum=0.95,
        weight_decay=1e-2,
        crop=0.5,
        jitter_gain=0.2,
        jitter_offset=0.15,
    ),
}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0: a function of the step alone, never saved."""
    if recipe.schedule == "steps":
        highest = recipe.learning_rate * min(1, (step + 1) / max(1, recipe.warm_up))
        return highest * 0.1 ** (step // steps_per_epoch // 9)
    last, lowest = total_steps(recipe, steps_per_epoch) - 1, recipe.learning_rate / 25
    warm = 0.2 * (last + 1) - 1
    start, end, part = (
        (lowest, recipe.learning_rate, step / warm)
        if step < warm
        else (recipe.learning_rate, lowest * 1e-4, (step - warm) / (last - warm))
    )
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def total_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return the number of steps of a whole training."""
    return min(recipe.epochs * steps_per_epoch, recipe.max_steps or sys.maxsize)


# Views ---------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """What is random about the views of one batch of n fields."""

    corners: np.ndarray  #: (n, 2) int: top and left of each crop
    turns: np.ndarray  #: (n, 3) int, 0 or 1: flip vertically, flip horizontally, transpose
    noise: np.ndarray  #: (2, n, C, 1, 1) float32, standard normal: of gain and of offset

    def __getitem__(self, part: slice) -> "Draw":
        """Return what is random about a part of the fields."""
        return Draw(self.corners[part], self.turns[part], self.noise[:, part])


def draw(
    rng: np.random.Generator, n: int, shape: Sequence[int], size: tuple[int, int], flips: bool
) -> Draw:
    """Draw views of `size` (height, width) of n fields of `shape` (H, W, C)."""
    corners = rng.integers((shape[0] - size[0], shape[1] - size[1]), size=(n, 2), endpoint=True)
    turns = rng.integers(2, size=(n, 3)) * flips
    turns[:, 2] *= size[0] == size[1]
    return Draw(corners, turns, rng.standard_normal((2, n, shape[2], 1, 1), dtype=np.float32))


def crop_size(model: MCNN, recipe: Recipe) -> tuple[int, int]:
    """Return height and width of what training shows, which the scales of the network can halve."""
    if recipe.crop < 1 and not model.config.average:
        raise InputError(
            "A network that flattens its last layer takes whole fields: use crop=1, or a network "
            "that averages"
        )
    fit = 2 ** (len(model.config.scales) - 1)
    height, width = (max(fit, int(side * recipe.crop) // fit * fit) for side in model.spec[3:])
    return height, width


def augment(model: MCNN, views: torch.Tensor, recipe: Recipe, drawn: Draw) -> torch.Tensor:
    """Standardise a batch on the device; jitter gain and offset of each channel of each field.

    (n, h, w, C) uint8 -> (n, C, h, w) float32.
    """
    x = model.standardise(views)
    gain, offset = torch.from_numpy(drawn.noise).to(x.device).view(2, len(x), 1, -1)
    by_rows(x).mul_(torch.exp(recipe.jitter_gain * gain).repeat(1, 1, x.shape[3])).add_(
        (recipe.jitter_offset * offset).repeat(1, 1, x.shape[3])
    )
    return x


# Steps ---------------------------------------------------------------------


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Set all singular values of a matrix (m, n) to about 1 and keep its singular vectors.

    Five Newton-Schulz iterations of Jordan et al. 2024; the values end between 0.7 and 1.2.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T) / (matrix.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.775 * square) @ x
    return x if wide else x.T


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for all layers but the last, AdamW for scores, biases and scales.

    The weights of a layer are a matrix, units by inputs. Their gradients are averaged over the
    steps (Nesterov's momentum), and the matrix of the averages is replaced by the nearest one that
    moves all directions equally (`orthogonal`). Its length is that of AdamW's steps, times 2
    [ours], so that one rate serves both (Liu et al. 2025).
    """

    def __init__(self, model: MCNN, momentum: float, weight_decay: float):
        super().__init__(model.parameters(), weight_decay=weight_decay, fused=True)
        self.momentum, layers = momentum, [*model.scales, model.fusion, model.features]
        self.matrices = [
            weight for layer in layers for weight in layer.parameters() if weight.ndim > 1
        ]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step with the gradients that the weights hold."""
        rate, decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        for weight in self.matrices:
            state = self.state[weight]
            if not state:  # AdamW asks for a step in it when a training resumes
                state.update(step=torch.zeros(()), momentum_buffer=torch.zeros_like(weight))
            mean = state["momentum_buffer"]
            mean.mul_(self.momentum).add_(weight.grad)
            move = orthogonal((weight.grad + self.momentum * mean).flatten(1))
            weight.mul_(1 - rate * decay)
            weight.sub_(rate * move.mul_(0.4 * math.sqrt(max(move.shape))).view_as(weight))
            weight.grad = None  # so that AdamW passes it by
        return super().step(closure)


def optimiser_for(model: MCNN, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser; its rate is set before every step."""
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(
            model.parameters(), momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return Muon(model, recipe.momentum, recipe.weight_decay)


@dataclass
class Trainer:
    """What all steps of a training share."""

    model: MCNN  #: in training, on the device
    optimiser: torch.optim.Optimizer
    fields: Fields
    labels: np.ndarray  #: (n,) int
    recipe: Recipe

    def steps(
        self, batches: Iterable[np.ndarray], rates: Sequence[float], rng: np.random.Generator
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Take one step of the optimiser per batch of rows, at its learning rate.

        `rng` is that of the augmentation. Yields the steps since the last yield, one on a CPU and
        up to `CHECK_EVERY` on a GPU, and summed loss, right answers and fields so far, a (3,)
        float64 array. FloatingPointError if a loss or a gradient is not finite; its argument is
        the rows of that batch.
        """
        every, sums = 1 if device().type == "cpu" else CHECK_EVERY, np.zeros(3)
        waiting: list[tuple[np.ndarray, torch.Tensor]] = []
        twins: list[MCNN] = []  # one per group: the same weights, running statistics of its own
        made = ahead(self._views(batches, rng))
        with ThreadPoolExecutor(workers()) as pool:
            for step, ((rows, groups), rate) in enumerate(zip(made, rates, strict=True), 1):
                self.optimiser.param_groups[0]["lr"] = rate
                twins += [_twin(self.model) for _ in groups[len(twins) :]]
                loss, right = self._gradients(pool, twins, rows, groups)
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
                waiting.append((rows, torch.stack([loss, right, norm])))
                sums[2] += len(rows)
                if look := len(waiting) == every or step == len(rates):
                    for rows, numbers in waiting:
                        loss, right, norm = numbers.tolist()
                        if not math.isfinite(loss + norm):
                            raise FloatingPointError(rows)
                        sums[:2] += loss, right
                self.optimiser.step()
                if step == len(rates):
                    _average_statistics(self.model, twins)
                if look:
                    yield len(waiting), sums
                    waiting.clear()

    def _gradients(
        self, pool: ThreadPoolExecutor, twins: list[MCNN], rows: np.ndarray, groups: list[tuple]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Leave the gradient of a batch's mean loss; return its summed loss and right answers."""
        bf16 = bfloat16(self.recipe.precision)

        def mixed(twin: MCNN, group: tuple[torch.Tensor, Draw]) -> torch.Tensor:
            return twin.mixed(augment(twin, group[0], self.recipe, group[1]), bf16)

        parts = list(pool.map(mixed, twins, groups))
        model, y = self.model, torch.from_numpy(self.labels[rows]).to(device())
        joined = torch.cat(parts).detach().requires_grad_()
        loss = F.cross_entropy(scores := model.scores(joined), y)
        head = [*model.features.parameters(), *model.classifier.parameters()]
        slope, *slopes = torch.autograd.grad(loss, [joined, *head])
        for weight, weight_slope in zip(head, slopes, strict=True):
            weight.grad = weight_slope
        rest = [*model.scales.parameters(), *model.fusion.parameters()]
        each = slope.split([len(part) for part in parts])
        found = pool.map(torch.autograd.grad, parts, repeat(rest), each)
        for weight, first, *others in zip(rest, *found, strict=True):
            for other in others:  # always in this order, so that rounding is the same
                first.add_(other)
            weight.grad = first
        return loss.detach() * len(rows), (scores.argmax(1) == y).sum()

    def _views(self, batches: Iterable[np.ndarray], rng: np.random.Generator) -> Iterator[tuple]:
        """Yield a batch's rows, and of each group of them the views and what was drawn."""
        size, shape = crop_size(self.model, self.recipe), self.fields.pixels.shape[1:]
        least = max(GROUP[1], GROUP[0] // math.prod(size))
        for rows in batches:
            drawn, groups = draw(rng, len(rows), shape, size, self.recipe.flips), []
            for part in np.array_split(np.arange(len(rows)), max(1, round(len(rows) / least))):
                own = drawn[part[0] : part[-1] + 1]
                views = self.fields.views(rows[part], size, own.corners, own.turns)
                groups.append((views, own))
            yield rows, groups


def _twin(model: MCNN) -> MCNN:
    """Copy a network but for its weights, which stay the same tensors."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _average_statistics(model: MCNN, twins: Sequence[MCNN]) -> None:
    """Give a network the mean running statistics of its twins' normalisations.

    They are what the mean statistics of all groups of each batch would have made of them. The head
    of the network sees whole batches itself.
    """
    for part in ("scales", "fusion"):
        others = [dict(getattr(twin, part).named_buffers()) for twin in twins]
        for name, buffer in getattr(model, part).named_buffers():
            same = torch.stack([other[name] for other in others])
            buffer.copy_(same.mean(0) if buffer.is_floating_point() else same.amax(0))


# The loop ------------------------------------------------------------------


def train(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig | MCNN,
    recipe: Recipe,
    folder: str | Path,
    names: Sequence[str] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train an M-CNN, or resume an interrupted training; return at once if it is finished.

    Parameters
    ----------
    store : Store
        Pre-processed fields: ``pixels`` (n, H, W, C) uint8, ``manifest["sha256"]``, ``verify``.
    labels : (n,) int array
        Surrogate class of each field of the store; -1 where not trained on.
    network : NetworkConfig or MCNN
        What to train from random weights, or a trained network for the same fields whose weights
        to begin with. Its classes are the first of `labels`, which may have more: the score of a
        new class begins with random weights.
    recipe : Recipe
    folder : path
        Receives network.yml, history.csv and the checkpoints.
    names : sequence of str, optional
        Name of each field for messages (`mcnn_core.screen.field_names`).
    progress : bool
        Show a bar with loss, accuracy and the time left.

    Returns
    -------
    DataFrame
        One row per epoch: epoch, loss, accuracy (of the fields as augmented), learning_rate,
        seconds.

    Raises
    ------
    InputError
        If the folder holds what `train` has not written, a damaged checkpoint or one of another
        training; if another run trains in it; if pixels to train on are not as they were written;
        if the network to begin with is for other fields or more classes; or if the loss is not a
        finite number: the fields of the batch are named, the last good checkpoint stays.
    """
    from tqdm import tqdm  # only here, see above

    labels, folder = np.asarray(labels), Path(folder)
    if len(labels) != len(store.pixels):
        raise InputError(
            f"{len(store.pixels)} fields in the store, but {len(labels)} labels: both must come "
            "from one table"
        )
    names = [f"row {row}" for row in range(len(labels))] if names is None else names
    with ExitStack() as stack:
        claim(folder, KIND)
        stack.enter_context(exclusive(folder))
        model, optimiser, state = _begun(store, labels, network, recipe, folder)
        recipe = replace(recipe, precision=state["precision"])
        sampler = BalancedBatches(labels, recipe.batch, recipe.seed)
        total = total_steps(recipe, len(sampler))
        write_yaml(folder / "network.yml", model, asdict(recipe))
        if state["step"] < total:
            rows = np.flatnonzero(labels >= 0)
            store.verify(rows)
            trainer = Trainer(model, optimiser, Fields(store.pixels, rows), labels, recipe)
            bar = tqdm(total=total, desc="training", unit="batch", disable=not progress)
            stack.enter_context(bar).update(state["step"])
            while state["step"] < total:
                _epoch(trainer, sampler, state, names, bar)
                write_table(folder / "history.csv", pd.DataFrame(state["history"]))
                checkpoint.save(folder, state, model, optimiser)
        else:  # it may have been lost since
            write_table(folder / "history.csv", pd.DataFrame(state["history"]))
        return pd.DataFrame(state["history"])


def _begun(
    store: Any, labels: np.ndarray, network: NetworkConfig | MCNN, recipe: Recipe, folder: Path
) -> tuple[MCNN, torch.optim.Optimizer, dict[str, Any]]:
    """Return network, optimiser and state as the newest checkpoint left them, or at the start."""
    config = network.config if isinstance(network, MCNN) else network
    model = untrained_model(store, labels, config, recipe.seed, recipe.initialisation)
    wanted = identity(store, labels, model, recipe, network)
    if isinstance(network, MCNN):
        _begin_with(model, network)
    model = model.to(device()).train()
    optimiser = optimiser_for(model, recipe)
    state = checkpoint.resume(folder, wanted, model, optimiser) | {"identity": wanted}
    state["by"] = state["by"] if in_build() else "command"
    if state["precision"] == "auto":  # chosen once, whatever another machine that resumes would
        state["precision"] = "bfloat16" if bfloat16(recipe.precision) else "float32"
    return model, optimiser, state


def _epoch(
    trainer: Trainer,
    sampler: BalancedBatches,
    state: dict[str, Any],
    names: Sequence[str],
    bar: Any,
) -> None:
    """Train for one epoch, or what is left of the last, and add it to the state."""
    recipe, total = trainer.recipe, total_steps(trainer.recipe, len(sampler))
    epoch, step, began = len(state["history"]), state["step"], time.perf_counter()
    steps = range(step, min(step + len(sampler), total))
    rates = [learning_rate(recipe, step, len(sampler)) for step in steps]
    batches = islice(sampler.batches(epoch), len(rates))
    try:
        with reproducible(recipe.seed, epoch) as rng:
            for done, sums in trainer.steps(batches, rates, rng):
                loss, accuracy = sums[:2] / sums[2]
                bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
                bar.update(done)
    except FloatingPointError as error:
        raise InputError(
            f"The loss is not a finite number in epoch {epoch + 1}; the last checkpoint was kept. "
            "Look at these fields, or lower the learning rate",
            [names[row] for row in error.args[0]],
        ) from None
    loss, accuracy = (sums[:2] / sums[2]).tolist()
    state["step"], state["finished"] = steps.stop, steps.stop >= total
    state["history"].append(
        {
            "epoch": epoch + 1,
            "loss": loss,
            "accuracy": accuracy,
            "learning_rate": rates[-1],
            "seconds": time.perf_counter() - began,
        }
    )


def untrained_model(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig,
    seed: int = 0,
    initialisation: str = "xavier",
) -> MCNN:
    """Return the network of random weights that training begins with, in eval mode."""
    _, height, width, channels = store.pixels.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MCNN(network, int(np.max(labels)) + 1, channels, height, width)
    rows = np.flatnonzero(np.asarray(labels) >= 0)
    # A hundred are enough for mean and spread of the grey levels.
    fields = (store.pixels[row] for row in rows[:: max(1, len(rows) // 100)])
    mean, square = np.mean(
        [(f.mean((0, 1)), np.square(f, dtype=np.float64).mean((0, 1))) for f in fields], axis=0
    )
    std = np.sqrt(square - mean**2)
    model.grey_mean.copy_(torch.from_numpy(mean)[:, None, None])
    model.grey_std.copy_(torch.from_numpy(np.where(std > 0, std, 1.0))[:, None, None])
    model.eval()
    if initialisation == "scaled":
        some = rows[np.linspace(0, len(rows) - 1, min(32, len(rows))).astype(int)]
        scale_weights(model, model.standardise(store.pixels[some]))
    return model


def _begin_with(model: MCNN, start: MCNN) -> None:
    """Give a network the weights of another one, which may have fewer classes."""
    classes = start.spec[1]
    if model.spec[2:] != start.spec[2:] or classes > model.spec[1]:
        raise InputError(
            "Training can only begin with a network for the same fields and no more classes",
            [f"network to begin with: {start.spec}", f"network to train: {model.spec}"],
        )
    weights, own = start.state_dict(), model.state_dict()
    for key in ("classifier.weight", "classifier.bias"):
        weights[key] = torch.cat([weights[key].to(own[key].device), own[key][classes:]])
    model.load_state_dict(weights)


def load_model(folder: str | Path) -> MCNN:
    """Return the trained network of a folder that `train` has finished, in eval mode.

    MissingStageError if training has not begun or not finished, InputError if a file is damaged.
    """
    path, tensors, state = checkpoint.finished(Path(folder))
    model, _ = read_yaml(described := Path(folder, "network.yml"))
    if repr(model.spec) != state["identity"]["network"]:
        raise InputError(
            f"{described} is not the network of {path}: run the training again to write it"
        )
    checkpoint.load_weights(path, tensors, model)
    return model.eval()


def identity(
    store: Any, labels: np.ndarray, model: MCNN, recipe: Recipe, network: NetworkConfig | MCNN
) -> dict[str, str]:
    """Return what a checkpoint must share with a training that resumes from it.

    `network` is what the training begins with, as in `train`, and `model` what it trains.
    """
    start = {"start": digest(network)} if isinstance(network, MCNN) else {}
    return start | {
        "network": repr(model.spec),
        "recipe": repr(recipe),
        "group": repr(GROUP),
        "surrogate classes": hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest(),
        "store": store.manifest["sha256"],
    }


def shortened(recipe: Recipe, share: float) -> Recipe:
    """Return a recipe with a share of the epochs, at least one."""
    return replace(recipe, epochs=max(1, round(recipe.epochs * share)))


def with_controls(
    labels: np.ndarray, recipe: Recipe, table: pd.DataFrame
) -> tuple[np.ndarray, Recipe]:
    """Make the negative controls one more class, for a network to go on with.

    An epoch draws as many fields as there are training fields, so the many controls lengthen it;
    the epochs are cut in proportion, and to a quarter [ours], since the network begins with what it
    has learned (`train`).

    Parameters
    ----------
    labels : (n,) int array
        Surrogate class of each field that the network was trained on, -1 for the rest.
    recipe : Recipe
        By which it was trained.
    table : DataFrame
        The n fields.

    Returns
    -------
    labels : (n,) int array
        Earlier classes keep their numbers; the controls have the next.
    recipe : Recipe
    """
    labels = np.asarray(labels)
    controls = (table["Metadata_control_type"] == "negcon").to_numpy()
    more = np.where(controls & (labels < 0), labels.max() + 1, labels)
    return more, shortened(recipe, (labels >= 0).sum() / (more >= 0).sum() / 4)
