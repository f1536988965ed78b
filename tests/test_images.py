import numpy as np
import pytest
import tifffile
from helpers import tiny_rows, write_screen
from PIL import Image

from mcnn_book.check.examine import check
from mcnn_core.errors import InputError
from mcnn_core.readers.formats import Pages
from mcnn_core.readers.images import (
    Picture,
    check_headers,
    image_header,
    image_paths,
    image_shape,
    read_field,
    read_image,
    read_picture,
)
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.reading import Reading

IMAGE = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)
EIGHT = IMAGE.astype(np.uint8)
COLOURS = np.dstack([EIGHT // 50, EIGHT, np.full_like(EIGHT, 5)])


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
@pytest.mark.parametrize(("dtype", "bits"), [("uint16", 10), ("uint8", 4)])
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
        (COLOURS, {"photometric": "rgb"}, "got colours such as [0, 0, 5] in row 0, column 0"),
        (np.dstack([COLOURS, COLOURS[..., 1]]), {"photometric": "rgb"}, "transparency from 0 to"),
        (IMAGE - 3.5, {}, "from 0 to 65,535, got 4 others (the first, -3.5, in row 0, column 0"),
        (np.where(IMAGE == 20, np.nan, IMAGE), {}, "got 1 others (the first, nan, in row 1, colu"),
        (IMAGE.astype(np.int16) - 1, {}, "got 1 others (the first, -1, in row 0, column 0"),
        (IMAGE.astype(np.uint32) << 9, {}, "others (the first, 65536, in row 8, column 0"),
        (np.zeros((12, 16), bool), {"photometric": "minisblack"}, "float32, got bool"),
    ],
)
def test_other_images_are_refused_with_what_is_right(tmp_path, pixels, options, part):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    assert part in said(tmp_path / "a.tif")


# ------------------------------------------------------------------------- one grey meaning


def noted(path, **pages):
    """Return the pixels of an image, and what was taken for what."""
    return read_picture(Picture(str(path), pages=(Pages(**pages),)))


HUE = np.dstack([EIGHT // 2, np.zeros_like(EIGHT), EIGHT])
RAMP = np.stack([np.arange(256) * 257, np.zeros(256), np.zeros(256)]).astype(np.uint16)


@pytest.mark.parametrize(
    ("pixels", "options", "right", "note"),
    [
        (IMAGE.astype(np.float32), {}, IMAGE, ""),
        (IMAGE + 0.25, {}, IMAGE, "counts with fractions: rounded"),
        ((IMAGE / 191).astype(np.float32), {}, IMAGE / 191 * 65_535, "fractions from 0 to 1"),
        (IMAGE.astype(np.int16), {}, IMAGE, ""),
        (IMAGE.astype(np.uint32) * 300, {}, IMAGE * 300, ""),
        (EIGHT, {"photometric": "miniswhite"}, 255 - EIGHT, "white is zero"),
        (IMAGE, {"photometric": "miniswhite"}, 65_535 - IMAGE, "white is zero"),
        (np.dstack([EIGHT] * 3), {"photometric": "rgb"}, EIGHT, "samples are equal"),
        (np.dstack([IMAGE] * 3), {"photometric": "rgb"}, IMAGE, "samples are equal"),
        (np.stack([EIGHT] * 3), {"photometric": "rgb"}, EIGHT, "samples are equal"),
        (np.dstack([HUE, EIGHT | 255]), {"photometric": "rgb"}, EIGHT, "of one hue"),
        (EIGHT, {"photometric": "palette", "colormap": RAMP}, EIGHT, "of one hue"),
    ],
)
def test_an_image_of_one_meaning_is_read_and_says_so(tmp_path, pixels, options, right, note):
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    read, notes = noted(tmp_path / "a.tif")
    assert read.dtype == np.uint16 and note in "; ".join(notes) and bool(note) == bool(notes)
    np.testing.assert_array_equal(read, np.rint(right))
    assert image_header(tmp_path / "a.tif") == (12, 16, str(pixels.dtype))


@pytest.mark.parametrize("packing", ["tiff_lzw", "zstd", "tiff_adobe_deflate", "lzma"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int32", "rgb", "white", "white8"])
def test_what_libtiff_unpacks_is_exact(tmp_path, packing, dtype):
    special = {"rgb": np.dstack([EIGHT] * 3), "white": IMAGE, "white8": EIGHT}
    pixels = special[dtype] if dtype in special else IMAGE.astype(dtype)
    tags = {262: 0} if dtype.startswith("white") else {}
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=packing, tiffinfo=tags)
    # Pillow writes 16 bits as they are, says that white is zero, and inverts only 8 bits.
    right = 65_535 - IMAGE if dtype == "white" else IMAGE
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), right)


def test_a_jpeg_within_a_tiff_is_read(tmp_path):
    smooth = np.add.outer(np.arange(16), np.arange(32)).astype(np.uint8) * 5
    for name, pixels in (("a", smooth), ("b", np.dstack([smooth] * 3))):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif", compression="jpeg", quality=95)
        assert np.abs(read_image(tmp_path / f"{name}.tif").astype(int) - smooth).max() < 5


def test_twelve_bits_that_share_bytes_are_read(tmp_path):
    shared = np.unpackbits(IMAGE.astype(">u2").view(np.uint8).reshape(12, 16, 2), axis=2)[..., 4:]
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, byteorder="<", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.pages.first.tags["BitsPerSample"].overwrite(12)
        start = tiff.pages.first.dataoffsets[0]
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    packed = np.packbits(shared.reshape(12, -1), axis=1).tobytes()
    whole[start : start + len(packed)] = packed
    (tmp_path / "a.tif").write_bytes(whole)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), IMAGE)


