"""Every fault of the table is a test."""

import pytest

from mcnn_core.machine.files import read_json
from tests.faults.__main__ import PAGE, RECORD, matrix, table
from tests.faults.cases import CASES, Good


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Good(tmp_path_factory.mktemp("good") / "run")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault(case, good, tmp_path):
    assert all(case.act(tmp_path, good))


def test_there_are_enough_and_none_twice():
    assert len(CASES) >= 30 and len({case.name for case in CASES}) == len(CASES)


def test_the_page_shows_the_record_and_the_record_has_these_cases():
    rows = read_json(RECORD)["cases"]
    assert [(row["stage"], row["case"]) for row in rows] == [
        (case.stage, case.name) for case in CASES
    ]
    assert {row["verdict"] for row in rows} == {"holds"}
    assert all(lines in PAGE.read_text(encoding="utf-8") for lines in (matrix(rows), table(rows)))
