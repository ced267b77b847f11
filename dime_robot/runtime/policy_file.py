"""What a `policy.onnx` says about itself, and how its bytes are checked without any ONNX package.

The file's metadata hold the contract (PolicySpec), the provenance with the certificates of the
export, and two digests:

    policy_digest  SHA-256 of graph and contract: names the policy, whatever was measured about it
    file_digest    SHA-256 of the whole file with these 64 hex characters themselves zeroed
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from dime_robot.runtime.errors import InputError, first_problem
from dime_robot.runtime.noise import NOISE_MODES, NoiseMode
from dime_robot.runtime.spec import PolicySpec

if TYPE_CHECKING:
    from dime_robot.runtime.certificate import Provenance

FORMAT_VERSION = "1"
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
    record: str  # the provenance as it stands in the file, JSON

    @cached_property
    def provenance(self) -> Provenance:
        """The whole record.

        Raises:
            InputError: it does not fit.
        """
        from dime_robot.runtime.certificate import Provenance  # costs a robot's start-up

        try:
            return Provenance.model_validate_json(self.record)
        except ValidationError as error:
            raise InputError(f"{self.path}: provenance: {first_problem(error)}") from None


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
        raise InputError(f"{path}: expected a policy.onnx, {error.strerror}", code="file") from None
    found = digest_entries(content, FILE_DIGEST)
    if len(found) != 1 or content.count(found[0].encode()) != 1:
        raise InputError(
            f"{path}: expected a policy exported by dime_robot, got a file without its digest"
            " (truncated, or from elsewhere); export it with python -m export.onnx ckpt.pt",
            code="digest",
        )
    claimed = found[0]
    actual = zeroed_digest(content, claimed)
    if actual != claimed:
        raise InputError(
            f"{path}: its bytes were changed after the export (digest {actual[:12]}, expected"
            f" {claimed[:12]}); copy it again",
            code="digest",
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
            " the dime_robot release that exported it",
            code="version",
        )
    try:
        spec = PolicySpec.model_validate_json(metadata[SPEC])
    except ValidationError as error:
        code = "version" if error.errors()[0]["loc"] == ("version",) else "contract"
        raise InputError(f"{path}: {first_problem(error)}", code=code) from None
    try:
        made = json.loads(metadata[PROVENANCE])
        return PolicyFile(
            path=path,
            spec=spec,
            policy_digest=metadata[POLICY_DIGEST],
            file_digest=metadata[FILE_DIGEST],
            diffusion_steps=int(made["diffusion_steps"]),
            batch=int(made["batch"]),
            certified=tuple(m for m in NOISE_MODES if made["noise"].get(m, {}).get("certified")),
            record=metadata[PROVENANCE],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected a provenance with diffusion_steps, batch and noise, got one where"
            f" {type(error).__name__}: {error}"
        ) from None
