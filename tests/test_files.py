"""Writing whole files or none."""

import pandas as pd
import pytest

from mcnn_core.errors import InputError
from mcnn_core.files import atomic, read_json, sha256, write_json, write_table


def test_failure_leaves_the_old_file_and_no_temporary(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.json") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folder_replaces_folder_or_stays(tmp_path):
    for content in ("one", "two"):
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "f").write_text(content)
    with pytest.raises(OSError), atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        raise OSError
    assert (tmp_path / "folder" / "f").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_round_trip(tmp_path, suffix):
    frame = pd.DataFrame({"Metadata_Well": ["B02", "B03"], "value": [0.1, 0.2]})
    write_table(tmp_path / f"t.{suffix}", frame)
    read = pd.read_csv if suffix == "csv" else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / f"t.{suffix}"), frame)


def test_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert sha256(tmp_path / "f").startswith("ba7816bf8f01cfea")


def test_input_error_keeps_all_and_shows_twenty():
    error = InputError("bad", [f"row {i}" for i in range(25)])
    assert len(error.problems) == 25
    assert "row 19" in str(error) and "row 20" not in str(error) and "5 more" in str(error)
