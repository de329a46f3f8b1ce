/* `secrets status | reseal`: the key ring's rotation. Reads and writes the sealed columns of
 * webhooks; a plain secret lives only while it is sealed anew. Called by api_commands.c. */
#include "secrets.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "bounds.h"
#include "check.h"
#include "pgarray.h"
#include "seal.h"
#include "shell_pg.h"

#define ROUNDS_MAX 5 /* of reseal: what changes all the time is left to the next call */

/* clang-format off */
static const char usage[] =
    "Usage: netrecon-webhooks-api secrets status\n"
    "       netrecon-webhooks-api secrets reseal\n"
    "status counts the sealed secrets by the key that seals them. reseal seals all of them with the first key of\n"
    "NRW_KEYRING; every program must know that key before, and the old ones until status shows none of theirs.\n";

/* Byte 1 of a blob is the length of the key's id, plain ASCII, which follows (seal.h). What is no blob has no key. */
#define KEY_ID(column) \
    "case when octet_length(" column ") > 2 and octet_length(" column ") > 2 + get_byte(" column ", 1)" \
    " then encode(substring(" column " from 3 for get_byte(" column ", 1)), 'escape') else '(malformed)' end"

static const char status_sql[] =
    "select key_id, count(*) from (select " KEY_ID("secret") " as key_id from webhooks where deleted_at is null"
    " union all select " KEY_ID("previous_secret") " from webhooks where deleted_at is null and previous_secret is not null)"
    " as sealed group by key_id order by key_id";

static const char page_sql[] =
    "select id, tenant_id, version, secret, previous_secret from webhooks where deleted_at is null and id > $1::uuid"
    " and (" KEY_ID("secret") " <> $2 or previous_secret is not null and " KEY_ID("previous_secret") " <> $2) order by id limit 100";

static const char update_sql[] =
    "update webhooks set secret = $3, previous_secret = $4 where id = $1::uuid and version = $2::bigint";
/* clang-format on */

enum { COL_ID, COL_TENANT, COL_VERSION, COL_SECRET, COL_PREVIOUS };

struct reseal {
    PGconn *conn;
    struct keyring *keys;
    uint64_t sealed, closed, changed; /* done, does not open, somebody else was faster */
};

/* --- status ----------------------------------------------------------------------------- */

static int status(PGconn *conn, const struct config *cfg, void *ctx)
{
    (void)cfg;
    (void)ctx;
    PGresult *res = shell_pg_query(conn, status_sql, 0, NULL, NULL, NULL, false);
    if (res == NULL) {
        return 1;
    }
    for (int row = 0; row < PQntuples(res); row++) {
        (void)printf("%-32s %s\n", PQgetvalue(res, row, 0), PQgetvalue(res, row, 1));
    }
    PQclear(res);
    return 0;
}

/* --- reseal ----------------------------------------------------------------------------- */

static bool seal_anew(const struct reseal *r, const char *column, const PGresult *res, int row,
                      int col, struct buf *ret_blob, struct err *err)
{
    char plain[LIMIT_SECRET];
    size_t len = 0;
    const struct seal_aad aad = {.column = column,
                                 .row = pgvalue_uuid(res, row, COL_ID),
                                 .tenant = pgvalue_uuid(res, row, COL_TENANT)};
    const bool ok = seal_open(r->keys, &aad, PQgetvalue(res, row, col),
                              (size_t)PQgetlength(res, row, col), plain, &len, err) &&
                    seal(r->keys, &aad, plain, len, ret_blob, err);
    OPENSSL_cleanse(plain, sizeof(plain));
    return ok;
}

