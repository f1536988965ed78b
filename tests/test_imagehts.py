"""The imageHTS layout.

Twelve real wells and the real annotation of KiMorph, and conf files that are wrong.
"""

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from mcnn_core.errors import InputError
from mcnn_core.readers.imagehts import (
    KIMORPH_CHANNELS,
    KIMORPH_FIELD,
    read_annotation,
    read_conf,
    read_imagehts,
    read_wells,
)
from mcnn_core.readers.images import check_headers, read_field
from mcnn_core.readers.incomplete import fetched
from mcnn_core.screen import load_screen, save_screen, summary

IMAGECONF = {
    "SourceFilenamePattern": "source/P{plate}-{replicate}/Well-{row}0{col}/{channel}.jpeg",
    "PlateNames": "1",
    "ReplicateNames": "a, b",
    "RowNames": "A, B",
    "ColNames": "01, 02, 03",
    "ChannelNames": "Tritc, Hoechst",
    "Montage": "3, 2",
}
PLATECONF = (
    "Wells: 6\nPlates: 1\nPlate\tWell\tContent\n"
    "*\t*\tempty\n*\t[AB]01\tsample\n*\tA02\trluc\n1\tB*2\tubc\n"
)
ANNOTATION = (
    "PlateName\tPlate\tWell\tContent\tsiRNAID\tGeneID\tLocusID\tAccession\n"
    "P1\t1\tA01\tsample\tM-1\tAAK1\t22848\tNM_1\n"
    "P1\t1\tA02\tcontrol\tNA\tRLUC\tNA\tNA\n"
    "P1\t1\tA03\tNA\tNA\tNA\tNA\tNA\nP1\t1\tB01\tsample\tM-2\tAXL\t558\tNM_2\n"
    "P1\t1\tB02\tcontrol\tNA\tUBC\tNA\tNA\n"
)
SCREENLOG = "Plate\tReplicate\tWell\tFlag\tComment\n"


def refused(call, *arguments, **named) -> list[str]:
    with pytest.raises(InputError) as error:
        call(*arguments, **named)
    return [error.value.what, *error.value.problems]


@pytest.fixture
def folder(tmp_path):
    """Write a screen of 2 x 3 wells, 2 replicates, montages of fields; pixels count the fields.

    Montages have 2 rows x 3 columns of 8 x 16 pixels.
    """
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "imageconf.txt").write_text(
        "".join(f"{name}: {value}\n" for name, value in IMAGECONF.items())
    )
    for name, text in (
        ("plateconf", PLATECONF),
        ("annotation", ANNOTATION),
        ("screenlog", SCREENLOG),
    ):
        (conf / f"{name}.txt").write_text(text)
    montage = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 20, np.ones((8, 16), np.uint8))
    for replicate in "ab":
        for well in ("A001", "A002", "B001", "B002"):
            where = tmp_path / "source" / f"P1-{replicate}" / f"Well-{well}"
            where.mkdir(parents=True)
            for channel, more in (("Tritc", 0), ("Hoechst", 100)):
                Image.fromarray(montage + np.uint8(more)).save(
                    where / f"{channel}.jpeg", quality=100
                )
    return tmp_path


def edited(folder, name: str, old: str, new: str):
    path = folder / "conf" / f"{name}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return folder


# --------------------------------------------------------------------------- real wells


