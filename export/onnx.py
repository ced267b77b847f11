"""Export a checkpoint as one file: `python -m export.onnx ckpt.pt` writes `policy.onnx`.

The file has the whole sampler, the contract and the certificates of the proofs. If a proof fails
nothing is written, and an earlier policy.onnx stays unchanged.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    if not __package__:  # run as a script, this file would shadow the package `onnx`
        sys.exit("error: run it as a module: python -m export.onnx ckpt.pt")
    import warnings
    from importlib import import_module

    from dime_robot.runtime.io.command import run_command
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("torch", "gymnasium", "scipy", "onnx"), cpu=("onnxruntime",))
    warnings.filterwarnings("ignore", module="gymnasium")
    # the imports below take seconds: inside run_command an interruption is one word then, too
    run_command(lambda: import_module("export.onnx").main())

import argparse
import json
import os
import shlex
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from dime_robot.evaluation.rollout import FloatArray, Policy, in_batches
from dime_robot.learning.networks import ScoreNetwork
from dime_robot.loaded_policy import require_fitting_env
from dime_robot.runtime.contract.interpolation import recorded
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.command import interruption_as_itself
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.policy.certificate import LatencyCertificate, Provenance
from dime_robot.runtime.policy.env_name import env_options, require_file_may_name
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy, import_onnxruntime
from dime_robot.runtime.policy.policy_file import (
    FILE_DIGEST,
    FORMAT,
    FORMAT_VERSION,
    INTERPOLATED_VERSION,
    NO_DIGEST,
    POLICY_DIGEST,
    PROVENANCE,
    SPEC,
    policy_digest,
    zeroed_digest,
)
from dime_robot.runtime.telemetry import measure_latency as latency
from dime_robot.sim.config.trust import typed_env
from dime_robot.sim.tasks.digest import digest_of, require_recorded_task
from dime_robot.training import checkpoint
from dime_robot.training.checkpoint import Checkpoint
from dime_robot.training.lineage import commands
from dime_robot.training.provenance import TASK, git_commit, package_versions
from dime_robot.training.run_folder import RunFolder
from export import proofs
from export.closed_loop import CertificateError, free_run
from export.graph import build, fold

REPLAYED = 500  # observations taken from the replay data, if there is any
TORCH_CALLS = 200
MAX_BATCH = 4096  # the proofs evaluate whole batches: their memory and time grow with it
Log = Callable[[str], object]


def seal(model: onnx.ModelProto, spec: PolicySpec, provenance: Provenance) -> bytes:
    """Return the file's bytes: graph, metadata, and the digest of all of it."""
    contract = spec.model_dump_json()
    entries = {
        FORMAT: INTERPOLATED_VERSION if provenance.interpolation else FORMAT_VERSION,
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
    """Return the bare graph as a policy, without a file."""
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


@dataclass(frozen=True)
class Built:
    """A checkpoint and the graph built from it, not yet proven."""

    path: Path
    actor: ScoreNetwork
    checkpoint: Checkpoint
    env: str  # for the proof
    model: onnx.ModelProto
    policy: Policy  # the bare graph
    batch: int

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of the noise of one action, (N+1, d)."""
        return self.actor.steps + 1, self.checkpoint.spec.n_act


def build_policy(
    path: Path, batch: int, env: str | None, log: Log, config_file: Path | None = None
) -> Built:
    """Load a checkpoint and fold its sampler into a graph.

    Raises:
        InputError: the checkpoint cannot be used, or does not fit the environment.
    """
    actor, loaded = checkpoint.load_actor(path)
    record, spec, config = loaded.record, loaded.spec, loaded.config
    if config_file is not None:
        require_recorded_task(config_file, record.provenance.get(TASK), path)
    env = typed_env(env, config_file) or require_file_may_name(config.env, path)
    if not isinstance(actor, ScoreNetwork):
        raise InputError(
            f"{path}: expected a diffusion policy, got --actor {config.actor}, which is only a"
            " baseline and cannot be exported"
        )
    require_fitting_env(env, spec, recorded(record.provenance))
    log(
        f"policy     {env}, {record.step:,} steps, seed {config.seed}: {spec.n_obs}"
        f" observations, {spec.n_act} actions, {actor.steps} diffusion steps, {spec.rate:g} Hz"
    )
    model = build(fold(actor, spec), batch)
    return Built(path, actor, loaded, env, model, graph_session(model), batch)


def prove(built: Built, log: Log) -> Provenance:
    """Prove that the graph equals the policy; return the certificates.

    Raises:
        InputError: the environment cannot be used for a proof.
        CertificateError: a proof failed.
    """
    torch.set_num_threads(1)
    actor, policy, shape = built.actor, built.policy, built.noise_shape
    record, spec, config = built.checkpoint.record, built.checkpoint.spec, built.checkpoint.config
    loop = free_run(built.env, actor.act_numpy, policy, shape)
    replayed = record.replay.sample(built.path.parent, REPLAYED)[:, : spec.n_obs]
    obs, noise = proofs.parity_inputs(loop, replayed, shape)
    parity = proofs.parity_certificate(actor, policy, obs, noise)
    log(
        f"parity     {parity.max_error:.1e} on {parity.observations:,} observations"
        f" ({len(replayed)} from replay data); float32 torch {parity.float32_error:.1e}, limit"
        f" {parity.limit:.1e}"
    )
    closed = proofs.closed_loop_certificate(actor, policy, loop, parity.limit)
    low, high = closed.difference_interval_95
    step = closed.first_divergence
    log(
        f"loop       torch {closed.return_torch:.2f}, graph {closed.return_onnx:.2f}, random"
        f" {closed.return_random:.2f} over {closed.episodes} episodes, difference [{low:.2f},"
        f" {high:.2f}], allowed +-{closed.difference_allowed:.2f},"
        f" {'never diverges' if step is None else f'diverges at step {step}'};"
        f" {closed.max_error:.1e} on {closed.visited_states:,} states visited"
    )
    noises = proofs.noise_certificates(
        built.env,
        policy,
        shape,
        float(np.mean(loop.returns_torch - loop.returns_random)),
        lambda text: log(f"noise      {text}"),
    )
    final = record.final.get("fresh")
    return Provenance(
        checkpoint_digest=built.checkpoint.digest,
        env=built.env,
        lineage=tuple(commands(record.lineage)),
        steps=record.step,
        seed=config.seed,
        task_digest=digest_of(built.env),
        interpolation=recorded(record.provenance),
        git_commit=git_commit(),
        versions=package_versions(),
        diffusion_steps=actor.steps,
        batch=built.batch,
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
        latency=NOT_MEASURED.model_copy(update={"batch": built.batch}),
    )


NOT_MEASURED = LatencyCertificate(
    cpu="", threads=1, provider="cpu", runtime="", batch=1, calls=0,
    warm_p50=0, warm_p99=0, warm_max=0, cold_p50=0, cold_p99=0, cold_max=0,
)  # fmt: skip


def measure(
    built: Built, provenance: Provenance, budget: latency.Budget | None, log: Log
) -> Provenance:
    """Measure the latency of the file as on a robot, and its ratio to torch eager.

    Raises:
        CertificateError: the latency budget is exceeded.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = RunFolder(Path(folder)).policy
        write_atomically(file, seal(built.model, built.checkpoint.spec, provenance))
        policy = OnnxPolicy(file)
        result = latency.measure_latency(policy)
        rng = np.random.default_rng(0)
        obs = rng.standard_normal((policy.batch, policy.spec.n_obs), dtype=np.float32)
        noise = rng.standard_normal(policy.noise.values.shape, dtype=np.float32)
        eager = latency.call_times(
            lambda: proofs.plain_sampler(built.actor, obs, noise), TORCH_CALLS
        )
    ratio = result.warm_p50 / float(np.median(eager))
    measured = result.model_copy(update={"ratio_to_torch": ratio})
    for line in latency.describe(measured):
        log(line)
    if provenance.interpolation:
        log(f"commands   interpolation {provenance.interpolation.describe(policy.spec)}")
    if budget is not None:
        problem = latency.budget_problem(
            measured, budget.milliseconds, budget.percentile, built.actor.steps
        )
        if problem:
            raise CertificateError(f"latency: {problem}")
    return provenance.model_copy(update={"latency": measured})


def write(built: Built, provenance: Provenance, out: Path) -> OnnxPolicy:
    """Write the file, read it back, and only then replace an earlier one.

    The earlier one is copied to `out`.previous first, so there is a file at `out` at any time.

    Raises:
        InputError: it cannot be written or read back; the file at `out` is unchanged.
    """
    spec = built.checkpoint.spec
    draft = out.with_name(f"{out.name}.{os.getpid()}.draft")
    try:
        write_atomically(draft, seal(built.model, spec, provenance))
        OnnxPolicy(draft, expected=spec)  # verify that the file on disk loads
        if out.exists():
            write_atomically(previous(out), out.read_bytes())
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return OnnxPolicy(out, expected=spec)


def export(
    path: Path,
    out: Path,
    *,
    batch: int = 1,
    env: str | None = None,
    config_file: Path | None = None,
    budget: latency.Budget | None = None,
    log: Log = print,
) -> OnnxPolicy:
    """Export the checkpoint at `path` to `out`; return the policy read back from it.

    Args:
        path: of the checkpoint.
        out: path of the new file. An earlier file is copied to `out`.previous once the new one is
            proven, and stays unchanged if anything fails before.
        batch: observations per call, fixed in the graph.
        env: the environment for the proof; None: that of the training.
        config_file: the file of the robot task it was trained in, unless that is a shipped one.
        budget: for the latency of a call.
        log: called with each line of output.

    Raises:
        InputError: checkpoint or environment cannot be used, or `out` cannot be written.
        CertificateError: a proof failed or the latency budget is exceeded.
    """
    built = build_policy(path, batch, env, log, config_file)
    provenance = prove(built, log)
    provenance = measure(built, provenance, budget, log)
    return write(built, provenance, out)


def export_policy(
    checkpoint: Path | str,
    out: Path | str | None = None,
    *,
    batch: int = 1,
    env: str | None = None,
    config: Path | str | None = None,
) -> Path:
    """Write a proven policy.onnx as `python -m export.onnx` does, without printing.

    Args:
        checkpoint: ckpt.pt or best.pt.
        out: path of the new file; None: policy.onnx in the checkpoint's folder.
        batch: observations per call, fixed in the graph; 1 to 4,096.
        env: the environment for the proof; None: that of the training.
        config: the file of the robot task it was trained in, unless that is a shipped one.

    Returns:
        The path of the file.

    Raises:
        InputError: checkpoint or environment cannot be used, or `out` cannot be written.
        CertificateError: a proof failed; an earlier file is unchanged.
    """
    if env is not None and (not isinstance(env, str) or not env):
        got = "an empty text" if env == "" else type(env).__name__
        raise InputError(
            f"env: expected the name of an environment, as {RunFolder(Path()).policy} holds it, got"
            f" {got}; register the environment with Gymnasium and give its id"
        )
    path = Path(checkpoint)
    target = output_of(path, None if out is None else Path(out), batch)
    file = None if config is None else Path(config)
    export(path, target, batch=batch, env=env, config_file=file, log=lambda _: None)
    return target


def output_of(checkpoint: Path, out: Path | None, batch: int, dashes: str = "") -> Path:
    """Return the path of the new file, after checking what is known before the proof.

    Args:
        checkpoint: path of the checkpoint.
        out: path of the new file; None: policy.onnx in the checkpoint's folder.
        batch: observations per call.
        dashes: before the names of the arguments in messages.

    Raises:
        InputError: no file can be written there, the file there is the checkpoint, or the batch is
            out of range.
    """
    if type(batch) is not int or not 1 <= batch <= MAX_BATCH:
        raise InputError(
            f"{dashes}batch: expected a whole number from 1 to {MAX_BATCH:,}, got {batch!r:.60}"
        )
    out = RunFolder(checkpoint.parent).policy if out is None else out
    problem = None
    if out.exists() and checkpoint.exists() and out.samefile(checkpoint):
        problem = "a new file, got the checkpoint itself, which it would overwrite"
    elif out.exists() and not out.is_file():
        problem = "a file or a new name, got something else"
    elif out.suffix != ".onnx":
        problem = f"a name that ends in .onnx, got {out.name or str(out)!r}"
    elif not out.parent.is_dir():
        problem = f"an existing folder, got {out.parent}"
    if problem:
        raise InputError(f"{dashes}out {out}: expected {problem}")
    return out


def previous(out: Path) -> Path:
    """Return the path to which an earlier file is copied before it is replaced."""
    return out.with_name(out.name + ".previous")


class OutputWatch:
    """Detects whether the file at a path was replaced, to report the outcome of an export."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = self._identity()

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def outcome(self) -> str:
        """Describe what happened to the file, as a phrase."""
        now = self._identity()
        if now != self._before:
            return f"the new {self._path} was written"
        if now is None:
            return f"{self._path} was not written"
        return f"{self._path} is untouched, the file of an earlier export"


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end the export like Ctrl-C, with drafts removed and the outcome printed.

    Yields:
        A function that raises KeyboardInterrupt if a signal has come. Call it often: an exception
        raised during an import or a callback of another library may be lost there.
    """
    received: list[int] = []

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def check() -> None:
        if received:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python -m export.onnx", "Export a checkpoint as one file, proven equal to it.")
    add = parser.add_argument
    text = "ckpt.pt or best.pt, as python -m dime_robot.train wrote it"
    add("checkpoint", type=Path, help=text)
    add(
        "--out",
        type=Path,
        help="the new file, which ends in .onnx; an earlier one is kept beside it, as .previous; by"
        " default policy.onnx beside the checkpoint",
    )
    text = f"observations per call, fixed in the file; 1 to {MAX_BATCH:,}"
    add("--batch", type=int, default=1, help=text)
    add(
        "--env",
        type=str,
        help="the environment of the proof, with the policy's contract; by default that of the"
        " training",
    )
    text = "the file of the robot task that it was trained in, if it is not a shipped one"
    add("--config", type=Path, metavar="FILE", help=text)
    text = "print the provenance as one JSON object instead of a line per proof"
    add("--json", action="store_true", help=text)
    latency.add_budget_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    options = _parser().parse_args(argv)
    budget = latency.budget_of(options)
    out = output_of(options.checkpoint, options.out, options.batch, "--")
    watch = OutputWatch(out)
    try:
        with interruptible() as check, interruption_as_itself():

            def log(text: str) -> None:
                check()
                if not options.json:
                    print(text, flush=True)

            policy = export(
                options.checkpoint,
                out,
                batch=options.batch,
                env=options.env,
                config_file=options.config,
                budget=budget,
                log=log,
            )
    except CertificateError as error:
        print(f"error: {error}; {watch.outcome()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"interrupted; {watch.outcome()}", file=sys.stderr)
        return 130
    except InputError as error:
        raise InputError(f"{error}; {watch.outcome()}", code=error.code) from None
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, most often
        where = error.filename or "input/output"
        raise InputError(f"{where}: {error.strerror}; {watch.outcome()}") from None
    if options.json:
        print(json.dumps(report(policy)))
    size = out.stat().st_size
    log(f"written    {out} ({size / 1e6:.2f} MB), policy {policy.file.policy_digest[:12]}")
    arguments = shlex.join([str(out), *env_options(policy.file.provenance.env)])
    log(f"next       python -m dime_robot.evaluate {arguments}")
    return 0


def report(policy: OnnxPolicy) -> dict[str, Any]:
    """Return the content of the --json output."""
    return {
        "path": str(policy.path),
        "policy_digest": policy.file.policy_digest,
        "file_digest": policy.file.file_digest,
        "provenance": policy.file.provenance.model_dump(),
    }
