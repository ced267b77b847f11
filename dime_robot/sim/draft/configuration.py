"""A whole configuration of a robot that was surveyed, as text."""

from __future__ import annotations

from dataclasses import dataclass

from dime_robot.runtime.contract.units import MAX_ANGLE
from dime_robot.sim.config.draft_request import TaskName
from dime_robot.sim.draft.patterns import Cell, Fields, name_text, number_text, shared_fields
from dime_robot.sim.draft.tasks import TARGET, TARGETS, write_task
from dime_robot.sim.draft.text import Text
from dime_robot.sim.model.survey import NOT_CHOSEN, Estimate, Survey, SurveyedJoint, significant

RATE = 50.0  # of control [Hz]
SCALE = 0.3  # of an action of a revolute joint [rad]
FAR = 0.5  # the same where a point is to be reached [rad]
SHARE = 0.25  # of an action of a prismatic joint: of its range
SLIDE = 0.1  # of an action of a prismatic joint without stops [m]


@dataclass(frozen=True)
class Steps:
    """How a control step is simulated."""

    timestep: float  # [s]
    decimation: int
    drive: str  # explicit or implicit
    why: str  # comment


@dataclass(frozen=True)
class Names:
    """What the configuration calls things."""

    robot: str
    model: str  # path, relative to the configuration
    site: str  # at the end effector
    frame: str  # of the root body


def configuration(found: Survey, names: Names, task: TaskName, steps: Steps, source: str) -> Text:
    """Write a configuration.

    Args:
        found: the robot.
        names: of things.
        task: that it learns.
        steps: of the simulation.
        source: what was surveyed, for the first line.
    """
    text = Text()
    for note in (
        f"# {names.robot}, drafted from {source}.",
        "# Lines with `# ?` have a guess: look at them first.",
    ):
        text.line(0, note)
    _policy(text, found, names, task)
    text.blank()
    _robot(text, found, names, task)
    text.blank()
    _sim(text, found, names, steps)
    if task != "none":
        text.blank()
        write_task(text, found, task, names.site)
    return text


def _policy(text: Text, found: Survey, names: Names, task: TaskName) -> None:
    moved = found.of_role("moved")
    text.line(0, "policy:", "the contract: a change here needs a new policy")
    text.line(2, "version: 1")
    text.line(2, f"name: {name_text(names.robot)}")
    text.line(2, f"rate: {number_text(RATE)}", "[Hz]")
    text.names(2, "joints", [joint.name for joint in moved])
    text.line(2, "joint_defaults:", "[rad or m], [N m or N], gains [N m/rad], [N m s/rad]")
    fields = {joint.name: _contract_fields(joint) for joint in moved}
    if all(joint.limits is None for joint in moved):
        for each in fields.values():
            del each["position_limits"]
    text.table(4, shared_fields(fields))
    text.line(2, "observation:")
    if found.free_base is not None:
        text.line(4, "- {name: gyro, kind: angular_velocity, scale: 0.25}")
        text.line(4, "- {name: gravity, kind: projected_gravity}")
    if task == "velocity":
        text.line(4, "- {name: command, kind: command_velocity, scale: 2.0}")
    elif task == "reach":
        text.line(
            4, f"- {{name: {TARGET}, kind: command, size: 3, unit: m}}", "of the end effector"
        )
    elif task == "joint-tracking":
        unit = _unit(moved)
        text.line(4, f"- {{name: {TARGET}, kind: command, size: {len(moved)}, unit: {unit}}}")
    text.line(4, "- {name: joint_position, kind: joint_position_relative}")
    text.line(4, "- {name: joint_velocity, kind: joint_velocity, scale: 0.05}")
    text.line(4, "- {name: last_action, kind: last_action}")
    scale, comment = _scale(moved, task), "target = default_position + scale * action [rad or m]"
    text.line(2, "action:", comment)
    text.line(4, "kind: position")
    low_pass = _low_pass(found, task)
    if low_pass < 1:
        why = "" if task == "velocity" else ": a target moves no faster than its joint can"
        text.line(4, f"low_pass: {number_text(low_pass)}", f"share of a new action{why}")
    word = ""
    if all(joint.limits is not None for joint in moved):
        word = "or `limits`: as far as position_limits allow"
    if isinstance(scale, str):
        text.line(4, f"scale: {scale}", word)
    else:
        text.line(4, "scale:", word)
        for pattern, row in scale.items():
            text.line(6, f"{name_text(pattern)}: {row['scale'].text}")
    held = found.of_role("held")
    if held:
        text.line(2, "held_joints:", "that the robot holds beside the policy [rad or m]")
        for joint in held:
            why = joint.position.why or ("" if joint.why == NOT_CHOSEN else joint.why)
            text.line(4, f"{name_text(joint.name)}: {number_text(joint.position.value)}", why=why)


