"""Fetching BBBC021, from a server on loopback that holds a tiny copy: three plates of two wells."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
import zipfile
import zlib
from collections import Counter
from fnmatch import fnmatch
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from mcnn_book import download, real_plates, transfer
from mcnn_book.__main__ import main
from mcnn_book.download import (
    ARCHIVE,
    GO_FILES,
    IMAGE_BYTES,
    TABLES,
    fetch_bbbc021,
    fetch_go,
    fetch_tables,
)
from mcnn_book.screens import open_screen
from mcnn_book.transfer import RECORD
from mcnn_core.errors import InputError
from mcnn_core.machine.files import read_json, sha256
from mcnn_core.readers.images import check_headers, read_field

ROOT = Path(__file__).resolve().parents[1]
PLATES = ("Week10_40111", "Week1_22123", "Week1_22141")
WELLS = {"B02": ("DMSO", 0), "C03": ("taxol", 3)}
WHEELS = {"DAPI": 1, "Tubulin": 2, "Actin": 4}
ARCHIVES = {plate: ARCHIVE.format(plate) for plate in PLATES}


# ------------------------------------------------------------------------ the publisher


def image_rows(plate):
    for well, (compound, dose) in WELLS.items():
        row = {"TableNumber": 1, "ImageNumber": 1}
        for channel, wheel in WHEELS.items():
            row |= {
                f"Image_FileName_{channel}": f"{plate}_{well}_s1_w{wheel}.tif",
                f"Image_PathName_{channel}": f"{plate.split('_')[0]}/{plate}",
            }
        yield row | {
            "Image_Metadata_Plate_DAPI": plate,
            "Image_Metadata_Well_DAPI": well,
            "Replicate": 1,
            "Image_Metadata_Compound": compound,
            "Image_Metadata_Concentration": dose,
        }


def image_names(plate):
    return [f"{plate}_{well}_s1_w{wheel}.tif" for well in WELLS for wheel in WHEELS.values()]


def zipped(members, method=zipfile.ZIP_DEFLATED):
    """Return an archive of (name or ZipInfo, content) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def plate_members(plate):
    """Return the members of a plate's archive as they should be.

    They are a folder of TIFFs with unlike pixels.
    """
    members = [(f"{plate}/", b"")]
    for number, name in enumerate(image_names(plate)):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, np.full((12, 16), 100 * PLATES.index(plate) + number, np.uint16))
        members.append((f"{plate}/{name}", buffer.getvalue()))
    return members


@pytest.fixture(scope="module")
def originals():
    image = pd.DataFrame([row for plate in PLATES for row in image_rows(plate)]).to_csv(index=False)
    moa = "compound,concentration,moa\rtaxol,3,Microtubule stabilizers"
    compound = "compound,smiles\nDMSO,CS(=O)C\n"
    files = dict(zip(TABLES, (image.encode(), moa.encode(), compound.encode()), strict=True))
    return files | {ARCHIVES[plate]: zipped(plate_members(plate)) for plate in PLATES}


class Publisher:
    """A web server of `files`.

    `short` ends the n-th answer early, `slow` never ends and is told to have so many bytes, `shy`
    tells no size.

    It resumes, by the ETag `tags` or else the date, unless it is `plain`. `moved` sends on to
    another address; `silent` sends nothing after its headers, `dripping` a byte
    now and then from there on, or for (method, name) headers without end.
    """

    def __init__(self, files):
        self.files, self.answered = dict(files), Counter()
        self.short, self.slow, self.shy, self.closing = {}, {}, set(), threading.Event()
        self.moved, self.silent, self.dripping = {}, set(), set()
        self.plain, self.tags, self.ranges = False, {}, []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Answer, self))
        self.address = f"http://127.0.0.1:{self.server.server_port}/bbbc/BBBC021/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def count(self, method="GET"):
        return sum(count for (asked, _), count in self.answered.items() if asked == method)


