/* AES-256-GCM around webhook secrets, with a key ring. Owns the keys in memory; does not know where
 * the text of the ring or the blobs come from. Called by subscriptions (open), the API and tools
 * (seal). The blob's own head (version, key id) is authenticated with the row, so no byte of a blob
 * can be altered unseen, not even towards another id of the same key. 2^32 seals per key are the
 * limit of random nonces (SP 800-38D). */
#include "seal.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "base64.h"
#include "bounds.h"
#include "check.h"
#include "mem.h"

#define VERSION   1
#define KEY_LEN   32
#define NONCE_LEN 12
#define TAG_LEN   16
#define ID_MAX    32
#define KEYS_MAX  16
#define HEAD_MAX  (2 + ID_MAX)
#define BLOB_MAX  (HEAD_MAX + NONCE_LEN + LIMIT_SECRET + TAG_LEN)

struct key {
    char id[ID_MAX + 1]; /* with a NUL: the ring is zeroed at birth */
    size_t id_len;
    unsigned char bytes[KEY_LEN];
};

struct keyring {
    EVP_CIPHER *gcm;
    size_t n;
    struct key keys[KEYS_MAX];
};

static bool ours(struct err *err)
{
    ERR_clear_error(); /* the queue is shared with libcurl's TLS */
    if (err != NULL) {
        err->ours = true;
    }
    return false;
}

static bool id_char(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

static const struct key *find_key(const struct keyring *k, const char *id, size_t len)
{
    for (size_t i = 0; i < k->n; i++) {
        if (k->keys[i].id_len == len && memcmp(k->keys[i].id, id, len) == 0) {
            return &k->keys[i];
        }
    }
    return NULL;
}

/* The messages count entries and quote nothing: who forgets the "id:" has the key where the id
 * belongs. */
static bool add_entry(struct keyring *k, const char *text, size_t len, struct err *err)
{
    size_t no = k->n + 1;
    if (k->n == KEYS_MAX) {
        return err_set(err, ERR_INVALID, "key ring: more than %d entries", KEYS_MAX);
    }
    const char *colon = memchr(text, ':', len);
    if (colon == NULL) {
        return err_set(err, ERR_INVALID, "key ring, entry %zu: no ':' between id and key", no);
    }
    size_t id_len = (size_t)(colon - text);
    bool id_ok = id_len >= 1 && id_len <= ID_MAX;
    for (size_t i = 0; id_ok && i < id_len; i++) {
        id_ok = id_char(text[i]);
    }
    if (!id_ok) {
        return err_set(err, ERR_INVALID,
                       "key ring, entry %zu: the id is not 1 to %d of [A-Za-z0-9_-]", no, ID_MAX);
    }
    if (find_key(k, text, id_len) != NULL) {
        return err_set(err, ERR_INVALID, "key ring, entry %zu: an earlier entry has the same id",
                       no);
    }
    struct key *key = &k->keys[k->n];
    size_t key_len = 0;
    if (!base64_decode(colon + 1, len - id_len - 1, key->bytes, KEY_LEN, &key_len) ||
        key_len != KEY_LEN) {
        return err_set(err, ERR_INVALID,
                       "key ring, entry %zu: the key is not base64 of exactly %d bytes", no,
                       KEY_LEN);
    }
    memcpy(key->id, text, id_len);
    key->id_len = id_len;
    k->n++;
    return true;
}

static bool add_entries(struct keyring *k, const char *text, struct err *err)
{
    static const char blanks[] = " \t\r";
    static const char separators[] = ",\n";
    while (*text != '\0') {
        size_t len = strcspn(text, separators);
        const char *next = text + len + (text[len] != '\0');
        size_t skip = strspn(text, blanks);
        text += skip < len ? skip : len;
        len -= skip < len ? skip : len;
        while (len > 0 && strchr(blanks, text[len - 1]) != NULL) {
            len--;
        }
        if (len > 0 &&
            !add_entry(k, text, len, err)) { /* blank lines and a last comma are no entries */
            return false;
        }
        text = next;
    }
    return k->n > 0 || err_set(err, ERR_INVALID, "key ring: no entry");
}

struct keyring *keyring_new(const char *text, struct err *err)
{
    struct keyring *k = mem_zero(1, sizeof(*k));
    k->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    bool ok = k->gcm != NULL;
    if (!ok) {
        (void)err_set(err, ERR_CRYPTO, "OpenSSL has no AES-256-GCM");
        (void)ours(err);
    }
    if (!ok || !add_entries(k, text, err)) {
        keyring_free(k);
        return NULL;
    }
    return k;
}

const char *keyring_first_id(const struct keyring *k)
{
    return k->keys[0].id;
}

void keyring_free(struct keyring *k)
{
    if (k == NULL) {
        return;
    }
    EVP_CIPHER_free(k->gcm);
    OPENSSL_cleanse(k, sizeof(*k));
    free(k);
}

void keyring_mac(const struct keyring *k, const void *data, size_t len,
                 unsigned char ret[KEYRING_MAC_LEN])
{
    unsigned n = 0;
    CHECK(HMAC(EVP_sha256(), k->keys[0].bytes, KEY_LEN, data, len, ret, &n) != NULL &&
          n == KEYRING_MAC_LEN);
}

/* Starts either direction and feeds the additional data: head of the blob, column, NUL, row,
 * tenant. */
static EVP_CIPHER_CTX *begin(const struct keyring *k, const struct key *key, int encrypt,
                             const unsigned char *head, size_t head_len, const unsigned char *nonce,
                             const struct seal_aad *aad)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n = 0;
    if (ctx != NULL && EVP_CipherInit_ex2(ctx, k->gcm, key->bytes, nonce, encrypt, NULL) == 1 &&
        EVP_CipherUpdate(ctx, NULL, &n, head, (int)head_len) == 1 &&
        EVP_CipherUpdate(ctx, NULL, &n, (const unsigned char *)aad->column,
                         (int)strlen(aad->column) + 1) == 1 &&
        EVP_CipherUpdate(ctx, NULL, &n, aad->row.b, sizeof(aad->row.b)) == 1 &&
        EVP_CipherUpdate(ctx, NULL, &n, aad->tenant.b, sizeof(aad->tenant.b)) == 1) {
        return ctx;
    }
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

bool seal(const struct keyring *k, const struct seal_aad *aad, const void *plain, size_t len,
          struct buf *ret_blob, struct err *err)
{
    if (len < 1 || len > LIMIT_SECRET) {
        return err_set(err, ERR_INVALID, "a secret to seal has %zu bytes, not 1 to %d", len,
                       LIMIT_SECRET);
    }
    const struct key *key = &k->keys[0];
    unsigned char blob[BLOB_MAX];
    blob[0] = VERSION;
    blob[1] = (unsigned char)key->id_len;
    memcpy(blob + 2, key->id, key->id_len);
    size_t head_len = 2 + key->id_len;
    unsigned char *nonce = blob + head_len;
    unsigned char *cipher = nonce + NONCE_LEN;
    int n = 0;
    EVP_CIPHER_CTX *ctx = NULL;
    if (RAND_bytes(nonce, NONCE_LEN) == 1) {
        ctx = begin(k, key, 1, blob, head_len, nonce, aad);
    }
    bool ok = ctx != NULL && EVP_CipherUpdate(ctx, cipher, &n, plain, (int)len) == 1 &&
              EVP_CipherFinal_ex(ctx, cipher + n, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, cipher + len) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (!ok) {
        (void)err_set(err, ERR_CRYPTO, "OpenSSL could not seal %s", aad->column);
        return ours(err);
    }
    buf_add(ret_blob, blob, head_len + NONCE_LEN + len + TAG_LEN);
    return buf_ok(ret_blob) || err_set(err, ERR_LIMIT, "no room for the sealed %s", aad->column);
}

static bool decrypt(EVP_CIPHER_CTX *ctx, unsigned char *out, const unsigned char *cipher,
                    size_t len, unsigned char tag[TAG_LEN])
{
    int n = 0;
    return ctx != NULL && EVP_CipherUpdate(ctx, out, &n, cipher, (int)len) == 1 &&
           EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, tag) == 1 &&
           EVP_CipherFinal_ex(ctx, out + n, &n) > 0;
}

