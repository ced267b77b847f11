"""The ROS package for colcon: the index entry, launch files, parameters and starters, no Python.

The Python code is installed by `pip install` of the clone; this folder is a separate package
because colcon cannot build one in a folder with this project's pyproject.toml.
"""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import setup  # type: ignore[import-untyped]

NAME = "dime_robot"


def files(folder: str, pattern: str = "*") -> list[str]:
    """List the files of a folder, relative to this one."""
    return sorted(str(path) for path in Path(folder).glob(pattern) if path.is_file())


setup(
    name=NAME,
    version=ElementTree.parse("package.xml").findtext("version"),
    packages=[],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch", "*.launch.py")),
        (f"share/{NAME}/config", files("config")),
        (f"lib/{NAME}", files("scripts")),
    ],
)
