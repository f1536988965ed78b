"""What a book needs around training: views to show, and room for a network of other settings."""

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mcnn_core.errors import InputError
from mcnn_core.machine import checkpoint
from mcnn_core.machine.device import device
from mcnn_core.machine.fields import Fields
from mcnn_core.machine.files import refuse_foreign
from mcnn_core.model import CONFIGS, MCNN, NetworkConfig, multiple_of
from mcnn_core.training import (
    KIND,
    RECIPES,
    Recipe,
    augment,
    crop_size,
    draw,
    identity,
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
    network: NetworkConfig,
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
    state, model = checkpoint.read(found[-1])[1], untrained_model(store, labels, network)
    saved, wanted = state["identity"], identity(store, np.asarray(labels), model, recipe)
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
