"""Do every fault and print the table: ``python -m tests.faults [--record] [WORD ...]``.

The exit status is 1 if any falls short. With words only the cases whose name or stage has one of
them; with ``--record`` the whole table, if none falls short, goes to ``book/recorded/faults.json``
and into the page of the book.
"""

import argparse
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from mcnn_book.workspace import commit
from mcnn_core.machine.files import atomic, write_json
from tests.faults.cases import CASES, KINDS, ROOT, Good

RECORD, PAGE = ROOT / "book" / "recorded" / "faults.json", ROOT / "book" / "robustness.md"
BEGIN, END = "<!-- The {} is written by make faults. -->\n", "\n<!-- End of the {}. -->"


def matrix(rows: list[dict]) -> str:
    """Return how many cases of each kind hold in each stage, as a table of the book."""
    stages = dict.fromkeys(row["stage"] for row in rows)
    count = {
        (stage, kind): sum(
            row["stage"] == stage and kind in row["kinds"] and row["verdict"] == "holds"
            for row in rows
        )
        for stage in stages
        for kind in KINDS
    }
    lines = [
        f"| {stage} | " + " | ".join(str(count[stage, kind] or "-") for kind in KINDS) + " |"
        for stage in stages
    ]
    return "\n".join(
        [f"| cases that hold | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|", *lines]
    )


def table(rows: list[dict]) -> str:
    """Return the cases as a table of the book."""
    cells = [
        [
            row[name].replace("|", "\\|").replace("<", "&lt;")
            for name in ("stage", "case", "happened", "kept", "verdict")
        ]
        for row in rows
    ]
    return "\n".join(
        [
            "| stage | fault | what happened | what was kept | result |",
            "|---|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in cells),
        ]
    )


def record(rows: list[dict]) -> None:
    """Keep the cases for the book, and write their table into its page."""
    write_json(RECORD, {"commit": commit(ROOT), "cases": rows})
    text = PAGE.read_text(encoding="utf-8")
    for mark, lines in (("matrix", matrix(rows)), ("table", table(rows))):
        before, _, rest = text.partition(BEGIN.format(mark))
        after = rest.partition(END.format(mark))[2]
        text = f"{before}{BEGIN.format(mark)}\n{lines}\n{END.format(mark)}{after}"
    with atomic(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    cases = [
        case
        for case in CASES
        if not options.words or any(word in f"{case.stage} {case.name}" for word in options.words)
    ]
    rows, start = [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        good = Good(Path(scratch) / "good")
        for number, case in enumerate(cases, 1):
            folder, begun = Path(scratch) / f"case_{number}", time.monotonic()
            folder.mkdir()
            try:
                happened, kept = case.act(folder, good)
                verdict = "holds"
            except Exception as error:
                happened, kept, verdict = (
                    f"{type(error).__name__}: {error}".replace(f"{folder}/", "")[:3_000],
                    "?",
                    "falls short",
                )
            rows.append(
                {
                    "case": case.name,
                    "stage": case.stage,
                    "kinds": list(case.kinds),
                    "happened": happened,
                    "kept": kept,
                    "verdict": verdict,
                }
            )
            print(f"{number:2d}. {case.name}: {verdict} ({time.monotonic() - begun:.1f} s)")
            for name, text in (("happened", happened), ("kept", kept)):
                print(
                    textwrap.fill(
                        text, 120, initial_indent=f"      {name}: ", subsequent_indent=" " * 16
                    )
                )
            sys.stdout.flush()
    short = [row["case"] for row in rows if row["verdict"] != "holds"]
    print(matrix(rows))
    print(
        f"{len(rows)} cases in {time.monotonic() - start:.0f} s, {len(short)} fall short",
        *short,
        sep="\n  - ",
    )
    if options.record and cases == CASES and not short:
        record(rows)
    return int(bool(short))


if __name__ == "__main__":
    sys.exit(main())
