"""Export a checkpoint as one file: `python -m export.onnx ckpt.pt` writes `policy.onnx`.

The file holds the whole sampler, the contract and the proof that both are right. Where the proof
fails nothing is written.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:  # run as a script this file would be found as the package `onnx`
        sys.exit("error: run it as a module: python -m export.onnx ckpt.pt")
    from dime_robot.runtime.extras import require_extras

    require_extras(train=("torch", "gymnasium", "scipy", "onnx"), cpu=("onnxruntime",))

import argparse
import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from dime_robot import checkpoint
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.lineage import commands
from dime_robot.provenance import git_commit, package_versions
from dime_robot.rollout import FloatArray, Policy, in_batches
from dime_robot.runtime import certify as latency
from dime_robot.runtime.certificate import LatencyCertificate, Provenance
from dime_robot.runtime.command import run_command
from dime_robot.runtime.env_name import env_options, require_file_may_name
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.files import write_atomically
from dime_robot.runtime.policy import OnnxPolicy, import_onnxruntime
from dime_robot.runtime.policy_file import (
    FILE_DIGEST,
    FORMAT,
    FORMAT_VERSION,
    NO_DIGEST,
    POLICY_DIGEST,
    PROVENANCE,
    SPEC,
    policy_digest,
    zeroed_digest,
)
from dime_robot.runtime.spec import PolicySpec
from export import certify
from export.graph import build, fold

REPLAYED = 500  # observations taken from the replay data, where it is there
TORCH_CALLS = 200


def seal(model: onnx.ModelProto, spec: PolicySpec, provenance: Provenance) -> bytes:
    """The file's bytes: graph, metadata, and the digest of everything."""
    contract = spec.model_dump_json()
    entries = {
        FORMAT: FORMAT_VERSION,
        SPEC: contract,
        PROVENANCE: provenance.model_dump_json(),
        POLICY_DIGEST: policy_digest(model.graph.SerializeToString(deterministic=True), contract),
        FILE_DIGEST: NO_DIGEST,
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, entries)
    content: bytes = model.SerializeToString(deterministic=True)
    digest = zeroed_digest(content, NO_DIGEST)
    return content.replace(NO_DIGEST.encode(), digest.encode())


