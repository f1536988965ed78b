"""A short run of every target, and the inputs that once were findings."""

import gzip
import json
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcnn_core.readers.images import read_image
from tests.children import child
from tests.fuzz.targets import BREAK, CONF, LONGEST, MEMORY, SECONDS, TARGETS, attempt, emptied

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", params=list(TARGETS))
def target(request):
    return TARGETS[request.param]


@st.composite
def damaged(draw, seeds):
    """Bytes out of nothing, or a good file with a few stretches changed.

    They are cut out, doubled, or overwritten.
    """
    data = bytearray(
        draw(st.sampled_from(seeds) if draw(st.integers(0, 9)) else st.binary(max_size=300))
    )
    for _ in range(draw(st.integers(0, 4))):
        start, length = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        data[start : start + length] = draw(
            st.one_of(
                st.just(b""),
                st.just(data[start : start + length] * 2),
                st.binary(max_size=8),
                st.sampled_from(
                    [b",", b"\t", b"\n", b"\xff\xff\xff\x7f", BREAK, b"\0", b'"', b"9" * 12]
                ),
            )
        )
    return bytes(data[:LONGEST])


def test_damaged_files_are_read_or_refused(target, tmp_path):
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(target.seeds()))
    def check(data):
        start = time.process_time()
        attempt(target, emptied(tmp_path / "in"), data)
        assert time.process_time() - start < SECONDS

    check()


def test_good_files_are_read(tmp_path):
    first = ("table", "text", "parquet", "map", "features", "ontology", "conf", "checkpoint")
    for name in first:
        TARGETS[name].read(emptied(tmp_path / "in"), TARGETS[name].seeds()[0])
    for name in ("workbook", "folder"):
        TARGETS[name].read(emptied(tmp_path / "in"), TARGETS[name].seeds()[-1])
    for name in ("tiff", "jpeg", "png"):
        (tmp_path / name).write_bytes(TARGETS[name].seeds()[0])
        assert read_image(tmp_path / name).max() > 70


def lacking_strips() -> bytes:
    """Return a TIFF that claims a strip for each of 500,000 rows and holds the first.

    The others were read, slowly, as zeros.
    """
    strip = zlib.compress(bytes(range(20)))
    tags = {
        256: (4, 10),
        257: (4, 500_000),
        258: (3, 16),
        259: (3, 8),
        262: (3, 1),
        273: (4, 122),
        277: (3, 1),
        278: (4, 1),
        279: (4, len(strip)),
    }
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in tags.items()
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip


def claiming_png() -> bytes:
    """Return a PNG whose pixels claim 2 GB more than there are: they were made room for."""
    whole = bytearray(TARGETS["png"].seeds()[1])
    place = whole.index(b"IDAT") - 4
    whole[place : place + 4] = struct.pack(">I", 2**31 - 1)
    return bytes(whole)


#: Found by reading, by hypothesis or by the guided search: (reader, what it did, the input).
FINDINGS = {
    "a packed table of 4 MB that is one row": ("table", gzip.compress(b"," * 2**22)),
    "a packed table that unpacks to 60 MB": ("table", gzip.compress(b"a,b\n" * 2**24)),
    "a table of 12,000 columns": ("table", b",".join(b"c%d" % n for n in range(12_000))),
    "a packed ontology that unpacks to 60 MB": ("ontology", gzip.compress(b"\n" * 2**26)[:LONGEST]),
    "a packed ontology of short lines": ("ontology", gzip.compress(b"a:b\n" * 2**20)),
    "planes in two folders, of which one is not there": (
        "text",
        b"Plate,Well,Site,Plane,FileName_A,PathName_A\nP,B02,1,1,a.tif,\nP,B02,1,2,z.tif,x/y\n",
    ),
    "a PNG that claims 2 GB": ("png", claiming_png()),
    "an image of 500,000 strips of which one is there": ("tiff", lacking_strips()),
    "a wildcard of many stars": (
        "conf",
        BREAK.join([CONF[0].encode(), b"Plate\tWell\tContent\n*\t" + b"*" * 30_000 + b"Z\tneg\n"]),
    ),
    "a wildcard of nested groups": (
        "conf",
        BREAK.join(
            [
                CONF[0].encode(),
                b"Plate\tWell\tContent\n*\t" + b"(" * 10_000 + b")" * 10_000 + b"\tneg\n",
            ]
        ),
    ),
    "more wells than there are": (
        "conf",
        CONF[0]
        .replace("A, B", ", ".join(f"r{n}" for n in range(5000)))
        .replace("1, 2", ", ".join(map(str, range(5000))))
        .encode(),
    ),
}
CHILD = """\
import sys, tempfile
from pathlib import Path
from tests.fuzz import targets
target = targets.TARGETS[sys.argv[1]]
folder = Path(tempfile.mkdtemp())
targets.limit_memory()
try:
    target.read(folder, Path(sys.argv[2]).read_bytes())
except targets.InputError as error:
    print("refused:", str(error)[:2000])
    assert not isinstance(error.__cause__ or error.__context__, MemoryError)
"""


@pytest.mark.parametrize("case", FINDINGS)
def test_findings_stay_mended(tmp_path, case):
    reader, data = FINDINGS[case]
    (tmp_path / "input").write_bytes(data)
    ended = child(CHILD, reader, tmp_path / "input", seconds=120)
    assert not ended.returncode and "refused:" in ended.stdout, ended.stderr


def test_the_record_is_of_these_readers():
    record = json.loads((ROOT / "book" / "recorded" / "fuzz.json").read_text(encoding="utf-8"))
    assert set(record["readers"]) == set(TARGETS) and (
        record["memory_bytes"],
        record["hang_seconds"],
    ) == (MEMORY, SECONDS)
    for name, run in record["readers"].items():
        assert (
            run["seconds"] >= 600
            and run["inputs"] > 1000
            and run["findings"] == []
            and run["readers"] == TARGETS[name].readers
        )
