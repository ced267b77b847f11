"""Provenance and certificates of an exported policy.

Separate from `policy_file.py`, since a robot needs little of it: pydantic builds these models only
when the whole provenance is read.
"""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.policy.noise import NoiseMode


class NoiseCertificate(StrictModel):
    """The exported graph in its training environment, in one noise mode."""

    certified: bool
    """Whether it loses at most 10 % of the fresh noise's gain and success; else it is refused."""
    return_mean: float
    interval_95: tuple[float, float]
    """Of the mean return."""
    success_rate: float | None
    action_rate: float
    """Mean |a_t - a_{t-1}| [1 per step]."""
    episodes: int


class ParityCertificate(StrictModel):
    """The graph against the torch actor in float64, same observations and noise."""

    observations: int
    max_error: float
    """Largest action difference."""
    float32_error: float
    """The float32 torch actor's own, on the same inputs."""
    limit: float


class ClosedLoopCertificate(StrictModel):
    """Graph and torch actor, each in its own copy of the environment, same seeds and noise."""

    episodes: int
    visited_states: int
    max_error: float
    """Largest action difference on states torch visited."""
    return_torch: float
    return_onnx: float
    return_random: float | None = None
    """Of uniformly random actions, same seeds; none: format version 1."""
    difference_interval_95: tuple[float, float]
    """Of the mean paired difference, over all stages together."""
    difference_allowed: float | None = None
    """Bound on the interval's magnitude; none: format version 1."""
    first_divergence: int | None
    """Earliest step at which actions differ by more than 1e-3; none: never."""


class LatencyCertificate(StrictModel):
    """Duration of one call [ms], measured on the machine that `cpu` names."""

    cpu: str
    threads: int
    provider: str
    """Execution provider in use."""
    runtime: str
    """ONNX Runtime version."""
    batch: int
    calls: int
    warm_p50: float
    warm_p99: float
    warm_max: float
    cold_p50: float
    """With caches evicted before each call, as in control."""
    cold_p99: float
    cold_max: float
    ratio_to_torch: float | None = None
    """Warm median over torch eager's, same process."""


class Provenance(StrictModel):
    """Where a policy comes from, and what was proven about the file."""

    checkpoint_digest: str
    env: str
    steps: int
    """Environment steps of training."""
    seed: int
    lineage: tuple[str, ...] = ()
    """Commands that repeat the training, oldest first; none: not recorded."""
    task_digest: str | None = None
    """SHA-256 of the robot task it was trained in; none: another environment, or not recorded."""
    interpolation: Interpolation = NO_INTERPOLATION
    """Of the commands of the robot it was trained with; none in files of earlier releases."""
    git_commit: str
    versions: dict[str, str]
    diffusion_steps: int
    batch: int
    evaluation: dict[str, float] | None
    """The training run's final evaluation, fresh noise; none: it did not finish."""
    noise: dict[NoiseMode, NoiseCertificate]
    """Of every mode."""

    parity: ParityCertificate
    closed_loop: ClosedLoopCertificate
    latency: LatencyCertificate

    @model_serializer(mode="wrap")
    def _omit_no_interpolation(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep files without one readable by earlier releases."""
        content: dict[str, Any] = handler(self)
        if not self.interpolation:
            content.pop("interpolation", None)
        return content
