"""Puts configs/, which lies beside the package, into the wheel as asymrl/configs.

All other settings are in pyproject.toml."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copytree("configs", Path(self.build_lib) / "asymrl" / "configs", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
