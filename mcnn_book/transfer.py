"""Bring files from a server into a folder: whole, checked, and resumed where a run stopped.

What has come of a file lies next to its place under a temporary name until all of it is there.
A server that is silent or far too slow is given up, and none is followed to another host.
"""

import os
import queue
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests
import urllib3
from tqdm import tqdm

from mcnn_core.errors import InputError
from mcnn_core.machine.files import (
    MARKER,
    claim,
    exclusive,
    naming,
    put,
    read_json,
    refuse_foreign,
    register,
    sha256,
    take,
    write_json,
)

RECORD, FOUND = "fetched.json", "found in the folder"


#: How often in a row a file is asked for without getting ahead, seconds between, seconds that a
#: server may be silent, bytes at a time.
ATTEMPTS, WAIT, TIMEOUT, CHUNK = 3, 5.0, 30, 2**18


#: Least bytes per second, over so many seconds, in which an answer must also have begun: a byte now
#: and then is not silence.
SLOWEST, PERIOD = 1000, 60.0


#: How often a server may redirect to another of its addresses.
REDIRECTS = 5


#: How the name of what has come of a file ends.
PART = ".partial"


#: Sizes are compared, so nothing may be compressed on the way.
HEADERS = {"Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Run:
    """What the threads of one run share."""

    folder: Path
    address: str
    workers: int
    bar: tqdm
    records: dict[str, Any]
    #: Addresses of files that do not lie at `address` under the name that they get here.
    places: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)  #: SHA-256 of files, where known
    lock: Any = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    answers: set[requests.Response] = field(default_factory=set)

    def source(self, name: str) -> str:
        """Return the address of a file."""
        return self.places.get(name, self.address + name)

    def advance(self, count: int) -> None:
        """Count bytes that have come, or, below 0, are discarded."""
        with self.lock:
            self.bar.update(count)

    @contextmanager
    def reading(self, answer: requests.Response) -> Iterator[None]:
        """Have `end` end this answer while the block runs."""
        with self.lock:
            self.answers.add(answer)
        try:
            if self.stop.is_set():  # too late to be ended by `end`
                raise CancelledError
            yield
        finally:
            with self.lock:
                self.answers.discard(answer)

    def end(self) -> None:
        """End what the threads wait for."""
        self.stop.set()
        with self.lock:
            for answer in self.answers:
                with suppress(ValueError, RuntimeError, OSError):  # it has ended
                    answer.raw.shutdown()


@contextmanager
def taken(folder: Path, known: str) -> Iterator[dict[str, Any]]:
    """Hold a folder for what is fetched and yield its records.

    The folder is new, ours, or has nothing in it but files of this screen.
    """
    kind, known, before = (
        "folder of fetched files",
        f"{known}|{re.escape(RECORD)}",
        (folder / MARKER).exists(),
    )
    refuse_foreign(folder, kind, known)
    records = _records(folder)  # before anything is written
    claim(folder, kind, known)
    if not before:  # by make data before it marked its folders
        register(folder / RECORD)
    with exclusive(folder):
        yield records


