/* The table of scopes and its two spellings. Called by auth.c and jwt.c for each request, and by
 * the command that makes keys. */
#include "scopes.h"

#include <string.h>

#include "check.h"

static const struct {
    enum scope scope;
    const char *name;
} table[] = {
    {SCOPE_WEBHOOKS_READ, "webhooks_read"},
    {SCOPE_WEBHOOKS_WRITE, "webhooks_write"},
};
#define N_SCOPES (sizeof(table) / sizeof(*table))

const char *scope_name(enum scope scope)
{
    const char *name = NULL;
    for (size_t i = 0; i < N_SCOPES; i++) {
        name = table[i].scope == scope ? table[i].name : name;
    }
    CHECK(name != NULL);
    return name;
}

unsigned scope_parse(const char *name, size_t len)
{
    for (size_t i = 0; i < N_SCOPES; i++) {
        if (strlen(table[i].name) == len && memcmp(table[i].name, name, len) == 0) {
            return table[i].scope;
        }
    }
    return 0;
}

bool scopes_parse(const char *list, unsigned *ret_scopes, struct err *err)
{
    unsigned scopes = 0;
    for (const char *name = list;; name++) {
        const size_t len = strcspn(name, ",");
        const unsigned scope = scope_parse(name, len);
        if (scope == 0) {
            return err_set(err, ERR_INVALID,
                           "scope '%.*s' is not one of webhooks_read, webhooks_write",
                           (int)(len < 64 ? len : 64), name);
        }
        scopes |= scope;
        name += len;
        if (*name == '\0') {
            *ret_scopes = scopes;
            return true;
        }
    }
}

void scopes_format(unsigned scopes, char out[SCOPES_SIZE])
{
    char *at = out;
    for (size_t i = 0; i < N_SCOPES; i++) {
        if ((scopes & table[i].scope) != 0) {
            if (at != out) {
                *at++ = ',';
            }
            at = mempcpy(at, table[i].name, strlen(table[i].name));
        }
    }
    *at = '\0';
}
