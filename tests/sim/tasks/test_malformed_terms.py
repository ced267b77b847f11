"""What is wrong with terms and their parameters: one sentence that names the file and the key."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dime_robot import config as config_command
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config import robot_task
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.task import GROUP
from dime_robot.sim.config.trust import allow
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.task import Task
from tests.paths import ROOT

OWN_ROBOT = ROOT / "examples/own_robot"
Change = Callable[[dict[str, Any]], object]


def own_robot(folder: Path, change: Change = lambda _: None, code: str = "") -> Path:
    """Copy the example into a folder, with another task or more code."""
    shutil.copytree(OWN_ROBOT, folder, dirs_exist_ok=True)
    path = folder / "crane.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    terms = folder / "terms.py"
    terms.write_text(f"{terms.read_text()}\n{code}\n")
    return path


def load_parameters(**parameters: Any) -> Change:
    return lambda content: content["task"]["rewards"]["load"].update(parameters)


def load_is(term: Any) -> Change:
    return lambda content: content["task"]["rewards"].update(load=term)


def put(section: str, name: str, entry: Any) -> Change:
    return lambda content: content["task"].setdefault(section, {}).update({name: entry})


# fmt: off
MALFORMED: list[tuple[str, Change, str, str]] = [
    ("missing function", load_is("terms.py:nothing"), "",
     "task.rewards.load: expected a function or class of terms.py, ["),
    ("missing file", load_is("other.py:load"), "", "expected a file other.py beside crane.yaml"),
    ("missing module", load_is("no_such_package.terms:load"), "",
     "no_such_package.terms:load: cannot be imported: ModuleNotFoundError"),
    ("unknown term", load_is("load_at_birth"), "",
     "task.rewards.load: expected one of ['track_linear_velocity'"),
    ("our term of another section", load_is("tilted"), "", "task.rewards.load: expected one of"),
    ("a file elsewhere", load_is("../terms.py:sway"), "", "or below its folder, got '../terms.py'"),
    ("an absolute file", load_is("/a/terms.py:sway"), "", "below its folder, got '/a/terms.py'"),
    ("no name", load_is("terms.py:"), "", "expected the name of a function after the colon"),
    ("a dunder", load_is("terms.py:__builtins__.exit"), "", "task.rewards.load: "),
    ("import error", load_is("terms.py:load_at_berth"), "import no_such_thing",
     "terms.py: cannot be imported: ModuleNotFoundError: No module named 'no_such_thing'"),
    ("syntax error", load_is("terms.py:load_at_berth"), "def broken(:",
     "terms.py: cannot be imported: SyntaxError"),
    ("exit at import", load_is("terms.py:load_at_berth"), "raise SystemExit(0)",
     "terms.py: cannot be imported: SystemExit"),
    ("missing parameter", load_is({"term": "terms.py:load_at_berth"}), "",
     "task.rewards.load.width: Field required"),
    ("unknown parameter", load_parameters(colour=1), "", "task.rewards.load.colour: unknown"),
    ("wrong type", load_parameters(width="wide"), "", "task.rewards.load.width: "),
    ("a number in quotes", load_parameters(width="0.3"), "",
     "task.rewards.load.width: expected a number, got '0.3'"),
    ("a boolean", load_parameters(width=True), "", "load.width: expected a number, got True"),
    ("NaN", load_parameters(width=float("nan")), "", "task.rewards.load.width: "),
    ("below its bound", load_parameters(width=-0.3), "",
     "task.rewards.load.width: Input should be greater than 0"),
    ("weight of a metric", put("metrics", "sway", {"term": "terms.py:speed", "weight": 2.0}), "",
     "metrics.sway.weight: expected it only in rewards"),
    ("resample of a reward", load_parameters(resample=1.0), "",
     "rewards.load.resample: expected it only in commands"),
    ("weight is a word", load_parameters(weight="much"), "", "task.rewards.load.weight: "),
    ("no rewards", lambda content: content["task"].update(rewards={}), "",
     "task: expected a section `rewards:` with at least one term"),
    ("rewards are a list", lambda content: content["task"].update(rewards=[{"term": "alive"}]), "",
     "task.rewards: "),
    ("unknown section", put("reward", "load", "alive"), "", "task: reward: unknown, expected one"),
    ("NaN reward", load_is("terms.py:bad"), "def bad(view): return float('nan')",
     "task.rewards.load: expected a finite number, got nan"),
    ("vector reward", load_is("terms.py:bad"), "def bad(view): return np.zeros(2)",
     "task.rewards.load: expected a number, got array([0., 0.])"),
    ("no reward", load_is("terms.py:bad"), "def bad(view): pass",
     "task.rewards.load: expected a number, got None"),
    ("a word as reward", load_is("terms.py:bad"), "def bad(view): return 'high'",
     "task.rewards.load: expected a number, got 'high'"),
    ("a reward that raises", load_is("terms.py:bad"), "def bad(view): return 1 / 0",
     "task.rewards.load: ZeroDivisionError: division by zero (terms.py:"),
    ("a reward that exits", load_is("terms.py:bad"), "def bad(view): raise SystemExit",
     "task.rewards.load: SystemExit"),
    ("no arguments", load_is("terms.py:bad"), "def bad(): return 0.0",
     "task.rewards.load: bad(): expected a view as its first argument, got ()"),
    ("open parameters", load_is("terms.py:bad"), "def bad(view, **rest): return 0.0",
     "bad(): expected named parameters, got **rest"),
    ("a parameter without a type", load_is("terms.py:bad"), "def bad(view, x=1.0): return x",
     "bad(): expected a type for its parameter x"),
    ("a type that is not there", load_is("terms.py:bad"), "def bad(view, x: Nothing = 1): return x",
     "bad(): its signature cannot be read: NameError"),
    ("not a function", load_is("terms.py:BAD"), "BAD = 3",
     "terms.py:BAD: expected a function or a class, got int"),
    ("a class that cannot be called", load_is("terms.py:Bad"),
     "class Bad:\n    def __init__(self, view): pass", "task.rewards.load: expected a class with"),
    ("a class that raises", load_is("terms.py:Bad"),
     "class Bad:\n    def __init__(self, view): raise KeyError('x')", "rewards.load: KeyError"),
    ("a termination that is a number", put("terminations", "bad", "terms.py:bad"),
     "def bad(view): return 0.5", "task.terminations.bad: expected true or false, got 0.5"),
    ("a termination at the start", put("terminations", "bad", "terms.py:bad"),
     "def bad(view): return True", "task.terminations.bad: holds where an episode starts"),
    ("a command of another size", put("commands", "berth", "terms.py:bad"),
     "def bad(view): return np.zeros(2)", "commands.berth: expected 1 numbers, as observation"),
    ("a command that is NaN", put("commands", "berth", "terms.py:bad"),
     "def bad(view): return np.array([np.nan])", "commands.berth: expected a vector of finite"),
    ("a sensor of another size", put("observations", "sway", "terms.py:bad"),
     "def bad(view): return [0.0]", "task.observations.sway: expected 2 numbers, as observation"),
    ("a sensor that is no vector", put("observations", "sway", "terms.py:bad"),
     "def bad(view): return 1.0", "task.observations.sway: expected a vector of finite numbers"),
    ("no sensor", lambda content: content["task"].pop("observations"), "",
     "task.observations: expected a term sway, which the policy observes as a sensor"),
    ("no command", lambda content: content["task"].pop("commands"), "",
     "task.commands: expected a term berth, which the policy observes as a command"),
    ("a metric of an unknown reward",
     put("metrics", "share", {"term": "reward_of", "rewards": "loading"}), "",
     "metrics.share.rewards: expected names of rewards, ['load', 'action_change'], got 'loading'"),
    ("a joint that is not there", put("rewards", "calm", {
        "term": "joint_speed", "joints": ["x"], "weight": -1.0}), "",
     "task.rewards.calm.joints: expected some of ['trolley'], got 'x'"),
    ("a pattern that matches none", put("rewards", "c", {
        "term": "joint_speed", "joints": "hip*", "weight": -1.0}), "",
     "task.rewards.c.joints: expected a pattern that matches one of ['trolley'], got hip*"),
    ("a base that is fixed", put("rewards", "up", {"term": "tilt", "weight": -1.0}), "",
     "task.rewards.up: "),
    ("a cost that is rewarded", put("rewards", "calm", "joint_speed"), "",
     "task.rewards.calm.weight: expected up to 0, since it is a cost"),
    ("a reset that is far out",
     put("reset", "pose", {"term": "joint_positions", "positions": {"trolley": 90.0}}), "",
     "task.reset.pose.positions.trolley: expected up to 12.6 rad, got 90"),
    ("a velocity that cannot be", put("commands", "velocity", {
        "term": "uniform_velocity", "linear_x": [0, 1], "linear_y": [0, 0], "angular_z": [0, 0],
        "standing": 0.6, "turning": 0.6}), "",
     "task.commands.velocity: expected standing + turning up to 1, got 0.6 + 0.6"),
    ("a range upside down", put("commands", "velocity", {
        "term": "uniform_velocity", "linear_x": [1, 0], "linear_y": [0, 0], "angular_z": [0, 0]}),
     "", "task.commands.velocity.linear_x: expected [lower, upper], got [1"),
    ("a number beyond all floats", put("observations", "x", "terms.py:x"),
     "def x(view): return [10**400]", "task.observations.x: expected numbers, got [1000000"),
    ("an object that cannot be shown", put("metrics", "x", "terms.py:X.of"),
     "class X:\n    def __repr__(self): raise RuntimeError\n    def of(view: object): return X()",
     "task.metrics.x: expected a number, got an object of type X"),
    ("a reward beyond its largest", load_is("terms.py:ten"),
     "def ten(view): return 10.0", "task.rewards.load: expected at most 1, its largest value"),
    ("a sensor beyond its limits", lambda content: content["robot"]["sensors"]["sway"].update(
        limits=[2.0, 3.0]), "", "task.observations.sway: expected values within its limits in"),
    ("a command in another unit", lambda content: content["task"]["commands"]["berth"].update(
        places=[100.0, 40.0]), "", "task.commands.berth: expected values within its limits in"),
    ("a termination right after the start", put("terminations", "bad", "terms.py:bad"),
     "def bad(view): return view.step > 0", "task.terminations: expected episodes that last"),
    ("a misspelled section", put("termination", "swings", "tilted"), "",
     "task: termination: unknown, expected one of episode_seconds, reset, commands"),
    ("millimetres", lambda content: content["policy"]["observation"][3].update(unit="mm"), "",
     "policy.observation.3.unit: expected units of SI without prefixes"),
    ("an old kind", lambda content: content["task"].update(kind="balance"), "",
     "task.kind: expected a task of terms"),
    ("an old task that is not whole", lambda content: content.update(task={
        "kind": "swing_up", "cart": "trolley"}), "", "task.position_width: expected a value"),
]
# fmt: on


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [row[1:] for row in MALFORMED],
    ids=[row[0].replace(" ", "-") for row in MALFORMED],
)
def test_it_is_one_sentence_with_file_and_key(
    change: Change, code: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_robot(tmp_path, change, code)
    try:
        code_of_exit = config_command.check(str(path))
        sentences = capsys.readouterr().err.removesuffix(" problems\n").splitlines()
    except InputError as error:  # the only problem: `run_command` prints it, with exit code 2
        code_of_exit, sentences = config_command.REFUSED, [str(error)]
    assert code_of_exit == config_command.REFUSED
    assert any(str(path) in line and words in line for line in sentences), sentences
    assert all(len(line) < 900 and "Traceback" not in line for line in sentences)


def test_the_example_itself_is_right(tmp_path: Path) -> None:
    assert config_command.check(str(own_robot(tmp_path))) == config_command.SAME


def test_extended_files_are_not_circular(tmp_path: Path) -> None:
    path = own_robot(tmp_path)
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(InputError, match=r"extends: expected a file that does not extend itself"):
        config_command.check(str(tmp_path / "a.yaml"))
    path.write_text(f"extends: crane.yaml\n{path.read_text()}")
    with pytest.raises(InputError, match=r"crane.yaml: extends: .* crane.yaml -> crane.yaml"):
        config_command.check(str(path))


def test_own_terms_come_only_from_the_folder_of_the_file_that_was_typed(tmp_path: Path) -> None:
    own_robot(tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine/crane.yaml"
    mine.write_text("extends: ../theirs/crane.yaml\n")
    with pytest.raises(InputError, match=r"theirs/crane.yaml: task.commands.berth: expected terms"):
        config_command.check(str(mine))
    # named in the typed file, with the code beside it, they may have parameters of the other file
    shutil.copy(tmp_path / "theirs/terms.py", tmp_path / "mine/terms.py")
    content = yaml.safe_load((tmp_path / "theirs/crane.yaml").read_text())["task"]
    task = {
        section: {name: {"term": entry["term"]}}
        for section, entries in content.items()
        for name, entry in (entries.items() if isinstance(entries, dict) else ())
        if "terms.py" in str(entry)
    }
    mine.write_text(yaml.safe_dump({"extends": "../theirs/crane.yaml", "task": task}))
    assert config_command.check(str(mine)) == config_command.SAME


@pytest.mark.parametrize(
    "entry",
    [
        {"this:s": {"weight": -1.0}},  # an entry's name is its term, if it states none
        {"this:s": -1.0},
        {"plugged": {"term": "registered"}},
        {"registered": -1.0},
    ],
)
def test_a_file_of_another_folder_names_no_code_in_any_other_way(
    entry: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("registered", "this:s", GROUP)
    monkeypatch.setattr(robot_task, "entry_points", lambda group: [point])
    (tmp_path / "theirs").mkdir()
    theirs = tmp_path / "theirs/base.yaml"
    theirs.write_text(yaml.safe_dump({"task": {"rewards": entry}}))
    path = own_robot(tmp_path, lambda content: content.update(extends="theirs/base.yaml"))
    with pytest.raises(InputError, match=rf"theirs/base.yaml: task.rewards.{next(iter(entry))}: "):
        config_command.check(str(path))


def test_an_edited_file_is_run_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    change = put("metrics", "version", "terms.py:version")
    for version in (1.0, 2.0):  # of the same length, in the same second
        path = own_robot(tmp_path, change, f"def version(view): return {version}")
        allow(path)
        env = RobotEnv(str(path))
        env.reset(seed=0)
        assert env.step(np.zeros(1, np.float32))[4]["measures"]["version"] == version
    assert not (tmp_path / "__pycache__").exists()


def test_a_command_is_told_that_an_episode_begins_before_it_is_drawn(tmp_path: Path) -> None:
    code = """
