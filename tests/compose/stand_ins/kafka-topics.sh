#!/bin/bash
# As Kafka's own script of this name.
# shellcheck disable=SC2086 # several arguments
exec java -XX:+UseSerialGC -XX:-UsePerfData -XX:TieredStopAtLevel=1 ${KAFKA_HEAP_OPTS:-} -cp '/opt/kafka/libs/*' \
    org.apache.kafka.tools.TopicCommand "$@"
