"""The wireless remote of a Go2 as a joystick: its 40 bytes in LowState, as axes and buttons.

The bytes are two of a head, two of buttons, and five floats of the sticks, as the low-level
examples of unitree_sdk2_python read them (example/wireless_controller/wireless_controller.py).
What the robot sends once its remote is switched off or out of reach is not documented; all bytes
zero counts as silent, and so do bytes that stay equal for `frozen_after` while a button is held or
a stick is deflected.
"""

from __future__ import annotations

import math
import struct
from typing import Final

SIZE: Final = 40  # bytes
AXES: Final = ("lx", "ly", "rx", "ry")  # left and up are positive, as from joy_node
BUTTONS: Final = (
    "R1", "L1", "start", "select", "R2", "L2", "F1", "F2",
    "A", "B", "X", "Y", "up", "right", "down", "left",
)  # fmt: skip
_BUTTONS_AT = 2
_AXES_AT = {"lx": (4, -1.0), "rx": (8, -1.0), "ry": (12, 1.0), "ly": (20, 1.0)}  # byte, sign
DEFLECTED = 0.05  # [1]


class Remote:
    """Reads the remote and notices when it is silent.

    Args:
        frozen_after: time of equal bytes [s]; 0: never.
    """

    def __init__(self, frozen_after: float) -> None:
        self._frozen_after = frozen_after
        self._bytes = b""
        self._changed_at = -math.inf

    def read(self, data: bytes, now: float) -> tuple[list[float], list[int]] | None:
        """Return the axes and buttons of a joystick's message; None: the remote is silent.

        Args:
            data: `wireless_remote` of a LowState.
            now: steady time [s].
        """
        if len(data) != SIZE or not any(data):
            self._bytes = b""
            return None
        if data != self._bytes:
            self._bytes, self._changed_at = data, now
        keys = int.from_bytes(data[_BUTTONS_AT : _BUTTONS_AT + 2], "little")
        buttons = [keys >> i & 1 for i in range(len(BUTTONS))]
        axes = [_axis(data, *_AXES_AT[name]) for name in AXES]
        if not all(abs(axis) <= 1.0 + 1e-3 for axis in axes):  # NaN too
            return None
        used = any(buttons) or any(abs(axis) > DEFLECTED for axis in axes)
        if used and 0 < self._frozen_after < now - self._changed_at:
            return None
        return axes, buttons


def _axis(data: bytes, at: int, sign: float) -> float:
    value: float = struct.unpack_from("<f", data, at)[0]
    return sign * value + 0.0  # no negative zero
