"""Replay a recording: `python -m dime_robot.runtime.replay flight.npz policy.onnx`.

Of a flight recording (.npz, or the .mcap made of one) the policy that was recorded must give equal
actions bit for bit (exit code 0, else 1); with another policy of the same sizes the difference per
joint is shown (exit code 3). Of a recording of topics (an MCAP file, a rosbag2 folder) any policy
is run on the recorded readings, and what it would have commanded is compared with what was
(exit code 0).
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot
from dime_robot.runtime.control.flight_recorder import Recording, read_recording
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.extras import require_extras
from dime_robot.runtime.io.mcap_files import is_mcap
from dime_robot.runtime.policy.noise import NOISE_MODES, NoiseMode, require_seed
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.flight_mcap import flight_content
from dime_robot.runtime.telemetry.recording import MODULES
from dime_robot.runtime.telemetry.shadow import (
    Comparison,
    compare_actions,
    compare_commands,
    shadow_test,
)

SAME, DIFFERENT, OTHER_POLICY = 0, 1, 3
MAX_PERIODS = 2.5  # of a flight recording, after which its last reading is stale


class Replay(NamedTuple):
    """What a replay found."""

    recording: Recording
    comparison: Comparison | None  # None: there was nothing to compare with
    about: dict[str, str]  # facts for the reader
    code: int  # of the exit


def replayed_actions(recording: Recording, policy: OnnxPolicy) -> np.ndarray:
    """Evaluate the policy on the recorded observations and noise; return shape (K, n_act).

    Raises:
        InputError: the recording is of a policy with other sizes, or contains no action.
    """
    records = recording.records[recording.records["inferred"]]
    if not len(records):
        raise InputError("the recording has no step in which the policy was evaluated")
    _require_sizes(records, policy)
    return np.stack([policy.act_with(r["observation"], r["noise"][None])[0] for r in records])


def _require_sizes(records: np.ndarray, policy: OnnxPolicy, several: bool = False) -> None:
    """Refuse records of a policy with other sizes.

    Args:
        records: of a recording.
        policy: to evaluate on them.
        several: whether they are of several policies, of which the longest set the sizes.

    Raises:
        InputError: with the sizes.
    """
    for name, size in (
        ("observation", (policy.spec.n_obs,)),
        ("noise", policy.noise.values.shape[1:]),
        ("action", (policy.spec.n_act,)),
    ):
        found = records[name].shape[1:]
        longer = several and name != "action" and found[:1] > size[:1]
        if (found[1:] != size[1:]) if longer else (found != size):
            raise InputError(
                f"{policy.path}: takes {name} of shape {size}, the recording has {found}: it is of"
                " another kind of policy; --topics runs it on the readings in the .mcap made of the"
                " recording"
            )


def _equal(actions: np.ndarray, recorded: np.ndarray) -> int:
    """Return how many of the actions, shape (K, n_act), are equal; NaN equals NaN."""
    same = (actions == recorded) | (np.isnan(actions) & np.isnan(recorded))
    return int(same.all(axis=1).sum())


def replay_switched(recording: Recording, policies: Sequence[OnnxPolicy]) -> tuple[int, list[str]]:
    """Evaluate each recorded policy on the steps in which it acted.

    Returns:
        The exit code, and a line about each recorded policy.

    Raises:
        InputError: a policy that was not recorded or has other sizes, a recording that contains no
            action, or none of a given policy.
    """
    records, recorded = recording.records, recording.policies
    if not records["inferred"].any():
        raise InputError("the recording has no step in which a policy was evaluated")
    given = {policy.file.policy_digest: policy for policy in policies}
    if unknown := [p.path for digest, p in given.items() if digest not in recorded.values()]:
        names = ", ".join(f"{name} {digest:.12}" for name, digest in recorded.items())
        raise InputError(f"{unknown[0]}: expected one of the recorded policies, {names}")
    code, lines, compared = SAME, [], 0
    for number, (name, digest) in enumerate(recorded.items()):
        rows = records[records["inferred"] & (records["policy"] == number)]
        policy = given.get(digest)
        if policy is None or not len(rows):
            what = "not replayed: give its file too" if len(rows) else "did not act"
            lines.append(f"{name}: {len(rows):,} steps, {what}")
            continue
        _require_sizes(rows, policy, several=True)
        n_obs, drawn = policy.spec.n_obs, policy.noise.values.shape[1]
        actions = [
            policy.act_with(row["observation"][:n_obs], row["noise"][None, :drawn])[0]
            for row in rows
        ]
        equal = _equal(np.stack(actions), rows["action"])
        compared += len(rows)
        lines.append(f"{name}: {equal:,} of {len(rows):,} equal bit for bit")
        code = code if equal == len(rows) else DIFFERENT
    if not compared:  # that nothing differs would say nothing
        raise InputError(f"expected the file of a policy that acted, got none: {'; '.join(lines)}")
    return code, lines


def add_options(parser: Parser) -> None:
    """Add what a replay of recorded topics needs."""
    text = "YAML with a section `robot`, for topics; default: the shipped NAME.yaml of the policy"
    parser.add_argument("--robot", type=Path, help=text)
    text = "of the robot's topics; default: /, of a flight recording's .mcap that of its node"
    parser.add_argument("--namespace", help=text)
    text = "what begins a step on recorded topics, as the parameter of policy_node"
    parser.add_argument(
        "--drive", default="auto", choices=("auto", "observation", "timer"), help=text
    )
    text = "noise on recorded topics; default: zero where it is certified, else fresh"
    parser.add_argument("--noise", choices=NOISE_MODES, help=text)
    parser.add_argument("--seed", type=int, default=0, help="of that noise")
    text = "of a flight recording's .mcap use the topics, not the recorded observations"
    parser.add_argument("--topics", action="store_true", help=text)


def replay(options: Namespace) -> Replay:
    """Replay what the options name, and print what was found."""
    path: Path = options.recording
    content = None
    if path.is_dir() or path.suffix == ".db3" or is_mcap(path):
        require_extras(recordings=MODULES)
    if not path.is_dir() and path.suffix != ".db3":
        content = flight_content(path)
    if content is None or (options.topics and is_mcap(path)):
        return _replay_topics(options, content)
    if options.topics:
        raise InputError(
            f"{path}: expected an MCAP file with --topics, got a flight recording: convert it with"
            f" python -m dime_robot.runtime.recording"
        )
    recording = read_recording(path, content)
    records = recording.records
    span = records["time"][-1] - records["time"][0]
    about = {"recording": f"{len(records):,} steps, {span:.1f} s, {recording.meta.get('why')}"}
    print(f"recording  {about['recording']}")
    for row, level, faults in recording.escalations[-10:]:
        before = records["time"][-1] - records["time"][row]
        print(f"  {before:6.2f} s before its end: {level.name.lower()} ({', '.join(faults)})")
    policies = [OnnxPolicy(path) for path in options.policy]
    if len(recording.policies) > 1:
        code, lines = replay_switched(recording, policies)
        about["actions"] = "; ".join(lines)
        print("actions    " + "\n           ".join(lines))
        return Replay(recording, compare_commands(recording), about, code)
    policy = _only(options)
    actions = replayed_actions(recording, policy)
    recorded = records["action"][records["inferred"]]
    equal = _equal(actions, recorded)
    about["actions"] = f"{equal:,} of {len(recorded):,} equal bit for bit"
    print(f"actions    {about['actions']}")
    code = SAME
    comparison = compare_commands(recording)
    if equal < len(recorded):
        comparison = compare_actions(recording, actions, policy.spec)
        print("\n".join(comparison.lines()))
        digest = recording.meta.get("policy_digest")
        code = OTHER_POLICY if digest != policy.file.policy_digest else DIFFERENT
        reason = "the recorded one: another CPU or ONNX Runtime may round otherwise"
        if code == OTHER_POLICY:
            reason = f"{policy.file.policy_digest[:12]}, the recorded one is {digest:.12}"
        about["policy"] = reason
        print(f"policy     {reason}")
    elif comparison is not None:
        print(f"commands   {len(comparison.time):,} steps beside another controller")
        print("\n".join(comparison.lines()))
    return Replay(recording, comparison, about, code)


def _only(options: Namespace, **how: Any) -> OnnxPolicy:
    """Return the policy, where one file has to be given."""
    if len(options.policy) > 1:
        raise InputError(
            f"{options.recording}: expected one policy.onnx, since it is no recording of several"
            f" policies, got {len(options.policy)}"
        )
    return OnnxPolicy(options.policy[0], **how)


def _recorded_robot(
    options: Namespace, spec: PolicySpec, content: bytes | None
) -> tuple[RobotConfig, str]:
    """Return the machine whose topics are read, and their namespace.

    Args:
        options: may name both.
        spec: the contract of the policy that is run.
        content: of a flight recording whose .mcap is read; None: that of another recorder.
    """
    if content is None:
        return load_robot(options.robot, spec), options.namespace or "/"
    recording = read_recording(options.recording, content)
    robot = recording.robot if options.robot is None else load_robot(options.robot, spec)
    rate = recording.spec.rate  # of the readings in it: one for each step
    age = max(robot.state.max_age, MAX_PERIODS / rate)
    state = robot.state.model_copy(update={"rate": rate, "max_age": age})
    namespace = str(recording.meta.get("node", "")).rpartition("/")[0]
    return robot.model_copy(update={"state": state}), options.namespace or namespace


def _replay_topics(options: Namespace, content: bytes | None) -> Replay:
    require_seed(options.seed)
    policy = _only(options)
    noise: NoiseMode = options.noise or ("zero" if "zero" in policy.file.certified else "fresh")
    policy = _only(options, noise=noise, seed=options.seed)
    robot, namespace = _recorded_robot(options, policy.spec, content)
    test = shadow_test(options.recording, policy, robot, options.drive, namespace)
    records = test.recording.records
    span = records["time"][-1] - records["time"][0]
    comparison = compare_commands(test.recording)
    seeded = "" if noise == "zero" else f", seed {options.seed}"
    clock = "stamps" if test.same_clock else "arrivals: stamps are on another clock"
    about = {
        "recording": f"topics of {robot.name}, {len(records):,} steps, {span:.1f} s",
        "policy": f"{policy.spec.name} {policy.file.policy_digest[:12]}, noise {noise}{seeded}",
        "steps": f"{policy.spec.rate:g} Hz by {test.drive}, ages by {clock}",
        "started": f"{test.starts} time(s)",
    }
    for row, level, faults in test.recording.escalations[:10]:
        when = records["time"][row] - records["time"][0]
        about[f"  {when:.2f} s"] = f"{level.name.lower()} ({', '.join(faults)})"
    if test.unused:
        about["unused"] = f"{test.unused:,} commands that are not for the policy's joints"
    for name, text in about.items():
        print(f"{name:10s} {text}")
    if comparison is None:
        raise InputError(
            f"{options.recording}: expected commands while the policy can act, got none for its"
            " joints after a usable reading"
        )
    print(f"commands   {len(comparison.time):,} of {len(records):,} steps compared")
    print("\n".join(comparison.lines()))
    return Replay(test.recording, comparison, about, SAME)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m dime_robot.runtime.replay",
        "Replay a recording. Exit code 0: the policy's actions are the recorded ones bit for bit;"
        " 1: they are not; 3: they are not, and another policy was recorded. Of recorded topics any"
        " policy is compared with what was commanded, exit code 0.",
    )
    text = "a flight recording (.npz, .mcap) of policy_node, or topics (.mcap, rosbag2 folder)"
    parser.add_argument("recording", type=Path, help=text)
    text = "the policy.onnx to evaluate on the recorded observations or readings; of a recording of"
    text += " several policies their files"
    parser.add_argument("policy", type=Path, nargs="+", help=text)
    add_options(parser)
    return replay(parser.parse_args(argv)).code
