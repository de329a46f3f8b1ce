/* `keys create | list | revoke`, blocking. Reads and writes api_keys,
 * reads tenants; knows no other table. Called by api_commands.c. */
#include "keys.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api_key.h"
#include "clock.h"
#include "ids.h"
#include "scopes.h"
#include "shell_pg.h"
#include "utf8.h"

#define NAME_MAX_BYTES 200
#define DAYS_MAX       36500
#define US_PER_HOUR    INT64_C(3600000000)
#define UTC(column)    "to_char(" column " at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"

static const char usage[] =
    "Usage: netrecon-webhooks-api keys create --tenant UUID --name TEXT [--scopes LIST] "
    "[--expires WHEN]\n"
    "       netrecon-webhooks-api keys list --tenant UUID\n"
    "       netrecon-webhooks-api keys revoke KEY_ID\n"
    "  --scopes    webhooks_read, webhooks_write, or both with a comma between (default: both)\n"
    "  --expires   a time (2027-01-31T00:00:00Z), or how long from now in days or hours (90d, "
    "12h);\n"
    "              default: never\n"
    "create prints the key on stdout. It is shown only this once: the database has its hash.\n";

struct options {
    struct uuid id; /* of the tenant, or of the key to revoke */
    const char *name;
    unsigned scopes;
    int64_t expires_at; /* us; 0: never */
};

static int bad_use(const char *what, const char *value, const char *why)
{
    (void)fprintf(stderr, "keys: %s '%s' %s\n%s", what, value, why, usage);
    return 2;
}

/* ------------------------------------------------------------ the command line */

/* "90d" or "12h" from now, or RFC 3339. */
static bool parse_expires(const char *text, int64_t now_us, int64_t *ret_us)
{
    const size_t digits = strspn(text, "0123456789");
    if (digits >= 1 && digits <= 6 && (text[digits] == 'd' || text[digits] == 'h') &&
        text[digits + 1] == '\0') {
        const int64_t hours = strtol(text, NULL, 10) * (text[digits] == 'd' ? 24 : 1);
        *ret_us = now_us + hours * US_PER_HOUR;
        return hours >= 1 && hours <= INT64_C(24) * DAYS_MAX;
    }
    return clock_parse_rfc3339(text, strlen(text), ret_us) && *ret_us > now_us;
}

/* One line of text. */
static bool is_name(const char *text)
{
    const size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        bool valid = (unsigned char)text[i] >= 0x20 && text[i] != 0x7f;
        i += (unsigned char)text[i] < 0x80 ? 1 : utf8_sequence(text + i, len - i, &valid);
        if (!valid) {
            return false;
        }
    }
    return len >= 1 && len <= NAME_MAX_BYTES;
}

static int parse_option(const char *option, const char *value, struct options *o)
{
    struct err err = {0};
    if (strcmp(option, "--tenant") == 0) {
        return uuid_parse(value, strlen(value), &o->id) ? 0
                                                        : bad_use(option, value, "is not a UUID");
    }
    if (strcmp(option, "--name") == 0) {
        o->name = value;
        return is_name(value) ? 0
                              : bad_use(option, value, "is not one line of 1 to 200 bytes UTF-8");
    }
    if (strcmp(option, "--scopes") == 0) {
        return scopes_parse(value, &o->scopes, &err) ? 0 : bad_use(option, value, err.text);
    }
    if (strcmp(option, "--expires") == 0) {
        return parse_expires(value, clock_wall_us(), &o->expires_at)
                   ? 0
                   : bad_use(option, value,
                             "is no time to come, nor 1h to 36500d (times are RFC 3339)");
    }
    return bad_use("option", option, "is unknown");
}

/* ------------------------------------------------------------------ printing */

/* A text of the database on a terminal: what would control it becomes '?'. Returns the columns. */
static size_t print_clean(const char *text)
{
    size_t columns = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        const bool c1 = *c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0; /* U+0080 … U+009F */
        c += c1;
        (void)putchar(*c < 0x20 || *c == 0x7f || c1 ? '?' : *c);
        columns += *c < 0x80 || *c >= 0xc0 || c1;
    }
    return columns;
}

/* -------------------------------------------------------------- the commands */

static int say_created(const PGresult *res, const struct options *o, const char *key)
{
    char scopes[SCOPES_SIZE];
    scopes_format(o->scopes, scopes);
    const bool shown = puts(key) >= 0 && fflush(stdout) == 0;
    (void)fprintf(stderr, "API key %s '%s': %s, expires %s. It is not shown again.\n",
                  PQgetvalue(res, 0, 0), o->name, scopes,
                  PQgetisnull(res, 0, 1) ? "never" : PQgetvalue(res, 0, 1));
    if (!shown) {
        (void)fprintf(stderr, "keys: it could not be shown: revoke it\n");
    }
    return shown ? 0 : 1;
}

