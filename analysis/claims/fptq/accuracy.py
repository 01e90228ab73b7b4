"""FPTQ's claims on accuracy: W4A8 without loss, its parts, its calibration, GPTQ beside it."""

from collections.abc import Iterator

from analysis.claims.claim import JOINTLY, Claim, jointly, table
from analysis.claims.fptq.recipes import FULL, RANDOM, Measure, measures, versus
from analysis.claims.leads import COLUMNS, Lead, told
from analysis.claims.paper import Study

A_PERCENT = 0.01  # of accuracy: the paper's "mere 1 % precision gap"
NEGLIGIBLE = 0.1  # of what FPTQ costs against 16 bit
COMPONENTS = ("sq-w4a8-tensor", "smoothquant-w4a8", "sq-w4a8-fine", "fptq")  # table 10


def claims(study: Study) -> Iterator[Claim]:
    there = measures(study)
    for make in (_lossless, _as_w8a8, _components, _trained, _random, _with_gptq, _alpha):
        if there and (claim := make(study, there)):
            yield claim


def _within(study: Study, there: list[Measure], other: str) -> tuple[list, list] | None:
    """FPTQ against another recipe: rows, and a verdict for each accuracy."""
    rows, verdicts = [], []
    for measure in there:
        found = versus(measure, study, measure.of("fptq"), measure.of(other))
        if found is None:
            continue
        verdict = ""
        if measure.metric == "zero_shot":
            verdict = found.verdict(A_PERCENT)
            verdicts.append(verdict)
        rows.append([measure.name, *found.cells, verdict])
    return (rows, verdicts) if verdicts else None


def _lossless(study: Study, there: list[Measure]) -> Claim | None:
    found = _within(study, there, FULL)
    if found is None:
        return None
    rows, verdicts = found
    return Claim(
        "FPTQ's W4A8 is within one percent of 16 bit",
        "abstract, section 4.4, tables 3 and 4",
        "4-bit weights and 8-bit activations without fine-tuning, at a mere 1 % from the 16-bit "
        "model.",
        jointly(verdicts),
        "FPTQ's lead over 16 bit: " + "; ".join(f"{r[0]} {told(r[1:5])}" for r in rows),
        [
            f"The claim holds by an accuracy if the lead is above -{A_PERCENT:.0%}. {JOINTLY} A "
            "loss has no such bound: it is shown, not judged.",
            table(["By", *COLUMNS, "Claim"], rows),
        ],
    )


def _as_w8a8(study: Study, there: list[Measure]) -> Claim | None:
    found = _within(study, there, "smoothquant-w8a8")
    if found is None:
        return None
    rows, verdicts = found
    return Claim(
        "FPTQ's W4A8 is within one percent of SmoothQuant's W8A8",
        "section 4.4, table 4",
        "With half the bits for weights, FPTQ is within 1 % of SmoothQuant at 8 bit for most "
        "models.",
        jointly(verdicts),
        "FPTQ's lead over SmoothQuant W8A8: " + "; ".join(f"{r[0]} {told(r[1:5])}" for r in rows),
        [
            "Judged as the claim above.",
            table(["By", *COLUMNS, "Claim"], rows),
        ],
    )


def _components(study: Study, there: list[Measure]) -> Claim | None:
    """Table 10's order, judged by the first measure that all four rows have."""
    pairs = list(zip(COMPONENTS[1:], COMPONENTS, strict=False))
    rows, judged = [], None
    for measure in there:
        duels = [versus(measure, study, measure.of(a), measure.of(b)) for a, b in pairs]
        known = [found for found in duels if found is not None]
        if len(known) < len(pairs):
            continue
        verdicts = [found.verdict() for found in known]
        judged = judged or (measure, verdicts)
        for (better, worse), found, verdict in zip(pairs, known, verdicts, strict=True):
            rows.append([f"{better} over {worse}", measure.name, *found.cells, verdict])
    if judged is None:
        return None
    measure, verdicts = judged
    return Claim(
        "Every part of FPTQ helps",
        "appendix A.4, table 10",
        "A scale a tensor collapses; scales a token, then fine-grained weights with a static scale "
        "everywhere but before the down projection, then logarithmic equalization each improve it.",
        jointly(verdicts),
        f"by {measure.name}: " + "; ".join(f"{r[0]} {told(r[2:6])}" for r in rows[: len(pairs)]),
        [
            f"Judged by {measure.name}: a step holds if its lead is above 0. {JOINTLY}",
            table(["Step", "By", *COLUMNS, "Claim"], rows, text=2),
        ],
    )


