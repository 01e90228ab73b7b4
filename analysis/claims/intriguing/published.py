"""The paper's own numbers, checked against each other: its text against its Table 4."""

from collections.abc import Mapping

import numpy as np

from analysis.claims.claim import Exhibit, table

TASKS = ("PIQA", "HellaSwag", "WinoGrande", "LAMBADA", "Copa", "Copa100", "StoryCloze", "Paralex")
TABLE_4: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "52B": {
        "FP16": (83.19, 82.48, 70.01, 75.47, 79.40, 81.00, 85.87, 61.05),
        "W8A8": (83.20, 82.40, 70.00, 75.50, 79.40, 82.00, 85.50, 61.10),
        "W4": (80.20, 72.22, 66.30, 66.85, 78.20, 83.00, 82.56, 60.43),
    },
    "13B": {
        "FP16": (79.54, 75.26, 62.27, 70.81, 76.00, 76.00, 82.11, 60.68),
        "W8A8": (79.20, 74.60, 62.90, 69.90, 76.00, 75.00, 82.20, 60.90),
        "W4": (76.66, 60.59, 57.30, 46.05, 73.60, 76.00, 77.40, 59.74),
    },
    "6B": {
        "FP16": (79.50, 74.20, 61.20, 70.50, 75.40, 79.00, 81.50, 60.10),
        "W8A8": (79.50, 73.70, 61.40, 70.00, 74.60, 77.00, 81.00, 60.20),
        "W4": (76.93, 62.92, 56.43, 55.40, 74.00, 72.00, 77.21, 59.01),
    },
    "410M": {
        "FP16": (70.40, 46.90, 50.80, 48.80, 65.40, 65.00, 70.50, 57.10),
        "W8A8": (70.00, 46.80, 51.50, 47.80, 64.00, 64.00, 69.70, 57.00),
        "W4": (67.19, 43.08, 50.59, 37.71, 62.80, 64.00, 67.47, 54.60),
    },
}
BLOOM_LAMBADA = {"BLOOM-176B": -29.5, "BLOOM-7B": -18.7}  # W4, percent (Du et al. 2021)


def percent_change(before: tuple[float, ...], after: tuple[float, ...]) -> float:
    """The paper's “average % diff”: the mean over tasks of 100 (after - before) / before."""
    return float(np.mean([100 * (b - a) / a for a, b in zip(before, after, strict=True)]))


def disagreements() -> Exhibit:
    full, int8, int4 = (TABLE_4["52B"][name] for name in ("FP16", "W8A8", "W4"))
    three = [TASKS.index(task) for task in ("LAMBADA", "HellaSwag", "PIQA")]
    lambada = TASKS.index("LAMBADA")
    points = np.mean(int4) - np.mean(full)
    return Exhibit(
        "Where the paper's own numbers disagree",
        "its introduction, section 4 and Table 4 say of the 52B model",
        [
            "Recomputed from Table 4 as section 3.2 defines it: each task's change divided by its "
            "value before. Several figures of the text are differences in points, not percent.",
            table(
                ["What", "The text", "From Table 4"],
                [
                    ["W8A8, 8 tasks (introduction)", "-0.24 %",
                     f"{percent_change(full, int8):+.2f} %"],
                    ["W8A8, 8 tasks (contributions)", "-0.26 %",
                     f"{percent_change(full, int8):+.2f} %"],
                    ["W8A8, 8 tasks (section 4)", "+0.08 %",
                     f"{percent_change(full, int8):+.2f} % "
                     f"({np.mean(int8) - np.mean(full):+.2f} points)"],
                    ["W8A8 on LAMBADA, HellaSwag, PIQA", "-0.01 %",
                     f"{_of(full, int8, three):+.2f} %"],
                    ["W4, 8 tasks", "-3.6 %",
                     f"{percent_change(full, int4):+.1f} % ({points:+.1f} points)"],
                    ["W4 on LAMBADA", "-8.6 %",
                     f"{_of(full, int4, [lambada]):+.1f} % "
                     f"({int4[lambada] - full[lambada]:+.1f} points)"],
                ],
            ),
        ],
    )  # fmt: skip


def _of(before: tuple[float, ...], after: tuple[float, ...], tasks: list[int]) -> float:
    return percent_change(tuple(before[i] for i in tasks), tuple(after[i] for i in tasks))
