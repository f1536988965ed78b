"""Tables of folders, laid out as microscopes and their programs leave them."""

import os

import numpy as np
import pandas as pd
import pytest
import tifffile

from mcnn_book.__main__ import main
from mcnn_core.errors import InputError
from mcnn_core.readers.folders import find_images, read_xml, write_folder_table
from mcnn_core.readers.images import read_field
from mcnn_core.readers.loaddata import read_loaddata
from mcnn_core.readers.reading import Reading

UUID = "07447158-AC76-4844-8431-E6A954BD1174"


def laid_out(folder, *names, **texts):
    """Write empty files, and some with a text."""
    for name, text in {**dict.fromkeys(names, ""), **texts}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def table_of(folder, pattern=""):
    out = folder.parent / "table.csv"
    said = write_folder_table(folder, out, pattern)
    return pd.read_csv(out, dtype=str, keep_default_na=False), "\n".join(said)


def one_image(facts, url, **more):
    cells = {"State": "Ok", "URL": url, **facts, **more}
    return "".join(f"<{tag}>{text}</{tag}>" for tag, text in cells.items())


def harmony(namespace, plate, images, maps=""):
    listed = "".join(f'<Image Version="1">{image}</Image>' for image in images)
    return (
        '<?xml version="1.0" encoding="utf-8"?><EvaluationInputData '
        'xmlns:xsd="http://www.w3.org/2001/XMLSchema" Version="1" '
        f'xmlns="{namespace}"><User>x</User><Plates><Plate>{plate}<PlateRows>8</PlateRows>'
        '<Well id="0203" /></Plate></Plates><Wells><Well><id>0203</id><Row>2</Row><Col>3</Col>'
        f'<Image id="0203K1F1P1R1" /></Well></Wells><Maps>{maps}</Maps><Images>{listed}</Images>'
        "</EvaluationInputData>"
    )


CHANNELS = ("HOECHST 33342", "Alexa 488")


def facts(site, plane, channel, named):
    found = {"Row": 2, "Col": 3, "FieldID": site, "PlaneID": plane, "TimepointID": 0}
    found["ChannelID"] = channel
    return found | ({"ChannelName": CHANNELS[channel - 1]} if named else {})


ENTRIES = (
    "<Map>"
    + "".join(
        f'<Entry ChannelID="{k}"><ChannelName>{name}</ChannelName></Entry>'
        for k, name in enumerate(CHANNELS, 1)
    )
    + "</Map>"
)


@pytest.mark.parametrize("index", ["Index.idx.xml", "Index.xml"])
@pytest.mark.parametrize(
    ("namespace", "plate", "named", "maps"),
    [
        (
            "http://www.perkinelmer.com/PEHH/HarmonyV5",
            "<PlateID>P1</PlateID><Name>P1</Name>",
            True,
            "",
        ),
        ("http://www.perkinelmer.com/PEHH/HarmonyV6", "<PlateID>P1</PlateID>", True, ""),
        ("43B2A954-E3C3-47E1-B392-6635266B0DD3/HarmonyV7", "<Name>P1</Name>", False, ENTRIES),
    ],
    ids=["V5", "V6", "V7"],
)
def test_an_index_of_harmony(tmp_path, index, namespace, plate, named, maps):
    names, images = [], []
    for site in (1, 2):
        for channel in (1, 2):
            name = f"r02c03f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"
            names.append(f"P1__2020-01-01T00_00_00-Measurement 1/Images/{name}")
            images.append(one_image(facts(site, 1, channel, named), name))
    images.append(one_image(facts(3, 1, 1, named), ""))
    folder = laid_out(
        tmp_path / "export",
        *names[:-1],
        "P1__2020-01-01T00_00_00-Measurement 1/Images/r02c03f09p01-ch1sk1fk1fl1.tiff",
        **{
            f"P1__2020-01-01T00_00_00-Measurement 1/Images/{index}": harmony(
                namespace, plate, images, maps
            )
        },
    )
    table, said = table_of(folder)
    assert table["Metadata_Plate"].tolist() == ["P1", "P1"]
    assert table["Metadata_Well"].tolist() == ["B03", "B03"]
    assert table["Metadata_Site"].tolist() == ["1", "2"]
    assert list(table)[3::2] == [f"FileName_{name}" for name in CHANNELS]
    assert table["FileName_Alexa 488"][1] == "r02c03f02p01-ch2sk1fk1fl1.tiff"
    home = "export/P1__2020-01-01T00_00_00-Measurement 1/Images"
    assert table["PathName_Alexa 488"].unique().tolist() == [home]
    assert "taken from Harmony's index: 4 images" in said
    assert "images that an index lists without a file: 1" in said
    assert "images that the index does not list: 1" in said
    assert "listed but absent: 1" in said and ".xml: 1" in said


