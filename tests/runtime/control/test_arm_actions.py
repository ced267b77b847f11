"""Velocities and relative positions of joints: a simulated arm, the same as in training, replay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.config_files import config_folder, read_config
from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.control_loop import ControlLoop, GraphView, Mode, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import replay
from dime_robot.sim.config.robot_task import robot_task_of
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.robot_env import RobotEnv
from tests.paths import ROBOTS
from tests.runtime.machines import ScriptedPolicy, T, make_robot, make_spec, make_state

PERIOD = 0.01  # [s]
STOPS = np.array([[-2.0, 2.0], [-2.5, 2.5]])  # [rad]
ACCELERATION, FASTEST = np.array([5.0, 8.0]), np.array([1.5, 2.0])
KINDS = ("velocity", "measured", "commanded")
STEP = 0.1  # [rad] that an action of 1 adds to a position


def arm(kind: str) -> dict[str, Any]:
    """The content of the arm's file; `measured` and `commanded` are references of positions."""
    name = "arm_velocity" if kind == "velocity" else "arm_position"
    content: dict[str, Any] = yaml.safe_load((ROBOTS / f"{name}.yaml").read_text())
    if kind != "velocity":
        scale = {"shoulder": STEP, "elbow": STEP}
        content["policy"]["action"] = {
            "kind": "position", "size": 2, "scale": scale, "reference": kind
        }  # fmt: skip
    return content


class Arm:
    """The simulated arm and its control loop in one process, on the simulation's clock."""

    def __init__(self, kind: str, policy: Any = None, respond: Any = None) -> None:
        config, model = robot_task_of(arm(kind), ROBOTS / "arm.yaml")
        self.plant = make_plant(config, model)
        self.plant.reset({"shoulder": -0.5, "elbow": 1.0})
        policy = policy or ScriptedPolicy(config.policy, respond)
        self.controller = Controller(policy, config.robot, lambda: self.now)
        self.loop = ControlLoop(
            self.controller, True, lambda: self.now, lambda: self.now, simulated=True
        )
        self.counts = 0.0  # [rad] of the encoders; 0: exact
        self.sent: list[FloatArray] = []
        self.decisions: list[Decision] = []
        self.positions: list[FloatArray] = []

    @property
    def now(self) -> float:
        return float(self.plant.data.time) + 1.0

    def period(self) -> None:
        """One reading, the command that answers it, and a period of the simulation."""
        self.take(self.loop.poll())
        state = self.plant.state()
        position, velocity = state.joint_position, state.joint_velocity
        if self.counts:  # what stands still is the same to the last bit
            position = np.round(position / self.counts) * self.counts
            velocity = np.round(velocity * PERIOD / self.counts) * self.counts / PERIOD
        reading = Reading(self.now, position, velocity)
        self.take(self.loop.joint_state(reading))
        self.positions.append(self.plant.joint_position())
        self.plant.advance(self.plant.decimation)

    def take(self, decision: Decision | None) -> None:
        if decision is None:
            return
        self.loop.record(decision)
        self.decisions.append(decision)
        if decision.sent:
            self.sent.append(decision.command.value)
            self.plant.command(decision.command)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD)):
            self.period()

    def activate(self) -> Arm:
        self.run(0.1)
        self.loop.graph(GraphView(listeners=("/arm",)))
        assert self.loop.activation_problem() == ""
        self.loop.activate()
        return self

    def end(self) -> RestReached:
        self.loop.shut_down()
        for _ in range(round(10 / PERIOD)):
            if self.loop.mode == Mode.INACTIVE:
                break
            self.period()
        assert self.loop.rest_reached is not None
        return self.loop.rest_reached


# ---- a simulated arm


@pytest.mark.parametrize("side", [[1, 1], [-1, 1], [1, -1]])
def test_an_arm_driven_towards_its_stops_stands_before_them(side: list[float]) -> None:
    ours = Arm("velocity", respond=lambda _: side).activate()
    ours.run(5.0)
    position = np.array(ours.positions)
    assert (position > STOPS[:, 0]).all() and (position < STOPS[:, 1]).all()
    end = np.where(np.array(side) > 0, STOPS[:, 1], STOPS[:, 0])
    # at the soft stop, 2 % of the range before it; a servo without stiffness sags a little
    assert np.abs(position[-1] - end).max() < 0.12
    assert np.abs(ours.plant.state().joint_velocity).max() < 0.05
    steps = np.abs(np.diff(ours.sent, axis=0))
    assert (steps <= ACCELERATION * PERIOD + 1e-3).all()
    assert (np.abs(ours.sent) <= FASTEST + 1e-12).all()
    assert max(decision.level for decision in ours.decisions) == SafetyLevel.CLAMP


