/* What no handler ever sees: requests that two HTTP parsers could read differently, and sizes out
 * of bounds. The reading is common/http_frame.c's, before evhttp's; here are this service's limits
 * and what a client is told. */
#ifndef NRW_SCREEN_H
#define NRW_SCREEN_H

#include "http_frame.h"
#include "problem.h"

extern const struct frame_limits screen_limits;

enum problem screen_problem(enum frame_fault fault);
const char *screen_detail(enum frame_fault fault); /* plain ASCII, quotes nothing of the request */

#endif
