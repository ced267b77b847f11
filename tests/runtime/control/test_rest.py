"""The safe command of each interface, and how a shutdown ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.io.errors import InputError
from tests.runtime.machines import KINDS, Run, T, make_robot, make_spec, make_state, robot_data

HOLDING = {
    "safety__may_go_limp": False,
    "joints__0__holding_effort": 12.0,  # rail
    "joints__2__holding_effort": 0.0,  # wheel
    "joints__3__holding_effort": -3.0,  # wrist
}
VALUES = {
    "effort": [1.0, 0.5, 2.0],
    "position": [0.6, 1.0, 0.3],
    "velocity": [0.2, -1.0, 0.05],
    "twist": [0.5, 1.0],
}
OUT = 0.5 + 8.0 * 0.25  # [rad] of a wrist that nothing moves


class Shutdown:
    """A filter during shutdown, and a scripted robot."""

    def __init__(self, kind: Any, **robot: Any) -> None:
        self.run = Run(kind, **robot).arm()
        self.run.step(VALUES[kind])
        self.decisions: list[Decision] = []
        self.seconds = 0.0

    def shut_down(self, state: Any, limit: float = 20.0) -> RestReached:
        """`state`: a function of the last command and the time; None: there is no reading."""
        began = self.run.k
        while (self.run.k - began) * T < limit:
            now = self.run.k * T
            last = self.decisions[-1].command.value if self.decisions else np.zeros(3)
            decision, reached = self.run.filter.shut_down(now, state(last, now - began * T))
            self.decisions.append(decision)
            self.run.k += 1
            if reached is not None:
                self.seconds = (self.run.k - began) * T
                return reached
        raise AssertionError("the shutdown never ends")

    @property
    def values(self) -> np.ndarray:
        return np.array([d.command.value for d in self.decisions])


# ---- effort that may go limp


def test_a_moving_effort_robot_is_damped_then_fades_out_then_gets_0() -> None:
    out = Shutdown("effort", safety__rest_fade=0.5)
    speed = np.array([4.0, 0.0, 1.0])

    def slowing(_: Any, seconds: float) -> Any:
        return make_state(velocity=speed * max(0.0, 1 - seconds))

    reached = out.shut_down(slowing)
    assert reached == RestReached(True, "all joints slower than 0.05")
    assert out.values[0] == pytest.approx([-8.0, 0.0, -20.0])  # damping * velocity, at once
    assert out.values[-1].tolist() == [0.0, 0.0, 0.0]
    assert 1.4 < out.seconds < 1.6
    damped = out.values[: int(0.9 / T)]
    assert (np.diff(damped, axis=0) >= -1e-12).all()  # never a gap, never a jump


def test_while_it_fades_out_a_new_motion_is_damped_again() -> None:
    out = Shutdown("effort", safety__rest_fade=0.5)

    def pushed(_: Any, seconds: float) -> Any:
        return make_state(velocity=[0.0 if seconds < 0.3 or seconds > 0.6 else 2.0, 0, 0])

    out.shut_down(pushed)
    assert out.values[int(0.4 / T)].tolist() == [-4.0, 0.0, 0.0]
    assert out.seconds > 1.1


def test_one_that_never_slows_down_ends_limp_and_says_so() -> None:
    out = Shutdown("effort", safety__rest_timeout=1.0)
    reached = out.shut_down(lambda *_: make_state(velocity=[0.5, 0, 0]))
    assert reached == RestReached(False, "wrist still moves at 0.5, effort 0")
    assert out.seconds == pytest.approx(1.0, abs=2 * T)
    assert out.values[-1].tolist() == [0.0, 0.0, 0.0]
    assert out.values[-2].tolist() == [-1.0, 0.0, 0.0]


def test_without_a_velocity_it_is_not_damped_by_an_old_one() -> None:
    out = Shutdown("effort")
    reached = out.shut_down(lambda *_: None)
    assert reached == RestReached(False, "no velocity can be trusted, effort 0")
    assert not out.values.any()
    assert out.seconds < 0.3


def test_a_damping_of_zero_ends_at_once() -> None:
    none = {f"joints__{i}__damping": 0.0 for i in (0, 2, 3)}
    out = Shutdown("effort", **none)
    reached = out.shut_down(lambda *_: make_state(velocity=[1.0, 0, 0]))
    assert not reached.at_rest
    assert out.seconds <= T


# ---- effort that carries a load


def test_one_that_may_not_go_limp_is_never_sent_to_0() -> None:
    out = Shutdown("effort", safety__rest_timeout=2.0, **HOLDING)
    reached = out.shut_down(lambda *_: make_state(velocity=[0.5, 0, 0.1]))
    assert not reached.at_rest
    assert "wrist still moves at 0.5, damped until now" in reached.text
    assert "the robot's own time-out of 0.1 s has to act" in reached.text
    assert out.seconds == pytest.approx(2.0, abs=2 * T)
    assert (out.values[:, 0] == -1.0).all()
    assert (out.values[:, 2] == -2.0).all()


def test_without_a_velocity_it_is_held_for_a_bounded_time_and_then_left_alone() -> None:
    out = Shutdown("effort", safety__rest_timeout=0.5, **HOLDING)
    reached = out.shut_down(lambda *_: None)
    assert not reached.at_rest
    assert "holding_effort" in reached.text
    assert out.seconds == pytest.approx(0.5, abs=3 * T)
    assert (out.values == [-3.0, 0.0, 12.0]).all()


def test_one_that_hangs_still_by_itself_is_at_rest() -> None:
    out = Shutdown("effort", **HOLDING)
    assert out.shut_down(lambda *_: make_state()).at_rest
    assert 0.4 < out.seconds < 0.6


def test_while_stopped_and_blind_it_is_held_for_a_bounded_time_only() -> None:
    run = Run("effort", safety__rest_timeout=0.5, safety__damp=60.0, **HOLDING).arm()
    run.step([1.0, 0.5, 2.0])
    from dime_robot.runtime.control.faults import Fault

    decisions = [run.step(None, Fault.ESTOP, Fault.OBSERVATION_STALE) for _ in range(128)]
    sent = [d.sent for d in decisions]
    assert sent == [k * T <= 0.5 for k in range(128)]
    assert decisions[0].command.value.tolist() == [-3.0, 0.0, 12.0]
    back = run.step(None, state=make_state(velocity=[1.0, 0, 0]))
    assert back.sent and back.command.value.tolist() == [-2.0, 0.0, 0.0]


def test_a_robot_that_carries_a_load_has_to_say_what_holds_it() -> None:
    with pytest.raises(InputError, match="joint wrist: expected a holding_effort"):
        require_compatible(make_spec("effort"), make_robot("effort", safety__may_go_limp=False))
    data = robot_data("effort")
    del data["safety"]["may_go_limp"]
    with pytest.raises(ValueError, match="may_go_limp: expected true or false for an effort"):
        RobotConfig.model_validate(data)
    with pytest.raises(ValueError, match="expected holding_effort within effort_limit"):
        make_robot("effort", joints__3__holding_effort=9.0)


# ---- position


def following(last: np.ndarray, seconds: float) -> Any:
    return make_state(*(last if seconds else (0.6, 1.0, 0.3)))


def test_a_position_robot_ends_at_its_safe_position_slowly() -> None:
    out = Shutdown("position")
    reached = out.shut_down(following)
    assert reached.at_rest, reached
    assert "at the safe position" in reached.text
    assert out.values[-1].tolist() == [1.0, 0.0, 0.25]
    speeds = np.abs(np.diff(out.values, axis=0)) / T
    assert (speeds <= np.array([8.0, 40.0, 2.0]) / 8 + 1e-9).all()


def test_a_blocked_joint_is_not_forced_and_the_way_out_is_bounded() -> None:
    out = Shutdown("position", safety__rest_timeout=1.5)
    blocked = make_state(wrist=-0.9)  # safe position 1.0, reach 0.5
    reached = out.shut_down(lambda *_: blocked)
    assert not reached.at_rest
    assert reached.text == "wrist is 1.9 from its safe position"
    assert out.seconds == pytest.approx(1.5, abs=2 * T)
    assert np.abs(out.values[20:, 0] + 0.9).max() <= 0.5 + 1e-12


def test_blind_it_stays_within_reach_of_the_newest_trusted_position() -> None:
    out = Shutdown("position", safety__rest_timeout=1.0)
    out.run.step(None, state=make_state(wrist=-0.9))
    reached = out.shut_down(lambda *_: None)
    assert not reached.at_rest
    assert "no reading says where the joints are" in reached.text
    assert out.values[-1, 0] == pytest.approx(-0.4)


# ---- velocity of joints


def moving(out: Shutdown) -> None:
    """As fast as may be: 0.25 s to brake."""
    for _ in range(60):
        out.run.step([-8.0, 40.0, 2.0], state=make_state(1.7, 0.0, 0.06))


def test_joints_slow_down_to_0_and_the_way_out_ends_once_all_stand() -> None:
    out = Shutdown("velocity")
    moving(out)

    def stopping(last: np.ndarray, seconds: float) -> Any:
        return make_state(1.0, velocity=last if seconds < 0.5 else [0.0, 0.01, 0.0])

    reached = out.shut_down(stopping)
    text = "a velocity of 0 is commanded, all joints slower than 0.05"
    assert reached == RestReached(True, text)
    steps = np.abs(np.diff(out.values, axis=0))
    assert (steps <= 4 * np.array([8.0, 40.0, 2.0]) * T + 1e-9).all()
    assert not out.values[int(0.3 / T) :].any()
    assert 0.7 < out.seconds < 1.1


def test_a_joint_that_moves_on_at_a_velocity_of_0_is_named() -> None:
    out = Shutdown("velocity", safety__rest_timeout=1.0)
    moving(out)
    reached = out.shut_down(lambda *_: make_state(velocity=[0.0, 0.0, 0.2]))
    assert reached == RestReached(False, "rail still moves at 0.2, a velocity of 0 is commanded")
    assert out.seconds == pytest.approx(1.25, abs=2 * T)


def test_blind_joints_slow_down_too_and_nobody_says_that_they_stand() -> None:
    out = Shutdown("velocity")
    moving(out)
    reached = out.shut_down(lambda *_: None)
    assert not reached.at_rest
    assert "no reading says whether the joints stand" in reached.text
    assert not out.values[-1].any()
    assert out.seconds <= 0.25 + 2 * T


# ---- twist


def test_a_base_slows_down_to_0() -> None:
    out = Shutdown("twist")
    for _ in range(100):
        out.run.step([1.0, 2.0])
    reached = out.shut_down(lambda *_: None)
    assert reached == RestReached(True, "standing: a velocity of 0 is commanded")
    assert out.values[-1].tolist() == [0.0, 0.0]
    assert (np.abs(np.diff(out.values, axis=0)) <= 4.0 * T + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_after_the_way_out_the_next_activation_begins_at_the_measured_pose(kind: Any) -> None:
    out = Shutdown(kind)
    out.shut_down(following)
    out.run.filter.disarm()
    out.run.arm(make_state(wrist=1.2))
    got = out.run.step([1.2, 0.0, 0.25][: 2 if kind == "twist" else 3]).command.value
    assert kind != "position" or got[0] == pytest.approx(1.2)
