"""Build the programs of this folder, which use the DDS that a Go2 is said to run.

    python -m tests.ros_nodes.cyclone_peer.build crc_vectors > tests/data/unitree_crc_vectors.json

builds one of them and runs it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ros_nodes.unitree_messages.build import CannotBuildError

HERE = Path(__file__).parent
STEP_TIMEOUT = 60.0  # [s]; a step takes a second
INSTALL = "apt-get install gcc cyclonedds-dev cyclonedds-tools"


def cyclone_version() -> str:
    """Return the version of the Cyclone DDS that programs are built with.

    Raises:
        CannotBuildError: it or a compiler is missing.
    """
    for program in ("gcc", "idlc"):
        if shutil.which(program) is None:
            raise CannotBuildError(f"a peer with Cyclone DDS needs {program}: {INSTALL}")
    command = ["gcc", "-dM", "-E", "-include", "dds/version.h", "-x", "c", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT)
    found = re.search(r'DDS_VERSION "(.*)"', done.stdout)
    if found is None:
        raise CannotBuildError(f"a peer with Cyclone DDS needs its headers: {INSTALL}")
    return found[1]


def build(name: str, folder: Path) -> Path:
    """Compile NAME.c.

    Args:
        name: of the program, `peer` or `crc_vectors`.
        folder: for what is generated and for the program.

    Returns:
        The program.

    Raises:
        CannotBuildError: a compiler or Cyclone DDS is missing.
    """
    cyclone_version()
    program = folder / name
    generate = ["idlc", "-l", "c", "-o", folder, HERE / "unitree_go.idl"]
    compile_it = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-I{HERE}"]
    compile_it += ["-o", program, HERE / f"{name}.c", folder / "unitree_go.c", "-lddsc"]
    for command in (generate, compile_it):
        done = subprocess.run(command, capture_output=True, text=True, timeout=STEP_TIMEOUT)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return program


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        sys.exit(subprocess.run([build(sys.argv[1], Path(work)), *sys.argv[2:]]).returncode)