def test_planes_time_points_and_pages_of_an_index(tmp_path):
    images = [
        one_image(facts(1, plane, 1, True) | {"TimepointID": time}, "stack.tif").replace(
            "<URL>", f'<URL BufferNo="{2 * time + plane - 1}">'
        )
        for time in (0, 1)
        for plane in (1, 2)
    ]
    index = harmony("http://www.perkinelmer.com/Columbus", "<PlateID>c</PlateID>", images)
    folder = laid_out(tmp_path / "columbus", "stack.tif", **{"ImageIndex.ColumbusIDX.xml": index})
    table, said = table_of(folder)
    assert table["Metadata_PlaneID"].tolist() == ["1", "1", "2", "2"]
    assert table["Metadata_Timepoint"].tolist() == ["0", "1", "0", "1"]
    assert table["Frame_HOECHST 33342"].tolist() == ["0", "2", "1", "3"]
    assert "1 plates, 1 wells, 2 planes, 2 time points" in said


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("P7/r02c03f05p01-ch2sk1fk1fl1.tiff", ("P7", "B03", "5", "ch2")),
        ("P7/Images/r16c24f001p01-ch10sk1fk1fl1.tiff", ("P7", "P24", "1", "ch10")),
        ("P7/002003-5-001001002.tif", ("P7", "B03", "5", "002")),
        ("d/AP_A01_T0001F002L01A01Z01C03.tif", ("AP", "A01", "2", "C03")),
        (f"1/Week1_150607_B02_s1_w1{UUID}.tif", ("Week1_150607", "B02", "1", "w1")),
        ("2010/55/TimePoint_1/PlateA_H12_s4_w2.TIF", ("PlateA", "H12", "4", "w2")),
        (f"x/TimePoint_1/ZStep_1/PlateA_A01_s2_w3{UUID}.tif", ("PlateA", "A01", "2", "w3")),
        ("PlateA_A01_w1.tif", ("PlateA", "A01", "1", "w1")),
        ("in cell/A - 1(fld 2 wv DAPI - DAPI).tif", ("in cell", "A01", "2", "DAPI")),
        ("ic/B - 03(fld 1 wv UV - DAPI z 1).tif", ("ic", "B03", "1", "UV - DAPI")),
        ("as/MFGTMP_1501_A01f03d2.TIF", ("MFGTMP_1501", "A01", "3", "d2")),
        ("PLATE1/B02_3_DNA.png", ("PLATE1", "B02", "3", "DNA")),
        ("PLATE1/odd.png", None),
        ("PLATE1/B2_s03_Actin.jpg", ("PLATE1", "B02", "3", "Actin")),
        ("all/P1_B02_s1_DNA.tif", ("P1", "B02", "1", "DNA")),
        ("all/P1_B02_DNA_s4.tif", ("P1", "B02", "4", "DNA")),
        ("PLATE1/B02-DNA.tif", ("PLATE1", "B02", "1", "DNA")),
        ("PLATE1/Well-B02/2_DNA.tif", ("PLATE1", "B02", "2", "DNA")),
        ("PLATE1/B02/DNA.tif", ("PLATE1", "B02", "1", "DNA")),
    ],
)
def test_names_of_files(tmp_path, name, row):
    images = find_images(laid_out(tmp_path / "screen", name)).images
    found = [(one.plate, one.well, one.site, one.channel) for one in images]
    assert found == ([row] if row else [])


