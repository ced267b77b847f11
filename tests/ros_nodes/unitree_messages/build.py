"""Unitree's messages, as far as LowCmd, LowState and requests to services need them.

The names, types and order of their fields are those of a Go2's wire, as Unitree's own definitions
have them (unitreerobotics/unitree_ros2, cyclonedds_ws/src/unitree). They are built against the
ROS 2 in use with nothing but a C compiler, once on a machine for each set of sources and versions:

    python -m tests.ros_nodes.unitree_messages.build      # prints the folder for PYTHONPATH
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("unitree_go", "unitree_api")
STEP_TIMEOUT = 120.0  # [s] for each of the few steps; a step takes seconds
HEADERS = (  # ROS packages whose headers are included
    "rcutils",
    "rmw",
    "rosidl_dynamic_typesupport",
    "rosidl_runtime_c",
    "rosidl_runtime_cpp",
    "rosidl_typesupport_c",
    "rosidl_typesupport_fastrtps_c",
    "rosidl_typesupport_fastrtps_cpp",
    "rosidl_typesupport_interface",
    "rosidl_typesupport_introspection_c",
)
# the libraries of a package: name, sources, what they are linked with; in order of dependence
LIBRARIES = (
    (
        "rosidl_generator_c",
        ("msg/detail/*__functions.c", "msg/detail/*__description.c"),
        ("rosidl_runtime_c", "rcutils"),
    ),
    (
        "rosidl_typesupport_introspection_c",
        ("msg/detail/*__type_support.c",),
        ("rosidl_typesupport_introspection_c",),
    ),
    (
        "rosidl_typesupport_fastrtps_c",
        ("msg/detail/*__type_support_c.cpp",),
        ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_fastrtps_cpp", "fastcdr", "rmw"),
    ),
    (
        "rosidl_typesupport_c",
        ("msg/*__type_support.cpp",),
        ("rosidl_typesupport_c",),
    ),
)


class CannotBuildError(Exception):
    """Something that the build needs is missing; the sentence says what."""


def messages_folder() -> Path:
    """Build the packages where this was not done yet.

    Returns:
        The folder that makes `from unitree_go.msg import LowCmd` work: on PYTHONPATH of a process,
        or in sys.path of one that runs. Nothing else is needed.

    Raises:
        CannotBuildError: a compiler, Python's headers or the generators of ROS 2 are missing.
        RuntimeError: a step of the build failed; its output is in the message.
    """
    _check_needs()
    cache = Path(tempfile.gettempdir()) / f"dime_robot_unitree_messages_{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    folder = cache / _digest()
    with (cache / "lock").open("w") as lock:  # one process builds, the others wait for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                for package in PACKAGES:
                    _build(package, Path(work), Path(work) / "install")
                (Path(work) / "install").rename(folder)  # complete, or not there
    return folder


def _check_needs() -> None:
    if shutil.which("gcc") is None or shutil.which("g++") is None:
        raise CannotBuildError("Unitree's messages need a compiler: apt-get install g++")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        raise CannotBuildError("Unitree's messages need Python.h: apt-get install python3-dev")
    for generator in ("rosidl_generator_py", "rosidl_typesupport_fastrtps_c"):
        if importlib.util.find_spec(generator) is None:
            raise CannotBuildError(f"Unitree's messages need {generator}: pip install '.[ros]'")


def _digest() -> str:
    """Of all that the result depends on: definitions, build, interpreter, versions."""
    content = hashlib.sha256()
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*/msg/*.msg")]):
        content.update(f"{path.relative_to(HERE)}\n".encode() + path.read_bytes())
    found = {
        f"{distribution.name} {distribution.version}"
        for distribution in distributions()
        if distribution.name.lower().startswith(("ros", "numpy", "empy"))
    }
    content.update(repr((sys.version, sys.prefix, sorted(found))).encode())
    return content.hexdigest()[:16]


def _prefixes() -> list[str]:
    """Where ROS 2 is installed, the wheels' own prefix last."""
    given = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    return [prefix for prefix in dict.fromkeys([*given, sys.prefix]) if prefix]


def _build(package: str, work: Path, install: Path) -> None:
    """Generate, compile and install one package as INSTALL/PACKAGE."""
    import numpy

    sources, result = work / package, install / package
    environment = {**os.environ, "AMENT_PREFIX_PATH": os.pathsep.join(_prefixes())}
    generator = [sys.executable, HERE / "generate.py", package, HERE / package, sources]
    _run(generator, environment)
    shutil.copytree(
        sources / package, result, ignore=lambda _, names: [n for n in names if _is_source(n)]
    )
    (result / "__init__.py").touch()

    included = [sources, sysconfig.get_paths()["include"], numpy.get_include()]
    for prefix in map(Path, _prefixes()):
        included += [prefix / "include", *(prefix / "include" / name for name in HEADERS)]
    options = ["-O1", "-fPIC", "-shared", *(f"-I{path}" for path in included)]
    # The libraries of a package lie together and name one another, so that no search path of the
    # environment is needed: the dispatching library opens the others by name, when they are loaded.
    options += ["-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", f"-L{result}"]
    options += [f"-L{prefix}/lib" for prefix in _prefixes()]

    ours: list[str] = []
    for name, patterns, needed in LIBRARIES:
        library = f"{package}__{name}"
        _compile(
            result / f"lib{library}.so", sources / package, patterns, [*ours, *needed], options
        )
        ours.append(library)
    extension = f"{package}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    _compile(result / extension, sources / package, ("msg/_*_s.c", "_*_s.ep.*.c"), ours, options)


def _compile(
    target: Path, sources: Path, patterns: Iterable[str], needed: Iterable[str], options: list[str]
) -> None:
    paths = sorted(path for pattern in patterns for path in sources.glob(pattern))
    compiler = "g++" if paths[0].suffix == ".cpp" else "gcc"
    name = f"-Wl,-soname,{target.name}"
    _run([compiler, "-o", target, name, *paths, *options, *(f"-l{each}" for each in needed)])


def _is_source(name: str) -> bool:
    return name == "detail" or name.endswith((".c", ".cpp", ".h", ".json"))


def _run(command: list[str | Path], environment: dict[str, str] | None = None) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        env=environment,
        timeout=STEP_TIMEOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}\nfailed ({done.returncode}):\n{done.stdout}")


if __name__ == "__main__":
    try:
        print(messages_folder())
    except CannotBuildError as missing:
        sys.exit(f"error: {missing}")
