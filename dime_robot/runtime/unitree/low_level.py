"""The messages LowCmd and LowState of a Unitree Go2, byte by byte.

A message exists in two forms. On the wire it is a CDR body, each field aligned to its own size; in
Unitree's C code it is a struct, and the checksum is that of the struct with zeros between the
fields. The two differ in one place: a struct begins its first motor at a multiple of 4 bytes, the
CDR body puts the motor's `mode` directly behind the field before it. (Fields: unitree_ros2,
unitree_go/msg; the struct: unitree_sdk2_python, unitree_sdk2py/utils/crc.py.)

Messages are read and written as bytes, since an rclpy message of 20 motors is made of 20 objects
with lists of their own, and a driver makes 500 a second.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.crc import crc32

LEGS: Final = ("FR", "FL", "RR", "RL")
MOTORS: Final = tuple(f"{leg}_{part}_joint" for leg in LEGS for part in ("hip", "thigh", "calf"))
N_MOTORS: Final = 20  # in a message; a Go2 has the first 12
CDR_HEADER: Final = b"\x00\x01\x00\x00"  # plain CDR, little endian
HEAD: Final = (0xFE, 0xEF)
LOW_LEVEL: Final = 0xFF  # level_flag of a command to the motors
FOC: Final = 1  # mode of a motor that is controlled
POSITION_STOP: Final = 2.146e9  # q of a motor without a position target
VELOCITY_STOP: Final = 16000.0  # dq of a motor without a velocity target

_BEGIN = [
    ("head", "u1", 2), ("level_flag", "u1"), ("frame_reserve", "u1"), ("sn", "<u4", 2),
    ("version", "<u4", 2), ("bandwidth", "<u2"),
]  # fmt: skip
_MOTOR_CMD = np.dtype(
    [
        ("mode", "u1"), ("q", "<f4"), ("dq", "<f4"), ("tau", "<f4"), ("kp", "<f4"), ("kd", "<f4"),
        ("reserve", "<u4", 3),
    ],
    align=True,
)  # fmt: skip
_BMS_CMD = np.dtype([("off", "u1"), ("reserve", "u1", 3)], align=True)
_IMU_STATE = np.dtype(
    [
        ("quaternion", "<f4", 4), ("gyroscope", "<f4", 3), ("accelerometer", "<f4", 3),
        ("rpy", "<f4", 3), ("temperature", "i1"),
    ],
    align=True,
)  # fmt: skip
_MOTOR_STATE = np.dtype(
    [
        ("mode", "u1"), ("q", "<f4"), ("dq", "<f4"), ("ddq", "<f4"), ("tau_est", "<f4"),
        ("q_raw", "<f4"), ("dq_raw", "<f4"), ("ddq_raw", "<f4"), ("temperature", "i1"),
        ("lost", "<u4"), ("reserve", "<u4", 2),
    ],
    align=True,
)  # fmt: skip
_BMS_STATE = np.dtype(
    [
        ("version_high", "u1"), ("version_low", "u1"), ("status", "u1"), ("soc", "u1"),
        ("current", "<i4"), ("cycle", "<u2"), ("bq_ntc", "i1", 2), ("mcu_ntc", "i1", 2),
        ("cell_vol", "<u2", 15),
    ],
    align=True,
)  # fmt: skip
LOW_CMD: Final = np.dtype(
    [
        *_BEGIN, ("motor_cmd", _MOTOR_CMD, N_MOTORS), ("bms_cmd", _BMS_CMD),
        ("wireless_remote", "u1", 40), ("led", "u1", 12), ("fan", "u1", 2), ("gpio", "u1"),
        ("reserve", "<u4"), ("crc", "<u4"),
    ],
    align=True,
)  # fmt: skip
"""The struct of LowCmd, 812 bytes."""
LOW_STATE: Final = np.dtype(
    [
        *_BEGIN, ("imu_state", _IMU_STATE), ("motor_state", _MOTOR_STATE, N_MOTORS),
        ("bms_state", _BMS_STATE), ("foot_force", "<i2", 4), ("foot_force_est", "<i2", 4),
        ("tick", "<u4"), ("wireless_remote", "u1", 40), ("bit_flag", "u1"), ("adc_reel", "<f4"),
        ("temperature_ntc1", "i1"), ("temperature_ntc2", "i1"), ("power_v", "<f4"),
        ("power_a", "<f4"), ("fan_frequency", "<u2", 4), ("reserve", "<u4"), ("crc", "<u4"),
    ],
    align=True,
)  # fmt: skip
"""The struct of LowState, 1180 bytes."""


class MessageLayout:
    """Converts one kind of message between its struct and its CDR body.

    Args:
        name: of the message.
        struct: `LOW_CMD` or `LOW_STATE`.
        before: the field before the motors.
        motors: the field of the motors.
    """

    def __init__(self, name: str, struct: np.dtype[np.void], before: str, motors: str) -> None:
        assert struct.fields is not None
        self.name, self.struct = name, struct
        last, at = struct.fields[before][:2]
        self._end = at + _size_without_padding(last)
        self._motors = struct.fields[motors][1]
        filler = -(self._end + 1) % 4  # between the first motor's mode and its q
        self._filler = bytes(filler)
        self._shift = self._motors + 4 - (self._end + 1 + filler)  # of all behind, in bytes
        self._is_field = _field_bytes(struct)
        self.size = len(CDR_HEADER) + struct.itemsize - self._shift  # of a serialized message

    def serialize(self, struct: bytes) -> bytes:
        """Return the serialized message of a struct.

        Args:
            struct: of `struct.itemsize` bytes, with zeros between the fields.
        """
        first = self._motors
        mode = struct[first : first + 1]
        return CDR_HEADER + struct[: self._end] + mode + self._filler + struct[first + 4 :]

    def deserialize(self, data: bytes) -> np.ndarray[Any, np.dtype[np.void]]:
        """Return the struct of a serialized message, shape (1,), with zeros between its fields.

        Args:
            data: with its header, as the middleware hands it over.

        Raises:
            InputError: another length or encoding.
        """
        if len(data) != self.size or data[:2] != CDR_HEADER[:2]:
            raise InputError(
                f"{self.name}: expected {self.size} bytes of plain little-endian CDR that begin"
                f" with {CDR_HEADER[:2].hex()}, got {len(data)} bytes that begin with"
                f" {data[:2].hex()}: its definition or encoding is not Unitree's for the Go2"
            )
        body, end = data[len(CDR_HEADER) :], self._end
        between = bytes(self._motors - end)
        rest = body[self._motors + 4 - self._shift :]
        struct = body[:end] + between + body[end : end + 1] + bytes(3) + rest
        found = np.frombuffer(struct, np.uint8) & self._is_field
        return found.view(self.struct)

    def crc(self, struct: bytes) -> int:
        """Return the checksum that belongs into a struct.

        Args:
            struct: with zeros between its fields; its own checksum, the last word, is not read.
        """
        return crc32(struct[:-4])


def _size_without_padding(kind: np.dtype[Any]) -> int:
    """Return where a type's last field ends; a struct may be longer [bytes]."""
    if kind.fields is None:
        return kind.itemsize
    return max(at + _size_without_padding(inner) for inner, at in _offsets(kind))


