"""One reader under coverage-guided fuzzing: ``python -m tests.fuzz.guided NAME FOLDER SECONDS``.

Needs atheris (pip install atheris), which the book does not. FOLDER keeps the inputs that reached
something new (``corpus``), each finding's input and ``findings.json``, so that a search goes on
where another ended.
"""

import json
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

import atheris

NAME, FOLDER, TIME = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
LIBRARIES = {
    "tiff": ["tifffile"],
    "jpeg": ["PIL"],
    "png": ["PIL"],
    "workbook": ["openpyxl"],
    "checkpoint": ["yaml"],
}  # instrumented beside our own modules
with atheris.instrument_imports(
    include=["mcnn_core", *LIBRARIES.get(NAME, [])], enable_loader_override=False
):
    from tests.fuzz import targets

    if NAME == "checkpoint":
        # else first imported, without instruments, by its target
        from mcnn_core import training  # noqa: F401

TARGET = targets.TARGETS[NAME]
CORPUS, FINDINGS = FOLDER / "corpus", FOLDER / "findings.json"
CORPUS.mkdir(parents=True, exist_ok=True)
for index, seed in enumerate(TARGET.seeds()):
    (CORPUS / f"seed_{index}").write_bytes(seed)
SCRATCH = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
found = json.loads(FINDINGS.read_text(encoding="utf-8")) if FINDINGS.exists() else {}


def keep(data: bytes, key: str, text: str) -> None:
    """Keep the first input of each kind of finding, and go on."""
    if key not in found:
        path = FOLDER / f"finding_{len(found):02d}"
        path.write_bytes(data)
        found[key] = {"input": path.name, "text": text}
        FINDINGS.write_text(json.dumps(found, indent=1), encoding="utf-8")


def one(data: bytes) -> None:
    """Read one input. Its time is the processor's: the clock also runs while others compute."""
    folder, start = targets.emptied(SCRATCH / "in"), time.process_time()
    try:
        targets.attempt(TARGET, folder, data)
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "mcnn_core" in frame.filename
        ]
        place = f"{Path(frames[-1].filename).name}, {frames[-1].name}" if frames else "?"
        keep(
            data,
            f"{type(error).__name__} in {place}",
            "".join(traceback.format_exception(error))[-3000:],
        )
    if (seconds := time.process_time() - start) > targets.SECONDS:
        keep(data, "slow", f"{seconds:.1f} s of computing")


logging.disable()
targets.limit_memory()
atheris.Setup(
    [
        sys.argv[0],
        str(CORPUS),
        f"-max_total_time={TIME}",
        f"-max_len={targets.LONGEST}",
        f"-timeout={int(targets.SECONDS) * 30}",
        f"-artifact_prefix={FOLDER}/",
        "-rss_limit_mb=0",
        "-print_final_stats=1",
        "-seed=1",
    ],
    one,
)
atheris.Fuzz()
