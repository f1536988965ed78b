"""An array computed part by part into files: what is whole is kept, so a killed run resumes."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mcnn_core.errors import InputError
from mcnn_core.machine.files import atomic, is_ours, register, sha256, write_array
from mcnn_core.machine.scheduler import pool


def refuse_foreign_parts(folder: Path) -> None:
    """Refuse a folder with files that look like parts and were not written by `write_part`."""
    foreign = [path.name for path in sorted(folder.glob("part_*")) if not is_ours(path)]
    if foreign:
        raise InputError(
            f"{folder} holds files that look like parts of an embedding and were not written there "
            "by this program: move them away, or name another folder",
            foreign,
        )


def discard_parts(folder: Path) -> None:
    """Delete all parts and their SHA-256."""
    for path in folder.glob("part_*"):
        path.unlink()


def write_part(path: Path, array: np.ndarray) -> None:
    """Write a part, then its SHA-256, by which it counts as whole."""
    write_array(path, array)
    with atomic(path.with_name(f"{path.name}.sha256")) as temporary:
        temporary.write_text(f"{sha256(path)}  {path.name}\n", encoding="ascii")


def _whole(part: Path) -> bool:
    """Whether a part is what was written, by the SHA-256 that was written after it."""
    digests = part.with_name(f"{part.name}.sha256").read_text(encoding="ascii", errors="replace")
    return digests.split() == [sha256(part), part.name]


def in_parts(
    task: Callable[[range, Path], None],
    n: int,
    size: int,
    folder: Path,
    workers: int | str = 1,
    files: Sequence[str] = (),
    progress: bool = True,
) -> np.ndarray:
    """Return an array of n rows, of which the parts that are missing or damaged are computed.

    Parameters
    ----------
    task : function
        Called with the rows of a part and the path that it writes them to by `write_part`.
    n, size : int
        Rows in all, and per part.
    folder : Path
        Of ``part_<first row>.npy``.
    workers, files
        As in `mcnn_core.machine.scheduler.pool`.
    progress : bool
    """
    from tqdm import tqdm

    parts = {f"part_{first:08d}.npy": range(n)[first : first + size] for first in range(0, n, size)}
    # The names are listed, not asked for one by one: a network drive would remember for a while
    # that a file was not there.
    names = set(os.listdir(folder))
    missing = {
        name: rows
        for name, rows in parts.items()
        if not {name, f"{name}.sha256"} <= names or not _whole(folder / name)
    }
    # All at once, and here: workers on other machines would write to one file together.
    register(*(folder / f"{name}{suffix}" for name in missing for suffix in ("", ".sha256")))
    if missing:
        count = sum(map(len, missing.values()))
        with (
            pool(workers, folder, files) as tasks,
            tqdm(total=count, disable=not progress, desc="features", unit="field") as bar,
        ):
            pending = {
                tasks.submit(task, rows, folder / name): rows for name, rows in missing.items()
            }
            while pending:
                for rows, _ in tasks.finished(pending):
                    bar.update(len(rows))
    return np.concatenate([np.load(folder / name, allow_pickle=False) for name in parts])