def test_a_moving_arm_is_brought_to_rest() -> None:
    ours = Arm("velocity", respond=lambda _: [0.8, -0.8]).activate()
    ours.run(0.8)
    assert np.abs(ours.plant.state().joint_velocity).min() > 1.0
    reached = ours.end()
    assert reached.at_rest, reached
    assert "a velocity of 0 is commanded" in reached.text
    assert not ours.sent[-1].any()
    assert np.abs(ours.plant.state().joint_velocity).max() < 0.05


def test_an_estop_brakes_a_moving_arm_and_it_goes_on_from_there() -> None:
    ours = Arm("velocity", respond=lambda _: [0.8, -0.8]).activate()
    ours.run(0.6)
    ours.take(ours.loop.estop())
    ours.run(0.5)
    assert not ours.sent[-1].any()
    assert ours.loop.latched
    assert ours.loop.reset() == ""
    before = len(ours.sent)
    ours.run(0.5)
    assert np.abs(ours.sent[before]).max() < 0.1
    assert np.abs(ours.sent[-1]).min() > 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_arm_of_coarse_encoders_raises_no_alarm(kind: str) -> None:
    random, change = np.random.default_rng(2), 0
    wanted = np.zeros(2)

    def wander(_: Any) -> FloatArray:
        nonlocal change, wanted
        change -= 1
        if change < 0:  # also slowly, and not at all
            change = int(random.integers(1, 120))
            wanted = random.uniform(-1, 1, 2) * random.choice([0.0, 0.02, 0.3, 1.0])
        return wanted

    ours = Arm(kind, respond=wander)
    ours.counts = 2 * np.pi / 4096
    ours.activate().run(20.0)
    assert max(decision.level for decision in ours.decisions) <= SafetyLevel.CLAMP
    assert np.ptp(ours.positions, axis=0).min() > 0.3


@pytest.mark.parametrize("kind", ["measured", "commanded"])
def test_relative_targets_do_not_wind_up_at_a_stop(kind: str) -> None:
    toward = np.array([1.0, 1.0])
    ours = Arm(kind, respond=lambda _: toward).activate()
    ours.run(4.0)
    soft = STOPS[:, 1] - 0.01 * (STOPS[:, 1] - STOPS[:, 0])
    assert (np.array(ours.sent) <= soft + 1e-12).all()
    assert ours.sent[-1] == pytest.approx(soft, abs=0.1)
    toward *= -1
    before = len(ours.sent)
    ours.run(0.1)
    assert (ours.sent[before + 1] < ours.sent[before - 1]).all()  # at once
    assert (ours.sent[-1] < soft - 0.2).all()


def test_a_blocked_arms_target_does_not_wind_up() -> None:
    ours = Arm("commanded", respond=lambda _: [-1.0, 0.0]).activate()
    ours.plant.model.dof_damping[:] = 1e6  # nothing moves it
    ours.run(3.0)
    reach = 40.0 / 400.0  # effort limit / stiffness [rad]
    shoulder = ours.positions[-1][0]
    assert ours.sent[-1][0] == pytest.approx(shoulder - reach, abs=0.01)


# ---- references of positions


def reference_of(kind: str, **action: Any) -> PolicySpec:
    return make_spec("position", action__reference=kind, **action)


def test_a_contract_keeps_its_digest_where_the_reference_is_the_default() -> None:
    assert "reference" not in make_spec("position").model_dump()["action"]
    assert "reference" not in make_spec("position").model_dump_json()
    assert reference_of("default") == make_spec("position")
    again = PolicySpec.model_validate_json(reference_of("measured").model_dump_json())
    assert again.action.reference == "measured"
    with pytest.raises(ValueError, match="reference: expected none with an action of kind vel"):
        make_spec("velocity", action__reference="measured")


def test_measured_and_commanded_references() -> None:
    state, action = make_state(wrist=0.7, wheel=3.0, rail=0.2), np.array([0.1, -0.05, 0.2])
    measured = ActionDecoder(reference_of("measured"))
    change = np.array([0.3, -1.0, 0.1])
    assert measured.decode(action, state).value == pytest.approx(state.joint_position + change)
    sent = np.array([0.5, 2.5, 0.25])
    assert measured.decode(action, state, sent).value == pytest.approx(
        state.joint_position + change
    )
    commanded = ActionDecoder(reference_of("commanded"))
    assert commanded.decode(action, state, sent).value == pytest.approx(sent + change)
    assert commanded.decode(action, state).value == pytest.approx(state.joint_position + change)
    with pytest.raises(ValueError, match="a commanded reference needs a reading"):
        commanded.decode(action)


def test_a_commanded_reference_stays_within_the_contracts_stops_and_reach() -> None:
    decoder = ActionDecoder(reference_of("commanded"))
    state, sent = make_state(wrist=1.8, wheel=0.0, rail=0.25), np.array([1.9, 1.5, 0.25])
    got = decoder.decode(np.array([1.0, 1.0, -1.0]), state, sent).value
    # the wrist's stop, effort limit / stiffness of the wheel, the rail's stop
    assert got == pytest.approx([2.0, 2.0, 0.0])


