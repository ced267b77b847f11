"""A dry run beside a running controller: it compares, records, and never publishes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Float64MultiArray

from dime_robot import shadow_page
from dime_robot.runtime.contract.robot_config import load_robot
from dime_robot.runtime.control.control_loop import Mode
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import OTHER, read_recording
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from ros_nodes import other_commands
from ros_nodes.other_commands import OtherCommands
from ros_nodes.topic_watch import is_tool
from tests.ros_nodes.graph import COMMANDS, POLICY, Graph


class Watch:
    """The command topic, filled by the test."""

    def __init__(self, *_: object) -> None:
        self.topic = "/" + COMMANDS
        self.open = False
        self.messages: list[Any] = []

    def keep_open(self, needed: bool) -> None:
        self.open = needed

    def close(self) -> None:
        self.open = False

    def take(self) -> list[tuple[None, Any]]:
        taken, self.messages = self.messages, []
        return [(None, message) for message in taken]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> tuple[OtherCommands, Any, Controller]:
    """A dry run whose steps and whose other controller the test plays."""
    monkeypatch.setattr(other_commands, "TopicWatch", Watch)
    policy = OnnxPolicy(POLICY, noise="zero")
    controller = Controller(policy, load_robot(None, policy.spec))
    loop: Any = SimpleNamespace(controller=controller, mode=Mode.ACTIVE)
    mapping = JointMapping(policy.spec, controller.robot)
    others = OtherCommands(Mock(), loop, mapping, "/" + COMMANDS)
    state = RobotState(0.0, np.array([0.0, 3.1]), np.zeros(2))
    controller.start(0.0, state)
    return others, loop, controller


def step(others: OtherCommands, controller: Controller, i: int) -> float:
    others.poll()
    state = RobotState(0.02 * i, np.array([0.0, 3.1]), np.zeros(2))
    decision = controller.step(0.02 * i, state)
    controller.record(decision)
    others.step(decision)
    return float(decision.command.value[0])


def sent(*values: float) -> Float64MultiArray:
    return Float64MultiArray(data=list(values))


def values_of(entry: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in entry.values}


def test_the_entry_has_the_difference_of_each_joint(
    beside: tuple[OtherCommands, Any, Controller],
) -> None:
    others, _, controller = beside
    watch: Any = others._watch
    assert watch.open
    off = []
    for i in range(4):
        ours = step(others, controller, i)
        watch.messages = [sent(99.0), sent(ours + i)]
        off.append(float(i))
    step(others, controller, 4)
    entry = others.entry("/a: shadow")
    assert entry.level == DiagnosticStatus.OK
    assert entry.message == "largest difference 3 N of slider over 4 steps"
    values = values_of(entry)
    assert values["steps compared"] == "4"
    assert float(values["slider mean [N]"]) == pytest.approx(np.mean(off))
    assert float(values["slider max [N]"]) == pytest.approx(3.0)
    assert "no command of another node on /effort_" in others.entry("/a: shadow").message
    others.close()
    assert not watch.open


def test_commands_for_other_joints_are_a_warning_and_are_not_recorded(
    beside: tuple[OtherCommands, Any, Controller],
) -> None:
    others, _, controller = beside
    watch: Any = others._watch
    step(others, controller, 0)
    watch.messages = [sent(1.0, 2.0), sent(), sent(float("nan"))]
    step(others, controller, 1)
    entry = others.entry("/a: shadow")
    assert entry.level == DiagnosticStatus.WARN
    assert entry.message.startswith("3 commands on /effort_controller/commands are not for")
    assert OTHER not in (controller.recorder.records().dtype.names or ())


def test_commands_while_the_dry_run_does_not_step_change_nothing(
    beside: tuple[OtherCommands, Any, Controller],
) -> None:
    others, loop, controller = beside
    watch: Any = others._watch
    step(others, controller, 0)
    watch.messages = [sent(1.0)]
    step(others, controller, 1)
    loop.mode = Mode.INACTIVE
    watch.messages = [sent(2.0)]
    others.poll()
    assert controller.recorder.records()[OTHER][0].tolist() == [1.0]
    assert np.isnan(controller.recorder.records()[OTHER][1]).all()


@pytest.mark.slow
def test_a_dry_run_beside_a_running_policy_compares_and_never_publishes(graph: Graph) -> None:
    graph.start("sim_node")
    config = yaml.safe_load(graph.tolerant_robot().read_text())
    config["robot"]["safety"]["ramp"] = 0.0
    robot = graph.folder / "robot.yaml"
    robot.write_text(yaml.safe_dump(config))
    graph.policy_node(noise="zero", robot=robot)
    graph.running()
    folder = graph.folder / "shadow_flights"
    words = ("-r", "__node:=shadow")
    given = {"noise": "zero", "robot": robot, "dry_run": True, "recordings": folder}
    graph.policy_node(*words, log="shadow", **given)

    def compared() -> list[tuple[str, dict[str, str]]]:
        found = [(m, v) for _, name, _, m, v in graph.reports if name == "/shadow: shadow"]
        return [(m, v) for m, v in found if int(v["steps compared"]) > 20]

    graph.until(lambda: len(compared()) > 2, "compared steps")
    publishers = graph.node.get_publishers_info_by_topic(COMMANDS)
    assert {end.node_name for end in publishers} == {"policy_node"}
    listeners = [v["listeners"] for _, n, _, _, v in graph.reports if n == "/policy_node: control"
                 and "listeners" in v]  # fmt: skip
    assert "shadow" not in listeners[-1]
    message, values = compared()[-1]
    assert message.startswith("largest difference ")
    assert float(values["slider mean [N]"]) <= float(values["slider max [N]"])
    path = Path(graph.trigger("shadow/dump").message)
    flown = read_recording(Path(graph.trigger("policy_node/dump").message)).records
    records = read_recording(path).records
    beside = records[np.isfinite(records[OTHER][:, 0]) & (records["rung"] <= SafetyLevel.CLAMP)]
    assert len(beside) > 40
    commanded = dict(zip(flown["stamp"], flown["command"][:, 0], strict=True))
    assert set(beside[OTHER][:, 0]) <= set(flown["command"][:, 0])
    # what belongs together: both answer the same reading; on a busy machine one misses readings
    same = [commanded.get(row["stamp"]) == row[OTHER][0] for row in beside]
    assert np.mean(same) > 0.2
    page = graph.folder / "shadow.html"
    assert shadow_page.main([str(path), "--out", str(page)]) == 0
    assert "slider [N]" in page.read_text()
    assert graph.end("shadow")[0] == 0
    graph.spin(0.5)
    assert graph.processes["policy_node"].poll() is None
    assert graph.end("policy_node")[0] == 0


def test_the_node_that_watches_is_no_listener_of_the_other_controller() -> None:
    assert is_tool("/_shadow_watch")
