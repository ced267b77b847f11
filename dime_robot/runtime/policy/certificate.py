"""Provenance and certificates of an exported policy.

Apart from `policy_file.py`, since a robot needs little of it: pydantic builds these models only
when the whole provenance is read.
"""

from __future__ import annotations

from pydantic import Field

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.policy.noise import NoiseMode


class NoiseCertificate(StrictModel):
    """The exported graph in its training environment, in one noise mode."""

    certified: bool = Field(
        description="lost at most 10 % of the fresh noise's gain and success; else it is refused"
    )
    return_mean: float
    interval_95: tuple[float, float] = Field(description="of the mean return")
    success_rate: float | None
    action_rate: float = Field(description="mean |a_t - a_{t-1}| [1 per step]")
    episodes: int


class ParityCertificate(StrictModel):
    """The graph against the torch actor in float64, same observations and noise."""

    observations: int
    max_error: float = Field(description="largest action difference")
    float32_error: float = Field(description="the float32 torch actor's own, on the same inputs")
    limit: float


class ClosedLoopCertificate(StrictModel):
    """Graph and torch actor, each in its own copy of the environment, same seeds and noise."""

    episodes: int
    visited_states: int
    max_error: float = Field(description="largest action difference on states torch visited")
    return_torch: float
    return_onnx: float
    return_random: float | None = Field(
        None, description="of uniformly random actions, same seeds; none: format version 1"
    )
    difference_interval_95: tuple[float, float] = Field(
        description="of the mean paired difference, over all stages together"
    )
    difference_allowed: float | None = Field(
        None, description="bound on the interval's magnitude; none: format version 1"
    )
    first_divergence: int | None = Field(
        description="earliest step at which actions differ by more than 1e-3; none: never"
    )


class LatencyCertificate(StrictModel):
    """Duration of one call [ms], measured on the machine that `cpu` names."""

    cpu: str
    threads: int
    provider: str = Field(description="execution provider in use")
    runtime: str = Field(description="ONNX Runtime version")
    batch: int
    calls: int
    warm_p50: float
    warm_p99: float
    warm_max: float
    cold_p50: float = Field(description="with caches evicted before each call, as in control")
    cold_p99: float
    cold_max: float
    ratio_to_torch: float | None = Field(
        None, description="warm median over torch eager's, same process"
    )


class Provenance(StrictModel):
    """Where a policy comes from, and what was proven about the file."""

    checkpoint_digest: str
    env: str
    steps: int = Field(description="environment steps of training")
    seed: int
    lineage: tuple[str, ...] = Field(
        (), description="commands that repeat the training, oldest first; none: not recorded"
    )
    git_commit: str
    versions: dict[str, str]
    diffusion_steps: int
    batch: int
    evaluation: dict[str, float] | None = Field(
        description="the training run's final evaluation, fresh noise; none: it did not finish"
    )
    noise: dict[NoiseMode, NoiseCertificate] = Field(description="of every mode")

    parity: ParityCertificate
    closed_loop: ClosedLoopCertificate
    latency: LatencyCertificate
