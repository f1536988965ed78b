"""Writing files so that what exists is whole: temporary name, fsync, rename."""

import errno
import filecmp
import gzip
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from mcnn_core.errors import InputError

#: Bytes of text that are read at most; a packed text may unpack to `FREE`, and beyond that to
#: `RATIO` times its size. Tables and ontologies pack to a tenth or a fiftieth; what packs to less
#: has been made to fill the memory.
MAX_TEXT, FREE, RATIO = 2**30, 2**22, 200


_NUMBERS = itertools.count()


#: The file by which a folder is known as made by this project: its first line gives the kind under
#: `MADE`, each further one names a file.
MARKER, MADE, MOST_NAMES = ".mcnn", "made by mcnn_core", 2_000_000


#: A name that is taken while something is written: host, process and number (`_temporary`).
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-\d+\.part(\..*)?")


#: What the holder of a lock leaves in it.
HOLDER = re.compile(rb"(process \d+ on [^\n]*(\n|\Z))*")


_SHARED: dict[str, int] = {}  # folders that this process holds until it ends (`share`)


#: Text that a spreadsheet would run, and what looks like it and is a number.
FORMULA = re.compile(r"'*[=+@\t\r-]")


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE | re.ASCII)


def _locks() -> ModuleType:
    """Return the module that locks files; InputError where there is none, as on Windows."""
    try:
        import fcntl
    except ModuleNotFoundError:
        raise InputError(
            "writing needs Linux or macOS; on Windows run this in the Windows Subsystem for Linux "
            "(WSL)"
        ) from None
    return fcntl


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@lru_cache
def _here() -> str:
    """Return 8 digits for the space in which a process number means one process.

    That is this host (and container).
    """
    space = os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder of our own with what it holds; nothing if there is none.

    Only for what this project has made under a temporary name: a folder that users can name is
    replaced by `atomic` and cleared by `discard`, which leave what is not ours.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# -------------------------------------------------------------------------------- what is ours


def _entries(folder: Path) -> list[str]:
    """Return what lies directly in a folder, without what a killed `claim` may have left."""
    return sorted(
        name
        for name in os.listdir(folder)
        if not (name.startswith(f"{MARKER}.") and TEMPORARY.fullmatch(name))
    )


def _marker(folder: Path) -> tuple[str, set[str]] | None:
    """Return a folder's kind and the names, relative to it, that were written in it.

    Return None if it has no marker.

    Raises
    ------
    InputError
        If there is a file of that name that says something else.
    """
    try:
        facts = os.stat(folder / MARKER)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _read_marker(folder / MARKER, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _read_marker(path: Path, *_: int) -> tuple[str, set[str]]:
    names = set()
    first, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[
        :MOST_NAMES
    ] or [""]
    try:
        kind = json.loads(first)[MADE]
        if not isinstance(kind, str):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError):
        raise InputError(
            f"{path} is damaged, so it cannot be known what in {path.parent} may be replaced: name "
            "another folder"
        ) from None
    for line in lines:
        with suppress(ValueError):  # cut short when the power went: what it named is not ours
            name = json.loads(line)
            if (
                isinstance(name, str)
                and not os.path.isabs(name)
                and os.pardir not in name.split(os.sep)
            ):
                names.add(name)
    return kind, names


def refuse_foreign(folder: str | os.PathLike, kind: str, known: str = "") -> None:
    """Refuse a folder that holds something and was not made as one of this kind.

    Names that match `known` may be there.

    Raises
    ------
    InputError
        With the names of the first things that are in it.
    """
    folder = Path(folder)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder: name a new one, an empty one or an existing {kind}"
        )
    found = _marker(folder)
    if found is None and (
        present := [name for name in _entries(folder) if not re.fullmatch(known, name)]
    ):
        raise InputError(
            f"{folder} holds {first_few(present)} and was not made by this program as {_a(kind)}: "
            "name a new or empty folder"
        )
    if found is not None and found[0] != kind:
        raise InputError(f"{folder} is {_a(found[0])}, not {_a(kind)}: name another folder")


