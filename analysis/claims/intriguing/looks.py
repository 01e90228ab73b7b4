"""What weights and activations look like, and whether that tells who is damaged (section 5)."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims.claim import Exhibit, between, table
from analysis.claims.intriguing.runs import FloatArray, Ladder, Model, is_planted
from analysis.claims.intriguing.seeds import LEVEL, t_interval

TASK = "weights_and_activations"
KINDS = ("qkv", "attention_output", "up", "down")
METRICS = {
    "rmse": "RMSE(X, X̂)*",
    "relative_rmse": "relative RMSE",
    "relative_output_error": "relative output error",
    "token_std": "token STD*",
    "token_crest": "token crest",
    "max_to_median": "largest / median feature",
    "token_kurtosis": "token kurtosis (OSP)",
    "neuron_kurtosis": "neuron kurtosis (He)",
    "weight_std": "weight STD*",
    "weight_kurtosis": "weight kurtosis",
    "spectral_norm": "spectral norm*",
    "gain_std": "gain STD*",
}
NOTE = (
    "A star: changes when a norm is scaled and its readers divided by it, which leaves the "
    "function as it was; it compares inside one architecture only."
)
PREDICTED = ("W8A8", "A8 static", "A6", "A4", "W4", "W3")
RULES = {"above_6.0": "above 6.0", "searched": "searched", "z-score": "z-score"}
RATIOS = {"rmse": 6.9, "gain_std": 2.0, "spectral_norm": 4.0}
"""fp16 over bf16 at weight decay 0.01, inputs of QKV (Figure 5, top)."""
FAMILY_RATIOS = (
    ("rmse", "opt", "neox", 27.7),
    ("token_std", "opt", "neox", 1.8),
    ("gain_std", "bloom", "neox", 5.0),
)
"""OPT-6B or BLOOM-7.1B over the paper's own 6B model (Figure 5, bottom)."""


def looks(results: pd.DataFrame) -> pd.DataFrame:
    """A row a model that was analyzed: run, model, family, variant, seed, size and its metrics."""
    rows = results[results["task"] == TASK]
    names = ["family", "model", "run", "variant", "seed", "n_params"]
    wide = rows.pivot_table(index="model", columns="metric", values="value", aggfunc="first")
    return rows.drop_duplicates("model")[names].join(wide, on="model").reset_index(drop=True)


def look_exhibits(ladder: Ladder, results: pd.DataFrame) -> Iterator[Exhibit]:
    found = looks(results)
    if found.empty:
        return
    trained = found[found["run"].notna() & ~is_planted(found)]
    if len(trained):
        trained = trained.assign(size=trained["run"].str.split("-").str[1])
        yield _by_variant(trained, ladder)
        yield from _prediction(trained, ladder)
        yield _ratios(trained, found[found["run"].isna()])
        yield _outliers(trained, ladder)


def _by_variant(trained: pd.DataFrame, ladder: Ladder) -> Exhibit:
    rows = []
    for size in ladder.sizes:
        for variant in ladder.variants:
            part = trained[(trained["size"] == size) & (trained["variant"] == variant)]
            if len(part):
                means = [part[f"{metric}_qkv"].mean() for metric in METRICS]
                rows.append([size, variant, str(len(part)), *(f"{mean:.4g}" for mean in means)])
    return Exhibit(
        "Weights and activations of each variant",
        "Figures 4 to 11, as numbers: inputs, weights, norms of QKV; means over blocks and seeds",
        [NOTE, table(["Size", "Variant", "Seeds", *METRICS.values()], rows, text=2)],
    )


def _prediction(trained: pd.DataFrame, ladder: Ladder) -> Iterator[Exhibit]:
    for size in ladder.sizes:
        of_size = trained[trained["size"] == size]
        by_seed = [_means(of_size[of_size["seed"] == seed]) for seed in ladder.seeds]
        rows = []
        for metric, name in METRICS.items():
            cells = [_correlation(by_seed, ladder, metric, dose) for dose in PREDICTED]
            rows.append([name, *cells])
        if not any(cell for row in rows for cell in row[1:]):
            continue
        yield Exhibit(
            f"Does a metric tell which variant is damaged? {size}",
            "section 5 asks of its metrics, by rank correlation",
            [
                "Spearman's correlation over the variants of a seed between a metric (mean over "
                "the four kinds of matrices) and what a dose adds to the loss: mean over seeds "
                f"({LEVEL:.0%} over seeds, cut at 1). Variants with the same weights count once. "
                f"The metrics are of 8-bit vector-wise rounding whatever the dose. {NOTE}",
                table(["Metric", *PREDICTED], rows),
            ],
        )


