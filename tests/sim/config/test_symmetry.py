"""The mirror image of a robot: signed permutations that agree with the encoder and the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.observation import ActionDecoder, ObservationEncoder
from dime_robot.runtime.control.state import RobotState
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.symmetry import SymmetryConfig, mirror
from tests.paths import ROBOTS

GO2, _ = load_robot_task(ROBOTS / "go2_mirrored.yaml")
assert GO2.symmetry is not None
SYMMETRY = GO2.symmetry


def mirrored_state(spec: PolicySpec, symmetry: SymmetryConfig, state: RobotState) -> RobotState:
    """The same seen in the mirror, written without the code under test."""
    names, partners = [joint.name for joint in spec.joints], symmetry.partners()
    order = [names.index(partners[name][0]) for name in names]
    sign = np.array([partners[name][1] for name in names])
    w, x, y, z = state.orientation if state.orientation is not None else np.zeros(4)
    a, b, c = state.angular_velocity if state.angular_velocity is not None else np.zeros(3)
    forward, left, yaw = state.command_velocity if state.command_velocity is not None else [0] * 3
    return RobotState(
        state.stamp,
        sign * state.joint_position[order],
        sign * state.joint_velocity[order],
        np.array([w, -x, y, -z]),
        np.array([-a, b, -c]),
        np.array([forward, -left, -yaw]),
    )


def random_state(spec: PolicySpec, random: np.random.Generator) -> RobotState:
    n = len(spec.joints)
    quaternion = random.normal(size=4)
    return RobotState(
        0.0,
        random.normal(size=n),
        random.normal(size=n),
        quaternion / np.linalg.norm(quaternion),
        random.normal(size=3),
        random.normal(size=3),
    )


def stacked(spec: PolicySpec) -> PolicySpec:
    """The same contract with histories of three readings, and angles as cosine and sine."""
    data = spec.model_dump()
    for term in data["observation"]:
        term.update(history=3, size=3 * term["size"], history_fill="zero")
    names = [joint.name for joint in spec.joints]
    for kind in ("joint_position_cos", "joint_position_sin", "joint_position"):
        term = {
            "name": f"all_{kind}",
            "kind": kind,
            "joints": names[::-1],
            "size": len(names),
            "unit": "1",
        }
        data["observation"] = [term, *data["observation"]]
    return PolicySpec.model_validate(data)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.booleans())
def test_the_mirror_image_is_what_the_encoder_makes_of_the_mirrored_state(
    seed: int, history: bool
) -> None:
    spec = stacked(GO2.policy) if history else GO2.policy
    random, image = np.random.default_rng(seed), mirror(spec, SYMMETRY)
    ours, theirs = ObservationEncoder(spec), ObservationEncoder(spec)
    decoder, reflected = ActionDecoder(spec), ActionDecoder(spec)
    for _ in range(4):
        state = random_state(spec, random)
        observation = ours.encode(state, decoder.last_action)
        expected = theirs.encode(mirrored_state(spec, SYMMETRY, state), reflected.last_action)
        assert image.observation(observation) == pytest.approx(expected, abs=1e-5)
        assert image.observation(image.observation(observation)) == pytest.approx(observation)
        action = random.uniform(-1, 1, spec.n_act)
        command, other = decoder.decode(action), reflected.decode(image.action(action))
        partners = SYMMETRY.partners()
        for name, value in zip(command.joints, command.value, strict=True):
            partner, sign = partners[name]
            assert other.value[other.joints.index(partner)] == pytest.approx(sign * value)
        assert image.action(image.action(action)) == pytest.approx(action)


def content(**changes: Any) -> dict[str, Any]:
    data = GO2.model_dump(exclude_none=True)
    for path, value in changes.items():
        node: Any = data
        *parents, last = path.split("__")
        for key in parents:
            node = node[int(key)] if isinstance(node, list | tuple) else node[key]
        node[last] = value
    return data


def test_both_ways_round_is_the_same_as_once() -> None:
    twice = {name: f"{'-' if sign < 0 else ''}{other}"
             for name, (other, sign) in SYMMETRY.partners().items()}  # fmt: skip
    assert len(twice) == 12
    again = SymmetryConfig(joints=twice)
    assert again.partners() == SYMMETRY.partners()


@pytest.mark.parametrize(
    ("joints", "message"),
    [
        ({"a": "-b", "b": "a"}, "b is the partner of a, so expected -a as its own, got a"),
        ({"a": "b", "c": "b"}, "b is the partner of|expected b as the partner of one joint"),
        ({"a": "b", "b": "c"}, "b is the partner of a, so expected a as its own, got c"),
        ({"a": "--b"}, "joints.a"),
        ({}, "joints"),
    ],
)
def test_partners_that_contradict_each_other_are_refused(
    joints: dict[str, str], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        SymmetryConfig(joints=joints)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy__joints__0__default_position": 0.1}, "FR_hip_joint: expected default_position"),
        ({"policy__joints__1__position_limits": (-1.0, 3.0)}, "FR_thigh_joint: .* position_limits"),
        ({"policy__joints__2__effort_limit": 9.0}, "FR_calf_joint: expected effort_limit 9.0"),
        ({"policy__action__scale__FL_hip_joint": 0.2}, "action.scale.FR_hip_joint: expected 0.2"),
        ({"symmetry__joints__FL_hip_joint": "-nobody"}, "expected a joint of the policy|a partner"),
        ({"symmetry__joints": {"FL_hip_joint": "-FR_hip_joint"}}, "FL_thigh_joint has none"),
    ],
)
def test_a_contract_that_is_not_symmetric_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RobotTaskConfig.model_validate(content(**changes))


def test_a_term_without_the_partners_needs_one_that_has_them() -> None:
    def spec(scale: float) -> PolicySpec:
        data = GO2.policy.model_dump()
        left = [joint.name for joint in GO2.policy.joints if "L_" in joint.name]
        right = [joint.name for joint in GO2.policy.joints if "R_" in joint.name]
        term = {"kind": "joint_velocity", "size": 6, "unit": "rad/s"}
        data["observation"] = [
            {**term, "name": "left", "joints": left},
            {**term, "name": "right", "joints": right, "scale": scale},
        ]
        return PolicySpec.model_validate(data)

    image = mirror(spec(1.0), SYMMETRY)
    assert image.observation_index.tolist() == [*range(6, 12), *range(6)]
    with pytest.raises(ValueError, match="observation term left: expected the partners"):
        mirror(spec(0.5), SYMMETRY)


def test_the_axes_of_a_base() -> None:
    data = GO2.policy.model_dump()
    data["observation"] = data["observation"][:2]
    scale = {"linear_y": 1.0, "angular_z": 1.0, "linear_x": 2.0}
    data["action"] = {"kind": "twist", "size": 3, "scale": scale}
    image = mirror(PolicySpec.model_validate(data), SYMMETRY)
    assert image.action_sign.tolist() == [1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("section", "kept"),
    [
        ({"task": {"episode_seconds": 30.0}}, True),
        ({"policy": {"joint_defaults": {"FL_hip_joint": {"default_position": 0.1}}}}, False),
        ({"sim": {"camera": None}}, False),
        ({"sim": {"camera": None}, "symmetry": {"feet": {}}}, True),
    ],
)
def test_a_file_that_changes_the_robot_does_not_inherit_a_mirror_image(
    section: dict[str, Any], kept: bool, tmp_path: Path
) -> None:
    """Files that extended a robot before it had one stay valid, also through a file in between."""
    path, further = tmp_path / "robot.yaml", tmp_path / "further.yaml"
    path.write_text(yaml.safe_dump({"extends": "sim:go2-wide", **section}))
    further.write_text(yaml.safe_dump({"extends": "robot.yaml", "suite": None}))
    for file in (path, further):
        assert (load_robot_task(file)[0].symmetry is not None) == kept
