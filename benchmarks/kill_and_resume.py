"""Kill a training run at random moments, resume it each time, compare with one left alone.

    python benchmarks/kill_and_resume.py --env Pendulum-v1 --steps 2000 --kills 10

Both runs must end with bitwise equal networks, optimisers, temperature and random state, and with
the same evaluations. Exit code 1 where they do not.
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
from typing import Any

import torch

from dime_robot import checkpoint
from dime_robot.eval_csv import read_eval_csv

COUNTERS = ("updates", "step", "episode", "episode_step", "episode_return")


def digest(value: Any) -> str:
    """SHA-256 over nested dicts, lists, tensors and numbers."""
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
    """One digest per part of the final state, and one of the evaluations."""
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
    interval: int | None = None,
) -> tuple[list[str], list[int]]:
    """Names of the parts that differ, and the steps that were kept at each kill.

    `interval` is the number of steps between checkpoints; at 1 most kills come while one is saved.
    """
    rng = random.Random(seed)
    train = [sys.executable, "-m", "dime_robot.train", "--no-video"]
    new = [*train, "--env", env, "--preset", "tiny", "--steps", str(steps)]
    new += ["--eval-interval", str(max(1, steps // 4))]
    new += ["--checkpoint-interval", str(interval or max(10, steps // 50))]
    alone, killed = folder / "alone", folder / "killed"
    subprocess.run([*new, "--out", str(alone)], check=True, stdout=subprocess.DEVNULL)
    kept = []
    for _ in range(kills):
        begun = (killed / "ckpt.pt").exists()
        command = [*train, "--resume", str(killed)] if begun else [*new, "--out", str(killed)]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # there has to be something to resume: on a slow machine the start alone takes a while
        while not (killed / "ckpt.pt").exists() and child.poll() is None:
            time.sleep(0.05)
        try:
            child.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
        kept.append(checkpoint.load(killed / "ckpt.pt").record.step)
    subprocess.run([*train, "--resume", str(killed)], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = digests(killed), digests(alone)
    return [name for name in ours if ours[name] != theirs[name]], kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="Pendulum-v1")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=12.0, help="latest kill [s]")
    parser.add_argument("--interval", type=int, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        differing, kept = compare(
            options.env,
            options.steps,
            options.kills,
            Path(folder),
            seed=options.seed,
            longest=options.longest,
            interval=options.interval,
        )
    print(f"{options.env}: checkpoints at the kills: {kept}")
    print(f"differs: {', '.join(differing)}" if differing else "equal bit for bit")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
