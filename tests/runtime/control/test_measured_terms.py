"""Efforts of joints and contacts of feet: from a robot's readings to the policy, with faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.robot_config import require_compatible
from dime_robot.runtime.control.contact_reading import ContactReading
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import FlightRecorder, read_recording
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.observation import ObservationEncoder
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import replay
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.machines import JOINTS, T, make_robot, make_spec, make_state

EFFORT = {"name": "tau", "kind": "joint_effort", "joints": ["rail", "wrist"], "size": 2,
          "unit": "N m or N"}  # fmt: skip
FEET = {"name": "feet", "kind": "foot_contact", "feet": ["right", "left"], "size": 2, "unit": "1"}
POSITIONS = {"name": "q", "kind": "joint_position", "joints": list(JOINTS), "size": 3, "unit": "m"}
TERMS = {"observation": [POSITIONS, EFFORT, FEET]}
CONTACT = {"feet": ["left", "middle", "right"], "threshold": 5.0, "max_age": 2.5 * T}
MEASURED = {"state__effort": True, "contact": CONTACT}


class Bench(LoopBench):
    """A machine that measures efforts and the forces on its feet."""

    def __init__(self, kind: str = "effort", **robot: Any) -> None:
        super().__init__(kind, spec=TERMS, **{**MEASURED, **robot})
        self.contact: list[float] | None = [1.0, 0.0]
        self.effort = np.array([1.0, 2.0, 3.0])  # wrist, wheel, rail

    def read(self, stamp: float | None = None, **changes: Any) -> Any:
        if self.contact is not None:
            self.loop.contact(np.array(self.contact))
        return super().read(stamp, **{"effort": self.effort, **changes})


def test_the_policy_sees_them_in_the_contracts_order() -> None:
    spec = make_spec("effort", **TERMS)
    assert spec.feet == ("right", "left")
    state = make_state(joint_effort=np.array([1.0, 2.0, 3.0]), foot_contact=np.array([1.0, 0.0]))
    encoder = ObservationEncoder(spec)
    assert encoder.encode(state).tolist()[3:] == [3.0, 1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="term tau: the state has no joint_effort"):
        encoder.encode(make_state())
    with pytest.raises(ValueError, match="term feet: the state has no foot_contact"):
        encoder.encode(make_state(joint_effort=np.zeros(3)))


def test_a_contract_without_feet_keeps_its_digest() -> None:
    assert "feet" not in make_spec("effort").model_dump_json()
    spec = make_spec("effort", **TERMS)
    assert type(spec).model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({**FEET, "feet": []}, "expected the names of its feet in `feet` of a foot_contact term"),
        ({**FEET, "size": 3}, "expected size 2"),
        ({**FEET, "feet": ["left", "left"]}, "more than once"),
        ({**EFFORT, "feet": ["left"]}, "expected no feet in `feet` of a joint_effort term"),
    ],
)
def test_terms_that_contradict_themselves_are_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make_spec("effort", observation=[term])


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        ({"contact": CONTACT}, "state.effort is false"),
        ({"state__effort": True}, r"contacts of the feet \['right', 'left'\]"),
        (
            {"state__effort": True, "contact": {**CONTACT, "feet": ["left"]}},
            r"the feet \['right'\], contact.feet of robot machine has \['left'\]",
        ),
    ],
)
def test_a_robot_that_does_not_measure_them_is_refused(robot: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        require_compatible(make_spec("effort", **TERMS), make_robot("effort", **robot))
    assert caught.value.code == "sensors"


def test_forces_become_contacts_at_the_threshold() -> None:
    reading = ContactReading(make_spec("effort", **TERMS), make_robot("effort", **MEASURED))
    assert reading.contacts(np.array([4.9, 100.0, 5.0])).tolist() == [1.0, 0.0]
    assert np.isnan(reading.contacts(np.array([4.9, 100.0]))).all()
    assert np.isnan(reading.contacts(np.array([4.9, 0.0, np.nan]))).tolist() == [True, False]


def test_efforts_change_their_sign_and_order_as_velocities_do() -> None:
    mapping = JointMapping(make_spec("effort"), make_robot("effort"))
    names, *_ = mapping.readings(make_state())
    mapping.set_order(names)
    effort = np.array([1.0, 2.0, 3.0])
    readings = mapping.effort_readings(effort)
    assert dict(zip(names, readings.tolist(), strict=True))["axis_1"] == -3.0
    assert mapping.efforts(readings).tolist() == effort.tolist()


def test_readings_reach_the_policy() -> None:
    bench = Bench().activate().run(10)
    assert bench.policy.seen[-1].tolist()[3:] == [3.0, 1.0, 1.0, 0.0]
    assert bench.last.level == SafetyLevel.RUN


@pytest.mark.parametrize("kind", ["effort", "velocity"])
def test_silent_feet_are_held_then_damped_with_the_measured_velocity(kind: str) -> None:
    bench = Bench(kind).activate().run(10)
    seen = len(bench.policy.seen)
    bench.contact = None
    bench.velocity = np.array([1.0, 0.0, 0.0])
    bench.run(40)
    assert bench.last.level == SafetyLevel.STOP
    levels = bench.levels()
    assert levels.index("HOLD") < levels.index("DAMP") < levels.index("STOP")
    assert len(bench.policy.seen) <= seen + 3
    faults = {fault for _, decision in bench.decisions for fault in decision.faults}
    assert faults == {Fault.CONTACT_STALE}
    assert "contact_stale (no reading of the feet for" in bench.why
    if kind == "effort":  # a foot says nothing about the joints, which are damped
        assert bench.last.command.value[0] == pytest.approx(-2.0, abs=1e-3)


def test_without_a_reading_of_the_feet_nothing_starts() -> None:
    bench = Bench()
    bench.contact = None
    bench.run(80)
    bench.update_graph()
    assert "expected a reading of the feet" in bench.loop.activation_problem()
    bench.contact = [0.0, 0.0]
    bench.run(4)
    assert bench.loop.activation_problem() == ""


@pytest.mark.parametrize("what", ["effort", "contact"])
def test_numbers_that_are_none_are_held(what: str) -> None:
    bench = Bench().activate().run(10)
    setattr(bench, what, np.full(3 if what == "effort" else 2, np.nan))
    bench.run(2)
    assert bench.last.level == SafetyLevel.HOLD
    words = "no finite effort" if what == "effort" else "no finite force on a foot"
    assert words in bench.why


def test_a_recording_has_them_and_replays_bit_for_bit(tmp_path: Path) -> None:
    bench = Bench()
    path = made_policy(tmp_path / "made.onnx", bench.spec, 16, 1, 2)
    policy = OnnxPolicy(path, seed=1)
    bench = Bench()
    bench.policy.respond = policy.act
    bench.activate().run(50)
    records = bench.controller.recorder.records()
    assert records["joint_effort"][-1].tolist() == [1.0, 2.0, 3.0]
    assert records["foot_contact"][-1].tolist() == [1.0, 0.0]
    recorder, fresh = FlightRecorder(policy, bench.robot), OnnxPolicy(path, seed=1)
    recorder._noise = {bench.last.policy: fresh.noise}
    encoder = ObservationEncoder(bench.spec)
    for k in range(20):
        state = make_state(joint_effort=np.array([k, 2.0, 3.0]), foot_contact=np.ones(2))
        observation = encoder.encode(state)
        recorder.add(k * T, state, observation, fresh.act(observation).copy(), bench.last)
    recorder.add(21 * T, None, None, np.zeros(3), bench.last)
    dump = recorder.dump(tmp_path, "test")
    recorder.wait(10.0)
    assert dump.error == ""
    recording = read_recording(dump.path)
    assert recording.records["joint_effort"][3, 0] == 3.0
    assert np.isnan(recording.records["foot_contact"][-1]).all()
    assert replay.main([str(dump.path), str(path)]) == replay.SAME
