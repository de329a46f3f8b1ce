/* UUIDs. Owns two things of the process, made at first use and kept: the hash key and the SHA-1
 * context (there is one thread of ours, so one context is enough). Called from everywhere. */
#include "ids.h"

#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "check.h"

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20; /* upper case to lower */
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool dash_at(size_t i)
{
    return i == 8 || i == 13 || i == 18 || i == 23;
}

bool uuid_parse(const char *text, size_t len, struct uuid *ret)
{
    if (len != UUID_TEXT) {
        return false;
    }
    struct uuid id;
    size_t n = 0;
    for (size_t i = 0; i < UUID_TEXT;) {
        if (dash_at(i)) {
            if (text[i++] != '-') {
                return false;
            }
            continue;
        }
        int high = hex_value(text[i]);
        int low = hex_value(text[i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        id.b[n++] = (uint8_t)(high << 4 | low);
        i += 2;
    }
    *ret = id;
    return true;
}

void uuid_format(const struct uuid *id, char out[UUID_TEXT + 1])
{
    static const char hex[] = "0123456789abcdef";
    char *at = out;
    for (size_t i = 0; i < sizeof(id->b); i++) {
        if (dash_at((size_t)(at - out))) {
            *at++ = '-';
        }
        *at++ = hex[id->b[i] >> 4];
        *at++ = hex[id->b[i] & 15];
    }
    *at = '\0';
}

bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

struct sip {
    uint64_t v[4];
};

static uint64_t rotl(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(struct sip *s)
{
    s->v[0] += s->v[1];
    s->v[1] = rotl(s->v[1], 13) ^ s->v[0];
    s->v[0] = rotl(s->v[0], 32);
    s->v[2] += s->v[3];
    s->v[3] = rotl(s->v[3], 16) ^ s->v[2];
    s->v[0] += s->v[3];
    s->v[3] = rotl(s->v[3], 21) ^ s->v[0];
    s->v[2] += s->v[1];
    s->v[1] = rotl(s->v[1], 17) ^ s->v[2];
    s->v[2] = rotl(s->v[2], 32);
}

/* SipHash-1-3 of 16 bytes: made for hash tables whose keys come from strangers. */
uint64_t uuid_hash(const struct uuid *id)
{
    static uint64_t key[2];
    static bool keyed;
    if (!keyed) {
        CHECK(RAND_bytes((unsigned char *)key, sizeof(key)) == 1);
        keyed = true;
    }
    struct sip s = {{key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                     key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)}};
    uint64_t words[3];
    memcpy(words, id->b, sizeof(id->b));
    words[2] = UINT64_C(16) << 56; /* the length, as the algorithm ends */
    for (size_t i = 0; i < 3; i++) {
        s.v[3] ^= words[i];
        sip_round(&s);
        s.v[0] ^= words[i];
    }
    s.v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) {
        sip_round(&s);
    }
    return s.v[0] ^ s.v[1] ^ s.v[2] ^ s.v[3];
}

static void set_version(struct uuid *id, unsigned version)
{
    id->b[6] = (uint8_t)((id->b[6] & 0x0f) | version << 4);
    id->b[8] = (uint8_t)((id->b[8] & 0x3f) | 0x80);
}

struct uuid uuid_v4(void)
{
    struct uuid id;
    CHECK(RAND_bytes(id.b, sizeof(id.b)) == 1);
    set_version(&id, 4);
    return id;
}

struct uuid uuid_v5(const struct uuid *ns, const char *name, size_t name_len)
{
    static EVP_MD *sha1; /* fetched once: a fetch per call costs more than the hash */
    static EVP_MD_CTX *ctx;
    if (ctx == NULL) {
        sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
        ctx = EVP_MD_CTX_new();
        CHECK(sha1 != NULL && ctx != NULL);
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    CHECK(EVP_DigestInit_ex2(ctx, sha1, NULL) == 1 &&
          EVP_DigestUpdate(ctx, ns->b, sizeof(ns->b)) == 1 &&
          EVP_DigestUpdate(ctx, name, name_len) == 1 && EVP_DigestFinal_ex(ctx, digest, NULL) == 1);
    struct uuid id;
    memcpy(id.b, digest, sizeof(id.b));
    set_version(&id, 5);
    return id;
}

struct uuid uuid_of_delivery(const struct uuid *event_id, const struct uuid *webhook_id)
{
    char name[UUID_TEXT + 1];
    uuid_format(webhook_id, name);
    return uuid_v5(event_id, name, UUID_TEXT);
}