def test_the_twelve_real_wells(shared_data, capsys):
    screen = read_imagehts(shared_data / "kimorph", KIMORPH_FIELD)
    table = screen.table
    assert (screen.name, screen.channels, screen.simulated, len(table)) == (
        "KiMorph",
        ("Hoechst", "Tritc", "FITC"),
        False,
        12,
    )
    assert (
        set(table["Metadata_Plate"]) == {"PK-10B-pl1", "PK-11B-pl1"}
        and table["Metadata_Tile"].eq("0:510,0:672").all()
    )
    wells = (
        table.groupby(["Metadata_Compound", "Metadata_control_type"])["Metadata_Position"]
        .agg(lambda places: sorted(set(places)))
        .to_dict()
    )
    assert wells == {
        ("UBC", "poscon"): ["1 A03", "1 B03"],
        ("RLUC", "negcon"): ["1 C03", "1 D03"],
        ("AAK1", "trt"): ["1 A05"],
        ("PLK3", "trt"): ["1 B05"],
    }
    assert table["Metadata_Replicate"].value_counts().to_dict() == {1: 6, 2: 6}
    assert (
        table.set_index("Metadata_Compound").loc["AAK1", "Metadata_Entrez"].tolist()
        == ["22848"] * 2
    )
    assert check_headers(screen) == (510, 672)
    field = read_field(screen, 0)
    assert field.dtype == np.uint16 and field.shape == (510, 672, 3)
    np.testing.assert_array_equal(
        field[..., 1],
        np.array(Image.open(shared_data / "kimorph/images/PK-10B-pl1/Well-A003/Tritc.jpeg"))[
            :510, :672
        ],
    )
    assert check_headers(read_imagehts(shared_data / "kimorph")) == (510, 1024)
    assert summary(table)["n_negative_wells"] == 4 and fetched(screen)[1] == []


def test_the_real_wells_are_counted_with_those_left_out(shared_data):
    wells = read_wells(shared_data / "kimorph")
    assert wells["content"].value_counts().to_dict() == {
        "empty": 756,
        "ubc": 4,
        "rluc": 4,
        "sample": 4,
    }
    assert wells[wells["failed"]][["plate", "replicate", "well"]].to_numpy().tolist() == [
        [1, 1, "A04"]
    ]


def test_real_files_hold_a_field_and_half_of_the_next(shared_data):
    """The background steps at column 672 and nowhere else: that is where one field ends."""
    steps = np.zeros(1024)
    for path in (shared_data / "kimorph" / "images").glob("*/*/Tritc.jpeg"):
        image = np.array(Image.open(path)).astype(float)
        dark = np.percentile(image, 45)
        for edge in range(16, 1016, 8):  # JPEG blocks
            rows = image[:, edge - 8 : edge + 8]
            rows = rows[rows.max(axis=1) < dark]
            steps[edge] += rows[:, 8:].mean() - rows[:, :8].mean() if len(rows) > 20 else 0
    assert np.abs(steps).argmax() == KIMORPH_FIELD[1] and abs(steps[672]) > 2 * np.sort(
        np.abs(steps)
    )[-2] > 2 * abs(steps[512])


def test_the_real_annotation(shared_data):
    table = read_annotation(shared_data / "kimorph" / "kimorph_featureData.csv")
    controls = dict.fromkeys(
        ("ubc", "clspn", "trappc3", "rluc", "plk1", "kif11", "kif23", "casp1"), 12
    )
    assert table["content"].value_counts().to_dict() == {"sample": 779, "empty": 277, **controls}
    samples = table[table["content"] == "sample"]
    assert (
        samples["gene"].nunique() == 777
        and samples["entrez"].str.fullmatch(r"\d+").all()
        and samples["sirna"].str.startswith("M-").all()
    )
    assert table.groupby("plate").size().tolist() == [384] * 3
    both = read_imagehts(
        shared_data / "kimorph", annotation=shared_data / "kimorph" / "kimorph_featureData.csv"
    )
    pd.testing.assert_frame_equal(both.table, read_imagehts(shared_data / "kimorph").table)


# ------------------------------------------------------------------------------- reading


def test_a_montage_is_cut_into_fields_row_by_row(folder, tmp_path):
    screen = read_imagehts(folder)
    assert (
        screen.channels == ("Tritc", "Hoechst")
        and len(screen.table) == 2 * 4 * 6
        and check_headers(screen) == (8, 16)
    )
    assert screen.table["Metadata_Tile"][:6].tolist() == [
        "0:8,0:16",
        "0:8,16:32",
        "0:8,32:48",
        "8:16,0:16",
        "8:16,16:32",
        "8:16,32:48",
    ]
    assert screen.table["Metadata_Site"][:7].tolist() == [1, 2, 3, 4, 5, 6, 1]
    for row in range(12):
        np.testing.assert_allclose(
            read_field(screen, row).mean((0, 1)), [row % 6 * 20, row % 6 * 20 + 100], atol=1
        )
    save_screen(screen, tmp_path / "out")
    pd.testing.assert_frame_equal(load_screen(tmp_path / "out").table, screen.table)


