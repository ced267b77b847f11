"""Shorthand of configuration files, written out in full before the content is validated.

    joints: [a, b]                     names alone, where `joint_defaults` has their fields
    joint_defaults: {"*_hip": {...}}   shell patterns; the last that matches and a joint's own entry
                                       win, under `policy` as under `robot`
    joints: "*_hip"                    in an observation term; none: all joints of the policy
    scale: 0.3                         of the action: for all joints; patterns work as keys
    scale: limits                      of the action, for all joints or as the value of a pattern:
                                       what reaches every position of the joint (`_from_limits`);
                                       {limits: 0.5} half of it
    size, unit                         follow from the kind of an observation term, and from
                                       `action.scale`
    pose: {"*_hip": 0.0}               patterns in `robot.phases`, in poses and gains; the last that
                                       matches wins
    position_limits, effort_limit      of a robot's joint: those of `policy.joints` where a file has
                                       both sections and the robot's joint does not state its own

Only plain data is rewritten here: what is not understood is left for the validation to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, VECTOR_TERMS
from dime_robot.runtime.io.errors import InputError

LIMITS = "limits"  # a scale that follows from the joint's limits
SHARED_LIMITS = ("position_limits", "effort_limit")  # of contract and machine
FIXED_UNITS = {
    "joint_position_cos": "1",
    "joint_position_sin": "1",
    "angular_velocity": "rad/s",
    "projected_gravity": "1",
    "command_velocity": "m/s, m/s, rad/s",
    "last_action": "1",
    "foot_contact": "1",
}
JOINT_UNITS = {  # of terms whose unit depends on the joint: revolute, prismatic, both
    "joint_position": ("rad", "m", "rad or m"),
    "joint_position_relative": ("rad", "m", "rad or m"),
    "joint_velocity": ("rad/s", "m/s", "rad/s or m/s"),
    "joint_effort": ("N m", "N", "N m or N"),
}


def written_out(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's content without shorthand; the given one stays as it is.

    Args:
        content: of a file, merged with those that it extends.

    Raises:
        InputError: a pattern matches no joint.
    """
    result = dict(content)
    policy, robot = result.get("policy"), result.get("robot")
    if isinstance(policy, dict):
        result["policy"] = policy = _policy(policy)
    if isinstance(robot, dict):
        result["robot"] = _robot(robot, policy if isinstance(policy, dict) else {})
    return result


def matching(pattern: str, names: Iterable[str], where: str) -> list[str]:
    """Return the names that a shell pattern matches, in their order.

    Args:
        pattern: a name, or a pattern with `*`, `?` or `[`.
        names: of the joints.
        where: place in the file, for the message.

    Raises:
        InputError: a pattern matches none. A plain name is returned as it is.
    """
    names = list(names)
    if not is_pattern(pattern) or pattern in names:  # a name may contain a bracket
        return [pattern]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise InputError(f"{where}: expected a pattern that matches one of {names}, got {pattern}")
    return found


def is_pattern(name: object) -> bool:
    """Whether it is a shell pattern, not a plain name."""
    return isinstance(name, str) and any(sign in name for sign in "*?[")


def _policy(given: dict[str, Any]) -> dict[str, Any]:
    policy = _with_joints(given, "policy")
    joints = policy.get("joints")
    entries = joints if isinstance(joints, list) else []
    by_name: dict[str, dict[str, Any]] = {
        name: joint for joint in entries if (name := _name_of(joint))
    }
    types = {name: str(joint.get("type")) for name, joint in by_name.items()}
    action = policy.get("action")
    if isinstance(action, dict):
        policy["action"] = action = _action(action, by_name)
    terms = policy.get("observation")
    if isinstance(terms, list):
        n_act = action.get("size") if isinstance(action, dict) else None
        policy["observation"] = [
            _term(term, types, n_act) if isinstance(term, dict) else term for term in terms
        ]
    return policy


