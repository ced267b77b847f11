/* Print LowCmd structures and their CRCs as JSON, to compare other implementations with:
   all fields zero, all bits of all fields one, and random ones, always the same. */
#include <stdio.h>

#include "unitree_wire.h"

#define RANDOM_VECTORS 14

static uint64_t state = 88172645463325252u;

static uint32_t random_bits(void) /* xorshift64 of Marsaglia, 2003 */
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 32);
}

static uint32_t bits_of(float value)
{
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static uint32_t random_float(void)
{
  switch (random_bits() % 8) {
  case 0:
    return bits_of(2.146e9f); /* PosStopF of Unitree's SDK */
  case 1:
    return bits_of(16000.0f); /* VelStopF of Unitree's SDK */
  default:
    return bits_of((float)((int32_t)random_bits() / 1e8));
  }
}

static uint32_t zero(void)
{
  return 0;
}

static uint32_t ones(void)
{
  return 0xFFFFFFFFu;
}

static void fill(void *field, size_t size, size_t unit, uint32_t (*bits)(void))
{
  for (size_t at = 0; at < size; at += unit) {
    uint32_t value = bits();
    memcpy((char *)field + at, &value, unit); /* little endian: the low bytes */
  }
}

#define FILL(field, unit, bits) fill(&(field), sizeof(field), unit, bits)

static void print(const char *name, uint32_t (*integer)(void), uint32_t (*real)(void), int last)
{
  low_cmd command;
  memset(&command, 0, sizeof command); /* padding too */
  FILL(command.head, 1, integer);
  FILL(command.level_flag, 1, integer);
  FILL(command.frame_reserve, 1, integer);
  FILL(command.sn, 4, integer);
  FILL(command.version, 4, integer);
  FILL(command.bandwidth, 2, integer);
  for (int k = 0; k < 20; k++) {
    FILL(command.motor_cmd[k].mode, 1, integer);
    FILL(command.motor_cmd[k].q, 4, real);
    FILL(command.motor_cmd[k].dq, 4, real);
    FILL(command.motor_cmd[k].tau, 4, real);
    FILL(command.motor_cmd[k].kp, 4, real);
    FILL(command.motor_cmd[k].kd, 4, real);
    FILL(command.motor_cmd[k].reserve, 4, integer);
  }
  FILL(command.bms_cmd.off, 1, integer);
  FILL(command.bms_cmd.reserve, 1, integer);
  FILL(command.wireless_remote, 1, integer);
  FILL(command.led, 1, integer);
  FILL(command.fan, 1, integer);
  FILL(command.gpio, 1, integer);
  FILL(command.reserve, 4, integer);
  command.crc = unitree_crc(&command, sizeof command);

  printf("    {\"name\": \"%s\", \"crc\": %u, \"struct\": \"", name, command.crc);
  for (size_t at = 0; at < sizeof command; at++)
    printf("%02x", ((unsigned char *)&command)[at]);
  printf("\"}%s\n", last ? "" : ",");
}

int main(void)
{
  puts("{");
  puts("  \"command\": \"python -m tests.ros_nodes.cyclone_peer.build crc_vectors\",");
  puts("  \"struct\": \"LowCmd in memory, 812 bytes, little endian; its last four are the crc\",");
  puts("  \"vectors\": [");
  print("zero", zero, zero, 0);
  print("ones", ones, ones, 0);
  for (int k = 0; k < RANDOM_VECTORS; k++) {
    char name[16];
    snprintf(name, sizeof name, "random %d", k);
    print(name, random_bits, random_float, k == RANDOM_VECTORS - 1);
  }
  puts("  ]");
  puts("}");
  return 0;
}
