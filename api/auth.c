/* Owns the question who asks. Tokens are jwt.c's, the form of API keys is api_key.c's; here they
 * meet the request, the table api_keys and the route's scope. A key is looked up for every request:
 * its revocation counts from the next one on. server.c calls it. */
#include "auth.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api_key.h"
#include "check.h"
#include "clock.h"
#include "jwt.h"
#include "log.h"
#include "mem.h"
#include "pgarray.h"
#include "scopes.h"
#include "store.h"

#define LEEWAY_US INT64_C(60000000)
#define CHALLENGE "Bearer realm=\"netrecon-webhooks\""

/* An unknown key, a revoked and an expired one look the same from outside. Whether it was used
 * lately is noted at most once a minute: a row per request would be a write per read. */
static const char key_sql[] =
    "WITH k AS (SELECT id, tenant_id, scopes, last_used_at FROM api_keys WHERE key_sha256 = $1"
    " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())),"
    " used AS (UPDATE api_keys a SET last_used_at = now() FROM k WHERE a.id = k.id"
    " AND (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute'))"
    " SELECT id, tenant_id, array_to_string(scopes, ' ') FROM k";

struct waiting {
    void (*then)(struct call *c);
};

static void unauthorized(struct call *c, const char *challenge, const char *detail)
{
    call_header(c, "WWW-Authenticate", challenge);
    call_problem(c, PROBLEM_UNAUTHORIZED, "%s", detail);
}

static void check_scope(struct call *c, void (*then)(struct call *c))
{
    if ((c->who.scopes & c->route->scope) != c->route->scope) {
        call_problem(c, PROBLEM_FORBIDDEN, "this needs the scope %s",
                     scope_name((enum scope)c->route->scope));
        return;
    }
    then(c);
}

/* --- API keys --------------------------------------------------------------------------- */

static unsigned scopes_of(const char *names)
{
    unsigned scopes = 0;
    while (*names != '\0') {
        const size_t len = strcspn(names, " ");
        scopes |= scope_parse(names, len);
        names += len + strspn(names + len, " ");
    }
    return scopes;
}

static void key_found(struct call *c, const struct pg_reply *reply)
{
    const PGresult *r = reply->results[0];
    void (*then)(struct call *) = ((struct waiting *)c->state)->then;
    free(c->state), c->state = NULL;
    if (PQntuples(r) == 0) {
        unauthorized(c, CHALLENGE, "the API key is unknown, expired or revoked");
        return;
    }
    c->who = (struct principal){.kind = PRINCIPAL_API_KEY,
                                .key_id = pgvalue_uuid(r, 0, 0),
                                .tenant_id = pgvalue_uuid(r, 0, 1),
                                .scopes = scopes_of(PQgetvalue(r, 0, 2))};
    check_scope(c, then);
}

static void check_key(struct call *c, const char *key, void (*then)(struct call *c))
{
    unsigned char hash[API_KEY_SHA256];
    if (!api_key_hash(key, strlen(key), hash)) {
        unauthorized(c, CHALLENGE, "X-API-Key must be nr_live_ and 48 lower-case hex digits");
        return;
    }
    struct waiting *w = mem_alloc(sizeof(*w));
    w->then = then;
    c->state = w;
    const struct pg_param param = {.type = 17, .data = hash, .len = sizeof(hash), .binary = true};
    const struct pg_stmt stmt = {
        .sql = key_sql, .params = &param, .n_params = 1, .binary_result = true};
    call_look(c, &stmt, 1, key_found);
}

/* --- tokens ----------------------------------------------------------------------------- */

static void check_token(struct call *c, const char *token, void (*then)(struct call *c))
{
    const struct config *cfg = c->api->cfg;
    const struct jwt_policy policy = {.issuer = cfg->jwt_issuer,
                                      .audience = cfg->jwt_audience,
                                      .tenant_claim = cfg->jwt_tenant_claim,
                                      .leeway_us = LEEWAY_US};
    struct jwt_claims claims;
    struct err err = {0};
    if (!jwt_verify(c->api->jwt, &policy, token, strlen(token), clock_wall_us(), &claims, &err)) {
        log_info("api.token_refused", F_STR("request_id", c->request_id), F_ERR(&err));
        if (err.ours) {
            call_problem(c, PROBLEM_INTERNAL, "the token could not be checked");
        } else {
            unauthorized(c, CHALLENGE ", error=\"invalid_token\"",
                         "the token is not valid here: wrong signature, expired, or not for us");
        }
        return;
    }
    c->who = (struct principal){.kind = PRINCIPAL_JWT,
                                .tenant_id = claims.tenant_id,
                                .scopes = claims.has_permissions ? claims.scopes : SCOPES_ALL};
    check_scope(c, then);
}

/* --- the request ------------------------------------------------------------------------ */

void auth_check(struct call *c, void (*then)(struct call *c))
{
    static const char scheme[] = "Bearer ";
    if (c->route->scope == ROUTE_OPEN) {
        then(c);
        return;
    }
    unsigned tokens;
    unsigned keys;
    const char *token = call_given_header(c, "Authorization", &tokens);
    const char *key = call_given_header(c, "X-API-Key", &keys);
    if (tokens + keys > 1) {
        call_problem(c, PROBLEM_BAD_REQUEST,
                     "there must be one of Authorization and X-API-Key, and it once");
    } else if (key != NULL) {
        check_key(c, key, then);
    } else if (token == NULL) {
        unauthorized(c, CHALLENGE, "send a token as Authorization: Bearer, or an X-API-Key");
    } else if (strncasecmp(token, scheme, sizeof(scheme) - 1) != 0) {
        unauthorized(c, CHALLENGE, "the only Authorization that is known here is Bearer");
    } else {
        check_token(c, token + sizeof(scheme) - 1, then);
    }
}
