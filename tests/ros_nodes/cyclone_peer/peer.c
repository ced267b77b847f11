/* A process on the robot's side of the wire, with the DDS that a Go2 is said to run:
   Cyclone DDS 0.10.2, on the loopback interface.

       peer DOMAIN SECONDS [STATE_RATE [COMMAND_RATE]]

   reads rt/lowcmd and checks the CRC of each message; writes rt/lowstate and, as a second writer,
   rt/lowcmd at the given rates [Hz]. Prints "ready", and one line of JSON after SECONDS or SIGTERM:
   what it received, from how many writers, rate [Hz], largest gap between two messages as received
   and as sent [s], the last message as Unitree's structure in hexadecimal, and what it sent. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dds/dds.h"
#include "unitree_wire.h"

#define BATCH 32
#define MAX_WRITERS 16

static const char *CONFIG =
  "<CycloneDDS><Domain><General><Interfaces><NetworkInterface name=\"%s\"/></Interfaces></General>"
  "</Domain></CycloneDDS>";

static volatile sig_atomic_t ended;

static struct {
  unsigned long received, bad_crc;
  double first, last, largest_gap, last_sent, largest_gap_sent; /* [s] */
  dds_instance_handle_t writers[MAX_WRITERS];
  int n_writers;
  low_cmd message;
} seen;

static void on_signal(int number)
{
  (void)number;
  ended = 1;
}

