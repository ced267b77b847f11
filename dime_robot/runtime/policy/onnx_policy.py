"""OnnxPolicy: an exported policy as it runs on a robot, with numpy and ONNX Runtime only."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.contract.policy_spec import Float32Array, PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import home_or_temporary
from dime_robot.runtime.policy.binding import Binding, CpuBinding, GpuBinding, provider_options
from dime_robot.runtime.policy.engine_cache import EngineKey, gpu_name, tensorrt_version
from dime_robot.runtime.policy.noise import NoiseMode, NoiseSource
from dime_robot.runtime.policy.policy_file import PolicyFile, load_policy_file

ENGINE_CACHE = home_or_temporary() / ".cache" / "dime_robot"  # for TensorRT
MAX_ACTION = np.float32(1.0 + 1e-3)  # larger than rounding explains, also that of float16 engines
Provider = Literal["cpu", "cuda", "tensorrt", "auto"]
PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class Policy(Protocol):
    """A policy as the controller uses it."""

    file: PolicyFile
    provider: str
    spec: PolicySpec
    noise: NoiseSource  # its `values` are those of the last action

    def act(self, observation: Float32Array) -> Float32Array:
        """Return the action, shape (n_act,) in [-1, 1], for a raw observation, shape (n_obs,).

        Args:
            observation: raw observation, shape (n_obs,).
        """

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""


def import_onnxruntime() -> Any:
    """Import ONNX Runtime, if exactly one of its two packages is installed.

    Raises:
        InputError: neither or both; they share one folder and break each other.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "ONNX Runtime is missing: pip install '.[cpu]' in the clone of dime_robot (or"
            " '.[gpu]', never both)"
        ) from None
    # importlib.metadata would find it too, but takes a tenth of the start-up time
    folder = Path(onnxruntime.__file__).parents[1]
    found = sorted(
        path.name.removesuffix(".dist-info")
        for kind in ("onnxruntime-[0-9]*", "onnxruntime_gpu-[0-9]*")
        for path in folder.glob(f"{kind}.dist-info")
    )
    if len(found) > 1:
        raise InputError(
            f"expected one ONNX Runtime, got {' and '.join(found)}, which overwrite each other:"
            " pip uninstall both, then install one"
        )
    return onnxruntime


class OnnxPolicy:
    """Turns observations into actions, without allocation.

    Args:
        path: a file written by `python -m export.onnx`.
        provider: execution provider; an error if ONNX Runtime uses another. `auto`: the first of
            TensorRT, CUDA and CPU that works; the attribute `provider` is then its name.
        noise: one of the modes certified in the file.
        seed: of the noise.
        expected: contract that the file must have.

    Raises:
        InputError: the file was changed, differs from `expected`, or cannot run on `provider`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        provider: Provider = "cpu",
        noise: NoiseMode = "fresh",
        seed: int = 0,
        expected: PolicySpec | None = None,
    ) -> None:
        self.path = Path(path)
        content, self.file = load_policy_file(self.path)
        self.spec = self.file.spec
        if expected is not None:
            _require_equal(self.path, self.spec, expected)
        self.batch = self.file.batch
        certified = self.file.certified
        if noise not in certified:
            raise InputError(
                f"{self.path}: noise mode {noise!r} is not certified, expected one of"
                f" {', '.join(certified)}",
                code="noise",
            )
        ort = import_onnxruntime()
        self._session, self.provider = _open(ort, self.file, content, provider)
        shapes = self.file.shapes()
        self.noise = NoiseSource(shapes["noise"], seed, noise)
        self._observation = np.zeros(shapes["observation"], dtype=np.float32)
        shape = self._observation.shape
        self._expected_shape = shape[1:] if self.batch == 1 else shape
        self._action = np.zeros(shapes["action"], dtype=np.float32)
        self._magnitude = np.zeros_like(self._action)
        self._too_large = np.zeros(shapes["action"], dtype=np.bool_)
        inputs = {"observation": self._observation, "noise": self.noise.values}
        output = ("action", self._action)
        self._binding: Binding = (
            CpuBinding(self._session, inputs, output)
            if self.provider == "cpu"
            else GpuBinding(ort, self._session, inputs, output)
        )

    def act(self, observation: Float32Array) -> Float32Array:
        """Sample an action. The next call overwrites the returned array.

        Args:
            observation: raw SI values, shape (n_obs,), or (B, n_obs) for an export with batch B.

        Returns:
            Actions in [-1, 1], shape (n_act,), or (B, n_act). NaN where the graph returns NaN.

        Raises:
            InputError: the graph returned an action beyond [-1, 1]; see `_run`.
        """
        if observation.shape != self._expected_shape:
            raise ValueError(
                f"expected an observation of shape {self._expected_shape}, got {observation.shape}"
            )
        self._observation[:] = observation
        self.noise.draw()
        self._run()
        return self._action[0] if self.batch == 1 else self._action

    def act_with(self, observation: Float32Array, noise: Float32Array) -> Float32Array:
        """Sample with given noise, for evaluation and proofs; `act` is not affected.

        Args:
            observation: raw observations, shape (B, n_obs).
            noise: unit normals, shape (B, N+1, n_act).
        """
        kept = self.noise.values.copy()
        self._observation[:] = observation
        self.noise.values[:] = noise
        try:
            self._run()
        finally:
            self.noise.values[:] = kept
        return self._action.copy()

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: held noise is drawn anew; a seed restarts the noise."""
        self.noise.reset(seed)

    def _run(self) -> None:
        """Compute the action.

        Its last operator is Tanh, so an action beyond [-1, 1] means that another graph runs than
        the one that was checked (an engine of another policy, a broken provider or memory). That is
        an error; clipping would hide it. NaN passes: the controller responds to it.

        Raises:
            InputError: an action beyond [-1, 1].
        """
        self._binding.run()
        np.abs(self._action, out=self._magnitude)  # `max` would allocate and take twice as long
        np.greater(self._magnitude, MAX_ACTION, out=self._too_large)
        if np.count_nonzero(self._too_large):
            largest = float(self._magnitude[self._too_large].max())
            self._action[:] = np.nan
            raise InputError(
                f"{self.path}: expected actions in [-1, 1] from {self.provider}, got {largest:g};"
                " it is not the policy that was exported: do not run it, export it again",
                code="action",
            )


