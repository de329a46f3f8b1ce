/* librdkafka configuration: what this service fixes, what it defaults, and what NRW_KAFKA_CONF adds
 * in between. */
#ifndef NRW_KAFKA_CONF_H
#define NRW_KAFKA_CONF_H

#include <librdkafka/rdkafka.h>

#include "config.h"
#include "err.h"

/* Both return a conf that the caller gives to rd_kafka_new or destroys; NULL: err names the
 * property and value. Fixed for the consumer, and refused in the file when set otherwise (R1):
 * enable.auto.offset.store=false, enable.auto.commit=true, auto.offset.reset=earliest,
 * enable.partition.eof=false. Fixed for the producer: acks=all, enable.idempotence=false. */
rd_kafka_conf_t *kafka_conf_consumer(const struct config *cfg, struct err *err) MUST_CHECK;
rd_kafka_conf_t *kafka_conf_producer(const struct config *cfg, struct err *err) MUST_CHECK;

/* Writes one of librdkafka's own log lines into ours. */
void kafka_log_event(rd_kafka_event_t *event, const char *client);

#endif
