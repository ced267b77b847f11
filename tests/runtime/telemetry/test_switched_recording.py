"""A recording of several policies: replayed bit for bit across switches, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.made_policy import made_policy
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.control_loop import ControlLoop
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.control.phases import Goal, Phase
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import replay
from tests.runtime.control.loop_bench import LoopBench
from tests.runtime.control.test_phases import phases
from tests.runtime.control.test_policy_switch import with_history
from tests.runtime.machines import ScriptedPolicy, T, make_spec

SWITCHES = 100
Meta = dict[str, Any]


def without_history() -> PolicySpec:
    terms = [{"name": "q", "kind": "joint_position", "joints": ["wrist", "wheel", "rail"],
              "size": 3, "unit": "mixed"},
             {"name": "last", "kind": "last_action", "size": 3, "unit": "1"}]  # fmt: skip
    return make_spec("position", observation=terms)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Policies of other weights, observation sizes and diffusion steps; `foreign` never acts."""
    folder = tmp_path_factory.mktemp("policies")
    given = {
        "short": (without_history(), 16, 2),
        "long": (with_history("position"), 24, 5),
        "foreign": (without_history(), 24, 2),
    }
    return {
        name: made_policy(folder / f"{name}.onnx", spec, width, 1, steps)
        for name, (spec, width, steps) in given.items()
    }


def dumped(controller: Controller, folder: Path) -> Path:
    dump = controller.recorder.dump(folder, "test")
    controller.recorder.wait(10.0)
    assert not dump.error
    return dump.path


class SlowMachine(LoopBench):
    """A robot that follows its commands no faster than a real one can."""

    def jiggle(self) -> None:
        super().jiggle()
        if self.decisions:
            step = T * np.array([2.0, 10.0, 0.4])
            self.position = self.position + np.clip(
                self.last.command.value - self.position, -step, step
            )


