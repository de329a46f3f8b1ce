/* The receiver's own judgement of both signatures, written from the product page and the Standard
 * Webhooks text and not from the worker's common/sign.c: a mistake there must not be able to agree
 * with itself here. */
#ifndef NRW_SINK_VERIFY_H
#define NRW_SINK_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sink_base.h"

#define SECRETS_GROUPS_MAX 16384u
#define SECRETS_PER_GROUP  8u
#define SECRETS_SECRET_MAX 256u

struct secret_keys; /* both keys of one secret, the hash states already fed with them */

/* Secrets that hold for every path that starts with the prefix. */
struct secret_group {
    char *prefix;
    size_t prefix_len;
    size_t n;
    struct secret_keys *keys; /* SECRETS_PER_GROUP places */
};

struct secrets {
    struct secret_group **groups;
    size_t n;
    uint64_t generation; /* changes with every change, so that lookups may be remembered */
};

/* replace: earlier secrets of exactly this prefix are forgotten first. False: a maximum is reached,
 * or it is empty. */
bool secrets_add(struct secrets *s, struct slice prefix, struct slice secret, bool replace);
const struct secret_group *secrets_find(const struct secrets *s,
                                        struct slice path); /* NULL: none */
void secrets_done(struct secrets *s);

/* "good", "bad", "absent", or "unchecked" when g is NULL and the header is there. */
const char *verify_netrecon(const struct secret_group *g, struct slice header, struct slice body);
const char *verify_standard(const struct secret_group *g, struct slice header, struct slice id,
                            struct slice timestamp, struct slice body);

#define VERIFY_HEX_SIZE 65
void verify_sha256_hex(struct slice body, char out[VERIFY_HEX_SIZE]);

#endif