def test_columns_are_those_of_every_screen(folder):
    row = read_imagehts(folder).table.iloc[0].to_dict()
    assert np.isnan(row.pop("Metadata_Concentration"))
    assert row == {
        "Metadata_Plate": "P1-a",
        "Metadata_Well": "A01",
        "Metadata_Site": 1,
        "Metadata_Compound": "AAK1",
        "Metadata_Treatment": "AAK1",
        "Metadata_MoA": "",
        "Metadata_Replicate": 1,
        "Metadata_Batch": "",
        "Metadata_control_type": "trt",
        "FileName_Tritc": "Tritc.jpeg",
        "PathName_Tritc": "source/P1-a/Well-A001",
        "FileName_Hoechst": "Hoechst.jpeg",
        "PathName_Hoechst": "source/P1-a/Well-A001",
        "Metadata_Gene": "AAK1",
        "Metadata_Entrez": "22848",
        "Metadata_siRNA": "M-1",
        "Metadata_Content": "sample",
        "Metadata_Position": "1 A01",
        "Metadata_Tile": "0:8,0:16",
    }


def test_tiffs_without_a_montage(folder):
    edited(edited(folder, "imageconf", "Montage: 3, 2\n", ""), "imageconf", ".jpeg", ".tif")
    for path in folder.glob("source/*/*/*.jpeg"):
        tifffile.imwrite(path.with_suffix(".tif"), np.array(Image.open(path)))
    screen = read_imagehts(folder)
    assert (
        "Metadata_Tile" not in screen.table
        and check_headers(screen) == (16, 48)
        and len(screen.table) == 8
    )
    assert (
        check_headers(read_imagehts(folder, field=(16, 20))) == (16, 20)
        and len(read_imagehts(folder, field=(16, 20)).table) == 16
    )


def test_failed_wells_are_left_out_in_their_replicate(folder):
    edited(folder, "screenlog", "Comment\n", "Comment\n1\t2\tA02\tNA\tfocus lost\n")
    table = read_imagehts(folder).table
    assert table[table["Metadata_Well"] == "A02"]["Metadata_Replicate"].unique().tolist() == [1]
    (folder / "conf" / "screenlog.txt").unlink()
    assert len(read_imagehts(folder).table) == 48


def test_the_last_rule_wins_and_controls_are_chosen(folder):
    edited(folder, "plateconf", "1\tB*2\tubc\n", "1\tB*2\tubc\n*\tB0[12]\tempty\n")
    assert set(read_imagehts(folder).table["Metadata_Well"]) == {"A01", "A02"}
    edited(folder, "plateconf", "*\tB0[12]\tempty\n", "")
    kinds = (
        read_imagehts(folder, negative=("UBC",))
        .table.drop_duplicates("Metadata_Compound")
        .set_index("Metadata_Compound")["Metadata_control_type"]
    )
    assert kinds.to_dict() == {"AAK1": "trt", "RLUC": "poscon", "AXL": "trt", "UBC": "negcon"}


def test_a_symbol_of_several_sirnas_does_not_merge_them(folder):
    edited(folder, "annotation", "M-2\tAXL\t558", "M-2\tUBC\t7316")
    assert set(read_imagehts(folder).table["Metadata_Compound"]) == {
        "AAK1",
        "RLUC",
        "UBC",
        "UBC (M-2)",
    }
    edited(folder, "annotation", "M-2\tUBC", "M-2\tAAK1")
    assert set(read_imagehts(folder).table["Metadata_Compound"]) == {
        "AAK1 (M-1)",
        "AAK1 (M-2)",
        "RLUC",
        "UBC",
    }


