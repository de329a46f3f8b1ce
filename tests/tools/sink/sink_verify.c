/* HMAC-SHA256 of both kinds over what arrived, and the secrets per path prefix. Owns the keyed hash
 * states. It shares no code with the worker's signer on purpose. sink_ledger.c asks it, sink.c and
 * sink_control.c fill it. The plain SHA256_* calls are used because a state can be copied by
 * assignment: three hashes cost about 1.5 us. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "sink_verify.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"

struct hmac_key {
    SHA256_CTX inner, outer;
};

struct secret_keys {
    struct hmac_key netrecon, standard;
};

static void hmac_key_init(struct hmac_key *k, const void *key, size_t len)
{
    unsigned char block[64] = {0};
    unsigned char pad[64];
    if (len > sizeof(block)) {
        (void)SHA256(key, len, block);
    } else {
        memcpy(block, key, len);
    }
    for (size_t i = 0; i < sizeof(block); i++)
        pad[i] = block[i] ^ 0x36;
    (void)SHA256_Init(&k->inner);
    (void)SHA256_Update(&k->inner, pad, sizeof(pad));
    for (size_t i = 0; i < sizeof(block); i++)
        pad[i] = block[i] ^ 0x5c;
    (void)SHA256_Init(&k->outer);
    (void)SHA256_Update(&k->outer, pad, sizeof(pad));
}

static void hmac_finish(const struct hmac_key *k, SHA256_CTX *inner, unsigned char out[32])
{
    SHA256_CTX outer = k->outer;
    (void)SHA256_Final(out, inner);
    (void)SHA256_Update(&outer, out, 32);
    (void)SHA256_Final(out, &outer);
}

static const char base64_alphabet[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* Standard alphabet, with or without padding. Returns the number of bytes, 0 when it is not base64.
 */
static size_t base64_decode(struct slice s, unsigned char *out)
{
    size_t n = 0;
    uint32_t bits = 0;
    unsigned have = 0;
    size_t len = s.len;
    while (len > 0 && s.len - len < 2 && s.p[len - 1] == '=')
        len--;
    if (len % 4 == 1 || (len != s.len && s.len % 4 != 0))
        return 0;
    for (size_t i = 0; i < len; i++) {
        const char *at = s.p[i] == '\0' ? NULL : strchr(base64_alphabet, s.p[i]);
        if (at == NULL)
            return 0;
        bits = bits << 6 | (uint32_t)(at - base64_alphabet);
        have += 6;
        if (have >= 8) {
            have -= 8;
            out[n++] = (unsigned char)(bits >> have & 0xff);
        }
    }
    return n;
}

static void base64_encode32(const unsigned char in[32], char out[44])
{
    size_t n = 0;
    for (size_t i = 0; i < 32; i += 3) {
        uint32_t v = (uint32_t)in[i] << 16 | (uint32_t)in[i + 1] << 8;
        bool last = i + 2 >= 32;
        if (!last)
            v |= in[i + 2];
        out[n++] = base64_alphabet[v >> 18 & 63];
        out[n++] = base64_alphabet[v >> 12 & 63];
        out[n++] = base64_alphabet[v >> 6 & 63];
        out[n++] = base64_alphabet[v & 63];
        if (last)
            out[n - 1] = '=';
    }
}

