"""FPTQ as `kbit study --paper fptq` asks for it."""

from analysis.claims.claim import Claim, Exhibit
from analysis.claims.fptq import accuracy, answer, figures, planted, ranges, tables
from analysis.claims.leads import MULTIPLICITY, RULE
from analysis.claims.paper import Paper, Study


def _rounds_activations(study: Study) -> bool:
    return bool((~study.results["activations"].astype(str).isin(["16", "16.0"])).any())


def claims(study: Study) -> list[Claim]:
    """Every claim that these results can test: none where no activation was rounded."""
    if not _rounds_activations(study):
        return []
    return [claim for part in (accuracy, planted, ranges) for claim in part.claims(study)]


def exhibits(study: Study) -> list[Exhibit]:
    if not _rounds_activations(study):
        return []
    return [made for part in (answer, tables, ranges) for made in part.exhibits(study)]


PAPER = Paper(
    name="fptq",
    citation="Li et al. 2023, *FPTQ: fine-grained post-training quantization for large language "
    "models*",
    title="The study of weights and activations",
    folder="fptq-study",
    claims=claims,
    figures={
        "figure-01-equalization": figures.equalization_figure,
        "figures-03-05-to-10-ranges": figures.kinds_figure,
    },
    exhibits=exhibits,
    rule=f"{RULE} {MULTIPLICITY}",
)
