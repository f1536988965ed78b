"""Writing files so that what exists is whole: temporary name, fsync, rename."""

import fcntl
import gzip
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError

#: Bytes of text that are read at most; a packed text may unpack to `FREE`, and beyond that to `RATIO` times its size.
#: Tables and ontologies pack to a tenth or a fiftieth; what packs to less has been made to fill the memory.
MAX_TEXT, FREE, RATIO = 2**30, 2**22, 200
_NUMBERS = itertools.count()
#: Text that a spreadsheet would run, and what looks like it and is a number.
FORMULA = re.compile(r"'*[=+@\t\r-]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE | re.ASCII)


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
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Let an OSError that names no file, such as that of a full disk, name `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path} could not be written: {error}") from error
        error.filename = error.filename or str(path)
        raise


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
        with naming(path):
            yield temporary
            put(temporary, path)
    finally:
        remove(temporary)


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for this process alone while the block runs.

    The lock is one of the kernel's (flock) on ``.lock`` in the folder. It ends with its process, however that ends; the file
    stays and says who held it last. On NFS Linux sends it to the server, so that it holds between machines too, unless the
    folder is mounted with ``nolock`` or ``local_lock``: then it holds between the processes of one machine.

    Raises
    ------
    InputError
        If another process holds the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 80, 0).decode("ascii", "replace").strip()
            raise InputError(f"{folder} is in use by another run ({holder}): wait until it has ended, or take another folder") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {platform.node()}\n".encode("ascii", "replace"), 0)
        yield
    finally:
        os.close(lock)


def read_text(path: str | os.PathLike) -> str:
    """Return a text in UTF-8, plain or gzip by its content, its line ends as they are.

    Raises
    ------
    InputError
        If it cannot be read, is not UTF-8, or is longer than `MAX_TEXT`, `FREE` and `RATIO` allow: memory stays in
        proportion to the size of the file.
    """
    try:
        with open(path, "rb") as handle:
            packed, size = handle.read(2) == b"\x1f\x8b", os.fstat(handle.fileno()).st_size
        most = min(MAX_TEXT, max(FREE, RATIO * size) if packed else size)
        with (gzip.open if packed else open)(path, "rb") as handle:
            content = handle.read(most + 1)
        if len(content) > most:
            raise InputError(f"{path} {'unpacks to' if packed else 'has'} more than {most:,} bytes; no table is so long")
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable text in UTF-8, plain or gzip: {error}") from error


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file; InputError if what is there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not whole: {error}") from error


def _guard(text: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula; numbers stay numbers."""
    return f"'{text}" if isinstance(text, str) and FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def _unguard(text: Any) -> Any:
    return text[1:] if isinstance(text, str) and text.startswith("'") and FORMULA.match(text) else text


def _each_text(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Return a copy with every text and every column name changed."""
    frame = frame.rename(columns=change)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            frame.isetitem(place, frame.iloc[:, place].map(change))
    return frame


def write_table(path: str | os.PathLike, frame: pd.DataFrame) -> None:
    """Write a table without its index, as Parquet or CSV by the suffix of `path`.

    In CSV a text or a column name that begins like a formula gets an apostrophe, which `read_table` takes away.
    """
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            text = _each_text(frame, _guard).to_csv(index=False, lineterminator="\r\n")  # or a lone "\r" in a name would go unquoted
            temporary.write_bytes(re.sub(r'("(?:[^"]|"")*")|\r\n', lambda found: found[1] or "\n", text).encode())


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a CSV that `write_table` wrote, names as they were and empty texts as such; a column of nothing but numbers is one."""
    return _each_text(pd.read_csv(path, keep_default_na=False), _unguard)


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array as .npy.

    It is packed in memory first: np.save into a file does not see that the last bytes found no room on a full disk.
    """
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=False)
    with atomic(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
