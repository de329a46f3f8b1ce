/* A call without a connection, for tests and fuzzers of what reads requests: made of a body and a
 * query as server.c would, and its answer caught. */
#ifndef NRW_CALL_FIXTURE_H
#define NRW_CALL_FIXTURE_H

#include <event2/buffer.h>
#include <event2/http.h>
#include <event2/http_struct.h>
#include <event2/keyvalq_struct.h>
#include <jansson.h>
#include <string.h>
#include <sys/queue.h>

#include "call.h"
#include "check.h"
#include "mem.h"

struct caught {
    unsigned answers;
    int status;
    json_t *body; /* NULL: none */
};

/* Every answer with a body is JSON. */
static inline void catch_answer(void *ctx, const struct call *c, int status, size_t bytes)
{
    struct caught *caught = ctx;
    struct evbuffer *out = evhttp_request_get_output_buffer(c->req);
    CHECK(evbuffer_get_length(out) == bytes);
    caught->answers++;
    caught->status = status;
    if (bytes > 0) {
        json_error_t error;
        caught->body = json_loadb((const char *)evbuffer_pullup(out, -1), bytes,
                                  JSON_REJECT_DUPLICATES, &error);
        CHECK(caught->body != NULL);
    }
}

static inline void caught_done(struct caught *caught)
{
    json_decref(caught->body), caught->body = NULL;
    *caught = (struct caught){0};
}

/* The answer ends it, with the request. query: as it stands behind the '?'. */
static inline struct call *fixture_call(const struct api *api, enum evhttp_cmd_type method,
                                        const char *body, size_t body_len, const char *query,
                                        struct caught *caught)
{
    struct evhttp_request *req = evhttp_request_new(NULL, NULL);
    CHECK(req != NULL);
    req->type = method;
    CHECK(evbuffer_add(evhttp_request_get_input_buffer(req), body, body_len) == 0);
    struct call *c = call_new(api, req);
    c->ended = catch_answer;
    c->ended_ctx = caught;
    c->query = mem_zero(1, sizeof(*c->query));
    TAILQ_INIT(c->query);
    if (*query != '\0' && evhttp_parse_query_str(query, c->query) != 0) {
        call_error_param(c, "", "the query cannot be read");
    }
    return c;
}

#endif
