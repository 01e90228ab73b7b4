"""What a wheel holds beside the packages of pyproject.toml: kbit/shipped, with the model families,
the sweeps and the embedded models. In a checkout they lie at its root (see orchestrator/paths.py).
"""

from pathlib import Path
from shutil import copy2, copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        shipped = Path(self.build_lib) / "kbit" / "shipped"
        for folder in ("sweeps", "models"):
            copytree(folder, shipped / folder, dirs_exist_ok=True)
        copy2("models.yaml", shipped)


setup(cmdclass={"build_py": BuildWithShipped})
