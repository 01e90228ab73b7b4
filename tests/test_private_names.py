"""Private names of other people's packages that kbit relies on: each is known, and still there.

They are why pyproject.toml bounds those packages from above; a name that is no longer used goes
from the list, a new one has to be put there by hand.
"""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("analysis", "evaluation", "kbit", "orchestrator", "quantizers", "training")
# What is imported, or taken of a module of theirs.
RELIED_ON = {
    "atexit._run_exitfuncs",  # of Python itself
    "lm_eval.tasks._factory.GROUP_FIELD_NAMES",
    "lm_eval.tasks._yaml_loader.load_yaml",
    "ray._common.utils.get_default_ray_temp_dir",
    "ray._common.utils.get_ray_address_file",
    "ray._private.parameter.RayParams",
    "ray._private.utils.set_sigterm_handler",
    "torch._int_mm",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu",
    "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "torch.utils._python_dispatch.TorchDispatchMode",
    "torch.utils._pytree.tree_map",
    "transformers.PreTrainedConfig._attn_implementation",
    "transformers.PreTrainedModel._keys_to_ignore_on_load_unexpected",
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def trees() -> list[ast.Module]:
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return [ast.parse(file.read_text()) for file in files]


def made_by_us(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def private_names(tree: ast.Module) -> Iterator[str]:
    """Modules imported and attributes read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [node.attr]
        else:
            continue
        yield from (name for name in names if any(map(private, name.split("."))))


def test_every_private_name_is_listed() -> None:
    everything = trees()
    ours = {name for tree in everything for name in made_by_us(tree)}
    found = {name for tree in everything for name in private_names(tree)} - ours
    unlisted = [
        name for name in found if not any(f".{name}." in f".{known}." for known in RELIED_ON)
    ]
    assert not unlisted
    unused = [known for known in RELIED_ON if not any(f".{n}." in f".{known}." for n in found)]
    assert not unused


@pytest.mark.parametrize("name", sorted(RELIED_ON))
def test_it_is_still_there(name: str) -> None:
    parts = name.split(".")
    value = import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        if not hasattr(value, part):
            import_module(".".join(parts[:i]))
        value = getattr(value, part)
