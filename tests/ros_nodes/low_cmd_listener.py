"""Records each LowCmd on a robot's domain: a program of tests.

    low_cmd_listener DOMAIN FILE

appends a `SENT` for each to FILE until SIGTERM. It is no part of the driver or the simulated robot:
what it records is what any other process on that domain receives.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from dime_robot.runtime.unitree.low_level import LOW_CMD_LAYOUT, MOTORS, POSITION_STOP
from ros_nodes.unitree.dds_profile import use_robot_profile

N = len(MOTORS)
POLL = 0.005  # [s]
SENT = np.dtype(
    [
        ("time", "f8"),  # when it was sent, steady [s]
        ("writer", "V16"),  # id of its publisher
        ("q", "f4", N),
        ("kp", "f4", N),
        ("kd", "f4", N),
    ]
)


def is_damping(sent: np.ndarray) -> np.ndarray:
    """Whether each of these messages damps the motors, shape (n,)."""
    stopped = (sent["q"] == np.float32(POSITION_STOP)) & (sent["kp"] == 0) & (sent["kd"] >= 3)
    return np.asarray(stopped.all(axis=1))


def main() -> int:
    from rclpy.context import Context
    from rclpy.node import Node
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    from ros_nodes.topic_watch import GID_BYTES
    from ros_nodes.unitree.messages import low_cmd_type

    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    profile, kind = use_robot_profile("lo"), low_cmd_type()
    context = Context()
    context.init([], domain_id=int(sys.argv[1]))
    node = Node(
        "low_cmd_listener", context=context, enable_rosout=False, start_parameter_services=False
    )
    quality = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)
    subscription: Any = node.create_subscription(kind, "lowcmd", lambda _: None, quality)
    profile.remove()
    print("listening", flush=True)
    record, motors = np.zeros(1, SENT), LOW_CMD_LAYOUT.struct["motor_cmd"]
    with Path(sys.argv[2]).open("ab", buffering=0) as file:
        while not ended:
            found = []
            with subscription.handle:
                while taken := subscription.handle.take_message(kind, True):
                    found.append(taken)
            for data, info in found:
                offset = time.monotonic() - time.time()
                motors = LOW_CMD_LAYOUT.deserialize(bytes(data))[0]["motor_cmd"][:N]
                record["time"] = info["source_timestamp"] * 1e-9 + offset
                record["writer"] = np.void(bytes(info["publisher_gid"]["data"])[:GID_BYTES])
                for name in ("q", "kp", "kd"):
                    record[name] = motors[name]
                file.write(record.tobytes())
            time.sleep(POLL)
    os._exit(0)  # nothing is left to do, and the test waits


if __name__ == "__main__":
    sys.exit(main())
