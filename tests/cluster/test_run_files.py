"""Copies of a run's files between machines: in pieces, only what differs, as a whole or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dime_robot.cluster.run_files import PIECE, RunFiles, copy
from dime_robot.runtime.io.errors import InputError

COPIED = ("ckpt.pt", "events.out.tfevents.1", "replay.bin")


class Counted(RunFiles):
    """A source that records the pieces that were read."""

    def __init__(self, folder: Path, live: bool = False) -> None:
        super().__init__(folder, live)
        self.pieces: list[tuple[str, int]] = []

    def read(self, name: str, piece: int) -> bytes:
        self.pieces.append((name, piece))
        content = super().read(name, piece)
        assert len(content) <= PIECE
        return content


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "there/run"
    folder.mkdir(parents=True)
    (folder / "ckpt.pt").write_bytes(os.urandom(1000))
    (folder / "replay.bin").write_bytes(os.urandom(3 * PIECE + 7))
    (folder / "events.out.tfevents.1").write_bytes(b"")
    for name in (".lock", "ckpt.pt.tmp"):  # not to be copied
        (folder / name).touch()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("live", [False, True])
def test_a_copy_has_the_same_files_and_only_changes_travel(
    live: bool, run: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    source, target = Counted(run, live), RunFiles(here)
    copy(source, target)
    wanted = {name: text for name, text in content(run).items() if name in COPIED}
    assert content(here) == wanted
    assert len(source.pieces) == 5

    source.pieces.clear()
    copy(source, target)
    assert source.pieces == []

    with (run / "replay.bin").open("r+b") as file:  # in place, as a run does it
        file.seek(2 * PIECE + 5)
        file.write(b"new")
    (run / "events.out.tfevents.1").write_bytes(b"grown")
    copy(source, target)
    assert sorted(source.pieces) == [("events.out.tfevents.1", 0), ("replay.bin", 2)]
    assert content(here)["replay.bin"] == (run / "replay.bin").read_bytes()

    os.truncate(run / "replay.bin", PIECE + 3)  # its first piece stays as it is
    copy(source, target)
    assert content(here)["replay.bin"] == (run / "replay.bin").read_bytes()
    source.clear()
    left = {path.name for path in (*run.parent.iterdir(), *tmp_path.iterdir())}
    assert left == {"run", "there", "here"}


def test_a_copy_that_breaks_off_changes_nothing(run: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    copy(RunFiles(run), target := RunFiles(here))
    before = content(here)
    for name in ("ckpt.pt", "replay.bin"):
        (run / name).write_bytes(os.urandom(2 * PIECE))

    class Lost(RunFiles):
        def read(self, name: str, piece: int) -> bytes:
            if (name, piece) == ("replay.bin", 1):
                raise ConnectionError
            return super().read(name, piece)

    with pytest.raises(ConnectionError):
        copy(Lost(run), target)
    assert content(here) == before
    copy(RunFiles(run), target)
    assert content(here)["replay.bin"] == (run / "replay.bin").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"there", "here"}


def test_a_changed_piece_and_a_strange_name_are_refused(run: Path, tmp_path: Path) -> None:
    target = RunFiles(tmp_path / "here")
    source = RunFiles(run)
    listing = source.listing()
    (name, piece), *_ = target.missing(listing)
    with pytest.raises(InputError, match=f"{name}: piece 0 of a run's file arrived changed"):
        target.write(name, piece, b"something else")
    for strange in ("../x", "a/b", ".lock", "", ".."):
        with pytest.raises(InputError, match="expected the name of a file of a run"):
            target.missing({strange: listing["ckpt.pt"]})
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("saves", [1, 100])
def test_a_snapshot_never_mixes_two_checkpoints(
    saves: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run saves while its files are copied: replay data first, then the checkpoint."""
    left = [saves]

    def copy_and_save(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        if Path(source).name == "replay.bin" and left[0]:
            left[0] -= 1
            text = f"save {left[0]}".encode()
            (run / "replay.bin").write_bytes(text)
            (run / "ckpt.pt.tmp").write_bytes(text)
            (run / "ckpt.pt.tmp").replace(run / "ckpt.pt")

    monkeypatch.setattr("shutil.copyfile", copy_and_save)
    here = tmp_path / "here"
    copy(RunFiles(run, live=True), RunFiles(here))
    if saves == 1:
        assert content(here)["ckpt.pt"] == content(here)["replay.bin"] == b"save 0"
    else:  # it saves too fast: nothing is better than a mixture
        assert content(here) == {}
