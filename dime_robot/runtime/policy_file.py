"""What a `policy.onnx` says about itself, and how its bytes are checked without any ONNX package.

The file's metadata hold the contract (PolicySpec), the provenance with the certificates of the
export, and two digests:

    policy_digest  SHA-256 of graph and contract: names the policy, whatever was measured about it
    file_digest    SHA-256 of the whole file with these 64 hex characters themselves zeroed
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from dime_robot.runtime.errors import InputError, first_problem
from dime_robot.runtime.noise import NoiseMode
from dime_robot.runtime.spec import Frozen, PolicySpec

FORMAT_VERSION = "1"
FORMAT, SPEC, PROVENANCE = "dime.format", "dime.spec", "dime.provenance"
POLICY_DIGEST, FILE_DIGEST = "dime.policy_digest", "dime.file_digest"
NO_DIGEST = "0" * 64


class NoiseCertificate(Frozen):
    """What the exported graph did in its training environment in one noise mode."""

    certified: bool = Field(
        description="earned at least 90 % of the fresh noise's return and success; else refused"
    )
    return_mean: float
    interval_95: tuple[float, float] = Field(description="of the mean return")
    success_rate: float | None
    action_rate: float = Field(description="mean |a_t - a_{t-1}| [1 per step]")
    episodes: int


class ParityCertificate(Frozen):
    """The graph against the torch actor in float64, same observations and noise."""

    observations: int
    max_error: float = Field(description="largest action difference")
    float32_error: float = Field(description="the float32 torch actor's own, on the same inputs")
    limit: float


class ClosedLoopCertificate(Frozen):
    """Graph and torch actor, each in its own copy of the environment, same seeds and noise."""

    episodes: int
    visited_states: int
    max_error: float = Field(description="largest action difference on states torch visited")
    return_torch: float
    return_onnx: float
    difference_interval_95: tuple[float, float] = Field(description="of paired returns")
    first_divergence: int | None = Field(
        description="earliest step at which actions differ by more than 1e-3; none: never"
    )


class LatencyCertificate(Frozen):
    """Milliseconds of one call, measured where `cpu` says."""

    cpu: str
    threads: int
    provider: str = Field(description="the one really in use")
    runtime: str = Field(description="ONNX Runtime version")
    batch: int
    calls: int
    warm_p50: float
    warm_p99: float
    warm_max: float
    cold_p50: float = Field(description="caches evicted before each call, as in a control loop")
    cold_p99: float
    cold_max: float
    ratio_to_torch: float | None = Field(
        None, description="warm median over torch eager's, same process"
    )


class Provenance(Frozen):
    """Where a policy comes from and what was proven about the file."""

    checkpoint_digest: str
    env: str
    steps: int = Field(description="environment steps of training")
    seed: int
    git_commit: str
    versions: dict[str, str]
    diffusion_steps: int
    batch: int
    evaluation: dict[str, float] | None = Field(
        description="the training run's final evaluation, fresh noise; none: it did not finish"
    )
    noise: dict[NoiseMode, NoiseCertificate] = Field(description="every mode as measured")

    parity: ParityCertificate
    closed_loop: ClosedLoopCertificate
    latency: LatencyCertificate


@dataclass(frozen=True)
class PolicyFile:
    """The checked metadata of a file."""

    spec: PolicySpec
    provenance: Provenance
    policy_digest: str
    file_digest: str


def zeroed_digest(content: bytes, digest: str) -> str:
    """SHA-256 of `content` with the 64 characters of `digest` replaced by zeros."""
    return hashlib.sha256(content.replace(digest.encode(), NO_DIGEST.encode())).hexdigest()


def digest_entries(content: bytes, key: str) -> list[str]:
    """Digests stored under a metadata key, read off the bytes: one in a file of ours.

    A metadata entry is a protobuf message: the key, then field 2 (0x12) of 64 (0x40) bytes.
    """
    pattern = re.escape(key.encode()) + rb"\x12\x40([0-9a-f]{64})"
    return [found.decode() for found in re.findall(pattern, content)]


def read_checked(path: Path) -> bytes:
    """The file's bytes, after its digest was checked.

    Raises:
        InputError: no such file, not one of ours, or changed since it was exported.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a policy.onnx, {error.strerror}") from None
    found = digest_entries(content, FILE_DIGEST)
    if len(found) != 1 or content.count(found[0].encode()) != 1:
        raise InputError(
            f"{path}: expected a policy exported by dime_robot, got a file without its digest"
            " (truncated, or from elsewhere); export it with python -m export.onnx ckpt.pt"
        )
    claimed = found[0]
    actual = zeroed_digest(content, claimed)
    if actual != claimed:
        raise InputError(
            f"{path}: its bytes were changed after the export (digest {actual[:12]}, expected"
            f" {claimed[:12]}); copy it again"
        )
    return content


def parse_metadata(path: Path, metadata: Mapping[str, str]) -> PolicyFile:
    """Contract, provenance and digests out of the metadata.

    Raises:
        InputError: an entry is missing, of another version, or does not fit.
    """
    missing = [
        k for k in (FORMAT, SPEC, PROVENANCE, POLICY_DIGEST, FILE_DIGEST) if k not in metadata
    ]
    if missing:
        raise InputError(f"{path}: expected the metadata {missing}, got {sorted(metadata)}")
    if metadata[FORMAT] != FORMAT_VERSION:
        raise InputError(
            f"{path}: expected format version {FORMAT_VERSION}, got {metadata[FORMAT]!r:.20}; use"
            " the dime_robot release that exported it"
        )
    try:
        spec = PolicySpec.model_validate_json(metadata[SPEC])
        provenance = Provenance.model_validate_json(metadata[PROVENANCE])
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None
    return PolicyFile(spec, provenance, metadata[POLICY_DIGEST], metadata[FILE_DIGEST])
