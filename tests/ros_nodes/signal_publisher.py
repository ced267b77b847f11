"""A planner or a sensor: publishes one value again and again, until it is killed.

    python signal_publisher.py NODE SECTION SECONDS INPUT VALUES

INPUT: as JSON, an entry of `robot.SECTION`; VALUES: as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import rclpy

from dime_robot.runtime.contract.signal_input import SensorInput, TaskCommandInput
from ros_nodes.signal_messages import SIGNAL_TYPES, write_signal

if __name__ == "__main__":
    name, section, period, given, values = sys.argv[1:6]
    model = TaskCommandInput if section == "task_commands" else SensorInput
    source = model.model_validate_json(given)
    rclpy.init()
    node = rclpy.create_node(name)
    publisher = node.create_publisher(SIGNAL_TYPES[source.type], source.topic, 10)
    while True:
        publisher.publish(write_signal(source, np.array(json.loads(values)), time.time()))
        time.sleep(float(period))
