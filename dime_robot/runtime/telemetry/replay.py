"""Replay a recording: `python -m dime_robot.runtime.replay flight.npz policy.onnx`.

With the policy that was recorded the actions must be equal bit for bit (exit code 0, else 1). With
another policy of the same sizes the difference per joint is shown (exit code 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dime_robot.runtime.control.flight_recorder import Recording, read_recording
from dime_robot.runtime.control.observation import ActionDecoder
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy

SAME, DIFFERENT, OTHER_POLICY = 0, 1, 3


def replayed_actions(recording: Recording, policy: OnnxPolicy) -> np.ndarray:
    """Evaluate the policy on the recorded observations and noise; return shape (K, n_act).

    Raises:
        InputError: the recording is of a policy with other sizes, or contains no action.
    """
    records = recording.records[recording.records["inferred"]]
    if not len(records):
        raise InputError("the recording has no step in which the policy was evaluated")
    for name, size in (
        ("observation", (policy.spec.n_obs,)),
        ("noise", policy.noise.values.shape[1:]),
        ("action", (policy.spec.n_act,)),
    ):
        if records[name].shape[1:] != size:
            raise InputError(
                f"{policy.path}: takes {name} of shape {size}, the recording has"
                f" {records[name].shape[1:]}: it is of another kind of policy"
            )
    return np.stack([policy.act_with(r["observation"], r["noise"][None])[0] for r in records])


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m dime_robot.runtime.replay",
        "Replay a recording. Exit code 0: the policy's actions are the recorded ones bit for bit;"
        " 1: they are not; 3: they are not, and another policy was recorded.",
    )
    text = "a flight recording (.npz) that policy_node wrote"
    parser.add_argument("recording", type=Path, help=text)
    text = "the policy.onnx to evaluate on the recorded observations and noise"
    parser.add_argument("policy", type=Path, help=text)
    options = parser.parse_args(argv)
    recording = read_recording(options.recording)
    policy = OnnxPolicy(options.policy)
    actions = replayed_actions(recording, policy)
    records = recording.records
    recorded = records["action"][records["inferred"]]
    span = records["time"][-1] - records["time"][0]
    print(f"recording  {len(records):,} steps, {span:.1f} s, {recording.meta.get('why')}")
    for row, level, faults in recording.escalations[-10:]:
        before = records["time"][-1] - records["time"][row]
        print(f"  {before:6.2f} s before its end: {level.name.lower()} ({', '.join(faults)})")
    same = (actions == recorded) | (np.isnan(actions) & np.isnan(recorded))
    equal = int(same.all(axis=1).sum())
    print(f"actions    {equal:,} of {len(recorded):,} equal bit for bit")
    if equal == len(recorded):
        return SAME
    scale = ActionDecoder(policy.spec).scale
    for i, joint in enumerate(policy.spec.action_joints):
        difference = np.abs(actions[:, i].astype(float) - recorded[:, i]) * scale[i]
        print(f"  {joint:24s} mean {difference.mean():.4g}  max {difference.max():.4g}  (SI units)")
    digest = recording.meta.get("policy_digest")
    if digest != policy.file.policy_digest:
        print(f"policy     {policy.file.policy_digest[:12]}, the recorded one is {digest:.12}")
        return OTHER_POLICY
    print("policy     the recorded one: another CPU or ONNX Runtime may round otherwise")
    return DIFFERENT