def _offsets(kind: np.dtype[Any]) -> list[tuple[np.dtype[Any], int]]:
    """Return type and offset of each field."""
    assert kind.fields is not None
    return [(entry[0], entry[1]) for entry in kind.fields.values()]


def _field_bytes(kind: np.dtype[Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return 0xFF for each byte of a struct that belongs to a field, 0 for those between."""
    mask = np.zeros(kind.itemsize, np.uint8)
    if kind.subdtype is not None:
        inner, shape = kind.subdtype
        return np.tile(_field_bytes(inner), int(np.prod(shape)))
    if kind.fields is None:
        mask[:] = 0xFF
        return mask
    for inner, at in _offsets(kind):
        mask[at : at + inner.itemsize] = _field_bytes(inner)
    return mask


LOW_CMD_LAYOUT: Final = MessageLayout("LowCmd", LOW_CMD, "bandwidth", "motor_cmd")
LOW_STATE_LAYOUT: Final = MessageLayout("LowState", LOW_STATE, "imu_state", "motor_state")


class Frame:
    """One message that is filled and sent again and again.

    Args:
        layout: of the message.
    """

    def __init__(self, layout: MessageLayout) -> None:
        self._layout = layout
        array = np.zeros(1, layout.struct)
        self._bytes = array.view(np.uint8)
        self.fields: Any = array[0]  # its struct; what is written here is what is sent
        self.fields["head"] = HEAD

    def sealed(self) -> bytes:
        """Return the serialized message, with its checksum."""
        self.fields["crc"] = self._layout.crc(self._bytes.tobytes())
        return self._layout.serialize(self._bytes.tobytes())


def read_message(layout: MessageLayout, data: bytes, check_crc: bool = True) -> Any:
    """Return the struct of a message that was received, as a numpy record.

    Args:
        layout: of the message.
        data: serialized, with its header.
        check_crc: whether a wrong checksum is an error.

    Raises:
        InputError: another length, encoding, or checksum.
    """
    array = layout.deserialize(data)
    found = array[0]
    if check_crc:
        expected, got = layout.crc(array.tobytes()), int(found["crc"])
        if expected != got:
            raise InputError(
                f"{layout.name}: expected the checksum {expected:#010x}, got {got:#010x}"
            )
    return found
