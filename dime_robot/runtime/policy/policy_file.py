"""The metadata of a `policy.onnx`, and the check of its bytes without any ONNX package.

The metadata are the contract (PolicySpec), the provenance with the certificates of the export, and
two digests:

    policy_digest  SHA-256 of graph and contract: identifies the policy
    file_digest    SHA-256 of the whole file with these 64 hex characters themselves zeroed

Both are recomputed at every load. A digest is not a signature: whoever can write the file can write
new ones. That is why the graph is always checked too (`graph_check`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError, first_problem
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.policy.graph_check import GraphError, check_graph, split_model
from dime_robot.runtime.policy.noise import NOISE_MODES, NoiseMode

if TYPE_CHECKING:
    from dime_robot.runtime.policy.certificate import Provenance

FORMAT_VERSION = "2"  # 2: the closed-loop certificate states how it was decided
INTERPOLATED_VERSION = "3"  # the same, of a policy that an earlier release would run wrongly
READABLE_VERSIONS = ("1", "2", "3")
MAX_BYTES = 256 * 2**20  # of a file; the largest policy benchmarked has 1 MB
FORMAT, SPEC, PROVENANCE = "dime.format", "dime.spec", "dime.provenance"
POLICY_DIGEST, FILE_DIGEST = "dime.policy_digest", "dime.file_digest"
NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class PolicyFile:
    """The checked metadata of a file."""

    path: Path
    spec: PolicySpec
    policy_digest: str
    file_digest: str
    diffusion_steps: int  # N
    batch: int  # observations per call
    certified: tuple[NoiseMode, ...]  # noise modes
    interpolation: Interpolation  # of the commands that it was trained with
    record: str  # the provenance, as JSON

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes that the graph must have, by input or output name."""
        return {
            "observation": (self.batch, self.spec.n_obs),
            "noise": (self.batch, self.diffusion_steps + 1, self.spec.n_act),
            "action": (self.batch, self.spec.n_act),
        }

    @cached_property
    def provenance(self) -> Provenance:
        """The whole provenance.

        Raises:
            InputError: it is invalid.
        """
        from dime_robot.runtime.policy.certificate import (
            Provenance,  # deferred: a robot does not need it
        )

        try:
            return Provenance.model_validate_json(self.record)
        except ValidationError as error:
            raise InputError(f"{self.path}: provenance: {first_problem(error)}") from None


def zeroed_digest(content: bytes, digest: str) -> str:
    """Return the SHA-256 of `content` with the 64 characters of `digest` replaced by zeros."""
    return hashlib.sha256(content.replace(digest.encode(), NO_DIGEST.encode())).hexdigest()


def digest_entries(content: bytes, key: str) -> list[str]:
    """Find the digests stored under a metadata key, in the bytes: one in an exported file.

    A metadata entry is a protobuf message: the key, then field 2 (0x12) of 64 (0x40) bytes.
    """
    pattern = re.escape(key.encode()) + rb"\x12\x40([0-9a-f]{64})"
    return [found.decode() for found in re.findall(pattern, content)]


def policy_digest(graph: bytes | memoryview, spec_json: str) -> str:
    """Return the SHA-256 of graph and contract, which identifies policy and compiled engines.

    Args:
        graph: the serialised GraphProto, exactly as in the file.
        spec_json: the contract, exactly as in the metadata.
    """
    digest = hashlib.sha256(graph)
    digest.update(spec_json.encode())
    return digest.hexdigest()


def load_policy_file(path: Path) -> tuple[bytes, PolicyFile]:
    """Read a file and check all of it; return its bytes and its metadata.

    Raises:
        InputError: no such file, changed since it was exported, of another version, or with an
            invalid graph, contract or provenance.
    """
    content = read_checked(path)
    try:
        model = split_model(content)
        file = parse_metadata(path, model.metadata)
        actual = policy_digest(model.graph, model.metadata[SPEC])
        if actual != file.policy_digest:
            raise InputError(
                f"{path}: its policy digest is {file.policy_digest[:12]!r}, expected {actual[:12]},"
                " that of its graph and contract; export it again",
                code="digest",
            )
        shapes = check_graph(model)
    except GraphError as error:
        raise InputError(
            f"{path}: its graph is not one that python -m export.onnx writes: {error}; export it"
            " again",
            code="graph",
        ) from None
    for name, shape in file.shapes().items():
        if shapes[name] != shape:
            raise InputError(
                f"{path}: its contract says {name} {list(shape)}, its graph has"
                f" {list(shapes[name])}",
                code="graph",
            )
    return content, file


def read_checked(path: Path) -> bytes:
    """Read a file and check its file digest.

    Raises:
        InputError: no such file, not an exported policy, or changed since it was exported.
    """
    try:
        content = read_bytes(path, "a policy.onnx", MAX_BYTES)
    except InputError as error:
        raise InputError(str(error), code="file") from None
    found = digest_entries(content, FILE_DIGEST)
    if len(found) != 1 or content.count(found[0].encode()) != 1:
        raise InputError(
            f"{path}: expected a policy exported by dime_robot, got a file without its digest"
            " (truncated, or from elsewhere); export it with python -m export.onnx ckpt.pt",
            code="digest",
        )
    stored = found[0]
    actual = zeroed_digest(content, stored)
    if actual != stored:
        raise InputError(
            f"{path}: its bytes were changed after the export (digest {actual[:12]}, expected"
            f" {stored[:12]}); copy it again",
            code="digest",
        )
    return content


class _NoiseSummary(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    certified: bool


class _Summary(BaseModel):
    """The part of the provenance that a robot needs."""

    model_config = ConfigDict(strict=True, extra="ignore")
    diffusion_steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    noise: dict[NoiseMode, _NoiseSummary]
    interpolation: Interpolation = NO_INTERPOLATION


def parse_metadata(path: Path, metadata: Mapping[str, str]) -> PolicyFile:
    """Parse contract, provenance and digests.

    Raises:
        InputError: an entry is missing, of another version, or invalid.
    """
    missing = [
        k for k in (FORMAT, SPEC, PROVENANCE, POLICY_DIGEST, FILE_DIGEST) if k not in metadata
    ]
    if missing:
        raise InputError(f"{path}: expected the metadata {missing}, got {sorted(metadata)}")
    if metadata[FORMAT] not in READABLE_VERSIONS:
        raise InputError(
            f"{path}: expected format version {', '.join(READABLE_VERSIONS)}, got"
            f" {metadata[FORMAT]!r:.20}; use the dime_robot release that exported it",
            code="version",
        )
    try:
        spec = PolicySpec.model_validate_json(metadata[SPEC])
    except ValidationError as error:
        code = "version" if error.errors()[0]["loc"] == ("version",) else "contract"
        raise InputError(f"{path}: {first_problem(error)}", code=code) from None
    try:
        summary = _Summary.model_validate_json(metadata[PROVENANCE])
    except ValidationError as error:
        raise InputError(
            f"{path}: expected a provenance with diffusion_steps, batch and noise, got one where"
            f" {first_problem(error)}"
        ) from None
    noise = summary.noise
    return PolicyFile(
        path=path,
        spec=spec,
        policy_digest=metadata[POLICY_DIGEST],
        file_digest=metadata[FILE_DIGEST],
        diffusion_steps=summary.diffusion_steps,
        batch=summary.batch,
        certified=tuple(m for m in NOISE_MODES if m in noise and noise[m].certified),
        interpolation=summary.interpolation,
        record=metadata[PROVENANCE],
    )
