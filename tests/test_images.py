import numpy as np
import pytest
import tifffile
from helpers import tiny_rows, write_screen
from PIL import Image

from mcnn_core.errors import InputError
from mcnn_core.readers.images import (
    check_headers,
    image_header,
    image_paths,
    image_shape,
    read_field,
    read_image,
)
from mcnn_core.readers.loaddata import read_loaddata

IMAGE = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)


def said(path) -> str:
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(path) in error.value.what
    return error.value.what


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"rowsperstrip": 3}, {"tile": (16, 16)}, {"bigtiff": True}],
)
def test_grey_images_are_read_as_16_bit(tmp_path, dtype, options):
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE.astype(dtype),
        byteorder=">" if dtype == ">u2" else None,
        **options,
    )
    read = read_image(tmp_path / "a.tif")
    assert read.dtype == np.uint16 and read.dtype.isnative
    np.testing.assert_array_equal(read, IMAGE)


def test_an_image_that_does_not_name_its_compression_is_not_packed(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, byteorder="<")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole.replace(b"\x03\x01\x03\0", b"\x04\x01\x03\0", 1))
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert "Compression" not in tiff.pages.first.tags
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), IMAGE)


def lzw(path, pixels, **tags):
    """Write a TIFF packed by LZW, which tifffile cannot; tags by their names."""
    numbers = {"orientation": 274, "rowsperstrip": 278, "predictor": 317}
    Image.fromarray(pixels).save(
        path,
        "TIFF",
        compression="tiff_lzw",
        tiffinfo={numbers[name]: value for name, value in tags.items()},
    )
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.compression.name == "LZW" and all(
            tiff.pages.first.tags[numbers[name]].value == value for name, value in tags.items()
        )


@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2"])
@pytest.mark.parametrize(
    "tags", [{}, {"predictor": 2}, {"rowsperstrip": 5}, {"predictor": 2, "rowsperstrip": 5}]
)
def test_lzw_is_read_like_the_others(tmp_path, dtype, tags):
    lzw(tmp_path / "a.tif", IMAGE.astype(dtype), **tags)
    read = read_image(tmp_path / "a.tif")
    assert (
        read.dtype == np.uint16
        and read.dtype.isnative
        and image_header(tmp_path / "a.tif") == (*IMAGE.shape, dtype.replace(">u2", "uint16"))
    )
    np.testing.assert_array_equal(read, IMAGE)


@pytest.mark.parametrize("write", [tifffile.imwrite, lzw])
@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 12), ("uint8", 4)])
def test_pixels_that_share_a_byte_are_refused(tmp_path, write, dtype, bits):
    write(tmp_path / "a.tif", IMAGE.astype(dtype))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags["BitsPerSample"].overwrite(bits)
    assert f"expected 8 or 16 bits per pixel, got {bits}" in said(tmp_path / "a.tif")


def test_turned_lzw_is_refused(tmp_path):
    lzw(tmp_path / "a.tif", IMAGE, orientation=6)
    assert "expected orientation 1 (not turned) with compression LZW, got 6" in said(
        tmp_path / "a.tif"
    )


