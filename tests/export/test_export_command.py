"""`python -m export.onnx` and `python -m dime_robot.runtime.certify` as commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dime_robot import evaluate
from dime_robot.evaluation.rollout import Episode, Evaluation, FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry import measure_latency as runtime_certify
from dime_robot.training import checkpoint
from export import onnx as export_onnx
from export import proofs
from export.closed_loop import free_run
from tests.export.conftest import short_proofs
from tests.paths import ROOT


@pytest.fixture(autouse=True)
def _short_proofs() -> Iterator[None]:
    with short_proofs():
        yield


def test_one_screen(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.onnx"
    assert export_onnx.main([str(checkpoint_path), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = [line.split()[0] for line in lines]
    assert words == [
        *("policy", "parity", "loop", "noise", "noise", "noise"),
        *("machine", "warm", "cold", "torch", "written", "next"),
    ]
    assert len(lines) < 24
    assert lines[-1].endswith(f"python -m dime_robot.evaluate {out}")
    assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]


def test_json(checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.onnx"
    assert export_onnx.main([str(checkpoint_path), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["policy_digest"] == OnnxPolicy(out).file.policy_digest
    assert report["provenance"]["parity"]["observations"] >= 1000


def test_batch_is_fixed_at_export(checkpoint_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.onnx"
    assert export_onnx.main([str(checkpoint_path), "--out", str(out), "--batch", "4"]) == 0
    policy = OnnxPolicy(out)
    assert policy.act(np.zeros((4, 5), np.float32)).shape == (4, 1)
    assert evaluate.main([str(out), "--episodes", "3", "--noise", "zero"]) == 0


def test_an_impossible_budget_fails_and_says_what_would_hold(
    checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.onnx"
    out.write_text("the policy from before")
    budget = ["--budget-ms", "1e-6", "--percentile", "50"]
    assert export_onnx.main([str(checkpoint_path), "--out", str(out), *budget]) == 1
    error = capsys.readouterr().err
    assert "over the budget of 1e-06 ms" in error
    assert "narrower" in error
    assert "p.onnx is untouched, the file of an earlier export" in error
    assert [path.name for path in tmp_path.iterdir()] == ["p.onnx"]
    assert out.read_text() == "the policy from before"


def test_budget_advice_counts_diffusion_steps(policy_path: Path) -> None:
    measured = OnnxPolicy(policy_path).file.provenance.latency
    slow = measured.model_copy(update={"cold_p99": 8.0})
    problem = runtime_certify.budget_problem(slow, 5.0, 99, steps=16)
    assert problem is not None
    assert "about 10 diffusion steps instead of 16" in problem
    assert runtime_certify.budget_problem(slow, 8.0, 99, steps=16) is None


def test_a_wrong_graph_is_not_written(
    checkpoint_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = export_onnx.graph_session

    def slightly_wrong(model: object) -> object:
        policy = original(model)  # type: ignore[arg-type]
        return lambda obs, noise: policy(obs, noise) * np.float32(1 - 1e-3)

    monkeypatch.setattr(export_onnx, "graph_session", slightly_wrong)
    out = tmp_path / "p.onnx"
    assert export_onnx.main([str(checkpoint_path), "--out", str(out)]) == 1
    assert "parity" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_one_wrong_action_on_a_visited_state_fails(checkpoint_path: Path) -> None:
    actor, *_ = checkpoint.load_actor(checkpoint_path)
    loop = free_run("sim:cartpole", actor.act_numpy, actor.act_numpy, (9, 1))

    def wrong_once(obs: FloatArray, noise: FloatArray) -> FloatArray:
        actions = actor.act_numpy(obs, noise)
        actions[1234] += 1e-3
        return actions

    proofs.closed_loop_certificate(actor, actor.act_numpy, loop, 1e-4)
    with pytest.raises(proofs.CertificateError, match="on a visited state"):
        proofs.closed_loop_certificate(actor, wrong_once, loop, 1e-4)


def test_a_noise_mode_that_earns_less_is_not_certified() -> None:
    def earns(total: float, successes: int, spread: float = 0.0) -> Evaluation:
        return Evaluation(
            tuple(Episode(total + spread * (-1) ** i, 1, i < successes) for i in range(20))
        )

    fresh = earns(-100, 20)
    assert proofs.earns_enough(earns(-105, 18), fresh, gain=100)
    assert not proofs.earns_enough(earns(-111, 20), fresh, gain=100)
    assert not proofs.earns_enough(earns(-100, 17), fresh, gain=100)
    # a constant in the reward changes nothing: what counts is the gain
    assert not proofs.earns_enough(earns(10_000 - 11, 20), earns(10_000, 20), gain=100)
    # the same mean, but 20 episodes do not show it
    assert not proofs.earns_enough(earns(-100, 20, spread=50), fresh, gain=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "no such file"),
        (["{ckpt}", "--batch", "0"], "--batch: expected a whole number from 1 to 4,096, got 0"),
        (["{ckpt}", "--batch", "1e8"], "--batch: expected a whole number from 1 to 4,096, got 10"),
        (["{ckpt}", "--out", "/no/such/folder/p.onnx"], "--out .*: expected an existing folder"),
        (["{ckpt}", "--out", "{ckpt}"], "--out .*: expected a new file, got the checkpoint itself"),
        (["{ckpt}", "--out", "{link}"], "--out .*: expected a new file, got the checkpoint itself"),
        (["{ckpt}", "--out", "p.pt"], "--out p.pt: expected a name that ends in .onnx, got 'p.pt'"),
        (["{ckpt}", "--out", "{folder}"], "--out .*: expected a file or a new name"),
        (["{ckpt}", "--out", ""], "--out: expected a value, got an empty one"),
        (["{ckpt}", "--env", ""], "--env: expected a value, got an empty one"),
        (["{ckpt}", "--percentile", "50"], "--percentile 50: expected --budget-ms with it"),
        (["{ckpt}", "--budget-ms", "abc"], "--budget-ms: expected a number from .*, got 'abc'"),
        (["{ckpt}", "--budget-ms", "nan"], "--budget-ms: expected a number from .*, got 'nan'"),
        (["{ckpt}", "--jsno"], "unrecognized arguments: --jsno; perhaps --json"),
        (["{ckpt}", "--env", "sim:go2"], "sim:go2: the policy's contract says"),
        (["{ckpt}", "--env", "InvertedPendulum-v5"], "the policy has 5 observations and 1 actions"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], message: str, checkpoint_path: Path, tmp_path: Path
) -> None:
    before, link = checkpoint_path.read_bytes(), tmp_path / "link.onnx"
    link.symlink_to(checkpoint_path)
    names = {"ckpt": checkpoint_path, "link": link, "folder": tmp_path}
    with pytest.raises(InputError, match=message) as error:
        export_onnx.main([a.format(**names) for a in arguments])
    assert "\n" not in str(error.value)
    assert checkpoint_path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "^batch: expected a whole number from 1 to 4,096, got 0$"),
        ({"batch": -1}, "^batch: expected .* got -1$"),
        ({"batch": True}, "^batch: expected .* got True$"),
        ({"batch": "2"}, "^batch: expected .* got '2'$"),
        ({"out": "/tmp"}, "^out /tmp: expected a file or a new name"),
        ({"out": ""}, "^out .: expected a file or a new name"),
        ({"out": "/no/such/folder/p.onnx"}, "^out .*: expected an existing folder"),
        ({"env": ""}, "^env: expected the name of an environment, .* got an empty text"),
        ({"env": "InvertedPendulum-v5"}, "^InvertedPendulum-v5: the policy has 5 observations"),
    ],
)
def test_from_python_they_are_refused_before_the_proof(
    arguments: dict[str, Any],
    message: str,
    checkpoint_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_onnx, "prove", lambda *_: pytest.fail("the proof began"))
    with pytest.raises(InputError, match=message):
        export_onnx.export_policy(checkpoint_path, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calls", "1000000000000"], "--calls: expected a whole number from 100 to 1,000,000"),
        (["--calls", "99"], "--calls: expected a whole number from 100 to 1,000,000, got '99'"),
        (["--percentile", "99"], "--percentile 99: expected --budget-ms with it"),
        (["--budget-ms", "-1"], "--budget-ms: expected a number from .*, got '-1'"),
        (["--call", "200"], "unrecognized arguments: --call 200; perhaps --calls"),
    ],
)
def test_wrong_arguments_of_the_measurement(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        runtime_certify.main(["policy.onnx", *arguments])


def test_as_a_script_it_says_how_to_run_it() -> None:
    for name in ("onnx", "tensorrt"):
        command = [sys.executable, str(ROOT / f"export/{name}.py"), "x"]
        failed = subprocess.run(command, capture_output=True, text=True)
        assert failed.returncode == 1
        assert f"python -m export.{name}" in failed.stderr


# -- without torch -------------------------------------------------------------------------------


def run_without_torch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process in which importing a training library is an error."""
    banned = (
        ("torch", "onnx")
        if "dime_robot.evaluate" in arguments
        else (*("torch", "onnx", "gymnasium", "mujoco", "scipy", "rclpy"),)
    )
    code = (
        "import sys, runpy\n"
        "class Ban:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.split('.')[0] in {banned!r}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Ban())\n"
        f"sys.argv = {[arguments[0], *arguments[1:]]!r}\n"
        f"runpy.run_module({arguments[0]!r}, run_name='__main__', alter_sys=True)\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_latency_is_measured_on_a_machine_without_torch(policy_path: Path) -> None:
    module = "dime_robot.runtime.certify"
    result = run_without_torch(module, str(policy_path), "--budget-ms", "1000", "--calls", "200")
    assert result.returncode == 0, result.stderr
    assert "budget     p99 within 1000 ms" in result.stdout
    over = run_without_torch(module, str(policy_path), "--budget-ms", "1e-6", "--calls", "200")
    assert over.returncode == 1
    assert "over the budget" in over.stderr
    as_json = run_without_torch(module, str(policy_path), "--json", "--calls", "200")
    assert json.loads(as_json.stdout)["provider"] == "cpu"


def test_exported_policy_is_evaluated_without_torch(policy_path: Path) -> None:
    result = run_without_torch("dime_robot.evaluate", str(policy_path), "--episodes", "2", "--json")
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)["noise"]) == {"fresh", "held", "zero"}


def test_checkpoint_and_file_earn_the_same(
    policy_path: Path, checkpoint_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    returns = []
    for path in (checkpoint_path, policy_path):
        evaluate.main([str(path), "--episodes", "3", "--noise", "zero", "--json"])
        returns.append(json.loads(capsys.readouterr().out)["noise"]["zero"]["return_mean"])
    assert returns[0] == pytest.approx(returns[1], rel=0.02)
