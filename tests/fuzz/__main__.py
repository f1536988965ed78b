"""Fuzz every reader and record the results: ``python -m tests.fuzz [--seconds 600] [READER ...]``.

Needs atheris: ``pip install atheris==3.0.0``. The readers are fuzzed one after another, and each
one's result goes to ``book/recorded/fuzz.json`` as soon as it is there; inputs stay in the folder
``--keep``, from which a later search goes on.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from mcnn_book.workspace import commit
from mcnn_core.machine.files import read_json, write_json
from tests.fuzz.targets import LONGEST, MEMORY, SECONDS, TARGETS

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "book" / "recorded" / "fuzz.json"


def search(name: str, folder: Path, seconds: int) -> dict:
    """Return what a search of `seconds` did: inputs tried, branches reached, findings.

    A search that dies goes on.
    """
    begun, tried, reached, deaths = time.monotonic(), 0, 0, []
    while (left := seconds - int(time.monotonic() - begun)) > 0:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.guided", name, folder, str(left)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
        )
        tried += sum(map(int, re.findall(r"number_of_executed_units: (\d+)", ended.stderr)))
        reached = max([reached, *map(int, re.findall(r"cov: (\d+)", ended.stderr))])
        if ended.returncode:
            deaths.append(ended.stderr[-2000:])
            print(deaths[-1], flush=True)
            if len(deaths) == 5:
                break
    found = (
        json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        if (folder / "findings.json").exists()
        else {}
    )
    for death in deaths:
        found.setdefault(f"process ended {len(found)}", {"text": death})
    return {
        "readers": TARGETS[name].readers,
        "seconds": round(time.monotonic() - begun),
        "inputs": tried,
        "branches": reached,
        "findings": sorted(found),
        "commit": commit(ROOT),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "readers", nargs="*", default=list(TARGETS), choices=list(TARGETS), metavar="READER"
    )
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "mcnn-fuzz")
    options = parser.parse_args()
    for reader in options.readers:
        (options.keep / reader).mkdir(parents=True, exist_ok=True)
        result = search(reader, options.keep / reader, options.seconds)
        kept = read_json(RECORD)["readers"] if RECORD.exists() else {}
        write_json(
            RECORD,
            {
                "atheris": metadata.version("atheris"),
                "memory_bytes": MEMORY,
                "hang_seconds": SECONDS,
                "longest_input_bytes": LONGEST,
                "readers": kept | {reader: result},
            },
        )
        print(reader, json.dumps(result, indent=1), flush=True)