def _means(part: pd.DataFrame) -> list[tuple[Model, dict[str, float]]]:
    """Of each model each metric's mean over the kinds of matrices, where it was analyzed for it."""
    found = []
    for row in part.to_dict("records"):
        known = {}
        for metric in METRICS:
            values = [row.get(f"{metric}_{kind}", np.nan) for kind in KINDS]
            if np.isfinite(values).any():
                known[metric] = float(np.nanmean(values))
        found.append((Model(row["size"], str(row["variant"]), int(row["seed"])), known))
    return found


def _correlation(
    by_seed: Sequence[Sequence[tuple[Model, Mapping[str, float]]]],
    ladder: Ladder,
    metric: str,
    dose: str,
) -> str:
    correlations = []
    for means in by_seed:
        points = [(of[metric], ladder.final(m, dose)) for m, of in means if metric in of]
        pairs = {(mean, point.added) for mean, point in points if point is not None}
        if len(pairs) >= 5:
            correlations.append(stats.spearmanr(*np.array(sorted(pairs)).T).statistic)
    return _told(np.array(correlations))


def _ratios(trained: pd.DataFrame, others: pd.DataFrame) -> Exhibit:
    rows = []
    for size, part in trained.groupby("size", sort=False):
        for metric, published in RATIOS.items():
            value = f"{metric}_qkv"
            by = part.pivot_table(index="seed", columns="variant", values=value, aggfunc="first")
            for bf16, fp16 in (
                ("control", "dtype=fp16"),
                ("weight_decay=0.01", "weight_decay=0.01 dtype=fp16"),
            ):
                if {bf16, fp16} <= set(by.columns):
                    logs = np.log((by[fp16] / by[bf16]).dropna().to_numpy(dtype=np.float64))
                    at = "0.01" if "weight_decay" in bf16 else "0.1"
                    told = f"{published:g}" if at == "0.01" else ""
                    what = f"fp16 / bf16 at weight decay {at}, {size}"
                    rows.append([METRICS[metric], what, told, *_geometric(logs)])
    for metric, first, second, published in FAMILY_RATIOS:
        for width in sorted(set(others["model"].str.split("-").str[2])):
            value = others.set_index("model").get(f"{metric}_qkv")
            names = [f"sotu-{family}-{width}" for family in (first, second)]
            if value is not None and all(name in value.index for name in names):
                ratio = value[names[0]] / value[names[1]]
                what = f"{names[0]} / {names[1]}"
                rows.append([METRICS[metric], what, f"{published:g}", "1", f"{ratio:.3f}", ""])
    return Exhibit(
        "The ratios of section 5",
        "Figure 5: inputs, weights and norms of QKV, means over blocks",
        [
            "Ratios over seeds are geometric means. Ratios between architectures are of metrics "
            "that rescaling changes (starred): the paper compares them, but they say little.",
            table(["Metric", "Ratio", "The paper", "Seeds", "Here", f"{LEVEL:.0%}"], rows, text=2)
            if rows
            else "Neither of the two models of a ratio has been measured here yet.",
        ],
    )


def _geometric(logs: FloatArray) -> list[str]:
    low, high = np.exp(t_interval(logs))
    return [str(len(logs)), f"{np.exp(logs.mean()):.3f}", between(low, high, ".3f")]


def _outliers(trained: pd.DataFrame, ladder: Ladder) -> Exhibit:
    rows = []
    for size in ladder.sizes:
        for variant in ladder.variants:
            part = trained[(trained["size"] == size) & (trained["variant"] == variant)]
            if part.empty:
                continue
            cells = []
            for rule in RULES:
                dimensions = part[f"outlier_dimensions_{rule}"].to_numpy(dtype=np.float64)
                tokens, layers = (
                    part[f"outlier_{what}_percent_{rule}"].mean() for what in ("tokens", "layers")
                )
                cells.append(f"{dimensions.mean():.1f} ({tokens:.0f} %, {layers:.0f} %)")
            rows.append([size, variant, str(len(part)), *cells])
    return Exhibit(
        "Outlier dimensions by three rules",
        "Table 5: dimensions (share of tokens, share of layers they affect), means over seeds",
        [
            "The searched threshold is that of the smallest model of the control with the same "
            "seed, where it leaves one dimension by construction. 20 fixed windows; inputs of QKV, "
            "attention output and FFN1.",
            table(["Size", "Variant", "Seeds", *RULES.values()], rows, text=2),
        ],
    )


def _told(correlations: FloatArray) -> str:
    """Mean and interval over seeds; Student's interval of a few can pass 1, which none can."""
    if not len(correlations):
        return ""
    low, high = np.clip(t_interval(correlations), -1, 1)
    ends = between(low, high, "+.2f")
    return f"{correlations.mean():+.2f}" + (f" ({ends})" if ends else "")