def _name_of(entry: Any) -> str:
    """Return the name of a joint's entry; empty: it has none."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""


def _with_joints(given: dict[str, Any], section: str) -> dict[str, Any]:
    """Return a section whose joints have the fields of `joint_defaults`."""
    result = dict(given)
    defaults, joints = result.pop("joint_defaults", {}), result.get("joints")
    if not isinstance(joints, list):
        return result
    if not isinstance(defaults, dict) or not all(isinstance(d, dict) for d in defaults.values()):
        raise InputError(
            f"{section}.joint_defaults: expected patterns of joint names, each with fields of a"
            f" joint, got {defaults!r:.60}"
        )
    entries = [{"name": joint} if isinstance(joint, str) else joint for joint in joints]
    names = [name for entry in entries if (name := _name_of(entry))]
    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    for pattern, fields in defaults.items():
        where = f"{section}.joint_defaults"
        for name in matching(str(pattern), names, where):
            if name not in chosen:
                raise InputError(f"{where}: expected one of the joints {names}, got {name}")
            chosen[name].update(fields)
    result["joints"] = [
        {**chosen.get(_name_of(entry), {}), **entry} if isinstance(entry, dict) else entry
        for entry in entries
    ]
    return result


def _action(given: dict[str, Any], joints: dict[str, dict[str, Any]]) -> dict[str, Any]:
    action, names = dict(given), list(joints)
    scale = action.get("scale")
    # {limits: 0.5} is for all joints, unless one of them has this name
    of_all = scale == LIMITS or (_asks_for_limits(scale) and LIMITS not in names)
    if of_all or (isinstance(scale, int | float) and not isinstance(scale, bool)):
        known = TWIST_AXES if action.get("kind") == "twist" else names
        scale = dict.fromkeys(known, scale)
    elif isinstance(scale, dict) and any(map(is_pattern, scale)):
        wanted: dict[str, Any] = {}
        for pattern, value in scale.items():
            wanted |= dict.fromkeys(matching(str(pattern), names, "policy.action.scale"), value)
        order = {name: i for i, name in enumerate(names)}
        scale = dict(sorted(wanted.items(), key=lambda item: order.get(item[0], len(order))))
    if isinstance(scale, dict) and any(map(_asks_for_limits, scale.values())):
        scale = {
            name: _from_limits(action, name, joints, value) if _asks_for_limits(value) else value
            for name, value in scale.items()
        }
        if action.get("kind") == "position":
            action.setdefault("within_limits", True)
    if isinstance(scale, dict):
        action["scale"] = scale
        if action.get("kind") != "flat":
            action.setdefault("size", len(scale))
    return action


def _asks_for_limits(scale: object) -> bool:
    """Whether a scale is to be computed from a joint's limits: `limits`, or {limits: FACTOR}."""
    return scale == LIMITS or (isinstance(scale, dict) and list(scale) == [LIMITS])


