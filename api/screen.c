/* Owns the limits of what is read at all, and their words. server.c hands both to httpd. */
#include "screen.h"

#include "bounds.h"
#include "check.h"

const struct frame_limits screen_limits = {.target_max = LIMIT_REQUEST_TARGET,
                                           .headers_max = LIMIT_REQUEST_HEADERS,
                                           .headers_n = LIMIT_REQUEST_HEADERS_N,
                                           .body_max = LIMIT_REQUEST_BODY};

enum problem screen_problem(enum frame_fault fault)
{
    switch (frame_status(fault)) {
    case 400:
        return PROBLEM_BAD_REQUEST;
    case 413:
        return PROBLEM_CONTENT_TOO_LARGE;
    case 414:
        return PROBLEM_URI_TOO_LONG;
    case 431:
        return PROBLEM_HEADERS_TOO_LARGE;
    default:
        CHECK(false);
        return PROBLEM_INTERNAL;
    }
}

const char *screen_detail(enum frame_fault fault)
{
    switch (frame_status(fault)) {
    case 413:
        return "a body has at most 64 KiB";
    case 414:
        return "at most 4096 characters of path and query are read";
    case 431:
        return "at most 100 headers of 16 KiB together are read";
    default:
        return frame_text(fault);
    }
}
