"""A small driver for tests: releases a simulated Go2, stands it up, and falls silent.

    python unitree_client.py DOMAIN FOLDER

Its result is a line of JSON. FOLDER/stood is written once it stands; it commands until FOLDER/end
exists.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from dime_robot.runtime.unitree.bring_up import BringUp, Outcome
from dime_robot.runtime.unitree.low_level import (
    FOC,
    LOW_CMD_LAYOUT,
    LOW_LEVEL,
    POSITION_STOP,
    VELOCITY_STOP,
    Frame,
)
from ros_nodes.unitree.dds_profile import use_robot_profile
from ros_nodes.unitree.robot_side import RobotSide

PERIOD = 0.002  # [s]
RAMP = 1.5  # [s]
STANDING = np.tile([0.0, 0.9, -1.8], 4)
LIMIT = 40.0  # [s] for the whole


class Client:
    """One state after the other, in one loop without an executor."""

    def __init__(self, domain: int) -> None:
        profile = use_robot_profile("lo")
        self.side = RobotSide(domain, True, False, False)
        profile.remove()
        self.side.open_services()
        self.end = time.monotonic() + LIMIT
        self.states = self.refused = self.missed = 0
        self.tick: int | None = None
        self.motors = None

    def read(self) -> None:
        assert time.monotonic() < self.end, "too late"
        for record in self.side.states():
            if isinstance(record, str):
                self.refused += 1
                continue
            tick = int(record["tick"])
            self.missed += 0 if self.tick is None else (tick - self.tick) // 2 - 1
            self.states, self.tick, self.motors = self.states + 1, tick, record["motor_state"][:12]

    def release(self) -> Outcome:
        bring_up = BringUp(1)
        while bring_up.mode is None:  # as long as the endpoints find each other
            self.serve(bring_up)
        bring_up.begin_release(time.monotonic())
        while (outcome := bring_up.take_outcome()) is None:
            self.serve(bring_up)
        return outcome

    def serve(self, bring_up: BringUp) -> None:
        self.read()
        now = time.monotonic()
        for response in self.side.responses():
            if request := bring_up.take(response, now):
                self.side.send_request(request)
        rest = self.motors is not None and np.abs(self.motors["dq"]).max() < 0.3
        if request := bring_up.poll(now, bool(rest)):
            self.side.send_request(request)
        time.sleep(PERIOD)

    def stand(self, folder: Path) -> None:
        frame = Frame(LOW_CMD_LAYOUT)
        frame.fields["level_flag"] = LOW_LEVEL
        motors = frame.fields["motor_cmd"]
        motors["mode"], motors["q"], motors["dq"] = FOC, POSITION_STOP, VELOCITY_STOP
        motors = motors[:12]
        motors["dq"], motors["kp"], motors["kd"] = 0.0, 60.0, 3.0
        assert self.motors is not None
        start, began = self.motors["q"].astype(float), time.monotonic()
        self.states = self.missed = sent = 0
        due, self.tick = began, None
        while not (folder / "end").exists():
            share = min(1.0, (time.monotonic() - began) / RAMP)
            motors["q"] = start + share * (STANDING - start)
            self.side.send(frame.sealed())
            sent += 1
            if share == 1.0:
                (folder / "stood").touch()
            due = max(due + PERIOD, time.monotonic() - PERIOD)
            time.sleep(max(0.0, due - time.monotonic()))
            self.read()
        seconds = time.monotonic() - began
        print(
            json.dumps(
                {
                    "sent": sent,
                    "states": self.states,
                    "missed": self.missed,
                    "state_rate": self.states / seconds,
                    "refused": self.refused,
                    "mode": sorted(set(self.motors["mode"].tolist())),
                }
            )
        )


def main() -> None:
    client = Client(int(sys.argv[1]))
    outcome = client.release()
    assert outcome.success, outcome.text
    client.stand(Path(sys.argv[2]))
    client.side.close()


if __name__ == "__main__":
    main()
