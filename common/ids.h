/* UUIDs: parse, format, make. RFC 9562. */
#ifndef NRW_IDS_H
#define NRW_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uuid {
    uint8_t b[16];
};

#define UUID_TEXT 36

/* Exactly 8-4-4-4-12 hex digits, either case; text need not be NUL-terminated. */
bool uuid_parse(const char *text, size_t len, struct uuid *ret);
void uuid_format(const struct uuid *id, char out[UUID_TEXT + 1]); /* lower case, NUL-terminated */
bool uuid_equal(const struct uuid *a, const struct uuid *b);
uint64_t
uuid_hash(const struct uuid *id); /* keyed per process: an outsider cannot pick collisions */
struct uuid uuid_v4(void);        /* from RAND_bytes; CHECKs that it worked                */
struct uuid uuid_v5(const struct uuid *ns, const char *name, size_t name_len);

/* A delivery is the pair (event, webhook): UUIDv5(namespace = event id, name = the webhook id's 36
 * lower-case characters). The same event consumed again is therefore the same delivery (P4). */
struct uuid uuid_of_delivery(const struct uuid *event_id, const struct uuid *webhook_id);

#endif
