"""Replay data as one packed ring of float32 rows, in memory for sampling and on disk for resuming.

A row is [obs | action | next_obs | reward | terminated]; sampling is a single `index_select`. The
format on disk is in `replay_file.py`.

Environments that step side by side add a row each per step, in their order: transition number t is
of environment t % num_envs, and its environment's next one is t + num_envs. With workers on a
cluster that holds within each of their messages, which are whole steps of num_envs environments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dime_robot.learning.replay_file import CHUNK, ChunkDigests, ReplayRecord, pieces, row_sizes
from dime_robot.runtime.io.errors import InputError


class Batch(NamedTuple):
    """B transitions. `terminated` is 1 for a termination and 0 otherwise (also at time limits).

    In a batch of n-step returns (`n_step.py`) a row spans several steps: `reward` is their
    discounted sum, `next_obs` the observation after the last, and `terminated` the share of the
    value there that does not count.
    """

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
        device: of the rows and batches.
        margin: transitions that may be added after a flush before rows that the flushed state
            still needs are overwritten on disk.
        num_envs: environments that add rows in turn.
        at_once: transitions that are added at once, a multiple of `num_envs`; none: as many.
        run: identity of the run, 32 hex digits, for the file's header.
        file: name of the file on disk.
    """

    def __init__(
        self,
        capacity: int,
        n_obs: int,
        n_act: int,
        device: torch.device,
        *,
        margin: int,
        num_envs: int = 1,
        at_once: int | None = None,
        run: str = "0" * 32,
        file: str = "rows.bin",
    ) -> None:
        self.capacity, self.margin, self.num_envs = capacity, margin, num_envs
        self._sizes = row_sizes(n_obs, n_act)
        self._rows = torch.empty((capacity, sum(self._sizes)), device=device)
        self._filled = torch.zeros((), dtype=torch.int64, device=device)  # rows, for `drawn`
        self._newest = torch.zeros((), dtype=torch.int64, device=device)  # slot, for `following`
        # one step, or a message of several. Copying a step need not wait: actions are read from the
        # device before the next rows are staged. Nothing is read between two messages.
        shape = at_once or num_envs, sum(self._sizes)
        self._waits = at_once is not None and at_once != num_envs
        self._staged = torch.empty(shape, pin_memory=device.type == "cuda")
        self.added = 0  # transitions ever added
        self._flushed = 0  # of these, how many are on disk
        self._run, self._file = run, file
        self._digests = ChunkDigests()

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(
        self,
        obs: np.ndarray,
        action: np.ndarray,
        next_obs: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
    ) -> None:
        """Append `at_once` transitions of the environments in turn, replacing the oldest when full.

        Args:
            obs: shape (at_once, n_obs).
            action: in [-1, 1], shape (at_once, n_act).
            next_obs: shape (at_once, n_obs).
            reward: scaled, shape (at_once,) [1].
            terminated: whether the episode terminated, shape (at_once,).
        """
        rows = self._staged.numpy()
        a, b, c = np.cumsum(self._sizes[:3])
        rows[:, :a], rows[:, a:b], rows[:, b:c] = obs, action, next_obs
        rows[:, c], rows[:, c + 1] = reward, terminated
        for start, stop in pieces(self.added, self.added + len(rows), self.capacity):
            slot, first = start % self.capacity, start - self.added
            part = self._staged[first : first + stop - start]
            self._rows[slot : slot + stop - start].copy_(part, non_blocking=not self._waits)
        self._count(self.added + len(rows))

    def _count(self, added: int) -> None:
        self.added = added
        self._filled.fill_(len(self))
        self._newest.fill_((added - 1) % self.capacity)

    def sample(self, size: int, generator: torch.Generator) -> Batch:
        """Draw `size` transitions uniformly with replacement.

        Reads the number of stored transitions on the device, so that a captured graph can repeat
        it.
        """
        return self.at(self.drawn(size, generator))

    def drawn(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw the slots of `size` transitions uniformly with replacement, shape (size,)."""
        device = self._rows.device
        drawn = torch.randint(2**32 - 1, (size,), generator=generator, device=device)
        return drawn % self._filled

    def at(self, slots: Tensor) -> Batch:
        """Return the transitions in some slots of the ring.

        Args:
            slots: shape (B,).
        """
        return self.split(self._rows.index_select(0, slots))

    def following(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots of the same environments' next transitions, and whether they exist.

        Args:
            slots: shape (B,).

        Returns:
            Slots and truths, shape (B,) each; a next transition that has not been added yet does
            not exist.
        """
        newer = (self._newest - slots) % self.capacity  # transitions added since
        return (slots + self.num_envs) % self.capacity, newer >= self.num_envs

    def split(self, rows: Tensor) -> Batch:
        """Split rows (B, row width) into named columns.

        Args:
            rows: shape (B, row).
        """
        obs, action, next_obs, reward, terminated = rows.split(self._sizes, dim=1)
        return Batch(obs, action, next_obs, reward.squeeze(1), terminated.squeeze(1))

    def newest(self, count: int) -> Batch:
        """Return the last `count` transitions, oldest first."""
        return self.split(self._rows[self._slots(self.added - count, self.added)])

    def newest_of(self, environment: int, count: int) -> Batch | None:
        """Return the last `count` transitions of an environment, oldest first.

        Args:
            environment: its number.
            count: how many.

        Returns:
            The transitions; None: the first of them are no longer kept.
        """
        last = self.added - self.num_envs + environment
        first = last - (count - 1) * self.num_envs
        if first < self.added - len(self):
            return None
        slots = torch.arange(first, last + 1, self.num_envs, device=self._rows.device)
        return self.at(slots % self.capacity)

    def rewards(self) -> Tensor:
        """Return the scaled rewards of all stored transitions, unordered, (K,), not a copy."""
        return self._rows[: len(self), -2]

    def _slots(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, device=self._rows.device) % self.capacity

    # -- on disk -------------------------------------------------------------------------------

    def record(self) -> ReplayRecord:
        """Describe the content of the file since the last flush."""
        first, digests = self._digests.since(max(0, self._flushed - self.capacity))
        return ReplayRecord(
            file=self._file,
            run=self._run,
            width=sum(self._sizes),
            # one chunk more than is needed, so that the oldest one is complete
            ring=self.capacity + self.margin + CHUNK,
            added=self._flushed,
            first=first,
            digests=digests,
        )

    def flush(self, folder: Path) -> None:
        """Write the transitions added since the last flush and wait until they are on disk."""
        if self.added - self._flushed > self.margin:
            raise RuntimeError(
                f"replay file in {folder}: expected a flush at least every {self.margin}"
                f" transitions, got one after {self.added - self._flushed}"
            )
        self._write(folder, self._flushed)

    def _write(self, folder: Path, first: int) -> None:
        record, written = self.record(), []
        begins = 0 if self._flushed else os.O_TRUNC  # removes the data of an earlier attempt
        descriptor = os.open(folder / self._file, os.O_RDWR | os.O_CREAT | begins, 0o644)
        with os.fdopen(descriptor, "r+b") as file:
            file.write(record.header())
            for start, stop in pieces(first, self.added, record.ring):
                rows = self._rows[self._slots(start, stop)].cpu().numpy().astype("<f4", copy=False)
                file.seek(len(record.header()) + start % record.ring * 4 * record.width)
                file.write(rows.data)
                written.append(rows)
            file.flush()
            os.fsync(file.fileno())
        for rows in written:
            self._digests.append(rows)
        self._flushed = self.added

    def load(self, folder: Path, record: ReplayRecord) -> None:
        """Restore the state that a checkpoint describes.

        Rows of version 1 are continued in a new file next to the old one; the next checkpoint
        refers to the new file.

        Raises:
            InputError: the file is missing, short, changed, of another run, or contains NaN.
        """
        if record.version > 1:
            self._run, self._file = record.run, record.file
        own = self.record()
        ring = own.ring if record.version > 1 else own.ring - CHUNK
        needed = max(0, record.added - self.capacity)
        if (record.width, record.ring) != (own.width, ring) or record.first > needed:
            raise InputError(
                f"{folder / record.file}: expected rows of {own.width} numbers in a ring of {ring},"
                f" got {record.width} in {record.ring}: its checkpoint does not fit its settings"
            )
        self._digests = ChunkDigests(record.first)
        for start, rows in record.checked_rows(folder):
            self._digests.append(rows)
            kept = max(start, needed)
            slots = self._slots(kept, start + len(rows))
            self._rows[slots] = torch.from_numpy(rows[kept - start :].copy()).to(self._rows.device)
        self._count(record.added)
        if record.version > 1:
            self._flushed = record.added
            return
        self._file = f"{Path(record.file).stem}-2.bin"
        self._digests = ChunkDigests(needed)
        self._write(folder, needed)
