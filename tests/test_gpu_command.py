"""The one-command check of a GPU, tried at its small size on what is here.

There is nothing but torch, NumPy and pandas to import.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = """
import sys
sys.modules.update(dict.fromkeys(["safetensors", "tqdm", "yaml", "tifffile", "sklearn",
                                  "scipy", "PIL", "pyarrow", "matplotlib"]))
"""


def test_small_run(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SITE)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        ROOT / "benchmarks/gpu.py",
        "--small",
        "--json",
        tmp_path / "gpu.json",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [value for key, value in found.items() if "within" in key or "equal bytes" in key] == [
        True
    ] * 3
    for part in (
        "training, 4 classes, 16 fields: ours",
        "training, 4 classes, 16 fields: streamed",
        "training, 5 classes, 24 fields: ours",
        "embedding, 24 fields from host memory",
        "embedding: ours by textbook",
        "float32 product, FLOP/s",
    ):
        assert found[part] > 0 and part in done.stdout
