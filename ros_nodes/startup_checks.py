"""Load a policy and its robot, and check that they fit each other and this machine."""

from __future__ import annotations

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

# fewer than `certify` makes: each cold call costs 10 ms of a start
WARM_CALLS, COLD_CALLS = 500, 100


def load_and_check(given: PolicyParameters) -> tuple[Controller, LatencyCertificate]:
    """Load policy and robot, check that they fit, warm up and measure on this machine.

    Returns:
        The controller, and the measured latency.

    Raises:
        InputError: with a code; see docs/safety.md.
    """
    policy = OnnxPolicy(
        existing_path(given.policy, "policy"),
        provider=given.provider,  # type: ignore[arg-type]
        noise=given.noise,  # type: ignore[arg-type]
        seed=given.seed,
    )
    if policy.batch != 1:
        raise InputError(
            f"{given.policy}: expected an export with batch 1, got {policy.batch}", code="batch"
        )
    spec = policy.spec
    robot = load_robot(Path(given.robot).expanduser() if given.robot else None, spec)
    controller = Controller(policy, robot)
    if not np.isfinite(policy.act(np.zeros(spec.n_obs, dtype=np.float32))).all():
        raise InputError(
            f"{given.policy}: its action on an observation of zeros is not finite", code="action"
        )
    latency = measure_latency(policy, WARM_CALLS, COLD_CALLS)
    budget = 1e3 * given.budget * spec.period
    problem = budget_problem(latency, budget, 99, policy.file.diffusion_steps)
    if problem:
        raise InputError(f"{given.policy}: {problem}", code="latency")
    policy.reset(given.seed)  # the measurement has drawn noise
    return controller, latency


def describe(controller: Controller, latency: LatencyCertificate, how: str) -> str:
    """Describe what was loaded and measured, as one line."""
    spec, file = controller.policy.spec, controller.policy.file
    return (
        f"policy {spec.name} {file.policy_digest[:12]}, robot {controller.robot.name},"
        f" {spec.rate:g} Hz by {how}, {controller.policy.provider} p99 {latency.cold_p99:.2f} ms"
        f" of {1e3 * spec.period:g} ms"
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
