/* Any bytes as a token, against a key of each kind. Nobody who fuzzes has a key: what is accepted
 * must be signed by this file. The input is judged as it is, with its first bytes as the header
 * that a known key would take, and, signed with the shared secret, as the claims; the last may be
 * accepted and is then right only until one bit of it changes. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "check.h"
#include "jwt.h"
#include "mem.h"
#include "scopes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define SECRET "a shared secret of 36 bytes or more!"
#define NOW_US (INT64_C(1773570600) * 1000000)

/* RFC 7515, appendix A: public keys, and a secret that nothing here signs with. */
static const char set[] =
    "{\"keys\":[{\"kid\":\"h\",\"kty\":\"oct\",\"alg\":\"HS256\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKO"
    "bwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow\"},"
    "{\"kid\":\"r\",\"kty\":\"RSA\",\"alg\":\"RS256\",\"e\":\"AQAB\",\"n\":\"ofgWCuLjybRlzo0tZWJjNi"
    "uSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs"
    "D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7W"
    "TBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8"
    "q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\"},"
    "{\"kid\":\"e\",\"kty\":\"EC\",\"alg\":\"ES256\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tL"
    "e1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

static const struct jwt_policy policy = {
    .issuer = "", .audience = "", .tenant_claim = "t", .leeway_us = 60000000};

static bool judge(const struct jwt_keys *keys, const char *token, size_t len,
                  struct jwt_claims *ret)
{
    struct err err = {0};
    char *exact = mem_dupn(token, len);
    const bool ok = jwt_verify(keys, &policy, exact, len, NOW_US, ret, &err);
    free(exact);
    CHECK(ok == (err.code == ERR_NONE));
    for (const char *c = err.text; *c != '\0'; c++) {
        CHECK(*c >= 0x20 && *c < 0x7f);
    }
    return ok;
}

/* header and claims as base64url, and a signature: the right one of the shared secret, or none. */
static size_t join(const char *header, const uint8_t *claims, size_t len, bool sign, char *out)
{
    size_t n = base64url_encode(header, strlen(header), out);
    out[n++] = '.';
    n += base64url_encode(claims, len, out + n);
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned sum_len = 0;
    CHECK(HMAC(EVP_sha256(), SECRET, sizeof(SECRET) - 1, (unsigned char *)out, n, sum, &sum_len) !=
          NULL);
    out[n++] = '.';
    return sign ? n + base64url_encode(sum, sum_len, out + n) : n;
}

static void unsigned_with_good_headers(const struct jwt_keys *keys, const uint8_t *data,
                                       size_t size)
{
    static const char *const headers[] = {
        "{\"alg\":\"HS256\"}", "{\"alg\":\"HS256\",\"kid\":\"h\"}",
        "{\"alg\":\"RS256\",\"kid\":\"r\"}", "{\"alg\":\"ES256\",\"kid\":\"e\"}"};
    static const uint8_t claims[] =
        "{\"exp\":1773574200,\"t\":\"7c9e6679-7425-40de-944b-e07fc1f90ae7\"}";
    struct jwt_claims ret;
    char token[1024 + BASE64_SIZE(4096)];
    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        size_t n = join(headers[i], claims, sizeof(claims) - 1, false, token);
        CHECK(!judge(keys, token, n, &ret));
        const size_t as_text = size < 1024 ? size : 1024; /* the input as a signature, in text */
        memcpy(token + n, data, as_text);
        CHECK(!judge(keys, token, n + as_text, &ret));
        n += base64url_encode(data, as_text, token + n); /* and in bytes */
        CHECK(!judge(keys, token, n, &ret));
    }
}

static void signed_claims(const struct jwt_keys *keys, const uint8_t *data, size_t size)
{
    char token[LIMIT_JWT + 256];
    struct jwt_claims ret;
    if (size > 6000) {
        return;
    }
    const size_t n = join("{\"alg\":\"HS256\"}", data, size, true, token);
    memset(&ret, 0, sizeof(ret));
    if (judge(keys, token, n, &ret)) {
        CHECK((ret.scopes & ~(unsigned)SCOPES_ALL) == 0);
        CHECK(ret.has_permissions || ret.scopes == 0);
        CHECK(memchr(ret.subject, '\0', sizeof(ret.subject)) != NULL);
        const size_t at = size % n;
        token[at] = (char)(token[at] ^ 1);
        CHECK(!judge(keys, token, n, &ret));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct jwt_keys *keys;
    struct err err = {0};
    struct jwt_claims ret;
    if (keys == NULL) {
        keys = jwt_keys_new(SECRET, set, &err);
        CHECK(keys != NULL);
    }
    CHECK(!judge(keys, (const char *)data, size, &ret));
    unsigned_with_good_headers(keys, data, size);
    signed_claims(keys, data, size);
    return 0;
}
