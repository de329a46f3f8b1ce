/* What a program asks of the kernel before it opens anything. */
#ifndef NRW_PROCESS_H
#define NRW_PROCESS_H

#include <stdint.h>

/* As many file descriptors as the hard limit gives, with a warning when that is fewer than wanted.
 * No core dumps, to a file or a pipe, because opened secrets must not end up in one. A peer that
 * goes away is an error of a write and not a signal. */
void process_prepare(int64_t descriptors_wanted);

#endif
