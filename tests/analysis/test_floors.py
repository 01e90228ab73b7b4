"""Arrows inside analysis/ run down only."""

import ast
from pathlib import Path

FLOORS = {"curves": 0, "noise": 1, "answers": 2, "findings": 3, "figures": 3, "claims": 4,
          "documents": 5}  # fmt: skip
HOUSE = Path(__file__).parents[2] / "analysis"


def test_every_import_is_of_its_own_folder_or_of_a_floor_below() -> None:
    for path in HOUSE.rglob("*/*.py"):
        folder = path.relative_to(HOUSE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("analysis."):
                below = str(node.module).split(".")[1]
                assert below == folder or FLOORS[below] < FLOORS[folder], f"{path}: {node.module}"