static bool update(struct reseal *r, const PGresult *res, int row, const struct buf *secret,
                   const struct buf *previous)
{
    char id[UUID_TEXT + 1];
    char version[24];
    const struct uuid uuid = pgvalue_uuid(res, row, COL_ID);
    uuid_format(&uuid, id);
    (void)snprintf(version, sizeof(version), "%" PRId64, pgvalue_int8(res, row, COL_VERSION));
    const char *values[] = {id, version, secret->data, previous->len > 0 ? previous->data : NULL};
    const int lengths[] = {0, 0, (int)secret->len, (int)previous->len};
    static const int formats[] = {0, 0, 1, 1};
    PGresult *done = shell_pg_query(r->conn, update_sql, 4, values, lengths, formats, false);
    const bool ok = done != NULL;
    if (ok) {
        const bool changed = strcmp(PQcmdTuples(done), "0") == 0;
        r->changed += changed;
        r->sealed += !changed;
    }
    PQclear(done);
    return ok;
}

static bool reseal_row(struct reseal *r, const PGresult *res, int row)
{
    struct err err = {0};
    struct buf secret;
    struct buf previous;
    buf_init(&secret, 1024);
    buf_init(&previous, 1024);
    bool ok = true;
    if (seal_anew(r, "webhooks.secret", res, row, COL_SECRET, &secret, &err) &&
        (PQgetisnull(res, row, COL_PREVIOUS) ||
         seal_anew(r, "webhooks.previous_secret", res, row, COL_PREVIOUS, &previous, &err))) {
        ok = update(r, res, row, &secret, &previous);
    } else {
        char id[UUID_TEXT + 1];
        const struct uuid uuid = pgvalue_uuid(res, row, COL_ID);
        uuid_format(&uuid, id);
        (void)fprintf(stderr, "secrets: webhook %s: %s\n", id, err.text);
        r->closed++;
    }
    buf_done(&secret);
    buf_done(&previous);
    return ok;
}

/* Once through the table. False: PostgreSQL failed. */
static bool reseal_all(struct reseal *r)
{
    char last[UUID_TEXT + 1] = "00000000-0000-0000-0000-000000000000";
    const char *values[] = {last, keyring_first_id(r->keys)};
    for (;;) {
        PGresult *res = shell_pg_query(r->conn, page_sql, 2, values, NULL, NULL, true);
        const int rows = PQntuples(res);
        bool ok = res != NULL;
        for (int row = 0; ok && row < rows; row++) {
            const struct uuid id = pgvalue_uuid(res, row, COL_ID);
            uuid_format(&id, last);
            ok = reseal_row(r, res, row);
        }
        PQclear(res);
        if (!ok || rows == 0) {
            return ok;
        }
    }
}

static int reseal(PGconn *conn, const struct config *cfg, void *ctx)
{
    (void)ctx;
    struct err err = {0};
    struct reseal r = {.conn = conn, .keys = keyring_new(cfg->keyring, &err)};
    if (r.keys == NULL) {
        (void)fprintf(stderr, "NRW_KEYRING: %s\n", err.text);
        return 2;
    }
    bool ok = true;
    for (int round = 0; ok && round < ROUNDS_MAX && (round == 0 || r.changed > 0); round++) {
        r.changed = 0;
        r.closed = 0;
        ok = reseal_all(&r);
    }
    (void)printf("%" PRIu64 " webhooks sealed with %s, %" PRIu64 " do not open, %" PRIu64
                 " were being changed\n",
                 r.sealed, keyring_first_id(r.keys), r.closed, r.changed);
    keyring_free(r.keys);
    return ok && r.closed == 0 && r.changed == 0 ? 0 : 1;
}

int secrets_command(int argc, char *const *argv)
{
    if (argc == 2 && strcmp(argv[1], "status") == 0) {
        return shell_pg_run("secrets", status, NULL);
    }
    if (argc == 2 && strcmp(argv[1], "reseal") == 0) {
        return shell_pg_run("secrets", reseal, NULL);
    }
    const bool help = argc == 2 && strcmp(argv[1], "--help") == 0;
    (void)fputs(usage, help ? stdout : stderr);
    return help ? 0 : 2;
}
