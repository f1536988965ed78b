"""The crops of BBBC021 as a screen: every pixel and count arrives, and the pipeline takes it."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from real_cells import CHANNELS, MARGIN, SIDE, lay_out, read_crops, table

from mcnn_core.errors import InputError
from mcnn_core.preprocessing import preprocess
from mcnn_core.readers.loaddata import read_loaddata

ROWS = slice(0, 120)


@pytest.fixture(scope="module")
def crops_and_index(shared_data):
    return read_crops(shared_data)


@pytest.fixture(scope="module")
def laid_out(shared_data, tmp_path_factory):
    return lay_out(shared_data, tmp_path_factory.mktemp("cells") / "screen", ROWS)


def test_counts_are_those_of_the_real_screen(crops_and_index):
    crops, index = crops_and_index
    fields = table(index)
    keys = ["Metadata_Compound", "Metadata_Concentration"]
    annotated = fields[fields["Metadata_MoA"] != ""]
    assert crops.shape == (1996, 68, 68, 3) and crops.dtype == np.uint16
    assert len(annotated[keys].drop_duplicates()) == 103
    assert (
        annotated["Metadata_Compound"].nunique() == 38 and annotated["Metadata_MoA"].nunique() == 12
    )
    assert fields["Metadata_Plate"].nunique() == 55
    assert len(fields[["Metadata_Plate", "Metadata_Well"]].drop_duplicates()) == 543
    assert not fields.duplicated(["Metadata_Plate", "Metadata_Well", "Metadata_Site"]).any()
    assert fields["Metadata_control_type"].value_counts().to_dict() == {
        "trt": 1167,
        "poscon": 702,
        "negcon": 127,
    }


def test_leaving_positive_controls_out_keeps_each_treatment_in_one_week(crops_and_index):
    fields = table(crops_and_index[1]).query("Metadata_control_type == 'trt'")
    groups = fields.groupby(["Metadata_Compound", "Metadata_Concentration"])
    assert len(groups) == 103
    assert groups.size().min() == 2 and groups["Metadata_Batch"].nunique().max() == 1


def test_rows_agree_with_the_image_table(crops_and_index, shared_data):
    index = crops_and_index[1]
    images = pd.read_csv(
        shared_data / "bbbc021" / "metadata" / "BBBC021_v1_image.csv.gz", dtype=str
    )
    images.index = images["Image_FileName_DAPI"].str.removesuffix(".tif")
    real = images.loc[index["stem"]]
    for ours, theirs in [
        ("Plate", "Image_Metadata_Plate_DAPI"),
        ("Well", "Image_Metadata_Well_DAPI"),
        ("Compound", "Image_Metadata_Compound"),
        ("Replicate", "Replicate"),
    ]:
        assert index[ours].to_list() == real[theirs].to_list()
    dose = index["Concentration"].astype(float).to_numpy()
    np.testing.assert_allclose(dose, real["Image_Metadata_Concentration"].astype(float), rtol=1e-6)


def test_pixels_are_the_centre_of_the_crop(crops_and_index, laid_out):
    crops, _ = crops_and_index
    fields = pd.read_csv(laid_out)
    inside = slice(MARGIN, MARGIN + SIDE)
    for _, row in fields.iterrows():
        for number, channel in enumerate(CHANNELS):
            pixels = tifffile.imread(
                laid_out.parent / row[f"PathName_{channel}"] / row[f"FileName_{channel}"]
            )
            np.testing.assert_array_equal(
                pixels, crops[row["Metadata_Crop"], inside, inside, number]
            )


def test_the_pipeline_reads_and_preprocesses_it(laid_out, tmp_path):
    screen = read_loaddata(laid_out)
    assert screen.channels == CHANNELS and len(screen.table) == ROWS.stop
    store = preprocess(screen, tmp_path / "store", workers=1, progress=False)
    assert store.pixels.shape == (ROWS.stop, SIDE, SIDE, len(CHANNELS))
    assert (store.pixels.reshape(ROWS.stop, -1, 3).std(1) > 0).all()


def test_an_existing_folder_is_left_alone(shared_data, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="there already"):
        lay_out(shared_data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
