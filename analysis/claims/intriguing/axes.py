"""The axes of Figures 2 and 3: does a choice of the recipe make models easier to quantize?"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from analysis.claims.claim import (
    UNRESOLVED,
    Block,
    Claim,
    between,
    table,
)
from analysis.claims.intriguing.matched import at_matched_loss, at_the_end
from analysis.claims.intriguing.runs import DOSES, JUDGED, Ladder
from analysis.claims.intriguing.seeds import HOW, LEAST_SEEDS, SeedDifference, over_sizes

SAME = "cannot be tested here"


@dataclass(frozen=True)
class Axis:
    """`robust` is claimed to be damaged less than `fragile`: patterns of variants' names."""

    title: str
    source: str
    claim: str
    robust: str
    fragile: str
    published: str


_DECAY = "more weight decay, less damage"
AXES = (
    Axis(
        "Weight decay 0.1 against 0.001",
        "section 4, Figure 2a",
        "Without clipping, " + _DECAY + ".",
        "clip_norm=none",
        "weight_decay=0.001 clip_norm=none",
        "W8A8 -0.09 % against -1.36 % at 6B, one run each",
    ),
    Axis(
        "Weight decay 0.1 against 0.01",
        "section 4, Figure 2a",
        "Without clipping, " + _DECAY + ".",
        "clip_norm=none",
        "weight_decay=0.01 clip_norm=none",
        "W8A8 -0.09 % against -0.26 % at 6B",
    ),
    Axis(
        "Weight decay 1.0 against 0.001",
        "ours: Figure 2a by a dose that is felt in this many steps",
        "With clipping at 1.0, " + _DECAY + ".",
        "weight_decay=1",
        "weight_decay=0.001",
        "not measured there",
    ),
    Axis(
        "Weight decay 0.3 against 0.001",
        "ours: Figure 2a by a dose that is felt in this many steps",
        "With clipping at 1.0, " + _DECAY + ".",
        "weight_decay=0.3",
        "weight_decay=0.001",
        "not measured there",
    ),
    Axis(
        "No dropout against 0.1",
        "section 4, Figure 2b",
        "More dropout, more damage.",
        "control",
        "dropout=0.1",
        "W8A8 +0.32 % against +0.31 % at 6B",
    ),
    Axis(
        "No dropout against 0.4",
        "section 4, Figure 2b",
        "More dropout, more damage.",
        "control",
        "dropout=0.4",
        "W8A8 +0.32 % against -0.27 % at 6B",
    ),
    Axis(
        "No dropout against 0.8",
        "section 4, Figure 2b",
        "More dropout, more damage.",
        "control",
        "dropout=0.8",
        "W8A8 +0.32 % against -0.57 % at 6B",
    ),
    Axis(
        "Clipping at 1.0 against none",
        "section 4, Figure 2c",
        "At weight decay 0.001, clipping gradients makes for less damage.",
        "weight_decay=0.001",
        "weight_decay=0.001 clip_norm=none",
        "W8A8 +0.41 % against -1.36 % at 6B",
    ),
    Axis(
        "Clipping at half the run's median norm against none",
        "ours: Figure 2c by a threshold that clips",
        "At weight decay 0.1, clipping gradients makes for less damage.",
        "clip_norm=0.5median",
        "clip_norm=none",
        "not measured there",
    ),
    Axis(
        "Clipping at the run's median norm against none",
        "ours: Figure 2c by a threshold that clips",
        "At weight decay 0.1, clipping gradients makes for less damage.",
        "clip_norm=1median",
        "clip_norm=none",
        "not measured there",
    ),
    Axis(
        "bf16 against fp16",
        "section 4, Figure 3",
        "Training in bf16 makes for less damage than in fp16.",
        "control",
        "dtype=fp16",
        "W8A8 +0.32 % against -0.76 % at 6B",
    ),
    Axis(
        "bf16 against fp16 at weight decay 0.01",
        "section 4, Figure 3",
        "The same at weight decay 0.01, where the difference is larger.",
        "weight_decay=0.01",
        "weight_decay=0.01 dtype=fp16",
        "W8A8 +0.77 % against -1.73 % at 6B",
    ),
    Axis(
        "A learning rate 4 times as high",
        "ours",
        "The control is damaged less than a model trained at 4 times its learning rate.",
        "control",
        "learning_rate=*",
        "not measured there",
    ),
    Axis(
        "A constant learning rate against a cosine",
        "ours; Catalan-Tatjer et al. 2025 find that decay of the rate makes most of the damage",
        "A model whose learning rate never decays is damaged less than the control.",
        "schedule=constant",
        "control",
        "not measured there",
    ),
)


