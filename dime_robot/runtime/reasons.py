"""Everything that can be wrong while a policy runs, and the first answer to it."""

from __future__ import annotations

from enum import Enum, IntEnum


class Rung(IntEnum):
    """The ladder of answers. A trouble that lasts climbs it; only an operator leaves STOP."""

    RUN = 0  # the policy's command, untouched
    CLAMP = 1  # the policy's command, brought within the limits
    HOLD = 2  # the last good command, for `safety.hold` at most
    DAMP = 3  # the way to rest, see `CommandLimits`
    STOP = 4  # the way to rest, latched


class Reason(str, Enum):
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


FIRST_ANSWER: dict[Reason, Rung] = {
    Reason.POSITION_LIMIT: Rung.CLAMP,
    Reason.VELOCITY_LIMIT: Rung.CLAMP,
    Reason.EFFORT_LIMIT: Rung.CLAMP,
    Reason.JOINTS_REORDERED: Rung.RUN,  # followed by name
    Reason.COMMAND_VELOCITY_LOST: Rung.RUN,  # the policy is asked to stand still
    Reason.CLOCK_AHEAD: Rung.RUN,
    Reason.RATE_OFF: Rung.RUN,
    Reason.SECOND_PUBLISHER: Rung.RUN,
    Reason.RIVAL_PUBLISHER: Rung.RUN,
    Reason.TYPE_MISMATCH: Rung.RUN,
    Reason.SELF_LATE: Rung.RUN,  # the command ramps from the measured pose
    Reason.OBSERVATION_STALE: Rung.HOLD,
    Reason.OBSERVATION_NAN: Rung.HOLD,
    Reason.JOINT_MISSING: Rung.HOLD,
    Reason.IMU_STALE: Rung.HOLD,
    Reason.ACTION_NAN: Rung.HOLD,
    Reason.OBSERVATION_JUMP: Rung.HOLD,
    Reason.STATE_CONFLICT: Rung.HOLD,
    Reason.OBSERVATION_OUT_OF_RANGE: Rung.DAMP,
    Reason.OBSERVATION_FROZEN: Rung.DAMP,
    Reason.WRONG_RATE: Rung.DAMP,
    Reason.OVERRUN: Rung.DAMP,
    Reason.TILT: Rung.STOP,
    Reason.COMMAND_CONFLICT: Rung.STOP,
    Reason.LISTENER_LOST: Rung.STOP,
    Reason.ESTOP: Rung.STOP,
    Reason.CLOCK_WENT_BACK: Rung.STOP,
    Reason.SELF_STALLED: Rung.STOP,
}
# a state with one of these is not shown to the policy, nor used to damp
UNUSABLE = frozenset(
    {
        Reason.OBSERVATION_STALE,
        Reason.OBSERVATION_NAN,
        Reason.OBSERVATION_OUT_OF_RANGE,
        Reason.OBSERVATION_JUMP,
        Reason.OBSERVATION_FROZEN,
        Reason.STATE_CONFLICT,
        Reason.JOINT_MISSING,
        Reason.IMU_STALE,
    }
)