static double now(void)
{
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static dds_entity_t checked(dds_entity_t entity, const char *what)
{
  if (entity < 0) {
    fprintf(stderr, "%s: %s\n", what, dds_strretcode(entity));
    exit(1);
  }
  return entity;
}

static void on_command(const low_cmd *message, const dds_sample_info_t *info)
{
  double received = now(), sent = 1e-9 * info->source_timestamp;
  if (seen.received == 0) {
    seen.first = received;
  } else {
    if (received - seen.last > seen.largest_gap)
      seen.largest_gap = received - seen.last;
    if (sent - seen.last_sent > seen.largest_gap_sent)
      seen.largest_gap_sent = sent - seen.last_sent;
  }
  seen.received++;
  seen.last = received;
  seen.last_sent = sent;
  seen.bad_crc += unitree_crc(message, sizeof *message) != message->crc;
  seen.message = *message;

  int k = 0;
  while (k < seen.n_writers && seen.writers[k] != info->publication_handle)
    k++;
  if (k == seen.n_writers && k < MAX_WRITERS)
    seen.writers[seen.n_writers++] = info->publication_handle;
}

static void take_commands(dds_entity_t reader)
{
  static low_cmd messages[BATCH]; /* padding stays zero: only fields are written */
  void *pointers[BATCH];
  dds_sample_info_t infos[BATCH];
  for (int k = 0; k < BATCH; k++)
    pointers[k] = &messages[k];
  int count;
  while ((count = dds_take(reader, pointers, infos, BATCH, BATCH)) > 0)
    for (int k = 0; k < count; k++)
      if (infos[k].valid_data)
        on_command(&messages[k], &infos[k]);
}

/* Values that differ from field to field, so that exchanged ones are seen. */
static void fill_state(low_state *state, uint32_t tick)
{
  memset(state, 0, sizeof *state);
  state->head[0] = 0xFE;
  state->head[1] = 0xEF;
  state->level_flag = 0xFF;
  state->sn[0] = 11;
  state->sn[1] = 12;
  state->version[0] = 13;
  state->version[1] = 14;
  state->bandwidth = 15;
  state->imu_state.quaternion[0] = 1.0f;
  for (int k = 0; k < 3; k++) {
    state->imu_state.gyroscope[k] = 0.01f * (k + 1);
    state->imu_state.accelerometer[k] = k == 2 ? 9.81f : 0.1f * (k + 1);
    state->imu_state.rpy[k] = 0.001f * (k + 1);
  }
  state->imu_state.temperature = 41;
  for (int k = 0; k < 20; k++) {
    unitree_go_msg_dds__MotorState_ *motor = &state->motor_state[k];
    motor->mode = 1;
    motor->q = 0.1f * k;
    motor->dq = 0.2f * k;
    motor->ddq = 0.3f * k;
    motor->tau_est = 0.4f * k;
    motor->q_raw = 0.5f * k;
    motor->dq_raw = 0.6f * k;
    motor->ddq_raw = 0.7f * k;
    motor->temperature = 30 + k;
    motor->lost = 100 + k;
    motor->reserve[0] = 200 + k;
    motor->reserve[1] = 300 + k;
  }
  state->bms_state.version_high = 1;
  state->bms_state.version_low = 2;
  state->bms_state.status = 3;
  state->bms_state.soc = 87;
  state->bms_state.current = -1500;
  state->bms_state.cycle = 21;
  for (int k = 0; k < 2; k++) {
    state->bms_state.bq_ntc[k] = 22 + k;
    state->bms_state.mcu_ntc[k] = 24 + k;
  }
  for (int k = 0; k < 15; k++)
    state->bms_state.cell_vol[k] = 3700 + k;
  for (int k = 0; k < 4; k++) {
    state->foot_force[k] = 50 + k;
    state->foot_force_est[k] = -60 - k;
    state->fan_frequency[k] = 70 + k;
  }
  state->tick = tick;
  for (int k = 0; k < 40; k++)
    state->wireless_remote[k] = k;
  state->bit_flag = 4;
  state->adc_reel = 0.5f;
  state->temperature_ntc1 = 31;
  state->temperature_ntc2 = 32;
  state->power_v = 28.5f;
  state->power_a = 1.25f;
  state->reserve = 5;
  state->crc = unitree_crc(state, sizeof *state);
}

static void fill_command(low_cmd *command)
{
  memset(command, 0, sizeof *command);
  command->head[0] = 0xFE;
  command->head[1] = 0xEF;
  command->level_flag = 0xFF;
  command->crc = unitree_crc(command, sizeof *command);
}

int main(int argc, char **argv)
{
  if (argc < 3) {
    fprintf(stderr, "peer DOMAIN SECONDS [STATE_RATE [COMMAND_RATE [INTERFACE]]]\n");
    return 2;
  }
  dds_domainid_t number = (dds_domainid_t)atoi(argv[1]);
  double state_rate = argc > 3 ? atof(argv[3]) : 0.0;
  double command_rate = argc > 4 ? atof(argv[4]) : 0.0;
  char config[512];
  snprintf(config, sizeof config, CONFIG, argc > 5 ? argv[5] : "lo");
  signal(SIGTERM, on_signal);
  signal(SIGINT, on_signal);

  checked(dds_create_domain(number, config), "domain");
  dds_entity_t participant = checked(dds_create_participant(number, NULL, NULL), "participant");
  dds_entity_t commands = checked(
    dds_create_topic(participant, &unitree_go_msg_dds__LowCmd__desc, "rt/lowcmd", NULL, NULL),
    "rt/lowcmd");
  dds_entity_t states = checked(
    dds_create_topic(participant, &unitree_go_msg_dds__LowState__desc, "rt/lowstate", NULL, NULL),
    "rt/lowstate");

  dds_qos_t *qos = dds_create_qos();
  dds_qset_reliability(qos, DDS_RELIABILITY_BEST_EFFORT, 0);
  dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, 1000); /* counts all, however late it is scheduled */
  dds_qset_ignorelocal(qos, DDS_IGNORELOCAL_PARTICIPANT);
  dds_entity_t reader = checked(dds_create_reader(participant, commands, qos, NULL), "reader");
  dds_delete_qos(qos);
  dds_entity_t state_writer = 0, command_writer = 0;
  if (state_rate > 0)
    state_writer = checked(dds_create_writer(participant, states, NULL, NULL), "state writer");
  if (command_rate > 0)
    command_writer = checked(dds_create_writer(participant, commands, NULL, NULL), "writer");

  dds_entity_t waitset = checked(dds_create_waitset(participant), "waitset");
  dds_set_status_mask(reader, DDS_DATA_AVAILABLE_STATUS);
  dds_waitset_attach(waitset, reader, reader);
  puts("ready");
  fflush(stdout);

  unsigned long sent_states = 0, sent_commands = 0;
  double start = now(), end = start + atof(argv[2]);
  while (!ended && now() < end) {
    double wait = 0.05; /* [s], within which a signal is noticed */
    if (state_writer) {
      double due = start + sent_states / state_rate;
      if (now() >= due) {
        low_state state;
        fill_state(&state, (uint32_t)(1e3 * (due - start) + 0.5));
        checked(dds_write(state_writer, &state), "write");
        sent_states++;
      }
      due = start + sent_states / state_rate - now();
      wait = due < wait ? due : wait;
    }
    if (command_writer) {
      if (now() >= start + sent_commands / command_rate) {
        low_cmd command;
        fill_command(&command);
        checked(dds_write(command_writer, &command), "write");
        sent_commands++;
      }
      double due = start + sent_commands / command_rate - now();
      wait = due < wait ? due : wait;
    }
    dds_waitset_wait(waitset, NULL, 0, wait > 0 ? (dds_duration_t)(1e9 * wait) : 0);
    take_commands(reader);
  }

  double length = seen.last - seen.first;
  printf("{\"received\": %lu, \"bad_crc\": %lu, \"writers\": %d, \"rate\": %.3f, ", seen.received,
    seen.bad_crc, seen.n_writers, length > 0 ? (seen.received - 1) / length : 0.0);
  printf("\"largest_gap\": %.6f, \"largest_gap_sent\": %.6f, ", seen.largest_gap,
    seen.largest_gap_sent);
  printf("\"sent_states\": %lu, \"sent_commands\": %lu, \"last\": \"", sent_states, sent_commands);
  for (size_t at = 0; seen.received && at < sizeof seen.message; at++)
    printf("%02x", ((const unsigned char *)&seen.message)[at]);
  puts("\"}");
  fflush(stdout);
  dds_delete(participant);
  return 0;
}
