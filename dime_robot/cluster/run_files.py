"""The files of a run folder, copied between machines that share no folder.

A copy goes in pieces of a bounded size, of which only those travel that the other side does not
have, and replaces the old files when it is complete. Whoever copies a folder in which a run trains
copies a snapshot (`snapshot`), whose checkpoint and replay data belong together.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import draft_of
from dime_robot.training.run_folder import RunFolder

PIECE = 1 << 20  # [bytes] in one message
_TRIES = 5  # at a snapshot of a run that saves meanwhile
_MAX_FILES = 1000


class FileDigests(NamedTuple):
    """A file's size in bytes, and a digest per piece."""

    size: int
    pieces: tuple[bytes, ...]


Listing = dict[str, FileDigests]  # name of a file -> its content


class Files(Protocol):
    """One side of a copy."""

    def listing(self) -> Listing:
        """Return what there is to copy."""

    def read(self, name: str, piece: int) -> bytes:
        """Return one piece of a file of the listing."""

    def missing(self, listing: Listing) -> list[tuple[str, int]]:
        """Begin to receive files; return the pieces that are not here yet: name and number."""

    def write(self, name: str, piece: int, content: bytes) -> None:
        """Receive one piece."""

    def commit(self) -> None:
        """Replace the files by those that were received."""


def copy(source: Files, target: Files) -> None:
    """Copy a run's files.

    Raises:
        InputError: a piece arrived changed.
    """
    listing = source.listing()
    for name, piece in target.missing(listing):
        target.write(name, piece, source.read(name, piece))
    target.commit()


class RunFiles:
    """The files of one run folder on this machine.

    Args:
        folder: of the run.
        live: whether a process may train in it while it is copied from here.
    """

    def __init__(self, folder: Path, live: bool = False) -> None:
        self.files, self._live = RunFolder(folder), live
        # beside the folder, whose content decides whether a run can begin there
        self._snapshot = folder.with_name(f"{folder.name}.snapshot")
        self._incoming = folder.with_name(f"{folder.name}.incoming")
        self._expected: Listing = {}

    def listing(self) -> Listing:
        """Return the state of all files; of a live folder, of a snapshot taken now."""
        folder = self._take_snapshot() if self._live else self.files.path
        return {path.name: digests(path) for path in self._to_copy(folder)}

    def _to_copy(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.glob("*")):
            draft = path.suffix == draft_of(path).suffix
            if path.is_file() and path.name != self.files.lock.name and not draft:
                yield path

    def _take_snapshot(self) -> Path:
        """Hold the files of the last checkpoint; the folder stays empty if the run saves too fast.

        The replay data change in place. Those of a checkpoint stay intact until the second save
        after it, so a copy is good if the checkpoint is the same before and after it.
        """
        for _ in range(_TRIES):
            before = saved_at(self.files.checkpoint)
            shutil.rmtree(self._snapshot, ignore_errors=True)
            self._snapshot.mkdir(parents=True)
            try:
                for path in self._to_copy(self.files.path):
                    copy = self._snapshot / path.name
                    if path == self.files.replay or "events" in path.name:  # these grow
                        shutil.copyfile(path, copy)
                    else:  # these are replaced as a whole
                        os.link(path, copy)
            except FileNotFoundError:  # replaced meanwhile
                continue
            if saved_at(self.files.checkpoint) == before:
                return self._snapshot
        shutil.rmtree(self._snapshot, ignore_errors=True)
        return self._snapshot

    def read(self, name: str, piece: int) -> bytes:
        """Return one piece of a file of the listing."""
        folder = self._snapshot if self._live else self.files.path
        with (folder / name).open("rb") as file:
            file.seek(piece * PIECE)
            return file.read(PIECE)

    def missing(self, listing: Listing) -> list[tuple[str, int]]:
        """Begin to receive files; return the pieces that are not here yet: name and number.

        Raises:
            InputError: a name that is none of a file in a folder.
        """
        for name in listing:
            if not name or Path(name).name != name or name.startswith("."):
                raise InputError(f"{name!r:.60}: expected the name of a file of a run")
        if len(listing) > _MAX_FILES:
            raise InputError(f"expected up to {_MAX_FILES} files of a run, got {len(listing)}")
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(parents=True)
        self._expected, wanted = {}, []
        for name, content in listing.items():
            ours = self.files.path / name
            had = digests(ours) if ours.is_file() else FileDigests(0, ())
            if had == content and ours.is_file():
                continue
            self._expected[name] = content
            differ = [
                (name, number)
                for number, digest in enumerate(content.pieces)
                if had.pieces[number : number + 1] != (digest,)
            ]
            draft = self._incoming / name
            if len(differ) < len(content.pieces):  # the rest is taken from what is here
                shutil.copyfile(ours, draft)
            else:
                draft.touch()
            wanted += differ
        return wanted

    def write(self, name: str, piece: int, content: bytes) -> None:
        """Receive one piece.

        Raises:
            InputError: it is not what the listing says.
        """
        if _digest(content) != self._expected[name].pieces[piece]:
            raise InputError(f"{name}: piece {piece} of a run's file arrived changed")
        with (self._incoming / name).open("r+b") as file:
            file.seek(piece * PIECE)
            file.write(content)

    def commit(self) -> None:
        """Replace the files by those that were received, the checkpoint after all others."""
        self.files.path.mkdir(parents=True, exist_ok=True)
        names = sorted(self._expected, key=lambda name: name == self.files.checkpoint.name)
        for name in names:
            with (self._incoming / name).open("r+b") as file:
                file.truncate(self._expected[name].size)
                file.flush()
                os.fsync(file.fileno())
        for name in names:
            (self._incoming / name).replace(self.files.path / name)
        shutil.rmtree(self._incoming)

    def clear(self) -> None:
        """Remove what copies left beside the folder."""
        for folder in (self._snapshot, self._incoming):
            shutil.rmtree(folder, ignore_errors=True)


class RemoteFiles:
    """The files on another machine as one side of a copy.

    Args:
        call: calls a method of the `RunFiles` there.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def listing(self) -> Listing:
        """Return what there is to copy."""
        return {name: FileDigests(*found) for name, found in self._call("listing").items()}

    def read(self, name: str, piece: int) -> bytes:
        """Return one piece of a file of the listing."""
        content: bytes = self._call("read", name, piece)
        return content

    def missing(self, listing: Listing) -> list[tuple[str, int]]:
        """Begin to receive files; return the pieces that are not there yet."""
        wanted: list[tuple[str, int]] = self._call("missing", listing)
        return wanted

    def write(self, name: str, piece: int, content: bytes) -> None:
        """Send one piece."""
        self._call("write", name, piece, content)

    def commit(self) -> None:
        """Replace the files by those that were received."""
        self._call("commit")


def saved_at(checkpoint: Path) -> tuple[int, int]:
    """Return what changes whenever a checkpoint is replaced; (0, 0): there is none."""
    try:
        found = checkpoint.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def digests(path: Path) -> FileDigests:
    """Compute the digests of a file."""
    with path.open("rb") as file:
        pieces = tuple(map(_digest, iter(lambda: file.read(PIECE), b"")))
        return FileDigests(file.tell(), pieces)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