def graph_session(model: onnx.ModelProto) -> Policy:
    """The bare graph as a policy, before it has a file."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def policy(obs: FloatArray, noise: FloatArray) -> FloatArray:
        actions: FloatArray = session.run(None, {"observation": obs, "noise": noise})[0]
        return actions

    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return in_batches(policy, batch)


def certified_provenance(
    path: Path, batch: int, asked_env: str | None, say: Callable[[str], None]
) -> tuple[onnx.ModelProto, PolicySpec, Provenance, ScoreNetwork]:
    """Build the graph of a checkpoint and prove it.

    Raises:
        InputError: no usable checkpoint.
        CertificateError: the graph is not the policy.
    """
    actor, loaded = checkpoint.load_actor(path)
    record, spec, config = loaded.record, loaded.spec, loaded.config
    env = asked_env or require_file_may_name(config.env, path)
    if not isinstance(actor, ScoreNetwork):
        raise InputError(
            f"{path}: expected a diffusion policy, got --actor {config.actor}, which is there to"
            " compare with and cannot be exported"
        )
    torch.set_num_threads(1)
    shape = (actor.steps + 1, spec.n_act)
    say(
        f"policy     {env}, {record.step:,} steps, seed {config.seed}: {spec.n_obs}"
        f" observations, {spec.n_act} actions, {actor.steps} diffusion steps, {spec.rate:g} Hz"
    )
    model = build(fold(actor, spec), batch)
    policy = graph_session(model)

    loop = certify.free_run(env, actor.act_numpy, policy, shape)
    replayed = record.replay.sample(path.parent, REPLAYED)[:, : spec.n_obs]
    obs, noise = certify.parity_inputs(loop, replayed, shape)
    parity = certify.parity_certificate(actor, policy, obs, noise)
    say(
        f"parity     {parity.max_error:.1e} on {parity.observations:,} observations"
        f" ({len(replayed)} from replay data); float32 torch {parity.float32_error:.1e}, limit"
        f" {parity.limit:.1e}"
    )
    closed = certify.closed_loop_certificate(actor, policy, loop, parity.limit)
    low, high = closed.difference_interval_95
    apart = (
        "never apart"
        if closed.first_divergence is None
        else (f"apart from step {closed.first_divergence}")
    )
    say(
        f"loop       torch {closed.return_torch:.2f}, graph {closed.return_onnx:.2f} over"
        f" {closed.episodes} episodes, difference [{low:.2f}, {high:.2f}], {apart};"
        f" {closed.max_error:.1e} on the {closed.visited_states:,} states visited"
    )
    noises = certify.noise_certificates(env, policy, shape, lambda text: say(f"noise      {text}"))
    final = record.final.get("fresh")
    provenance = Provenance(
        checkpoint_digest=hashlib.sha256(path.read_bytes()).hexdigest(),
        env=env,
        lineage=tuple(commands(record.lineage)),
        steps=record.step,
        seed=config.seed,
        git_commit=git_commit(),
        versions=package_versions(),
        diffusion_steps=actor.steps,
        batch=batch,
        evaluation=final
        and {
            "return_mean": final.return_mean,
            "interval_low": final.interval_95[0],
            "interval_high": final.interval_95[1],
            "episodes": final.episodes,
        },
        noise=noises,
        parity=parity,
        closed_loop=closed,
        latency=NOT_MEASURED.model_copy(update={"batch": batch}),
    )
    return model, spec, provenance, actor


NOT_MEASURED = LatencyCertificate(
    cpu="", threads=1, provider="cpu", runtime="", batch=1, calls=0,
    warm_p50=0, warm_p99=0, warm_max=0, cold_p50=0, cold_p99=0, cold_max=0,
)  # fmt: skip


def measured_latency(draft: Path, actor: ScoreNetwork) -> LatencyCertificate:
    """Latency of the file as a robot would run it, and its ratio to torch eager."""
    policy = OnnxPolicy(draft)
    result = latency.measure_latency(policy)
    rng = np.random.default_rng(0)
    obs = rng.standard_normal((policy.batch, policy.spec.n_obs), dtype=np.float32)
    noise = rng.standard_normal(policy.noise.values.shape, dtype=np.float32)
    eager = latency.call_times(lambda: certify.plain_sampler(actor, obs, noise), TORCH_CALLS)
    ratio = result.warm_p50 / float(np.median(eager))
    return result.model_copy(update={"ratio_to_torch": ratio})


def export(
    path: Path,
    out: Path,
    *,
    batch: int = 1,
    env: str | None = None,
    budget_ms: float | None = None,
    percentile: float = 99,
    say: Callable[[str], None] = print,
) -> OnnxPolicy:
    """Write `out` from the checkpoint at `path`; gives the policy read back from it.

    `env` is the environment to prove it in, by default the one that it was trained in.

    Raises:
        InputError: no usable checkpoint, or `out` cannot be written.
        CertificateError: a proof failed or the latency budget is exceeded. Nothing lies at `out`
            then: a file that was there before is renamed to `out`.previous.
    """
    if out.exists():
        out.replace(previous(out))
    model, spec, provenance, actor = certified_provenance(path, batch, env, say)
    draft = out.with_name(out.name + ".draft")
    try:
        write_atomically(draft, seal(model, spec, provenance))
        measured = measured_latency(draft, actor)
        for line in latency.describe(measured):
            say(line)
        if budget_ms is not None:
            problem = latency.budget_problem(measured, budget_ms, percentile, actor.steps)
            if problem:
                raise certify.CertificateError(f"latency: {problem}")
        sealed = seal(model, spec, provenance.model_copy(update={"latency": measured}))
        write_atomically(draft, sealed)
        OnnxPolicy(draft, expected=spec)  # what is on disk loads, unchanged
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return OnnxPolicy(out, expected=spec)


def previous(out: Path) -> Path:
    """Where the file of an earlier export goes, so that none is taken for the new one."""
    return out.with_name(out.name + ".previous")


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, help="default: policy.onnx beside the checkpoint")
    parser.add_argument("--batch", type=int, default=1, help="observations per call, fixed")
    parser.add_argument(
        "--env", help="prove it there; needed where its own is not shipped or registered"
    )
    parser.add_argument("--json", action="store_true", help="print the provenance as JSON instead")
    latency.add_budget_options(parser)
    options = parser.parse_args(argv)
    if options.batch < 1:
        raise InputError(f"--batch: expected 1 or more, got {options.batch}")
    out = options.out or options.checkpoint.with_name("policy.onnx")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: expected an existing folder, got {out.parent}")

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    try:
        policy = export(
            options.checkpoint,
            out,
            batch=options.batch,
            env=options.env,
            budget_ms=options.budget_ms,
            percentile=options.percentile,
            say=say,
        )
    except certify.CertificateError as error:
        print(f"error: {error}; {out} was not written", file=sys.stderr)
        if previous(out).exists():
            print(f"the file of an earlier export is now {previous(out)}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(report(policy)))
    size = out.stat().st_size
    say(f"written    {out} ({size / 1e6:.2f} MB), policy {policy.file.policy_digest[:12]}")
    words = shlex.join([str(out), *env_options(policy.file.provenance.env)])
    say(f"next       python -m dime_robot.evaluate {words}")
    return 0


def report(policy: OnnxPolicy) -> dict[str, Any]:
    """What --json prints."""
    return {
        "path": str(policy.path),
        "policy_digest": policy.file.policy_digest,
        "file_digest": policy.file.file_digest,
        "provenance": policy.file.provenance.model_dump(),
    }


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="gymnasium")
    run_command(main)