static int create_key(PGconn *conn, const struct config *cfg, void *ctx)
{
    const struct options *o = ctx;
    (void)cfg;
    static const char sql[] =
        "insert into api_keys (tenant_id, name, key_sha256, scopes, expires_at)"
        " select id, $2, $3, string_to_array($4, ','), $5::timestamptz from tenants where id = $1"
        " returning id, " UTC("expires_at");
    char key[API_KEY_TEXT + 1];
    unsigned char hash[API_KEY_SHA256] = {0};
    char tenant[UUID_TEXT + 1];
    char scopes[SCOPES_SIZE];
    char expires[CLOCK_RFC3339_SIZE];
    uuid_format(&o->id, tenant);
    scopes_format(o->scopes, scopes);
    clock_format_rfc3339(o->expires_at, expires);
    api_key_make(key);
    (void)api_key_hash(key, API_KEY_TEXT, hash); /* it is well formed */
    const char *values[] = {tenant, o->name, (const char *)hash, scopes,
                            o->expires_at == 0 ? NULL : expires};
    static const int lengths[] = {0, 0, sizeof(hash), 0, 0};
    static const int formats[] = {0, 0, 1, 0, 0};
    PGresult *res = shell_pg_query(conn, sql, 5, values, lengths, formats, false);
    int code = 1;
    if (res != NULL && PQntuples(res) == 1) {
        code = say_created(res, o, key);
    } else if (res != NULL) {
        (void)fprintf(stderr, "keys: no tenant has the id %s\n", tenant);
    }
    PQclear(res);
    OPENSSL_cleanse(key, sizeof(key));
    return code;
}

static size_t width_of(const PGresult *res, int column)
{
    size_t width = strlen(PQfname(res, column));
    for (int row = 0; row < PQntuples(res); row++) {
        const size_t len = strlen(PQgetvalue(res, row, column));
        width = len > width ? len : width;
    }
    return width;
}

/* The last column is not padded: it is free text. */
static void print_table(const PGresult *res)
{
    const int last = PQnfields(res) - 1;
    for (int row = -1; row < PQntuples(res); row++) {
        for (int column = 0; column <= last; column++) {
            const char *text = row == -1 ? PQfname(res, column) : PQgetvalue(res, row, column);
            const size_t printed = print_clean(*text == '\0' ? "-" : text);
            if (column < last) {
                (void)printf("%*s", (int)(width_of(res, column) - printed) + 2, "");
            }
        }
        (void)putchar('\n');
    }
}

static int list_keys(PGconn *conn, const struct config *cfg, void *ctx)
{
    const struct options *o = ctx;
    (void)cfg;
    /* a tenant without keys is one row of nulls */
    /* clang-format off */
    static const char sql[] =
        "select k.id, array_to_string(k.scopes, ',') as scopes, " UTC("k.created_at") " as created,"
        " " UTC("k.expires_at") " as expires, " UTC("k.revoked_at") " as revoked,"
        " " UTC("k.last_used_at") " as last_used, k.name"
        " from tenants t left join api_keys k on k.tenant_id = t.id where t.id = $1 order by k.created_at, k.id";
    /* clang-format on */
    char tenant[UUID_TEXT + 1];
    uuid_format(&o->id, tenant);
    const char *values[] = {tenant};
    PGresult *res = shell_pg_query(conn, sql, 1, values, NULL, NULL, false);
    int code = 1;
    if (res != NULL && PQntuples(res) == 0) {
        (void)fprintf(stderr, "keys: no tenant has the id %s\n", tenant);
    } else if (res != NULL) {
        if (PQgetisnull(res, 0, 0)) {
            (void)fprintf(stderr, "keys: the tenant %s has none\n", tenant);
        } else {
            print_table(res);
        }
        code = 0;
    }
    PQclear(res);
    return code;
}

static int revoke_key(PGconn *conn, const struct config *cfg, void *ctx)
{
    const struct options *o = ctx;
    (void)cfg;
    /* once is enough: the first time stays */
    static const char sql[] = "update api_keys set revoked_at = coalesce(revoked_at, now())"
                              " where id = $1 returning name, " UTC("revoked_at");
    char id[UUID_TEXT + 1];
    uuid_format(&o->id, id);
    const char *values[] = {id};
    PGresult *res = shell_pg_query(conn, sql, 1, values, NULL, NULL, false);
    int code = 1;
    if (res != NULL && PQntuples(res) == 0) {
        (void)fprintf(stderr, "keys: no API key has the id %s\n", id);
    } else if (res != NULL) {
        (void)printf("API key %s '", id);
        (void)print_clean(PQgetvalue(res, 0, 0));
        (void)printf("': revoked %s\n", PQgetvalue(res, 0, 1));
        code = 0;
    }
    PQclear(res);
    return code;
}

int keys_command(int argc, char *const *argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    struct options o = {.name = NULL, .scopes = SCOPES_ALL};
    if (strcmp(name, "revoke") == 0 && argc == 3) {
        if (uuid_parse(argv[2], strlen(argv[2]), &o.id)) {
            return shell_pg_run("keys", revoke_key, &o);
        }
        (void)fprintf(stderr,
                      "keys: revoke takes the id that list shows, a UUID (what was given is "
                      "not shown: it may be a key)\n");
        return 2;
    }
    const bool create = strcmp(name, "create") == 0;
    bool have_tenant = false;
    for (int i = 2; i + 1 < argc; i += 2) {
        const int code = parse_option(argv[i], argv[i + 1], &o);
        if (code != 0) {
            return code;
        }
        have_tenant = have_tenant || strcmp(argv[i], "--tenant") == 0;
    }
    const bool whole = have_tenant && argc % 2 == 0;
    if (create && whole && o.name != NULL) {
        return shell_pg_run("keys", create_key, &o);
    }
    if (strcmp(name, "list") == 0 && whole && argc == 4) {
        return shell_pg_run("keys", list_keys, &o);
    }
    const bool help = argc == 2 && strcmp(name, "--help") == 0;
    (void)fputs(usage, help ? stdout : stderr);
    return help ? 0 : 2;
}
