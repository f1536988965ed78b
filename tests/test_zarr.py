"""Plates of OME-Zarr, written with zarr as the community's converters lay them out."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr
from zarr.codecs import BloscCodec, GzipCodec

from mcnn_book.check.examine import check
from mcnn_core.errors import InputError
from mcnn_core.readers.folders import write_folder_table
from mcnn_core.readers.images import image_shape, read_field, read_image
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.reading import Reading

WELLS, SITES, SHAPE = ("B/2", "C/11"), 2, (1, 2, 3, 16, 20)
LABELS = ("Hoechst 33342", "Alexa 488")


def describe(group, format_, facts):
    """Write what a group says of OME-Zarr, as its version has it."""
    group.attrs.update({"ome": {"version": "0.5", **facts}} if format_ == 3 else facts)


def write_plate(folder, format_=2, shape=SHAPE, axes="tczyx", acquisitions=(), **kind):
    """Write a plate of NGFF 0.4 (format 2) or 0.5 (3); return the pixels of each field."""
    root, rng, truth = zarr.open_group(folder, mode="w", zarr_format=format_), None, {}
    rng = np.random.default_rng(0)
    plate = {"name": "P1", "wells": [{"path": well} for well in WELLS]}
    describe(root, format_, {"plate": plate | {"acquisitions": [{"id": k} for k in acquisitions]}})
    for well in WELLS:
        group = root.require_group(well)
        images = [{"path": str(site)} for site in range(SITES)]
        for image, number in zip(images, acquisitions, strict=False):
            image["acquisition"] = number
        describe(group, format_, {"well": {"images": images}})
        for site in range(SITES):
            image = group.require_group(str(site))
            scales = {"axes": [{"name": one} for one in axes], "datasets": [{"path": "0"}]}
            scales["datasets"].append({"path": "1"})
            channels = {"channels": [{"label": label} for label in LABELS]}
            describe(image, format_, {"multiscales": [scales], "omero": channels})
            pixels = truth[well, site] = rng.poisson(500, shape).astype("uint16")
            chunks = {"chunks": (*(1 for _ in shape[:-2]), 8, 20), "dtype": "uint16"} | kind
            image.create_array("0", shape=shape, **chunks)[...] = pixels
            image.create_array("1", shape=(*shape[:-2], 8, 10), dtype="uint16")[...] = 1
    return truth


def table_of(plate, out=None):
    out = out or plate.parent / "plates.csv"
    said = write_folder_table(plate, out)
    return out, "\n".join(said)


KINDS = {
    "0.4": {},
    "0.4, nested, big-endian": {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "0.4, gzip": {"compressors": {"id": "gzip", "level": 1}},
    "0.5": {"format_": 3},
    "0.5, blosc": {"format_": 3, "compressors": BloscCodec(cname="lz4")},
    "0.5, shards": {"format_": 3, "shards": (1, 2, 3, 16, 20), "compressors": GzipCodec()},
    "all planes in a chunk": {"chunks": SHAPE},
}
KINDS["0.4, nested, big-endian"]["dtype"] = ">u2"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planes", ["max", "3"])
def test_a_plate_is_read_at_its_highest_resolution(tmp_path, kind, planes):
    truth = write_plate(tmp_path / "P1.zarr", **KINDS[kind])
    out, said = table_of(tmp_path / "P1.zarr")
    assert "plates of OME-Zarr: 24 images" in said and "not taken" not in said
    screen = read_loaddata(out, reading=Reading(planes=planes))
    assert screen.channels == LABELS
    places = screen.table[["Metadata_Plate", "Metadata_Well", "Metadata_Site"]]
    fields = [("P1", well, site) for well in ("B02", "C11") for site in (0, 1)]
    assert list(places.itertuples(index=False, name=None)) == fields
    for row, pixels in enumerate(truth.values()):
        expected = pixels[0].max(axis=1) if planes == "max" else pixels[0, :, 2]
        assert (read_field(screen, row) == np.moveaxis(expected, 0, -1)).all()


def test_planes_are_refused_or_named_and_check_agrees(tmp_path):
    write_plate(tmp_path / "screen" / "P1.ome.zarr", 3)
    out, _ = table_of(tmp_path / "screen")
    assert check(str(out)).by_code()["planes-open"] == 1
    report = check(str(out), reading=Reading(planes="middle"))
    assert report.counts()["error"] == 0 and report.facts["fields"] == "4"


@pytest.mark.parametrize(("shape", "axes"), [((2, 16, 20), "cyx"), ((16, 20), "yx")])
def test_fewer_axes(tmp_path, shape, axes):
    truth = write_plate(tmp_path / "P1.zarr", shape=shape, axes=axes)
    screen = read_loaddata(table_of(tmp_path / "P1.zarr")[0])
    assert screen.channels == (LABELS if len(shape) == 3 else ("w1",))
    expected = truth["B/2", 0].reshape(-1, 16, 20)
    assert (read_field(screen, 0) == np.moveaxis(expected, 0, -1)).all()


def test_acquisitions_are_time_points_and_no_sites(tmp_path):
    truth = write_plate(tmp_path / "P1.zarr", acquisitions=(0, 1))
    out, _ = table_of(tmp_path / "P1.zarr")
    reading = Reading(planes="1", time="1")
    screen = read_loaddata(out, reading=reading)
    assert screen.table["Metadata_Site"].tolist() == [1, 1]
    assert (read_field(screen, 0)[..., 0] == truth["B/2", 1][0, 0, 0]).all()
    assert check(str(out), reading=Reading(planes="1")).by_code()["time-points"] == 1


def test_what_a_plate_lists_and_does_not_hold(tmp_path):
    write_plate(tmp_path / "P1.zarr")
    shutil.rmtree(tmp_path / "P1.zarr/B/2/1")
    shutil.rmtree(tmp_path / "P1.zarr/C")
    _, said = table_of(tmp_path / "P1.zarr")
    assert "images that an index lists without a file: 2" in said and "1 wells" in said


def test_chunks_that_are_absent(tmp_path):
    truth = write_plate(tmp_path / "P1.zarr")
    folder = tmp_path / "P1.zarr/B/2/0/0"
    (folder / "0.0.0.0.0").unlink()
    out, _ = table_of(tmp_path / "P1.zarr")
    report = check(str(out), reading=Reading(planes="1"))
    assert any("read as the fill value" in one for one in report.problems)
    screen = read_loaddata(out, reading=Reading(planes="1"))
    assert (read_field(screen, 0)[:8, :, 0] == 0).all()
    assert (read_field(screen, 0)[8:, :, 0] == truth["B/2", 0][0, 0, 0, 8:]).all()
    (folder / "0.0.0.1.0").unlink()
    with pytest.raises(InputError, match="truncated: none of the 2 chunks of plane 0"):
        read_field(screen, 0)
    report = check(str(out), reading=Reading(planes="1"))
    assert report.by_code()["file-unreadable"] == 1


def altered(path, **facts):
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


HOSTILE = {
    "planes of": {"shape": [10**9, 2, 3, 16, 20]},
    "none empty": {"shape": [1, 2, 3, 0, 20]},
    "axes": {"shape": [16], "chunks": [8]},
    "chunks of at most": {"chunks": [10**6, 10**6, 1, 8, 20]},
    "packing by": {"filters": [{"id": "pickle"}]},
    "of type": {"dtype": "|O"},
    "lacks or has otherwise": {"shape": 3},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_metadata_that_claim_too_much(tmp_path, what):
    write_plate(tmp_path / "P1.zarr")
    path = tmp_path / "P1.zarr/B/2/0/0/.zarray"
    altered(path, **HOSTILE[what])
    for read in (read_image, image_shape):
        with pytest.raises(InputError, match=what):
            read(path)
    with pytest.raises(InputError, match="wells of this plate cannot be read") as error:
        table_of(tmp_path / "P1.zarr")
    assert len(error.value.problems) == 1 and ".zarray" in error.value.problems[0]


@pytest.mark.parametrize("path", ["../..", "/etc", "B/2\\.."])
def test_a_plate_names_nothing_outside_it(tmp_path, path):
    write_plate(tmp_path / "P1.zarr")
    plate = json.loads((tmp_path / "P1.zarr/.zattrs").read_text())["plate"]
    altered(tmp_path / "P1.zarr/.zattrs", plate=plate | {"wells": [{"path": path}]})
    with pytest.raises(InputError, match="cannot be read") as error:
        table_of(tmp_path / "P1.zarr")
    assert "leads out of the plate" in error.value.problems[0]


@pytest.mark.parametrize("said", [{}, {"wells": 3}, {"wells": [3]}, {"wells": [{"path": None}]}])
def test_a_damaged_plate_is_named(tmp_path, said):
    write_plate(tmp_path / "P1.zarr")
    altered(tmp_path / "P1.zarr/.zattrs", plate=said)
    with pytest.raises(InputError, match=r"P1\.zarr"):
        table_of(tmp_path / "P1.zarr")


def test_an_image_that_is_no_plate_is_counted(tmp_path):
    write_plate(tmp_path / "screen" / "P1.zarr")
    shutil.copytree(tmp_path / "screen/P1.zarr/B/2/0", tmp_path / "screen/lone.zarr")
    out, said = table_of(tmp_path / "screen")
    assert "Zarr that is no plate with images: 1" in said and len(pd.read_csv(out)) == 12
    report = check(str(tmp_path / "screen"))
    assert any("make table SCREEN=" in one for one in report.frame()["message"])
