/* The product page's table of event types and the matching of subscriptions against it. The order
 * of the table is the order of the bits: masks live in memory only, so it may change between
 * versions. Called by subscriptions (patterns) and intake (types). */
#include "event_types.h"

#include <string.h>

#include "bounds.h"

const struct event_type event_types[EVENT_TYPES_N] = {
    {"alert.created", "New alert generated"},
    {"alert.resolved", "Alert resolved"},
    {"scan.started", "Scan started"},
    {"scan.completed", "Scan finished"},
    {"scan.failed", "Scan error"},
    {"device.discovered", "New device found"},
    {"device.offline", "Device went offline"},
    {"ids.alert", "IDS rule triggered"},
    {"honeypot.hit", "Honeypot interaction"},
    {"rogue.detected", "Rogue DHCP/ARP detected"},
    {"cve.matched", "New CVE matched to a device"},
    {"backup.completed", "Backup finished"},
    {"backup.failed", "Backup error"},
    {"anomaly.detected", "ML anomaly detected"},
};

uint32_t event_type_bit(const char *name, size_t len)
{
    for (size_t i = 0; i < EVENT_TYPES_N; i++) {
        if (strlen(event_types[i].name) == len && memcmp(event_types[i].name, name, len) == 0) {
            return (uint32_t)1 << i;
        }
    }
    return EVENT_MASK_ANY;
}

bool event_pattern_mask(const char *pattern, size_t len, uint32_t *ret_mask)
{
    if (len == 1 && pattern[0] == '*') {
        *ret_mask = EVENT_MASK_ANY | (((uint32_t)1 << EVENT_TYPES_N) - 1);
        return true;
    }
    uint32_t mask = 0;
    if (len > 2 && pattern[len - 2] == '.' && pattern[len - 1] == '*') {
        for (size_t i = 0; i < EVENT_TYPES_N; i++) {
            if (strncmp(event_types[i].name, pattern, len - 1) == 0) {
                mask |= (uint32_t)1 << i;
            }
        }
    } else {
        mask = event_type_bit(pattern, len) & ~EVENT_MASK_ANY;
    }
    if (mask == 0) {
        return false;
    }
    *ret_mask = mask;
    return true;
}

uint32_t event_patterns_mask(const char *patterns, size_t len)
{
    uint32_t mask = 0;
    const char *end = patterns + len;
    while (patterns < end) {
        const char *blank = memchr(patterns, ' ', (size_t)(end - patterns));
        const char *stop = blank != NULL ? blank : end;
        uint32_t one = 0;
        if (event_pattern_mask(patterns, (size_t)(stop - patterns), &one)) {
            mask |= one;
        }
        patterns = stop + 1;
    }
    return mask;
}

bool event_name_valid(const char *name, size_t len)
{
    if (len > LIMIT_EVENT_TYPE) {
        return false;
    }
    size_t dots = 0;
    char before = '.'; /* an empty part shows as a dot after a dot, or after the beginning */
    for (size_t i = 0; i < len; before = name[i++]) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
        if (!letter && (c != '.' || before == '.')) {
            return false;
        }
        dots += c == '.';
    }
    return dots > 0 && before != '.';
}
