"""The help of the commands for export, measurement and ROS explains every argument."""

from __future__ import annotations

import pytest

from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError


@pytest.mark.parametrize(
    "module",
    [
        "dime_robot.runtime.certify",
        "dime_robot.runtime.recording",
        "dime_robot.runtime.replay",
        "dime_robot.shadow_page",
        "export.onnx",
        "export.tensorrt",
        "ros_nodes.latency_page",
        "ros_nodes.loopback",
    ],
)
def test_every_argument_is_explained(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = pytest.importorskip(module)
    parsers: list[Parser] = []

    def stop(parser: Parser, *_: object) -> None:
        parsers.append(parser)
        raise InputError("the parser is complete")

    monkeypatch.setattr(Parser, "parse_args", stop)
    with pytest.raises(InputError, match="the parser is complete"):
        command.main([])
    (parser,) = parsers
    assert parser.prog == f"python -m {module}"
    assert [action.dest for action in parser._actions if not action.help] == []
    assert parser.format_help()
