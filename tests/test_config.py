"""The door to configurations: what `check` finds, what `diff` says and to whom it belongs."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from dime_robot import config, evaluate
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.config.task import SECTIONS
from dime_robot.sim.robot_env import RobotEnv
from tests.paths import ROBOTS
from tests.sim.test_cartpole import variant


def test_the_shipped_configuration_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["check", "cartpole"]) == 0
    out = capsys.readouterr().out
    assert out.count("ok  ") == 6
    assert "ok  action at 1: 8 [N m or N]\n" in out
    assert "ok  task: 4 rewards, together up to 1 a step, 0 terminations\n" in out
    assert "5 observations, 1 effort actions, 50 Hz" in out
    moved = re.search(r"not held at action 0 .*: hinge moved (\S+) rad", out)
    assert moved is not None and float(moved[1]) > 2.0  # the pole does not stay upright by itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("damping: 5.0}", "damping: 5.0, position_limits: [-1.3, 1.2]}"), "not loosened"),
        (('range="-1.2 1.2"', 'range="-1.5 1.5"'), "position limits"),
        (("rate: 50.0, max_age", "rate: 25.0, max_age"), "max_age|at least the policy's rate"),
        (("timeout: 0.1", "timeout: -0.1"), "robot.command.timeout"),
        (("hold: 0.04,", "hold: 40,"), "robot.safety.hold"),
        (("recover: 0.2", "recover: 0.01"), "at least two readings"),
        (("max_age: 0.035", "max_age: 0.02"), "more than the time between two readings"),
        (("topic: joint_states", "topic: joint states"), "robot.state.topic"),
        (("interface: effort", "interface: velocity"), "takes velocity of joints"),
        (("velocity_limit: 60.0", "velocity_limit: .nan"), "robot.joints.1.velocity_limit"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        config.main(["check", str(variant(tmp_path, change))])
    assert "\n" not in str(error.value)


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """All that `check` says of a file, a line each, after the one that counts them."""
    try:
        assert config.main(["check", str(path)]) == 2
    except InputError as error:
        return [str(error)]
    out, err = capsys.readouterr()
    *lines, count = err.splitlines()
    assert out == ""
    assert count == f"{len(lines)} problems"
    assert all(line.startswith("error: ") for line in lines)
    assert len(set(lines)) == len(lines) > 1
    return [line.removeprefix("error: ") for line in lines]


def test_everything_that_is_wrong_is_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = variant(
        tmp_path,
        ("width: 1.0}", "width: -1.0}"),  # task
        ("share: 0.8}", "share: 8.0}"),
        ("camera: side", "camera: top"),  # simulation
        # machine
        ("damping: 5.0}", "damping: 5.0, position_limits: [-1.3, 1.2], effort_limit: 9.0}"),
        ("rate: 50.0, max_age: 0.035", "rate: 40.0, max_age: 0.035"),
        ('gear="1"', 'gear="3"'),  # model
        ('range="-1.2 1.2"', 'range="-1.5 1.5"'),
    )
    lines = refused(path, capsys)
    for words in (
        "task.rewards.centred.width: Input should be greater than 0, got -1.0",
        "task.success.stands.share: Input should be less than or equal to 1, got 8.0",
        "sim.camera: expected a camera of ['side'], got top",
        "publishes its state at 40 Hz: expected at least the policy's rate",
        "trained within [-1.2, 1.2]",
        "trained with an effort up to 8",
        "actuator slider of joint slider: expected a motor of gear 1",
        "joint slider: expected position limits (-1.2, 1.2) as in the contract, got (-1.5, 1.5)",
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert len(lines) == 8


def test_wrong_terms_of_the_randomisation_are_named_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = variant(tmp_path)
    term = "  - {{kind: {}, operation: scale, range: [0.9, 1.1], mode: reset{}}}\n"
    with path.open("a") as file:
        file.write("randomization:\n" + term.format("stiffness", "") + term.format("damping", ""))
        file.write(term.format("friction", ", targets: [hoof]"))
    lines = refused(path, capsys)
    assert [line.split(":")[0] for line in lines] == ["stiffness", "damping", "friction"]


MJCF = {
    "damping nan": ('damping="0.2"', 'damping="nan"', "slider: expected finite .* dof_damping"),
    "damping inf": ('damping="0.2"', 'damping="inf"', "joint slider: .* dof_damping, got inf"),
    "damping negative": ('damping="0.2"', 'damping="-5"', "slider: expected a damping in .* -5"),
    "damping huge": ('damping="0.2"', 'damping="1e12"', "expected a damping in .*, got 1e.12"),
    "mass nan": ('mass="0.6"', 'mass="nan"', "got a NaN in the file"),
    "mass inf": ('mass="0.6"', 'mass="inf"', "body cart: expected finite numbers as body_"),
    "mass none": ('mass="0.6"', 'mass="0"', "mass and inertia of moving bodies"),
    "mass huge": ('mass="0.6"', 'mass="1e30"', "body cart: expected a mass in .*, got 1e.30"),
    "size nan": ('size="0.09 0.05 0.04"', 'size="nan 0.05 0.04"', "nan size in geom"),
    "place nan": ('pos="0 -0.06 0.6"', 'pos="0 nan 0.6"', "MuJoCo cannot load it|expected finite"),
    "place far": ('pos="0 -0.06 0.6"', 'pos="0 1e20 0.6"', "expected a .* in .*, got"),
    "stops nan": ('range="-1.2 1.2"', 'range="nan 1.2"', "joint slider: .* jnt_range, got nan 1.2"),
    "axis nan": ('axis="1 0 0"', 'axis="nan 0 0"', "joint slider: expected finite .* jnt_axis"),
    "ctrlrange nan": ('ctrlrange="-8 8"', 'ctrlrange="nan 8"', "actuator slider: .* got nan 8"),
    "gear nan": ('gear="1"', 'gear="nan"', "actuator slider: .* actuator_gear, got nan"),
    "timestep nan": ('timestep="0.005"', 'timestep="nan"', "option: .* timestep, got nan"),
    "timestep negative": ('timestep="0.005"', 'timestep="-1"', "a timestep above 0 s, got -1"),
    "gravity nan": ('timestep="0.005"', 'gravity="0 0 nan"', "option: .* gravity, got 0 0 nan"),
    "gravity in mm": ('timestep="0.005"', 'gravity="0 0 -9810"', "not in mm/s.2"),
    "armature nan": ('damping="0.2"', 'armature="nan"', "joint slider: .* dof_armature, got nan"),
    "armature negative": ('damping="0.2"', 'armature="-1"', "expected a armature in .* got -1"),
    "friction nan": ('damping="0.2"', 'frictionloss="nan"', "slider: .* dof_frictionloss, got nan"),
    "friction negative": ('damping="0.2"', 'frictionloss="-1"', "a friction loss in .* got -1"),
    "spring nan": ('damping="0.2"', 'stiffness="nan"', "joint slider: .* jnt_stiffness, got nan"),
    "spring that pushes": ('damping="0.2"', 'stiffness="-9"', "a stiffness in .* got -9"),
    "stop nan": ('solreflimit="0.02 1"', 'solreflimit="nan 1"', "joint slider: .* jnt_solref"),
    "key nan": ("</worldbody>", '</worldbody><keyframe><key name="up" qpos="nan 0"/></keyframe>',
                "key up: expected finite numbers as key_qpos, got nan 0"),
    "inertia nan": ('<body name="cart">', '<body name="cart"><inertial pos="0 0 0" mass="1"'
                    ' diaginertia="nan 1 1"/>', "mass and inertia of moving bodies"),
    "wind nan": ('timestep="0.005"', 'wind="nan 0 0"', "option: .* wind, got nan 0 0"),
    "turned nan": ('<body name="pole">', '<body name="pole" quat="nan 0 0 0">', "body_quat"),
    "reference nan": ('damping="0.2"', 'ref="nan"', "joint slider: .* qpos0, got nan"),
    "springref inf": ('damping="0.2"', 'stiffness="1" springref="inf"', "slider: .* qpos_spring"),
    "no solver": ('timestep="0.005"', 'iterations="0"', r"iterations in \[1, 10000\], got 0"),
    "no cone": ('timestep="0.005"', 'impratio="-5"', r"impratio in \[1e-06, inf\], got -5"),
    "no memory": ("<worldbody>", '<size memory="1"/><worldbody>', "out of memory"),
    "number nan": ("</mujoco>", '<custom><numeric name="x" data="nan"/></custom></mujoco>',
                   "numeric x: expected finite numbers as numeric_data"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "sentence"), MJCF.values(), ids=MJCF)
def test_a_model_with_numbers_of_no_robot_is_refused(
    old: str,
    new: str,
    sentence: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = variant(tmp_path, (old, new))
    monkeypatch.chdir(tmp_path)
    lines = refused(path, capfd)
    assert any(re.search(sentence, line) for line in lines), lines
    assert all(len(line) < 400 and "cartpole.xml" in line for line in lines)
    assert "WARNING" not in capfd.readouterr().err  # MuJoCo's own
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
    with pytest.raises(InputError, match=r"cartpole.xml"):  # and training says so too
        RobotEnv(str(path))


# ---- the default pose, simulated


def arm(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the arm with position actions, with some text replaced in file or model."""
    for name in ("arm_position.yaml", "arm.xml"):
        text = (ROBOTS / name).read_text()
        for old, new in changes:
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder / "arm_position.yaml"


