"""Messages of task commands and sensors: writing and reading are inverse, and what is refused."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Twist
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState

from dime_robot.runtime.contract.signal_input import STAMPED, SensorInput, SignalType
from dime_robot.runtime.io.errors import InputError
from ros_nodes.signal_messages import SIGNAL_TYPES, read_signal, write_signal

NAMES = ("elbow", "wrist")
WIDTHS = [
    ("Twist", 3),
    ("Twist", 6),
    ("TwistStamped", 3),
    ("TwistStamped", 6),
    ("PointStamped", 3),
    ("PoseStamped", 7),
    ("Float64MultiArray", 5),
    ("JointState", 2),
]


def made(kind: str, **fields: Any) -> SensorInput:
    if kind == "JointState":
        fields["joints"] = NAMES
    elif kind in STAMPED:
        fields["frame"] = "base"
    return SensorInput.model_validate({"topic": "t", "type": kind, "timeout": 1.0, **fields})


def test_every_type_has_a_message() -> None:
    assert set(SIGNAL_TYPES) == set(get_args(SignalType)) == {kind for kind, _ in WIDTHS}


@pytest.mark.parametrize(("kind", "width"), WIDTHS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again_bit_for_bit_over_the_wire(
    kind: str, width: int, data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.floats(), min_size=width, max_size=width))
    source, values = made(kind), np.array(numbers)
    message = write_signal(source, values, 12.5)
    assert type(message) is SIGNAL_TYPES[source.type]
    sent = deserialize_message(serialize_message(message), type(message))
    reading = read_signal(sent, source, width)
    assert reading.values.tobytes() == values.tobytes()
    assert reading.stamp == (12.5 if kind in STAMPED else None)
    assert reading.frame == ("base" if kind in STAMPED and kind != "JointState" else None)


def test_the_order_of_the_numbers() -> None:
    pose = PoseStamped()
    pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = 1.0, 2.0, 3.0
    q = pose.pose.orientation
    q.w, q.x, q.y, q.z = 4.0, 5.0, 6.0, 7.0
    assert read_signal(pose, made("PoseStamped"), 7).values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    twist = Twist()
    for i, (vector, axis) in enumerate((v, a) for v in ("linear", "angular") for a in "xyz"):
        setattr(getattr(twist, vector), axis, float(i))
    assert read_signal(twist, made("Twist"), 6).values.tolist() == [0, 1, 2, 3, 4, 5]
    assert read_signal(twist, made("Twist"), 3).values.tolist() == [0, 1, 5]


@pytest.mark.parametrize(
    ("names", "positions", "words"),
    [
        (["wrist", "base", "elbow"], [1.0, 2.0, 3.0], ""),
        (["wrist"], [1.0], r"each of the joints \['elbow', 'wrist'\] once, .*: correct elbow"),
        (["wrist", "elbow", "wrist"], [1.0, 2.0, 3.0], "correct wrist"),
        (["wrist", "elbow"], [1.0], "a position of each of its 2 joints, got 1"),
        (["wrist", "elbow"], [], "a position of each of its 2 joints, got 0"),
        ([], [], "correct elbow, wrist"),
    ],
)
def test_joints_are_matched_by_name(names: list[str], positions: list[float], words: str) -> None:
    message = JointState(name=names, position=positions)
    if not words:
        values = read_signal(message, made("JointState"), 2).values
        assert values.tolist() == [3.0, 1.0]
        return
    with pytest.raises(InputError, match=words):
        read_signal(message, made("JointState"), 2)
