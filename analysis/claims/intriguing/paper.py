"""Intriguing properties of quantization at scale as `kbit study` asks for it."""

from analysis.claims.claim import Claim, Exhibit
from analysis.claims.intriguing import figures
from analysis.claims.intriguing.axes import axis_claims
from analysis.claims.intriguing.blocks import blocks_exhibit, by_block, distributions
from analysis.claims.intriguing.control import control_exhibit
from analysis.claims.intriguing.growth import growth_claims, growth_exhibit
from analysis.claims.intriguing.looks import look_exhibits
from analysis.claims.intriguing.published import disagreements
from analysis.claims.intriguing.runs import read_ladder
from analysis.claims.intriguing.study_size import study_size
from analysis.claims.intriguing.tasks import task_exhibits
from analysis.claims.paper import Paper, Study


def claims(study: Study) -> list[Claim]:
    """Every claim that these results can test: none without models that a study trained."""
    ladder = read_ladder(study)
    return [*axis_claims(ladder), *growth_claims(ladder)]


def exhibits(study: Study) -> list[Exhibit]:
    ladder = read_ladder(study)
    return [
        *study_size(ladder),
        *growth_exhibit(ladder),
        *task_exhibits(study, ladder),
        *look_exhibits(ladder, study.results),
        *blocks_exhibit(study),
        *control_exhibit(study),
        disagreements(),
    ]


PAPER = Paper(
    name="intriguing",
    citation="Ahmadian et al. 2023, *Intriguing properties of quantization at scale*",
    title="What makes a model robust to quantization",
    folder="training-study",
    claims=claims,
    exhibits=exhibits,
    figures={
        "figure-02-variants": figures.by_variant,
        "figure-03-over-steps": figures.over_steps,
        "figure-04-distributions": distributions,
        "figure-10-blocks": by_block,
    },
)
