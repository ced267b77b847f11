"""The messages of task commands and sensors; `message_values` has both directions of conversion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from geometry_msgs.msg import PointStamped, PoseStamped, Twist, TwistStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.signal_input import SignalInput, SignalType
from dime_robot.runtime.control.message_values import read_signal as read_signal
from dime_robot.runtime.control.message_values import signal_fields

SignalMessage: TypeAlias = (
    Twist | TwistStamped | PointStamped | PoseStamped | Float64MultiArray | JointState
)
SIGNAL_TYPES: dict[SignalType, type[SignalMessage]] = {
    "Twist": Twist,
    "TwistStamped": TwistStamped,
    "PointStamped": PointStamped,
    "PoseStamped": PoseStamped,
    "Float64MultiArray": Float64MultiArray,
    "JointState": JointState,
}


def write_signal(given: SignalInput, values: FloatArray, now: float) -> SignalMessage:
    """Return a value's message, which `read_signal` turns into the same value again.

    Args:
        given: the input: type, frame and joints.
        values: shape (width,) [SI units].
        now: the stamp of a stamped message, on the robot's clock [s].
    """
    message = SIGNAL_TYPES[given.type]()
    _fill(message, signal_fields(given, values, now))
    return message


def _fill(message: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _fill(getattr(message, name), value)
        else:
            setattr(message, name, value)
