"""What the deployed file carries, and that no change to it goes unnoticed."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.certificate import Provenance
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.policy.policy_file import PROVENANCE, SPEC, policy_digest, read_checked
from dime_robot.training import checkpoint
from export.onnx import seal
from export.proofs import plain_sampler


def reseal(path: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """The same file with something changed and its digest made right again."""
    model = onnx.load(path)
    change(model)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    spec = PolicySpec.model_validate_json(entries[SPEC])
    provenance = Provenance.model_validate_json(entries[PROVENANCE])
    out.write_bytes(seal(model, spec, provenance))
    return out


def test_contract_and_provenance_come_back_exactly(
    policy_path: Path, checkpoint_path: Path
) -> None:
    policy = OnnxPolicy(policy_path)
    state = checkpoint.load(checkpoint_path)
    assert policy.spec == state.spec
    made = policy.file.provenance
    assert (made.env, made.steps, made.seed) == ("sim:cartpole", 300, 0)
    assert made.evaluation is not None
    assert made.evaluation["return_mean"] == state.record.final["fresh"].return_mean
    assert set(made.noise) == {"fresh", "held", "zero"}
    assert made.parity.observations >= 1000
    assert made.parity.max_error <= made.parity.limit
    assert made.closed_loop.episodes in (3, 30)  # looks of a short proof
    assert made.latency.warm_p50 > 0
    assert made.latency.ratio_to_torch is not None
    graph = onnx.load(policy_path).graph.SerializeToString(deterministic=True)
    digest = policy_digest(graph, policy.spec.model_dump_json())
    assert policy.file.policy_digest == digest
    assert policy_path.stat().st_size < 2_000_000


def test_odd_floats_survive(policy_path: Path, tmp_path: Path) -> None:
    model = onnx.load(policy_path)
    policy = OnnxPolicy(policy_path)
    terms = list(policy.spec.observation)
    terms[3] = terms[3].model_copy(update={"scale": 0.1 + 0.2})
    spec = policy.spec.model_copy(update={"rate": 1 / 0.0199999999, "observation": tuple(terms)})
    out = tmp_path / "odd.onnx"
    out.write_bytes(seal(model, spec, policy.file.provenance))
    assert OnnxPolicy(out).spec == spec


def test_actions_are_the_checkpoints(policy_path: Path, checkpoint_path: Path) -> None:
    actor, loaded = checkpoint.load_actor(checkpoint_path)
    spec = loaded.spec
    policy = OnnxPolicy(policy_path)
    rng = np.random.default_rng(0)
    for _ in range(50):
        obs = rng.standard_normal(spec.n_obs, dtype=np.float32)
        noise = rng.standard_normal((actor.steps + 1, spec.n_act), dtype=np.float32)
        exact = plain_sampler(actor.in_float64(), obs[None], noise[None])
        np.testing.assert_allclose(policy.act_with(obs, noise), exact, atol=1e-5)


def test_openvino_runs_the_file(policy_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    exact_mode = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(policy_path), "CPU", exact_mode)
    policy = OnnxPolicy(policy_path)
    rng = np.random.default_rng(0)
    for _ in range(20):
        obs = rng.standard_normal((1, policy.spec.n_obs), dtype=np.float32)
        noise = rng.standard_normal(policy.noise.values.shape, dtype=np.float32)
        action = compiled({"observation": obs, "noise": noise})["action"]
        np.testing.assert_allclose(action, policy.act_with(obs, noise), atol=1e-4)


# -- noise and calls -----------------------------------------------------------------------------


def test_noise_modes(all_modes_path: Path) -> None:
    obs = np.zeros(5, np.float32)

    def actions(mode: str, seed: int, count: int = 4) -> list[float]:
        policy = OnnxPolicy(all_modes_path, noise=mode, seed=seed)  # type: ignore[arg-type]
        return [policy.act(obs).item() for _ in range(count)]

    assert len(set(actions("fresh", 0))) == 4
    assert actions("fresh", 0) == actions("fresh", 0) != actions("fresh", 1)
    assert len(set(actions("held", 0))) == 1
    assert actions("held", 0) != actions("held", 1)
    assert len({*actions("zero", 0), *actions("zero", 1)}) == 1
    held = OnnxPolicy(all_modes_path, noise="held")
    before = held.act(obs).item()
    held.reset()
    assert held.act(obs).item() != before


def test_uncertified_noise_is_refused(policy_path: Path, tmp_path: Path) -> None:
    policy = OnnxPolicy(policy_path)
    noise = dict(policy.file.provenance.noise)
    for mode in ("held", "zero"):
        noise[mode] = noise[mode].model_copy(update={"certified": False})  # type: ignore[index]
    provenance = policy.file.provenance.model_copy(update={"noise": noise})
    out = tmp_path / "fresh.onnx"
    out.write_bytes(seal(onnx.load(policy_path), policy.spec, provenance))
    with pytest.raises(InputError, match="'zero' is not certified, expected one of fresh"):
        OnnxPolicy(out, noise="zero")


def test_a_call_with_given_noise_leaves_the_mode_alone(all_modes_path: Path) -> None:
    obs, foreign = np.zeros(5, np.float32), np.ones((9, 1), np.float32)
    for mode in ("zero", "held"):
        policy = OnnxPolicy(all_modes_path, noise=mode)  # type: ignore[arg-type]
        before = policy.act(obs).item()
        policy.act_with(obs, foreign)
        assert policy.act(obs).item() == before


def test_a_call_allocates_nothing(policy_path: Path) -> None:
    policy = OnnxPolicy(policy_path)
    obs = np.zeros(5, np.float32)
    for _ in range(10):
        policy.act(obs)

    def peak_of_many_calls() -> int:
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            policy.act(obs)
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    policy.act(obs)
    # other threads of the test runner allocate too: the quietest of some tries is the call's own
    peaks = [peak_of_many_calls() for _ in range(10)]
    tracemalloc.stop()
    assert min(peaks) < 500  # one small view object at a time, no buffer


def test_two_onnx_runtimes_are_refused(
    policy_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    for name in ("onnxruntime", "onnxruntime-1.32.0.dist-info", "onnxruntime_gpu-1.31.0.dist-info"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "onnxruntime/__init__.py"))
    with pytest.raises(InputError, match=r"onnxruntime-1.32.0 and onnxruntime_gpu-1.31.0"):
        OnnxPolicy(policy_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="ONNX Runtime is missing"):
        OnnxPolicy(policy_path)


def test_wrong_observation_shape_is_an_error(policy_path: Path) -> None:
    for wrong in (np.zeros(6, np.float32), np.zeros(1, np.float32), np.zeros((), np.float32)):
        with pytest.raises(ValueError, match=r"expected an observation of shape \(5,\)"):
            OnnxPolicy(policy_path).act(wrong)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_refused(policy_path: Path, provider: str) -> None:
    import onnxruntime

    if len(onnxruntime.get_available_providers()) > 2:
        pytest.skip("a GPU build of ONNX Runtime")
    with pytest.raises(InputError, match=f"provider {provider} is not available"):
        OnnxPolicy(policy_path, provider=provider)  # type: ignore[arg-type]
    assert OnnxPolicy(policy_path, provider="auto").provider == "cpu"


# -- changes that must not go unnoticed ----------------------------------------------------------


def flip(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def corruptions(content: bytes) -> dict[str, bytes]:
    model = onnx.load_from_string(content)
    weight = next(t for t in model.graph.initializer if t.name == "w_1").raw_data
    scale = next(t for t in model.graph.initializer if t.name == "scale").raw_data
    number = re.search(rb'"return_mean":([0-9.]+)', content)
    assert number is not None
    return {
        "weight": flip(content, content.index(weight) + 1001),
        "scale": flip(content, content.index(scale) + 14),
        "metadata float": flip(content, number.end(1) - 1),
        "truncated": content[:-1],
        "tail": flip(content, len(content) - 1),
        "appended": content + b"\0",
        "spec": content.replace(b'"rate":50.0', b'"rate":51.0'),
        "empty": b"",
        "not onnx": b"hello",
    }


@pytest.mark.parametrize(
    "name",
    ["weight", "scale", "metadata float", "truncated", "tail", "appended", "spec", "empty",
     "not onnx"],
)  # fmt: skip
def test_corruption_is_caught(name: str, policy_path: Path, tmp_path: Path) -> None:
    content = policy_path.read_bytes()
    changed = corruptions(content)[name]
    assert changed != content
    path = tmp_path / "policy.onnx"
    path.write_bytes(changed)
    with pytest.raises(InputError) as error:
        OnnxPolicy(path)
    assert re.search("bytes were changed|without its digest", str(error.value))
    assert "\n" not in str(error.value)


def test_digest_needs_no_onnx_package(policy_path: Path) -> None:
    assert read_checked(policy_path) == policy_path.read_bytes()


@pytest.mark.parametrize(
    ("which", "position", "name"),
    [("input", 0, "observation"), ("input", 1, "noise"), ("output", 0, "action")],
)
def test_a_graph_of_other_sizes_is_refused_by_name(
    which: str, position: int, name: str, policy_path: Path, checkpoint_path: Path, tmp_path: Path
) -> None:
    policy = OnnxPolicy(policy_path)
    spec, made = policy.spec, policy.file.provenance
    if name == "noise":
        made = made.model_copy(update={"diffusion_steps": made.diffusion_steps + 1})
    elif name == "observation":
        spec = spec.model_copy(update={"observation": spec.observation[:-1]})
    else:
        pytest.importorskip("onnx")
        action = spec.action.model_copy(update={"size": 2})
        spec = spec.model_copy(update={"action": action})
        name = "noise|action"
    out = tmp_path / "other.onnx"
    content = seal(onnx.load(policy_path), spec, made)
    out.write_bytes(content)
    with pytest.raises(InputError, match=name):
        OnnxPolicy(out)


def test_another_contract_is_refused_by_name(policy_path: Path) -> None:
    spec = OnnxPolicy(policy_path).spec
    assert OnnxPolicy(policy_path, expected=spec).spec == spec
    with pytest.raises(InputError, match=r"rate: expected 100\.0, got 50\.0"):
        OnnxPolicy(policy_path, expected=spec.model_copy(update={"rate": 100.0}))
    shorter = spec.model_copy(update={"observation": spec.observation[:-1]})
    with pytest.raises(InputError, match="expected 4 observations and 1 actions"):
        OnnxPolicy(policy_path, expected=shorter)


def test_a_missing_entry_or_another_version_is_refused(policy_path: Path, tmp_path: Path) -> None:
    from dime_robot.runtime.policy.policy_file import parse_metadata

    entries = {e.key: e.value for e in onnx.load(policy_path).metadata_props}
    parse_metadata(policy_path, entries)
    for key in entries:
        with pytest.raises(InputError, match=key):
            parse_metadata(policy_path, {k: v for k, v in entries.items() if k != key})
    with pytest.raises(InputError, match="format version 1, 2, 3, got '4'"):
        parse_metadata(policy_path, {**entries, "dime.format": "4"})
    bad = entries[SPEC].replace('"rate":50.0', '"rate":-1')
    with pytest.raises(InputError, match="rate"):
        parse_metadata(policy_path, {**entries, SPEC: bad})
