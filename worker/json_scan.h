/* A quick look at JSON that is as events usually are. It only ever says "this is valid, and here
 * are its members" or "undecided": what is undecided goes to jansson, which alone refuses. A sixth
 * of the worker's time went into jansson (bench). */
#ifndef NRW_JSON_SCAN_H
#define NRW_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

#define JSON_SCAN_MEMBERS 16

enum json_scan_kind {
    JSON_SCAN_STRING, /* without escapes: value is what it means */
    JSON_SCAN_OBJECT,
    JSON_SCAN_OTHER, /* valid, of no interest here; also a string with escapes */
};

/* Pointers into the text; value of a string: without its quotes; of others: NULL. */
struct json_member {
    const char *name;
    size_t name_len;
    enum json_scan_kind kind;
    const char *value;
    size_t value_len;
};

/* True: text is one JSON object in strict UTF-8, no member twice at any depth, every number fits a
 * double - all that jansson with REJECT_DUPLICATES, DECODE_INT_AS_REAL and ALLOW_NUL accepts as
 * well - and members[0..*ret_n) are the outermost ones. False: undecided; both are undefined. */
bool json_scan(const char *text, size_t len, struct json_member members[JSON_SCAN_MEMBERS],
               size_t *ret_n);

#endif