def axis_claims(ladder: Ladder) -> Iterator[Claim]:
    """A claim an axis of which both variants have been scored."""
    for axis in AXES:
        pair = _variant(ladder, axis.robust), _variant(ladder, axis.fragile)
        if pair[0] is not None and pair[1] is not None:
            yield _claim(axis, ladder, (pair[0], pair[1]))


def _variant(ladder: Ladder, pattern: str) -> str | None:
    return next((name for name in ladder.variants if fnmatchcase(name, pattern)), None)


def _claim(axis: Axis, ladder: Ladder, pair: tuple[str, str]) -> Claim:
    rows, judged, evidence = [], [], []
    for size in ladder.sizes:
        for dose in DOSES:
            ways = {"the end": at_the_end(ladder, size, pair, dose)}
            if dose in (*JUDGED, "A8 static"):
                ways["matched"] = at_matched_loss(ladder, size, pair, dose)
            rows += [[size, dose, way, *_cells(found)] for way, found in ways.items() if found.n]
            if dose in JUDGED:
                matched = ways["matched"]
                n = ways["the end"].n
                judged.append((n, _judged(matched, n)))
                if n or len(ladder.sizes) == 1:
                    evidence.append(f"{size} {dose} {_told(matched, n)}")
    same = ladder.same_models(*pair)
    body: list[Block] = [
        f"The paper: {axis.published}. Here: `{pair[0]}` against `{pair[1]}`, nats a token that "
        "quantization adds; positive: the second is damaged more.",
        table(
            ["Size", "Dose", "At", "Seeds", "First", "Second", "Difference", "Over seeds",
             "Over items", "Power", "Verdict"],
            rows,
            text=3,
        ),
        f"The verdict is that of {' and '.join(JUDGED)} at matched cross-entropy, by the rules "
        f"under “{HOW}”.",
    ]  # fmt: skip
    if same:
        told = "both variants ended in the very same weights: the choice never acted"
        return Claim(axis.title, axis.source, axis.claim, SAME, told, body)
    verdict = over_sizes(judged)
    return Claim(axis.title, axis.source, axis.claim, verdict, "; ".join(evidence), body)


def _judged(matched: SeedDifference, n: int) -> str:
    """Seeds that do not compare at matched loss leave a comparison unresolved."""
    if n >= LEAST_SEEDS > matched.n:
        return UNRESOLVED
    return matched.verdict


def _told(found: SeedDifference, n: int) -> str:
    if not found.n:
        return "no cross-entropy in common" if n else "not measured"
    share = found.mean / abs(found.first.mean())
    ends = f"{ends} over " if (ends := between(*found.over_seeds)) else ""
    return f"{found.mean:+.4f} nats ({share:+.0%}; {ends}{found.n} of {n} seeds)"


def _cells(found: SeedDifference) -> list[str]:
    digits = ".6f"  # W8A8 adds 0.0001
    return [
        str(found.n),
        f"{found.first.mean():{digits}}",
        f"{found.second.mean():{digits}}",
        f"{found.mean:+{digits}}",
        between(*found.over_seeds, f"+{digits}"),
        between(*found.over_items, f"+{digits}"),
        f"{found.power:{digits}}" if found.power == found.power else "",
        found.verdict,
    ]