@pytest.fixture(scope="module")
def flown(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flight from lying to lying, with many switches and a gap between."""
    bench = SlowMachine(phases=phases(), safety__blend=3 * T)
    policies = {name: OnnxPolicy(files[name], seed=7) for name in ("short", "long")}
    bench.controller = Controller(policies, bench.robot, lambda: bench.now)
    bench.loop = loop = ControlLoop(
        bench.controller, True, lambda: bench.now, lambda: bench.now + bench.offset
    )
    bench.activate()
    assert not loop.request(Goal.STAND)
    bench.run(1.0 / T)
    assert not loop.select("long")  # the one that acts first
    assert not loop.request(Goal.POLICY)
    bench.run(20)
    random, names = np.random.default_rng(0), ["short", "long"]
    for k in range(SWITCHES):
        assert not loop.select(names[k % 2])
        bench.run(int(random.integers(1, 8)))
        assert bench.controller.acting == names[k % 2]
        if k == SWITCHES // 2:
            bench.run(4, read=False)  # a gap
            bench.run(10)
    assert not loop.request(Goal.PASSIVE)
    bench.run(1.0 / T)
    assert loop.phase == Phase.PASSIVE
    return dumped(bench.controller, tmp_path_factory.mktemp("flights"))


def changed(flown: Path, path: Path, change: Callable[[np.ndarray, Meta], Any]) -> Path:
    """The same recording with something changed; `change` may return other records."""
    opened = read_recording(flown)
    records = change(opened.records, opened.meta)
    records = opened.records if records is None else records
    np.savez(path, records=records, meta=np.array(json.dumps(opened.meta)))
    return path


def test_the_actions_of_both_are_replayed_bit_for_bit_across_switches(
    flown: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recording = read_recording(flown)
    records = recording.records
    acted = records[records["inferred"]]
    assert np.count_nonzero(np.diff(acted["policy"].astype(int))) == SWITCHES
    assert list(recording.policies) == ["short", "long"]
    short, long = (acted[acted["policy"] == number] for number in (0, 1))
    assert np.isnan(short["observation"][:, 6:]).all() and len(long["observation"][0]) == 11
    assert np.isfinite(short["observation"][:, :6]).all() and np.isfinite(long["noise"]).all()
    assert np.isnan(short["noise"][:, 3:]).all()
    shown = [recording.commander(row) for row in range(len(records))]
    assert shown[0] == "stand_up short" and shown[-1].startswith("passive ")
    assert {"stand short", "policy long", "policy short"} <= set(shown)
    assert replay.main([str(flown), str(files["short"]), str(files["long"])]) == replay.SAME
    shown_text = capsys.readouterr().out
    assert f"short: {len(short):,} of {len(short):,} equal bit for bit" in shown_text
    assert f"long: {len(long):,} of {len(long):,} equal bit for bit" in shown_text
    # in any order of the files
    assert replay.main([str(flown), str(files["long"]), str(files["short"])]) == replay.SAME


def test_an_action_that_differs_is_found(
    flown: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def swap(records: np.ndarray, meta: Meta) -> None:
        (row, *_) = np.flatnonzero(records["inferred"] & (records["policy"] == 1))
        records["action"][row, 0] = np.nextafter(records["action"][row, 0], np.float32(2))

    path = changed(flown, tmp_path / "a.npz", swap)
    words = [str(path), str(files["short"]), str(files["long"])]
    assert replay.main(words) == replay.DIFFERENT
    (long,) = [line for line in capsys.readouterr().out.splitlines() if "long: " in line]
    equal, count = (int(text.replace(",", "")) for text in long.split()[1:4:2])
    assert equal == count - 1


def test_what_is_not_replayed_is_named(
    flown: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(flown), str(files["long"])]) == replay.SAME
    shown = capsys.readouterr().out
    assert "not replayed: give its file too" in shown
    assert "short: " in shown and "long: " in shown and "equal bit for bit" in shown


def test_that_nothing_was_compared_is_no_success(
    flown: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    def alone(records: np.ndarray, meta: Meta) -> None:
        records["inferred"] &= records["policy"] == 1

    path = changed(flown, tmp_path / "a.npz", alone)
    with pytest.raises(InputError, match="a policy that acted, got none: short: 0 steps, did not"):
        replay.main([str(path), str(files["short"])])
    assert replay.main([str(path), str(files["long"])]) == replay.SAME


def test_a_policy_whose_actions_are_not_finite_is_replayed_too(
    flown: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    """The recording of what went wrong is the one that is replayed."""

    def go_wrong(records: np.ndarray, meta: Meta) -> None:
        rows = np.flatnonzero(records["inferred"])[-3:]
        records["observation"][rows] = records["action"][rows] = np.nan

    path = changed(flown, tmp_path / "a.npz", go_wrong)
    assert replay.main([str(path), str(files["short"]), str(files["long"])]) == replay.SAME


def test_a_foreign_policy_is_refused(flown: Path, files: dict[str, Path]) -> None:
    words = [str(flown), *(str(files[name]) for name in ("short", "long", "foreign"))]
    with pytest.raises(InputError, match=r"foreign.onnx: expected one of the recorded policies, "):
        replay.main(words)


def test_a_recording_in_which_none_acted_is_refused(
    flown: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    path = changed(flown, tmp_path / "a.npz", lambda records, _: records[:100])
    with pytest.raises(InputError, match="no step in which a policy was evaluated"):
        replay.main([str(path), str(files["short"]), str(files["long"])])


def drop(name: str) -> Callable[[np.ndarray, Meta], np.ndarray]:
    def change(records: np.ndarray, meta: Meta) -> np.ndarray:
        kept = [each for each in records.dtype.names or () if each != name]
        found = np.empty(len(records), [(each, records.dtype[each]) for each in kept])
        for each in kept:
            found[each] = records[each]
        return found

    return change


def mark(name: str, value: int) -> Callable[[np.ndarray, Meta], None]:
    return lambda records, _: records[name].__setitem__(3, value)


def narrow(records: np.ndarray, meta: Meta) -> np.ndarray:
    """Observations shorter than what the recorded policies observe."""
    fields = [
        (name, ("f4", (2,)) if name == "observation" else records.dtype[name])
        for name in records.dtype.names or ()
    ]
    found = np.zeros(len(records), fields)
    for name in records.dtype.names or ():
        found[name] = records[name][:, :2] if name == "observation" else records[name]
    return found


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (mark("policy", 2), "its field policy holds 2, expected less than 2"),
        (mark("policy", 255), "its field policy holds 255, expected less than 2"),
        (mark("phase", 5), "its field phase holds 5, expected less than 5"),
        (lambda _, meta: meta.pop("policies"), "its field policy holds 1, expected less than 0"),
        (lambda _, meta: meta["policies"].pop(), "its field policy holds 1, expected less than 1"),
        (lambda _, meta: meta["policies"][0].pop("name"), r"meta: policies\.0\.name"),
        (lambda _, meta: meta["policies"][1].update(name=""), r"meta: policies\.1\.name"),
        (lambda _, meta: meta["policies"][1].update(name="short"), "each name of a policy once"),
        (lambda _, meta: meta["policies"][1].pop("policy_digest"), r"policies\.1\.policy_digest"),
        (lambda _, meta: meta["policies"].extend(8 * meta["policies"]), "meta: policies: "),
        (drop("policy"), "its records lack the field policy"),
        (narrow, "takes observation of shape"),
    ],
)
def test_a_malformed_recording_is_refused_in_one_sentence(
    change: Callable[[np.ndarray, Meta], Any],
    error: str,
    flown: Path,
    files: dict[str, Path],
    tmp_path: Path,
) -> None:
    def apply(records: np.ndarray, meta: Meta) -> np.ndarray | None:
        found = change(records, meta)
        return found if isinstance(found, np.ndarray) else None

    path = changed(flown, tmp_path / "malformed.npz", apply)
    with pytest.raises(InputError, match=error) as caught:
        replay.main([str(path), str(files["short"]), str(files["long"])])
    assert "\n" not in str(caught.value)


def test_policies_of_one_robot_have_one_recorder(files: dict[str, Path]) -> None:
    """A scripted policy beside a real one: their sizes differ, and neither is cut off."""
    bench = LoopBench(others=lambda spec: {"wide": ScriptedPolicy(with_history("position"))})
    bench.follows = True
    bench.activate()
    bench.loop.select("wide")
    bench.run(3)
    records = bench.controller.recorder.records()
    assert records["observation"].shape[1] == 11
    assert np.isnan(records["observation"][0, 3:]).all()
    assert np.isfinite(records["observation"][-1]).all()
