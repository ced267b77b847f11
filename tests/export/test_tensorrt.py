"""What can be known of TensorRT without a GPU: keys, options, refusals, one shared cache."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy import engine_cache
from dime_robot.runtime.policy import onnx_policy as policy
from dime_robot.runtime.policy.binding import CpuBinding, provider_options
from dime_robot.runtime.policy.engine_cache import EngineKey, gpu_name, version_text
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from export import tensorrt
from tests.paths import SHIPPED_CARTPOLE

HERE = Path("cache")


def test_without_the_provider_it_is_one_sentence() -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is TensorRT")
    with pytest.raises(InputError, match="NVIDIA GPU") as error:
        tensorrt.main([str(SHIPPED_CARTPOLE)])
    assert "\n" not in str(error.value)


names = st.text(st.characters(exclude_characters="\n"), max_size=20)


@given(first=st.tuples(names, names, names, names), second=st.tuples(names, names, names, names))
def test_engines_share_a_folder_only_where_everything_is_equal(
    first: tuple[str, str, str, str], second: tuple[str, str, str, str]
) -> None:
    same = EngineKey(*first).folder(HERE) == EngineKey(*second).folder(HERE)
    assert same == (first == second)


def test_the_key_is_of_this_policy_and_this_onnxruntime() -> None:
    file = OnnxPolicy(SHIPPED_CARTPOLE).file
    key = policy.engine_key(onnxruntime, file)
    assert key.policy_digest == file.policy_digest
    assert key.onnxruntime == onnxruntime.__version__
    assert key.folder(HERE).name.startswith(file.policy_digest[:12])


def test_gpu_names(tmp_path: Path) -> None:
    jetson = tmp_path / "model"
    assert gpu_name(tmp_path, jetson) == engine_cache.UNKNOWN
    jetson.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    assert gpu_name(tmp_path, jetson) == "NVIDIA Jetson AGX Orin Developer Kit"
    card = tmp_path / "driver/nvidia/gpus/0000:01:00.0/information"
    card.parent.mkdir(parents=True)
    card.write_text("Model: \t\t NVIDIA RTX A2000\nIRQ:   \t\t 170\n")
    assert gpu_name(tmp_path, jetson) == "NVIDIA RTX A2000"
    assert version_text(100900) == "10.9.0"
    assert version_text(101303) == "10.13.3"


# -- with a provider that acts as ONNX Runtime's does ---------------------------------------------


class PretendedOnnxRuntime:
    """ONNX Runtime with a TensorRT provider that is the CPU, and leaves an engine as documented."""

    __version__ = "1.22.0"

    def __init__(self, engines: bool = True) -> None:
        self.opened: list[dict[str, str]] = []
        self._engines = engines

    SessionOptions = onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ["TensorrtExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(  # noqa: N802
        self, content: bytes, options: Any, providers: Any, **_: Any
    ) -> Any:
        ((name, given),) = providers
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        if name == "CPUExecutionProvider":
            return session
        self.opened.append(given)
        if self._engines:
            folder = Path(given["trt_engine_cache_path"])
            (folder / f"{given['trt_engine_cache_prefix']}_1_1_sm90.engine").write_bytes(b"engine")
        return SimpleNamespace(
            get_providers=lambda: [name, "CPUExecutionProvider"],
            io_binding=session.io_binding,
            run_with_iobinding=session.run_with_iobinding,
        )


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PretendedOnnxRuntime:
    ort = PretendedOnnxRuntime()
    for module in (policy, tensorrt):
        monkeypatch.setattr(module, "import_onnxruntime", lambda: ort)
        monkeypatch.setattr(module, "ENGINE_CACHE", tmp_path)
    monkeypatch.setattr(
        policy, "GpuBinding", lambda _, session, inputs, output: CpuBinding(session, inputs, output)
    )
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    return ort


def test_what_it_builds_is_what_the_node_opens(
    pretended: PretendedOnnxRuntime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tensorrt.main([str(SHIPPED_CARTPOLE)]) == 0
    (engine,) = tmp_path.rglob("*.engine")
    assert str(engine) in capsys.readouterr().out
    OnnxPolicy(SHIPPED_CARTPOLE, provider="tensorrt")  # as policy_node does
    first, second = pretended.opened
    assert first == second == provider_options("tensorrt", str(engine.parent))
    assert first["trt_engine_cache_enable"] == "1"


def test_an_engine_with_other_actions_is_removed(
    pretended: PretendedOnnxRuntime,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Wrong(CpuBinding):
        def run(self) -> None:
            super().run()
            self._kept[1][1][:] *= np.float32(0.99)

    monkeypatch.setattr(policy, "GpuBinding", lambda _, s, inputs, output: Wrong(s, inputs, output))
    assert tensorrt.main([str(SHIPPED_CARTPOLE)]) == 1
    assert "engine removed" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.engine"))


def test_no_engine_is_an_error(pretended: PretendedOnnxRuntime) -> None:
    pretended._engines = False
    with pytest.raises(InputError, match="left none"):
        tensorrt.main([str(SHIPPED_CARTPOLE)])
