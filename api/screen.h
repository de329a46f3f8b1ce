/* What no handler should ever see: requests that two HTTP parsers could read differently, and
 * sizes out of bounds (style: the probes of section 5). Runs before routing; what it refuses is
 * answered and the connection closed. */
#ifndef NRW_SCREEN_H
#define NRW_SCREEN_H

#include <event2/http.h>
#include <stdbool.h>

#include "problem.h"

#define SCREEN_URI_MAX     4096
#define SCREEN_HEADERS_MAX 16384 /* names and values together */
#define SCREEN_HEADERS_N   100

struct screen_verdict {
    enum problem problem;
    char detail[160]; /* plain ASCII, quotes nothing of the request */
};

/* False: *ret says why. */
bool screen_request(struct evhttp_request *req, struct screen_verdict *ret);

#endif
