/* Replays: jobs that send a webhook's past events again. Made, shown and cancelled here; a worker
 * finds the row within a second and does the work (worker/replays.c). Its counters are shown as it
 * keeps them: `enqueued` grows while the job runs, `delivered` and `failed` as those deliveries
 * end, also after the job is done. What is neither is waiting, was withdrawn with the webhook or
 * the job, or redelivered.
 *
 * A webhook has one open job at a time, and must be active when it is made (409). Cancelling stops
 * the job and takes back what it queued, but not what a worker has in hand at that moment: an
 * attempt that is under way ends as it ends, and is the last one. Cancelling a job that has ended
 * changes nothing. */
#ifndef NRW_REPLAYS_H
#define NRW_REPLAYS_H

struct call;

void replays_create(struct call *c);
void replays_list(struct call *c);
void replays_get(struct call *c);
void replays_cancel(struct call *c);

#endif
