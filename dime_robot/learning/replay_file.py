"""The replay file: its format, its description in a checkpoint, and its checks.

    header       512 bytes: format, version, run, row width and ring, as JSON, padded with spaces
    rows         little-endian float32; transition number t is row t % ring

A checkpoint contains a `ReplayRecord`: the name of the file, the run that it belongs to, and a
SHA-256 for every chunk of 1,024 transitions. A file of version 1 has no header and no digests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dime_robot.runtime.contract.policy_spec import StrictModel
from dime_robot.runtime.io.errors import InputError

CHUNK = 1024  # transitions under one digest
HEADER_BYTES = 512
FORMAT = "dime_robot replay"
START_ANEW = "the run cannot be resumed, start it anew with --init ckpt.pt"

Rows = npt.NDArray[np.float32]


def row_sizes(n_obs: int, n_act: int) -> tuple[int, ...]:
    """Return the sizes of a row's parts, in the order obs, action, next_obs, reward, terminated."""
    return n_obs, n_act, n_obs, 1, 1


class ReplayRecord(StrictModel):
    """The content of a replay file, as its checkpoint records it."""

    version: Literal[1, 2] = 2
    file: str = Field(pattern=r"^[A-Za-z0-9_-]+\.bin$", description="name, beside the checkpoint")
    run: str = Field(pattern=r"^[0-9a-f]{32}$", description="the run that wrote it")
    width: int = Field(gt=0, lt=2**31, description="numbers in a row")
    ring: int = Field(gt=0, lt=2**53, description="rows after which the file is written over")
    added: int = Field(ge=0, lt=2**53, description="transitions ever added")
    first: int = Field(ge=0, lt=2**53, description="number of the first transition with a digest")
    digests: tuple[str, ...] = Field((), description="SHA-256 per chunk, from `first` on")

    def header(self) -> bytes:
        """Return the first bytes of the file."""
        if self.version == 1:
            return b""
        content = {"format": FORMAT, "version": 2, "run": self.run}
        text = json.dumps({**content, "width": self.width, "ring": self.ring})
        return text.encode().ljust(HEADER_BYTES - 1) + b"\n"

    def chunks(self) -> list[tuple[int, int]]:
        """Return the numbers of each chunk's first transition and of the first one after it."""
        starts = [self.first, *range((self.first // CHUNK + 1) * CHUNK, self.added, CHUNK)]
        if self.first >= self.added:
            return []
        return list(zip(starts, [*starts[1:], self.added], strict=True))

    def open(self, folder: Path) -> BinaryIO:
        """Open the file for reading, after a check of its header.

        Raises:
            InputError: missing, not a regular file, of another run, or with a changed header.
        """
        path = folder / self.file
        if not path.is_file():
            raise InputError(
                f"{path}: expected the run's replay data, got no such file; {START_ANEW}"
            )
        file = path.open("rb")
        expected, got = self.header(), file.read(len(self.header()))
        if got == expected:
            return file
        file.close()
        try:
            other = str(json.loads(got)["run"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"{path}: its first bytes are not what this run wrote there (truncated or changed);"
                f" {START_ANEW}"
            ) from None
        what = f"run {other:.8}" if other != self.run else "a run of other sizes"
        raise InputError(
            f"{path}: expected the replay data of run {self.run:.8}, got those of {what}; copy the"
            f" right one here, else {START_ANEW}"
        )

    def rows(self, file: BinaryIO, start: int, stop: int) -> Rows:
        """Read transitions `start` to `stop` of an open file, shape (stop - start, width)."""
        parts = []
        for first, last in pieces(start, stop, self.ring):
            file.seek(len(self.header()) + first % self.ring * 4 * self.width)
            parts.append(file.read((last - first) * 4 * self.width))
        content = b"".join(parts)
        expected = (stop - start) * 4 * self.width
        if len(content) < expected:
            raise InputError(
                f"{file.name}: expected {self.added:,} transitions of replay data, got a file that"
                f" ends before number {stop - 1:,}; {START_ANEW}"
            )
        return np.frombuffer(content, dtype="<f4").reshape(stop - start, self.width)

    def checked_rows(self, folder: Path) -> Iterator[tuple[int, Rows]]:
        """Yield every chunk, with the number of its first transition.

        Raises:
            InputError: as `open`; or a chunk differs from its digest, or has NaN or infinity.
        """
        with self.open(folder) as file:
            for number, (start, stop) in enumerate(self.chunks()):
                rows = self.rows(file, start, stop)
                if self.version > 1 and digest_of(rows) != self.digests[number]:
                    raise InputError(
                        f"{folder / self.file}: transitions {start:,} to {stop - 1:,} were changed"
                        f" since they were written; {START_ANEW}"
                    )
                if not np.isfinite(rows).all():
                    raise InputError(
                        f"{folder / self.file}: a transition from {start:,} to {stop - 1:,} holds"
                        f" NaN or infinity; {START_ANEW}"
                    )
                yield start, rows

    def sample(self, folder: Path, count: int) -> Rows:
        """Read some intact rows for a proof, shape (K, width); K is 0 if there is no such file.

        Chunks that were overwritten since the checkpoint are left out.
        """
        rng = np.random.default_rng(0)
        chunks = self.chunks()
        if not chunks or not (folder / self.file).is_file():
            return np.empty((0, self.width), dtype=np.float32)
        share = -(-count // min(len(chunks), 16))
        found: list[Rows] = []
        with self.open(folder) as file:
            for number in rng.permutation(len(chunks)):
                start, stop = chunks[number]
                rows = self.rows(file, start, stop)
                intact = self.version == 1 or digest_of(rows) == self.digests[number]
                if intact and np.isfinite(rows).all():
                    found.append(rows[rng.permutation(len(rows))[:share]])
                if sum(map(len, found)) >= count:
                    break
        return np.concatenate([np.empty((0, self.width), np.float32), *found])[:count]


def pieces(start: int, stop: int, ring: int) -> Iterator[tuple[int, int]]:
    """Yield transitions `start` to `stop` in parts that do not wrap around the ring."""
    while start < stop:
        end = min(stop, start + ring - start % ring)
        yield start, end
        start = end


def digest_of(rows: Rows) -> str:
    """Return the SHA-256 of rows in their format on disk."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<f4").data).hexdigest()


class ChunkDigests:
    """Digests of chunks, to which transitions are appended in order.

    Args:
        first: number of the first transition.
    """

    def __init__(self, first: int = 0) -> None:
        self._origin = self._next = first
        self._whole: dict[int, str] = {}  # chunk number -> digest
        self._open = hashlib.sha256()  # of the chunk that `_next` belongs to

    def append(self, rows: Rows) -> None:
        """Append the next rows, shape (K, width)."""
        while len(rows):
            room = CHUNK - self._next % CHUNK
            part, rows = rows[:room], rows[room:]
            self._open.update(np.ascontiguousarray(part, dtype="<f4").data)
            self._next += len(part)
            if self._next % CHUNK == 0:
                self._whole[self._next // CHUNK - 1] = self._open.hexdigest()
                self._open = hashlib.sha256()

    def since(self, needed: int) -> tuple[int, tuple[str, ...]]:
        """Return the first transition of the chunk that contains `needed`, and digests from there.

        Digests of earlier chunks are discarded.
        """
        chunk = needed // CHUNK
        self._whole = {k: digest for k, digest in self._whole.items() if k >= chunk}
        digests = [self._whole[k] for k in sorted(self._whole)]
        if self._next % CHUNK and self._next > self._origin:
            digests.append(self._open.hexdigest())
        return max(chunk * CHUNK, self._origin), tuple(digests)
