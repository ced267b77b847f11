"""Templates of the section `task:` for a robot that was surveyed."""

from __future__ import annotations

from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.draft_request import TaskName
from dime_robot.sim.draft.patterns import name_text, number_text, patterns_of
from dime_robot.sim.draft.text import Text
from dime_robot.sim.model.survey import Survey

TARGET = "target"  # name of the command of reach and joint-tracking
EFFORT_WEIGHT, EFFORT_MASS = -1e-4, 15.0  # of a walking robot of this mass [kg]
GRAVITY = 9.81  # [m/s^2]
FROUDE_SPEED = 0.3  # of a quick walk: its speed over the root of gravity times height [1]
SPREAD = 0.4  # of the joints, within which points are drawn [rad or m]
REACHED = 0.03  # [m]
TARGETS = 0.3  # share of the way to a stop, within which joint positions are drawn
TRACKED = 0.1  # [rad or m]


def usual_task(found: Survey) -> TaskName:
    """Return the task that fits a robot best."""
    if found.legged:
        return "velocity"
    return "none" if found.free_base is not None else "joint-tracking"


def require_task_fits(path: object, found: Survey, task: TaskName) -> None:
    """Refuse a task that the robot cannot do.

    Raises:
        InputError: it cannot.
    """
    if task == "velocity" and (found.free_base is None or found.height is None):
        raise InputError(
            f"{path}: --task velocity: expected a base that moves freely and stands on the ground,"
            " got a base that is fixed to the world; give its root body a <freejoint/> (of URDF:"
            " --base floating), or choose another task"
        )


def write_task(text: Text, found: Survey, task: TaskName, site: str) -> None:
    """Add the section.

    Args:
        text: of the configuration.
        found: the robot.
        task: that it can do.
        site: at the end effector, for reach.
    """
    if task == "velocity":
        _velocity(text, found)
    elif task == "reach":
        _reach(text, found, site)
    elif task == "joint-tracking":
        _joint_tracking(text)


def _velocity(text: Text, found: Survey) -> None:
    height = found.height.value if found.height is not None else 0.0
    weight = EFFORT_WEIGHT * min(1.0, (EFFORT_MASS / max(found.mass, 1e-6)) ** 2)
    moved = [joint.name for joint in found.of_role("moved")]
    hips = [joint.name for joint in found.of_role("moved") if joint.sideways]
    why = found.height.why if found.height is not None else ""
    speed = number_text(round(FROUDE_SPEED * (GRAVITY * max(height, 0.01)) ** 0.5, 2))
    text.line(0, "task:", "straight ahead, learned first; weights are those of a small quadruped")
    text.line(2, "episode_seconds: 10.0")
    text.line(2, "reset:")
    text.line(4, "pose: {term: joint_positions, noise: 0.05}", "[rad]")
    text.line(4, f"base: {{term: base_height, height: {number_text(height)}}}", "[m]", why)
    text.line(2, "commands:", "[m/s], [rad/s], time between two draws [s]")
    # widened later: a policy that is told to stand from the start learns nothing else
    text.line(4, f"velocity: {{term: uniform_velocity, linear_x: [{speed}, {speed}],")
    text.line(15, "linear_y: [0.0, 0.0], angular_z: [0.0, 0.0], standing: 0.0, turning: 0.0,")
    text.line(15, "resample: 5.0}")
    text.line(2, "rewards:", "a first step must have a higher reward than standing still")
    text.line(4, f"track_linear: {{term: track_linear_velocity, weight: 1.5, width: {speed}}}")
    text.line(4, "track_yaw: {term: track_yaw_rate, weight: 0.25, width: 0.5}")
    text.line(4, "alive: 0.5")
    text.line(4, "vertical_speed: -0.5")
    text.line(4, "roll_pitch_rate: -0.025")
    text.line(4, "tilt: -2.0")
    text.line(4, "action_change: -0.02")
    comment = "smaller, the heavier the robot"
    text.line(4, f"effort: {f'{weight:.1e}'.replace('e-0', 'e-')}", comment)
    if hips:
        listed = ", ".join(name_text(pattern) for pattern in patterns_of(hips, moved))
        text.line(
            4, f"joint_deviation: {{weight: -0.1, joints: [{listed}]}}", "not across the base"
        )
    text.line(2, "terminations:")
    text.line(4, "tilted: {angle: 60.0}", "[degrees]")
    text.line(4, f"sunk: {{height: {number_text(round(height / 2, 3))}}}", "[m]")
    error = number_text(round(0.2 * float(speed), 3))
    text.line(2, f"success: {{tracked: {{term: VelocityTracked, error: {error}}}}}", "[m/s]")
    text.line(2, "metrics:")
    text.line(4, "velocity_error: {}")
    text.line(4, "yaw_rate_error: {}")
    text.line(4, "tracking_reward: {term: reward_of, rewards: [track_linear, track_yaw]}")
    text.line(2, "minimum_reward: 0.0")
    text.blank()
    text.line(
        0,
        "training: {discount: 0.98, steps: 30000, eval_interval: 2000}",
        "a horizon of 1 s is enough for a gait",
    )


