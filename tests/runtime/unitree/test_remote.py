"""The wireless remote as a joystick."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.unitree.remote import AXES, BUTTONS, SIZE, Remote


def remote_bytes(buttons: int = 0, lx: float = 0, ly: float = 0, rx: float = 0, ry: float = 0):  # type: ignore[no-untyped-def]
    """As a remote sends them: head, buttons, lx, rx, ry, L2, ly."""
    return struct.pack("<2BH5f16x", 0x55, 0x51, buttons, lx, rx, ry, 0.0, ly)


UNIT = st.floats(-1, 1, width=32)


@given(st.sets(st.integers(0, 15)), UNIT, UNIT, UNIT, UNIT)
def test_each_button_and_stick_has_its_place(
    held: set[int], lx: float, ly: float, rx: float, ry: float
) -> None:
    data = remote_bytes(sum(1 << i for i in held), lx, ly, rx, ry)
    read = Remote(5.0).read(data, 0.0)
    assert read is not None
    axes, buttons = read
    # right is positive on the remote, left in ROS
    assert dict(zip(AXES, axes, strict=True)) == {"lx": -lx, "ly": ly, "rx": -rx, "ry": ry}
    assert {i for i, value in enumerate(buttons) if value} == held
    assert len(buttons) == len(BUTTONS) == 16


def test_a_silent_remote_gives_nothing() -> None:
    assert Remote(5.0).read(bytes(SIZE), 0.0) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.5, -2.0])
def test_a_stick_out_of_range_gives_nothing(value: float) -> None:
    assert Remote(5.0).read(remote_bytes(ly=value), 0.0) is None


@pytest.mark.parametrize(("buttons", "ly"), [(2, 0.0), (0, 0.5)])
def test_a_remote_in_use_that_never_changes_is_silent(buttons: int, ly: float) -> None:
    remote, data = Remote(5.0), remote_bytes(buttons, ly=ly)
    assert remote.read(data, 0.0) is not None
    assert remote.read(data, 5.0) is not None
    assert remote.read(data, 5.1) is None
    assert remote.read(remote_bytes(buttons, ly=ly, rx=0.01), 5.2) is not None
    assert remote.read(remote_bytes(buttons, ly=ly, rx=0.01), 9.9) is not None


def test_an_untouched_remote_may_stay_equal_and_the_check_can_be_off() -> None:
    remote = Remote(5.0)
    assert remote.read(remote_bytes(), 0.0) is not None
    assert remote.read(remote_bytes(), 100.0) is not None
    remote = Remote(0.0)
    assert remote.read(remote_bytes(2), 0.0) is not None
    assert remote.read(remote_bytes(2), 100.0) is not None
