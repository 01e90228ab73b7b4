"""Lets `transformers` know kbit's format, whether it is imported before or after kbit.

kbit itself must not import it: commands would wait for seconds.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_REGISTRY = "transformers.quantizers.auto"


class _Registering(importlib.abc.MetaPathFinder):
    """Finds `_REGISTRY` once, as it would be found anyway, and registers when it was imported."""

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def _register() -> None:
    importlib.import_module("quantizers.export.hf")


def register_format() -> None:
    if _REGISTRY in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Registering())
