"""What a screen names, and the words that pages use for it."""

import pandas as pd

from mcnn_book.figures import colour_words
from mcnn_book.sheets import EXAMPLES, _example_column
from mcnn_core.analysis.mechanisms import protocols
from mcnn_core.profiles import NORMALISATIONS, possible_normalisations
from mcnn_core.screen import NOT_AVAILABLE, Screen, summary

#: What colours the fields of a scatter, the first that a screen names, and what a caption says of
#: it.
COLOUR_COLUMNS = {
    "Metadata_MoA": "the mechanism, which the network was never told",
    "Metadata_Treatment": "the treatment",
    "Metadata_Plate": "the plate",
}


def example_kind(table: pd.DataFrame) -> str:
    """Say of what `examples` holds one field each: "treatment, and one of the negative control"."""
    control = (table["Metadata_control_type"] == "negcon").any()
    return EXAMPLES[_example_column(table)] + (
        ", and one of the negative control" if control else ""
    )


def colour_column(table: pd.DataFrame) -> str:
    """Return the column of `COLOUR_COLUMNS` that tells the treatments of a screen apart best."""
    tested = table[table["Metadata_control_type"] == "trt"]
    return next(name for name in COLOUR_COLUMNS if (tested[name] != "").any())


def beside_paper(screen: Screen) -> str:
    """Say in a sentence how the numbers of a screen stand to the paper's."""
    if screen.simulated:
        return f"This build is of {screen.name}."
    kind = (
        "one of the paper's own screens"
        if screen.name in ("BBBC021", "KiMorph")
        else "another screen, so its numbers compare with nothing in the paper"
    )
    return f"This build is of {screen.name}, {kind}."


def about(screen: Screen) -> dict[str, bool | int | str]:
    """Return what pages say of a screen wherever it is named.

    Returns
    -------
    dict
        ``name``, ``simulated``, ``channels``, their ``colours`` in contact sheets, ``example``
        (`example_kind`), ``beside_paper``, and what `mcnn_core.screen.summary`, `facts` and
        `nesting` count and find in its table.
    """
    return {
        "name": screen.name,
        "simulated": screen.simulated,
        "channels": ", ".join(screen.channels),
        "colours": colour_words(screen.channels),
        "example": example_kind(screen.table),
        "beside_paper": beside_paper(screen),
        **summary(screen.table),
        **facts(screen.table),
        **nesting(screen.table),
    }


def known_treatments(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per named treatment of a screen.

    The rows are as `mcnn_core.profiles.treatment_profiles` describes them, without features.
    """
    tested = table[(table["Metadata_control_type"] == "trt") & (table["Metadata_Treatment"] != "")]
    groups = tested.groupby("Metadata_Treatment")
    return (
        groups.first()
        .assign(
            Metadata_Batch=groups["Metadata_Batch"].agg(lambda batch: ";".join(sorted(set(batch))))
        )
        .reset_index()
    )


def facts(table: pd.DataFrame) -> dict[str, bool]:
    """Say what a screen names.

    Pages show or leave out their parts by these (tags such as ``if:screen.has_doses``).

    Returns
    -------
    dict
        ``has_compounds``; ``has_doses``: of compounds, above 0; ``has_mechanisms``;
        ``has_batches``: two or more; ``has_any_controls``: negative ones; ``has_controls``: on
        every plate, two fields or more, as centring and whitening need.
    """
    tested, negative = (table[table["Metadata_control_type"] == kind] for kind in ("trt", "negcon"))
    named = tested["Metadata_Compound"] != ""
    return {
        "has_compounds": bool(named.any()),
        "has_doses": bool((named & (tested["Metadata_Concentration"] > 0)).any()),
        "has_mechanisms": bool((tested["Metadata_MoA"] != "").any()),
        "has_batches": table["Metadata_Batch"].replace("", pd.NA).nunique() > 1,
        "has_any_controls": len(negative) > 0,
        "has_controls": set(possible_normalisations(table)) == set(NORMALISATIONS),
    }


#: Why a question cannot be asked of a screen, and which columns would help.
NO_CONTROLS = (
    "not every plate has a negative control (Metadata_control_type negcon, or the compound DMSO)"
)
SHARED = "no mechanism has two compounds (Metadata_MoA, Metadata_Compound)"
BATCHES = (
    "no treatment has a compound of its mechanism in another batch (Metadata_MoA, Metadata_Batch)"
)
NOTHING_KNOWN = "there is nothing known to compare with (Metadata_MoA, Metadata_control_type)"
DOSES = "no compound has three concentrations (Metadata_Compound, Metadata_Concentration)"


def answers(table: pd.DataFrame) -> pd.DataFrame:
    """Return what can be asked of a screen.

    The columns are ``question``, ``chapter``, ``answer`` ("yes" or "no") and ``why`` not, with the
    columns that would help.
    """
    has, treatments = facts(table), known_treatments(table)
    asked = protocols(treatments)
    dosed = treatments[treatments["Metadata_Concentration"] > 0]
    doses = dosed.groupby("Metadata_Compound")["Metadata_Concentration"].nunique()
    no_controls = "" if has["has_controls"] else NO_CONTROLS
    alone = "" if "NSC" in asked else SHARED
    mechanisms = treatments["Metadata_MoA"]
    known = has["has_mechanisms"] or has["has_any_controls"]
    several = mechanisms.replace("", pd.NA).nunique() > 1
    rows = [
        ("Which treatments or wells look alike?", "7, 11", "" if len(table) else "no field"),
        ("Is the nearest neighbour's mechanism the right one (NSC)?", "8", alone),
        (
            "The same, neighbours of the same batch forbidden (NSCB)?",
            "8",
            "" if "NSCB" in asked else BATCHES,
        ),
        ("What does each well resemble?", "9", "" if known else NOTHING_KNOWN),
        (
            "At which concentration does a compound act?",
            "10",
            no_controls or ("" if (doses >= 3).any() else DOSES),
        ),
        (
            "Which phenotypes has no one annotated?",
            "12",
            no_controls or ("" if (mechanisms == "").any() else "every treatment is annotated"),
        ),
        (
            "Which annotations do the images contradict?",
            "12",
            alone or ("" if several else "there is one mechanism alone"),
        ),
    ]
    return pd.DataFrame(
        [(question, chapter, "no" if why else "yes", why) for question, chapter, why in rows],
        columns=["question", "chapter", "answer", "why"],
    )


def nesting(table: pd.DataFrame) -> dict[str, int | str]:
    """Count the compounds of one batch and of several.

    Both are "not available" where a screen names no batches or compounds.
    """
    known = table[(table["Metadata_Batch"] != "") & (table["Metadata_Compound"] != "")]
    batches = known.groupby("Metadata_Compound")["Metadata_Batch"].nunique()
    counts: dict[str, int | str] = {
        "compounds_in_one_batch": int((batches == 1).sum()),
        "compounds_in_more": int((batches > 1).sum()),
    }
    return counts if len(known) else dict.fromkeys(counts, NOT_AVAILABLE)