class Route:
    def __init__(self, view: TaskView) -> None:
        self.number = 0.0

    def reset(self, view: TaskView) -> None:
        self.number = 0.0

    def __call__(self, view: TaskView) -> NDArray[np.float64]:
        self.number += 0.1
        return np.array([self.number])
"""
    route = put("commands", "berth", {"term": "terms.py:Route", "resample": 0.04})
    path = own_robot(tmp_path, route, code)
    allow(path)
    env = RobotEnv(str(path))
    for _ in range(2):
        env.reset(seed=0)
        drawn = [env.task.commands["berth"][0]]
        for _ in range(2):
            env.step(np.zeros(1, np.float32))
            drawn.append(env.task.commands["berth"][0])
        assert drawn == pytest.approx([0.1, 0.2, 0.3])


def test_code_is_imported_only_for_a_file_that_was_typed(tmp_path: Path) -> None:
    path = own_robot(tmp_path, code=f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    config, model = load_robot_task(path)
    with pytest.raises(InputError, match=r"user's own, which is imported only for .* --config"):
        Task(config, make_plant(config, model))
    assert not (tmp_path / "ran").exists()
    allow(path)
    Task(config, make_plant(config, model))
    assert (tmp_path / "ran").exists()


def test_a_term_that_fails_in_the_middle_of_an_episode_names_itself(tmp_path: Path) -> None:
    code = "def late(view): return float('inf') if view.step > 20 else 0.0"
    path = own_robot(tmp_path, put("rewards", "late", "terms.py:late"), code)
    allow(path)
    env = RobotEnv(str(path))
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"task.rewards.late: expected a finite number, got inf"):
        env.step(np.zeros(1, np.float32))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text("ab:.py*", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["reset", "commands", "observations", "rewards", "terminations", "success"]),
    st.sampled_from(["term", "weight", "width", "joints", "resample", "largest", "noise"]),
    VALUES,
    st.booleans(),
)
def test_whatever_stands_there_it_is_refused_or_right(
    tmp_path_factory: pytest.TempPathFactory, section: str, key: str, value: Any, whole: bool
) -> None:
    def change(content: dict[str, Any]) -> None:
        entries = content["task"][section]
        if whole:
            entries["x"] = value
        else:
            entries[next(iter(entries))][key] = value

    path = own_robot(tmp_path_factory.mktemp("fuzz"), change)
    allow(path)
    refusal = ""
    try:
        config, model = load_robot_task(path)
        Task(config, make_plant(config, model)).start(np.random.default_rng(0))
    except InputError as error:
        refusal = str(error)
    assert not refusal or (str(path.parent) in refusal and "\n" not in refusal)
