"""Cache of TensorRT engines: one folder for each combination that an engine is valid for.

ONNX Runtime's TensorRT provider builds an engine when it first opens a graph, which takes seconds
to minutes, and reads it from this folder from then on. `python -m export.tensorrt` fills the same
folder ahead of time. Not run so far: no test machine has had a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path

UNKNOWN = "unknown"
_TENSORRT_LIBRARY = "libnvinfer.so.10"  # as loaded by ONNX Runtime's provider
_GPU_FILES = "driver/nvidia/gpus/*/information"  # below /proc, of a discrete GPU
_JETSON_FILE = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class EngineKey:
    """What an engine is valid for. A change of any value needs a new engine."""

    policy_digest: str
    gpu: str
    tensorrt: str  # version
    onnxruntime: str  # version

    def folder(self, cache: Path) -> Path:
        """Return the folder of its engines below `cache`."""
        digest = hashlib.sha256("\n".join(astuple(self)).encode(errors="surrogatepass")).hexdigest()
        return cache / "tensorrt" / f"{self.policy_digest[:12]}-{digest[:16]}"


def gpu_name(proc: Path = Path("/proc"), jetson: Path = _JETSON_FILE) -> str:
    """Return the model of the first GPU as its driver names it, or of the Jetson board."""
    for path in sorted(proc.glob(_GPU_FILES)):
        for line in _text(path).splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model":
                return value.strip()
    return _text(jetson).strip("\0 \n") or UNKNOWN


def tensorrt_version() -> str:
    """Return the version of the TensorRT library that ONNX Runtime loads, such as 10.9.0."""
    try:
        number = int(ctypes.CDLL(_TENSORRT_LIBRARY).getInferLibVersion())
    except (OSError, AttributeError):
        return UNKNOWN
    return version_text(number)


def version_text(number: int) -> str:
    """Format TensorRT's version number: 10 000 major + 100 minor + patch since release 10."""
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
