"""Generate the C and Python sources of a message package, without CMake.

A program of its own, since the generators find their templates by AMENT_PREFIX_PATH and print:

    python generate.py PACKAGE FOLDER_OF_MSG_FILES OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from rosidl_cli.command.translate.api import translate
from rosidl_generator_c.cli import GenerateC
from rosidl_generator_py.cli import GeneratePython
from rosidl_typesupport_c.cli import GenerateCTypesupport
from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

# what rmw_fastrtps_cpp needs: to encode, and to describe the type to other participants
DISPATCHED = ["rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c"]
DISPATCHER = "rosidl_typesupport_c"  # what Python imports


def generate(package: str, messages: Path, output: Path) -> None:
    """Write OUTPUT/PACKAGE/..., sources and Python modules.

    Args:
        package: its name.
        messages: folder of the .msg files.
        output: folder, made where it is missing.
    """
    names = [f"{messages}:msg/{path.name}" for path in sorted((messages / "msg").glob("*.msg"))]
    interfaces = translate(
        package_name=package,
        interface_files=names,
        include_paths=[],
        output_format="idl",
        output_path=output / "idl",
    )
    for generator in (
        GenerateC("c"),
        GenerateFastRTPSCTypesupport("fastrtps_c"),
        GenerateIntrospectionCTypesupport("introspection_c"),
        GenerateCTypesupport("c", typesupport_implementations=DISPATCHED),
        GeneratePython("py", typesupport_implementations=[DISPATCHER]),
    ):
        generator.generate(package, interfaces, [], output / package)


if __name__ == "__main__":
    generate(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