def _trained(study: Study, there: list[Measure]) -> Claim | None:
    both = [versus(m, study, m.of("fptq"), m.trained) for m in there]
    return _first_judges(
        [lead for lead in both if lead is not None],
        "FPTQ beats LLM-QAT, which is trained",
        "section 4.5, table 5",
        "Without any training FPTQ yields better results than quantization-aware training.",
        "FPTQ over LLM-QAT",
    )


def _first_judges(
    found: list[Lead], title: str, source: str, claim: str, whose: str
) -> Claim | None:
    """A claim that one recipe is ahead of another, judged by the first measure that has both."""
    if not found:
        return None
    judge, name = found[0], found[0].name
    return Claim(
        title,
        source,
        claim,
        judge.verdict(),
        f"lead of {whose}, by {name}: {told(judge.cells)}",
        [
            f"Judged by {name}: the claim holds if the lead is above 0.",
            table(["By", *COLUMNS], [[lead.name, *lead.cells] for lead in found]),
        ],
    )


def _random(study: Study, there: list[Measure]) -> Claim | None:
    rows, verdicts, by = [], [], ""
    for measure in there:
        cost = versus(measure, study, measure.of("fptq"), measure.of(FULL))
        for recipe in ("smoothquant-w8a8", "fptq"):
            found = versus(measure, study, measure.of(recipe, RANDOM), measure.of(recipe))
            if found is None or cost is None:
                continue
            margin = A_PERCENT if measure.metric == "zero_shot" else NEGLIGIBLE * abs(cost.value)
            verdict = found.verdict(margin)
            by = by or measure.name
            verdicts += [verdict] if measure.name == by else []
            rows.append([recipe, measure.name, *found.cells, verdict])
    if not rows:
        return None
    return Claim(
        "Random tokens calibrate as well as text",
        "section 5.1, table 6",
        "Randomly generated tokens in place of text give results as good, often better: no data is "
        "needed.",
        jointly(verdicts),
        f"lead of random tokens, by {by}: "
        + "; ".join(f"{r[0]} {told(r[2:6])}" for r in rows if r[1] == by),
        [
            f"As well is a loss below {A_PERCENT:.0%} of accuracy, or below "
            f"{NEGLIGIBLE:.0%} of what FPTQ loses against 16 bit in nats. Judged by {by}. "
            f"{JOINTLY}",
            table(["Recipe", "By", *COLUMNS, "Claim"], rows, text=2),
        ],
    )


def _with_gptq(study: Study, there: list[Measure]) -> Claim | None:
    both = [versus(m, study, m.of("fptq"), m.of("fptq-gptq")) for m in there]
    return _first_judges(
        [lead for lead in both if lead is not None],
        "GPTQ on top of FPTQ does not help",
        "section 5.2, table 7",
        "Rounding the equalized weights by GPTQ generally makes the model worse.",
        "FPTQ over FPTQ with GPTQ",
    )


def _alpha(study: Study, there: list[Measure]) -> Claim | None:
    rows, verdicts, by = [], [], ""
    for measure in there:
        for alpha in measure.alphas:
            found = versus(measure, study, measure.of("fptq"), measure.of_alpha(alpha))
            if found is None:
                continue
            by = by or measure.name
            verdict = found.verdict()
            verdicts += [verdict] if measure.name == by else []
            rows.append([f"{alpha:g}", measure.name, *found.cells, verdict])
    if not rows:
        return None
    return Claim(
        "Alpha 1 is the best suppression",
        "appendix A.2",
        "For the majority of models alpha is 1: no other exponent of the logarithm is better.",
        jointly(verdicts),
        f"lead of alpha 1, by {by}: "
        + "; ".join(f"over {r[0]} {told(r[2:6])}" for r in rows if r[1] == by),
        [
            f"Judged by {by}: holds if alpha 1 is ahead of each other one. {JOINTLY}",
            table(["Other alpha", "By", *COLUMNS, "Claim"], rows, text=2),
        ],
    )
