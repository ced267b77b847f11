"""Tasks in the form of release 0.1, `kind: swing_up | velocity_tracking`, as terms.

Files of that form still load, also those that only change some values of a task that they extend,
whichever form that has. Each old key has one place among the terms.
"""

from __future__ import annotations

import math
from typing import Any

Path = tuple[str, ...]

# old key -> where its value belongs
VELOCITY_KEYS: dict[Path, Path] = {
    ("start_height",): ("reset", "base", "height"),
    ("start_noise",): ("reset", "pose", "noise"),
    ("linear_width",): ("rewards", "track_linear", "width"),
    ("yaw_width",): ("rewards", "track_yaw", "width"),
    ("hips",): ("rewards", "hip_angle", "joints"),
    ("lowest",): ("terminations", "sunk", "height"),
    ("largest_tilt",): ("terminations", "tilted", "angle"),
    ("success_error",): ("success", "tracked", "error"),
    **{
        ("commands", name): ("commands", "velocity", name)
        for name in ("linear_x", "linear_y", "angular_z", "resample", "standing", "turning")
    },
    **{
        ("rewards", name): ("rewards", name, "weight")
        for name in (
            *("track_linear", "track_yaw", "alive", "vertical_speed", "roll_pitch_rate", "tilt"),
            *("action_change", "torque", "hip_angle"),
        )
    },
}
SWING_UP_KEYS: dict[Path, Path] = {
    ("position_width",): ("rewards", "centred", "width"),
    ("velocity_width",): ("rewards", "slow", "width"),
    ("success_angle",): ("success", "stands", "angle"),
    ("success_window",): ("success", "stands", "window"),
    ("success_share",): ("success", "stands", "share"),
}
VELOCITY_TERMS: dict[str, Any] = {
    "reset": {"pose": {"term": "joint_positions"}, "base": {"term": "base_height"}},
    "commands": {"velocity": {"term": "uniform_velocity"}},
    "rewards": {
        "track_linear": {"term": "track_linear_velocity"},
        "track_yaw": {"term": "track_yaw_rate"},
        "alive": {"term": "alive"},
        "vertical_speed": {"term": "vertical_speed"},
        "roll_pitch_rate": {"term": "roll_pitch_rate"},
        "tilt": {"term": "tilt"},
        "action_change": {"term": "action_change"},
        "torque": {"term": "effort"},
        "hip_angle": {"term": "joint_deviation"},
    },
    "terminations": {"tilted": {"term": "tilted"}, "sunk": {"term": "sunk"}},
    "success": {"tracked": {"term": "VelocityTracked"}},
    "metrics": {
        "velocity_error": {"term": "velocity_error"},
        "yaw_rate_error": {"term": "yaw_rate_error"},
        "tracking_reward": {"term": "reward_of", "rewards": ["track_linear", "track_yaw"]},
    },
    "minimum_reward": 0.0,
}


SUITE_ERRORS = ("velocity_error", "yaw_rate_error")  # of a suite, by themselves


def with_errors(content: dict[str, Any]) -> dict[str, Any]:
    """Return a file's content with the two errors of an old suite in its `errors`.

    Args:
        content: of one file, before files are merged.
    """
    suite = content.get("suite")
    if not isinstance(suite, dict) or not isinstance(suite.get("errors", {}), dict):
        return content
    old = {name: suite[name] for name in SUITE_ERRORS if name in suite}
    if not old:
        return content
    rest = {name: value for name, value in suite.items() if name not in old}
    return {**content, "suite": {**rest, "errors": {**suite.get("errors", {}), **old}}}


def as_terms(task: dict[str, Any], partial: bool) -> dict[str, Any]:
    """Return a task's section with its old keys as terms; a section of terms stays as it is.

    Args:
        task: content of the section, of one file, before files are merged.
        partial: whether the file extends another, which may have the rest of the task.

    Raises:
        ValueError: an old task lacks a key, or has one that it never had.
    """
    kind = task.get("kind")
    if kind not in (None, "velocity_tracking", "swing_up"):
        raise ValueError(
            "kind: expected a task of terms (sections reset, commands, rewards, ...), got kind"
            f" {kind!r:.60}: kinds are of older files, swing_up and velocity_tracking"
        )
    rest = {key: value for key, value in task.items() if key != "kind"}
    if kind is None and not _is_old(rest):
        return task
    if kind is None and not partial:
        raise ValueError("kind: expected swing_up or velocity_tracking, of older files, got none")
    if kind == "swing_up":
        return _swing_up(rest, partial)
    if kind is None:
        return _moved(rest, VELOCITY_KEYS if _has(rest, VELOCITY_KEYS) else SWING_UP_KEYS)
    _require_keys(rest, {**VELOCITY_KEYS, ("episode_seconds",): ()}, {"turning"}, partial)
    return _merged(VELOCITY_TERMS, _moved(rest, VELOCITY_KEYS))


