"""A program that is a robot's other side with rclpy alone: sends LowCmd, receives LowState.

    low_cmd_publisher.py VECTORS COUNT

sends COUNT messages at 500 Hz from the moment both topics are matched, with the content of
VECTORS, and prints how many states it received and whether the last one's fields give its CRC.
Each field has a value of its own, so one that is in the wrong place on the wire breaks the CRC.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from unitree_go.msg import LowCmd, LowState

# of Unitree's structures in memory (unitreerobotics/unitree_sdk2_python, utils/crc.py)
LOW_CMD = "<4B4IH2x" + "B3x5f3I" * 20 + "4B" + "55Bx2I"
LOW_STATE = "<4B4IH2x13fb3x" + "B3x7fb3x3I" * 20 + "4BiH4b15H8hI41B3xf2b2x2f4H2I"
PERIOD = 0.002  # [s]
TIMEOUT = 60.0  # [s]


def values(message: Any) -> Iterator[float]:
    """All numbers of a message in the order of its fields."""
    for name in message.get_fields_and_field_types():
        value = getattr(message, name)
        if hasattr(value, "get_fields_and_field_types"):
            yield from values(value)
        elif isinstance(value, list):
            for each in value:
                yield from values(each)
        elif hasattr(value, "tolist"):
            yield from value.tolist()
        else:
            yield value


def fill(message: Any, numbers: Iterator[Any]) -> None:
    """Give them to a message in the order of its fields."""
    for name in message.get_fields_and_field_types():
        value = getattr(message, name)
        if hasattr(value, "get_fields_and_field_types"):
            fill(value, numbers)
        elif isinstance(value, list):
            for each in value:
                fill(each, numbers)
        elif hasattr(value, "tolist"):
            setattr(message, name, [next(numbers) for _ in range(len(value))])
        else:
            setattr(message, name, next(numbers))


def crc(structure: bytes) -> int:
    """CRC-32/MPEG-2 over the words, bit by bit."""
    result = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", structure[:-4]):
        result ^= word
        for _ in range(32):
            result = (result << 1 ^ (0x04C11DB7 if result >> 31 else 0)) & 0xFFFFFFFF
    return result


def main() -> None:
    vectors = json.loads(Path(sys.argv[1]).read_text())["vectors"]
    count = int(sys.argv[2])
    messages = [LowCmd() for _ in vectors]
    for message, vector in zip(messages, vectors, strict=True):
        fill(message, iter(struct.unpack(LOW_CMD, bytes.fromhex(vector["struct"]))))

    rclpy.init()
    node = Node("publisher", enable_rosout=False, start_parameter_services=False)
    states: list[LowState] = []
    profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(LowState, "lowstate", states.append, profile)
    publisher = node.create_publisher(LowCmd, "lowcmd", QoSProfile(depth=1))
    end = time.monotonic() + TIMEOUT
    while not (states and publisher.get_subscription_count()) and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    start = time.monotonic()
    for k in range(count):
        publisher.publish(messages[k % len(messages)])
        while (left := start + (k + 1) * PERIOD - time.monotonic()) > 0:
            rclpy.spin_once(node, timeout_sec=left)
    raw = struct.pack(LOW_STATE, *values(states[-1]))
    print(json.dumps({"states": len(states), "crc_right": crc(raw) == states[-1].crc}))


if __name__ == "__main__":
    main()
