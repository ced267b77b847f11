"""Policies with random weights for benchmarks: any rate, any size, in the format of real ones."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from dime_robot.learning.networks import ScoreNetwork
from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import Action, Joint, ObservationTerm, PolicySpec
from dime_robot.runtime.policy.certificate import (
    ClosedLoopCertificate,
    LatencyCertificate,
    NoiseCertificate,
    ParityCertificate,
    Provenance,
)
from export.graph import build, fold
from export.onnx import seal

NAMES = tuple(f"joint_{i}" for i in range(12))


def spec_of(rate: float) -> PolicySpec:
    """Return a contract of quadruped size: 12 position-controlled joints, 36 observations."""
    terms = [
        ObservationTerm(name="q", kind="joint_position", unit="rad", size=12, joints=NAMES),
        ObservationTerm(
            name="dq", kind="joint_velocity", unit="rad/s", size=12, joints=NAMES, scale=0.1
        ),
        ObservationTerm(name="a", kind="last_action", unit="1", size=12),
    ]
    joints = [
        Joint(
            name=name,
            type="revolute",
            position_limits=(-2.0, 2.0),
            effort_limit=20.0,
            stiffness=20.0,
            damping=0.5,
        )
        for name in NAMES
    ]
    scale = dict.fromkeys(NAMES, 0.25)
    return PolicySpec(
        name=f"made_{rate:g}hz",
        rate=rate,
        joints=tuple(joints),
        observation=tuple(terms),
        action=Action(kind="position", size=12, scale=scale),
    )


def made_policy(
    path: Path,
    spec: PolicySpec,
    width: int,
    depth: int,
    steps: int,
    interpolation: Interpolation = NO_INTERPOLATION,
) -> Path:
    """Write a policy file with random weights. Its certificates contain no measurements."""
    torch.manual_seed(0)
    actor = ScoreNetwork(spec, width=width, depth=depth, steps=steps, dt=0.3)
    nn.init.normal_(actor.output.weight, std=1 / 16)
    noise = NoiseCertificate(
        certified=True,
        return_mean=0.0,
        interval_95=(0.0, 0.0),
        success_rate=None,
        action_rate=0.0,
        episodes=0,
    )
    nothing = {"cold_p50": 0.0, "cold_p99": 0.0, "cold_max": 0.0}
    record = Provenance(
        checkpoint_digest="",
        env="none: random weights for a benchmark",
        steps=0,
        seed=0,
        interpolation=interpolation,
        git_commit="",
        versions={},
        diffusion_steps=steps,
        batch=1,
        evaluation=None,
        noise={"fresh": noise},
        parity=ParityCertificate(observations=0, max_error=0.0, float32_error=0.0, limit=0.0),
        closed_loop=ClosedLoopCertificate(
            episodes=0,
            visited_states=0,
            max_error=0.0,
            return_torch=0.0,
            return_onnx=0.0,
            difference_interval_95=(0.0, 0.0),
            first_divergence=None,
        ),
        latency=LatencyCertificate(
            cpu="not measured",
            threads=1,
            provider="cpu",
            runtime="",
            batch=1,
            calls=0,
            warm_p50=0.0,
            warm_p99=0.0,
            warm_max=0.0,
            **nothing,
        ),
    )
    path.write_bytes(seal(build(fold(actor.eval(), spec), 1), spec, record))
    return path


def robot_file(path: Path, rate: float) -> Path:
    """Write a robot configuration for it with large time-outs, so that only the loop is measured.

    The last joint has almost no effort, so its target always equals its measured position (see
    `CommandLimits`): a number sent as its position is returned in the command for that state.
    """
    joints = [
        {
            "name": name,
            "position_limits": [-2.0, 2.0],
            "velocity_limit": 100.0,
            "effort_limit": 20.0,
            "safe_position": 0.0,
        }
        for name in NAMES
    ]
    joints[-1]["effort_limit"] = 1e-9
    robot = {
        "name": "bench",
        "joints": joints,
        "state": {"rate": rate, "max_age": 1.0},
        "command": {
            "kind": "forward",
            "interface": "position",
            "topic": "commands",
            "timeout": 1.0,
        },
        "safety": {"hold": 1.0, "damp": 60.0, "ramp": 0.0, "consecutive_misses": 1000},
    }
    path.write_text(json.dumps({"robot": robot}))  # JSON is YAML
    return path
