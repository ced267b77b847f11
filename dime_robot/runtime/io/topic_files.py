"""Recordings of topics: MCAP files, and rosbag2 folders with sqlite3 or MCAP storage.

Only the messages of the topics that are asked for are kept. The storage files of a folder are read
themselves, not its metadata.yaml: they have all topics, also after a recorder was killed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.mcap_files import MAX_FILE, MAX_NAME, RawMessage, is_mcap, mcap_messages
from dime_robot.runtime.io.untrusted_files import open_regular, require_regular

MAX_FILES = 1_000  # storage files of a folder
MAX_MESSAGES = 2_000_000  # of the topics that are asked for
MAX_BYTES = 512 * 2**20  # of the same
MAX_TOPICS = 65_536
MAX_STEPS = 4_000  # times STEP instructions of sqlite3 for one file: about a minute
STEP = 1_000_000
_SQLITE = b"SQLite format 3\0"
_ZSTD = b"\x28\xb5\x2f\xfd"  # the beginning of compressed data
_EXPECTED = "a recording of topics (an MCAP file, a rosbag2 folder)"


class TopicRecording(NamedTuple):
    """The messages of some topics."""

    messages: list[RawMessage]  # in the order of their times
    types: dict[str, str]  # of all topics in the recording


def read_topics(path: Path, topics: Collection[str]) -> TopicRecording:
    """Read the messages of some topics.

    Args:
        path: of an MCAP file, a rosbag2 folder, or a file out of one.
        topics: fully qualified.

    Raises:
        InputError: no such recording, a damaged one, or more messages than are allowed.
    """
    types: dict[str, str] = {}
    messages: list[RawMessage] = []
    size = 0
    for file in _storage_files(path):
        read = mcap_messages if is_mcap(file) else _database_messages
        for message in read(file, topics, types):
            size += len(message.data)
            if len(messages) >= MAX_MESSAGES or size > MAX_BYTES:
                raise InputError(
                    f"{path}: expected up to {MAX_MESSAGES:,} messages and {MAX_BYTES:,} bytes on"
                    f" {', '.join(sorted(topics))}, got more: cut it with `ros2 bag convert`"
                )
            if message.data.startswith(_ZSTD):
                raise InputError(
                    f"{path}: expected messages that are not compressed one by one, got such ones"
                    f" on {message.topic}: `ros2 bag convert` unpacks them"
                )
            messages.append(message)
    messages.sort(key=lambda message: message.time)
    return TopicRecording(messages, types)


def _storage_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        found = sorted(path.iterdir())
    except OSError as error:
        raise InputError(f"{path}: expected {_EXPECTED}, got {error.strerror}") from None
    files = [file for file in found if file.suffix in (".mcap", ".db3")]
    if not files:
        packed = [file.name for file in found if file.suffix in (".zstd", ".zst")]
        advice = f"{packed[0]}: unpack it with `ros2 bag convert`" if packed else "no such file"
        raise InputError(f"{path}: expected a folder with files .mcap or .db3, got {advice}")
    if len(files) > MAX_FILES:
        raise InputError(f"{path}: expected up to {MAX_FILES} storage files, got {len(files)}")
    return files


def _database_messages(
    path: Path, topics: Collection[str], types: dict[str, str]
) -> Iterator[RawMessage]:
    """Yield the messages of some topics in a sqlite3 file of rosbag2; see `mcap_messages`."""
    require_regular(path, _EXPECTED, MAX_FILE)
    with open_regular(path, _EXPECTED, MAX_FILE) as file:
        if file.read(len(_SQLITE)) != _SQLITE:
            raise InputError(f"{path}: expected {_EXPECTED}, it does not begin as one")
    steps = [0]

    def exhausted() -> bool:
        steps[0] += 1
        return steps[0] > MAX_STEPS

    try:
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.set_progress_handler(exhausted, STEP)
            for setting in ("trusted_schema = OFF", "query_only = ON", "cell_size_check = ON"):
                database.execute(f"PRAGMA {setting}")
            _require_plain_tables(database)
            wanted = _wanted(database, topics, types)
            marks = ",".join("?" * len(wanted))
            where = f"FROM messages WHERE topic_id IN ({marks})"
            odd = "typeof(data) != 'blob' OR typeof(timestamp) != 'integer'"
            facts = f"SELECT count(*), total(length(data)), total({odd}) {where}"
            ((count, size, wrong),) = database.execute(facts, list(wanted))
            if count > MAX_MESSAGES or size > MAX_BYTES:
                raise ValueError(f"it has {count:,} messages of {int(size):,} bytes on its topics")
            if wrong:
                raise ValueError("it has messages without a time or data")
            rows = database.execute(f"SELECT timestamp, topic_id, data {where}", list(wanted))
            for time, topic, data in rows:
                yield RawMessage(time, *wanted[topic], data)
    except (sqlite3.Error, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: expected {_EXPECTED}, {reason:.300}") from None


def _require_plain_tables(database: sqlite3.Connection) -> None:
    """Refuse what a recorder does not write and what could compute something when it is read."""
    names = set()
    for kind, name, text in database.execute("SELECT type, name, sql FROM sqlite_master"):
        if kind not in ("table", "index") or "VIRTUAL" in str(text).upper():
            raise ValueError(f"its database has the {kind!r:.20} {name!r:.40}")
        names.add(name)
    if missing := {"topics", "messages"} - names:
        raise ValueError(f"its database lacks the tables {sorted(missing)}")
    for table in ("topics", "messages"):
        if any(column[6] for column in database.execute(f"PRAGMA table_xinfo({table})")):
            raise ValueError(f"the table {table} of its database computes a column")


def _wanted(
    database: sqlite3.Connection, topics: Collection[str], types: dict[str, str]
) -> dict[int, tuple[str, str]]:
    """Return id -> topic and type of those that are wanted."""
    wanted = {}
    found = "SELECT id, name, type, serialization_format FROM topics"
    for row in database.execute(f"{found} LIMIT {MAX_TOPICS}"):
        number, topic, kind, encoding = row
        if not isinstance(number, int) or any(
            not isinstance(text, str) or len(text) > MAX_NAME for text in row[1:]
        ):
            raise ValueError("it has a topic without a name or a type")
        if types.setdefault(topic, kind) != kind:
            raise ValueError(f"its topic {topic} has two types, {types[topic]} and {kind}")
        if topic in topics:
            if encoding != "cdr":
                raise ValueError(f"its topic {topic} is encoded as {encoding!r:.40}, not cdr")
            wanted[number] = (topic, kind)
    return wanted
