/* The operator's command `dlq`: what is on the dead-letter topic, and back to the events' topic
 * with it once the cause is gone. Blocks, and is for a shell only: the running worker never calls
 * it. */
#ifndef NRW_DLQ_H
#define NRW_DLQ_H

/* argv[0] is "dlq". Joins no consumer group and commits nothing: what is selected is what is done,
 * as often as it is asked for. A letter goes back with its key, its bytes and its time, so that an
 * event that was delivered before is known by the same delivery ids. Returns the exit code: 0, 1
 * (Kafka failed; what was done is said), 2 (bad use or configuration). */
int dlq_command(int argc, char *const *argv);

#endif
