"""SimState: fills the LowState messages of a simulated Go2.

All fields have values of a healthy robot. Noise of the sensors is an estimate; it is there so that
no two messages of a robot at rest are equal.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import LOW_LEVEL, LOW_STATE_LAYOUT, MOTORS, Frame
from dime_robot.runtime.unitree.remote import BUTTONS, SIZE
from ros_nodes.unitree.sim_robot import SimRobot

N = len(MOTORS)
# standard deviations of q, dq, gyroscope, accelerometer [rad], [rad/s], [rad/s], [m/s^2]
NOISE = np.repeat([1e-4, 5e-3, 2e-3, 2e-2], [N, N, 3, 3])
MOTOR_TEMPERATURE, IMU_TEMPERATURE, BOARD_TEMPERATURE = 38, 60, 35  # [degrees Celsius]
VOLTAGE, REST_CURRENT, CHARGE = 29.5, 1.5, 90  # [V], [A], [%]
CELLS, CELL_VOLTAGE = 8, 3690  # [mV]
FORCE_UNITS = 1.0  # of foot_force per N; a Go2's own unit is not published
REMOTE_ON = b"\x55\x51"  # any head but 0
STICKS = ("lx", "rx", "ry", "L2", "ly")  # the floats of the remote, in their order
REMOTE_EVERY = 10  # messages have the same reading of the remote
REMOTE_NOISE = 2e-3  # of a stick: no two readings are equal


class SimState:
    """Makes messages of a robot's state.

    Args:
        robot: the simulated robot.
        seal: whether the messages have a checksum; else it is 0, as from Unitree's own simulator.
        seed: of the noise.
    """

    def __init__(self, robot: SimRobot, seal: bool, seed: int) -> None:
        self._robot, self._seal = robot, seal
        self._random = np.random.default_rng(seed)
        self._frame = Frame(LOW_STATE_LAYOUT)
        self.fields: Any = self._frame.fields
        self.remote = ""  # see `remote_bytes`
        self._filled = 0
        imu, motors = self.fields["imu_state"], self.fields["motor_state"]
        # views into the message: looking a field up takes longer than writing it
        self._quaternion, self._rpy = imu["quaternion"], imu["rpy"]
        self._gyroscope, self._accelerometer = imu["gyroscope"], imu["accelerometer"]
        self._motors = {name: motors[name][:N] for name in motors.dtype.names}
        self._fill_constants()

    def _fill_constants(self) -> None:
        fields = self.fields
        fields["level_flag"], fields["version"] = LOW_LEVEL, (1, 0)
        fields["imu_state"]["temperature"] = IMU_TEMPERATURE
        battery = fields["bms_state"]
        battery["version_high"], battery["soc"], battery["cycle"] = 1, CHARGE, 10
        battery["bq_ntc"] = battery["mcu_ntc"] = BOARD_TEMPERATURE
        battery["cell_vol"][:CELLS] = CELL_VOLTAGE
        fields["temperature_ntc1"] = fields["temperature_ntc2"] = BOARD_TEMPERATURE
        fields["power_v"], fields["fan_frequency"] = VOLTAGE, (1000, 1000, 1000, 1000)

    def fill(self, mode: int) -> None:
        """Fill in a new reading.

        Args:
            mode: of the motors.
        """
        robot, fields, motors = self._robot, self.fields, self._motors
        noise = NOISE * self._random.standard_normal(len(NOISE))
        q = robot.orientation
        self._quaternion[:], self._rpy[:] = q, roll_pitch_yaw(q)
        self._gyroscope[:] = robot.angular_velocity + noise[2 * N : 2 * N + 3]
        self._accelerometer[:] = robot.specific_force() + noise[2 * N + 3 :]
        position, velocity = robot.position + noise[:N], robot.velocity
        motors["mode"][:], motors["temperature"][:] = mode, MOTOR_TEMPERATURE
        motors["q"][:] = motors["q_raw"][:] = position
        motors["dq"][:] = motors["dq_raw"][:] = velocity + noise[N : 2 * N]
        motors["ddq"][:] = motors["ddq_raw"][:] = robot.acceleration
        motors["tau_est"][:] = robot.torque
        fields["foot_force"] = fields["foot_force_est"] = FORCE_UNITS * robot.foot_forces()
        current = REST_CURRENT + float(np.abs(robot.torque * velocity).sum()) / VOLTAGE
        fields["power_a"], fields["bms_state"]["current"] = current, round(-1000 * current)
        fields["tick"] = round(1000 * robot.time)
        if self._filled % REMOTE_EVERY == 0:
            jitter = REMOTE_NOISE * self._random.uniform(-1, 1, 4)
            remote = np.frombuffer(remote_bytes(self.remote, jitter), np.uint8)
            fields["wireless_remote"] = remote
        self._filled += 1

    def sealed(self) -> bytes:
        """Return the serialized message of what is filled in."""
        data = self._frame.sealed()
        return data if self._seal else data[:-4] + bytes(4)


def roll_pitch_yaw(quaternion: FloatArray) -> FloatArray:
    """Return the angles of a rotation, shape (3,) [rad].

    Args:
        quaternion: w x y z, shape (4,).
    """
    w, x, y, z = quaternion.tolist()
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = math.asin(min(1.0, max(-1.0, 2 * (w * y - z * x))))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return np.array([roll, pitch, yaw])


def remote_bytes(text: str, jitter: FloatArray) -> bytes:
    """Return the bytes of the wireless remote.

    Args:
        text: what is held, such as `L1 A ly=0.5`, right and up are positive; `on`: nothing is;
            empty: the remote is off, all bytes are 0.
        jitter: added to lx, rx, ry, ly, shape (4,) [1].

    Raises:
        InputError: another word.
    """
    if not text.strip():
        return bytes(SIZE)
    keys, sticks = 0, dict.fromkeys(STICKS, 0.0)
    for word in text.split():
        name, _, value = word.partition("=")
        try:
            if word in BUTTONS:
                keys |= 1 << BUTTONS.index(word)
            elif word != "on":
                sticks[STICKS[STICKS.index(name)]] = number = float(value)
                if not abs(number) <= 1:
                    raise ValueError
        except ValueError:
            raise InputError(
                f"remote: expected words out of {', '.join(BUTTONS)}, on, or one of"
                f" {', '.join(STICKS)} with a number from -1 to 1, such as ly=0.5, got {word!r}",
                code="parameter",
            ) from None
    for name, noise in zip(("lx", "rx", "ry", "ly"), jitter.tolist(), strict=True):
        sticks[name] = min(1.0, max(-1.0, sticks[name] + noise))
    used = REMOTE_ON + struct.pack("<H5f", keys, *(sticks[name] for name in STICKS))
    return used.ljust(SIZE, b"\0")