def test_a_flat_folder_gets_barcodes_of_plate_and_replicate(folder):
    edited(
        folder,
        "imageconf",
        "source/P{plate}-{replicate}/Well-{row}0{col}/{channel}.jpeg",
        "pics/{plate}{replicate}{row}{col}{channel}.jpeg",
    )
    (folder / "pics").mkdir()
    for path in folder.glob("source/*/*/*.jpeg"):
        path.rename(
            folder
            / "pics"
            / f"1{path.parts[-3][-1]}{path.parts[-2][5]}{path.parts[-2][7:]}{path.name}"
        )
    assert set(read_imagehts(folder).table["Metadata_Plate"]) == {"1-a", "1-b"}


def test_a_plate_that_is_not_there_is_left_to_fetched(folder):
    for path in folder.glob("source/P1-b/*/*.jpeg"):
        path.unlink()
    screen, absent = fetched(read_imagehts(folder))
    assert absent == ["P1-b"] and set(screen.table["Metadata_Plate"]) == {"P1-a"}
    for path in folder.glob("source/P1-a/*/*.jpeg"):
        path.unlink()
    assert "are absent" in refused(read_imagehts, folder)[0]


def test_conf_fields_are_split_at_commas(folder):
    assert read_conf(folder / "conf" / "imageconf.txt")["ColNames"] == ["01", "02", "03"]


@pytest.mark.parametrize("name", ["imageconf", "plateconf", "screenlog", "annotation"])
@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig"])
def test_conf_files_in_any_encoding(folder, name, encoding):
    expected = read_imagehts(folder).table
    edited(folder, "screenlog", "Comment\n", "Comment\n1\t1\tB03\tNA\tfür 5 µl\n")
    edited(folder, "annotation", "NM_1", "Müller")
    edited(folder, "imageconf", "Montage", "Author: Müller\nMontage")
    path = folder / "conf" / f"{name}.txt"
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    pd.testing.assert_frame_equal(read_imagehts(folder).table, expected)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("plateconf", "Plate\tWell\tContent", "plate\tWELL ID\twell_content"),
        ("plateconf", "A02\trluc", "a2\tRLUC"),
        ("plateconf", "*\tA02\trluc", "01\tA - 02\tNegative control"),
        ("imageconf", "ChannelNames", "channelnames"),
        ("imageconf", "source/P{plate}", "source\\P{plate}"),
        ("annotation", "Plate\tWell", "plate_number\tWell_Position"),
        ("annotation", "GeneID\tLocusID", "Gene Symbol\tEntrez Gene ID"),
        ("annotation", "1\tA01", "01\tR1C1"),
        ("annotation", "AAK1\t22848", "AAK1\t22848.0"),
        ("annotation", "AAK1\t22848", "AAK1\tLOC22848"),
        ("annotation", "P1\t1\tA03\tNA", "P1\t1\tA03\tempty"),
    ],
)
def test_other_spellings_of_the_conf_files(folder, name, old, new):
    expected = read_imagehts(folder).table.drop(columns="Metadata_Content")
    table = read_imagehts(edited(folder, name, old, new)).table
    assert set(table.pop("Metadata_Content")) <= {"sample", "ubc", "rluc", "negative control"}
    compound = expected.pop("Metadata_Compound"), table.pop("Metadata_Compound")
    assert (compound[0] == compound[1]).all()
    pd.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize(
    ("locus", "entrez", "counted"),
    [
        (text, "", "without Entrez id: 1, with several: 0 ('AAK1')")
        for text in ("NA", "", "withdrawn", "0")
    ]
    + [(f"1{sep}7", "1;7", "with several: 1 ('AAK1')") for sep in (";", "/", " /// ", ", ", "|")],
)
def test_genes_without_one_entrez_id_keep_their_wells(folder, capsys, locus, entrez, counted):
    table = read_imagehts(edited(folder, "annotation", "AAK1\t22848", f"AAK1\t{locus}")).table
    ids = table.set_index("Metadata_Compound")["Metadata_Entrez"]
    assert set(ids["AAK1"]) == {entrez} and set(ids["AXL"]) == {"558"}
    assert counted in capsys.readouterr().out