def test_planes_and_time_points_are_no_sites(tmp_path):
    names = [
        f"55/TimePoint_{time}/ZStep_{plane}/P_A01_s1_w{channel}.tif"
        for time in (1, 2)
        for plane in (1, 2, 3)
        for channel in (1, 2)
    ]
    htd = '"WaveName1", "DAPI"\r\n"WaveName2", "Cy3"\r\n'
    table, said = table_of(laid_out(tmp_path / "ix", *names, **{"55/P.HTD": htd}))
    assert len(table) == 6 and set(table["Metadata_Site"]) == {"1"}
    assert [name for name in table if name.startswith("FileName")] == [
        "FileName_DAPI",
        "FileName_Cy3",
    ]
    assert "3 planes, 2 time points" in said and ".htd: 1" in said


def test_a_measurement_of_yokogawa(tmp_path):
    record = (
        '<bts:MeasurementRecord bts:Type="{}" bts:Column="2" bts:Row="3" bts:TimePoint="1" '
        'bts:FieldIndex="{}" bts:ZIndex="1" bts:Ch="{}">{}</bts:MeasurementRecord>'
    )
    names = {(f, c): f"AP_C02_T0001F00{f}L01A0{c}Z01C0{c}.tif" for f in (1, 2) for c in (1, 2)}
    records = [record.format("IMG", f, c, name) for (f, c), name in names.items()]
    records.append(record.format("ERR", 3, 1, "The focus was lost"))
    mlf = (
        '<?xml version="1.0" encoding="utf-8"?><bts:MeasurementData bts:Version="1.0" '
        f'xmlns:bts="http://www.yokogawa.co.jp/BTS/BTSSchema/1.0">{"".join(records)}'
        "</bts:MeasurementData>"
    )
    folder = laid_out(
        tmp_path / "cv", *names.values(), "DC_sCMOS #1_CAM1.tif", **{"MeasurementData.mlf": mlf}
    )
    table, said = table_of(folder)
    assert table["Metadata_Plate"].unique() == ["AP"] and set(table["Metadata_Well"]) == {"C02"}
    assert table["FileName_C02"].tolist() == [names[1, 2], names[2, 2]]
    assert "illumination images: 1" in said and "an index lists without a file: 1" in said


def test_what_shows_no_cells_is_left_out_and_counted(tmp_path):
    folder = laid_out(
        tmp_path / "screen",
        *("P/B02_1_DNA.png", "P/B02_1_Actin.png", "P/B03_1_DNA.png"),
        *("P/B02_1_DNA_thumb.png", "P/thumbs/B02_1_DNA.png", "P/P_illumDNA.tif"),
        *("P/B02_1_overlay.png", "P/masks/B02_1_DNA.png", "P/notes.txt", "P/readme", "P/odd.png"),
        ".hidden/B02_1_DNA.png",
    )
    table, said = table_of(folder)
    assert table["FileName_Actin"].tolist() == ["B02_1_Actin.png", ""]
    for what in (
        "thumbnails: 2",
        "overlays, masks and montages: 2",
        "illumination images: 1",
        ".txt: 1",
        "without ending: 1",
        "images whose names no known layout has: 1",
        "rows without an image of every channel: 1",
    ):
        assert what in said