@pytest.mark.parametrize(
    ("image", "right", "note"),
    [
        (Image.fromarray(EIGHT), EIGHT, ""),
        (Image.fromarray(IMAGE * 300), IMAGE * 300, ""),
        (Image.fromarray(np.dstack([EIGHT] * 3)), EIGHT, "samples are equal"),
        (Image.fromarray(np.dstack([EIGHT] * 3 + [EIGHT | 255])), EIGHT, "samples are equal"),
        (Image.fromarray(np.dstack([EIGHT, EIGHT | 255])), EIGHT, "transparency is left out"),
        (Image.fromarray(HUE), EIGHT, "of one hue"),
        (Image.fromarray(EIGHT).convert("P"), EIGHT, "palette"),
    ],
)
def test_a_png_is_read_under_any_name(tmp_path, image, right, note):
    image.save(tmp_path / "a.tif", "PNG")
    read, notes = noted(tmp_path / "a.tif")
    assert note in "; ".join(notes) and bool(note) == bool(notes)
    np.testing.assert_array_equal(read, right)


def test_other_pngs_and_other_files_are_refused_by_what_they_are(tmp_path):
    Image.fromarray(EIGHT > 9).save(tmp_path / "a.png")
    assert "got 1 bits of grey" in said(tmp_path / "a.png")
    Image.fromarray(COLOURS).save(tmp_path / "b.png")
    assert "got colours such as [0, 0, 5]" in said(tmp_path / "b.png")
    (tmp_path / "c.tif").write_bytes(b"ZISRAWFILE" + bytes(90))
    assert "not a readable TIFF, PNG or JPEG: it is a CZI of ZEN" in said(tmp_path / "c.tif")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    for kept in (0.9, 0.5, 0.005):
        (tmp_path / "b.png").write_bytes(whole[: int(kept * len(whole))])
        assert "not a readable PNG" in said(tmp_path / "b.png")


# ------------------------------------------------------------------------ pages and planes

STACK = np.stack([IMAGE, IMAGE[::-1], IMAGE // 2, IMAGE[:, ::-1]])


def layout(path, kind):
    """Write `STACK` as microscopes and ImageJ do."""
    if kind == "pages":
        with tifffile.TiffWriter(path) as tiff:
            for plane in STACK:
                tiff.write(plane, contiguous=False, metadata=None)
    elif kind == "ImageJ":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"})
    elif kind == "ImageJ, packed":
        tifffile.imwrite(path, STACK, imagej=True, compression="zlib", metadata={"axes": "ZYX"})
    elif kind == "one page":
        tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    elif kind == "LZW":
        first, *others = map(Image.fromarray, STACK)
        first.save(path, "TIFF", compression="tiff_lzw", save_all=True, append_images=others)
    else:
        tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "ZYX"})


