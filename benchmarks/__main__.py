"""Measure every stage next to a textbook version and the machine's limit: ``make bench``.

Contestants of a case run in processes of their own and take turns (ours, textbook, ours, textbook
...), so that a busy moment meets all of them. Nothing here asserts a time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import cases, large
from mcnn_book.check.cost import Workload, bench_rows, predict, read_bench
from mcnn_book.command import reporting
from mcnn_book.workspace import find_root, provenance
from mcnn_core.machine.files import refuse_existing, write_json

GIB = 2**30


class Process:
    """A contestant at the other end of a pipe."""

    def __init__(self, folder: Path, case: cases.Case, who: str, quick: bool):
        command = [
            sys.executable,
            "-m",
            "benchmarks.child",
            str(folder),
            case.name,
            who,
            "quick" * quick,
        ]
        self.what = f"{case.name}: {who}"
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=find_root(),
            env=os.environ | {"PYTHONPATH": str(find_root())},
        )

    def answer(self) -> dict[str, Any]:
        """Wait for a line of JSON."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.what} ended with code {self.process.wait()}; see above")
        return json.loads(line)

    def run(self) -> dict[str, Any]:
        """Run once."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> dict[str, Any]:
        """Close the input and return the memory."""
        self.process.stdin.close()
        memory = self.answer()
        self.process.wait()
        return memory


def measure(folder: Path, case: cases.Case, quick: bool = False) -> dict[str, dict[str, Any]]:
    """Return what is found of each contestant of a case.

    That is: seconds (one per repeat), more of what it said, facts, peak_bytes and anonymous_bytes.
    """
    started: list[Process] = []
    try:
        if case.prepare is not cases.prepare_nothing:
            started.append(Process(folder, case, "prepare", quick))
            started[0].process.communicate()
            if started[0].process.returncode:
                raise RuntimeError(f"{case.name}: the inputs could not be made; see above")
        players, found = {}, {}
        for who in case.contestants:  # one after another: preparing may time something itself
            if who in cases.PEERS and find_spec(who) is None:
                print(f"{case.name}: {who} is not installed and left out", file=sys.stderr)
                continue
            players[who] = Process(folder, case, who, quick)
            started.append(players[who])
            found[who] = {"facts": players[who].answer(), "seconds": []}
            if case.warm:
                players[who].run()
        for _ in range(case.repeats):
            for who, player in players.items():
                answer = player.run()
                found[who]["seconds"].append(answer.pop("seconds"))
                for key, value in answer.items():
                    found[who].setdefault(key, []).append(value)
        return {who: found[who] | player.end() for who, player in players.items()}
    finally:
        for player in started:
            if player.process.poll() is None:
                player.process.kill()
                player.process.wait()
            for pipe in (player.process.stdin, player.process.stdout):
                pipe.close()


def limit(
    case: cases.Case, found: dict[str, dict[str, Any]], machine: dict[str, float]
) -> dict[str, Any]:
    """Return the seconds that a repeat would take at the machine's limit, and what that is."""
    facts = found["ours"]["facts"]
    if case.bound == "raw":
        return {"seconds": float(np.median(found["raw"]["seconds"])), "what": "bytes of files"}
    if case.bound == "product":
        return {
            "seconds": 2 * facts["macs"] * case.units / machine[facts["precision"]],
            "what": f"matrix product, {facts['precision']}",
        }
    if case.bound == "distances":
        n = case.more["profiles"]
        return {
            "seconds": 2 * n**2 * 128 / machine["float64"] + 8 * n**2 / machine["copy"],
            "what": "matrix product and a copy, float64",
        }
    if case.bound == "pass":
        return {"seconds": facts["bytes"] / machine["copy"], "what": "one pass over the table"}
    return {}


def row(
    case: cases.Case, found: dict[str, dict[str, Any]], machine: dict[str, float]
) -> dict[str, Any]:
    """Return the record of one case."""
    facts = found["ours"]["facts"]
    record = {
        "stage": case.stage,
        "case": case.case,
        "network": case.network,
        "unit": case.unit,
        "units": case.units,
        "height": case.height,
        "width": case.width,
        "batch": case.batch,
        "work": case.work or facts.get("macs", 1.0),
        "load": case.load,
        **found,
    }
    if case.bound == "product":
        for who in found.keys() & {"ours", "float32"}:
            rate = 2 * facts["macs"] * case.units / np.median(found[who]["seconds"])
            record[who] |= {
                "flops": rate,
                "share": rate / machine[found[who]["facts"]["precision"]],
            }
    bound = limit(case, found, machine)
    return record | ({"limit": bound} if bound else {})


