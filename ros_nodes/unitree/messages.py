"""Unitree's message types, from the user's own workspace; imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import LOW_CMD_LAYOUT, LOW_STATE_LAYOUT, MessageLayout


def low_cmd_type() -> Any:
    """Return the type of LowCmd."""
    return _message("unitree_go", "LowCmd")


def low_state_type() -> Any:
    """Return the type of LowState."""
    return _message("unitree_go", "LowState")


def request_type() -> Any:
    """Return the type of a request to one of the robot's services."""
    return _message("unitree_api", "Request")


def response_type() -> Any:
    """Return the type of a service's response."""
    return _message("unitree_api", "Response")


def require_known_layout() -> None:
    """Refuse definitions that are not those which this driver writes and reads byte by byte.

    Raises:
        InputError: another size.
    """
    from rclpy.serialization import serialize_message

    for kind, layout in ((low_cmd_type(), LOW_CMD_LAYOUT), (low_state_type(), LOW_STATE_LAYOUT)):
        _require_size(layout, len(serialize_message(kind())))


def _require_size(layout: MessageLayout, size: int) -> None:
    if size != layout.size:
        raise InputError(
            f"unitree_go/{layout.name}: expected a message of {layout.size} bytes, as a Go2 has it,"
            f" got {size}: is the workspace of another robot sourced?"
        )


def _message(package: str, name: str) -> Any:
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"expected the ROS 2 package {package} with {name}, got {' '.join(str(error).split())}:"
            " build unitree_ros2 and source its workspace, see docs/go2.md"
        ) from None