def test_a_default_pose_is_held_for_two_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.main(["check", str(arm(tmp_path))]) == 0
    out = capsys.readouterr().out
    # 9.81 (2 kg 0.2 m cos 0.5 + 1 kg (0.4 m cos 0.5 + 0.15 m cos 0.5)) over 400 N m/rad
    error = re.search(r"ok  pose held 2 s: largest error (\S+) rad or m \(shoulder\)", out)
    assert error is not None
    assert float(error[1]) == pytest.approx(9.81 * 0.95 * math.cos(0.5) / 400, rel=0.02)
    assert "ok  no task: it can be checked and simulated, not trained" in out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([("stiffness: 400.0", "stiffness: 40.0")],
         r"arm.xml: joint shoulder: expected at most 0.05 rad .*, got 0.2\d+ after 2 s"),
        ([("effort_limit: 40.0", "effort_limit: 5.0")], "joint shoulder: expected at most 0.05"),
        ([("damping: 4.0}", "damping: 400.0}")], "elbow .inertia .* largest stable"),
        ([("<body name=\"fore\"", "<body name=\"fore\" gravcomp=\"500\"")], "joint shoulder: exp"),
        # a load that reads its way round the check of gains: a spring that pushes back and forth
        ([('damping="0.1"', 'damping="0.1" stiffness="9e6"')],
         "expected a default pose that can be simulated for 2 s, got a speed of|expected at most"),
    ],
)  # fmt: skip
def test_a_pose_that_is_not_held_is_refused(
    changes: list[tuple[str, str]],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = refused(arm(tmp_path, *changes), capsys)
    assert re.search(sentence, lines[0]), lines


def test_a_robot_of_efforts_is_not_held_and_this_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert config.main(["check", str(ROBOTS / "arm_effort.yaml")]) == 0
    printed = re.search(
        r"not held at action 0 .*: shoulder moved (\S+) rad", capsys.readouterr().out
    )
    assert printed is not None and float(printed[1]) > 1.0


def test_a_joint_beside_the_policy_is_held_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = arm(tmp_path)
    content = yaml.safe_load(path.read_text())
    policy = content["policy"]
    policy["joints"] = policy["joints"][:1]
    for term in policy["observation"]:
        term.update(joints=["shoulder"], size=1)
    policy["action"] = {"kind": "position", "size": 1, "scale": {"shoulder": 0.5}}
    path.write_text(yaml.safe_dump(content))
    (line,) = refused(path, capsys)
    assert "arm.xml: expected every joint of the robot to be" in line and "['elbow']" in line
    policy["held_joints"] = {"elbow": 1.0}
    path.write_text(yaml.safe_dump(content))
    (line,) = refused(path, capsys)
    assert "sim.hold: expected the joints of policy.held_joints, ['elbow'], got []" in line
    content["sim"]["hold"] = {"elbow": {"stiffness": 200.0, "damping": 4.0}}
    path.write_text(yaml.safe_dump(content))
    assert config.main(["check", str(path)]) == 0
    assert "ok  held beside the policy: elbow 1 [rad or m]" in capsys.readouterr().out
    content["sim"]["hold"]["elbow"]["stiffness"] = 10.0
    path.write_text(yaml.safe_dump(content))
    (line,) = refused(path, capsys)
    assert "joint elbow: expected at most 0.05 rad or m between its default position" in line


def test_a_scale_from_limits_is_shown_in_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(
        f"extends: {ROBOTS / 'arm_position.yaml'}\n"
        "policy: {action: {scale: {shoulder: limits, elbow: {limits: 0.5}}}}\n"
    )
    assert config.main(["check", str(path)]) == 0
    spec = load_robot_task(path)[0].policy
    wanted = []
    for name, factor in (("shoulder", 1.0), ("elbow", 0.5)):
        joint = spec.joint(name)
        low, high = joint.position_limits or (0, 0)
        far = max(high - joint.default_position, joint.default_position - low)
        wanted.append(f"{name} {factor * far:.4g}")
    line = f"ok  action at 1: {', '.join(wanted)} [rad or m], kept within position_limits"
    assert line in capsys.readouterr().out
    path.write_text(
        f"extends: {ROBOTS / 'arm_velocity.yaml'}\npolicy: {{action: {{scale: limits}}}}\n"
    )
    with pytest.raises(InputError, match=r"arm.yaml: policy.action.scale.shoulder: .* velocity"):
        config.main(["check", str(path)])


def test_without_a_task_nothing_is_trained() -> None:
    for name in ("arm_effort", "arm_position", "arm_velocity"):
        path = str(ROBOTS / f"{name}.yaml")
        with pytest.raises(InputError, match=r"expected a section `task:` .*, got none"):
            RobotEnv(path)
        with pytest.raises(InputError, match=r"expected a section `task:`"):
            evaluate.main(["--policy", "zero", "--env", f"sim:{path}"])
        with pytest.raises(InputError, match=r"expected a section `task:`"):
            _ = load_robot_task(path)[0].episode_steps


def test_a_difference_has_an_owner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = variant(
        tmp_path,
        ("scale: {slider: 8.0}", "scale: {slider: 6.0}"),
        ("damping: 5.0}", "damping: 4.0}"),
        ("width: 1.0}", "width: 1.5}"),
    )
    assert config.main(["diff", "cartpole", str(changed)]) == 1
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["place", "cartpole", str(changed), "owner"]
    assert [row[:3] for row in cells[2:5]] == [
        ["policy.action.scale.slider", "8.0", "6.0"],
        ["robot.joints.slider.damping", "5.0", "4.0"],
        ["task.rewards.centred.width", "1.0", "1.5"],
    ]
    assert "needs a new policy" in cells[2][3]
    assert "property of the machine" in cells[3][3]
    assert lines[5] == "3 differences"


def test_no_difference_is_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["diff", "cartpole", "cartpole"]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_every_section_has_an_owner(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(config.OWNERS) == list(RobotTaskConfig.model_fields)
    assert config.main(["diff", "go2", "sim:go2-walk"]) == 1
    assert "training" in capsys.readouterr().out


def test_a_name_may_be_written_as_env_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["diff", "sim:cartpole", "cartpole"]) == 0
    assert config.main(["check", "sim:cartpole"]) == 0
    with pytest.raises(InputError, match=r"^sim:nobody: expected one of sim:cart.* a .yaml file$"):
        config.main(["diff", "sim:nobody", "cartpole"])


def test_the_order_of_joints_is_a_difference() -> None:
    ours, _ = load_robot_task("cartpole")
    robot = ours.robot.model_copy(update={"joints": ours.robot.joints[::-1]})
    theirs = ours.model_copy(update={"robot": robot})
    assert differences(ours, theirs) == [("robot.joints.order", "slider, hinge", "hinge, slider")]


def test_terms_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert config.main(["terms"]) == 0
    everything = capsys.readouterr().out
    for section in SECTIONS:
        assert f"{section}:" in everything
        assert config.main(["terms", section]) == 0
        assert capsys.readouterr().out.strip() in everything
    assert re.search(r"near_point site command width +Return exp\(-d / width\)", everything)
    assert re.search(r"Stands joint angle window \[share\] +Whether a pole stood", everything)
    assert config.main(["terms", "effort"]) == 0
    assert "rewards: effort\n\nReturn the sum over joints" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"expected a section, reset, commands, .*, got 'efort'"):
        config.main(["terms", "efort"])
