"""Checkpoints: the state of a training in files that are whole or ignored.

A checkpoint is a safetensors file and, written after it, its SHA-256. No pickle is written or
loaded.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcnn_core.errors import InputError, MissingStageError
from mcnn_core.machine.files import MARKER, atomic, is_ours, sha256

# safetensors is imported where it is used, so that `mcnn_core.training` can be tried with torch,
# NumPy and pandas alone.

#: What the state of a checkpoint holds. ``by`` is "book" if ``make book`` alone has trained, else
#: "command".
STATE = {
    "step": int,
    "history": list,
    "finished": bool,
    "precision": str,
    "identity": dict,
    "by": str,
}


def save(
    folder: Path, state: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write tensors, with the state as JSON in their header, and keep the two newest files."""
    from safetensors.torch import save as packed

    path = folder / f"epoch_{len(state['history']):03d}.safetensors"
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        tensors |= {
            f"optimiser.{index}.{key}": value for key, value in slots.items() if value is not None
        }
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise InputError(
            f"Weights are not finite numbers after {path.stem}; lower the learning rate", bad
        )
    with atomic(path) as temporary:
        # Packed first: safetensors' own writing leaves a file of another name if it is killed.
        temporary.write_bytes(
            packed(
                {key: value.contiguous() for key, value in tensors.items()},
                metadata={"state": json.dumps(state)},
            )
        )
    with atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")
    for old in checkpoints(folder)[:-2]:
        remove(old)


def remove(path: Path) -> None:
    """Delete a checkpoint, its SHA-256 first."""
    path.with_suffix(".sha256").unlink()
    path.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first.

    A file without its SHA-256 was being written when the run ended, and is ignored.

    Raises
    ------
    InputError
        If `mcnn_core.training.train` made the folder, and such files in it are not its own.
    """
    made_here = (folder / MARKER).exists()
    foreign = [
        path.name for path in sorted(folder.glob("epoch_*")) if made_here and not is_ours(path)
    ]
    if foreign:
        raise InputError(
            f"{folder} holds files that look like checkpoints and were not written there by this "
            "program: move them away, or copy the whole folder of a training, hidden files too",
            foreign,
        )
    digests = sorted(folder.glob("epoch_*.sha256"), key=lambda path: (len(path.name), path.name))
    found = [path.with_suffix(".safetensors") for path in digests]
    return [path for path in found if path.exists()]


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and state, after comparing its SHA-256."""
    from safetensors import SafetensorError, safe_open

    expected = path.with_suffix(".sha256").read_text(encoding="ascii", errors="replace").split()
    if [sha256(path), path.name] != expected:
        raise InputError(
            f"{path} is damaged, it does not match its SHA-256: delete {path.stem}.* to resume "
            "from the one before"
        )
    try:
        with safe_open(path, framework="pt") as file:
            # An open safetensors file is no dict: it cannot be iterated over.
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            state = {"by": "command", **json.loads(file.metadata()["state"])}
        wrong = [
            f"{key} is not {kind.__name__}"
            for key, kind in STATE.items()
            if not isinstance(state[key], kind)
        ]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        raise InputError(
            f"{path} is not a checkpoint: delete {path.stem}.* to resume from the one before", wrong
        )
    return tensors, state


def finished(folder: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """Return the newest checkpoint of a finished training, and what `read` finds in it.

    MissingStageError if training has not begun or not finished.
    """
    found = checkpoints(folder)
    if not found:
        raise MissingStageError(
            f"{folder} holds no trained network: run the notebook on training first"
        )
    tensors, state = read(found[-1])
    if not state["finished"]:
        raise MissingStageError(
            f"Training in {folder} stopped in epoch {len(state['history']) + 1}: "
            "run it to its end first"
        )
    return found[-1], tensors, state


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors named ``<prefix>.<key>``, by key."""
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}.")
    }


def load_weights(path: Path, tensors: dict[str, torch.Tensor], model: nn.Module) -> None:
    """Put the weights of a checkpoint into a model; InputError if they are of another network."""
    try:
        model.load_state_dict(_part(tensors, "model"))
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of this network: delete the folder to train again",
            [str(error)],
        ) from error


def parts(text: object) -> dict[str, str]:
    """Take the text of a recipe or of a network's `MCNN.spec` apart; nothing if it is neither."""
    fields = dict(re.findall(r"(\w+)=(\([^()]*\)|[^,()]+)", str(text)))
    sizes = re.search(r"\), (\d+), (\d+), (\d+), (\d+)\)$", str(text))
    names = ("classes", "channels", "height", "width")
    return fields | dict(zip(names, sizes.groups() if sizes else (), strict=False))


def differences(saved: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Name field by field what a saved training has otherwise than the one that is wanted.

    A line is such as "recipe: epochs 27 there, 120 here".
    """
    found = []
    for key in dict.fromkeys([*wanted, *saved]):
        if saved.get(key) == wanted.get(key):
            continue
        old, new = parts(saved.get(key)), parts(wanted.get(key))
        fields = [
            f"{key}: {name} {old.get(name, 'not named')} there, {new.get(name, 'not named')} here"
            for name in dict.fromkeys([*new, *old])
            if old and new and old.get(name) != new.get(name)
        ]
        absent = [place for place, one in (("there", saved), ("here", wanted)) if key not in one]
        found += fields or [f"{key}: none {absent[0]}" if absent else f"{key}: not the same"]
    return found


def resume(
    folder: Path, identity: dict[str, str], model: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put the newest checkpoint into model and optimiser.

    Return its state, or without a checkpoint that of a beginning.
    """
    beginning = {"step": 0, "history": [], "finished": False, "precision": "auto", "by": "book"}
    found = checkpoints(folder)
    if not found:
        return beginning
    tensors, state = read(found[-1])
    if other := differences(state["identity"], identity):
        raise InputError(
            f"{found[-1]} belongs to another training: choose another folder, or delete the folder "
            f"{folder}",
            other,
        )
    load_weights(found[-1], tensors, model)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _part(tensors, "optimiser").items():
        index, slot = key.split(".")
        # In the memory order of the weights, which the fused optimiser takes for granted.
        slots.setdefault(int(index), {})[slot] = (
            value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
        )
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
    return {key: state[key] for key in beginning}