def _records(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not os.path.lexists(path):
        return {}
    try:
        records: Any = read_json(path) if path.is_file() else None
        whole = isinstance(records, dict) and all(
            isinstance(entry["bytes"], int)
            and re.fullmatch("[0-9a-f]{64}", entry["sha256"])
            and isinstance(entry["address"], str)
            for entry in records.values()
        )
    except (ValueError, TypeError, KeyError):
        whole = False
    if not whole:
        raise InputError(
            f"{path}: expected bytes, sha256 and address of each file: if make data wrote it, "
            "delete it to have them recorded again; otherwise name another folder"
        )
    return records


def checked(run: Run, name: str, path: Path) -> str:
    """Return the SHA-256 of `path`; refuse it where another one is known or recorded for `name`.

    One that was recorded of an archive that was never unpacked does not count.
    """
    digest, known = sha256(path), run.records.get(name)
    if (expected := run.hashes.get(name, digest)) != digest:
        raise InputError(
            f"{name}: expected SHA-256 {expected}, as this project knows it, got {digest}: what "
            f"lies at {run.source(name)} was replaced, or is damaged"
        )
    if known and "packed" not in known and known["sha256"] != digest:
        raise InputError(
            f"{name}: expected SHA-256 {known['sha256']}, as first seen, got {digest}: the file is "
            "damaged (delete it if it lies in the folder), or the publisher replaced it (then "
            f"delete its entry in {RECORD})"
        )
    return digest


def remember(run: Run, name: str, digest: str, source: str, **packed: bool) -> None:
    """Record a file that is whole; one that is known stays as it was first seen."""
    with run.lock:
        today = datetime.now(UTC).date().isoformat()
        if "packed" in run.records.get(name, {"packed": True}):
            run.records[name] = {
                "bytes": (run.folder / name).stat().st_size,
                "sha256": digest,
                "first_seen": today,
                "address": source,
                **packed,
            }
        write_json(run.folder / RECORD, run.records)


def _cause(error: BaseException) -> str:
    """Return the innermost reason, as "[Errno 111] Connection refused".

    What lies around it repeats the address.
    """
    while error.__context__ is not None:
        error = error.__context__
    return str(error) or type(error).__name__


def _soon(run: Run, call: Callable[[], requests.Response]) -> requests.Response:
    """Return what `call` returns, in a thread.

    The thread is left alone where the answer does not begin within `PERIOD`, however it drips.
    """
    got: queue.SimpleQueue = queue.SimpleQueue()

    def work() -> None:
        try:
            got.put(call())
        except Exception as error:  # raised again below
            got.put(error)

    threading.Thread(target=work, daemon=True).start()
    result, until = None, time.monotonic() + PERIOD
    while result is None and time.monotonic() < until:
        if run.stop.is_set():
            raise CancelledError
        with suppress(queue.Empty):
            result = got.get(timeout=min(0.2, PERIOD))
    if result is None:
        raise requests.Timeout(f"no whole answer within {PERIOD:g} seconds")
    if isinstance(result, Exception):
        raise result
    return result


@contextmanager
def _answer(
    run: Run, session: requests.Session, method: str, name: str, headers: dict[str, str]
) -> Iterator[requests.Response]:
    """Ask for a file and yield the answer, its body yet to be read.

    Refuse a redirect to another host, or from https to http.
    """
    address = run.source(name)
    options: dict[str, Any] = {"stream": True, "allow_redirects": False, "timeout": TIMEOUT}
    options["headers"] = HEADERS | headers
    for _ in range(REDIRECTS + 1):
        with _soon(run, partial(session.request, method, address, **options)) as answer:
            if not answer.is_redirect:
                answer.raise_for_status()
                with run.reading(answer):
                    yield answer
                return
            target = urljoin(address, answer.headers["Location"])
        if not _same_place(address, target):
            raise InputError(
                f"{name}: {address} redirects to {target!r}, which is another host or not https; "
                "if you trust it, name it with python -m mcnn_book data --from"
            )
        address = target
    raise InputError(
        f"{name}: {run.source(name)} redirects more than {REDIRECTS} times, last to {address}"
    )


def _same_place(address: str, target: str) -> bool:
    """Whether a redirect stays with its host and port; from http it may go to https."""
    old, new, usual = urlsplit(address), urlsplit(target), {"http": 80, "https": 443}
    try:
        same = (old.scheme, old.port or usual.get(old.scheme)) == (
            new.scheme,
            new.port or usual.get(new.scheme),
        )
    except ValueError:  # a port that is not a number
        return False
    return old.hostname == new.hostname and (same or (old.scheme, new.scheme) == ("http", "https"))


def sizes_at(run: Run, names: Sequence[str]) -> dict[str, int | str]:
    """Return the bytes of each file at the address, or why it cannot be had."""
    sizes: dict[str, int | str] = {}
    with requests.Session() as session:
        for name in names:
            try:
                with _answer(run, session, "HEAD", name, {}) as answer:
                    length = answer.headers.get("Content-Length", "")
                sizes[name] = (
                    int(length) if length.isdecimal() else "the server does not state its size"
                )
            except InputError as error:
                sizes[name] = error.what.removeprefix(f"{name}: ")
            except requests.HTTPError as error:
                sizes[name] = str(error)
            except requests.RequestException as error:  # nor would the next file be reached
                return dict.fromkeys(names, _cause(error)) | sizes
    return sizes


@dataclass
class Part:
    """What has come of a file, under a temporary name next to its place.

    The name holds the `validator`, by which a later request says of what it wants the rest. What
    has come of a file without one cannot be resumed.
    """

    whole: Path
    validator: str = ""

    def __post_init__(self) -> None:
        """Find what an earlier attempt has left."""
        for path in self.whole.parent.glob(f".{self.whole.name}.*{PART}"):
            self.validator = unquote(path.name[len(self.whole.name) + 2 : -len(PART)])
        if not self.validator:
            self.anew("")

    @property
    def path(self) -> Path:
        """Where it lies."""
        known = quote(self.validator, safe="")[:150]  # a name may have 255 bytes
        return self.whole.with_name(f".{self.whole.name}.{known}{PART}")

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return self.path.stat().st_size if self.path.exists() else 0

    def anew(self, validator: str) -> None:
        """Remove what has come, to begin with what is known by this validator."""
        self.path.unlink(missing_ok=True)
        self.validator = validator


def _validator(answer: requests.Response) -> str:
    """Return by what a server knows the state of a file: its ETag, else its date, else "".

    A weak ETag does not tell whether every byte is the same (RFC 9110, section 13.1.5).
    """
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _resumes(answer: requests.Response, name: str, wanted: str) -> bool:
    """Whether an answer is the part that was wanted of a file and not the whole file."""
    if answer.status_code != requests.codes.partial_content:
        return False
    if (part := answer.headers.get("Content-Range", "nothing")) != wanted:
        raise InputError(f"{name}: expected {wanted}, got {part}")
    return True


def _stream(run: Run, name: str, size: int, part: Part) -> None:
    """Fetch what has not come yet of a file.

    A server that cannot resume, or has another file by now, sends all of it again.
    """
    have, reason = part.size, ""
    rest = {"Range": f"bytes={have}-", "If-Range": part.validator} if have else {}
    try:
        with requests.Session() as session, _answer(run, session, "GET", name, rest) as answer:
            if not _resumes(answer, name, f"bytes {have}-{size - 1}/{size}"):
                run.advance(-have)
                part.anew(_validator(answer))
                take(part.path)
            reason = _copy(run, answer, part.path, size)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        reason = f" ({_cause(error)})"
    if run.stop.is_set():
        raise CancelledError
    if part.size != size:
        raise InputError(f"{name}: expected {size:,} bytes, got {part.size:,}{reason}")


def _copy(run: Run, answer: requests.Response, path: Path, size: int) -> str:
    """Append an answer to a file of at most `size` bytes; return why it was given up, if so."""
    # It would drop the last bytes of a short answer.
    answer.raw.enforce_content_length = False
    since, before = time.monotonic(), 0
    with open(path, "ab") as file:
        begun = file.tell()
        # What has come, without waiting for more.
        while file.tell() <= size and (chunk := answer.raw.read1(CHUNK)) and not run.stop.is_set():
            file.write(chunk)
            run.advance(len(chunk))
            if (seconds := time.monotonic() - since) >= PERIOD:
                if file.tell() - begun - before < SLOWEST * seconds:
                    return f" (less than {SLOWEST:,} bytes per second for {seconds:.0f} seconds)"
                since, before = time.monotonic(), file.tell() - begun
    return ""


def transfer(run: Run, name: str, size: int | str) -> str:
    """Bring a file into the folder and return its SHA-256.

    `size` is its bytes, or why there are none. What has come of it stays for the next attempt, or
    the next run, if it can be resumed.
    """
    if isinstance(size, str):
        raise InputError(f"{name}: {size}")
    path = run.folder / name
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Part(path)
    run.advance(part.size)
    try:
        with naming(path):
            _attempt(run, name, size, part)
            digest = checked(run, name, part.path)
            _refuse_existing(path)  # hours may have passed
            put(part.path, path)
        return digest
    finally:
        if part.size >= size or not part.validator:
            part.anew("")


def _attempt(run: Run, name: str, size: int, part: Part) -> None:
    """Fetch a file, again and again as long as that gets ahead."""
    left = ATTEMPTS
    while part.size != size or not part.path.exists():
        before = part.size
        try:
            _stream(run, name, size, part)
        except InputError:
            left = ATTEMPTS if part.size - before > SLOWEST * PERIOD else left - 1
            if not left:
                raise
            if part.size > size:
                run.advance(-part.size)
                part.anew("")
            if run.stop.wait(WAIT):
                raise CancelledError from None


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise InputError(
            f"{path.name}: {path} already exists and is not replaced: run this again to use it, "
            "or move it away"
        )


def do_all(
    run: Run, job: Callable[[str], Any], names: Collection[str], also: Sequence[str] = ()
) -> None:
    """Do several jobs at a time, then raise all that went wrong.

    If this is interrupted, transfers end at their next chunk.
    """

    def tried(name: str) -> InputError | None:
        try:
            job(name)
        except InputError as error:
            return error
        except OSError as error:
            return InputError(f"{name}: {error}")
        return None

    with ThreadPoolExecutor(run.workers) as pool:
        try:
            errors = [error for error in pool.map(tried, names) if error]
        except BaseException:
            run.end()
            raise
    if errors:
        raise InputError(
            f"{len(errors)} of {len(names)} files could not be fetched or used. What "
            f"{run.address} does not give can be downloaded by hand: put it, as it is, into "
            f"{run.folder.resolve()} and run this again (an archive that you put there is kept)",
            [
                *(error.what for error in errors),
                *also,
                *(problem for error in errors for problem in error.problems),
            ],
        )
