"""Replay data as one packed ring of float32 rows, in memory for sampling and on disk for resuming.

A row is [obs | action | next_obs | reward | terminated]; sampling is a single `index_select`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import PolicySpec


class Batch(NamedTuple):
    """B transitions. `terminated` is 1 for a true end and 0 otherwise (also at time limits)."""

    obs: Tensor  # Shape (B, n_obs), raw
    action: Tensor  # Shape (B, n_act), in [-1, 1]
    next_obs: Tensor  # Shape (B, n_obs)
    reward: Tensor  # Shape (B,), scaled by reward_scale
    terminated: Tensor  # Shape (B,)


class ReplayBuffer:
    """The last `capacity` transitions.

    Args:
        capacity: transitions kept.
        n_obs, n_act: vector lengths.
        device: where the rows live and batches appear.
        margin: extra rows of the file's ring. As many transitions may be added after a flush
            before rows that the flushed state still needs are overwritten on disk.
    """

    def __init__(
        self, capacity: int, n_obs: int, n_act: int, device: torch.device, *, margin: int
    ) -> None:
        self.capacity, self.margin = capacity, margin
        self._sizes = [n_obs, n_act, n_obs, 1, 1]
        self._rows = torch.empty((capacity, sum(self._sizes)), device=device)
        self._filled = torch.zeros((), dtype=torch.int64, device=device)  # rows, for `sample`
        self._staged = torch.empty(sum(self._sizes), pin_memory=device.type == "cuda")  # one row
        self.added = 0  # transitions ever added
        self._flushed = 0  # of these, how many are on disk

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        next_obs: np.ndarray,
        reward: float,
        terminated: bool,
    ) -> None:
        """Append one transition, replacing the oldest when full."""
        row = self._staged.numpy()
        a, b, c = np.cumsum(self._sizes[:3])
        row[:a], row[a:b], row[b:c], row[c], row[c + 1] = obs, action, next_obs, reward, terminated
        # no waiting: before the next row is staged an action has been read off the device
        self._rows[self.added % self.capacity].copy_(self._staged, non_blocking=True)
        self._count(self.added + 1)

    def _count(self, added: int) -> None:
        self.added = added
        self._filled.fill_(len(self))

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """Draw `size` transitions uniformly with replacement.

        Reads how many there are on the device, so that a captured graph can repeat it.
        """
        device = self._rows.device
        drawn = torch.randint(2**32 - 1, (size,), generator=generator, device=device)
        return self.split(self._rows.index_select(0, drawn % self._filled))

    def split(self, rows: Tensor) -> Batch:
        """Name the columns of rows (B, row width)."""
        obs, action, next_obs, reward, terminated = rows.split(self._sizes, dim=1)
        return Batch(obs, action, next_obs, reward.squeeze(1), terminated.squeeze(1))

    def newest(self, count: int) -> Batch:
        """The last `count` transitions, oldest first."""
        return self.split(self._rows[self._slots(self.added - count, self.added)])

    def _slots(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self._rows.device) % self.capacity

    # -- on disk: transition number t lies at row t % (capacity + margin) ----------------------

    def flush(self, path: Path) -> None:
        """Write the transitions added since the last flush and wait until they are on disk."""
        ring = self.capacity + self.margin
        if self.added - self._flushed > self.margin:
            raise RuntimeError(
                f"replay file {path}: expected a flush at least every {self.margin} transitions,"
                f" got one after {self.added - self._flushed}"
            )
        rows = self._rows[self._slots(self._flushed, self.added)].cpu().numpy().astype("<f4")
        row_bytes = rows.itemsize * sum(self._sizes)
        until_wrap = min(len(rows), ring - self._flushed % ring)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            for start, part in ((self._flushed, rows[:until_wrap]), (0, rows[until_wrap:])):
                file.seek(start % ring * row_bytes)
                file.write(part.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self._flushed = self.added

    def load(self, path: Path, added: int) -> None:
        """Restore the state in which `added` transitions had been added.

        Raises:
            InputError: the file is missing or shorter than the checkpoint says.
        """
        width, ring = sum(self._sizes), self.capacity + self.margin
        needed = np.arange(max(0, added - self.capacity), added)
        expected = (min(added, ring)) * width * 4
        found = path.stat().st_size if path.exists() else 0
        if found < expected:
            raise InputError(
                f"{path}: expected at least {expected} bytes of replay data ({added} transitions),"
                f" got {found}; the run cannot be resumed, start it anew with --init ckpt.pt"
            )
        if added == 0:  # nothing yet, and an empty file cannot be mapped
            return
        data = np.memmap(
            path, dtype="<f4", mode="r", shape=(min(found // (4 * width), ring), width)
        )
        for chunk in np.array_split(needed, max(1, len(needed) // 65536)):
            self._rows[torch.as_tensor(chunk % self.capacity)] = torch.as_tensor(
                np.array(data[chunk % ring]), device=self._rows.device
            )
        self._flushed = added
        self._count(added)


def read_observations(path: Path, added: int, spec: PolicySpec, count: int) -> np.ndarray:
    """Some observations out of a replay file, shape (K, n_obs); K is 0 where there is none."""
    width = 2 * spec.n_obs + spec.n_act + 2
    rows = path.stat().st_size // (4 * width) if path.exists() else 0
    rows = min(rows, added)
    if rows == 0:
        return np.empty((0, spec.n_obs), dtype=np.float32)
    data = np.memmap(path, dtype="<f4", mode="r", shape=(rows, width))
    chosen = np.random.default_rng(0).permutation(rows)[:count]
    return np.array(data[np.sort(chosen), : spec.n_obs])
