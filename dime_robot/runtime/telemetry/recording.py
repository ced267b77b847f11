"""Convert a flight recording: `python -m dime_robot.runtime.recording flight.npz`.

Writes flight.mcap, which Foxglove and PlotJuggler open, and `replay` too. Of such a file it writes
the recording back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.extras import require_extras
from dime_robot.runtime.io.mcap_files import is_mcap
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.io.untrusted_files import read_bytes
from dime_robot.runtime.telemetry.flight_mcap import (
    MAX_RECORDING,
    flight_content,
    write_flight_mcap,
)

MODULES = ("mcap", "mcap_ros2", "rosbags")  # of the extra `recordings`


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m dime_robot.runtime.recording",
        "Convert a flight recording to MCAP for Foxglove and PlotJuggler, or back.",
    )
    text = "a flight recording (.npz) that policy_node wrote, or the .mcap made of one"
    parser.add_argument("recording", type=Path, help=text)
    text = "the file to write; default: beside the recording, ending in .mcap or .npz"
    parser.add_argument("--out", type=Path, help=text)
    options = parser.parse_args(argv)
    require_extras(recordings=MODULES)
    source: Path = options.recording
    back = is_mcap(source)
    target: Path = options.out or source.with_suffix(".npz" if back else ".mcap")
    content = flight_content(source)
    if content is None:
        raise InputError(
            f"{source}: expected an MCAP file made of a flight recording, got one of topics only:"
            " replay reads it as it is"
        )
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: expected another file to write, got the recording: use --out")
    if back:
        read_recording(source, content)
        stands = options.out is None and target.exists()
        if stands and read_bytes(target, "a recording", MAX_RECORDING) != content:
            raise InputError(
                f"{target}: expected no other recording of that name: use --out to write elsewhere"
            )
        write_atomically(target, content)
    else:
        recording = write_flight_mcap(target, content, source)
        print(f"recording  {len(recording.records):,} steps, {recording.meta.get('why')}")
    print(target)
    return 0
