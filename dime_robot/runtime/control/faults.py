"""Everything that can be wrong while a policy runs, and the first response to it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum


class SafetyLevel(IntEnum):
    """The levels of response, in rising order. A fault that lasts escalates.

    Only an operator leaves STOP.
    """

    RUN = 0  # the policy's command, unchanged
    CLAMP = 1  # the policy's command, brought within the limits
    HOLD = 2  # the last good command, or velocities of joints towards 0; for `safety.hold` at most
    DAMP = 3  # the command that brings the robot to rest, see `rest.py`
    STOP = 4  # the same, latched


class Fault(str, Enum):
    """What is wrong, with the first response to it.

    The values are what diagnostics and recordings show. Their order is that of the bits in a
    recording: add new ones at the end.

    Attributes:
        first_response: level at which the response to this fault begins.
        makes_unusable: a state with this fault is not shown to the policy, nor used for damping.
    """

    _value_: str
    first_response: SafetyLevel
    makes_unusable: bool

    def __new__(cls, value: str, response: SafetyLevel, makes_unusable: bool = False) -> Fault:
        """Make a member from its value and its attributes."""
        fault = str.__new__(cls, value)
        fault._value_ = value
        fault.first_response, fault.makes_unusable = response, makes_unusable
        return fault

    POSITION_LIMIT = "position_limit", SafetyLevel.CLAMP
    VELOCITY_LIMIT = "velocity_limit", SafetyLevel.CLAMP
    EFFORT_LIMIT = "effort_limit", SafetyLevel.CLAMP
    JOINTS_REORDERED = "joints_reordered", SafetyLevel.RUN  # joints are matched by name
    COMMAND_VELOCITY_LOST = "command_velocity_lost", SafetyLevel.RUN  # the command becomes 0
    CLOCK_AHEAD = "clock_ahead", SafetyLevel.RUN
    OBSERVATION_STALE = "observation_stale", SafetyLevel.HOLD, True
    OBSERVATION_NAN = "observation_nan", SafetyLevel.HOLD, True
    OBSERVATION_OUT_OF_RANGE = "observation_out_of_range", SafetyLevel.DAMP, True
    JOINT_MISSING = "joint_missing", SafetyLevel.HOLD, True
    IMU_STALE = "imu_stale", SafetyLevel.HOLD, True
    WRONG_RATE = "wrong_rate", SafetyLevel.DAMP
    ACTION_NAN = "action_nan", SafetyLevel.HOLD
    OVERRUN = "overrun", SafetyLevel.DAMP
    TILT = "tilt", SafetyLevel.STOP
    COMMAND_CONFLICT = "command_conflict", SafetyLevel.STOP
    LISTENER_LOST = "listener_lost", SafetyLevel.STOP
    ESTOP = "estop", SafetyLevel.STOP
    RATE_OFF = "rate_off", SafetyLevel.RUN
    OBSERVATION_JUMP = "observation_jump", SafetyLevel.HOLD, True
    OBSERVATION_FROZEN = "observation_frozen", SafetyLevel.DAMP, True
    STATE_CONFLICT = "state_conflict", SafetyLevel.HOLD, True
    SECOND_PUBLISHER = "second_publisher", SafetyLevel.RUN
    RIVAL_PUBLISHER = "rival_publisher", SafetyLevel.RUN
    TYPE_MISMATCH = "type_mismatch", SafetyLevel.RUN
    CLOCK_WENT_BACK = "clock_went_back", SafetyLevel.STOP
    SELF_LATE = "self_late", SafetyLevel.RUN  # the command ramps from the measured pose
    SELF_STALLED = "self_stalled", SafetyLevel.STOP
    TASK_COMMAND_LOST = "task_command_lost", SafetyLevel.RUN  # it is held, or becomes 0
    SENSOR_LOST = "sensor_lost", SafetyLevel.HOLD
    SIGNAL_LOST = "signal_lost", SafetyLevel.STOP  # of either kind, with `when_lost: stop`
    SIGNAL_REFUSED = "signal_refused", SafetyLevel.RUN  # the value before it is used
    CONTACT_STALE = "contact_stale", SafetyLevel.HOLD
    PHASE_FAILED = "phase_failed", SafetyLevel.STOP  # with `on_failure: stop`
    JOYSTICK_LOST = "joystick_lost", SafetyLevel.RUN  # the velocity becomes 0
    JOYSTICK_REFUSED = "joystick_refused", SafetyLevel.RUN  # a message, an axis or a request


UNUSABLE = frozenset(fault for fault in Fault if fault.makes_unusable)
# the policy is not evaluated; a lost sensor says nothing about the joints, which are damped as ever
BLINDING = UNUSABLE | {Fault.SENSOR_LOST, Fault.CONTACT_STALE}


def serious(faults: Iterable[Fault]) -> list[Fault]:
    """Those to which the response is more than clamping the policy's command."""
    return [fault for fault in faults if fault.first_response >= SafetyLevel.HOLD]
