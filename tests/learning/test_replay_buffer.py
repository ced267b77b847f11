"""The ring in memory and on disk against a plain list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dime_robot.learning.replay_buffer import ReplayBuffer
from dime_robot.runtime.errors import InputError

CAPACITY, MARGIN = 50, 20


def make_buffer() -> ReplayBuffer:
    return ReplayBuffer(CAPACITY, 3, 2, torch.device("cpu"), margin=MARGIN)


def add(buffer: ReplayBuffer, count: int) -> None:
    """Transition number t holds multiples of t, so every column tells its number."""
    for _ in range(count):
        t = buffer.added
        buffer.add(np.full(3, t), np.full(2, -t), np.full(3, t + 0.5), 10.0 * t, t % 7 == 0)


def rows(buffer: ReplayBuffer) -> set[float]:
    return set(buffer.newest(len(buffer)).reward.tolist())


def test_samples_keep_their_columns_together() -> None:
    buffer = make_buffer()
    add(buffer, 30)
    batch = buffer.sample(500, torch.Generator().manual_seed(0))
    t = batch.obs[:, 0]
    assert set(t.tolist()) == set(map(float, range(30)))
    assert torch.equal(batch.obs, t[:, None].expand(-1, 3))
    assert torch.equal(batch.action, -t[:, None].expand(-1, 2))
    assert torch.equal(batch.next_obs, batch.obs + 0.5)
    assert torch.equal(batch.reward, 10 * t)
    assert torch.equal(batch.terminated, (t % 7 == 0).float())


def test_the_oldest_are_replaced() -> None:
    buffer = make_buffer()
    add(buffer, 120)
    assert len(buffer) == CAPACITY
    assert rows(buffer) == {10.0 * t for t in range(70, 120)}
    assert buffer.newest(3).reward.tolist() == [1170, 1180, 1190]


@pytest.mark.parametrize("saved", [0, 7, 50, 69, 70, 71, 123, 200])
@pytest.mark.parametrize("lost", [0, 20])
def test_restored_exactly_though_later_rows_reached_the_disk(
    saved: int, lost: int, tmp_path: Path
) -> None:
    """A kill after the replay rows were flushed and before the checkpoint was renamed."""
    path = tmp_path / "replay.bin"
    buffer = make_buffer()
    for _ in range(0, saved, MARGIN):
        add(buffer, min(MARGIN, saved - buffer.added))
        buffer.flush(path)
    at_save = buffer._rows.clone()
    add(buffer, lost)
    buffer.flush(path)
    restored = make_buffer()
    restored.load(path, saved)
    assert restored.added == saved
    kept = len(restored)
    assert torch.equal(restored._rows[:kept], at_save[:kept])


def test_a_flush_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    buffer = make_buffer()
    add(buffer, MARGIN + 1)
    with pytest.raises(RuntimeError, match="at least every 20"):
        buffer.flush(tmp_path / "replay.bin")


def test_missing_or_short_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "replay.bin"
    with pytest.raises(InputError, match="got 0"):
        make_buffer().load(path, 10)
    buffer = make_buffer()
    add(buffer, 10)
    buffer.flush(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="start it anew with --init"):
        make_buffer().load(path, 10)
