"""Commands of a dry run beside those of another controller: which belong together, how far off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.control import flight_recorder
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import OTHER, FlightRecorder, read_recording
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.shadow import CommandComparison, units_of
from dime_robot.runtime.control.state import JointCommand
from dime_robot.runtime.io.errors import InputError
from tests.runtime.machines import ScriptedPolicy, make_robot, make_spec, make_state

NAMES = ("wrist", "wheel", "rail")


def decision(value: float, level: SafetyLevel = SafetyLevel.RUN) -> Decision:
    return Decision(JointCommand(NAMES, np.full(3, value)), level)


def recorder(seconds: float = 10 / 128, other: bool = True) -> FlightRecorder:
    made = FlightRecorder(ScriptedPolicy(make_spec()), make_robot(), seconds)  # type: ignore[arg-type]
    if other:
        made.expect_other_commands()
    return made


def step(made: FlightRecorder, i: int, level: SafetyLevel = SafetyLevel.RUN) -> None:
    observation = np.zeros(3, dtype=np.float32)
    made.add(float(i), make_state(), observation, np.zeros(3), decision(float(i), level))


def dumped(made: FlightRecorder, folder: Path) -> Path:
    dump = made.dump(folder, "test")
    made.wait(10.0)
    assert not dump.error
    return dump.path


STEP = st.tuples(
    st.just("step"), st.sampled_from(list(SafetyLevel)), st.floats(-100, 100, width=32)
)
OTHERS = st.tuples(st.just("other"), st.none(), st.floats(-100, 100, width=32))


@given(st.lists(st.one_of(STEP, OTHERS), max_size=30))
def test_a_step_goes_with_the_last_command_before_the_next_one(
    events: list[tuple[str, SafetyLevel | None, float]],
) -> None:
    """The comparison and the recorder agree with a plain list of pairs, over a full ring too."""
    comparison, made = CommandComparison(3), recorder(1.0)
    pairs: list[list[float | None]] = []  # ours where the policy acted, theirs
    for what, level, value in events:
        if what == "other":
            comparison.other(np.full(3, value))
            made.other_command(np.full(3, value))
            if pairs:
                pairs[-1][1] = value
        else:
            assert level is not None
            comparison.step(decision(value, level))
            made.add(0.0, None, None, np.zeros(3), decision(value, level))
            pairs.append([value if level <= SafetyLevel.CLAMP else None, None])
    off = [abs(a - b) for a, b in pairs[:-1] if a is not None and b is not None]
    found = comparison.take()
    assert found.steps == len(off)
    assert found.mean == pytest.approx([sum(off) / max(1, len(off))] * 3)
    assert found.max == pytest.approx([max(off, default=0.0)] * 3)
    again = comparison.take()
    assert (again.steps, again.max.tolist()) == (0, [0.0] * 3)
    records = made.records()
    theirs = [np.nan if b is None else b for _, b in pairs]
    if OTHER in (records.dtype.names or ()):
        np.testing.assert_array_equal(records[OTHER][:, 0], theirs)
    else:
        assert np.isnan(theirs).all()


@pytest.mark.parametrize("count", [3, 10, 17, 40])
def test_the_ring_keeps_the_commands_of_its_steps(count: int) -> None:
    made = recorder()
    for i in range(count):
        step(made, i)
        if i % 3:
            made.other_command(np.full(3, 100.0 + i))
    records = made.records()
    assert len(records) == min(count, 10)
    expected = [100 + i if i % 3 else np.nan for i in records["time"]]
    np.testing.assert_array_equal(records[OTHER][:, 1], expected)
    np.testing.assert_array_equal(records["command"][:, 0], records["time"])


def test_the_file_has_the_field_only_where_another_controller_commanded(tmp_path: Path) -> None:
    made = recorder()
    made.other_command(np.zeros(3))  # before any step
    step(made, 0)
    assert read_recording(dumped(made, tmp_path)).records.dtype.names == (
        flight_recorder.RECORD_FIELDS
    )
    made.other_command(np.ones(3))
    records = read_recording(dumped(made, tmp_path)).records
    assert records.dtype.names == (*flight_recorder.RECORD_FIELDS, OTHER)
    assert records[OTHER].tolist() == [[1.0] * 3]
    silent = recorder(other=False)  # no dry run
    step(silent, 0)
    silent.other_command(np.ones(3))
    assert OTHER not in (silent.records().dtype.names or ())


def test_a_field_of_another_size_is_refused(tmp_path: Path) -> None:
    made = recorder()
    step(made, 0)
    made.other_command(np.ones(3))
    records, path = made.records(), tmp_path / "flight.npz"
    fields = [(n, "f8", (2,)) if n == OTHER else (n, t, *s) for n, t, *s in records.dtype.descr]
    wrong = np.zeros(1, dtype=fields)
    np.savez(path, records=wrong, meta=np.array(json.dumps({**made.meta, "why": "x"})))
    with pytest.raises(InputError, match="fields of other types or sizes"):
        read_recording(path)


def test_the_file_stays_within_what_is_read_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(flight_recorder, "MAX_BYTES", 5000)
    made = recorder(30.0)
    for i in range(100):
        step(made, i)
        made.other_command(np.ones(3))
    records = read_recording(dumped(made, tmp_path)).records
    assert records.nbytes <= 5000
    assert records["time"][-1] == 99.0


@pytest.mark.parametrize(
    ("kind", "units"),
    [
        ("effort", ("N m", "N m", "N")),
        ("position", ("rad", "rad", "m")),
        ("velocity", ("rad/s", "rad/s", "m/s")),
        ("twist", ("m/s", "rad/s")),
    ],
)
def test_each_joint_has_its_unit(kind: str, units: tuple[str, ...]) -> None:
    assert units_of(make_spec(kind)) == units
