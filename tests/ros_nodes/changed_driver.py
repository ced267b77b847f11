"""unitree_driver with what a test needs to change; the variable CHANGES names it, one or more.

clock       SIGUSR1 sets this process's clock back by `STEP`, and the next one sets it right again
elsewhere   as on another computer, it does not notice a driver of the same robot on this one
fails       SIGUSR2: an exception at its next reading
patient     it may stand still for longer: a busy machine is not the fault that is tested
quick       it takes commands again soon after it has damped the motors: tests have no time
no_property its profile of Fast DDS does not switch off that types are announced
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from dime_robot.runtime.unitree import driver_loop
from ros_nodes.unitree import dds_profile, driver
from ros_nodes.unitree.robot_side import RobotSide

STEP = 100.0  # [s]
QUICK, PATIENT = 0.15, 0.5  # [s]


def _changeable_clock() -> None:
    real, back = time.time, [0.0]
    time.time = lambda: real() - back[0]
    signal.signal(signal.SIGUSR1, lambda *_: back.__setitem__(0, STEP - back[0]))


def _failing() -> None:
    read, due = RobotSide.states, list[int]()

    def states(self: RobotSide) -> Iterator[Any]:
        if due:
            due.clear()
            raise RuntimeError("of a test")
        return read(self)

    RobotSide.states = states  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR2, lambda number, _: due.append(number))


def main() -> int:
    changes = os.environ.get("CHANGES", "").split()
    if "clock" in changes:
        _changeable_clock()
    if "elsewhere" in changes:
        driver._only_driver = lambda _: socket.socket()
    if "fails" in changes:
        _failing()
    if "patient" in changes:
        driver_loop.MAX_STALL = PATIENT  # type: ignore[misc]
    if "quick" in changes:
        driver_loop.REFUSING = QUICK  # type: ignore[misc]
    if "no_property" in changes:
        before, _, rest = dds_profile._PROFILE.partition("<propertiesPolicy>")
        dds_profile._PROFILE = before + rest.partition("</propertiesPolicy>")[2]
    return driver.main()


if __name__ == "__main__":
    sys.exit(main())
