"""The suite: which robots it tries, what it says, and where it draws the line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot import evaluate
from dime_robot.evaluation import robustness_suite as suite
from dime_robot.evaluation.rollout import Episode, Evaluation, Evaluator
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.config.robot_task import RobotTaskConfig, SuiteConfig, load_robot_task
from dime_robot.sim.model.comparison import model_differences
from dime_robot.sim.robot_env import RobotEnv
from tests.paths import SHIPPED_GO2 as POLICY
from tests.sim.randomization.randomized import term

LIMITS = SuiteConfig(
    commands=((0.0, 0.0, 0.0), (0.5, 0.0, 0.0)),
    survival=0.9,
    errors={"velocity_error": 0.15, "yaw_rate_error": 0.2},
    extreme_loss=0.1,
)


def go2() -> tuple[RobotTaskConfig, Path]:
    return load_robot_task("go2")


def row(
    name: str, velocity: float = 0.1, yaw: float = 0.1, reward: float = 2.0, falls: int = 0
) -> suite.Row:
    config, model = go2()
    condition = suite.Condition(
        name, config, model, trained=name.startswith("end"), foreign=name.startswith("model")
    )
    sums = {"velocity_error": velocity, "yaw_rate_error": yaw, "tracking_reward": reward}
    episodes = tuple(
        Episode(
            length=10,
            terminated=i < falls,
            sums={key: 10 * value for key, value in sums.items()},
            effort_peak=20.0 + i,
        )
        for i in range(10)
    )
    return suite.Row(condition, (Evaluation(episodes),) * 2, LIMITS.score)


def test_every_end_of_every_randomised_quantity_is_a_condition_of_its_own(tmp_path: Path) -> None:
    config, model = go2()
    other = tmp_path / "other.xml"
    other.write_text(model.read_text().replace('body name="base"', 'body name="trunk"'))
    found = suite.conditions(config, model, [other], tmp_path / "copies")
    assert found[-1].config.sim.imu == "trunk"
    names = [condition.name for condition in found]
    assert names[:2] == ["nominal", "randomised"]
    assert names[-4:] == [f"delay of {n} steps" for n in (1, 2, 3)] + ["model other.xml"]
    assert len(set(names)) == len(names)
    for kind in {each.kind for each in config.randomization} - {"observation_noise"}:
        words = kind.replace("_", " ")
        assert any(name.startswith(words) for name in names), kind
    nominal, randomised = found[0].config, found[1].config
    assert nominal.randomization == () and nominal.latency == LatencyConfig()
    assert randomised == config
    damped = [condition for condition in found if condition.name.startswith("joint damping")]
    assert [condition.name for condition in damped] == [
        "joint damping +0.5 N m s/rad or N s/m",
        "joint damping +1 N m s/rad or N s/m",
    ]
    for condition in (c for c in found[2:-4] if c not in damped):
        (only,) = condition.config.randomization
        assert condition.trained
        assert only.kind == "observation_noise" or only.range[0] == only.range[1]
    (mass,) = (t for t in config.randomization if t.kind == "body_mass")
    light, heavy = (c for c in found if c.name.startswith("body mass"))
    assert light.config.randomization[0].range == (mass.range[0],) * 2
    assert heavy.config.randomization[0].range == (mass.range[1],) * 2
    assert f"+{mass.range[1]:g} kg" in heavy.name
    late = next(c for c in found if c.name == "delay of 2 steps").config.latency.observation
    assert late is not None and late.range == (0.04, 0.04)


def test_thresholds_hold_for_the_nominal_and_the_randomised_robot() -> None:
    assert suite.shortfalls([row("nominal"), row("randomised"), row("end")], LIMITS) == []
    found = suite.shortfalls([row("nominal", velocity=0.16), row("randomised", yaw=0.3)], LIMITS)
    assert found[0] == (
        "nominal, command (0.0, 0.0, 0.0): velocity error 0.160 m/s, expected at most 0.15"
    )
    assert len(found) == 4
    assert "randomised" in found[2] and "yaw rate error 0.300 rad/s" in found[2]
    fallen = suite.shortfalls([row("nominal"), row("randomised", falls=2)], LIMITS)
    assert fallen[0].endswith("survival 80%, expected at least 90%")


def test_one_end_may_cost_a_share_of_the_nominal_reward() -> None:
    rows = [row("nominal"), row("randomised", reward=1.9), row("end high", reward=1.85)]
    assert suite.shortfalls(rows, LIMITS) == []
    falls = [*rows, row("end high", falls=2)]
    assert "survival 80%, expected at least 90%" in suite.shortfalls(falls, LIMITS)[0]
    rows += [row("end low", reward=1.7), row("delay of 3 steps", reward=0.1, falls=10)]
    (found,) = suite.shortfalls(rows, LIMITS)
    assert found.startswith("end low: 15% of the nominal tracking reward lost")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"falls": 2}, "survival 80%, expected at least 90%"),
        ({"velocity": 0.16}, "velocity error 0.160 m/s, expected at most 0.15"),
        ({"yaw": 0.3}, "yaw rate error 0.300 rad/s, expected at most 0.2"),
        ({"reward": 1.7}, "15% of the nominal tracking reward lost, expected at most 10%"),
    ],
)
def test_another_model_is_judged_like_the_nominal_one(
    changes: dict[str, Any], sentence: str
) -> None:
    rows = [row("nominal"), row("randomised"), row("model other.xml", reward=1.9)]
    assert suite.shortfalls(rows, LIMITS) == []
    found = suite.shortfalls([*rows[:2], row("model other.xml", **changes)], LIMITS)
    assert found and all(text.startswith("model other.xml") for text in found)
    assert any(sentence in text for text in found)


def test_damping_that_is_trained_with_is_judged_instead_of_shown(tmp_path: Path) -> None:
    config, model = go2()
    terms = (term("joint_damping", "add", (0.0, 2.0)), *config.randomization)
    found = suite.conditions(
        config.model_copy(update={"randomization": terms}), model, (), tmp_path
    )
    (damped,) = (c for c in found if c.name.startswith("joint damping"))
    assert damped.trained and damped.name == "joint damping +2 N m s/rad or N s/m"


def test_what_another_model_has_otherwise_is_shown(tmp_path: Path) -> None:
    config, model = go2()
    assert model_differences(model, model, config.policy) == []
    other = tmp_path / "other.xml"
    text = model.read_text()
    for old, new in (
        ('damping="0.1" armature="0.01" frictionloss="0.2"', 'damping="2" armature="0.02"'),
        ('friction="0.8 0.02 0.01"', 'friction="0.5 0.02 0.01"'),
        ('<inertial mass="7.279"', '<inertial mass="8.279"'),
        ('joint name="RR_calf_joint"', 'joint name="RR_calf_joint" stiffness="3"'),
        ('joint name="RR_hip_joint"', 'joint name="RR_hip_joint" axis="-1 0 0"'),
        ('<option timestep="0.005"', '<option timestep="0.005" gravity="0 0 -1.62"'),
        ("</mujoco>", '<actuator><motor joint="FL_hip_joint" armature="0.1" gear="2"/></actuator>'
                      "</mujoco>"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    other.write_text(text)
    assert model_differences(model, other, config.policy) == [
        "mass of the robot 16.09 -> 17.09 kg",
        "joint damping 0.1 -> 2 N m s/rad or N s/m at FL_hip_joint, 12 of 12 joints differ",
        "friction loss 0.2 -> 0 N m or N at FL_hip_joint, 12 of 12 joints differ",
        "armature 0.01 -> 0.42 kg m^2 or kg at FL_hip_joint, 12 of 12 joints differ",
        "spring 0 -> 3 N m/rad or N/m at RR_calf_joint, 1 of 12 joints differ",
        "axis of RR_hip_joint turned by 180 degrees, 1 of 12 joints differ",
        "gravity [0.0, 0.0, -9.81] -> [0.0, 0.0, -1.62] m/s^2",
        "sliding friction of the robot 0.6 to 0.8 -> 0.5 to 0.6 (lowest to highest of its geoms"
        " that touch)",
    ]


def damped_go2(folder: Path) -> Path:
    """The shipped model with the passive joint damping of a well-known public one."""
    path, old = folder / "damped.xml", 'damping="0.1" armature="0.01"'
    text = go2()[1].read_text()
    assert old in text
    path.write_text(text.replace(old, 'damping="2" armature="0.01"'))
    return path


def test_the_shipped_policy_fails_on_a_go2_of_strong_joint_damping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(POLICY), "--env", "sim:go2", "--suite", "--episodes", "1", "--noise", "zero"]
    words += ["--only", "damped.xml", "--model", str(damped_go2(tmp_path))]
    assert evaluate.main(words) == 1
    out = capsys.readouterr().out
    error = re.search(r"model damped.xml, command \(0.6, 0.0, 0.0\): velocity error (\S+) m/s", out)
    lost = re.search(r"model damped.xml: (\d+)% of the nominal tracking reward lost", out)
    assert error is not None and lost is not None, out
    assert float(error[1]) == pytest.approx(0.58, abs=0.05)  # it stands
    assert 15 <= int(lost[1]) <= 30
    assert "    joint damping 0.1 -> 2 N m s/rad or N s/m at FL_hip_joint, 12 of 12 joints" in out
    assert re.search(r"FAIL: \d+ shortfalls", out)
    assert not re.search(r"^nominal, asked", out, re.M)


def test_every_model_is_looked_at_before_the_first_episode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = damped_go2(tmp_path), tmp_path / "bad.xml"
    bad.write_text(good.read_text().replace("-2.7227 -0.83776", "-2.5 -0.83776"))
    words = [str(POLICY), "--env", "sim:go2", "--suite", "--model", str(good), "--model", str(bad)]
    with pytest.raises(InputError, match=r"bad.xml: joint FL_calf_joint: expected position limits"):
        evaluate.main(words)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="expected each model once"):
        evaluate.main([*words[:-1], str(good)])
    with pytest.raises(InputError, match=r"--only: expected words of .*, got 'hoof'"):
        evaluate.main([*words[:4], "--only", "hoof"])


def test_two_models_of_one_name_are_two_conditions(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(damped_go2(tmp_path / folder))
    names = [c.name for c in suite.conditions(*go2(), paths, tmp_path / "copies") if c.foreign]
    assert names == [f"model {path}" for path in paths]


def test_a_robot_without_a_floor_or_its_meshes_gets_what_it_lacks(tmp_path: Path) -> None:
    """As a model is when only its own file was copied, without its scene and its meshes."""
    config, model = go2()
    text, count = re.subn(r"<geom name=\"floor\".*?/>", "", model.read_text(), flags=re.DOTALL)
    assert count == 1
    mesh = '<mesh name="hull" file="hull.obj"/>'
    shown = '<geom type="mesh" mesh="hull" contype="0" conaffinity="0" mass="0"/>'
    text = text.replace("</worldbody>", f"</worldbody><asset>{mesh}</asset>", 1)
    text = text.replace("<freejoint", f"{shown}<freejoint", 1)
    other = tmp_path / "robot.xml"
    other.write_text(text)
    found = suite.conditions(config, model, [other], tmp_path / "copies")[-1]
    assert found.name == "model robot.xml"
    assert found.differences[:2] == ("without the missing visual meshes hull.obj", "with a floor")
    env = RobotEnv("go2", variant=(found.config, found.model))
    env.reset(seed=0)
    heights = [env.step(np.zeros(12, np.float32)) and env.plant.base().height for _ in range(50)]
    assert min(heights) > 0.2  # it stands
    assert other.read_text() == text


def test_a_nan_is_no_pass() -> None:
    rows = [row("nominal", velocity=float("nan")), row("randomised")]
    assert len(suite.shortfalls(rows, LIMITS)) == 2


def test_the_table_has_its_columns_under_their_names() -> None:
    nominal = row("nominal", velocity=0.123, yaw=0.045)
    head, text = suite.header(LIMITS), suite.line(nominal, nominal, LIMITS)
    assert head.index("survival") + len("survival") == text.index("100.0%") + len("100.0%")
    assert "0.12/0.04" in text and "29.0 N m" in text
    for command in ("0,0,0", "0.5,0,0"):
        assert command in head


def test_plain_values_for_machines() -> None:
    rows = [row("nominal"), row("randomised", falls=5)]
    printed = json.loads(json.dumps(suite.report(rows, LIMITS)))
    assert printed["conditions"]["nominal"][1]["command"] == [0.5, 0.0, 0.0]
    assert printed["conditions"]["randomised"][0]["survival"] == 0.5
    assert len(printed["shortfalls"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "zero", "--env", "Pendulum-v1", "--suite"], "expected a robot task"),
        (["--policy", "zero", "--env", "sim:cartpole", "--suite"], "expected a section `suite:`"),
        (["--policy", "zero"], "expected --env"),
        ([], "expected a file"),
        ([str(POLICY), "--policy", "zero"], "one of both"),
        (
            ["--policy", "zero", "--env", "sim:go2", "--model", "a.xml"],
            "expected --suite with them",
        ),
        (["--policy", "zero", "--env", "sim:go2", "--suite", "--episodes", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate.main(words)


def test_agents_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    zero = evaluate.load_builtin("zero", "sim:go2-walk")
    noise = np.random.default_rng(0).standard_normal((500, *zero.noise_shape), dtype=np.float32)
    assert zero.noise_shape == (1, 12)
    assert not zero.act_with(np.zeros((500, 45), np.float32), noise).any()
    shaken = evaluate.load_builtin("random", "sim:go2-walk").act_with(np.zeros((500, 45)), noise)
    assert np.abs(shaken).max() <= 1
    assert np.quantile(shaken, [0.25, 0.5, 0.75]) == pytest.approx([-0.5, 0, 0.5], abs=0.05)
    words = ["--policy", "zero", "--env", "sim:go2-walk", "--episodes", "1", "--json"]
    assert evaluate.main(words) == 0
    result = json.loads(capsys.readouterr().out)["noise"]["fresh"]
    assert result["survival"] == 1.0
    assert result["velocity_error"] == pytest.approx(0.5, abs=0.05)  # it stands


@pytest.mark.slow
def test_the_shipped_policy_on_late_readings_and_a_model_with_other_feet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(go2()[1])).read_text()
    other = tmp_path / "slippery.xml"
    other.write_text(text.replace('friction="0.8 0.02 0.01"', 'friction="0.5 0.02 0.01"'))
    words = [str(POLICY), "--env", "sim:go2", "--suite", "--episodes", "1", "--only", "delay of 1"]
    code = evaluate.main([*words, "--json", "--model", str(other)])
    printed = json.loads(capsys.readouterr().out)
    assert code == (1 if printed["shortfalls"] else 0)
    assert list(printed["conditions"]) == ["nominal", "delay of 1 steps"]
    assert all(result["survival"] == 1.0 for result in printed["conditions"]["nominal"])
    words[-1] = "slippery"
    evaluate.main([*words, "--json", "--model", str(other)])
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["conditions"]) == ["nominal", "model slippery.xml"]
    slipped = printed["conditions"]["model slippery.xml"]
    assert all(result["survival"] == 1.0 for result in slipped)
    assert slipped != printed["conditions"]["nominal"]


@given(
    st.lists(st.sampled_from(["a.xml", "b.xml", "c.xml"]), min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.booleans(),
)
def test_no_model_of_a_command_line_is_dropped(
    models: list[str], joined: bool, file_first: bool
) -> None:
    words = [word for m in models for word in ([f"--model={m}"] if joined else ["--model", m])]
    words = ["p.onnx", "--suite", *words] if file_first else [*words, "--suite", "p.onnx"]
    typed = evaluate._parser().parse_args(words)
    assert typed.model == list(map(Path, models))
    assert typed.file == Path("p.onnx")


def test_a_model_that_does_not_fit_is_said_before_the_first_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = go2()
    copy = tmp_path / "copy.xml"
    copy.write_text(model.read_text())
    (tmp_path / "broken.xml").write_text("<mujoco/>")
    monkeypatch.setattr(Evaluator, "run", lambda *_, **__: pytest.fail("an episode began"))
    words = ["--policy", "zero", "--env", "sim:go2-walk", "--suite", "--model", str(copy)]
    with pytest.raises(InputError, match="broken"):
        evaluate.main([*words, "--model", str(tmp_path / "broken.xml")])
    with pytest.raises(InputError, match="no such file"):
        evaluate.main([*words, "--model", str(tmp_path / "nowhere.xml")])
