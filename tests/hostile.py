"""The tiny simulated screen under names that break programs.

They are markup, formulas, paths, mathematics, other scripts, length, line breaks.
"""

import shutil
from pathlib import Path

from mcnn_book.simulate.bbbc021 import LAYOUTS, simulate_screen
from mcnn_core.readers.bbbc021 import read_bbbc021

SCRIPT = "<script>alert(1)</script>"
NAMES = [
    SCRIPT,
    "\"><img src=x onerror=alert(1)>",
    "'--></style></script><svg onload=alert(1)>",
    "../../etc/passwd",
    "=cmd()",
    "=HYPERLINK(\"http://example.org\",\"x\")",
    "+1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "-2+3",
    "long " + "name" * 2499 + "end",  # 10,000 characters
    "\u202etfel ot thgir\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "Z\u0351\u0343a\u0308\u0301l\u0335\u0321\u031bg\u0316\u0317o\u0359" + "\u0301" * 60,
    "zero\u200bwidth\u200d\u2060\ufeffname",
    "\U0001f9ea\U0001f469\u200d\U0001f52c emoji",
    "two\nlines\r\nor three",
    "$x^2$ and $\\frac{$ and \\(y\\) and $\\href{javascript:alert(1)}{z}$",
    "{glue:text}`first.n` {result}`screen.name` {{ 7 * 7 }} {% raw %}",
    "[link](javascript:alert(1)) `code` **bold** | cell | <b>b</b> &lt;i&gt; &amp;",
    "#N/A, \"quoted\"; %s %(x)s {0} ${HOME} `id` $(id) \\n \\u0041",
    "nan", "None", "0123", "1e5", "TRUE",
]  # fmt: skip
"""What columns, and what stands in them, are called."""
FOLDERS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd()",
    "\u05e9\u05dc\u05d5\u05dd $x$ `id`",
]


COMPOUNDS = [
    " ".join(NAMES[start::8]) for start in range(8)
]  # three to a name: the tiny screen has eight compounds
RENAMED = {
    "Compound": COMPOUNDS,
    "MoA": [SCRIPT, "=cmd()", NAMES[15], NAMES[9], "nan"],
    "Plate": ["../../etc/passwd", NAMES[1], NAMES[10], "1e5"],
    "Batch": [NAMES[14], NAMES[17]],
}


def write_hostile(folder: Path) -> Path:
    """Simulate the tiny screen under hostile names, and return its LoadData table.

    Everything that can be renamed is renamed.
    """
    simulate_screen(folder / "screen", 0, LAYOUTS["tiny"], 64, 96)
    screen = read_bbbc021(folder / "screen")
    rows = screen.table.drop(columns=["Metadata_Treatment", "TableNumber", "ImageNumber"])
    for column, names in RENAMED.items():
        old = [value for value in rows[f"Metadata_{column}"].unique() if value not in ("", "DMSO")]
        rows[f"Metadata_{column}"] = rows[f"Metadata_{column}"].replace(
            dict(zip(old, names, strict=True))
        )
    well = rows.groupby(
        ["Metadata_Plate", "Metadata_Well"]
    ).ngroup()  # what differs within a well does not reach its profile
    for place, name in enumerate(NAMES):
        rows[f"Metadata_{name}"] = [NAMES[(place + number) % len(NAMES)] for number in well]
    for place, (index, row) in enumerate(rows.iterrows()):
        for channel in screen.channels:
            there, here = (
                FOLDERS[place % len(FOLDERS)],
                f"=cmd() {place} <img src=x onerror=alert(1)> $x$ {channel}.tif",
            )
            (folder / there).mkdir(parents=True, exist_ok=True)
            shutil.move(
                folder / "screen" / row[f"PathName_{channel}"] / row[f"FileName_{channel}"],
                folder / there / here,
            )
            rows.loc[index, [f"PathName_{channel}", f"FileName_{channel}"]] = there, here
    table = folder / "$x$ =cmd() & <b onclick=alert(1)>.csv"
    rows.to_csv(table, index=False)
    return table
