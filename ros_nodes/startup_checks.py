"""Load a policy and its robot, and check that they fit each other and this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, load_robot
from dime_robot.runtime.control.control_loop import steps_by_reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.certificate import LatencyCertificate
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.measure_latency import budget_problem, measure_latency
from ros_nodes.parameters import PolicyParameters, existing_path

MAX_STEM = 64  # letters of a file's name; ROS bounds the names of services
# fewer than `certify` makes: each cold call costs 10 ms of a start
WARM_CALLS, COLD_CALLS = 500, 100


def load_and_check(
    given: PolicyParameters,
) -> tuple[Controller, dict[str, LatencyCertificate]]:
    """Load policies and robot, check that they fit, warm up and measure on this machine.

    Returns:
        The controller, and the measured latency of each policy by name.

    Raises:
        InputError: with a code; see docs/safety.md.
    """
    paths = policy_paths(given)
    policies = {name: _load(path, given) for name, path in paths.items()}
    first = next(iter(policies.values()))
    path = Path(given.robot).expanduser() if given.robot else None
    robot = load_robot(path, first.spec)
    controller = Controller(policies if len(policies) > 1 else first, robot)
    latencies = {}
    for name, policy in policies.items():
        latencies[name] = _measure(policy, given)
        policy.reset(given.seed)  # the measurement has drawn noise
    return controller, latencies


def policy_paths(given: PolicyParameters) -> dict[str, Path]:
    """Return the files of all policies by name.

    Raises:
        InputError: none is given, or `policy` beside `policies`, or two with one name.
    """
    several = [text for text in given.policies if text]
    if not several:
        path = existing_path(given.policy, "policy")
        return {name_of(path): path}
    if given.policy:
        raise InputError(
            "parameters policy and policies: expected one of them, got both: name all policies in"
            " policies",
            code="parameter",
        )
    found: dict[str, Path] = {}
    for text in several:
        path = Path(text).expanduser()
        name = name_of(path)
        if name in found:
            raise InputError(
                f"parameter policies: expected files of different names, got {found[name]} and"
                f" {path}: rename one, it is selected by its name",
                code="parameter",
            )
        found[name] = path
    return found


def name_of(path: Path) -> str:
    """Return the name by which a policy is selected, that of its file as ROS permits it."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", path.stem[:MAX_STEM]).strip("_")
    return name if name[:1].isalpha() else f"policy_{name}".rstrip("_")


def _load(path: Path, given: PolicyParameters) -> OnnxPolicy:
    """Load a policy that one robot can run."""
    policy = OnnxPolicy(
        path,
        provider=given.provider,  # type: ignore[arg-type]
        noise=given.noise,  # type: ignore[arg-type]
        seed=given.seed,
    )
    if policy.batch != 1:
        raise InputError(
            f"{path}: expected an export with batch 1, got {policy.batch}", code="batch"
        )
    return policy


def _measure(policy: OnnxPolicy, given: PolicyParameters) -> LatencyCertificate:
    """Warm a policy up, measure it, and refuse one that is too slow for its rate."""
    spec = policy.spec
    if not np.isfinite(policy.act(np.zeros(spec.n_obs, dtype=np.float32))).all():
        raise InputError(
            f"{policy.path}: its action on an observation of zeros is not finite", code="action"
        )
    latency = measure_latency(policy, WARM_CALLS, COLD_CALLS)
    budget = 1e3 * given.budget * spec.period
    problem = budget_problem(latency, budget, 99, policy.file.diffusion_steps)
    if problem:
        raise InputError(f"{policy.path}: {problem}", code="latency")
    return latency


def describe(controller: Controller, latencies: Mapping[str, LatencyCertificate], how: str) -> str:
    """Describe what was loaded and measured, as one line."""
    spec, names = controller.spec, list(controller.policies)
    digests = [policy.file.policy_digest[:12] for policy in controller.policies.values()]
    loaded = f"policy {spec.name} {digests[0]}"
    if len(names) > 1:
        each = (f"{name} {digest}" for name, digest in zip(names, digests, strict=True))
        loaded = f"policies {', '.join(each)}"
    slowest = max(latency.cold_p99 for latency in latencies.values())
    interpolation = controller.robot.command.interpolated
    later = f", interpolation {interpolation.describe(spec)}" if interpolation else ""
    return (
        f"{loaded}, robot {controller.robot.name}, {spec.rate:g} Hz by {how},"
        f" {controller.policy.provider} p99 {slowest:.2f} ms of {1e3 * spec.period:g} ms{later}"
    )


def drives_by_reading(drive: str, spec: PolicySpec, robot: RobotConfig) -> bool:
    """Whether each reading begins a step; `auto`: if the robot publishes at the policy's rate.

    Raises:
        InputError: `observation` is given, although the rates differ.
    """
    by_reading = steps_by_reading(drive, robot.state.rate, spec.rate)
    if drive == "observation" and not by_reading:
        raise InputError(
            f"parameter drive: expected timer, since robot {robot.name} publishes at"
            f" {robot.state.rate:g} Hz and the policy runs at {spec.rate:g} Hz, got observation",
            code="rate",
        )
    return by_reading