class Answer(BaseHTTPRequestHandler):
    def __init__(self, publisher, *arguments):
        self.publisher = publisher
        super().__init__(*arguments)

    def do_HEAD(self):
        name = self.path.removeprefix("/bbbc/BBBC021/")
        self.publisher.answered[self.command, name] += 1
        content = self.publisher.files.get(name)
        if name in self.publisher.moved:
            self.send_response(302)
            self.send_header("Location", self.publisher.moved[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return name, b""
        if (self.command, name) in self.publisher.dripping:
            self.drip(b"HTTP/1.1 200 OK\r\nX: ")
        begin, size = self.wanted(name, content), len(content or b"")
        self.send_response(404 if content is None else 206 if begin else 200)
        if name not in self.publisher.shy:
            length = self.publisher.slow.get(name, size - begin)
            self.send_header("Content-Length", str(length))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
        if not self.publisher.plain:
            self.send_header(*self.state(name))
        self.end_headers()
        return name, (content or b"")[begin:]

    def state(self, name):
        tag = self.publisher.tags.get(name)
        return ("ETag", tag) if tag else ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT")

    def wanted(self, name, content):
        """Return the first byte that is asked for, if the file is still as it was."""
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not begin or self.publisher.plain:
            return 0
        self.publisher.ranges.append((name, int(begin[1])))
        same = self.headers.get("If-Range") == self.state(name)[1]
        return int(begin[1]) if same and content is not None else 0

    def drip(self, beginning=b""):
        try:
            self.wfile.write(beginning)
            while not self.publisher.closing.wait(0.02):
                self.wfile.write(b"x")
        except OSError:
            pass

    def do_GET(self):
        name, content = self.do_HEAD()
        if name in self.publisher.silent:
            self.publisher.closing.wait()
        if name in self.publisher.dripping:
            self.drip()
        if name in self.publisher.slow:
            while not self.publisher.closing.wait(0.01):
                try:
                    self.wfile.write(bytes(transfer.CHUNK))
                except OSError:
                    return
        self.wfile.write(
            content[
                : self.publisher.short.get(
                    (name, self.publisher.answered["GET", name]), len(content)
                )
            ]
        )

    def log_message(self, *_):
        pass


@pytest.fixture
def publisher(originals, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "WAIT", 0)
    running = Publisher(originals)
    yield running
    running.close()


@pytest.fixture
def fetch(publisher, tmp_path):
    return partial(fetch_bbbc021, tmp_path / "data", address=publisher.address, progress=False)


def refused(call, *arguments, **named) -> InputError:
    with pytest.raises(InputError) as error:
        call(*arguments, **named)
    return error.value


def left(folder) -> set[str]:
    """Return the plates, archives and temporary things in a folder, but what can be resumed."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "_" in path.name
        and path.name not in TABLES
        and path.suffix not in (".tif", transfer.PART)
    }


PLATE_FOLDERS = {plate: f"{plate.split('_')[0]}/{plate}" for plate in PLATES}


# --------------------------------------------------------------------------- as it should


def test_a_screen_is_fetched_and_read(fetch, publisher, tmp_path, originals):
    assert sorted(fetch()) == sorted(PLATES)
    data = tmp_path / "data"
    assert left(data) == set(PLATE_FOLDERS.values())
    screen = open_screen("bbbc021", data, tmp_path)
    assert (
        check_headers(screen) == (12, 16)
        and len(screen.table) == 6
        and (screen.table["Metadata_MoA"] != "").sum() == 3
    )
    row = screen.table.query("Metadata_Plate == 'Week1_22123' and Metadata_Well == 'C03'").index[0]
    assert read_field(screen, row)[3, 4].tolist() == [
        103,
        105,
        104,
    ]  # DAPI, actin, tubulin; the archive has w1, w2, w4
    record = read_json(data / RECORD)
    assert set(record) == set(originals)
    for name, entry in record.items():
        assert (
            entry["bytes"] == len(originals[name]) and entry["address"] == publisher.address + name
        )
        assert len(entry["first_seen"]) == 10
    assert record[TABLES[2]]["sha256"] == sha256(data / TABLES[2])
    assert publisher.count() == 6 and publisher.count("HEAD") == 6


@pytest.mark.parametrize(
    ("only", "plates"),
    [
        (["Week1"], PLATES[1:]),
        (["Week10"], PLATES[:1]),
        (["Week1_22141"], PLATES[2:]),
        (["Week10", "Week1_22141", "Week10_40111"], (PLATES[0], PLATES[2])),
    ],
)
def test_a_part_is_fetched(fetch, tmp_path, only, plates):
    assert sorted(fetch(only)) == sorted(plates)
    assert left(tmp_path / "data") == {PLATE_FOLDERS[plate] for plate in plates}


def test_an_unknown_part_lists_the_known_ones(fetch, publisher):
    error = refused(fetch, ["Week1", "Week2", "Week1_2"])
    assert error.problems == ["Week2", "Week1_2"] and all(
        name in error.what for name in (*PLATES, "Week1,", "Week10")
    )
    assert publisher.count() == len(TABLES)


def test_what_is_there_is_not_fetched_again(fetch, publisher):
    fetch(["Week10"])
    before = publisher.answered.copy()
    assert sorted(fetch()) == sorted(PLATES[1:])
    assert publisher.answered - before == Counter(
        {(method, ARCHIVES[plate]): 1 for method in ("HEAD", "GET") for plate in PLATES[1:]}
    )
    before = publisher.answered.copy()
    assert fetch() == [] and publisher.answered == before


def test_files_put_there_by_hand_are_used_and_stay(fetch, publisher, tmp_path, originals, capsys):
    data = tmp_path / "data"
    data.mkdir()
    publisher.close()
    for name in (*TABLES, ARCHIVES[PLATES[1]]):
        (data / name).write_bytes(originals[name])
    error = refused(fetch)
    assert error.problems == [
        f"{ARCHIVES[plate]}: [Errno 111] Connection refused" for plate in (PLATES[0], PLATES[2])
    ]
    assert left(data) == {PLATE_FOLDERS[PLATES[1]], ARCHIVES[PLATES[1]]}
    record = read_json(data / RECORD)
    assert record[ARCHIVES[PLATES[1]]]["address"] == "found in the folder" and set(record) == {
        ARCHIVES[PLATES[1]]
    }
    assert fetch(["Week1_22123"]) == []
    shutil.rmtree(data / PLATE_FOLDERS[PLATES[1]])
    assert fetch(["Week1_22123"], progress=True) == [PLATES[1]]
    assert (
        f"{PLATES[1]}: 6 images; {ARCHIVES[PLATES[1]]}, found in the folder, is kept"
        in capsys.readouterr().out
    )
    assert {name: (data / name).read_bytes() for name in (*TABLES, ARCHIVES[PLATES[1]])} == {
        name: originals[name] for name in (*TABLES, ARCHIVES[PLATES[1]])
    }


def test_what_comes_into_the_folder_meanwhile_is_not_replaced(
    fetch, publisher, tmp_path, monkeypatch
):
    stream = transfer._stream

    def meanwhile(run, name, size, part):
        stream(run, name, size, part)
        (run.folder / name).write_bytes(b"by hand")

    data, name = tmp_path / "data", ARCHIVES[PLATES[0]]
    fetch(["Week1"])
    monkeypatch.setattr(transfer, "_stream", meanwhile)
    assert "already exists and is not replaced" in refused(fetch).problems[0]
    assert (data / name).read_bytes() == b"by hand"
    (data / name).unlink()
    (data / name).mkdir()  # nor what is no file
    assert "already exists and is not replaced" in refused(fetch).problems[0]
    (data / name).rmdir()
    monkeypatch.undo()
    (data / "Week10").mkdir()
    (data / PLATE_FOLDERS[PLATES[0]]).write_text("notes")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert (
        "is not a folder" in refused(fetch).problems[0]
        and (data / PLATE_FOLDERS[PLATES[0]]).read_text() == "notes"
    )


def test_tables_by_hand_may_be_compressed(fetch, publisher, tmp_path, originals):
    (tmp_path / "data").mkdir()
    pd.read_csv(io.BytesIO(originals[TABLES[0]]), dtype=str).to_csv(
        tmp_path / "data" / f"{TABLES[0]}.gz", index=False
    )
    fetch(["Week10"])
    assert publisher.answered["GET", TABLES[0]] == 0 and TABLES[0] not in read_json(
        tmp_path / "data" / RECORD
    )


def test_other_files_of_an_archive_are_left_out_and_counted(fetch, publisher, tmp_path, capsys):
    publisher.files[ARCHIVES[PLATES[0]]] = zipped(
        [
            *plate_members(PLATES[0]),
            ("Week10_40111/Thumbs.db", bytes(IMAGE_BYTES + 1)),
            ("x.tif", b"?"),
        ]
    )
    fetch(["Week10"], progress=True)
    assert (
        "Week10_40111: 6 images; 2 files that the image table does not name are left out"
        in capsys.readouterr().out
    )
    assert sorted(
        path.name for path in (tmp_path / "data" / "Week10" / "Week10_40111").glob("*.tif")
    ) == sorted(image_names(PLATES[0]))


# ------------------------------------------------------------------------------- transfer


def test_an_address_out_of_reach_says_what_to_do_by_hand(publisher, fetch, tmp_path):
    publisher.close()
    error = refused(fetch)
    assert (
        publisher.address in error.what
        and str(tmp_path / "data") in error.what
        and "by hand" in error.what
    )
    assert error.problems == [
        *(f"{name}: [Errno 111] Connection refused" for name in TABLES),
        "BBBC021_v1_images_<plate>.zip of each plate",
    ]
    assert not list((tmp_path / "data").glob("[!.]*"))


def test_a_truncated_transfer_is_no_file(fetch, publisher, tmp_path):
    name, size = ARCHIVES[PLATES[0]], len(publisher.files[ARCHIVES[PLATES[0]]])
    publisher.short = {(name, attempt): 100 for attempt in range(1, 9)}
    error = refused(fetch)
    assert len(error.problems) == 1 and error.problems[0].startswith(
        f"{name}: expected {size:,} bytes, got {100 * transfer.ATTEMPTS}"
    )
    assert publisher.answered["GET", name] == transfer.ATTEMPTS
    assert left(tmp_path / "data") == {
        PLATE_FOLDERS[plate] for plate in PLATES[1:]
    } and name not in read_json(tmp_path / "data" / RECORD)
    publisher.short = {}
    assert fetch() == [PLATES[0]]


def parts(folder) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix == transfer.PART]


@pytest.fixture
def broken(fetch, publisher, tmp_path):
    """Break the first archive off at 90 %, and then at once; return its name and what has come."""
    name = ARCHIVES[PLATES[0]]
    have = len(publisher.files[name]) * 9 // 10
    publisher.tags[name] = '"first"'
    publisher.short = {(name, attempt): 0 for attempt in range(2, 9)} | {(name, 1): have}
    assert f"got {have:,}" in refused(fetch).problems[0]
    (part,) = parts(tmp_path / "data")
    assert part.stat().st_size == have
    publisher.short, publisher.ranges[:] = {}, []
    return name, have


def test_a_run_resumes_within_a_file(broken, fetch, publisher, tmp_path, originals, capsys):
    name, have = broken
    assert fetch(progress=True) == [PLATES[0]] and publisher.ranges == [(name, have)]
    assert "fetch: 100%" in capsys.readouterr().err.rpartition("\r")[2]
    assert read_json(tmp_path / "data" / RECORD)[name]["sha256"] == sha256_of(originals[name])
    assert not parts(tmp_path / "data")


def sha256_of(content) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("now", ['"second"', 'W/"first"', ""])
def test_a_file_that_is_another_by_now_is_fetched_whole(broken, fetch, publisher, tmp_path, now):
    name, have = broken
    publisher.tags[name] = now
    assert fetch() == [PLATES[0]] and publisher.ranges == [(name, have)]
    assert not parts(tmp_path / "data")


def test_a_server_that_cannot_resume_sends_the_whole_file(broken, fetch, publisher, tmp_path):
    publisher.plain = True
    publisher.short = {(broken[0], publisher.answered["GET", broken[0]] + 1): 100}
    assert fetch() == [PLATES[0]] and not parts(tmp_path / "data")


def test_a_part_that_does_not_fit_is_refused_and_forgotten(broken, fetch, publisher, tmp_path):
    """The record knows the file, and what has come is not its beginning."""
    data, (name, have) = tmp_path / "data", broken
    record = read_json(data / RECORD)
    record[name] = record[TABLES[0]] | {"sha256": sha256_of(publisher.files[name])}
    (data / RECORD).write_text(json.dumps(record))
    (part,) = parts(data)
    part.write_bytes(bytes(have))
    assert f"{name}: expected SHA-256" in refused(fetch).problems[0]
    assert not parts(data) and fetch() == [PLATES[0]]


def test_a_part_that_was_not_asked_for_is_refused(broken, fetch, monkeypatch):
    name, have = broken
    monkeypatch.setattr(Answer, "wanted", lambda *_: 1)
    assert f"{name}: expected bytes {have}-" in refused(fetch).problems[0]


def test_a_transfer_is_tried_again_and_counted_once(fetch, publisher, capsys):
    publisher.short = {(ARCHIVES[PLATES[0]], 1): 100, (TABLES[0], 1): 0}
    fetch(progress=True)
    assert (
        publisher.answered["GET", ARCHIVES[PLATES[0]]] == publisher.answered["GET", TABLES[0]] == 2
    )
    assert "fetch: 100%" in capsys.readouterr().err.rpartition("\r")[2]


def test_files_that_the_publisher_lacks_are_named_and_the_others_stay(fetch, publisher, tmp_path):
    del publisher.files[ARCHIVES[PLATES[0]]]
    publisher.shy = {ARCHIVES[PLATES[1]]}
    error = refused(fetch)
    assert (
        len(error.problems) == 2
        and "404" in error.problems[0]
        and error.problems[1] == f"{ARCHIVES[PLATES[1]]}: the server does not state its size"
    )
    assert left(tmp_path / "data") == {PLATE_FOLDERS[PLATES[2]]}


def test_what_comes_must_be_what_was_told(fetch, publisher, monkeypatch):
    del publisher.files[TABLES[2]]
    monkeypatch.setattr(download, "sizes_at", lambda run, names: dict.fromkeys(names, 10))
    problems = refused(fetch).problems
    assert problems[0] == f"{TABLES[0]}: expected 10 bytes, got {len(publisher.files[TABLES[0]]):,}"
    assert problems[2].startswith(f"{TABLES[2]}: expected 10 bytes, got 0 (404")


@pytest.mark.parametrize(
    ("address", "target", "followed"),
    [
        ("https://a.org/x", "https://a.org/y", True),
        ("https://a.org/x", "https://A.org:443/y", True),
        ("http://a.org/x", "https://a.org/x", True),
        ("http://127.0.0.1:5000/x", "https://127.0.0.1/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("https://a.org/x", "https://b.org/x", False),
        ("https://a.org/x", "https://a.org:8443/x", False),
        ("https://a.org/x", "https://a.org.b.org/x", False),
        ("https://a.org/x", "https://a.org@b.org/x", False),
        ("https://a.org/x", "ftp://a.org/x", False),
        ("https://a.org/x", "file:///etc/passwd", False),
        ("https://a.org/x", "https://a.org:x/", False),
        ("http://a.org/x", "http://localhost/x", False),
    ],
)
def test_a_redirect_stays_with_its_host(address, target, followed):
    assert transfer._same_place(address, target) is followed


def test_a_redirect_to_another_host_is_refused_with_both_addresses(fetch, publisher, originals):
    name, other = ARCHIVES[PLATES[0]], Publisher(originals)
    try:
        publisher.moved = {TABLES[0]: f"moved/{TABLES[0]}", name: other.address + name}
        publisher.files[f"moved/{TABLES[0]}"] = originals[TABLES[0]]
        (problem,) = refused(fetch).problems
        assert problem.startswith(
            f"{name}: {publisher.address}{name} redirects to '{other.address}{name}', "
            "which is another host or not https"
        )
        assert not other.answered
        publisher.moved = {name: name}
        (problem,) = refused(fetch).problems
        assert f"redirects more than {transfer.REDIRECTS} times" in problem
    finally:
        other.close()


def test_a_dripping_server_is_given_up(fetch, publisher, monkeypatch, tmp_path):
    """Each byte comes soon enough for a time-out between two of them.

    Headers, and a body, would take hours.
    """
    monkeypatch.setattr(transfer, "PERIOD", 0.3)
    heads, body, size = (
        ARCHIVES[PLATES[0]],
        ARCHIVES[PLATES[1]],
        len(publisher.files[ARCHIVES[PLATES[1]]]),
    )
    publisher.dripping = {("GET", heads), body}
    problems = dict(problem.split(": ", 1) for problem in refused(fetch).problems)
    assert re.fullmatch(
        rf"expected {len(publisher.files[heads]):,} bytes, got 0 "
        r"\(no whole answer within 0.3 seconds\)",
        problems[heads],
    )
    assert re.fullmatch(
        rf"expected {size:,} bytes, got [1-9]\d* "
        r"\(less than 1,000 bytes per second for 0 seconds\)",
        problems[body],
    )
    assert publisher.answered["GET", heads] == publisher.answered["GET", body] == transfer.ATTEMPTS
    assert left(tmp_path / "data") == {PLATE_FOLDERS[PLATES[2]]}
    publisher.dripping = {("HEAD", heads)}
    assert f"{heads}: no whole answer within 0.3 seconds" in refused(fetch).problems


def test_a_disk_that_fails_is_named_with_the_file(fetch, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_stream", full)
    assert refused(fetch).problems[0].startswith(f"{TABLES[0]}: [Errno 28] No space left on device")


def test_an_interrupted_run_ends_at_once_and_goes_on_later(fetch, publisher, tmp_path, monkeypatch):
    """Ctrl-C reaches the main thread.

    Those that fetch must not go on to the end of their archives.
    """

    def interrupted(*_):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        raise InputError("stopped before it was unpacked")

    publisher.slow = {ARCHIVES[PLATES[0]]: 2**30}
    # Ignored where the tests run in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(download, "_unpack", interrupted)
            fetch(PLATES[:2])
    finally:
        signal.signal(signal.SIGINT, before)
    assert left(tmp_path / "data") == {ARCHIVES[PLATES[1]]}
    before = publisher.count()
    assert fetch([PLATES[1]]) == [PLATES[1]] and publisher.count() == before
    assert left(tmp_path / "data") == {
        PLATE_FOLDERS[PLATES[1]]
    }  # what a stopped run has fetched is deleted like any other


def test_an_interrupt_does_not_wait_for_a_silent_server(fetch, publisher, monkeypatch):
    def interrupted(*_):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        raise InputError("stopped before it was unpacked")

    fetch(PLATES[2:])
    publisher.silent = {ARCHIVES[PLATES[0]]}
    monkeypatch.setattr(transfer, "TIMEOUT", None)
    monkeypatch.setattr(download, "_unpack", interrupted)
    before, late = (
        signal.signal(signal.SIGINT, signal.default_int_handler),
        threading.Timer(20, publisher.closing.set),
    )
    late.start()  # or this would hang for ever
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(PLATES[:2])
    finally:
        late.cancel()
        signal.signal(signal.SIGINT, before)
    assert not publisher.closing.is_set()


def test_a_file_that_changed_is_refused(fetch, publisher, tmp_path):
    data = tmp_path / "data"
    fetch(["Week10"])
    for name in (TABLES[2], PLATE_FOLDERS[PLATES[0]]):
        shutil.rmtree(data / name) if (data / name).is_dir() else (data / name).unlink()
    whole = publisher.files[ARCHIVES[PLATES[0]]]
    publisher.files[TABLES[2]] += b"more"
    assert (
        f"{TABLES[2]}: expected SHA-256" in refused(fetch).problems[0]
        and not (data / TABLES[2]).exists()
    )
    publisher.files[TABLES[2]] = publisher.files[TABLES[2]][:-4]
    publisher.files[ARCHIVES[PLATES[0]]] = zipped(plate_members(PLATES[0]), zipfile.ZIP_STORED)
    (problem,) = refused(fetch).problems
    assert read_json(data / RECORD)[ARCHIVES[PLATES[0]]]["sha256"] in problem and RECORD in problem
    assert left(data) == {PLATE_FOLDERS[plate] for plate in PLATES[1:]}
    (data / ARCHIVES[PLATES[0]]).write_bytes(publisher.files[ARCHIVES[PLATES[0]]])
    assert refused(fetch).problems == [problem] and (data / ARCHIVES[PLATES[0]]).exists()
    (data / ARCHIVES[PLATES[0]]).write_bytes(whole)
    assert fetch() == [PLATES[0]]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        "null",
        '"text"',
        '{"a": 1}',
        '{"a": {}}',
        '{"a": [["sha256", "x"]]}',
        '{"a": {"bytes": 1, "sha256": 2, "address": ""}}',
        "\ud800",
    ],
)
def test_a_damaged_record_is_refused(fetch, tmp_path, content):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / RECORD).write_bytes(written := content.encode(errors="surrogatepass"))
    assert f"{RECORD}: expected bytes, sha256 and address" in refused(fetch).what
    assert [path.read_bytes() for path in (tmp_path / "data").iterdir()] == [written]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, partial(os.symlink, "nowhere")])
def test_a_record_that_is_no_file_is_refused(fetch, tmp_path, make):
    (tmp_path / "data").mkdir()
    make(tmp_path / "data" / RECORD)
    assert f"{RECORD}: expected bytes, sha256 and address" in refused(fetch).what


def test_a_small_disk_is_refused_first(fetch, publisher, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=18 * IMAGE_BYTES))
    said = refused(fetch).what
    assert (
        "0.1 GB are needed, 0.1 GB are free" in said
        and "ONLY=" in said
        and str(tmp_path / "data") in said
    )
    assert publisher.count() == len(TABLES)
    assert len(fetch(["Week1"])) == 2


# ------------------------------------------------------------------------------- archives


def member(name, **fields):
    """Return a ZipInfo of exactly this name."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def patched(content, name, local, central, layout, value):
    """Overwrite one field of the local and the central header of a member."""
    content = bytearray(content)
    for signature, offset, name_at in ((b"PK\3\4", local, 30), (b"PK\1\2", central, 46)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            if content[at + name_at : at + name_at + len(name)] == name.encode():
                struct.pack_into(layout, content, at + offset, value)
    return bytes(content)


PLATE = "Week1_22123"
WHOLE = plate_members(PLATE)
NAME = WHOLE[1][0]
LINK = {"create_system": 3, "external_attr": (stat.S_IFLNK | 0o777) << 16}
BOMB = zipped([(NAME, bytes(50 * IMAGE_BYTES)), *WHOLE[2:]])
HOSTILE = {
    "climbing": (
        zipped([*WHOLE, (member("Week1_22123/../../../escaped.tif"), b"x")]),
        "'Week1_22123/../../../escaped.tif' leads out of the folder",
    ),
    "climbing image": (
        zipped([WHOLE[0], (member(f"../{image_names(PLATE)[0]}"), b"x"), *WHOLE[2:]]),
        "_w1.tif' leads out of the folder",
    ),
    "climbing folder": (
        zipped([*WHOLE, (member("../up/"), b"")]),
        "'../up/' leads out of the folder",
    ),
    "absolute": (
        zipped([*WHOLE, (member("/tmp/escaped.tif"), b"x")]),
        "'/tmp/escaped.tif' leads out of the folder",
    ),
    "of Windows": (
        zipped([*WHOLE, (member("..\\escaped.tif"), b"x"), (member("C:/escaped.tif"), b"x")]),
        "'C:/escaped.tif' leads out of the folder",
    ),
    "link": (
        zipped([WHOLE[0], (member(NAME, **LINK), b"/etc/hostname"), *WHOLE[2:]]),
        f"{NAME!r} is a link or a device",
    ),
    "other link": (
        zipped([(member("Week1_22123", **LINK), b"/tmp"), *WHOLE]),
        "'Week1_22123' is a link or a device",
    ),
    "encrypted": (patched(zipped(WHOLE), NAME, 6, 8, "<H", 1), f"{NAME!r} is encrypted"),
    "other method": (zipped(WHOLE, zipfile.ZIP_BZIP2), f"{NAME!r} is not stored or deflated"),
    "twice": (
        zipped([*WHOLE, (f"again/{NAME.split('/')[1]}", b"x")]),
        f"'again/{NAME.split('/')[1]}' occurs twice",
    ),
    "missing": (zipped(WHOLE[:-1]), f"{image_names(PLATE)[-1]!r} is missing"),
    "folder as image": (
        zipped([(f"{NAME}/", b""), *WHOLE[2:]]),
        f"{image_names(PLATE)[0]!r} is missing",
    ),
    "bomb": (BOMB, f"{NAME!r} has {50 * IMAGE_BYTES:,} bytes, expected at most {IMAGE_BYTES:,}"),
    "lying bomb": (patched(BOMB, NAME, 22, 24, "<I", 300), "BadZipFile"),
    "lying bomb with its sum": (
        patched(patched(BOMB, NAME, 22, 24, "<I", 300), NAME, 14, 16, "<I", zlib.crc32(bytes(300))),
        "",
    ),
    "less than told": (
        patched(zipped(WHOLE), NAME, 22, 24, "<I", 999_999),
        "bytes and says 999,999",
    ),
    "damaged": (
        zipped(WHOLE, zipfile.ZIP_STORED).replace(WHOLE[1][1], WHOLE[1][1][:-1] + b"?"),
        "Bad CRC-32",
    ),
    "truncated": (zipped(WHOLE)[:-40], "cannot be unpacked: BadZipFile"),
    "empty": (b"", "cannot be unpacked: BadZipFile"),
    "no archive": (b"<html>moved</html>", "cannot be unpacked: BadZipFile"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_writes_nothing(fetch, publisher, tmp_path, kind):
    """Its plate is refused with what is wrong.

    The other plate is there, and nothing lies outside the plates' folders.
    """
    content, said = HOSTILE[kind]
    publisher.files[ARCHIVES[PLATE]] = content
    # As short as it says and with the sum of that: an image like any other, though a bad one.
    if not said:
        assert (
            fetch(["Week1_22123"]) == [PLATE]
            and (tmp_path / "data" / "Week1" / NAME).stat().st_size == 300
        )
        return
    error = refused(fetch, ["Week1"])
    assert any(said in problem for problem in error.problems), error.problems
    assert (
        error.problems[0].startswith(ARCHIVES[PLATE])
        and "delete it to have it fetched again" in error.problems[0]
    )
    assert left(tmp_path / "data") == {PLATE_FOLDERS["Week1_22141"], ARCHIVES[PLATE]}
    assert (
        not list(tmp_path.rglob("*escaped*"))
        and not Path("/tmp/escaped.tif").exists()
        and {path.name for path in tmp_path.iterdir()} == {"data"}
    )
    (tmp_path / "data" / ARCHIVES[PLATE]).unlink()
    publisher.files[ARCHIVES[PLATE]] = zipped(WHOLE)
    assert fetch(["Week1"]) == [PLATE]


def test_every_problem_of_every_archive_is_named(fetch, publisher):
    publisher.files[ARCHIVES[PLATES[0]]] = zipped([(member("../a.tif"), b"")])
    publisher.files[ARCHIVES[PLATES[2]]] = b"x"
    error = refused(fetch)
    assert error.what.startswith("2 of 3 files") and len(error.problems) == 2 + 7
    assert {problem.split(":")[0] for problem in error.problems[:2]} == {
        ARCHIVES[PLATES[0]],
        ARCHIVES[PLATES[2]],
    }


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(zipped(WHOLE)) - 1), st.integers(1, 255))
def test_any_damaged_byte_is_refused_or_harmless(scratch, at, change):
    content = bytearray(zipped(WHOLE))
    content[at] ^= change
    (scratch / "a.zip").write_bytes(content)
    place = scratch / "plates" / "P"
    try:
        download._unpack(scratch / "a.zip", place, image_names(PLATE))
    except InputError:
        assert not place.exists()
    else:
        assert {path.name: path.read_bytes() for path in place.glob("*.tif")} == {
            name.split("/")[1]: pixels for name, pixels in WHOLE[1:]
        }
        shutil.rmtree(place)
    assert not list(scratch.glob("plates/*"))


def test_interrupted_unpacking_leaves_no_plate(fetch, publisher, tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def full(path, content):
        written.append(path)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        error = refused(fetch, ["Week10"])
    assert len(written) == 4 and "No space left on device" in error.problems[0]
    assert left(tmp_path / "data") == {ARCHIVES[PLATES[0]]} and not written[0].exists()
    before = publisher.count()
    assert fetch(["Week10"]) == [PLATES[0]] and publisher.count() == before


# --------------------------------------------------------------------------------- tables


def test_a_table_decides_no_folder_but_a_plates_own(fetch, publisher, tmp_path):
    table = publisher.files[TABLES[0]].decode()
    for old, new in (
        ("Week10/Week10_40111,Week10_40111", "Week1/Week1_22123,Week10_40111"),
        ("Week10_40111,B02", "elsewhere,B02"),
        ("Week10/", ""),
    ):
        publisher.files[TABLES[0]] = table.replace(old, new).encode()
        assert "in folders like Week1/Week1_22123" in refused(fetch).what
        shutil.rmtree(tmp_path / "data")


def test_a_page_instead_of_a_table_is_refused(fetch, publisher, tmp_path):
    publisher.files[TABLES[1]] = b"<html>please log in</html>"
    assert "a table that you delete is fetched again" in refused(fetch).what
    assert not (tmp_path / "data" / RECORD).exists()


def test_the_real_table_names_fifty_five_plates(bbbc021):
    images = download._plates(bbbc021("ljosa"), [])
    assert len(images) == 55 and {len(set(names)) for names in images.values()} == {720}
    assert len(download._plates(bbbc021("ljosa"), ["Week1", "Week2_24381"])) == 7


# -------------------------------------------------------------------------------- command


def test_the_command_fetches_and_says_what_it_cannot_know(publisher, tmp_path, capsys):
    main(
        [
            "data",
            "--screen",
            "bbbc021",
            "--data",
            str(tmp_path),
            "--only",
            "Week10, Week1_22123",
            "--from",
            publisher.address,
        ]
    )
    said = capsys.readouterr()
    assert (
        "gives no checksums" in said.out
        and f"2 plates are new in {tmp_path}" in said.out
        and "Week10_40111: 6 images\n" in said.out
    )
    assert "fetch: 100%" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--screen", "other", "--data", "x"],
            "error: what can be fetched is bbbc021, for kimorph the Gene Ontology, and the tables "
            "of ljosa, jumpmoa, lincs\n  - screen 'other' cannot",
        ),
        (
            ["--screen", "kimorph", "--data", "x", "--from", "nowhere"],
            "error: 2 of 2 files could not be fetched",
        ),
        (
            ["--screen", "bbbc021", "--data", ""],
            "error: name the folder to fetch into: make data SCREEN=bbbc021 DATA=DIR",
        ),
        (["--screen", "bbbc021", "--data", __file__], f"error: {__file__} is not a folder"),
        (
            ["--screen", "bbbc021", "--data", "x", "--from", "nowhere"],
            "error: 3 of 3 files could not be fetched",
        ),
    ],
)
def test_the_command_ends_with_one_error(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["data", *arguments])
    assert ended.value.code.startswith(said)


def test_the_command_says_how_to_go_on_after_an_interrupt(tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "fetch_bbbc021", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["data", "--screen", "bbbc021", "--data", str(tmp_path)])
    assert (
        ended.value.code == 130 and capsys.readouterr().err == "stopped; the same command resumes\n"
    )


def test_make_data_gives_what_it_is_given(publisher, tmp_path):
    """The recipe's own line, with an echo in the place of Python."""
    asked = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", "data", "SCREEN=bbbc021", "DATA=a dir"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    line = "printf '%s|'" + asked.stdout.strip().partition(".venv/bin/python")[2]
    given = os.environ | {"SCREEN": "bbbc021", "DATA": "a dir", "ONLY": "Week1"}
    assert (
        subprocess.run(["sh", "-c", line], env=given, capture_output=True, text=True).stdout
        == "-m|tools.run|mcnn_book|data|--screen|bbbc021|--data|a dir|--only|Week1|"
    )


def test_the_gene_ontology_is_fetched_once_and_refused_where_it_is_short(
    publisher, tmp_path, capsys
):
    obo, gaf = GO_FILES
    publisher.files |= {obo: b"format-version: 1.2", gaf: b"packed"}
    publisher.plain = True
    publisher.short |= {(gaf, attempt): 3 for attempt in range(1, transfer.ATTEMPTS + 1)}
    error = refused(fetch_go, tmp_path, publisher.address, progress=False)
    assert f"{gaf}: expected 6 bytes, got 3" in str(error) and not (tmp_path / gaf).exists()
    assert (tmp_path / obo).read_bytes() == b"format-version: 1.2"
    main(["data", "--screen", "kimorph", "--data", str(tmp_path), "--from", publisher.address])
    assert (
        (tmp_path / gaf).read_bytes() == b"packed"
        and "1 files of the Gene Ontology are new" in capsys.readouterr().out
    )
    assert set(read_json(tmp_path / RECORD)) == set(GO_FILES)
    asked = publisher.count()
    assert (
        fetch_go(tmp_path, publisher.address, progress=False) == [] and publisher.count() == asked
    )


def test_tables_of_real_plates_come_from_their_repositories(
    publisher, tmp_path, monkeypatch, capsys
):
    name, content = real_plates.LJOSA, gzip.compress(b"Metadata_Plate,Metadata_Well,A\n")
    publisher.files["at/a/commit.csv.gz"] = content
    place, known = f"{publisher.address}at/a/commit.csv.gz", hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(download, "BBBC021", publisher.address)
    monkeypatch.setitem(download.REAL_TABLES, "ljosa", [(name, place, "0" * 64)])
    error = refused(fetch_tables, tmp_path, "ljosa", progress=False)
    assert f"expected SHA-256 {'0' * 64}, as this project knows it, got {known}" in str(error)
    assert place in str(error) and not (tmp_path / name).exists()
    assert (tmp_path / TABLES[0]).exists()
    monkeypatch.setitem(download.REAL_TABLES, "ljosa", [(name, place, known)])
    main(["data", "--screen", "ljosa", "--data", str(tmp_path)])
    assert "1 tables are new" in capsys.readouterr().out
    assert (tmp_path / name).read_bytes() == content
    assert read_json(tmp_path / RECORD)[name]["address"] == place
    assert fetch_tables(tmp_path, "ljosa", progress=False) == []
    publisher.files[name] = content  # a copy has it under its name here
    copy = tmp_path / "copy"
    assert name in fetch_tables(copy, "ljosa", publisher.address, progress=False)


def test_tables_of_real_plates_are_those_that_the_chapter_was_measured_on(shared_data):
    for table in (real_plates.LJOSA, real_plates.JUMPMOA, real_plates.LINCS):
        assert any(
            fnmatch(name, table) for tables in download.REAL_TABLES.values() for name, *_ in tables
        )
    for name, _, known in (one for tables in download.REAL_TABLES.values() for one in tables):
        (path,) = shared_data.rglob(f"{name.removesuffix('.gz')}.gz")
        content = path.read_bytes() if name.endswith(".gz") else gzip.decompress(path.read_bytes())
        assert hashlib.sha256(content).hexdigest() == known, name


def test_a_folder_that_was_fetched_by_hand_is_taken_and_one_of_other_things_is_not(
    publisher, tmp_path
):
    (tmp_path / "hand" / "Week9").mkdir(parents=True)
    (tmp_path / "hand" / "BBBC021_v1_moa.csv.gz").write_bytes(
        gzip.compress(publisher.files["BBBC021_v1_moa.csv"])
    )
    fetch_bbbc021(tmp_path / "hand", ["Week10"], publisher.address, progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "hand").rglob("*.tif")}
    assert (
        before
        and fetch_bbbc021(tmp_path / "hand", ["Week10"], publisher.address, progress=False) == []
    )
    (tmp_path / "other" / "Week9").mkdir(parents=True)
    (tmp_path / "other" / "thesis.docx").touch()
    error = refused(
        fetch_bbbc021, tmp_path / "other", ["Week10"], publisher.address, progress=False
    )
    assert (
        "other holds 'thesis.docx' and was not made by this program" in str(error)
        and len(list((tmp_path / "other").iterdir())) == 2
    )