def _contract_fields(joint: SurveyedJoint) -> Fields:
    return {
        "type": Cell(joint.type),
        "position_limits": Cell(_limits(joint)),
        "effort_limit": _cell(joint.effort),
        "default_position": _cell(joint.position),
        "stiffness": _cell(joint.stiffness),
        "damping": _cell(joint.damping),
    }


def _cell(estimate: Estimate) -> Cell:
    return Cell(number_text(estimate.value), estimate.why)


def _limits(joint: SurveyedJoint) -> str:
    if joint.limits is None:
        return "null"
    return f"[{', '.join(number_text(stop) for stop in joint.limits)}]"


def _unit(joints: list[SurveyedJoint]) -> str:
    kinds = {joint.type for joint in joints}
    return "rad" if kinds == {"revolute"} else "m" if kinds == {"prismatic"} else "rad or m"


def _scale(joints: list[SurveyedJoint], task: TaskName) -> str | dict[str, Fields]:
    """Return the scale of the action: one number, or fields by pattern."""
    scales = {joint.name: _one_scale(joint, task) for joint in joints}
    if len(set(scales.values())) == 1:
        return number_text(next(iter(scales.values())))
    return shared_fields({name: {"scale": Cell(number_text(s))} for name, s in scales.items()})


def _one_scale(joint: SurveyedJoint, task: TaskName) -> float:
    """Return how far an action of 1 moves a joint's target [rad or m]."""
    if joint.limits is None:
        return TARGETS if task == "joint-tracking" else SCALE if joint.type == "revolute" else SLIDE
    low, high = joint.limits
    default = joint.position.value
    wanted = SHARE * (high - low)
    if task == "joint-tracking":  # a little more than the targets need
        wanted = min((TARGETS + 0.05) * max(high - default, default - low), high - low)
    elif joint.type == "revolute":
        wanted = FAR if task == "reach" else SCALE
    return min(significant(wanted, 3, up=True), MAX_ANGLE)


def _low_pass(found: Survey, task: TaskName) -> float:
    """Return the share of a new action with which targets move no faster than the joints can."""
    if task == "velocity":
        return 0.6
    if task == "none":
        return 1.0
    shares = [
        joint.velocity.value / (2 * _one_scale(joint, task) * RATE)
        for joint in found.of_role("moved")
    ]
    return max(0.01, min(1.0, significant(min(shares), 2)))