static void hex_encode32(const unsigned char in[32], char out[VERIFY_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < 32; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[64] = '\0';
}

static struct secret_group *group_of(struct secrets *s, struct slice prefix)
{
    for (size_t i = 0; i < s->n; i++) {
        if (slice_is(prefix, s->groups[i]->prefix))
            return s->groups[i];
    }
    if (s->n == SECRETS_GROUPS_MAX)
        return NULL;
    if (s->groups == NULL)
        s->groups = mem_zero(SECRETS_GROUPS_MAX, sizeof(struct secret_group *));
    struct secret_group *g = mem_zero(1, sizeof(*g));
    g->prefix = mem_dupn(prefix.p, prefix.len);
    g->prefix_len = prefix.len;
    g->keys = mem_zero(SECRETS_PER_GROUP, sizeof(*g->keys));
    s->groups[s->n++] = g;
    return g;
}

bool secrets_add(struct secrets *s, struct slice prefix, struct slice secret, bool replace)
{
    static const struct slice whsec = {"whsec_", 6};
    unsigned char decoded[SECRETS_SECRET_MAX];
    if (secret.p == NULL || secret.len == 0 || secret.len > SECRETS_SECRET_MAX)
        return false;
    struct secret_group *g = group_of(s, prefix);
    if (g == NULL)
        return false;
    if (replace)
        g->n = 0;
    if (g->n == SECRETS_PER_GROUP)
        return false;
    struct secret_keys *k = &g->keys[g->n++];
    hmac_key_init(&k->netrecon, secret.p, secret.len);
    k->standard = k->netrecon;
    if (secret.len > whsec.len && memcmp(secret.p, whsec.p, whsec.len) == 0) {
        size_t n =
            base64_decode((struct slice){secret.p + whsec.len, secret.len - whsec.len}, decoded);
        if (n > 0)
            hmac_key_init(&k->standard, decoded, n);
    }
    s->generation++;
    return true;
}

const struct secret_group *secrets_find(const struct secrets *s, struct slice path)
{
    const struct secret_group *best = NULL;
    for (size_t i = 0; i < s->n; i++) {
        const struct secret_group *g = s->groups[i];
        if (g->prefix_len > path.len || (best != NULL && g->prefix_len <= best->prefix_len))
            continue;
        if (memcmp(g->prefix, path.p, g->prefix_len) == 0)
            best = g;
    }
    return best;
}

void secrets_done(struct secrets *s)
{
    for (size_t i = 0; i < s->n; i++) {
        free(s->groups[i]->prefix);
        free(s->groups[i]->keys);
        free(s->groups[i]);
    }
    free(s->groups);
    *s = (struct secrets){0};
}

const char *verify_netrecon(const struct secret_group *g, struct slice header, struct slice body)
{
    static const struct slice lead = {"sha256=", 7};
    if (header.p == NULL)
        return "absent";
    if (g == NULL)
        return "unchecked";
    if (header.len != lead.len + 64 || memcmp(header.p, lead.p, lead.len) != 0)
        return "bad";
    for (size_t i = 0; i < g->n; i++) {
        const struct hmac_key *k = &g->keys[i].netrecon;
        SHA256_CTX inner = k->inner;
        unsigned char mac[32];
        char hex[VERIFY_HEX_SIZE];
        (void)SHA256_Update(&inner, body.p, body.len);
        hmac_finish(k, &inner, mac);
        hex_encode32(mac, hex);
        if (memcmp(hex, header.p + lead.len, 64) == 0)
            return "good";
    }
    return "bad";
}

/* The header is a space separated list; one match is enough. */
static bool list_has(struct slice list, const char token[44])
{
    while (list.len > 0) {
        const char *space = memchr(list.p, ' ', list.len);
        size_t len = space == NULL ? list.len : (size_t)(space - list.p);
        if (len == 3 + 44 && memcmp(list.p, "v1,", 3) == 0 && memcmp(list.p + 3, token, 44) == 0)
            return true;
        size_t step = len + (space != NULL);
        list.p += step;
        list.len -= step;
    }
    return false;
}

const char *verify_standard(const struct secret_group *g, struct slice header, struct slice id,
                            struct slice timestamp, struct slice body)
{
    if (header.p == NULL)
        return "absent";
    if (g == NULL)
        return "unchecked";
    if (id.p == NULL || timestamp.p == NULL)
        return "bad";
    for (size_t i = 0; i < g->n; i++) {
        const struct hmac_key *k = &g->keys[i].standard;
        SHA256_CTX inner = k->inner;
        unsigned char mac[32];
        char token[44];
        (void)SHA256_Update(&inner, id.p, id.len);
        (void)SHA256_Update(&inner, ".", 1);
        (void)SHA256_Update(&inner, timestamp.p, timestamp.len);
        (void)SHA256_Update(&inner, ".", 1);
        (void)SHA256_Update(&inner, body.p, body.len);
        hmac_finish(k, &inner, mac);
        base64_encode32(mac, token);
        if (list_has(header, token))
            return "good";
    }
    return "bad";
}

void verify_sha256_hex(struct slice body, char out[VERIFY_HEX_SIZE])
{
    unsigned char digest[32];
    (void)SHA256((const unsigned char *)body.p, body.len, digest);
    hex_encode32(digest, out);
}
