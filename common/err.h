/* A failure that a caller has to handle (bugs are CHECKs, endpoint behaviour is an outcome). */
#ifndef NRW_ERR_H
#define NRW_ERR_H

#include <stdbool.h>

#define MUST_CHECK             __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

enum err_code {
    ERR_NONE = 0,
    ERR_INVALID, /* input breaks a rule; the same input will always fail      */
    ERR_LIMIT,   /* input or load is above a configured maximum               */
    ERR_DENIED,  /* a policy forbids it                                       */
    ERR_TIMEOUT, /* no answer in time                                         */
    ERR_IO,      /* file, socket or peer failed                               */
    ERR_CRYPTO,  /* OpenSSL refused, or a sealed blob does not open           */
    ERR_DB,      /* PostgreSQL answered with an error                         */
    ERR_KAFKA,   /* librdkafka answered with an error                         */
    ERR_DNS,     /* a name has no usable answer                               */
};

/* Zero-initialise before use. `retriable`: the same call may work later. `ours`: a fault of this
 * side (resolver, descriptors, PostgreSQL); it is never held against a customer.
 * `text` names the thing and the value, without a newline; the caller that handles it logs it. */
struct err {
    enum err_code code;
    bool retriable;
    bool ours;
    char sqlstate[6]; /* PostgreSQL's five letters, or "" */
    char text[240];
};

/* Fills `err` (may be NULL) and returns false, so that `return err_set(...)` ends a function. */
bool err_set(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Puts "prefix: " in front of the text; returns false. */
bool err_prefix(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

#endif
