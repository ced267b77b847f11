"""Checkpoint files: what is refused, and that a failed write loses nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dime_robot import checkpoint
from dime_robot.runtime.errors import InputError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    state = {"actor": {"w": torch.randn(3)}, "step": 7, "config": {"env": "x"}}
    checkpoint.save(path, state)
    got = checkpoint.load(path)
    assert torch.equal(got["actor"]["w"], state["actor"]["w"])  # type: ignore[index]
    assert (got["step"], got["config"]) == (7, {"env": "x"})
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_anywhere_is_one_sentence(share: float, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    checkpoint.save(path, {"actor": torch.randn(10_000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="truncated") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="a folder"):
        checkpoint.load(tmp_path)
    path.write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(path)
    torch.save({"model": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="another torch file"):
        checkpoint.load(path)
    torch.save({"format": checkpoint.FORMAT, "version": 99}, path)
    with pytest.raises(InputError, match="expected checkpoint version 1, got 99"):
        checkpoint.load(path)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned",)


def test_no_code_runs_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "version": 1, "x": Evil()}, "evil.pt")
    with pytest.raises(InputError, match="cannot be read"):
        checkpoint.load(Path("evil.pt"))
    assert not Path("owned").exists()


def test_a_failed_write_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ckpt.pt"
    checkpoint.save(path, {"step": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        checkpoint.save(path, {"step": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"]
