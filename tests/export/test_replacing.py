"""The policy.onnx that is there stays where it is, untouched, until a proven one replaces it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from export import onnx as export_onnx
from export.closed_loop import CertificateError
from tests.export.conftest import short_proofs
from tests.paths import ROOT

OLD = b"the policy from before"


@pytest.fixture(autouse=True)
def _short_proofs() -> Iterator[None]:
    with short_proofs():
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    path = tmp_path / "policy.onnx"
    path.write_bytes(OLD)
    return path


def assert_untouched(out: Path, before: os.stat_result) -> None:
    assert out.read_bytes() == OLD
    assert out.stat().st_ino == before.st_ino
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in out.parent.iterdir() if "policy" in path.name] == [out.name]


def test_a_misspelt_checkpoint_touches_nothing(out: Path) -> None:
    before = out.stat()
    with pytest.raises(InputError, match=r"no such file.*policy\.onnx is untouched"):
        export_onnx.main([str(out.with_name("ckptt.pt"))])
    assert_untouched(out, before)


def test_no_checkpoint_at_all_touches_nothing(out: Path) -> None:
    before = out.stat()
    out.with_name("ckpt.pt").write_bytes(b"hello")
    with pytest.raises(InputError, match="is untouched"):
        export_onnx.main([str(out.with_name("ckpt.pt"))])
    assert_untouched(out, before)


STEPS = ("build_policy", "prove", "measure", "write_atomically", "OnnxPolicy")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error",
    [
        InputError("x is wrong"),
        CertificateError("parity: x"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_wherever_the_old_file_stays(
    step: str,
    error: BaseException,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def passes(result: object) -> Callable[..., object]:
        return lambda *_, **__: result

    def fails(*_: object, **__: object) -> None:
        raise error

    built = SimpleNamespace(model=None, checkpoint=SimpleNamespace(spec=None))
    for name in STEPS[:3]:
        monkeypatch.setattr(export_onnx, name, passes(built))
    monkeypatch.setattr(export_onnx, "seal", passes(b"new"))
    monkeypatch.setattr(export_onnx, step, fails)
    before = out.stat()
    arguments = ["ckpt.pt", "--out", str(out)]
    if isinstance(error, (InputError, OSError)):
        with pytest.raises(InputError) as caught:
            export_onnx.main(arguments)
        printed = str(caught.value)
    else:
        code = export_onnx.main(arguments)
        assert code == (1 if isinstance(error, CertificateError) else 130)
        printed = capsys.readouterr().err
    assert f"{out} is untouched, the file of an earlier export" in printed
    assert_untouched(out, before)


def test_success_keeps_the_earlier_file_beside_the_new_one(
    checkpoint_path: Path, out: Path
) -> None:
    assert export_onnx.main([str(checkpoint_path), "--out", str(out)]) == 0
    OnnxPolicy(out)
    assert export_onnx.previous(out).read_bytes() == OLD
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "policy.onnx",
        "policy.onnx.previous",
    ]


def test_a_signal_that_a_library_swallowed_is_known_later() -> None:
    with export_onnx.interruptible() as check:
        check()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_proof_touches_nothing(
    number: signal.Signals, checkpoint_path: Path, out: Path
) -> None:
    before = out.stat()
    command = [sys.executable, "-m", "export.onnx", str(checkpoint_path), "--out", str(out)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("policy")  # it is built, the proof runs
    time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert "is untouched" in error
    assert "Traceback" not in error
    assert_untouched(out, before)