def first_few(names: Sequence[str]) -> str:
    """Return the first three names in quotes, and how many more there are."""
    return ", ".join(map(repr, names[:3])) + f" and {len(names) - 3} more" * (len(names) > 3)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def claim(folder: str | os.PathLike, kind: str, known: str = "") -> None:
    """Make a folder for what this project writes, or take one that is there.

    One that is there must be empty or have been made as one of this kind before. The file `MARKER`
    in it says what it is, and then names, a line each, what `atomic` writes below it. Files that it
    does not name are someone else's and are never replaced or removed.

    Parameters
    ----------
    folder : path
    kind : str
        What it is, in words.
    known : str
        Pattern of the names that may lie in it before it is ours, such as those of a screen that
        someone has fetched by hand.

    Raises
    ------
    InputError
        As `refuse_foreign`.
    """
    folder = Path(folder)
    refuse_foreign(folder, kind, known)
    folder.mkdir(parents=True, exist_ok=True)
    if _marker(folder) is None:
        temporary = _temporary(folder / MARKER[1:], "")
        _write_marker(temporary, kind, ())
        with suppress(FileExistsError):  # another process was quicker
            os.link(temporary, folder / MARKER)
        temporary.unlink()
        refuse_foreign(folder, kind)  # that other process may have made something else
    register(folder)


def _write_marker(path: Path, kind: str, names: Iterable[str]) -> None:
    path.write_text(
        "".join(json.dumps(line) + "\n" for line in ({MADE: kind}, *sorted(names))),
        encoding="utf-8",
    )
    _sync(path)


def owner(path: str | os.PathLike) -> Path | None:
    """Return the nearest folder above `path` that this project has made; None if there is none."""
    return next(
        (folder for folder in Path(os.path.abspath(path)).parents if (folder / MARKER).is_file()),
        None,
    )


def is_ours(path: str | os.PathLike) -> bool:
    """Whether the folder of ours above `path` names it as written by `atomic`."""
    root = owner(path)
    return root is not None and os.path.relpath(path, root) in (_marker(root) or ("", set()))[1]


