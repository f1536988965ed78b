"""Writing files so that what exists is whole: temporary name, fsync, rename."""

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

_NUMBERS = itertools.count()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@lru_cache
def _here() -> str:
    """Return 8 digits for the space in which a process number means one process: this host (and container)."""
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder with what it holds; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what processes that no longer exist on this host have left of writing `path`."""
    leftover = re.compile(rf"\.{re.escape(path.name)}\.{_here()}-(\d+)-\d+\.part")
    for name in os.listdir(path.parent):
        if (found := leftover.match(name)) and not _runs(int(found[1])):
            with suppress(FileNotFoundError):  # another process was quicker
                remove(path.parent / name)


def _temporary(path: Path, suffix: str) -> Path:
    """Return a name that no other thread or process uses."""
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{next(_NUMBERS)}.part{suffix}")


def put(temporary: Path, path: Path) -> None:
    """Move a finished file or folder to `path`, in place of what is there, once all of it is on the disk."""
    inside = [item for item in temporary.rglob("*") if item.is_file()] if temporary.is_dir() else []
    for item in [*inside, temporary]:
        _sync(item)
    if temporary.is_dir() and path.exists():
        # A folder cannot be replaced in one step: moved aside, the old one is missing for an instant, not while it is deleted.
        aside = _temporary(path, ".old")
        os.replace(path, aside)
        os.replace(temporary, path)
        remove(aside)
    else:
        os.replace(temporary, path)
    _sync(path.parent)


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds.

    Works for a file or a folder (a folder replaces an existing one). If the block raises, the temporary
    is removed and `path` is left as it was. What a process that was killed has left is removed by the
    next that writes `path` on the same host.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary(path, path.suffix)
    remove(temporary)
    try:
        yield temporary
        put(temporary, path)
    finally:
        remove(temporary)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_table(path: str | os.PathLike, frame: pd.DataFrame) -> None:
    """Write a table without its index, as Parquet or CSV by the suffix of `path`."""
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
