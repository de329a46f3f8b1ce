/* POST …/test: one sample event to one endpoint, now, and what came of it as the answer.
 *
 * The sample is an event like any other: a row of `events` (without a place in Kafka: replays pass
 * it over), a pending row with reason `test` and one attempt, sent by a worker, kept in the
 * delivery log. So the answer tells what the real path does; the call waits for the attempt's row.
 *
 * A webhook has one test at a time (409). Without an attempt by NRW_TEST_TIMEOUT both rows are
 * taken back and the answer is 504, unless a worker has the test in hand at that moment: then the
 * call waits as long again, and 504 says that the attempt will be in the log. A test that no call
 * waits for any more (the API was killed) is sent late rather than lost. */
#ifndef NRW_TEST_SEND_H
#define NRW_TEST_SEND_H

struct call;

void test_send(struct call *c);

#endif
