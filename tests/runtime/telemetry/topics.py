"""Recordings of topics as recorders write them, made without ROS."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

JOINT_STATE, IMU = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Imu"
TWIST, NUMBERS = "geometry_msgs/msg/Twist", "std_msgs/msg/Float64MultiArray"
EPOCH = 1_700_000_000 * 10**9  # [ns]
STORAGES = ("sqlite3", "mcap")


class Sent(NamedTuple):
    """A message on its way."""

    time: int  # [ns]
    topic: str
    type: str
    fields: dict[str, Any]


def joints(time: int, names: list[str], position: Any, velocity: Any, stamp: int = -1) -> Sent:
    """A reading of the joints."""
    stamp = time if stamp < 0 else stamp
    return Sent(
        time,
        "/joint_states",
        JOINT_STATE,
        {
            "header": header(stamp),
            "name": names,
            "position": list(map(float, position)),
            "velocity": list(map(float, velocity)),
            "effort": [],
        },
    )


def header(stamp: int) -> dict[str, Any]:
    return {"stamp": {"sec": stamp // 10**9, "nanosec": stamp % 10**9}, "frame_id": ""}


def vector(values: Any) -> dict[str, float]:
    return dict(zip("xyz", map(float, values), strict=True))


def imu(time: int, orientation: Any, rate: Any) -> Sent:
    fields = {
        "header": header(time),
        "orientation": dict(zip("wxyz", map(float, orientation), strict=True)),
        "orientation_covariance": [0.0] * 9,
        "angular_velocity": vector(rate),
        "angular_velocity_covariance": [0.0] * 9,
        "linear_acceleration": vector([0, 0, 9.81]),
        "linear_acceleration_covariance": [0.0] * 9,
    }
    return Sent(time, "/imu", IMU, fields)


def twist(time: int, x: float, y: float, yaw: float) -> Sent:
    fields = {"linear": vector([x, y, 0]), "angular": vector([0, 0, yaw])}
    return Sent(time, "/cmd_vel", TWIST, fields)


def numbers(time: int, topic: str, values: Any) -> Sent:
    data = [float(value) for value in values]
    return Sent(time, topic, NUMBERS, {"layout": {"dim": [], "data_offset": 0}, "data": data})


def write_bag(folder: Path, storage: str, messages: Iterable[Sent]) -> Path:
    """A rosbag2 folder, by `rosbags`."""
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    plugin = {"sqlite3": StoragePlugin.SQLITE3, "mcap": StoragePlugin.MCAP}[storage]
    connections: dict[str, Any] = {}
    with Writer(folder, version=9, storage_plugin=plugin) as writer:
        for time, topic, kind, fields in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            raw = store.serialize_cdr(_message(store, kind, fields), kind)
            writer.write(connections[topic], time, raw)
    return folder


def _message(store: Any, kind: str, fields: dict[str, Any]) -> Any:
    definition = dict(store.fielddefs[kind][1])
    values = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            values[name] = _message(store, definition[name][1], value)
        elif isinstance(value, list) and (not value or isinstance(value[0], float)):
            values[name] = np.array(value, dtype=np.float64)
        else:
            values[name] = value
    return store.types[kind](**values)


def write_mcap(
    path: Path, messages: Iterable[Sent], compression: str = "ZSTD", crcs: bool = True
) -> Path:
    """An MCAP file, by `mcap_ros2`."""
    from mcap.writer import CompressionType
    from mcap_ros2.writer import Writer

    from dime_robot.runtime.telemetry.ros_types import definition

    packed = io.BytesIO()
    writer, schemas = Writer(packed, 4096, CompressionType[compression], crcs), {}
    for time, topic, kind, fields in messages:
        if kind not in schemas:
            schemas[kind] = writer.register_msgdef(kind, definition(kind))
        writer.write_message(topic, schemas[kind], fields, log_time=time)
    writer.finish()
    path.write_bytes(packed.getvalue())
    return path
