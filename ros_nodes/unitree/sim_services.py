"""SimServices: which of the robot's own controllers has the motors, and its two services.

Requests and codes as in unitree_sdk2_python (unitree_sdk2py/comm/motion_switcher, go2/sport and
rpc/internal.py). What a Go2 answers to a request that makes no sense is not published.
"""

from __future__ import annotations

import json
from typing import Final

from dime_robot.runtime.unitree.bring_up import (
    CHECK_MODE,
    RELEASE_MODE,
    SELECT_MODE,
    SPORT,
    STAND_DOWN,
    SWITCHER,
)
from ros_nodes.unitree.sim_robot import MotorCommand, OwnController, SimRobot

MODES: Final = ("normal", "ai", "advanced", "mcf")
SERVICES: Final = (SWITCHER, SPORT)
STAND_UP = 1004
DONE, INTERNAL, NOT_IMPLEMENTED, WRONG_PARAMETER = 0, 3202, 3203, 3204


class SimServices:
    """The robot's own controllers, of which one or none has the motors.

    Args:
        robot: whose motors they are.
        mode: the controller that has them at first, which holds the start pose; empty: none.
    """

    def __init__(self, robot: SimRobot, mode: str) -> None:
        self._robot, self.mode = robot, mode
        self.keeps_mode = False  # a release is answered, and not obeyed
        self._controller = OwnController(robot.start_pose)

    def command(self) -> MotorCommand | None:
        """Return what the motors follow; None: no controller of the robot's own has them."""
        return self._controller.command(self._robot.time) if self.mode else None

    def select(self, mode: str) -> None:
        """Give the motors to a controller of the robot's own, which holds the present pose.

        Args:
            mode: one of `MODES`; empty: to none.
        """
        if mode and not self.mode:
            self._controller = OwnController(self._robot.position)
        self.mode = mode

    def respond(self, service: str, api: int, parameter: str) -> tuple[int, str]:
        """Return the code and the data of the response to a request.

        Args:
            service: one of `SERVICES`.
            api: number of the function.
            parameter: JSON.
        """
        if service == SPORT:
            return self._sport(api), ""
        if api == CHECK_MODE:
            return DONE, json.dumps({"form": "0", "name": self.mode})
        if api == RELEASE_MODE:
            if not self.keeps_mode:
                self.select("")
            return DONE, ""
        if api != SELECT_MODE:
            return NOT_IMPLEMENTED, ""
        try:
            name = json.loads(parameter)["name"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = None
        if name not in MODES:
            return WRONG_PARAMETER, ""
        self.select(name)
        return DONE, ""

    def _sport(self, api: int) -> int:
        robot = self._robot
        poses = {STAND_UP: robot.standing_pose, STAND_DOWN: robot.lying_pose}
        if api not in poses:
            return NOT_IMPLEMENTED
        if not self.mode:
            return INTERNAL
        self._controller.go(poses[api], robot.position, robot.time)
        return DONE
