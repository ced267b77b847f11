"""Everything that can be wrong while a policy runs, and the first answer to it."""

from __future__ import annotations

from enum import Enum, IntEnum


class SafetyLevel(IntEnum):
    """The ladder of answers. A trouble that lasts climbs it; only an operator leaves STOP."""

    RUN = 0  # the policy's command, untouched
    CLAMP = 1  # the policy's command, brought within the limits
    HOLD = 2  # the last good command, for `safety.hold` at most
    DAMP = 3  # the way to rest, see `CommandLimits`
    STOP = 4  # the way to rest, latched


class Fault(str, Enum):
    """Why an answer was given. The values are what diagnostics and recordings show."""

    POSITION_LIMIT = "position_limit"
    VELOCITY_LIMIT = "velocity_limit"
    EFFORT_LIMIT = "effort_limit"
    JOINTS_REORDERED = "joints_reordered"
    COMMAND_VELOCITY_LOST = "command_velocity_lost"
    CLOCK_AHEAD = "clock_ahead"
    OBSERVATION_STALE = "observation_stale"
    OBSERVATION_NAN = "observation_nan"
    OBSERVATION_OUT_OF_RANGE = "observation_out_of_range"
    JOINT_MISSING = "joint_missing"
    IMU_STALE = "imu_stale"
    WRONG_RATE = "wrong_rate"
    ACTION_NAN = "action_nan"
    OVERRUN = "overrun"
    TILT = "tilt"
    COMMAND_CONFLICT = "command_conflict"
    LISTENER_LOST = "listener_lost"
    ESTOP = "estop"
    RATE_OFF = "rate_off"
    OBSERVATION_JUMP = "observation_jump"
    OBSERVATION_FROZEN = "observation_frozen"
    STATE_CONFLICT = "state_conflict"
    SECOND_PUBLISHER = "second_publisher"
    RIVAL_PUBLISHER = "rival_publisher"
    TYPE_MISMATCH = "type_mismatch"
    CLOCK_WENT_BACK = "clock_went_back"
    SELF_LATE = "self_late"
    SELF_STALLED = "self_stalled"


FIRST_RESPONSE: dict[Fault, SafetyLevel] = {
    Fault.POSITION_LIMIT: SafetyLevel.CLAMP,
    Fault.VELOCITY_LIMIT: SafetyLevel.CLAMP,
    Fault.EFFORT_LIMIT: SafetyLevel.CLAMP,
    Fault.JOINTS_REORDERED: SafetyLevel.RUN,  # followed by name
    Fault.COMMAND_VELOCITY_LOST: SafetyLevel.RUN,  # the policy is asked to stand still
    Fault.CLOCK_AHEAD: SafetyLevel.RUN,
    Fault.RATE_OFF: SafetyLevel.RUN,
    Fault.SECOND_PUBLISHER: SafetyLevel.RUN,
    Fault.RIVAL_PUBLISHER: SafetyLevel.RUN,
    Fault.TYPE_MISMATCH: SafetyLevel.RUN,
    Fault.SELF_LATE: SafetyLevel.RUN,  # the command ramps from the measured pose
    Fault.OBSERVATION_STALE: SafetyLevel.HOLD,
    Fault.OBSERVATION_NAN: SafetyLevel.HOLD,
    Fault.JOINT_MISSING: SafetyLevel.HOLD,
    Fault.IMU_STALE: SafetyLevel.HOLD,
    Fault.ACTION_NAN: SafetyLevel.HOLD,
    Fault.OBSERVATION_JUMP: SafetyLevel.HOLD,
    Fault.STATE_CONFLICT: SafetyLevel.HOLD,
    Fault.OBSERVATION_OUT_OF_RANGE: SafetyLevel.DAMP,
    Fault.OBSERVATION_FROZEN: SafetyLevel.DAMP,
    Fault.WRONG_RATE: SafetyLevel.DAMP,
    Fault.OVERRUN: SafetyLevel.DAMP,
    Fault.TILT: SafetyLevel.STOP,
    Fault.COMMAND_CONFLICT: SafetyLevel.STOP,
    Fault.LISTENER_LOST: SafetyLevel.STOP,
    Fault.ESTOP: SafetyLevel.STOP,
    Fault.CLOCK_WENT_BACK: SafetyLevel.STOP,
    Fault.SELF_STALLED: SafetyLevel.STOP,
}
# a state with one of these is not shown to the policy, nor used to damp
UNUSABLE = frozenset(
    {
        Fault.OBSERVATION_STALE,
        Fault.OBSERVATION_NAN,
        Fault.OBSERVATION_OUT_OF_RANGE,
        Fault.OBSERVATION_JUMP,
        Fault.OBSERVATION_FROZEN,
        Fault.STATE_CONFLICT,
        Fault.JOINT_MISSING,
        Fault.IMU_STALE,
    }
)