def _reach(text: Text, found: Survey, site: str) -> None:
    named = f"site: {name_text(site)}, command: {TARGET}"
    text.line(0, "task:", "a site of the robot goes to a commanded point")
    text.line(2, "episode_seconds: 4.0")
    text.line(2, "reset: {pose: {term: joint_positions, noise: 0.1}}", "[rad or m]")
    text.line(
        2, "commands:", f"where the site is with joints up to {SPREAD:g} off the default pose"
    )
    text.line(
        4,
        f"{TARGET}: {{term: reachable_point, site: {name_text(site)}, spread: {SPREAD},"
        " resample: 2.0}",
        why=found.end.why,
    )
    text.line(2, "rewards:", "in [0, 2]")
    text.line(4, f"near: {{term: near_point, {named}, weight: 1.0, width: 0.2}}", "[m]")
    text.line(4, f"there: {{term: near_point, {named}, weight: 1.0, width: 0.03}}")
    _gently(text)
    text.line(2, "success:")
    text.line(
        4, f"reached: {{term: PointReached, {named}, distance: {REACHED}, window: 0.5}}", "[m]"
    )
    text.line(2, f"metrics: {{target_error: {{term: point_error, {named}}}}}", "[m]")
    text.blank()
    text.line(0, "training: {discount: 0.97, steps: 100000}")


def _joint_tracking(text: Text) -> None:
    named = f"command: {TARGET}"
    text.line(0, "task:", "the joints track commanded positions")
    text.line(2, "episode_seconds: 4.0")
    text.line(2, "reset: {pose: {term: joint_positions, noise: 0.1}}", "[rad or m]")
    text.line(2, "commands:", "a share of the way from the default position to the stops")
    text.line(4, f"{TARGET}: {{term: joint_targets, share: {TARGETS}, resample: 2.0}}")
    text.line(2, "rewards:", "in [0, 2]")
    text.line(4, f"near: {{term: track_joints, {named}, weight: 1.0, width: 0.5}}", "[rad or m]")
    text.line(4, f"there: {{term: track_joints, {named}, weight: 1.0, width: 0.1}}")
    _gently(text)
    text.line(2, f"success: {{tracked: {{term: JointsTracked, {named}, error: {TRACKED}}}}}")
    text.line(2, f"metrics: {{target_error: {{term: joint_error, {named}}}}}", "[rad or m]")
    text.blank()
    text.line(0, "training: {discount: 0.97, steps: 100000}")


def _gently(text: Text) -> None:
    text.line(4, "action_change: -0.5")
    text.line(4, "joint_speed: -0.01")
    text.line(2, "minimum_reward: 0.0")
