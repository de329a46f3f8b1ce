/* Takes a Redis URL apart: redis[s]://[user]:[password]@host[:port][/db], with ?ca_file=PATH where
 * it is rediss://, and unix:///path[?db=N&user=…&password=…]. Strict, because a half-understood URL
 * connects to the wrong place, without a password or unverified. Does not resolve and does not
 * connect. Called by redis.c only. */
#include "redis_url.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "mem.h"

#define DEFAULT_PORT 6379
#define PORT_MAX     65535
#define DB_MAX       1000000
#define PATH_MAX_LEN 107 /* sun_path, without its NUL */
#define TCP_SCHEME   "redis://"
#define UNIX_SCHEME  "unix://"
#define TLS_SCHEME   "rediss://"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* False: a broken escape, or a NUL. "" gives NULL: nothing was said. */
static bool decode(const char *text, size_t len, char **ret)
{
    char *out = mem_alloc(len + 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (c == '%') {
            int high = i + 2 < len ? hex_digit(text[i + 1]) : -1;
            int low = i + 2 < len ? hex_digit(text[i + 2]) : -1;
            c = '\0';
            if (high >= 0 && low >= 0) {
                c = (char)(high * 16 + low);
            }
            i += 2;
        }
        if (c == '\0') {
            OPENSSL_cleanse(out, n);
            free(out);
            return false;
        }
        out[n++] = c;
    }
    out[n] = '\0';
    if (n == 0) {
        free(out), out = NULL;
    }
    free(*ret);
    *ret = out;
    return true;
}

/* All of text[0..len) as a decimal number. */
static bool number(const char *text, size_t len, int max, int *ret)
{
    int value = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9' || value > max) {
            return false;
        }
        value = value * 10 + (text[i] - '0');
    }
    *ret = value;
    return len > 0 && value <= max;
}

static bool parse_login(const char *text, size_t len, struct redis_url *u, struct err *err)
{
    const char *colon = memchr(text, ':', len);
    if (colon == NULL) {
        return err_set(err, ERR_INVALID, "Redis URL: what stands before @ is not [user]:password");
    }
    size_t user_len = (size_t)(colon - text);
    if (!decode(text, user_len, &u->user) || !decode(colon + 1, len - user_len - 1, &u->password)) {
        return err_set(err, ERR_INVALID, "Redis URL: bad %% escape in user or password");
    }
    if (u->user != NULL && u->password == NULL) {
        return err_set(err, ERR_INVALID, "Redis URL: a user without a password");
    }
    return true;
}

static bool parse_address(const char *text, size_t len, struct redis_url *u, struct err *err)
{
    const char *end = text + len;
    const char *host = text;
    const char *host_end = memchr(text, ':', len);
    const char *rest;
    if (len > 0 && *text == '[') {
        host = text + 1;
        host_end = memchr(text, ']', len);
        rest = host_end == NULL ? end : host_end + 1;
    } else {
        rest = host_end == NULL ? end : host_end;
        host_end = rest;
    }
    if (host_end == NULL || host_end == host || host_end - host > LIMIT_HOST) {
        return err_set(err, ERR_INVALID, "Redis URL: no host, or one that is too long");
    }
    u->port = DEFAULT_PORT;
    if (rest != end &&
        (*rest != ':' || !number(rest + 1, (size_t)(end - rest - 1), PORT_MAX, &u->port) ||
         u->port == 0)) {
        return err_set(err, ERR_INVALID, "Redis URL: the port is not 1 ... %d", PORT_MAX);
    }
    u->host = mem_dupn(host, (size_t)(host_end - host));
    return true;
}

static bool bad_db(struct err *err)
{
    return err_set(err, ERR_INVALID, "Redis URL: the database is not 0 ... %d", DB_MAX);
}

/* From the ? on. */
static bool parse_tls_parameter(const char *text, struct redis_url *u, struct err *err)
{
    static const char ca_file[] = "?ca_file=";
    bool ok = false;
    if (strncmp(text, ca_file, sizeof(ca_file) - 1) == 0) {
        const char *value = text + sizeof(ca_file) - 1;
        ok = strpbrk(value, "&#") == NULL && decode(value, strlen(value), &u->ca_file) &&
             u->ca_file != NULL;
    }
    return ok ||
           err_set(err, ERR_INVALID, "Redis URL: rediss:// takes the parameter ca_file=PATH only");
}

