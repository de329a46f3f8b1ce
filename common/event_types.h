/* The 14 event types of the product page, and masks over them. */
#ifndef NRW_EVENT_TYPES_H
#define NRW_EVENT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EVENT_TYPES_N 14

struct event_type {
    const char *name;
    const char *description;
};
extern const struct event_type event_types[EVENT_TYPES_N];

/* Bit i = event_types[i]; EVENT_MASK_ANY stands for the types nobody knows yet, which only '*'
 * matches (P2). */
#define EVENT_MASK_ANY ((uint32_t)1 << 31)

/* The bit of a type, EVENT_MASK_ANY for an unknown one. name need not be NUL-terminated. */
uint32_t event_type_bit(const char *name, size_t len);

/* One entry of a subscription: a known name, "*" (everything), or "prefix.*" (the known names that
 * start with "prefix."). False: it matches nothing that exists; *ret_mask untouched. */
bool event_pattern_mask(const char *pattern, size_t len, uint32_t *ret_mask);

/* A subscription, its patterns separated by blanks: the types that any of them matches. */
uint32_t event_patterns_mask(const char *patterns, size_t len);

/* Valid event name: [a-z0-9_]+(\.[a-z0-9_]+)+ and at most LIMIT_EVENT_TYPE characters (P2). */
bool event_name_valid(const char *name, size_t len);

#endif