class Play:
    """A controller whose policy always wants the same change, and readings that the test makes."""

    def __init__(self) -> None:
        spec = reference_of("commanded", action__scale={"wrist": 0.02, "wheel": 0.02, "rail": 0.01})
        policy = ScriptedPolicy(spec, lambda _: np.ones(3))
        self.controller, self.period, self.k = Controller(policy, make_robot("position")), T, 0
        self.controller.start(0.0, make_state())

    def step(self, *faults: Fault, **state: Any) -> FloatArray:
        decision = self.controller.step(self.k * self.period, make_state(**state), faults)
        self.level, self.k = decision.level, self.k + 1
        return decision.command.value


def test_a_commanded_reference_is_what_was_really_sent() -> None:
    play = Play()
    sent = [play.step(wrist=0.5)[0] for _ in range(3)]
    assert sent == pytest.approx([0.52, 0.54, 0.56])  # from the measured pose, then by what is sent
    for _ in range(200):
        value = play.step(wrist=0.5)
    assert value[0] == pytest.approx(1.0)  # blocked: no further than effort limit / stiffness
    assert play.step(wrist=1.2)[0] == pytest.approx(1.0 + 0.02)


@pytest.mark.parametrize("fault", [Fault.OBSERVATION_STALE, Fault.OVERRUN, Fault.SELF_LATE])
def test_after_a_hold_a_damped_step_or_a_gap_it_is_the_measured_pose(fault: Fault) -> None:
    play = Play()
    for _ in range(6):
        value = play.step(wrist=0.5)
    measured = value[0] - 0.05
    value = play.step(fault, wrist=measured)
    while play.level >= SafetyLevel.HOLD:
        measured = value[0] - 0.05
        value = play.step(wrist=measured)
    assert value[0] == pytest.approx(measured + 0.02)


# ---- the same arithmetic as in training


def cart(kind: str) -> tuple[Any, Path]:
    """The shipped cart, commanded by velocities or by relative positions."""
    content = read_config(config_folder() / "cartpole.yaml")
    slider = content["policy"]["joints"][0]
    slider.update(stiffness=60.0, damping=12.0)
    action: dict[str, Any] = {"kind": "velocity", "size": 1, "scale": {"slider": 0.3}}
    interface = "velocity"
    if kind != "velocity":
        interface = "position"
        action = {"kind": "position", "size": 1, "scale": {"slider": 0.01}, "reference": kind}
        content["robot"]["joints"][0]["safe_position"] = 0.0
    content["policy"]["action"] = action
    content["robot"]["command"]["interface"] = interface
    return robot_task_of(content, config_folder() / "cartpole.yaml")


@pytest.mark.parametrize("kind", KINDS)
def test_commands_are_those_of_the_training_environment_bit_for_bit(kind: str) -> None:
    config, model = cart(kind)
    env = RobotEnv("cart", variant=(config, model))
    actions = np.random.default_rng(7).uniform(-1, 1, (150, 1)).astype(np.float32)
    script = iter(actions)
    policy = ScriptedPolicy(config.policy, lambda _: next(script))
    controller = Controller(policy, config.robot, lambda: 0.0)  # a step takes no time
    env.reset(seed=1)
    controller.start(0.0, env.plant.state())
    commanded: list[bytes] = []
    original: Callable[[Any], Any] = env.plant.step

    def step(command: Any) -> Any:
        commanded.append(command.value.tobytes())
        return original(command)

    env.plant.step = step  # type: ignore[method-assign]
    for i in range(150):
        decision = controller.step(0.02 * i, env.plant.state())
        assert decision.level == SafetyLevel.RUN, decision
        env.step(actions[i])
        assert decision.command.value.tobytes() == commanded[-1]
    assert len(set(commanded)) > 100
    env.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_replays_bit_for_bit(kind: str, tmp_path: Path) -> None:
    spec = PolicySpec.model_validate(arm(kind)["policy"])
    path = made_policy(tmp_path / "arm.onnx", spec, 16, 1, 2)
    ours = Arm(kind, policy=OnnxPolicy(path, seed=3)).activate()
    ours.run(1.0)
    ours.take(ours.loop.estop())
    ours.run(0.2)
    dump = ours.controller.recorder.dump(tmp_path, "test")
    ours.controller.recorder.wait(10.0)
    assert dump.error == ""
    recording = read_recording(dump.path)
    assert recording.records["inferred"].sum() > 90
    assert recording.meta["spec"]["action"].get("reference", "velocity") == kind
    assert replay.main([str(dump.path), str(path)]) == replay.SAME