def test_symbols_that_a_spreadsheet_made_dates_of_are_named(folder, capsys):
    read_imagehts(edited(folder, "annotation", "AAK1\t22848", "1-Mar\t22848"))
    assert "look like dates that a spreadsheet has made of them: '1-Mar'" in capsys.readouterr().out


def test_spots_are_sites(folder):
    edited(folder, "imageconf", "{channel}.jpeg", "{channel}_{spot}.jpeg")
    edited(folder, "imageconf", "Montage: 3, 2", "SpotNames: b, a\nMontage: 3, 1")
    for path in folder.glob("source/*/*/*.jpeg"):
        for spot in "ab":
            Image.open(path).save(path.with_name(f"{path.stem}_{spot}.jpeg"))
    table = read_imagehts(folder).table
    assert table["Metadata_Site"][:7].tolist() == [1, 2, 3, 4, 5, 6, 1]
    names = table.set_index("Metadata_Site")["FileName_Tritc"]
    assert set(names[3]) == {"Tritc_b.jpeg"} and set(names[4]) == {"Tritc_a.jpeg"}
    assert not table.duplicated(["Metadata_Plate", "Metadata_Well", "Metadata_Site"]).any()


# ----------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("imageconf", "ChannelNames: Tritc, Hoechst\n", "", "field ChannelNames is missing"),
        (
            "imageconf",
            "P{plate}-{replicate}",
            "P{plate}",
            "ReplicateNames has 2 values and SourceFilenamePattern lacks {replicate}",
        ),
        ("imageconf", "P{plate}-", "P{plate}-{field}", "{field} is not one of"),
        ("imageconf", "P{plate}-", "P{plate}-{spot}", "field SpotNames is missing"),
        (
            "imageconf",
            "Montage: 3, 2",
            "SpotNames: 1, 2",
            "SpotNames has 2 values and SourceFilenamePattern lacks {spot}",
        ),
        ("imageconf", "A, B", "A, ?", "RowNames and ColNames: '?01' is not a well"),
        ("imageconf", "a, b", "a, a", "ReplicateNames: 'a' occurs twice"),
        (
            "imageconf",
            "3, 2",
            "3",
            "Montage: expected the columns and rows of fields, as in 2, 2, got '3'",
        ),
        (
            "imageconf",
            "Tritc, Hoechst",
            "Tritc, Hoe\x00chst",
            "has a character that no file name has",
        ),
        (
            "plateconf",
            "A02\trluc",
            "Q99\trluc",
            "plateconf.txt, line 6: plate '*', well 'Q99' is not a well of this screen",
        ),
        (
            "plateconf",
            "A02\trluc",
            "A02\tclspn",
            "expected a row with the Content rluc or neg; it has clspn, ubc: name the negative "
            'control, as in PARAMS="negative=clspn"',
        ),
        ("plateconf", "[AB]01", "[AB01", "line 5: '*', '[AB01' is not a wildcard"),
        (
            "plateconf",
            "*\t*\tempty\n",
            "",
            "no row says what is in 2 wells, such as plate 1, well A03",
        ),
        ("plateconf", "Wells: 6", "Wells: 384", "Wells: expected 6 as in imageconf.txt, got 384"),
        (
            "plateconf",
            "A02\trluc",
            "A02\trluc\tmore",
            "line 6: more cells than the 3 of the header",
        ),
        ("plateconf", "A02\trluc", "A02\t", "line 6: Content is empty"),
        ("plateconf", "\tContent", "\tKind", "column Content is missing"),
        (
            "screenlog",
            "Comment\n",
            "Comment\n1\t3\tA02\tNA\tx\n",
            "screenlog.txt, line 2: plate '1', replicate '3', well 'A02' is not a well",
        ),
        (
            "screenlog",
            "Comment\n",
            "Comment\n1\t1\tA02\tbad\tx\n",
            "expected Flag NA (the well failed), got 'bad'",
        ),
        (
            "annotation",
            "A01\tsample",
            "A1x\tsample",
            "annotation.txt, line 2: plate '1', well 'A1x' is not a plate and well",
        ),
        (
            "annotation",
            "B02\tcontrol",
            "C02\tcontrol",
            "line 6: plate 1, well C02 is not a well of this screen",
        ),
        ("annotation", "A03", "A02", "line 3: plate '1', well 'A02' occurs more than once"),
        (
            "annotation",
            "AAK1\t22848",
            "AAK1\tAAK1",
            "line 2: plate '1', well 'A01' has a LocusID that is no Entrez id",
        ),
        (
            "annotation",
            "AXL\t558",
            "NA\t558",
            "line 5: plate '1', well 'B01' is a sample without a gene",
        ),
        ("annotation", "M-2", "NA", "line 5: plate '1', well 'B01' is a sample without a siRNA"),
        (
            "annotation",
            "B01\tsample",
            "B01\tcontrol",
            "line 5: plate 1, well B01 is sample in plateconf.txt and axl here",
        ),
        (
            "annotation",
            "P1\t1\tA01\tsample\tM-1\tAAK1\t22848\tNM_1\n",
            "",
            "plate 1, well A01 is a sample in plateconf.txt and absent here",
        ),
        ("annotation", "LocusID", "Chromosome", "column LocusID is missing"),
    ],
)
def test_a_bad_conf_file_is_named(folder, name, old, new, said):
    assert any(
        said in problem for problem in refused(read_imagehts, edited(folder, name, old, new))
    )