#: A name for wells B02 and C11 and sites 1 and 2, its channels, and the plate.
NAMES = {
    "{row} - {k}(fld {s} wv {c} - {c}).tif": (("DAPI", "FITC"), "screen"),
    "{row}{k}_01_1_{s}_{c}_001.tif": (("Phase Contrast", "GFP"), "screen"),
    "VID1_{w}_{s}_2021y08m06d_11h39m.tif": (("w1",), "VID1"),
    "hs/P1/r{r:02d}c{k:02d}f{s:02d}p01-{c}sk1fk1fl1.jpg": (("ch1", "ch2"), "P1"),
    "P1/{c}/{w}_s{s}.tif": (("DAPI", "GFP"), "P1"),
    "P1/{w}/{s}/{c}.tif": (("DAPI", "GFP"), "P1"),
    "P1/site{s}/{w}_{c}.tif": (("DAPI",), "P1"),
    "exp/{c}/P7_{w}_{s}.png": (("ch1", "ch2"), "P7"),
    "{c}_{w}_{s}.tif": (("Hoechst", "FITC"), "screen"),
    "plate1.{w}.{s}.{c}.tif": (("dapi", "gfp"), "plate1"),
    "plate 1 {w} f{s} {c}.tif": (("DAPI", "GFP"), "plate 1"),
    "P1_Row{row}_Col{k}_s{s}_{c}.tif": (("DAPI",), "P1"),
    "P1_{w}_s{s}_{c}.tif": (("Alexa-488", "Phalloïdine"), "P1"),
    "{row}{k}/s{s}_{c}.png": (("DAPI", "GFP"), "screen"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_as_programs_write_them(tmp_path, name):
    channels, plate = NAMES[name]
    wells = {"B02": {"w": "B02", "row": "B", "r": 2, "k": 2}}
    wells["C11"] = {"w": "C11", "row": "C", "r": 3, "k": 11}
    names = {name.format(s=s, c=c, **wells[w]) for w in wells for s in (1, 2) for c in channels}
    table, said = table_of(laid_out(tmp_path / "screen", *names))
    assert {column[9:] for column in table if column[:9] == "FileName_"} == {*channels}
    places = table[["Metadata_Plate", "Metadata_Well", "Metadata_Site"]]
    expected = [(plate, w, str(s)) for w in wells for s in (1, 2)]
    assert list(places.itertuples(index=False, name=None)) == expected, said


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["P1/B02.tif", "P1/C11.tif"], [("P1", "B02", "w1"), ("P1", "C11", "w1")]),
        (["P1/B02_C01.tif"], [("P1", "B02", "C01")]),
        (["P01_s1_DAPI.tif"], [("screen", "P01", "DAPI")]),
        (["DAPI_B02.tif"], [("screen", "B02", "DAPI")]),
        (["P1/B02_DAPI.tif", "P1/figure_B02.png"], [("P1", "B02", "DAPI")]),
    ],
)
def test_what_looks_like_a_well_and_is_none(tmp_path, names, expected):
    found = find_images(laid_out(tmp_path / "screen", *names)).images
    assert [(one.plate, one.well, one.channel) for one in found] == expected


@pytest.mark.parametrize(
    ("kind", "channels", "planes"),
    [
        ({"metadata": {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}}}, "DAPI GFP", 1),
        ({"metadata": {"axes": "ZYX"}}, "w1", 2),
        ({"imagej": True, "metadata": {"axes": "CYX"}}, "ch1 ch2", 1),
    ],
)
def test_pages_of_files_that_name_no_channel(tmp_path, kind, channels, planes):
    pixels = np.arange(384, dtype=np.uint16).reshape(2, 12, 16)
    end = "tif" if "imagej" in kind else "ome.tif"
    for well in ("B02", "C11"):
        path = tmp_path / "screen" / f"P1_{well}_s1.{end}"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, pixels, **kind)
    out = tmp_path / "plates.csv"
    write_folder_table(tmp_path / "screen", out)
    screen = read_loaddata(out, reading=Reading(planes="2" if planes > 1 else ""))
    assert screen.channels == tuple(channels.split()) and len(screen.table) == 2
    expected = pixels[1:] if planes > 1 else pixels
    assert (read_field(screen, 1) == np.moveaxis(expected, 0, -1)).all()


def test_too_many_channels_are_names_read_amiss(tmp_path):
    names = [f"P1/B02_cell{chr(97 + k)}{chr(97 + m)}.png" for k in range(9) for m in range(9)]
    with pytest.raises(InputError, match="at most 40 channels, got 81, such as cellaa"):
        table_of(laid_out(tmp_path / "screen", *names))


