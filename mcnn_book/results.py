"""What the book shows and records of an analysis, beyond the tables that the analysis leaves."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mcnn_core.analysis.enrichment import Universe, count_enriched, enrich_clusters
from mcnn_core.analysis.response import CHOICES, NO_FIT, similarities
from mcnn_core.analysis.sirna import VARIANTS
from mcnn_core.screen import NOT_AVAILABLE, in_words


def agreement_of_choices(wells: pd.DataFrame) -> float | str:
    """Return the share of wells for which all `CHOICES` name the same most similar mechanism."""
    tables = [similarities(wells, choice) for choice in CHOICES]
    if tables[0].empty:
        return NOT_AVAILABLE
    nearest = pd.concat([like.dropna(how="all").idxmax(axis=1) for like in tables], axis=1)
    return float((nearest.nunique(axis=1) == 1).mean())


def unannotated_tops(wells: pd.DataFrame, like: pd.DataFrame, most: int = 40) -> pd.DataFrame:
    """Return the median similarities of compounds without annotation at their highest dose."""
    tested = wells[(wells["Metadata_control_type"] == "trt") & (wells["Metadata_Compound"] != "")]
    annotated = tested.loc[tested["Metadata_MoA"] != "", "Metadata_Compound"]
    rest = tested[~tested["Metadata_Compound"].isin(annotated)]
    highest = rest.groupby("Metadata_Compound")["Metadata_Concentration"].transform("max")
    top = rest[(rest["Metadata_Concentration"] == highest) | highest.isna()]
    return like.loc[top.index].groupby(top["Metadata_Treatment"].map(in_words)).median().head(most)


def potency_summary(potency: pd.DataFrame) -> dict[str, int]:
    """Count compounds, those with an EC50, and those without a response."""
    status = potency["status"]
    return {
        "n_compounds": len(potency),
        "n_fit": int((status == "fit").sum()),
        "n_flat": int((status == NO_FIT["flat"]).sum()),
    }


def control_grades(comparison: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of `mcnn_core.analysis.sirna.compare_controls` by key.

    A key is such as ``apart.handcrafted_whitened.low``;
    ``random`` is the paper's hold-out, ``apart`` the other variant; ``random.lead`` is the trained
    network's accuracy minus that of the best handcrafted row.
    """
    found: dict[str, float] = {}
    for variant, kind in zip(VARIANTS, ("random", "apart"), strict=True):
        part = comparison[comparison["variant"] == variant].set_index("method")
        part.index = part.index.str.replace(", ", "_")
        for column, end in {"accuracy": "", "low": ".low", "high": ".high"}.items():
            found |= {f"{kind}.{name}{end}": value for name, value in part[column].items()}
        rivals = part.loc[part.index.str.startswith("handcrafted"), "accuracy"]
        found[f"{kind}.lead"] = found[f"{kind}.trained"] - float(rivals.max())
    return found


def permuted(
    space: Universe,
    clusters: pd.Series,
    repeats: int = 20,
    seed: int = 0,
    fdr: float = 0.05,
    algorithms: Sequence[str] = ("classic", "elim"),
) -> pd.DataFrame:
    """Count clusters with an enriched term after dealing the genes to them at random.

    No term belongs to such clusters; about `fdr` of them should hold one nevertheless, or fewer.

    Returns
    -------
    DataFrame
        Indexed by algorithm, over all `repeats`: ``clusters``; ``any``, those with a term or more
        at `fdr`; ``share`` of them; ``limit``, `fdr` plus two binomial standard errors.
    """
    rng, counts = np.random.default_rng(seed), []
    for _ in range(repeats):
        dealt = pd.Series(rng.permutation(clusters.to_numpy()), clusters.index)
        counts.append(count_enriched(enrich_clusters(space, dealt, algorithms), dealt, fdr))
    total = sum(counts)[["clusters", "any"]]
    return total.assign(
        share=total["any"] / total["clusters"],
        limit=fdr + 2 * np.sqrt(fdr * (1 - fdr) / total["clusters"]),
    )
