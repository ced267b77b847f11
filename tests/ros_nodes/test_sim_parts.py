"""The parts of sim_node by themselves: time-out, sensors, faults."""

from __future__ import annotations

import math
from array import array

import numpy as np
import pytest
from sensor_msgs.msg import Imu, JointState

from dime_robot.runtime.contract.policy_spec import Action
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.plant import make_plant
from ros_nodes import sim_faults
from ros_nodes.conversions import seconds, stamp_of
from ros_nodes.parameters import SimParameters
from ros_nodes.sim_faults import FORMS, LAST_SECOND, InjectedFault, imu_message
from ros_nodes.sim_sensors import Sensors
from ros_nodes.sim_timeout import CommandTimeout, TimeoutResponse
from tests.paths import ROBOTS

JOINTS = ["slider", "hinge"]

# ---- the robot's own time-out


def test_the_time_out_begins_after_its_time_and_ends_with_a_command() -> None:
    timeout = CommandTimeout(0.1)
    assert not timeout.expires(1e9)  # commands have not begun
    assert not timeout.command(5.0)
    assert not timeout.expires(5.1)
    assert not timeout.expired
    assert timeout.expires(5.11)
    assert not timeout.expires(5.12)  # once
    assert timeout.expired
    assert timeout.command(7.0)
    assert not timeout.expired
    assert not timeout.command(7.05)
    assert timeout.expires(7.2)
    timeout.restart()
    assert not timeout.expired
    assert not timeout.expires(1e9)


def test_efforts_are_damped_zero_or_held() -> None:
    config, _ = load_robot_task("cartpole")
    (slider, hinge), spec = config.robot.joints, config.policy
    assert slider.damping == 5.0
    position, velocity = np.array([0.3, 1.0]), np.array([0.4, -9.0])

    def response(on_timeout: str) -> TimeoutResponse:
        return TimeoutResponse(spec, config.robot, on_timeout)  # type: ignore[arg-type]

    damped = response("damp").command(position, velocity)
    assert damped is not None
    assert (damped.joints, damped.kind, damped.value.tolist()) == (("slider",), "effort", [-2.0])
    fast = response("damp").command(position, np.array([-100.0, 0.0]))
    assert fast is not None
    assert fast.value.tolist() == [8.0]  # no more than the motor gives
    limp = response("zero").command(position, velocity)
    assert limp is not None
    assert limp.value.tolist() == [0.0]
    assert response("hold").command(position, velocity) is None
    coasting = config.robot.model_copy(
        update={"joints": (slider.model_copy(update={"damping": None}), hinge)}
    )
    free = TimeoutResponse(spec, coasting, "damp").command(position, velocity)
    assert free is not None
    assert free.value.tolist() == [0.0]


def test_a_position_drive_is_damped_without_stiffness_or_has_no_torque() -> None:
    config, model = load_robot_task("go2")
    plant = make_plant(config, model)
    assert plant.drive is not None
    for on_timeout, damping in (("damp", plant.drive.damping), ("zero", 0.0)):
        response = TimeoutResponse(config.policy, config.robot, on_timeout)  # type: ignore[arg-type]
        plant.reset({joint.name: joint.default_position + 0.1 for joint in config.policy.joints})
        velocities = np.linspace(-2, 2, len(plant.dofs))
        plant.data.qvel[plant.dofs] = velocities
        command = response.command(plant.joint_position(), plant.data.qvel[plant.dofs])
        assert command is not None
        plant.command(command)
        plant.advance(1)
        order = [[j.name for j in config.policy.joints].index(name) for name in command.joints]
        np.testing.assert_allclose(plant.drive.applied, -damping * velocities[order], atol=1e-9)


def test_a_velocity_servo_brakes_has_no_torque_or_runs_on() -> None:
    config, model = load_robot_task(ROBOTS / "arm_velocity.yaml")
    plant = make_plant(config, model)
    assert plant.drive is not None
    velocities = np.array([0.02, -0.05])
    for on_timeout, damping in (("damp", plant.drive.damping), ("zero", 0.0)):
        response = TimeoutResponse(config.policy, config.robot, on_timeout)  # type: ignore[arg-type]
        plant.reset({"shoulder": 0.1, "elbow": 0.2})
        plant.command(JointCommand(("shoulder", "elbow"), np.array([1.0, 1.0]), "velocity"))
        plant.data.qvel[plant.dofs] = velocities
        command = response.command(plant.joint_position(), plant.data.qvel[plant.dofs])
        assert command is not None and command.kind == "velocity"
        plant.command(command)
        effort = plant.drive.effort(command.value, plant.joint_position(), velocities)
        np.testing.assert_allclose(effort, -damping * velocities, atol=1e-12)
    held = TimeoutResponse(config.policy, config.robot, "hold")
    assert held.command(plant.joint_position(), velocities) is None