bool seal_open(const struct keyring *k, const struct seal_aad *aad, const void *blob, size_t len,
               char *ret_plain, size_t *ret_len, struct err *err)
{
    const unsigned char *b = blob;
    size_t head_len = len < 2 ? 0 : (size_t)2 + b[1];
    size_t around = head_len + NONCE_LEN + TAG_LEN;
    if (len < 2 || b[0] != VERSION || len <= around || len - around > LIMIT_SECRET) {
        (void)err_set(err, ERR_CRYPTO, "the sealed %s is not a blob of version %d (%zu bytes)",
                      aad->column, VERSION, len);
        return ours(err);
    }
    const struct key *key = find_key(k, (const char *)b + 2, b[1]);
    if (key == NULL) { /* the id is not quoted: nobody vouches for these bytes */
        (void)err_set(err, ERR_CRYPTO, "the sealed %s names a key that is not in the key ring",
                      aad->column);
        return ours(err);
    }
    const unsigned char *cipher = b + head_len + NONCE_LEN;
    size_t plain_len = len - around;
    unsigned char plain[LIMIT_SECRET];
    unsigned char tag[TAG_LEN];
    memcpy(tag, cipher + plain_len, TAG_LEN);
    EVP_CIPHER_CTX *ctx = begin(k, key, 0, b, head_len, b + head_len, aad);
    bool ok = decrypt(ctx, plain, cipher, plain_len, tag);
    EVP_CIPHER_CTX_free(ctx);
    if (ok) {
        memcpy(ret_plain, plain, plain_len);
        *ret_len = plain_len;
    } else {
        (void)err_set(err, ERR_CRYPTO,
                      "the sealed %s does not open with its key: altered, or of another row",
                      aad->column);
        (void)ours(err);
    }
    OPENSSL_cleanse(plain, sizeof(plain));
    return ok;
}
