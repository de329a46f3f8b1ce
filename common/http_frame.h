/* Where a request of HTTP/1 begins and ends, read strictly (RFC 9112) from the bytes as they come,
 * before evhttp reads them. evhttp is generous: it takes bare LF and NUL, chunk sizes like "+5" or
 * "0x5", chunks without their CR LF, reads no body of HEAD whatever the headers say, and keeps a
 * chunk's first line however long it grows. Where a proxy in front reads such a request in another
 * way, one client's bytes begin another one's request. What is generous is refused here; what is
 * left, both must read alike (httpd.c compares).
 *
 * Pure: no socket, no memory but the struct. */
#ifndef NRW_HTTP_FRAME_H
#define NRW_HTTP_FRAME_H

#include <stdbool.h>
#include <stddef.h>

enum frame_fault {
    FRAME_GOOD,
#define FRAME_FAULT(name, status, text) FRAME_##name,
#include "http_frame.def"
#undef FRAME_FAULT
};

struct frame_limits {
    size_t target_max;  /* characters of the address                  */
    size_t headers_max; /* bytes of all header lines                  */
    unsigned headers_n; /* header lines                               */
    size_t body_max;    /* bytes, without the sizes of chunks         */
};

#define FRAME_METHOD_MAX 16
#define FRAME_NAME_MAX   17  /* Transfer-Encoding: longer names are of no interest here */
#define FRAME_VALUE_MAX  264 /* a host name and a port                                   */

struct frame {
    enum frame_fault fault;
    bool done; /* the request is complete */

    /* The rest is http_frame.c's. */
    int step;
    unsigned n; /* characters of what is being read: method, target, version, name, value, size */
    int percent;
    bool is_1_1;
    char method[FRAME_METHOD_MAX + 1];
    int header; /* which one that matters */
    char name[FRAME_NAME_MAX + 1];
    char value[FRAME_VALUE_MAX + 1];
    unsigned headers, hosts, lengths, encodings, odd_expectations;
    size_t headers_bytes;
    size_t body; /* announced so far */
    size_t left; /* of the body or of this chunk */
};

void frame_begin(struct frame *f);
/* Reads on. Returns how many of the bytes belong to this request: all of them unless it is complete
 * (done; the rest is another one's) or refused (fault). Not after either. */
size_t frame_feed(struct frame *f, const struct frame_limits *limits, const char *data, size_t len);

int frame_status(enum frame_fault fault); /* of HTTP */
const char *frame_text(enum frame_fault fault);

#endif