def _open(ort: Any, file: PolicyFile, content: bytes, wanted: Provider) -> tuple[Any, str]:
    """Open a session on the wanted provider; return it and the name of the provider in use."""
    path = file.path
    choices = ("tensorrt", "cuda", "cpu") if wanted == "auto" else (wanted,)
    available = ort.get_available_providers()
    failures = []
    for choice in choices:
        name = PROVIDERS[choice]
        if name not in available:
            failures.append(f"{choice}: this ONNX Runtime has only {', '.join(available)}")
            continue
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if file.batch == 1:
            # 18 % faster at batch 1; prepacked weights are only faster for large batches
            options.add_session_config_entry("session.disable_prepacking", "1")
        chosen = (name, provider_options(choice, _engines(ort, file, choice)))
        try:
            # without enable_fallback=0 a failure is retried on other providers, on stdout
            session = ort.InferenceSession(content, options, providers=[chosen], enable_fallback=0)
        except Exception as error:  # ONNX Runtime has its own exception type for each cause
            failures.append(f"{choice}: {' '.join(str(error).split())[:200]}")
            continue
        if session.get_providers()[0] == name:  # ONNX Runtime may choose another silently
            if wanted == "auto" and failures:
                print(f"{path}: runs on {choice} ({'; '.join(failures)})", file=sys.stderr)
            return session, choice
        failures.append(f"{choice}: ONNX Runtime took {session.get_providers()[0]} instead")
    raise InputError(
        f"{path}: provider {wanted} is not available here ({'; '.join(failures)}); use cpu or auto",
        code="provider",
    )


def engine_key(ort: Any, file: PolicyFile) -> EngineKey:
    """Return what a TensorRT engine of this policy is valid for on this machine."""
    return EngineKey(file.policy_digest, gpu_name(), tensorrt_version(), ort.__version__)


def _engines(ort: Any, file: PolicyFile, provider: str) -> str:
    """Return the folder of the policy's TensorRT engines; make it if it is missing."""
    if provider != "tensorrt":
        return ""
    # ONNX Runtime has no option for it; TF32's 10 bits are too few for the parity
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    folder = engine_key(ort, file).folder(ENGINE_CACHE)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _require_equal(path: Path, spec: PolicySpec, expected: PolicySpec) -> None:
    if spec.n_obs != expected.n_obs or spec.n_act != expected.n_act:
        raise InputError(
            f"{path}: expected {expected.n_obs} observations and {expected.n_act} actions"
            f" ({expected.name}), got {spec.n_obs} and {spec.n_act} ({spec.name})"
        )
    for name, value, got in differences(expected, spec):
        raise InputError(f"{path}: {name}: expected {value!r:.120}, got {got!r:.120}")
