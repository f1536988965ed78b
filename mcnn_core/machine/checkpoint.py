"""Checkpoints: the state of a training, and the network's description as YAML.

The state is in files that are whole or ignored.

A checkpoint is a safetensors file and its SHA-256 beside it, written last. No pickle is written or
loaded.
"""

import ast
import json
from pathlib import Path
from typing import Any

import torch

from mcnn_core.errors import InputError
from mcnn_core.machine.files import MARKER, atomic, is_ours, sha256
from mcnn_core.model import MCNN

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


#: What the text of a network's `MCNN.spec` names after its configuration.
SIZES = ("classes", "channels", "height", "width")


def save(
    folder: Path, state: dict[str, Any], model: MCNN, optimiser: torch.optim.Optimizer
) -> None:
    """Write tensors, with the scalars as JSON in their header, and keep the two newest.

    The SHA-256 beside them is written last. A file without its SHA-256 was being written when the
    run ended, and is ignored.
    """
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
    from safetensors.torch import save as packed  # here: steps alone do without

    with atomic(path) as temporary:
        # Packed first and written here: safetensors' own writing leaves a file of another name if
        # it is killed.
        temporary.write_bytes(
            packed(
                {key: value.contiguous() for key, value in tensors.items()},
                metadata={"state": json.dumps(state)},
            )
        )
    with atomic(path.with_suffix(".sha256")) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")
    for old in checkpoints(folder)[:-2]:
        old.with_suffix(".sha256").unlink()
        old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, oldest first.

    A file without its SHA-256 is none, and a SHA-256 without its file neither.

    Raises
    ------
    InputError
        If `mcnn_core.training.train` has made the folder, and somebody else has put such files into
        it.
    """
    theirs = (
        [path.name for path in sorted(folder.glob("epoch_*")) if not is_ours(path)]
        if (folder / MARKER).exists()
        else []
    )
    if theirs:
        raise InputError(
            f"{folder} holds files that look like checkpoints and were not written there by this "
            "program: move them away, or copy the whole folder of a training, hidden files too",
            theirs,
        )
    digests = sorted(folder.glob("epoch_*.sha256"), key=lambda path: (len(path.name), path.name))
    return [
        path.with_suffix(".safetensors")
        for path in digests
        if path.with_suffix(".safetensors").exists()
    ]


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read a checkpoint's tensors and state, after comparing its SHA-256."""
    from safetensors import SafetensorError, safe_open

    expected = path.with_suffix(".sha256").read_text(encoding="ascii", errors="replace").split()
    if [sha256(path), path.name] != expected:
        raise InputError(
            f"{path} is damaged, it does not match its SHA-256: delete {path.stem}.* to go on from "
            "the one before"
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors, state = (
                # An open safetensors file is no dict: it cannot be iterated over.
                {key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
                {"by": "command", **json.loads(file.metadata()["state"])},
            )
        wrong = [
            f"{key} is not {kind.__name__}"
            for key, kind in STATE.items()
            if not isinstance(state[key], kind)
        ]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        raise InputError(
            f"{path} is no checkpoint: delete {path.stem}.* to go on from the one before", wrong
        )
    return tensors, state


def part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors named ``<prefix>.<key>``, by key."""
    return {
        key.removeprefix(f"{prefix}."): value
        for key, value in tensors.items()
        if key.startswith(f"{prefix}.")
    }


def load_weights(path: Path, tensors: dict[str, torch.Tensor], model: MCNN) -> None:
    """Put the weights of a checkpoint into a model; InputError if they are of another network."""
    try:
        model.load_state_dict(part(tensors, "model"))
    except RuntimeError as error:
        raise InputError(
            f"{path} does not hold the weights of this network: delete the folder to train again",
            [str(error)],
        ) from error


def parts(text: Any) -> dict[str, str]:
    """Take the text of a recipe or of a network's `MCNN.spec` apart; nothing if it is neither."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}
    first, *sizes = tree.elts if isinstance(tree, ast.Tuple) and tree.elts else [tree]
    if not isinstance(first, ast.Call):
        return {}
    return {item.arg or "": ast.unparse(item.value) for item in first.keywords} | {
        name: ast.unparse(item) for name, item in zip(SIZES, sizes, strict=False)
    }


def differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """Say field by field in what one training differs from another.

    A line is such as "recipe: epochs 27 there, 120 here".
    """
    told = []
    for key in dict.fromkeys([*here, *there]):
        if there.get(key) == here.get(key):
            continue
        theirs, ours = parts(there.get(key)), parts(here.get(key))
        fields = (
            [name for name in dict.fromkeys([*ours, *theirs]) if theirs.get(name) != ours.get(name)]
            if theirs and ours
            else []
        )
        told += [
            f"{key}: {name} {theirs.get(name, 'not named')} there, {ours.get(name, 'not named')} "
            "here"
            for name in fields
        ]
        if not fields:
            absent = [place for place, one in (("there", there), ("here", here)) if key not in one]
            told.append(f"{key}: none {absent[0]}" if absent else f"{key}: not the same")
    return told


def resume(
    folder: Path, identity: dict[str, str], model: MCNN, optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    """Put the newest checkpoint into model and optimiser.

    Return its state, or that of a beginning.
    """
    found = checkpoints(folder)
    if not found:
        return {"step": 0, "history": [], "finished": False, "precision": "auto", "by": "book"}
    tensors, state = read(found[-1])
    if other := differences(state["identity"], identity):
        raise InputError(
            f"{found[-1]} belongs to another training: choose another folder, or delete the folder "
            f"{folder}",
            other,
        )
    load_weights(found[-1], tensors, model)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in part(tensors, "optimiser").items():
        index, slot = key.split(".")
        # In the memory order of the weights, which the fused optimiser takes for granted.
        slots.setdefault(int(index), {})[slot] = (
            value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
        )
    optimiser.load_state_dict({**optimiser.state_dict(), "state": slots})
    return {key: state[key] for key in ("step", "history", "finished", "precision", "by")}