@pytest.mark.parametrize("kind", ["pages", "ImageJ", "ImageJ, packed", "one page", "LZW", "OME"])
def test_planes_are_projected_or_chosen_and_never_dropped(tmp_path, kind):
    layout(path := tmp_path / "a.tif", kind)
    assert 'PARAMS="planes=max"' in said(path)
    with pytest.raises(InputError, match="PARAMS"):
        image_header(path)
    for planes, right in (("max", STACK.max(0)), ("middle", STACK[1]), ("4", STACK[3])):
        read, notes = noted(path, planes=planes)
        np.testing.assert_array_equal(read, right)
        assert "stacks of 4 planes" in notes[0]
    with pytest.raises(InputError, match="expected planes from 1 to 4, got planes=5"):
        noted(path, planes="5")
    np.testing.assert_array_equal(noted(path, frame="2")[0], STACK[2])
    with pytest.raises(InputError, match="expected a page from 0 to 3, got Frame 4"):
        noted(path, frame="4")


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
def test_time_points_are_no_planes(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", STACK, metadata={"axes": "TYX"}, **options)
    with pytest.raises(InputError, match="got 4 time points: name one, from 0, in Frame_"):
        noted(tmp_path / "a.tif", planes="max")


@pytest.mark.parametrize(
    ("axes", "names", "order"),
    [
        ("CZYX", None, (0, 1)),
        ("ZCYX", None, (0, 1)),
        ("CZYX", ["ER", "DNA"], (1, 0)),
        ("CZYX", ["488", "561"], (0, 1)),
    ],
)
def test_pages_that_are_channels_are_found_by_name_or_order(tmp_path, axes, names, order):
    stack = STACK.reshape(2, 2, 12, 16)
    channels = {"Channel": {"Name": names}} if names else {}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, ome=True, metadata={"axes": axes} | channels)
    by_channel = stack if axes == "CZYX" else stack.swapaxes(0, 1)
    for channel, place in zip(("OrigDNA", "OrigER"), order, strict=True):
        pages = {"channel": channel, "channels": ("OrigDNA", "OrigER")}
        read, notes = noted(tmp_path / "a.ome.tif", planes="max", **pages)
        np.testing.assert_array_equal(read, by_channel[place].max(0))
        assert any(f"page {place} of 2 is {channel}" in note for note in notes)
    with pytest.raises(InputError, match="expected 3 channels, as in the table, got 2"):
        noted(tmp_path / "a.ome.tif", planes="max", channel="a", channels=("a", "b", "c"))


def one_file(folder, frames):
    """Write a screen whose rows name files of both channels, with the pages `frames`."""
    rows = tiny_rows(plates=1)
    for number, channel in enumerate(("DNA", "Actin")):
        rows[f"FileName_{channel}"] = rows["Metadata_Well"] + rows["Metadata_Site"] + ".tif"
        if frames:
            rows[f"Frame_{channel}"] = frames[number]
    for name in rows["FileName_DNA"]:
        (folder / "images" / "P1").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "images" / "P1" / name, STACK[:2], photometric="minisblack")
    return read_loaddata(write_screen(folder, rows))


@pytest.mark.parametrize(
    ("frames", "order"), [(("1", "0"), (1, 0)), (("0.0", "1.0"), (0, 1)), ((), (0, 1))]
)
def test_one_file_may_hold_all_channels(tmp_path, frames, order):
    screen = one_file(tmp_path, frames)
    assert check_headers(screen) == (12, 16)
    np.testing.assert_array_equal(read_field(screen, 2), STACK[list(order)].transpose(1, 2, 0))


def test_one_page_is_one_image(tmp_path):
    with pytest.raises(InputError, match="or one Metadata_Tile or Frame_DNA of it") as error:
        one_file(tmp_path, ("1", "1"))
    assert len(error.value.problems) == 8


def test_files_that_are_planes_of_one_image_are_projected(tmp_path):
    screen = read_loaddata(write_screen(tmp_path, tiny_rows(plates=1)))
    paths = [images[0] for images in image_paths(screen)]
    name = "FileName_DNA"
    screen.table[name] = "/".join(screen.table[name].iloc[:2])
    right = np.maximum(*map(tifffile.imread, paths[:2]))
    np.testing.assert_array_equal(read_field(screen, 3)[..., 0], right)
    screen.table["Frame_DNA"] = "0/1"
    with pytest.raises(InputError, match="expected a page from 0 to 0, got Frame 1"):
        check_headers(screen)


