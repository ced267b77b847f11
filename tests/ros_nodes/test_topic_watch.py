"""Two publishers of one topic: what they share, and whether they contradict each other."""

from __future__ import annotations

import numpy as np
import pytest

from ros_nodes.topic_watch import StatePublishers, is_tool

A, B, C = b"a", b"b", b"c"
ARM = ("shoulder", "elbow", "wheel")
SPEED = np.array([4.0, 6.0, 20.0])


def publishers() -> StatePublishers:
    return StatePublishers(ARM, SPEED, np.array([False, False, True]))


def test_a_gripper_shares_nothing_with_an_arm() -> None:
    ours = publishers()
    assert not ours.take(A, ARM, (0.0, 1.0, 0.0), 10.0, 0.0)
    assert not ours.take(B, ("finger",), (0.3,), 10.0, 0.0)
    assert ours.shared(0.1) == []


def test_one_that_repeats_another_shares_its_joints_and_contradicts_nothing() -> None:
    ours = publishers()
    for k in range(20):
        assert not ours.take(A, ARM, (0.1 * k, 1.0, 0.0), 10 + 0.02 * k, 0.02 * k)
        assert not ours.take(B, ARM[::-1], (0.0, 1.0, 0.1 * k), 10 + 0.02 * k, 0.02 * k)
    assert ours.shared(0.4) == list(ARM)


@pytest.mark.parametrize(("off", "contradicts"), [(0.04, False), (0.06, True), (-1.0, True)])
def test_other_values_at_the_same_time_contradict(off: float, contradicts: bool) -> None:
    ours = publishers()
    ours.take(A, ARM, (0.0, 1.0, 0.0), 10.0, 0.0)
    text = ours.take(B, ("elbow", "shoulder"), (1.0, off), 10.0, 0.0)
    assert bool(text) == contradicts
    assert not contradicts or text == f"shoulder is {off:.3g} and 0"
    assert ours.shared(0.0) == ["shoulder", "elbow"]


def test_a_joint_may_have_moved_between_two_stamps_and_a_wheel_may_have_turned_round() -> None:
    ours = publishers()
    ours.take(A, ARM, (0.0, 1.0, np.pi - 0.01), 10.0, 0.0)
    assert not ours.take(B, ARM, (0.4, 1.0, -np.pi + 0.01), 10.1, 0.1)
    assert ours.take(C, ARM, (0.4, 1.0, -np.pi + 0.01), 10.01, 0.1)


def test_a_publisher_that_fell_silent_no_longer_counts() -> None:
    ours = publishers()
    ours.take(A, ARM, (0.0, 1.0, 0.0), 10.0, 0.0)
    assert not ours.take(B, ARM, (1.0, 1.0, 0.0), 12.0, 2.0)
    assert ours.shared(2.0) == []


@pytest.mark.parametrize(
    ("node", "tool"),
    [
        ("/rosbag2_recorder", True),
        ("/left/rosbag2_recorder_12", True),
        ("/_ros2cli_1234", True),
        ("/my_bag_recorder", True),
        ("/foxglove_bridge", True),
        ("/latency_monitor", True),
        ("/controller_manager", False),
        ("/effort_controller", False),
        ("/my_robot/rqt", True),
        ("/robot", False),
    ],
)
def test_tools_are_known_by_their_names(node: str, tool: bool) -> None:
    assert is_tool(node) == tool
