/* Unitree's structures in memory, and the CRC over them.

   The CRC is over all 32-bit words of the structure but the last, which holds it: polynomial
   0x04C11DB7, initial value 0xFFFFFFFF, most significant bit of a word first. Padding is zero.
   Bit by bit, as the definition says it, and slow: it is here to check faster ones. */
#ifndef UNITREE_WIRE_H
#define UNITREE_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "unitree_go.h" /* made by idlc */

typedef unitree_go_msg_dds__LowCmd_ low_cmd;
typedef unitree_go_msg_dds__LowState_ low_state;

_Static_assert(sizeof(low_cmd) == 812, "LowCmd has the size of Unitree's");
_Static_assert(sizeof(low_state) == 1180, "LowState has the size of Unitree's");

static uint32_t unitree_crc(const void *structure, size_t size)
{
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t at = 0; at + 4 < size; at += 4) {
    uint32_t word;
    memcpy(&word, (const char *)structure + at, 4);
    for (int bit = 31; bit >= 0; bit--) {
      uint32_t flip = (crc >> 31) ^ (word >> bit & 1u);
      crc = crc << 1 ^ (flip ? 0x04C11DB7u : 0u);
    }
  }
  return crc;
}

#endif
