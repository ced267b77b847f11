"""The checksum of Unitree's low-level messages.

A CRC-32 of polynomial 0x04C11DB7 over the 32-bit words of the message's C struct, each word from
its highest bit to its lowest, from 0xFFFFFFFF, neither reflected nor inverted at the end
(unitree_sdk2_python, unitree_sdk2py/utils/crc.py). zlib has the reflected CRC-32 of the same
polynomial, so the bits of each byte are reversed before and those of the result after it.
"""

from __future__ import annotations

import zlib

_REVERSED = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))


def crc32(struct: bytes) -> int:
    """Return the checksum of a C struct.

    Args:
        struct: little endian, whole words of 4 bytes, without the word of the checksum itself.

    Raises:
        ValueError: the length is no multiple of 4.
    """
    if len(struct) % 4:
        raise ValueError(f"expected whole words of 4 bytes, got {len(struct)} bytes")
    words = bytearray(len(struct))
    for i in range(4):  # the highest byte of each word first
        words[i::4] = struct[3 - i :: 4]
    reflected = zlib.crc32(words.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")