@pytest.mark.parametrize("on_timeout", ["damp", "zero"])
def test_a_base_without_commands_stands_still(on_timeout: str) -> None:
    config, _ = load_robot_task("cartpole")
    action = Action(kind="twist", size=2, scale={"linear_x": 1.0, "angular_z": 1.0})
    spec = config.policy.model_copy(update={"action": action})
    response = TimeoutResponse(spec, config.robot, on_timeout)  # type: ignore[arg-type]
    command = response.command(np.ones(2), np.ones(2))
    assert command is not None
    assert (command.kind, command.value.tolist()) == ("twist", [0.0, 0.0])


# ---- sensors

STATE = RobotState(
    stamp=1.0,
    joint_position=np.array([0.123456789, 1.23456789]),
    joint_velocity=np.array([0.1, 0.2]),
    orientation=np.array([math.cos(0.3), 0.0, math.sin(0.3), 0.0]),
    angular_velocity=np.array([0.1, 0.2, 0.3]),
)


def test_an_ideal_sensor_reads_the_state() -> None:
    config, _ = load_robot_task("cartpole")
    read = Sensors(config.policy, SimParameters()).read(STATE)
    for got, expected in zip(read, STATE, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_encoders_read_whole_counts_of_a_turn_or_a_metre() -> None:
    config, _ = load_robot_task("cartpole")
    read = Sensors(config.policy, SimParameters(encoder_counts=4096)).read(STATE)
    counts = read.joint_position / np.array([1 / 4096, 2 * math.pi / 4096])
    np.testing.assert_allclose(counts, [506, 805], atol=1e-9)
    np.testing.assert_array_equal(read.joint_velocity, STATE.joint_velocity)


def test_noise_has_the_stated_spread_and_its_own_seed() -> None:
    config, _ = load_robot_task("cartpole")

    def readings(seed: int) -> list[RobotState]:
        noise = {
            "position_noise": 0.01,
            "velocity_noise": 0.2,
            "gyro_noise": 0.05,
            "orientation_noise": 0.03,
        }
        sensors = Sensors(config.policy, SimParameters(seed=seed, **noise))
        return [sensors.read(STATE) for _ in range(2000)]

    found = readings(0)
    for field, spread in (("joint_position", 0.01), ("joint_velocity", 0.2)):
        values = np.array([getattr(state, field) for state in found])
        np.testing.assert_allclose(values.std(axis=0), spread, rtol=0.1)
        np.testing.assert_allclose(values.mean(axis=0), getattr(STATE, field), atol=0.1 * spread)
    turning = np.array([state.angular_velocity for state in found])
    np.testing.assert_allclose(turning.std(axis=0), 0.05, rtol=0.1)
    orientation = np.array([state.orientation for state in found])
    np.testing.assert_allclose(np.linalg.norm(orientation, axis=1), 1.0)
    off = 2 * np.arccos(np.clip(orientation @ STATE.orientation, -1, 1))  # [rad]
    assert np.sqrt(np.mean(off**2) / 3) == pytest.approx(0.03, rel=0.1)
    again, other = readings(0), readings(1)
    np.testing.assert_array_equal(again[5].joint_position, found[5].joint_position)
    assert (other[5].joint_position != found[5].joint_position).all()


# ---- faults


def joint_state(time: float, value: float) -> JointState:
    message = JointState(name=list(JOINTS))
    message.header.stamp = stamp_of(time)
    message.position, message.velocity = array("d", [value, 1.0]), array("d", [2 * value, 3.0])
    return message


def stream(text: str, period: float = 0.02, count: int = 200) -> list[JointState]:
    """The states that a robot with a fault sends in place of `joint_state(time, time)`."""
    fault, sent = InjectedFault(text, JOINTS), []
    for i in range(count):
        time = 100.0 + period * i
        seen = fault.joint_state(joint_state(fault.stamp(fault.time(time)), time))
        if seen is not None:
            sent.append(seen)
    return sent


def times(messages: list[JointState]) -> list[float]:
    return [seconds(message.header.stamp) for message in messages]


def test_a_frozen_robot_repeats_its_values_bit_for_bit_with_fresh_stamps() -> None:
    sent = stream("frozen")
    assert {(*m.position, *m.velocity) for m in sent} == {(100.0, 1.0, 200.0, 3.0)}
    assert np.diff(times(sent)).min() > 0.019
    fault = InjectedFault("frozen", JOINTS)
    imus = [fault.imu(imu_message(np.array([1.0, 0, 0, i]), np.ones(3) * i)) for i in range(3)]
    assert {(m.orientation.z, m.angular_velocity.x) for m in imus if m} == {(0.0, 0.0)}


def test_a_glitch_is_one_reading_a_second() -> None:
    sent = stream("glitch:slider:1.5")
    off = [m.position[0] - t for m, t in zip(sent, times(sent), strict=True)]
    assert [i for i, value in enumerate(off) if abs(value - 1.5) < 1e-6] == [0, 50, 100, 150]
    assert np.count_nonzero(np.abs(off) > 1e-6) == 4


@pytest.mark.parametrize(
    ("fault", "position", "velocity"),
    [
        ("jump:slider:0.5", [100.5, 1.0], [200.0, 3.0]),
        ("spin:hinge:-2", [100.0, 1.0], [200.0, 1.0]),
        ("no_velocity", [100.0, 1.0], []),
        ("permute", [1.0, 100.0], [3.0, 200.0]),
        ("missing:hinge", [100.0], [200.0]),
        ("extra", [0.5, 100.0, 1.0], [0.0, 200.0, 3.0]),
    ],
)
def test_values_are_changed_as_stated(
    fault: str, position: list[float], velocity: list[float]
) -> None:
    first = stream(fault)[0]
    assert (list(first.position), list(first.velocity)) == (position, velocity)
    assert len(first.name) == len(position)


def test_stamps_are_changed_as_stated() -> None:
    assert set(times(stream("freeze_stamp"))) == {100.0}
    assert set(times(stream("no_stamp"))) == {0.0}
    assert times(stream("clock:-40"))[0] == 60.0
    assert times(stream("clock:-400"))[0] == 0.0  # no stamp is negative
    future = times(stream("future"))
    assert future[0] == LAST_SECOND
    assert future[1] == pytest.approx(100.02)


def test_the_imu_is_changed_as_stated() -> None:
    def shown(fault: str) -> Imu:
        message = InjectedFault(fault, JOINTS).imu(
            imu_message(np.array([1.0, 0, 0, 0]), np.ones(3))
        )
        assert message is not None
        return message

    q = shown("quaternion").orientation
    assert (q.w, q.x, q.y, q.z) == (0, 0, 0, 0)
    assert shown("no_orientation").orientation_covariance[0] == -1
    assert shown("tilt:60").orientation.x == pytest.approx(0.5)
    assert shown("").orientation.w == 1
    assert InjectedFault("no_imu", JOINTS).imu(Imu()) is None


def test_the_stream_is_changed_as_stated() -> None:
    assert 20 < len(stream("drop:0.5")) < 180
    assert not stream("drop:1")
    assert [InjectedFault(text, JOINTS).rate for text in ("", "rate:0.6", "rate:2")] == [1, 0.6, 2]
    assert [InjectedFault(text, JOINTS).burst for text in ("", "bursts:4")] == [1, 4]
    assert [InjectedFault(text, JOINTS).delay for text in ("", "delay:0.04")] == [0, 0.04]
    stall = InjectedFault("stall:0.5", JOINTS)
    assert [stall.stalls(now) for now in (7.0, 7.4, 7.51, 9.0)] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("delay", "expected delay:NUMBER with a number from 0 to 60, got 'delay'"),
        ("drop:2", "expected drop:NUMBER with a number from 0 to 1, got 'drop:2'"),
        ("rate:0", "a number from 0.01 to 100"),
        ("rate:nan", "a number from 0.01 to 100"),
        ("bursts:1.5", "a whole number from 2 to 1000"),
        ("bursts:2.5", "a whole number from 2 to 1000"),
        ("nan:knee", "expected nan:JOINT with a joint out of slider, hinge, got 'nan:knee'"),
        ("jump:hinge", "expected jump:JOINT:NUMBER with a joint out of slider, hinge and a"),
        ("jump:hinge:1:2", "got 'jump:hinge:1:2'"),
        ("die:1", "expected die, got 'die:1'"),
        ("frozn", f"expected one of {', '.join(FORMS)}, got 'frozn'"),
    ],
)
def test_an_impossible_fault_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        InjectedFault(text, JOINTS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_fault_of_an_imu_that_is_not_there_is_refused() -> None:
    for kind in ("no_imu", "tilt:60", "quaternion", "no_orientation"):
        InjectedFault(kind, JOINTS)
        with pytest.raises(InputError, match="a robot without imu can have"):
            InjectedFault(kind, JOINTS, has_imu=False)


def test_every_fault_is_explained() -> None:
    lines = (sim_faults.__doc__ or "").splitlines()
    explained = {line.split()[0].partition(":")[0] for line in lines if line}
    assert set(FORMS) <= explained