def run(quick: bool = False, only: Sequence[str] = ()) -> dict[str, Any]:
    """Measure everything, or the stages in `only`; return what ``bench.json`` keeps."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:6.0f} s  {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limits, base = cases.machine_cases(quick)
        say("the machine")
        found = measure(folder, limits, quick)["ours"]
        base_bytes = measure(folder, base, quick)["ours"]["peak_bytes"]
        # The best of all repeats: a limit is what could be reached.
        machine = {key: max(found[key]) for key in ("copy", "float32", "bfloat16", "float64")}
        rows = []
        for case in cases.all_cases(quick):
            if not only or case.stage in only:
                say(case.name)
                rows.append(row(case, measure(folder, case, quick), machine))
        flat = [
            {
                "stage": "profiles",
                "fields": int(one["work"]),
                **{key: one["ours"][key] for key in ("peak_bytes", "anonymous_bytes")},
            }
            for one in rows
            if one["stage"] == "profiles"
        ]
        for case in cases.flat_cases(quick):
            if not only or case.stage in only:
                say(case.name)
                ours = measure(folder, case, quick)["ours"]
                flat.append(
                    {
                        "stage": case.stage.partition(" ")[2],
                        "fields": case.units,
                        **{key: ours[key] for key in ("peak_bytes", "anonymous_bytes")},
                    }
                )
    return {
        "command": "make bench" + " QUICK=1" * quick,
        "cores": cases.CORES,
        "threads": found["facts"]["threads"],
        "machine": machine,
        "base_bytes": base_bytes,
        "rows": rows,
        "flat": flat,
        "seconds": round(time.monotonic() - start),
        **provenance(),
    }


def table(bench: dict[str, Any]) -> str:
    """Return the table that is printed."""
    frame = bench_rows(bench)
    many = np.where(frame["units"] > 1, "/" + frame["unit"], "")
    shown = pd.DataFrame(
        {
            "stage": frame["stage"],
            "case": frame["case"],
            "ours": [
                f"{1e3 * one:,.2f} ms{unit}"
                for one, unit in zip(frame["seconds"], many, strict=True)
            ],
            "textbook / ours": [
                f"{row.ratio:.1f} ({row.ratio_low:.1f} to {row.ratio_high:.1f})"
                if row.ratio == row.ratio
                else ""
                for row in frame.itertuples()
            ],
            "of the limit": [
                f"{row.share:.0%} {row.bound}" if row.share == row.share else ""
                for row in frame.itertuples()
            ],
            "peak, GiB": [f"{row.peak / GIB:.2f}" for row in frame.itertuples()],
            "textbook's": [
                f"{row.textbook_peak / GIB:.2f}" if row.textbook_peak == row.textbook_peak else ""
                for row in frame.itertuples()
            ],
        }
    )
    lines = [
        f"{bench['processor']}, {bench['cores']} cores, {bench['threads']} threads",
        "copy {copy:.3g} bytes/s; product float32 {float32:.3g}, bfloat16 "
        "{bfloat16:.3g}, float64 {float64:.3g} operations/s".format(**bench["machine"]),
        shown.to_string(index=False),
        "",
    ]
    for one in bench["rows"]:
        if one["stage"] == "train":
            ratios = np.divide(one["textbook"]["seconds"], one["float32"]["seconds"])
            lines.append(
                f"train, {one['case']}, {one['network']}: float32 against float32 "
                f"{np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f}); "
                + "; ".join(
                    f"{one[who]['facts']['precision']} {one[who]['flops'] / 1e9:.0f} GFLOP/s, "
                    f"{one[who]['share']:.0%} of the product's peak"
                    for who in ("ours", "float32")
                )
                + f"; textbook with {one['textbook']['facts']['workers']} workers"
            )
        if "busy" in one:
            ratios = np.divide(one["busy"]["seconds"], one["ours"]["seconds"])
            lines.append(
                f"train, {one['case']}, beside {one['busy']['facts']['busy']} busy processes: "
                f"{np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f}) times as long"
            )
        for who in one.keys() & cases.PEERS:
            ratios = np.divide(one[who]["seconds"], one["ours"]["seconds"])
            lines.append(
                f"{one['stage']}, {one['case']}: {who} takes {np.median(ratios):.2f} "
                f"({ratios.min():.2f} to {ratios.max():.2f}) times our time"
            )
        if one["stage"] == "preprocess":
            alone = np.array(one["one_core"]["seconds"])
            ratios = one["textbook"]["seconds"] / alone
            lines.append(
                f"preprocess, {one['case']}, one core: "
                f"{one['units'] / np.median(alone):.1f} fields/s, "
                f"{np.median(ratios):.1f} ({ratios.min():.1f} to {ratios.max():.1f}) times textbook"
            )
    for stage, part in pd.DataFrame(
        bench["flat"], columns=["stage", "fields", "peak_bytes", "anonymous_bytes"]
    ).groupby("stage", sort=False):
        lines.append(
            f"memory of {stage}: "
            + ", ".join(
                f"{one.fields:,} fields {one.peak_bytes / GIB:.3f} GiB "
                f"({one.anonymous_bytes / GIB:.3f} not pages of files)"
                for one in part.itertuples()
            )
        )
    return "\n".join([*lines, f"measured in {bench['seconds']} s"])


def main(arguments: list[str] | None = None) -> None:
    """Run ``python -m benchmarks``."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out",
        type=Path,
        help="the JSON to write, a new file; "
        "book/recorded/bench.json or bench-large.json by default",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that everything runs; written only with --out",
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="run a screen of more than 5,000 fields instead, to check the predictions",
    )
    parser.add_argument(
        "--only", default="", help="stages, with commas between; written only with --out"
    )
    given = parser.parse_args(arguments)
    with reporting():
        refuse_existing(given.out)
    if given.large:
        bench = large.run(measure, given.quick)
        print(large.table(bench, predict(read_bench(), Workload(**bench["screen"]))))
    else:
        bench = run(given.quick, [name for name in given.only.split(",") if name])
        print(table(bench))
    path = given.out
    if path is None and not given.quick and not given.only:
        path = (
            find_root()
            / "book"
            / "recorded"
            / ("bench-large.json" if given.large else "bench.json")
        )
    if path:
        write_json(path, bench)
        print(f"written to {path}")


if __name__ == "__main__":
    main()
