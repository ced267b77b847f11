"""Kill a training run at random moments, resume it each time, compare with one left alone.

    python -m benchmarks.kill_and_resume --env Pendulum-v1 --steps 2000 --kills 10
    python -m benchmarks.kill_and_resume --env Pendulum-v1 --steps 1500 --kills 20 --while-saving
    python -m benchmarks.kill_and_resume --env sim:go2-walk --steps 8000 --num-envs 8

With --while-saving a checkpoint is saved after every step, and a run is killed within a second
after its first own checkpoint: a draft on disk shows that the kill came during a save.

Both runs must end with bitwise equal networks, optimisers, temperature and random state, and with
the same evaluations. Exit code 1 if they do not.
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
    while_saving: bool = False,
) -> tuple[list[str], list[Kill]]:
    """Return the names of the parts that differ, and the state after each kill.

    A kill comes up to `longest` seconds after the start, or with `while_saving` up to one second
    after the first checkpoint that the process has written.
    """
    rng = random.Random(seed)
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
        before = _identity(kept_file) if while_saving or not begun else None
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # wait for a checkpoint to resume: on a slow machine the start takes long
        while before is not None and _identity(kept_file) == before and child.poll() is None:
            time.sleep(0.005)
        try:
            child.wait(rng.uniform(0.0, 1.0) if while_saving else rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        if while_saving and child.returncode != -signal.SIGKILL:
            raise RuntimeError("the run ended before it was killed: ask for more --steps")
        found.append(Kill(checkpoint.load(kept_file).record.step, draft_of(kept_file).exists()))
    subprocess.run([*train, "--resume", str(killed)], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = digests(killed), digests(alone)
    return [name for name in ours if ours[name] != theirs[name]], found


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
            while_saving=options.while_saving,
        )
    met = sum(kill.while_saving for kill in found)
    print(f"{options.env}: checkpoints at the kills: {[kill.step for kill in found]}")
    print(f"{met} of {len(found)} kills left a checkpoint half written")
    print(f"differs: {', '.join(differing)}" if differing else "equal bit for bit")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
