"""Small inputs as labs have them, each checked whole; they lie beside the shared data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from mcnn_book.check.examine import Report, check
from mcnn_core.analysis.enrichment import universe
from mcnn_core.errors import InputError
from mcnn_core.readers.imagehts import NEGATIVE, examine_imagehts
from mcnn_core.readers.loaddata import examine_loaddata
from mcnn_core.readers.ontology import load_go
from mcnn_core.readers.reading import PLAIN, Reading


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of the inputs, or a skip that says it is absent."""
    data = Path(os.environ.get("MCNN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    folder = data.with_name("cases")
    if not folder.is_dir():
        pytest.skip(f"shared cases absent: {folder}")
    return folder


def table_of(path: Path):
    return examine_loaddata(path)[0].table


def says(path: Path, column: str) -> set:
    """Return the different values of a column."""
    return set(table_of(path)[f"Metadata_{column}"])


def ready(path: Path, report: Report) -> bool:
    return report.counts()["error"] == 0 and len(table_of(path)) > 0


THREE = {"DMSO", "cpd A", "cpd B", "cpd C"}
TABLES: dict[str, Callable[[Path, Report], bool]] = {
    "03_na_from_r/plates.csv": lambda path, report: (
        says(path, "MoA") == {"", "Eg5 inhibitor"}
        and says(path, "Batch") == {""}
        and report.by_code()["values-missing"] == 1
    ),
    "05_broad_column_names/load_data.csv": lambda path, report: (
        says(path, "Treatment") == {"DMSO", "cpd A | 5", "cpd B | 5", "cpd C | 5"}
        and "tubulin inhibitor" in says(path, "MoA")
        and any("Metadata_moa taken as Metadata_MoA" in one for one in report.problems)
    ),
    "06_dose_column_with_unit/plates.csv": lambda path, _: len(says(path, "Treatment")) == 7,
    "07_excel_semicolon/plates.csv": lambda path, _: "cpd A | 0.3" in says(path, "Treatment"),
    "09_load_data_csv_gz/load_data.csv.gz": lambda path, report: report.name == "load_data",
    "10_load_data_parquet/load_data.parquet": lambda path, report: report.name == "load_data",
    "17_jump_control_types/plates.csv": lambda path, _: (
        says(path, "control_type") == {"negcon", "poscon", "trt"}
    ),
    "19_doses_with_units/plates.csv": lambda path, _: (
        says(path, "Treatment") == {"DMSO", "cpd A | 10", "cpd B | 0.3", "cpd C | 1"}
    ),
    "21_deepprofiler_index/index.csv": lambda path, report: (
        report.facts["channels"] == "DNA, Actin" and "cpd A | 1" in says(path, "Treatment")
    ),
    "22_sites_with_letters/plates.csv": lambda path, _: says(path, "Site") == {1, 2},
    "23_wells_incell_spaces/plates.csv": lambda path, _: (
        says(path, "Well") == {"B02", "B03", "C02", "C03"}
    ),
    "24_row_and_col/load_data.csv": lambda path, _: (
        says(path, "Well") == {"B02", "B03", "C02", "C03"}
    ),
    "29_utf16_excel_text/plates.csv": lambda path, _: says(path, "Compound") == THREE,
    "31_trailing_commas/plates.csv": lambda path, _: says(path, "Compound") == THREE,
    "36_dmso_with_percent/plates.csv": lambda path, report: (
        says(path, "Treatment") == THREE and report.by_code()["values-read"] == 1
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_as_it_means(cases, name):
    path = cases / name
    report = check(str(path))
    assert ready(path, report) and TABLES[name](path, report), report.frame()["message"].tolist()


def test_one_fault_is_one_error(cases):
    report = check(str(cases / "35_empty_file_name" / "plates.csv"))
    errors = report.frame().query("severity == 'error'")
    assert list(errors["code"]) == ["cell-empty"] and list(errors["row"]) == [7]


def test_the_table_of_a_case_is_no_screen_by_itself(cases):
    with pytest.raises(InputError, match="not a readable"):
        examine_loaddata(cases / "35_empty_file_name" / "images" / "P1_00_DNA.tif")


def test_genes_are_found_by_what_labs_have(cases, tmp_path):
    def go(case, annotation, column="symbol"):
        folder = cases / case
        return load_go(folder / "go.obo", folder / annotation, tmp_path, column=column)

    replaced = go("38_go_obsolete_term", "go.gaf").annotation.set_index("gene")["term"]
    assert replaced["GEN99"] == "GO:0000003"
    assert len(go("40_gene2go", "gene2go", "id").annotation) == 12
    floats = (cases / "40_gene2go" / "gene2go").read_text().replace("\t100\t", "\t100.0\t")
    (tmp_path / "gene2go").write_bytes(f"# gemäß NCBI\n{floats}".encode("cp1252"))
    read = load_go(cases / "40_gene2go" / "go.obo", tmp_path / "gene2go", tmp_path, column="id")
    assert "100" in set(read.annotation["gene"]) and len(read.annotation) == 12
    names = (cases / "41_gene_symbol_alias" / "genes.txt").read_text().split()
    space = universe(go("41_gene_symbol_alias", "go.gaf"), names, node_size=1)
    assert len(space.genes) == 4 and space.unmapped.empty
    assert space.renamed.to_dict() == {"ALIAS1": "GEN11", "gen4": "GEN4"}


@pytest.mark.parametrize(
    ("case", "rows", "reading"),
    [
        ("39_gene_without_entrez", 8, PLAIN),
        ("42_conf_latin1", 7, PLAIN),
        ("43_conf_other_negative_control", 8, Reading.from_text(negative="scrambled")),
        ("44_conf_spots", 8, PLAIN),
    ],
)
def test_conf_files_are_read_as_they_mean(cases, case, rows, reading):
    screen, problems = examine_imagehts(cases / case, negative=reading.negative or NEGATIVE)
    assert len(screen.table) == rows and set(screen.table["Metadata_Site"]) == {1}
    assert set(screen.table["Metadata_control_type"]) == {"negcon", "trt"}
    assert not [one for one in problems if one.severity == "error"]
    codes = check("kimorph", str(cases / case), reading=reading).by_code()
    assert not {"layout-wrong", "file-missing", "file-unsuitable"} & {*codes}


def test_the_error_for_a_control_of_another_name_says_how_to_name_it(cases):
    with pytest.raises(InputError, match='PARAMS="negative=scrambled"'):
        examine_imagehts(cases / "43_conf_other_negative_control")
