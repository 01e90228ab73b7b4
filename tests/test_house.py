"""The house: arrows run down only, nothing goes round in a circle, and arguments stay countable."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What a folder may import of ours, from the ground floor up.
MAY_IMPORT = {
    "quantizers": set(),
    "evaluation": {"quantizers"},
    "orchestrator": {"quantizers", "evaluation"},
    "analysis": {"quantizers", "evaluation"},
    "training": {"quantizers", "evaluation", "orchestrator"},
    "kbit": {"quantizers", "evaluation", "orchestrator", "analysis", "training"},
}
# Inside a folder: a file imports of its own floor and of those below.
FLOORS = {
    "analysis": ("curves", "noise", "answers", "findings figures", "claims", "documents"),
    "orchestrator": ("study", "store", "run", "sweep"),
}
MOST_ARGUMENTS = 7  # `self` not counted
# A loop that Numba compiles takes its arrays one by one.
COMPILED = {"_attend"}


@cache
def modules() -> dict[str, ast.Module]:
    files = {file for folder in MAY_IMPORT for file in (ROOT / folder).rglob("*.py")}
    named = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in files}
    return {n.removesuffix(".__init__"): ast.parse(f.read_text()) for n, f in named.items()}


def imported(tree: ast.Module) -> set[str]:
    """Modules of ours that a file names anywhere: at its top, in a function, for types alone."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(modules()) or {node.module}
    return names & set(modules())


def test_arrows_run_down_only() -> None:
    up = [
        f"{name} imports {other}"
        for name, tree in modules().items()
        for other in imported(tree)
        if other.split(".")[0] not in {*MAY_IMPORT[name.split(".")[0]], name.split(".")[0]}
    ]
    assert not up


def test_arrows_inside_a_folder_run_down_only() -> None:
    for folder, floors in FLOORS.items():
        floor = {name: i for i, names in enumerate(floors) for name in names.split()}
        for name, tree in modules().items():
            place = name.split(".")[1:2]
            if not name.startswith(f"{folder}.") or place[0] not in floor:
                continue
            for other in imported(tree):
                below = other.split(".")[1:2]
                if other.startswith(f"{folder}.") and below[0] in floor and below != place:
                    assert floor[below[0]] < floor[place[0]], f"{name} imports {other}"


def test_no_circle() -> None:
    TopologicalSorter({name: imported(tree) - {name} for name, tree in modules().items()}).prepare()


def test_no_function_takes_a_row_of_loose_arguments() -> None:
    long = []
    for file in ROOT.rglob("*.py"):
        place = file.relative_to(ROOT)
        if place.parts[0] == "tests" or place.parts[0].startswith(".") or place.parts[0] == "build":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                name = getattr(node, "name", "lambda")
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                n = len([a for a in given if a.arg not in ("self", "cls")])
                if n > MOST_ARGUMENTS and name not in COMPILED:
                    long.append(f"{place}: {name}: {n}")
    assert not long
