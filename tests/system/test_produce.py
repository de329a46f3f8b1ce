"""The load generator's pace, on which measurements of latency rest."""

import json

from support.produce import produce_many


def test_bursts_keep_the_rate_and_are_never_early(topic, tenant):
    produce_many(topic, tenant.id, 15, rate=10, burst=5)
    at = sorted(json.loads(message.value)["data"]["produced_at_us"] for message in topic.read())
    assert len(at) == 15 and at[5] - at[0] >= 490_000 and at[10] - at[0] >= 990_000
    assert at[4] - at[0] < 390_000, "they came one by one, as without a burst"