def test_damaged_lzw_is_refused(tmp_path):
    lzw(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        (start,), (length,) = tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts
        place = tiff.pages.first.tags["StripByteCounts"].valueoffset
    whole = (tmp_path / "a.tif").read_bytes()
    for name, first, content in (
        ("ones", start + 100, b"\xff" * 300),
        ("short", place, (length // 2).to_bytes(4, "little")),
    ):
        (tmp_path / f"{name}.tif").write_bytes(
            whole[:first] + content + whole[first + len(content) :]
        )
        assert "not a readable TIFF" in said(tmp_path / f"{name}.tif")
    (tmp_path / "cut.tif").write_bytes(whole[: start + length // 2])
    said(tmp_path / "cut.tif")


@pytest.mark.parametrize(
    ("pixels", "options", "part"),
    [
        (
            np.zeros((3, 12, 16), np.uint16),
            {"photometric": "minisblack"},
            "expected one page per field and channel, got 3",
        ),
        (
            np.zeros((12, 16, 3), np.uint8),
            {"photometric": "rgb"},
            "expected grey (black is zero), got RGB with 3 samples",
        ),
        (np.zeros((12, 16), np.uint8), {"photometric": "miniswhite"}, "MINISWHITE"),
        (IMAGE.astype(np.float32), {}, "expected pixels of type uint8 or uint16, got float32"),
        (IMAGE.astype(np.int16), {}, "uint16, got int16"),
        (IMAGE.astype(np.uint32), {}, "uint16, got uint32"),
        (np.zeros((12, 16), bool), {"photometric": "minisblack"}, "uint16, got bool"),
    ],
)
def test_other_images_are_refused_with_what_is_right(tmp_path, pixels, options, part):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert part in said(tmp_path / "a.tif")


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 2}])
@pytest.mark.parametrize(
    ("kept", "part"),
    [
        (0.99, "truncated"),
        (0.5, "truncated"),
        (0.02, "not a readable TIFF"),
        (0, "not a readable TIFF"),
    ],
)
def test_truncated_files_are_refused(tmp_path, options, kept, part):
    noise = np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", noise, **options)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(kept * len(whole))])
    assert part in said(tmp_path / "a.tif")


def test_damaged_and_absent_files_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.random.default_rng(0).integers(0, 60_000, (40, 40), dtype=np.uint16),
        compression="zlib",
    )
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    whole[-200:-100] = bytes(100)
    (tmp_path / "a.tif").write_bytes(whole)
    assert "not a readable TIFF" in said(tmp_path / "a.tif")
    (tmp_path / "b.tif").write_text("Metadata_Plate,Metadata_Well\n")
    assert "not a readable TIFF" in said(tmp_path / "b.tif")
    assert "does not exist" in said(tmp_path / "c.tif")
    assert "not a regular file" in said(tmp_path)


def test_a_claimed_size_is_refused_before_it_is_allocated(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((10, 10), np.uint16), metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tags = tiff.pages.first.tags
        tags["ImageWidth"].overwrite(60_000)
        tags["ImageLength"].overwrite(60_000)
    assert (tmp_path / "a.tif").stat().st_size < 1_000
    assert "expected at most 100000000 pixels, got 60000 x 60000" in said(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags["ImageLength"].overwrite(50)
        tiff.pages.first.tags["ImageWidth"].overwrite(50)
    assert "truncated" in said(tmp_path / "a.tif")


def test_any_damage_to_a_header_is_an_input_error(tmp_path):
    rng = np.random.default_rng(1)
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, metadata=None)
    whole = (tmp_path / "a.tif").read_bytes()
    for _ in range(300):
        hurt = bytearray(whole)
        hurt[rng.integers(0, len(whole) - IMAGE.nbytes)] = rng.integers(256)
        (tmp_path / "a.tif").write_bytes(hurt)
        try:
            read_image(tmp_path / "a.tif")
        except InputError as error:
            assert str(tmp_path / "a.tif") in error.what


def test_headers_of_a_good_screen(tmp_path):
    screen = read_loaddata(write_screen(tmp_path))
    assert check_headers(screen) == (12, 16)
    field = read_field(screen, 3)
    assert field.shape == (12, 16, 2) and field.dtype == np.uint16
    for c, path in enumerate(image_paths(screen)[3]):
        np.testing.assert_array_equal(field[..., c], tifffile.imread(path))


def test_all_bad_headers_come_in_one_error(tmp_path):
    screen = read_loaddata(write_screen(tmp_path, tiny_rows()))
    paths = image_paths(screen)
    tifffile.imwrite(paths[0][1], np.zeros((12, 16, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(paths[2][0], np.zeros((16, 12), np.uint16))
    with open(paths[7][0], "r+b") as file:
        file.truncate(300)
    with pytest.raises(InputError) as error:
        check_headers(screen)
    assert error.value.what == "3 of 16 images cannot be used"
    for path, part in (
        (paths[0][1], "row 0 of the table: plate P1, well B02, site 1, channel Actin"),
        (paths[7][0], "truncated"),
        (
            paths[2][0],
            "expected 12 x 16 pixels as in most files, got 16 x 12 "
            "(row 2 of the table: plate P1, well C03, site 1, channel DNA)",
        ),
    ):
        assert sum(path in problem and part in problem for problem in error.value.problems) == 1


def test_real_fields_are_read(shared_data):
    for path in sorted((shared_data / "bbbc021" / "fields").glob("*.tif")):
        assert read_image(path).shape == (1024, 1280)


# --------------------------------------------------------------------------------- JPEG


def jpeg(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.jpeg", "a.JPG"])
def test_grey_jpegs_are_read_as_16_bit(tmp_path, name):
    smooth = np.add.outer(np.arange(12), np.arange(16)).astype(np.uint8) * 4
    read = read_image(jpeg(tmp_path / name, smooth, quality=100))
    assert read.dtype == np.uint16 and np.abs(read.astype(int) - smooth).max() < 4
    np.testing.assert_array_equal(read, np.array(Image.open(tmp_path / name)))
    assert image_shape(tmp_path / name) == (12, 16)


def test_other_jpegs_are_refused(tmp_path):
    colour = np.zeros((12, 16, 3), np.uint8)
    assert "expected grey (mode L), got mode RGB with 3 samples per pixel" in said(
        jpeg(tmp_path / "a.jpeg", colour)
    )
    tifffile.imwrite(tmp_path / "b.jpeg", IMAGE)
    assert "not a readable JPEG" in said(tmp_path / "b.jpeg")
    assert "does not exist" in said(tmp_path / "c.jpeg")
    whole = jpeg(
        tmp_path / "d.jpeg", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    ).read_bytes()
    for kept in (0.9, 0.5, 0.1, 0):
        (tmp_path / "d.jpeg").write_bytes(whole[: int(kept * len(whole))])
        assert "not a readable JPEG" in said(tmp_path / "d.jpeg")


def test_a_jpegs_claimed_size_is_refused_before_it_is_allocated(tmp_path):
    hurt = bytearray(jpeg(tmp_path / "a.jpeg", np.zeros((16, 16), np.uint8)).read_bytes())
    at = hurt.index(b"\xff\xc0") + 5
    hurt[at : at + 4] = b"\xea\x60\xea\x60"
    (tmp_path / "a.jpeg").write_bytes(hurt)
    assert "expected at most 100000000 pixels, got 60000 x 60000" in said(tmp_path / "a.jpeg")


# ------------------------------------------------------------------------------ montages


def montage(folder, tiles=("0:12,0:16", "0:12,16:32")):
    """Write a screen of two wells whose files hold two fields each."""
    rows = tiny_rows(plates=1)
    for channel in ("DNA", "Actin"):
        rows[f"FileName_{channel}"] = rows[f"FileName_{channel}"].str.replace("_s2", "_s1")
    rows["Metadata_Tile"] = list(tiles) * 2
    return read_loaddata(write_screen(folder, rows, shape=(12, 32)))


def test_a_file_of_several_fields_is_read_in_parts(tmp_path):
    screen = montage(tmp_path)
    whole = tifffile.imread(image_paths(screen)[1][0])
    assert check_headers(screen) == (12, 16) and image_paths(screen)[0] == image_paths(screen)[1]
    np.testing.assert_array_equal(read_field(screen, 1)[..., 0], whole[:, 16:])
    tifffile.imwrite(image_paths(screen)[1][0], whole[::-1])
    np.testing.assert_array_equal(read_field(screen, 1)[..., 0], whole[::-1, 16:])


@pytest.mark.parametrize(
    ("tile", "part"),
    [
        ("0:12,20:36", "0:12,20:36 is not a part of 12 x 32 pixels (row 1"),
        ("5:5,0:16", "5:5,0:16 is not a part"),
        ("upper left", "as in 0:128,160:320, got 'upper left' (row 1"),
        ("0:12,16:30", "expected 12 x 16 pixels as in most parts, got 12 x 14 (row 1"),
    ],
)
def test_a_tile_that_is_none_is_named(tmp_path, tile, part):
    screen = montage(tmp_path)
    screen.table.loc[1, "Metadata_Tile"] = tile
    with pytest.raises(InputError) as error:
        check_headers(screen)
    assert len(error.value.problems) == 1 and part in error.value.problems[0]
    if tile != "0:12,16:30":
        with pytest.raises(InputError):
            read_field(screen, 1)


def test_a_bad_file_of_several_fields_is_named_once(tmp_path):
    screen = montage(tmp_path)
    tifffile.imwrite(image_paths(screen)[0][0], np.zeros((5, 5), np.float32))
    with pytest.raises(InputError) as error:
        check_headers(screen)
    assert error.value.what == "1 of 4 images cannot be used" and len(error.value.problems) == 1


def test_one_part_of_a_file_is_one_field(tmp_path):
    with pytest.raises(
        InputError, match="is named more than once: expected one file, or one Metadata_Tile"
    ):
        montage(tmp_path, ("0:12,0:16", "0:12,0:16"))