def test_all_problems_of_the_conf_files_come_in_one_error(folder):
    edited(
        edited(folder, "plateconf", "A02\trluc", "A02\tclspn"),
        "annotation",
        "AAK1\t22848",
        "AAK1\tAAK1",
    )
    edited(folder, "screenlog", "Comment\n", "Comment\n2\t1\tA02\tNA\tx\n")
    problems = refused(read_imagehts, folder)
    assert len(problems) == 4 and "3 problems in the conf files" in problems[0]
    (folder / "conf" / "plateconf.txt").unlink()
    assert "plateconf.txt is not a readable text" in refused(read_imagehts, folder)[0]


def test_every_missing_channel_is_named(folder):
    for well in ("A001", "B002"):
        (folder / "source" / "P1-b" / f"Well-{well}" / "Hoechst.jpeg").unlink()
    problems = refused(read_imagehts, folder)
    assert len(problems) == 3 and all(
        "plate P1-b, well" in line and "channel Hoechst" in line and "does not exist" in line
        for line in problems[1:]
    )


def test_montages_must_divide_and_stay_inside(folder):
    assert (
        "cannot be cut into 2 rows and 5 columns"
        in refused(read_imagehts, edited(folder, "imageconf", "3, 2", "5, 2"))[0]
    )
    edited(folder, "imageconf", "Montage: 5, 2\n", "")
    assert (
        "expected at least one field of 99 x 99"
        in refused(read_imagehts, folder, field=(99, 99))[0]
    )
    edited(folder, "imageconf", "source/", "../")
    assert any("outside the screen's folder" in line for line in refused(read_imagehts, folder))


def test_a_montage_of_another_width_is_no_montage_of_these_fields(folder):
    path = folder / "source/P1-b/Well-B002/Tritc.jpeg"
    Image.fromarray(np.zeros((16, 64), np.uint8)).save(path)
    expected = "expected 16 x 48 pixels as in most files, of 2 x 3 fields, got 16 x 64"
    assert refused(read_imagehts, folder)[1:] == [f"{path}: {expected}"]


def test_channels_of_kimorph_are_put_in_our_order(shared_data):
    assert read_conf(shared_data / "kimorph" / "conf" / "imageconf.txt")["ChannelNames"] == [
        "Tritc",
        "FITC",
        "Hoechst",
    ]
    assert KIMORPH_CHANNELS == ("Hoechst", "Tritc", "FITC")