def test_plates_of_one_name_are_called_by_their_folders(tmp_path):
    names = [f"run{k}/P_A01_s1_w1.tif" for k in (1, 2)]
    table, _ = table_of(laid_out(tmp_path / "screen", *names))
    assert table["Metadata_Plate"].tolist() == ["run1", "run2"]
    folder = laid_out(tmp_path / "other", "P/A01_1_DNA.png", "P/A1_01_DNA.png")
    with pytest.raises(InputError, match=r"2 images have .* in common") as error:
        write_folder_table(folder, tmp_path / "other.csv")
    assert error.value.problems[0].startswith("P/A01_1_DNA.png")


def test_a_pattern_of_ones_own(tmp_path):
    folder = laid_out(tmp_path / "screen", "exp/plate-1/DNA/B_02+3.png", "exp/plate-1/x.png")
    pattern = r"(?P<plate>[^/]+)/(?P<channel>\w+)/(?P<well>[A-P]_\d\d)\+(?P<site>\d+)\.png"
    table, said = table_of(folder, f"^{pattern}")
    assert table.iloc[0].tolist()[:3] == ["plate-1", "B02", "3"]
    assert "taken from PATTERN=" in said and "no known layout has: 1" in said
    for wrong, what in (("(", "no regular expression"), (r"\w+\.png", "named groups")):
        with pytest.raises(InputError, match=what):
            find_images(folder, wrong)


def test_the_command_writes_a_new_file_alone(tmp_path, capsys):
    folder, out = laid_out(tmp_path / "screen", "P/B02_1_DNA.png"), tmp_path / "far" / "plates.csv"
    main(["table", "--screen", str(folder), "--out", str(out)])
    assert f"make check SCREEN={out} DATA={folder}" in capsys.readouterr().out
    assert pd.read_csv(out)["PathName_DNA"].tolist() == [str(folder / "P")]
    for wrong, what in (
        ((folder, out), "is there already"),
        ((folder, tmp_path / "plates"), r"OUT=FILE\.csv"),
        ((tmp_path / "no", tmp_path / "new.csv"), "is not a folder"),
        ((laid_out(tmp_path / "none", "a.txt"), tmp_path / "new.csv"), "no image whose plate"),
    ):
        with pytest.raises(SystemExit, match=what):
            main(["table", "--screen", str(wrong[0]), "--out", str(wrong[1])])
    assert not (tmp_path / "new.csv").exists()


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c SYSTEM "file:///etc/passwd">]><x>&a;&c;</x>',
        "<x><y></x>",
        "",
        "no xml",
    ],
)
def test_an_index_that_is_damaged_or_hostile(tmp_path, text):
    folder = laid_out(tmp_path / "screen", **{"Index.xml": text})
    with pytest.raises(InputError, match=r"Index\.xml"):
        read_xml(folder / "Index.xml")
    with pytest.raises(InputError, match=r"Index\.xml"):
        find_images(folder)


def test_an_index_names_nothing_outside_its_folder(tmp_path):
    laid_out(tmp_path, "secret.tif")
    images = [one_image(facts(1, 1, 1, True), url) for url in ("../../secret.tif",)]
    folder = laid_out(tmp_path / "a/screen", **{"Index.xml": harmony("x", "", images)})
    (image,) = find_images(folder).images
    assert image.path == "secret.tif" and not (folder / image.path).exists()


def test_names_that_no_table_can_hold_are_left_out_and_counted(tmp_path):
    folder = laid_out(tmp_path / "screen", "P/B02_1_DNA.png", "P/B03_1_D\rNA.png")
    (folder / "P" / os.fsdecode(b"B04_1_D\xffNA.png")).touch()
    table, said = table_of(folder)
    assert table["Metadata_Well"].tolist() == ["B02"] and "not UTF-8: 2" in said
    os.rename(folder, wrong := tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(InputError, match="UTF-8 text: rename it"):
        write_folder_table(wrong, tmp_path / "other.csv")
