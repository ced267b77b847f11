"""Kill a training run at random moments, resume it each time, compare with one left alone.

    python -m benchmarks.kill_and_resume --env Pendulum-v1 --steps 2000 --kills 10
    python -m benchmarks.kill_and_resume --env Pendulum-v1 --steps 1500 --kills 20 --while-saving
    python -m benchmarks.kill_and_resume --env sim:go2-walk --steps 8000 --num-envs 8 --workers 2

With --while-saving a checkpoint is saved after every step, and a run is killed within a second
after its first own checkpoint: a draft on disk shows that the kill came during a save.

Both runs must end with bitwise equal networks, optimisers, temperature and random state, and with
the same evaluations. The run that is left alone has no workers; those of a killed run must end by
themselves within 2 s. Exit code 1 if one of this does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dime_robot.results.eval_csv import read_eval_csv
from dime_robot.runtime.io.regular_files import draft_of
from dime_robot.training import checkpoint

COUNTERS = ("updates", "step", "episodes", "curriculum")


class Kill(NamedTuple):
    """The state of the run folder after a kill."""

    step: int  # of the checkpoint
    while_saving: bool  # whether there was a partly written one
    workers: int  # that the killed process had
    left: int  # of them, 2 s later


def digest(value: Any) -> str:
    """Return a SHA-256 over nested dicts, lists, tensors and numbers."""
    sha = hashlib.sha256()

    def feed(node: Any) -> None:
        if isinstance(node, torch.Tensor):
            sha.update(node.contiguous().numpy().tobytes())
        elif isinstance(node, dict):
            for key in sorted(node, key=str):
                sha.update(str(key).encode())
                feed(node[key])
        elif isinstance(node, (list, tuple)):
            for item in node:
                feed(item)
        else:
            sha.update(repr(node).encode())

    feed(value)
    return sha.hexdigest()


def digests(run: Path) -> dict[str, str]:
    """Return one digest per part of the final state, and one of the evaluations."""
    state = checkpoint.load(run / "ckpt.pt")
    parts = {**state.learner.tensors(), "replay": state.record.replay.digests}
    parts |= {name: getattr(state.record, name) for name in COUNTERS}
    rows = [(r.step, r.return_mean, r.return_std) for r in read_eval_csv(run / "eval.csv")]
    return {name: digest(part) for name, part in parts.items()} | {"evaluations": digest(rows)}


def compare(
    env: str,
    steps: int,
    kills: int,
    folder: Path,
    *,
    seed: int = 0,
    longest: float = 12.0,
    num_envs: int = 1,
    workers: int = 0,
    while_saving: bool = False,
) -> tuple[list[str], list[Kill]]:
    """Return the names of the parts that differ, and the state after each kill.

    A kill comes up to `longest` seconds after the start, or with `while_saving` up to one second
    after the first checkpoint that the process has written.
    """
    rng, divided = random.Random(seed), ["--workers", str(workers)]
    train = [sys.executable, "-m", "dime_robot.train", "--no-video"]
    new = [*train, "--env", env, "--preset", "tiny", "--steps", str(steps)]
    if num_envs > 1:
        new += ["--num-envs", str(num_envs), "--update-to-data", str(1 / num_envs)]
    new += ["--eval-interval", str(max(1, steps // 4))]
    new += ["--checkpoint-interval", str(1 if while_saving else max(10, steps // 50))]
    alone, killed = folder / "alone", folder / "killed"
    kept_file = killed / "ckpt.pt"
    subprocess.run([*new, "--out", str(alone)], check=True, stdout=subprocess.DEVNULL)
    found = []
    for _ in range(kills):
        begun = kept_file.exists()
        command = [*train, "--resume", str(killed)] if begun else [*new, "--out", str(killed)]
        command += divided
        before = _identity(kept_file) if while_saving or not begun else None
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # wait for a checkpoint to resume: on a slow machine the start takes long
        while before is not None and _identity(kept_file) == before and child.poll() is None:
            time.sleep(0.005)
        processes: list[int] = []
        try:
            child.wait(rng.uniform(0.0, 1.0) if while_saving else rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            processes = _children(child.pid)
            child.send_signal(signal.SIGKILL)
            child.wait()
        if while_saving and child.returncode != -signal.SIGKILL:
            raise RuntimeError("the run ended before it was killed: ask for more --steps")
        drafted, left = draft_of(kept_file).exists(), _left_of(processes)
        step = checkpoint.load(kept_file).record.step
        found.append(Kill(step, drafted, len(processes), left))
    subprocess.run([*train, "--resume", str(killed)], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = digests(killed), digests(alone)
    return [name for name in ours if ours[name] != theirs[name]], found


def _children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found: list[int] = []
    for of_thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found += map(int, of_thread.read_text().split())
    return found


def _left_of(processes: list[int]) -> int:
    """Return how many of these processes are left after at most 2 s."""
    end = time.monotonic() + 2.0
    while (left := sum(map(_runs, processes))) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def _runs(pid: int) -> bool:
    try:  # empty: it has ended, and nobody has asked for its exit code
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


def _identity(path: Path) -> tuple[int, int]:
    """Return a value that changes when the file is replaced; (0, 0) without a file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=12.0, help="latest kill [s]")
    parser.add_argument("--num-envs", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="of the killed run")
    parser.add_argument("--while-saving", action="store_true", help="a checkpoint every step")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differing, found = compare(
            options.env,
            options.steps,
            options.kills,
            Path(folder),
            seed=options.seed,
            longest=options.longest,
            num_envs=options.num_envs,
            workers=options.workers,
            while_saving=options.while_saving,
        )
    met = sum(kill.while_saving for kill in found)
    print(f"{options.env}: checkpoints at the kills: {[kill.step for kill in found]}")
    print(f"{met} of {len(found)} kills left a checkpoint half written")
    workers, left = sum(kill.workers for kill in found), sum(kill.left for kill in found)
    print(f"{left} of {workers} workers of killed processes were left after 2 s")
    print(f"differs: {', '.join(differing)}" if differing else "equal bit for bit")
    return 1 if differing or left else 0


if __name__ == "__main__":
    sys.exit(main())