def register(*paths: str | os.PathLike) -> None:
    """Note in the folder above that this project has made that `paths` are ours.

    They are of one folder. Nothing is done where no such folder is above. They are noted before
    they are there: a run that is killed in between finds its own files again.
    """
    root = owner(paths[0]) if paths else None
    if root is None or not (new := [path for path in paths if not is_ours(path)]):
        return
    handle = os.open(root / MARKER, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(
            handle, "".join(json.dumps(os.path.relpath(path, root)) + "\n" for path in new).encode()
        )
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_file(path: Path) -> None:
    """Refuse to replace a file in a folder of ours that is not ours."""
    if os.path.lexists(path) and owner(path) is not None and not is_ours(path):
        raise _not_ours(path)


def _not_ours(path: Path) -> InputError:
    return InputError(
        f"{path} was not written by this program and would be replaced: move it, or name "
        "another folder"
    )


def take(path: str | os.PathLike) -> None:
    """Register a file that something else than `atomic` is about to write.

    Refuse one that is there and not ours.
    """
    _refuse_file(Path(path))
    register(path)


def refuse_existing(path: str | os.PathLike | None) -> None:
    """Refuse, before anything is measured for it, a file that a user names and that is there.

    Nothing is done where none is named.

    Raises
    ------
    InputError
    """
    if path is not None and os.path.lexists(path):
        raise InputError(
            f"{path} is there already and would be replaced: move it, or name a new file"
        )


def written(folder: str | os.PathLike) -> Iterator[str]:
    """Yield the files that this project has written below a folder of its own, relative to it.

    Folders below it that are marked themselves are asked by their own markers. A file may have gone
    since.
    """
    folder = Path(folder)
    for name in (_marker(folder) or ("", set()))[1]:
        place = folder / name
        if place.is_dir() and not place.is_symlink():
            yield from (os.path.join(name, inner) for inner in written(place))
        else:
            yield name


def foreign(folder: str | os.PathLike) -> list[str]:
    """Return the files, links and empty folders below a folder that its marker does not name.

    They are relative to it. Folders below it that are marked themselves are looked at by their own
    markers.
    """
    return sorted(_foreign(Path(folder), _marker(Path(folder)) or ("", set())))


def _foreign(folder: Path, found: tuple[str, set[str]]) -> Iterator[str]:
    own = {MARKER} | found[1]
    for place, folders, names in os.walk(folder):
        here = os.path.relpath(place, folder)
        if here != os.curdir and (inner := _marker(Path(place))) is not None:
            folders.clear()
            yield from (os.path.join(here, name) for name in _foreign(Path(place), inner))
            continue
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (
            name
            for name in (os.path.normpath(os.path.join(here, one)) for one in [*names, *links])
            if name not in own
        )
        if not folders and not names and here != os.curdir and here not in own:
            yield here


def _keep_foreign(old: Path, new: Path) -> None:
    """Give a new folder everything in the old one that is not ours, by hard links.

    It survives whatever happens in between.
    """
    for name in foreign(old):
        source, target = old / name, new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            target.mkdir(exist_ok=True)
        elif not os.path.lexists(target):
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError:  # a file system without hard links
                shutil.copy2(source, target, follow_symlinks=False)
        elif not os.path.samestat(os.lstat(source), os.lstat(target)) and not filecmp.cmp(
            source, target, shallow=False
        ):
            raise _not_ours(source)


def discard(folder: str | os.PathLike) -> list[str]:
    """Delete from a folder that this project has made what it has written there.

    Return the names of what is left. The folder goes if nothing of someone else's is in it.
    """
    folder = Path(folder)
    if (found := _marker(folder)) is None:
        return _entries(folder) if folder.is_dir() else []
    places: set[Path] = set()
    for name in found[1]:
        path = folder / name
        if os.path.realpath(path.parent) != os.path.join(
            os.path.realpath(folder), os.path.dirname(name)
        ).rstrip(os.sep):
            continue  # it lies behind a link, which is not ours
        if path.is_dir() and not path.is_symlink():
            discard(path)
        else:
            path.unlink(missing_ok=True)
        places.update(parent for parent in path.parents if folder in parent.parents)
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            if (
                (left := TEMPORARY.fullmatch(name))
                and left[1] == _here()
                and not _runs(int(left[2]))
            ):
                remove(Path(place, name))
    for inner in sorted(places, key=lambda place: len(place.parts), reverse=True):
        with suppress(OSError):  # what is not empty stays
            os.rmdir(inner)
    kept = foreign(folder)
    if not kept:
        (folder / MARKER).unlink()
        with suppress(OSError):
            os.rmdir(folder)
    return kept


# ----------------------------------------------------------------------------- whole or not at all


def remove_leftovers(path: Path) -> None:
    """Clear up what processes that no longer exist on this host have left of writing `path`.

    A folder that was moved aside goes back to its place if its successor has not come there.
    """
    for name in sorted(os.listdir(path.parent), key=lambda name: not name.endswith(".old")):
        found = TEMPORARY.fullmatch(name)
        if found and name.startswith(f".{path.name}.{_here()}-") and not _runs(int(found[2])):
            with suppress(FileNotFoundError):  # another process was quicker
                if name.endswith(".old") and not os.path.lexists(path):
                    os.replace(path.parent / name, path)
                    continue
                if name.endswith(".old"):
                    _keep_foreign(path.parent / name, path)
                remove(path.parent / name)


def _temporary(path: Path, suffix: str) -> Path:
    """Return a name that no other thread or process uses."""
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{next(_NUMBERS)}.part{suffix}")


def put(temporary: Path, path: Path, kind: str = "") -> None:
    """Move a finished file or folder to `path`, in place of what is there.

    It is moved once all of it is on the disk. A folder gets its marker, and keeps what others have
    put into the one that it replaces.
    """
    register(path)
    if not temporary.is_dir():
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
        return
    inside = [
        item
        for item in temporary.rglob("*")
        if item.name != MARKER and (item.is_symlink() or item.is_file())
    ]
    for item in inside:
        if not item.is_symlink():
            _sync(item)
    _write_marker(temporary / MARKER, kind, (str(item.relative_to(temporary)) for item in inside))
    _sync(temporary)
    if os.path.lexists(path):
        # A folder cannot be replaced in one step: moved aside, the old one is missing for an
        # instant, not while it is deleted.
        _keep_foreign(path, temporary)
        aside = _temporary(path, ".old")
        os.replace(path, aside)
        os.replace(temporary, path)
        _keep_foreign(aside, path)  # what came in between
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
def atomic(path: str | os.PathLike, kind: str = "") -> Iterator[Path]:
    """Yield a temporary path next to `path`; move it to `path` if the block succeeds.

    If the block raises, the temporary is removed and `path` is left as it was. What a process that
    was killed has left is removed by the next that writes `path` on the same host.

    Parameters
    ----------
    path : path
    kind : str
        What a folder is, in words: it replaces a folder that was made as one of this kind, keeping
        what others have put into that, or an empty one. "" writes a file, which replaces an
        existing one, but not one of someone else's in a folder of ours (`claim`).

    Raises
    ------
    InputError
        Before the block is run, if `path` is there and not ours, or this is Windows.
    """
    path = Path(path)
    _locks()
    if kind:
        # A folder that lies elsewhere, behind a link, stays there.
        path = Path(os.path.realpath(path))
        refuse_foreign(path, kind)
    else:
        _refuse_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = _temporary(path, "" if kind else path.suffix)
    remove(temporary)
    try:
        with naming(path):
            yield temporary
            put(temporary, path, kind)
    finally:
        remove(temporary)


@contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for this process alone while the block runs.

    The lock is one of the kernel's (flock) on ``.lock`` in the folder. It ends with its process,
    however that ends; the file stays and says who held it last. On NFS Linux sends it to the
    server, so that it holds between machines too, unless the folder is mounted with ``nolock`` or
    ``local_lock``: then it holds between the processes of one machine.

    Raises
    ------
    InputError
        If another process holds the folder.
    """
    lock = _lock(Path(folder), alone=True)
    try:
        os.ftruncate(lock, 0)
        _sign(lock, "")
        yield
    finally:
        os.close(lock)


def share(folder: str | os.PathLike, what: str) -> None:
    """Hold a folder until this process ends, next to others that share it.

    Whoever wants it alone (`exclusive`) is told of `what`.

    Raises
    ------
    InputError
        If another process holds the folder alone.
    """
    place = os.path.realpath(folder)
    if place not in _SHARED:
        _SHARED[place] = _lock(Path(folder), alone=False)
        _sign(_SHARED[place], f", {what}")


def _lock(folder: Path, alone: bool) -> int:
    """Return the open file ``.lock`` of a folder, locked for this process alone or with others."""
    fcntl = _locks()
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    folder.mkdir(parents=True, exist_ok=True)
    take(folder / ".lock")
    try:
        lock = os.open(
            folder / ".lock", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644
        )
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(
            f"{folder / '.lock'} is a link: remove it, or take another folder"
        ) from error
    try:
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
        except BlockingIOError:
            holders = "; ".join(_holders(os.pread(lock, 2**20, 0)))
            raise InputError(
                f"{folder} is in use by another run ({holders}): wait until it has ended, or take "
                "another folder"
            ) from None
        if not HOLDER.fullmatch(os.pread(lock, 2**20, 0)):
            raise InputError(
                f"{folder / '.lock'} was not written by this program: move it, or take another "
                "folder"
            )
    except BaseException:
        os.close(lock)
        raise
    return lock


def _sign(lock: int, what: str) -> None:
    """Add to a locked file who holds it; those who share it add theirs, each at the end."""
    os.write(lock, f"process {os.getpid()} on {platform.node()}{what}\n".encode("ascii", "replace"))


def _holders(signed: bytes) -> list[str]:
    """Return who has signed, the latest last.

    Those processes of this machine that have ended are left out.
    """
    lines = [
        line
        for line in signed.decode("ascii", "replace").splitlines()
        if line.startswith("process ")
    ]
    here = re.compile(rf"process (\d+) on {re.escape(platform.node())}(, .*)?")
    return [line for line in lines if not (found := here.fullmatch(line)) or _runs(int(found[1]))][
        -3:
    ] or lines[-1:]


def read_bytes(path: str | os.PathLike) -> bytes:
    """Return what a file holds; gzip, known by its content, is unpacked.

    Raises
    ------
    InputError
        If it is no regular file, cannot be read, or is longer than `MAX_TEXT`, `FREE` and `RATIO`
        allow: memory stays in proportion to the size of the file.
    """
    try:
        # A pipe would wait for someone to write into it; what has been opened is looked at, not
        # what has that name a moment later.
        at_once = getattr(os, "O_NONBLOCK", 0)
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | at_once)) as handle:
            facts = os.fstat(handle.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise InputError(f"{path} is no regular file: expected a text on a disk")
            packed = handle.read(2) == b"\x1f\x8b"
            most = min(MAX_TEXT, max(FREE, RATIO * facts.st_size) if packed else facts.st_size)
            handle.seek(0)
            content = (gzip.GzipFile(fileobj=handle) if packed else handle).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} is not a readable text or table, plain or gzip: {error}"
        ) from error
    if len(content) > most:
        raise InputError(
            f"{path}: expected at most {most:,} bytes of text, got more{' once unpacked' * packed}"
        )
    return content


def read_text(path: str | os.PathLike) -> str:
    """Return a text in UTF-8, plain or gzip by its content, its line ends as they are.

    Raises
    ------
    InputError
        If `read_bytes` cannot read it, or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a readable text in UTF-8: {error}") from error


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
    """Put an apostrophe before a text that a spreadsheet would run as a formula.

    Numbers stay numbers.
    """
    return (
        f"'{text}"
        if isinstance(text, str) and FORMULA.match(text) and not NUMBER.fullmatch(text)
        else text
    )


def _unguard(text: Any) -> Any:
    return (
        text[1:] if isinstance(text, str) and text.startswith("'") and FORMULA.match(text) else text
    )


def _each_text(frame: pd.DataFrame, change: Callable[[Any], Any]) -> pd.DataFrame:
    """Return a copy with every text and every column name changed."""
    frame = frame.rename(columns=change)
    for place, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind):
            frame.isetitem(place, frame.iloc[:, place].map(change))
    return frame