def _robot(text: Text, found: Survey, names: Names, task: TaskName) -> None:
    moved, held = found.of_role("moved"), found.of_role("held")
    text.line(0, "robot:", "the machine: may tighten a limit of the contract, never loosen it")
    text.line(2, f"name: {name_text(names.robot)}")
    order = "the model's order, which may not be that of the robot's messages"
    text.names(2, "joints", [joint.name for joint in (*moved, *held)], order)
    text.line(2, "joint_defaults:", "[rad/s or m/s]; stops and efforts are the contract's;")
    text.line(27, "# safe_position: where the robot may lie without power [rad or m]")
    text.table(4, shared_fields({joint.name: _machine_fields(joint) for joint in (*moved, *held)}))
    text.line(2, "state: {topic: joint_states, rate: 100.0, max_age: 0.03}", "[Hz], [s]",
              "the usual ones")  # fmt: skip
    if found.free_base is not None:
        text.line(2, "imu: {topic: imu, max_age: 0.03}", "[s]", "the usual ones")
    if task == "velocity":
        text.line(2, "command_velocity:")
        text.line(4, "topic: cmd_vel")
        text.line(4, "timeout: 0.5", "[s], then the velocity command becomes 0")
        text.line(4, "limits: {linear_x: 0.6, linear_y: 0.0, angular_z: 0.5}", "as in training")
        text.line(4, "lowest: {linear_x: 0.0}", "never backwards")
    elif task == "reach":
        text.line(2, "task_commands:")
        text.line(
            4,
            f"{TARGET}: {{topic: {TARGET}, type: PointStamped, frame: {name_text(names.frame)},"
            " timeout: 1.0, when_lost: hold}",
        )
    elif task == "joint-tracking":
        text.line(2, "task_commands:")
        text.line(4, f"{TARGET}:")
        text.line(6, f"topic: {TARGET}")
        text.line(6, "type: JointState")
        text.names(6, "joints", [joint.name for joint in moved])
        text.line(6, "when_lost: hold")
    text.line(2, "command:")
    text.line(4, "kind: forward")
    text.line(4, "interface: position")
    text.line(4, "topic: position_controller/commands", why="the usual one")
    text.line(
        4, "timeout: 0.1", "[s], then the robot itself goes to a safe state: see docs/robot.md"
    )
    text.remark(
        4, "interpolation: linear and rate: 200.0 [Hz] for a drive that takes more: docs/robot.md"
    )
    text.line(2, "safety:")
    text.line(4, "soft_margin: 0.01", "share of the range")
    text.line(4, "hold: 0.06", "[s]")
    text.line(4, "damp: 1.0")
    text.line(4, "recover: 0.2")
    text.line(4, "ramp: 0.5")
    text.line(4, "safe_speed: 0.05", "of velocity_limit, when moving to safe_position")
    if found.free_base is not None:
        text.line(4, "tilt_limit: 60.0", "[degrees]")
    text.line(2, "activation:", "the states from which a policy may start")
    text.line(4, "position_error: 0.3", "[rad or m]")
    text.line(4, "speed: 1.0", "[rad/s or m/s]")


def _machine_fields(joint: SurveyedJoint) -> Fields:
    fields = {"velocity_limit": _cell(joint.velocity)}
    if joint.role == "moved":
        fields["safe_position"] = Cell(
            number_text(joint.position.value),
            "the default position, not one in which it may lie without power",
        )
    elif joint.limits is not None:
        fields["position_limits"] = Cell(_limits(joint))
    return fields


def _sim(text: Text, found: Survey, names: Names, steps: Steps) -> None:
    text.line(0, "sim:")
    text.line(2, f"model: {name_text(names.model)}")
    text.line(2, f"timestep: {number_text(steps.timestep)}", f"[s]; {steps.why}")
    text.line(2, f"decimation: {steps.decimation}", "simulation steps per control step")
    if found.imu is not None:
        text.line(2, f"imu: {name_text(found.imu)}", "body that carries it", found.imu_why)
    if found.camera is not None:
        text.line(2, f"camera: {name_text(found.camera)}")
    if steps.drive == "implicit":
        text.line(2, "drive: implicit", "the gains are too large for explicit ones at this step")
    held = found.of_role("held")
    if held:
        text.line(2, "hold:", "how the held joints are held")
        rows = {
            joint.name: {
                "stiffness": _cell(joint.stiffness),
                "damping": _cell(joint.damping),
                "effort_limit": _cell(joint.effort),
            }
            for joint in held
        }
        text.table(4, rows)
    free = found.of_role("free")
    if free:
        text.names(2, "free", [joint.name for joint in free])
