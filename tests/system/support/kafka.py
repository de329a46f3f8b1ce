"""Topics of a test, what is in them, and how far a consumer group is."""

import dataclasses
import uuid

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from support.wait import await_condition

# A valid event has 256 KiB at most; what is larger must reach the dead-letter topic.
MESSAGE_BYTES_MAX = 2 * 1024 * 1024
TIMEOUT_S = 30


@dataclasses.dataclass
class Message:
    """headers: in their order; a dict view is header()."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list

    def header(self, name: str) -> str | None:
        for key, value in self.headers:
            if key == name:
                return value.decode()
        return None


class Topic:
    """A topic with its dead-letter topic, both of one test only."""

    def __init__(self, stack, partitions: int = 3, name: str | None = None):
        self.stack = stack
        self.partitions = partitions
        self.name = name or "test." + uuid.uuid4().hex[:12]
        self.dlq = self.name + ".dlq"
        self.admin = AdminClient({"bootstrap.servers": stack.brokers, "log_level": 2})
        if stack.kafka_is_real:
            size = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
            wanted = [NewTopic(self.name, partitions, 1, config=size), NewTopic(self.dlq, 1, 1, config=size)]
            for done in self.admin.create_topics(wanted, operation_timeout=TIMEOUT_S).values():
                done.result(TIMEOUT_S)
        # With librdkafka's mock brokers a look makes the topic.
        for name in (self.name, self.dlq):
            await_condition(lambda name=name: self._leaders(name), TIMEOUT_S, f"topic {name} has its leaders")
        self.partitions = len(self.admin.list_topics(self.name, TIMEOUT_S).topics[self.name].partitions)

    def _leaders(self, name: str) -> bool:
        topic = self.admin.list_topics(name, TIMEOUT_S).topics[name]
        return topic.error is None and topic.partitions and all(p.leader >= 0 for p in topic.partitions.values())

    def delete(self) -> None:
        """Asked for and not awaited: the next test need not wait."""
        if self.stack.kafka_is_real:
            self.admin.delete_topics([self.name, self.dlq])

    def _consumer(self, group: str = "test-reader") -> Consumer:
        return Consumer({"bootstrap.servers": self.stack.brokers, "group.id": group, "enable.auto.commit": False,
                         "enable.partition.eof": False, "log_level": 2, "fetch.message.max.bytes": MESSAGE_BYTES_MAX})

    def end_offsets(self) -> dict[int, int]:
        consumer = self._consumer()
        try:
            return {p: consumer.get_watermark_offsets(TopicPartition(self.name, p), TIMEOUT_S)[1] for p in range(self.partitions)}
        finally:
            consumer.close()

    def committed(self, group: str) -> dict[int, int]:
        """Committed offset per partition; 0 where nothing is committed yet."""
        consumer = self._consumer(group)
        try:
            found = consumer.committed([TopicPartition(self.name, p) for p in range(self.partitions)], TIMEOUT_S)
            return {p.partition: max(p.offset, 0) for p in found}
        finally:
            consumer.close()

    def lag(self, group: str) -> int:
        """Messages behind the group's committed offsets."""
        committed = self.committed(group)
        return sum(end - committed[p] for p, end in self.end_offsets().items())

    def await_settled(self, group: str, timeout: float = 30) -> None:
        """Until every message is settled and its offset committed. Right only while nothing is produced."""
        def behind():
            try:
                return [self.lag(group)]
            except KafkaException as error:  # the coordinator may just be moving
                return [error]

        state = []

        def settled():
            state[:] = behind()
            return state == [0]

        await_condition(settled, timeout, lambda: f"group {group} has settled all of {self.name}: {state[0]} behind")

    def read_dlq(self) -> list[Message]:
        return self._read(self.dlq, 1)

    def read(self) -> list[Message]:
        return self._read(self.name, self.partitions)

    def _read(self, name: str, partitions: int) -> list[Message]:
        """Everything that is in the topic now."""
        consumer = self._consumer()
        found = []
        try:
            for partition in range(partitions):
                low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), TIMEOUT_S)
                consumer.assign([TopicPartition(name, partition, low)])
                while low < high:
                    message = consumer.poll(TIMEOUT_S)
                    assert message is not None, f"{name}/{partition}: nothing at offset {low} of {high}"
                    assert message.error() is None, message.error()
                    low = message.offset() + 1
                    found.append(Message(partition, message.offset(), message.timestamp()[1], message.key(), message.value(),
                                         message.headers() or []))
            return found
        finally:
            consumer.close()