def write_table(path: str | os.PathLike, frame: pd.DataFrame) -> None:
    """Write a table without its index, as Parquet or CSV by the suffix of `path`.

    In CSV a text or a column name that begins like a formula gets an apostrophe, which `read_table`
    takes away.
    """
    with atomic(path) as temporary:
        if Path(path).suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            # Or a lone "\r" in a name would go unquoted.
            text = _each_text(frame, _guard).to_csv(index=False, lineterminator="\r\n")
            temporary.write_bytes(
                re.sub(r'("(?:[^"]|"")*")|\r\n', lambda found: found[1] or "\n", text).encode()
            )


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a CSV that `write_table` wrote, names as they were and empty texts as such.

    A column of nothing but numbers is one of numbers.
    """
    return _each_text(pd.read_csv(path, keep_default_na=False), _unguard)


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array as .npy.

    It is packed in memory first: np.save into a file does not see that the last bytes found no room
    on a full disk.
    """
    packed = io.BytesIO()
    np.save(packed, array, allow_pickle=False)
    with atomic(path) as temporary:
        temporary.write_bytes(packed.getbuffer())


def sha256(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def in_build() -> bool:
    """Whether this process computes a book.

    ``make book`` says so to the kernels of its notebooks.
    """
    return bool(os.environ.get("MCNN_BUILD"))
