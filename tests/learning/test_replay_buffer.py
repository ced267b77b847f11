"""The ring in memory and on disk against a plain list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dime_robot.learning import replay_buffer, replay_file
from dime_robot.learning.replay_buffer import ReplayBuffer
from dime_robot.runtime.io.errors import InputError

CAPACITY, MARGIN = 50, 20


def make_buffer() -> ReplayBuffer:
    return ReplayBuffer(CAPACITY, 3, 2, torch.device("cpu"), margin=MARGIN, file="replay.bin")


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


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small ring has several, and wraps within one."""
    monkeypatch.setattr(replay_file, "CHUNK", 16)
    monkeypatch.setattr(replay_buffer, "CHUNK", 16)


def flushed(saved: int, folder: Path) -> ReplayBuffer:
    buffer = make_buffer()
    for _ in range(0, saved, MARGIN):
        add(buffer, min(MARGIN, saved - buffer.added))
        buffer.flush(folder)
    if saved == 0:
        buffer.flush(folder)
    return buffer


@pytest.mark.parametrize("saved", [0, 7, 16, 50, 69, 70, 71, 86, 87, 123, 200, 401])
@pytest.mark.parametrize("lost", [0, 20])
def test_restored_exactly_though_later_rows_reached_the_disk(
    saved: int, lost: int, tmp_path: Path
) -> None:
    """A kill after the replay rows were flushed and before the checkpoint was renamed."""
    buffer = flushed(saved, tmp_path)
    at_save, record = buffer._rows.clone(), buffer.record()
    add(buffer, lost)
    buffer.flush(tmp_path)
    restored = make_buffer()
    restored.load(tmp_path, record)
    assert restored.added == saved
    kept = len(restored)
    assert torch.equal(restored._rows[:kept], at_save[:kept])
    assert restored.record() == record
    for one in (buffer, restored):  # and both go on alike
        add(one, 5)
    restored.flush(tmp_path)
    again = make_buffer()
    again.load(tmp_path, restored.record())
    assert torch.equal(again.newest(5).reward, restored.newest(5).reward)


@pytest.mark.parametrize("saved", [1, 16, 49, 50])
def test_no_changed_byte_of_the_file_is_accepted(saved: int, tmp_path: Path) -> None:
    record = flushed(saved, tmp_path).record()
    path = tmp_path / record.file
    content = path.read_bytes()
    rng = np.random.default_rng(saved)
    for place in rng.integers(len(content), size=300).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"replay\.bin"):
            make_buffer().load(tmp_path, record)


@pytest.mark.parametrize("saved", [200, 333])
def test_a_changed_byte_of_a_wrapped_ring_is_refused_or_harmless(
    saved: int, tmp_path: Path
) -> None:
    buffer = flushed(saved, tmp_path)
    record, expected = buffer.record(), buffer._rows
    path = tmp_path / record.file
    content = path.read_bytes()
    rng, refused = np.random.default_rng(saved), 0
    for place in rng.integers(len(content), size=300).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        restored = make_buffer()
        try:
            restored.load(tmp_path, record)
        except InputError:
            refused += 1
        else:
            assert torch.equal(restored._rows, expected)
    assert refused > 100


def test_data_of_another_run_are_named(tmp_path: Path) -> None:
    record = flushed(30, tmp_path).record()
    other = ReplayBuffer(
        CAPACITY, 3, 2, torch.device("cpu"), margin=MARGIN, file="replay.bin", run="ab" * 16
    )
    other.load(tmp_path, record)  # goes on under the name that is in the file
    assert other.record().run == record.run
    with pytest.raises(InputError, match="expected the replay data of run abababab, got those of"):
        make_buffer().load(tmp_path, record.model_copy(update={"run": "ab" * 16}))


def test_nan_is_found_in_the_file_and_not_in_a_loss(tmp_path: Path) -> None:
    buffer = make_buffer()
    add(buffer, 10)
    buffer._rows[4, 1] = torch.nan
    buffer.flush(tmp_path)
    with pytest.raises(InputError, match="holds NaN or infinity"):
        make_buffer().load(tmp_path, buffer.record())


def test_a_flush_that_comes_too_late_is_refused(tmp_path: Path) -> None:
    buffer = make_buffer()
    add(buffer, MARGIN + 1)
    with pytest.raises(RuntimeError, match="at least every 20"):
        buffer.flush(tmp_path)


def test_missing_or_short_file_is_one_sentence(tmp_path: Path) -> None:
    record = flushed(10, tmp_path).record()
    path = tmp_path / record.file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="start it anew with --init"):
        make_buffer().load(tmp_path, record)
    path.unlink()
    with pytest.raises(InputError, match="got no such file"):
        make_buffer().load(tmp_path, record)


def test_a_sample_for_a_proof_holds_intact_rows_only(tmp_path: Path) -> None:
    buffer = flushed(48, tmp_path)
    record, path = buffer.record(), tmp_path / "replay.bin"
    assert len(record.sample(tmp_path, 500)) == 48
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    rows = record.sample(tmp_path, 500)
    assert {int(t) for t in rows[:, 0]} == set(range(32))
    assert len(record.sample(tmp_path / "elsewhere", 500)) == 0
