"""What digests cost a save: `python -m benchmarks.save_cost --env Humanoid-v5 --preset official`.

A save is the flush of the replay rows since the last save and the checkpoint, until both are on
disk. Saves with digests and without (a mock that reads no byte) alternate.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from dime_robot.learning import replay_file
from dime_robot.training import checkpoint
from dime_robot.training.presets import preset_config
from dime_robot.training.run import TrainingRun


class NoDigest:
    """Has the interface of a hash and reads nothing."""

    def __init__(self, content: Any = b"") -> None:
        pass

    def update(self, content: Any) -> None:
        """Do nothing."""

    def hexdigest(self) -> str:
        """Return a digest of the real length."""
        return "0" * 64


def measure(env: str, preset: str, repeats: int, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of every save, with digests and without."""
    config = preset_config(preset, env).model_copy(update={"device": "cpu", "buffer_size": 50_000})
    run = TrainingRun(config, folder, torch.device("cpu"))
    run.create_folder()
    spec, rng = run.spec, np.random.default_rng(0)
    n, d, width = spec.n_obs, spec.n_act, run.buffer.record().width
    found: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(2 * repeats):
        rows = rng.standard_normal((config.checkpoint_interval, width), dtype=np.float32)
        for row in rows:
            run.buffer.add(row[:n], row[n : n + d], row[n + d : -2], row[-2:-1], np.zeros(1))
            run.step += 1
        if turn < 3:
            run.agent.learn(run.buffer, 2)  # so that the optimisers have their moments
        variant = ("with", "without")[turn % 2]
        used = hashlib if variant == "with" else SimpleNamespace(sha256=NoDigest)
        for module in (checkpoint, replay_file):
            module.hashlib = used
        began = time.perf_counter()
        run.save()
        found[variant].append(time.perf_counter() - began)
    run.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", default="Humanoid-v5")
    parser.add_argument("--preset", default="official")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.env, options.preset, options.repeats, Path(folder) / "run")
        size = (Path(folder) / "run" / "ckpt.pt").stat().st_size
    seconds = {name: float(np.median(values)) for name, values in found.items()}
    ratios = np.array(found["with"]) / np.array(found["without"])
    print(f"{options.env}, {options.preset}: a checkpoint of {size / 1e6:.1f} MB")
    print(
        "medians: " + ", ".join(f"{1e3 * value:.1f} ms {name}" for name, value in seconds.items())
    )
    print(f"ratio of neighbours: median {np.median(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
