"""What a book needs around training: views and layers to show, and room for another network."""

import math
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from mcnn_core.errors import InputError
from mcnn_core.machine import checkpoint
from mcnn_core.machine.device import device, reproducible
from mcnn_core.machine.fields import Fields
from mcnn_core.machine.files import refuse_foreign
from mcnn_core.model import CONFIGS, MCNN, NetworkConfig, multiple_of
from mcnn_core.training import (
    KIND,
    RECIPES,
    Recipe,
    Trainer,
    augment,
    crop_size,
    draw,
    identity,
    optimiser_for,
    untrained_model,
)


def augmented(
    store: Any, labels: np.ndarray, network: NetworkConfig, recipe: Recipe, row: int, n: int
) -> list[np.ndarray]:
    """Return `n` views of one field as training shows it, in grey levels: (h, w, C) uint8."""
    model = untrained_model(store, labels, network).to(device())
    size, rng = crop_size(model, recipe), np.random.default_rng(recipe.seed)
    drawn = draw(rng, n, store.pixels.shape[1:], size, recipe.flips)
    views = Fields(store.pixels).views(np.full(n, row), size, drawn.corners, drawn.turns)
    grey = augment(model, views, recipe, drawn) * model.grey_std + model.grey_mean
    return list(grey.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy())


def make_way(
    store: Any,
    labels: np.ndarray,
    network: NetworkConfig | MCNN,
    recipe: Recipe,
    folder: str | Path,
    hint: bool = True,
) -> None:
    """Delete the checkpoints of another training than this one, if ``make book`` alone made them.

    They follow from the parameters of the book, so `mcnn_core.training.train`, which would refuse
    such a folder, can replace them; a line says in what they differ. If a command, or a notebook
    run by hand, has had a part in them, which may have taken days, InputError lists all that
    differs and, unless `hint` is false, the parameters of a book that would use the network, if
    there are any.
    """
    folder = Path(folder)
    refuse_foreign(folder, KIND)
    found = checkpoint.checkpoints(folder)
    if not found:
        return
    config = network.config if isinstance(network, MCNN) else network
    state, model = checkpoint.read(found[-1])[1], untrained_model(store, labels, config)
    saved, wanted = state["identity"], identity(store, np.asarray(labels), model, recipe, network)
    other = checkpoint.differences(saved, wanted)
    if other and state["by"] != "book":
        use = _parameters(saved, wanted, model, recipe) if hint else ""
        use = use and f'to use it, add PARAMS="{use}" to make book, for all chapters that train; '
        raise InputError(
            f"{folder} holds a network that was not trained by make book alone, and with other "
            f"settings: {use}to train another, name another OUT, or delete that folder",
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
            checkpoint.remove(path)


def _parameters(saved: dict[str, str], wanted: dict[str, str], model: MCNN, recipe: Recipe) -> str:
    """Return the ``PARAMS`` by which a book trains what is saved; "" if there are none."""
    if {**saved, "network": "", "recipe": ""} != {**wanted, "network": "", "recipe": ""}:
        return ""
    text, fits = checkpoint.parts(saved.get("recipe")), multiple_of(model.config)
    with suppress(KeyError, ValueError):  # a recipe of another version
        free: dict[str, Any] = {
            key: None if text[key] == "None" else int(text[key])
            for key in ("epochs", "batch", "max_steps")
        }
        for network, config in CONFIGS.items():
            if repr((config, *model.spec[1:])) != saved["network"] or multiple_of(config) != fits:
                continue
            for name, one in RECIPES.items():
                if repr(replace(one, seed=recipe.seed, **free)) == saved["recipe"]:
                    chosen = {"network": network, "recipe": name, **free}
                    return " ".join(f"{key}={value or 0}" for key, value in chosen.items())
    return ""


def layer_health(model: MCNN, x: torch.Tensor, classes: torch.Tensor) -> pd.DataFrame:
    """Measure what every layer makes of standardised fields (n, C, H, W) of known classes (n,).

    Columns: layer; spread, the standard deviation of a unit's answers before its ReLU, averaged
    over units; silent, the share of units that answer no field with more than 0 (none of the
    scores); gradient, the norm of the loss's gradient over that of the weights.
    """
    layers: list[tuple[str, Any]] = []
    for scale in model.scales:
        convolutions = [layer for layer in scale.children() if isinstance(layer, nn.Conv2d)]
        layers += zip(("first 5 x 5", "second 5 x 5", "third 5 x 5"), convolutions, strict=True)
    layers += [("1 x 1", model.fusion[0]), ("hidden units", model.features[0])]
    layers += [("scores", model.classifier)]
    answers: list[dict[str, float]] = []

    def look(layer: nn.Module, _: Any, y: torch.Tensor) -> None:
        units = y.detach().transpose(0, 1).flatten(1)
        silent = (units.max(1).values <= 0).float().mean().item()
        silent = math.nan if layer is model.classifier else silent
        answers.append({"spread": units.std(1).mean().item(), "silent": silent})

    hooks = [layer.register_forward_hook(look) for _, layer in layers]
    loss = F.cross_entropy(model.eval()(x), classes)
    gradients = torch.autograd.grad(loss, [layer.weight for _, layer in layers])
    for hook in hooks:
        hook.remove()
    table = pd.DataFrame(answers, [name for name, _ in layers]).rename_axis("layer").reset_index()
    sizes = [
        (slope.norm() / layer.weight.norm()).item()
        for slope, (_, layer) in zip(gradients, layers, strict=True)
    ]
    return table.assign(gradient=sizes)


def first_steps(
    fields: np.ndarray, classes: np.ndarray, network: NetworkConfig, recipe: Recipe, steps: int
) -> pd.DataFrame:
    """Compare `layer_health` at the start and after some steps, for each initialisation.

    Takes fields (n, H, W, C) of classes (n,); up to 64 of them are looked at. All else is equal,
    and the rate is the recipe's from the first step. Adds the columns initialisation and moment.
    """
    recipe, found = replace(recipe, warm_up=0, precision="float32"), []
    shown = np.linspace(0, len(fields) - 1, min(64, len(fields))).astype(int)
    for initialisation in ("xavier", "scaled"):
        store = SimpleNamespace(pixels=fields)
        model = untrained_model(store, classes, network, recipe.seed, initialisation).to(device())
        x, y = model.standardise(fields[shown]), torch.from_numpy(classes[shown]).to(device())
        found.append(layer_health(model, x, y).assign(moment="at the start"))
        trainer = Trainer(
            model.train(), optimiser_for(model, recipe), Fields(fields), classes, recipe
        )
        with reproducible(recipe.seed, 0) as rng:
            batches = [rng.choice(len(fields), recipe.batch) for _ in range(steps)]
            deque(trainer.steps(batches, [recipe.learning_rate] * steps, rng), maxlen=0)
        found.append(layer_health(model, x, y).assign(moment=f"after {steps} steps"))
        found[-2:] = [table.assign(initialisation=initialisation) for table in found[-2:]]
    return pd.concat(found, ignore_index=True)