def _from_limits(
    action: dict[str, Any], name: str, joints: dict[str, dict[str, Any]], given: object
) -> float:
    """Return the scale with which a joint can use all of its range, times a factor.

    Position: the larger distance from the default position to a limit, so that -1 or 1 is the
    farther limit; beyond the nearer one, `within_limits` cuts off. Effort: the effort limit. Source
    of these bounds: Seo et al., FastSAC, arXiv 2512.01996.

    Args:
        action: the section.
        name: of the joint.
        joints: those of the contract, by name, with their fields.
        given: `limits` or {limits: FACTOR}.

    Raises:
        InputError: it has no such limit, or the action no such range.
    """
    where = f"policy.action.scale.{name}"
    factor = given[LIMITS] if isinstance(given, dict) else 1.0
    if not _is_number(factor) or not 0 < factor <= 1:
        raise InputError(f"{where}: expected limits with a factor in (0, 1], got {factor!r:.60}")
    kind, reference = action.get("kind"), action.get("reference", "default")
    if kind not in ("position", "effort") or reference != "default":
        raise InputError(
            f"{where}: expected a number, since `limits` follows from limits of efforts, or of"
            f" positions around the default position, got an action of kind {kind!s:.40},"
            f" reference {reference!s:.40}"
        )
    if name not in joints:
        raise InputError(f"{where}: expected one of the joints {list(joints)}, got {name}")
    joint = joints[name]
    if kind == "effort":
        limit = joint.get("effort_limit")
        if not _is_number(limit):
            raise InputError(
                f"{where}: expected an effort_limit of the joint, from which `limits` follows, got"
                f" {limit!r:.60}: state it in policy.joints, or give a number [N m or N]"
            )
        return float(factor * limit)
    limits, default = joint.get("position_limits"), joint.get("default_position", 0.0)
    if (
        not isinstance(limits, list | tuple)
        or len(limits) != 2
        or not all(map(_is_number, [*limits, default]))
    ):
        raise InputError(
            f"{where}: expected position_limits [lower, upper] of the joint, from which `limits`"
            f" follows, got {limits!r:.60} and default_position {default!r:.40}: state them in"
            " policy.joints, or give a number [rad or m]"
        )
    low, high = limits
    return float(factor * max(high - default, default - low))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _term(given: dict[str, Any], types: dict[str, str], n_act: object) -> dict[str, Any]:
    term = dict(given)
    kind, history = term.get("kind"), term.get("history", 1)
    if not isinstance(kind, str) or not isinstance(history, int):
        return term
    term.setdefault("name", kind)
    width: object = None
    if kind.startswith("joint"):
        joints = term.get("joints", list(types))
        joints = [joints] if isinstance(joints, str) else joints
        if isinstance(joints, list | tuple):
            where = f"policy.observation.{term['name']}.joints"
            joints = list(_joints(joints, list(types), where))
            width = len(joints)
        term["joints"] = joints
    elif kind in VECTOR_TERMS:
        width = 3
    elif kind == "foot_contact" and isinstance(term.get("feet"), list | tuple):
        width = len(term["feet"])
    elif kind == "last_action":
        width = n_act
    if isinstance(width, int):
        term.setdefault("size", width * history)
    unit = FIXED_UNITS.get(kind)
    if kind in JOINT_UNITS and isinstance(term.get("joints"), list):
        kinds = {types.get(name, "") for name in term["joints"] if isinstance(name, str)}
        turns, slides, both = JOINT_UNITS[kind]
        unit = {frozenset({"revolute"}): turns, frozenset({"prismatic"}): slides}.get(
            frozenset(kinds), both
        )
    if unit is not None:
        term.setdefault("unit", unit)
    return term


def _joints(given: Iterable[Any], names: list[str], where: str) -> Iterator[Any]:
    for name in given:
        yield from matching(name, names, where) if isinstance(name, str) else [name]


def _robot(given: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
    robot = _with_joints(given, "robot")
    ours, theirs = robot.get("joints"), policy.get("joints")
    if isinstance(ours, list) and isinstance(robot.get("phases"), dict):
        known = [name for each in ours if (name := _name_of(each))]
        robot["phases"] = _phases(robot["phases"], known)
    if not isinstance(ours, list) or not isinstance(theirs, list):
        return robot
    contract = {_name_of(joint): joint for joint in theirs if _name_of(joint)}
    joints = []
    for joint in ours:
        shared = contract.get(_name_of(joint), {})
        limits = {name: shared[name] for name in SHARED_LIMITS if name in shared}
        joints.append({**limits, **joint} if isinstance(joint, dict) else joint)
    robot["joints"] = joints
    return robot


def _phases(given: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return `robot.phases` with the joints of each pattern in poses and gains."""
    phases = dict(given)
    for name, motion in phases.items():
        if not isinstance(motion, dict):
            continue
        where = f"robot.phases.{name}"
        phases[name] = motion = dict(motion)
        for field in ("stiffness", "damping"):
            if field in motion:
                motion[field] = _by_joint(motion[field], names, f"{where}.{field}")
        if isinstance(motion.get("path"), list):
            motion["path"] = [
                {**point, "pose": _by_joint(point["pose"], names, f"{where}.path.{i}.pose")}
                if isinstance(point, dict) and "pose" in point
                else point
                for i, point in enumerate(motion["path"])
            ]
    return phases


def _by_joint(given: object, names: list[str], where: str) -> object:
    """Return values by joint where they are given by pattern; anything else as it is."""
    if not isinstance(given, dict):
        return given
    found: dict[str, Any] = {}
    for pattern, value in given.items():
        found |= dict.fromkeys(matching(str(pattern), names, where), value)
    return found