def _is_old(task: dict[str, Any]) -> bool:
    return _has(task, VELOCITY_KEYS) or _has(task, SWING_UP_KEYS)


def _has(task: dict[str, Any], keys: dict[Path, Path]) -> bool:
    """Whether it has a key that only an old file has there."""
    return any(
        _get(task, old) is not None and not (len(old) > 1 and _is_entry(_get(task, old)))
        for old in keys
        if len(old) == 1 or old[0] == "commands"  # a number as a reward is a weight today, too
    )


def _get(node: Any, path: Path) -> Any:
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def _moved(task: dict[str, Any], keys: dict[Path, Path]) -> dict[str, Any]:
    """Return the section with every old key in its new place, and all others as they are."""
    for section in {place[0] for place in keys.values()} & task.keys():
        if not isinstance(task[section], dict):
            raise ValueError(f"{section}: expected a mapping, got {task[section]!r:.60}")
    result: dict[str, Any] = {}
    for key, value in task.items():
        entries = value.items() if isinstance(value, dict) else ()
        nested = [(name, item) for name, item in entries if (key, name) in keys]
        if (key,) in keys:
            _put(result, keys[(key,)], value)
        elif nested:
            for name, item in entries:
                place = keys.get((key, name), (key, name)) if not _is_entry(item) else (key, name)
                _put(result, place, item)
        else:
            _put(result, (key,), value)
    if task.get("hips") == []:  # no joints, which mean all joints today
        _put(result, ("rewards", "hip_angle"), None)
    return result


def _is_entry(item: Any) -> bool:
    """Whether it is a term's entry of today, which an old key's value never was."""
    return isinstance(item, dict | str)


def _put(result: dict[str, Any], path: Path, value: Any) -> None:
    for key in reversed(path):
        value = {key: value}
    merged = _merged(result, value)
    result.update(merged)


def _merged(below: Any, above: Any) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(result.get(key), dict) and isinstance(value, dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _swing_up(task: dict[str, Any], partial: bool) -> dict[str, Any]:
    keys = {**SWING_UP_KEYS, ("cart",): (), ("pole",): (), ("episode_seconds",): ()}
    _require_keys(task, keys, set(), partial)
    rest = {key: value for key, value in task.items() if key not in ("cart", "pole")}
    terms: dict[str, Any] = {
        "rewards": {name: {"term": name} for name in ("upright", "centred", "slow", "gentle")},
        "success": {"stands": {"term": "Stands"}},
        "combine": "product",
    }
    starts = {"cart": 0.0, "pole": math.pi}
    named = {name: str(task[name]) for name in starts if name in task}
    for name, joint in named.items():
        pose = {"positions": {joint: starts[name]}, "noise": {joint: 0.1}}
        owners = ("centred", "gentle") if name == "cart" else ("upright", "slow")
        added: dict[str, Any] = {
            "reset": {"pose": {"term": "joint_positions", **pose}},
            "rewards": {owner: {"joint": joint} for owner in owners},
        }
        if name == "pole":
            added["success"] = {"stands": {"joint": joint}}
        terms = _merged(terms, added)
    return _merged(terms, _moved(rest, SWING_UP_KEYS))


def _require_keys(
    task: dict[str, Any], keys: dict[Path, Path], optional: set[str], partial: bool
) -> None:
    """Refuse an old task of a stated kind with unknown keys, and a whole one with missing keys."""
    known = {path[0] for path in keys}
    for key, value in task.items():
        inner = {path[1] for path in keys if path[0] == key and len(path) > 1}
        if inner and not isinstance(value, dict):
            raise ValueError(f"{key}: expected a mapping of {sorted(inner)}, got {value!r:.60}")
        unknown = [name for name in value if name not in inner] if inner else []
        if key not in known or unknown:
            where = ".".join([str(key), *map(str, unknown[:1])])
            given = value[unknown[0]] if unknown else value
            raise ValueError(
                f"{where}: expected one of the keys {sorted(inner or known)}, got this one with"
                f" {given!r:.60}"
            )
    for path in keys:
        if not partial and path[-1] not in optional and _get(task, path) is None:
            raise ValueError(f"{'.'.join(path)}: expected a value, got none")