def test_fields_of_several_sizes_are_cut_to_the_middle(tmp_path, capsys):
    rows = tiny_rows()
    for at, name in zip(rows["PathName_DNA"], rows["FileName_DNA"], strict=True):
        for channel in ("DNA", "Actin"):
            path = tmp_path / at / name.replace("DNA", channel)
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, IMAGE if at.endswith("1") else IMAGE[1:11, 2:15])
    table = write_screen(tmp_path, rows)
    with pytest.raises(InputError, match="8 of 16 images cannot be used"):
        check_headers(read_loaddata(table))
    screen = read_loaddata(table, reading=Reading(sizes="crop"))
    assert "4 of 8 fields, of up to 12 x 16 pixels, are cut to the middle 10 x 13" in (
        capsys.readouterr().out
    )
    assert check_headers(screen) == (10, 13)
    np.testing.assert_array_equal(read_field(screen, 0)[..., 1], IMAGE[1:11, 1:14])
    np.testing.assert_array_equal(read_field(screen, 7)[..., 1], IMAGE[1:11, 2:15])


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
    assert "not a readable TIFF, PNG or JPEG: it begins with b'Meta" in said(tmp_path / "b.tif")
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
    tifffile.imwrite(paths[0][1], np.zeros((12, 16), bool), photometric="minisblack")
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


def test_jpegs_of_one_hue_are_read(tmp_path):
    smooth = np.add.outer(np.arange(32), np.arange(32)).astype(np.uint8) * 4
    for samples in (np.dstack([smooth] * 3), np.dstack([smooth, smooth // 2, smooth * 0])):
        read = read_image(jpeg(tmp_path / "a.jpg", samples, quality=90))
        assert np.abs(read.astype(int) - smooth).max() < 12


def test_other_jpegs_are_refused(tmp_path):
    colours = np.zeros((32, 32, 3), np.uint8)
    colours[:16, :, 0] = colours[16:, :, 1] = 200
    assert "expected grey or one hue" in said(jpeg(tmp_path / "a.jpeg", colours))
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "b.jpeg")
    assert "got mode CMYK with 4 samples per pixel" in said(tmp_path / "b.jpeg")
    assert "does not exist" in said(tmp_path / "c.jpeg")
    whole = jpeg(
        tmp_path / "d.jpeg", np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    ).read_bytes()
    for kept in (0.9, 0.5, 0.1, 0):
        (tmp_path / "d.jpeg").write_bytes(whole[: int(kept * len(whole))])
        assert "not a readable" in said(tmp_path / "d.jpeg")


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
    tifffile.imwrite(image_paths(screen)[0][0], np.zeros((5, 5), np.complex64))
    with pytest.raises(InputError) as error:
        check_headers(screen)
    assert error.value.what == "1 of 4 images cannot be used" and len(error.value.problems) == 1


def test_one_part_of_a_file_is_one_field(tmp_path):
    with pytest.raises(
        InputError, match="is named more than once: expected one file, or one Metadata_Tile"
    ):
        montage(tmp_path, ("0:12,0:16", "0:12,0:16"))


# --------------------------------------------------------------- small inputs as labs have them

#: File, how it is read, height and width, and what the check says of it.
CASES = {
    "02_png_grey_8bit/plates.csv": ({}, (32, 40), ""),
    "13_channels_in_one_ome_tiff/load_data.csv": ({}, (32, 40), ""),
    "15_z_stack_tiff/plates.csv": ({"planes": "max"}, (32, 40), "stacks of 3 planes"),
    "16_stk_second_plane_dropped/plates.csv": ({"planes": "2"}, (32, 40), "number 2 is taken"),
    "25_float32_corrected/plates.csv": ({}, (32, 40), "counts with fractions: rounded"),
    "27_rgb_equal_channels/plates.csv": ({}, (32, 40), "samples are equal"),
    "28_sizes_differ/plates.csv": ({"sizes": "crop"}, (30, 36), "4 of 8 fields"),
    "37_jpeg_in_tiff/plates.csv": ({}, (32, 40), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_images_are_read_as_they_mean(shared_data, name):
    path, (options, size, said) = shared_data.with_name("cases") / name, CASES[name]
    reading = Reading(**options)
    report = check(str(path), reading=reading)
    assert not report.counts()["error"] and any(said in problem for problem in report.problems)
    screen = read_loaddata(path, reading=reading)
    assert check_headers(screen) == size
    assert read_field(screen, 5).shape == (*size, len(screen.channels))


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0]])
def test_what_needs_a_word_is_refused_with_that_word(shared_data, name):
    path = shared_data.with_name("cases") / name
    found = check(str(path)).frame().query("severity == 'error'")
    with pytest.raises(InputError) as error:
        check_headers(read_loaddata(path))
    word = "sizes=crop" if "sizes" in CASES[name][0] else "planes=max"
    assert len(error.value.problems) == len(found) and all(
        f'PARAMS="{word}"' in one.message + one.to_do for one in found.itertuples()
    )