static bool parse_tcp(const char *text, struct redis_url *u, struct err *err)
{
    size_t len = strcspn(text, "/?#");
    const char *db = text + len + (text[len] == '/' ? 1 : 0);
    const char *rest = db + strcspn(db, "?#");
    if (*rest != '\0' && !u->tls) {
        return err_set(err, ERR_INVALID, "Redis URL: redis:// takes no parameters");
    }
    if (*rest != '\0' && !parse_tls_parameter(rest, u, err)) {
        return false;
    }
    if (rest != db && !number(db, (size_t)(rest - db), DB_MAX, &u->db)) {
        return bad_db(err);
    }
    const char *at = memrchr(text, '@', len);
    if (at == NULL) {
        return parse_address(text, len, u, err);
    }
    size_t login_len = (size_t)(at - text);
    return parse_login(text, login_len, u, err) &&
           parse_address(at + 1, len - login_len - 1, u, err);
}

static bool parse_parameter(const char *text, size_t len, struct redis_url *u, struct err *err)
{
    static const char db[] = "db=";
    static const char user[] = "user=";
    static const char password[] = "password=";
    if (strncmp(text, db, sizeof(db) - 1) == 0 && len >= sizeof(db) - 1) {
        return number(text + 3, len - 3, DB_MAX, &u->db) ? true : bad_db(err);
    }
    bool ok = false;
    if (strncmp(text, user, sizeof(user) - 1) == 0 && len >= sizeof(user) - 1) {
        ok = decode(text + sizeof(user) - 1, len - sizeof(user) + 1, &u->user);
    } else if (strncmp(text, password, sizeof(password) - 1) == 0 && len >= sizeof(password) - 1) {
        ok = decode(text + sizeof(password) - 1, len - sizeof(password) + 1, &u->password);
    }
    return ok || err_set(err, ERR_INVALID,
                         "Redis URL: unix:// takes the parameters db, user and password");
}

static bool parse_unix(const char *text, struct redis_url *u, struct err *err)
{
    size_t len = strcspn(text, "?#");
    if (*text != '/' || len < 2 || len > PATH_MAX_LEN || text[len] == '#') {
        return err_set(err, ERR_INVALID, "Redis URL: unix:// needs an absolute path of at most %d",
                       PATH_MAX_LEN);
    }
    u->path = mem_dupn(text, len);
    const char *at = text + len;
    while (*at != '\0') {
        at++; /* ? or & */
        size_t n = strcspn(at, "&");
        if (!parse_parameter(at, n, u, err)) {
            return false;
        }
        at += n;
    }
    if (u->user != NULL && u->password == NULL) {
        return err_set(err, ERR_INVALID, "Redis URL: a user without a password");
    }
    return true;
}

bool redis_url_parse(const char *url, struct redis_url *ret, struct err *err)
{
    struct redis_url u = {.port = 0};
    bool ok;
    if (strncmp(url, TCP_SCHEME, sizeof(TCP_SCHEME) - 1) == 0) {
        ok = parse_tcp(url + sizeof(TCP_SCHEME) - 1, &u, err);
    } else if (strncmp(url, UNIX_SCHEME, sizeof(UNIX_SCHEME) - 1) == 0) {
        ok = parse_unix(url + sizeof(UNIX_SCHEME) - 1, &u, err);
    } else if (strncmp(url, TLS_SCHEME, sizeof(TLS_SCHEME) - 1) == 0) {
        u.tls = true;
        ok = parse_tcp(url + sizeof(TLS_SCHEME) - 1, &u, err);
    } else {
        ok = err_set(err, ERR_INVALID,
                     "Redis URL: it begins with none of redis://, rediss:// and unix://");
    }
    if (ok) {
        *ret = u;
    } else {
        redis_url_done(&u);
    }
    return ok;
}

void redis_url_done(struct redis_url *u)
{
    if (u->password != NULL) {
        OPENSSL_cleanse(u->password, strlen(u->password));
    }
    free(u->host), u->host = NULL;
    free(u->path), u->path = NULL;
    free(u->ca_file), u->ca_file = NULL;
    free(u->user), u->user = NULL;
    free(u->password), u->password = NULL;
}
