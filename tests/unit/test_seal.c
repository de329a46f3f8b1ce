/* Secrets at rest: what does not open, and what still does after the keys were rotated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "bounds.h"
#include "seal.h"

#define KEY_A  "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" /* 00 01 … 1f */
#define KEY_B  "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
#define SECRET "your-hmac-secret"

static struct seal_aad aad_of(const char *column)
{
    struct seal_aad aad = {.column = column};
    assert_true(uuid_parse("f47ac10b-58cc-4372-a567-0e02b2c3d479", UUID_TEXT, &aad.row));
    assert_true(uuid_parse("0b0e1f52-7c1b-4a58-9d51-3f6f0e1c2d3a", UUID_TEXT, &aad.tenant));
    return aad;
}

static struct keyring *ring_of(const char *text)
{
    struct err err = {0};
    struct keyring *k = keyring_new(text, &err);
    if (k == NULL) {
        fail_msg("'%s': %s", text, err.text);
    }
    return k;
}

static struct buf sealed(const struct keyring *k, const struct seal_aad *aad, const void *plain,
                         size_t len)
{
    struct buf blob;
    struct err err = {0};
    buf_init(&blob, 1024);
    if (!seal(k, aad, plain, len, &blob, &err)) {
        fail_msg("%s", err.text);
    }
    return blob;
}

/* Opens an exact heap copy (the sanitizer sees a read past it) into an exact array. */
static bool opens(const struct keyring *k, const struct seal_aad *aad, const void *blob, size_t len)
{
    unsigned char *exact = malloc(len > 0 ? len : 1);
    char *plain = malloc(LIMIT_SECRET);
    assert_non_null(exact);
    assert_non_null(plain);
    memcpy(exact, blob, len);
    memset(plain, '#', LIMIT_SECRET);
    size_t plain_len = 4711;
    struct err err = {0};
    bool ok = seal_open(k, aad, exact, len, plain, &plain_len, &err);
    if (ok) {
        assert_int_equal(plain_len, strlen(SECRET));
        assert_memory_equal(plain, SECRET, plain_len);
    } else {
        assert_int_equal(err.code, ERR_CRYPTO);
        assert_true(err.ours);
        assert_int_equal(plain_len, 4711);
        for (size_t i = 0; i < LIMIT_SECRET; i++) {
            assert_int_equal(plain[i], '#');
        }
    }
    free(exact);
    free(plain);
    return ok;
}

/* Made with Python's cryptography.AESGCM from the layout in seal.h: other tools can write blobs
 * too. */
static void a_blob_made_by_another_program_opens(void **state)
{
    (void)state;
    static const unsigned char blob[] = {
        0x01, 0x02, 0x6b, 0x31, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b,
        0x6c, 0x6d, 0x6e, 0x6f, 0x31, 0x74, 0xab, 0x14, 0x54, 0x81, 0x3b, 0xff,
        0x5d, 0x4f, 0x2c, 0x8d, 0xb9, 0x17, 0x0f, 0x89, 0xbf, 0x00, 0xaf, 0x92,
        0x20, 0x40, 0x5a, 0x87, 0x56, 0x65, 0xad, 0xca, 0x13, 0xb2, 0xcc, 0x6b,
    };
    struct keyring *k = ring_of("k1:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    assert_true(opens(k, &aad, blob, sizeof(blob)));
    keyring_free(k);
}

static void an_altered_byte_anywhere_does_not_open(void **state)
{
    (void)state;
    /* the same key under a second id: even the id in the blob must not be exchangeable */
    struct keyring *k = ring_of("k1:" KEY_A ",k2:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    struct buf blob = sealed(k, &aad, SECRET, strlen(SECRET));
    assert_true(opens(k, &aad, blob.data, blob.len));
    for (size_t i = 0; i < blob.len; i++) {
        for (int flip = 1; flip < 256; flip++) {
            blob.data[i] = (char)(blob.data[i] ^ flip);
            assert_false(opens(k, &aad, blob.data, blob.len));
            blob.data[i] = (char)(blob.data[i] ^ flip);
        }
    }
    assert_true(opens(k, &aad, blob.data, blob.len));
    buf_done(&blob);
    keyring_free(k);
}

static void a_truncated_or_longer_blob_does_not_open(void **state)
{
    (void)state;
    struct keyring *k = ring_of("k1:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    struct buf blob = sealed(k, &aad, SECRET, strlen(SECRET));
    for (size_t len = 0; len < blob.len; len++) {
        assert_false(opens(k, &aad, blob.data, len));
    }
    buf_add(&blob, "", 1);
    assert_false(opens(k, &aad, blob.data, blob.len));
    buf_done(&blob);
    keyring_free(k);
}

static void a_blob_moved_to_another_row_column_or_tenant_does_not_open(void **state)
{
    (void)state;
    struct keyring *k = ring_of("k1:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    struct buf blob = sealed(k, &aad, SECRET, strlen(SECRET));
    struct seal_aad other = aad_of("webhooks.previous_secret");
    assert_false(opens(k, &other, blob.data, blob.len));
    other = aad;
    other.row.b[15] ^= 1;
    assert_false(opens(k, &other, blob.data, blob.len));
    other = aad;
    other.tenant.b[0] ^= 1;
    assert_false(opens(k, &other, blob.data, blob.len));
    other = (struct seal_aad){.column = aad.column, .row = aad.tenant, .tenant = aad.row};
    assert_false(opens(k, &other, blob.data, blob.len));
    assert_true(opens(k, &aad, blob.data, blob.len));
    buf_done(&blob);
    keyring_free(k);
}

static void rotation_seals_with_the_first_key_and_opens_with_all(void **state)
{
    (void)state;
    struct keyring *old = ring_of("2025:" KEY_A);
    struct keyring *both = ring_of("2026:" KEY_B ",2025:" KEY_A);
    struct keyring *new = ring_of("2026:" KEY_B);
    struct seal_aad aad = aad_of("webhooks.secret");
    struct buf by_old = sealed(old, &aad, SECRET, strlen(SECRET));
    struct buf by_both = sealed(both, &aad, SECRET, strlen(SECRET));
    assert_true(opens(both, &aad, by_old.data, by_old.len));
    assert_true(opens(both, &aad, by_both.data, by_both.len));
    assert_true(opens(new, &aad, by_both.data, by_both.len));
    assert_false(opens(new, &aad, by_old.data, by_old.len)); /* an unknown key id */
    assert_false(opens(old, &aad, by_both.data, by_both.len));
    struct keyring *same_id = ring_of("2025:" KEY_B); /* another key under a known id */
    assert_false(opens(same_id, &aad, by_old.data, by_old.len));
    buf_done(&by_old);
    buf_done(&by_both);
    keyring_free(old);
    keyring_free(both);
    keyring_free(new);
    keyring_free(same_id);
}

static void nonces_and_ciphertexts_differ(void **state)
{
    (void)state;
    struct keyring *k = ring_of("k1:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    struct buf one = sealed(k, &aad, SECRET, strlen(SECRET));
    struct buf two = sealed(k, &aad, SECRET, strlen(SECRET));
    assert_int_equal(one.len, two.len);
    assert_memory_equal(one.data, two.data, 4);
    assert_memory_not_equal(one.data + 4, two.data + 4, 12);
    assert_memory_not_equal(one.data + 16, two.data + 16, strlen(SECRET));
    buf_done(&one);
    buf_done(&two);
    keyring_free(k);
}

static void secrets_of_1_to_256_bytes_seal_and_others_are_refused(void **state)
{
    (void)state;
    struct keyring *k = ring_of("an-id-of-exactly-32-characters__:" KEY_A);
    struct seal_aad aad = aad_of("webhooks.secret");
    unsigned char plain[LIMIT_SECRET + 1];
    memset(plain, 0, sizeof(plain));
    static const size_t lengths[] = {1, 15, 16, 17, LIMIT_SECRET - 1, LIMIT_SECRET};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        struct buf blob = sealed(k, &aad, plain, lengths[i]);
        char out[LIMIT_SECRET];
        size_t len = 0;
        struct err err = {0};
        assert_int_equal(blob.len, 2 + 32 + 12 + lengths[i] + 16);
        assert_true(seal_open(k, &aad, blob.data, blob.len, out, &len, &err));
        assert_int_equal(len, lengths[i]);
        assert_memory_equal(out, plain, len);
        buf_done(&blob);
    }
    struct buf blob;
    struct err err = {0};
    buf_init(&blob, 1024);
    assert_false(seal(k, &aad, plain, LIMIT_SECRET + 1, &blob, &err));
    assert_false(seal(k, &aad, plain, 0, &blob, &err));
    assert_int_equal(blob.len, 0);
    buf_done(&blob);
    buf_init(&blob, 2 + 32 + 12 + 1 + 16 - 1);
    assert_false(seal(k, &aad, plain, 1, &blob, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    buf_done(&blob);
    keyring_free(k);
}

static void key_rings_are_read_as_documented(void **state)
{
    (void)state;
    static const char *const good[] = {
        "k:" KEY_A,
        " k:" KEY_A " ,\tk2:" KEY_B "\r\n",
        "k:" KEY_A "\nk2:" KEY_B "\n\n",
        ",k:" KEY_A ",,",
        "A-z_09:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", /* unpadded */
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        keyring_free(ring_of(good[i]));
    }
    keyring_free(NULL);
}

static void bad_key_rings_are_refused_without_quoting_them(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        " \n , ",
        KEY_A,
        ":" KEY_A,
        "k:",
        "k",
        "k k:" KEY_A,
        "k.1:" KEY_A,
        "k\xc3\xa9:" KEY_A,
        "k: " KEY_A,
        "k:" KEY_A "x",
        "k:" KEY_A " x",
        "an-id-of-more-than-32-characters_:" KEY_A,
        "k:" KEY_A ",k:" KEY_B,
        "k:" KEY_A ";k2:" KEY_B,
        "k:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQ==",   /* 31 bytes */
        "k:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJ",   /* 33 bytes */
        "k:CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\v", /* a blank that is none */
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct err err = {0};
        struct keyring *k = keyring_new(bad[i], &err);
        if (k != NULL) {
            fail_msg("accepted: %s", bad[i]);
        }
        assert_int_equal(err.code, ERR_INVALID);
        assert_true(err.text[0] != '\0');
        assert_null(strstr(err.text, "AAECAw"));
        assert_null(strstr(err.text, "CQkJCQ"));
        assert_null(strstr(err.text, "BwcHBw"));
    }
}

static void sixteen_keys_fit_and_seventeen_do_not(void **state)
{
    (void)state;
    struct buf text;
    struct err err = {0};
    buf_init(&text, 2000);
    for (int i = 0; i < 16; i++) {
        buf_add_fmt(&text, "key%d:%s,", i, KEY_A);
    }
    keyring_free(ring_of(buf_cstr(&text)));
    buf_add_fmt(&text, "key16:%s", KEY_A);
    assert_null(keyring_new(buf_cstr(&text), &err));
    assert_int_equal(err.code, ERR_INVALID);
    buf_done(&text);
}

/* libcurl reads the same queue after each TLS call */
static int openssl_error_queue_is_empty(void **state)
{
    (void)state;
    return ERR_peek_error() == 0 ? 0 : -1;
}

static void a_mac_is_the_same_for_the_ring_that_seals_and_no_other(void **state)
{
    (void)state;
    struct keyring *a = ring_of("a:" KEY_A ",b:" KEY_B);
    struct keyring *same = ring_of("other_id:" KEY_A);
    struct keyring *b = ring_of("b:" KEY_B ",a:" KEY_A);
    unsigned char macs[4][KEYRING_MAC_LEN];
    keyring_mac(a, "data", 4, macs[0]);
    keyring_mac(same, "data", 4, macs[1]);
    keyring_mac(b, "data", 4, macs[2]);
    keyring_mac(a, "date", 4, macs[3]);
    assert_memory_equal(macs[0], macs[1], KEYRING_MAC_LEN);
    assert_memory_not_equal(macs[0], macs[2], KEYRING_MAC_LEN);
    assert_memory_not_equal(macs[0], macs[3], KEYRING_MAC_LEN);
    keyring_free(a);
    keyring_free(same);
    keyring_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_blob_made_by_another_program_opens),
        cmocka_unit_test(an_altered_byte_anywhere_does_not_open),
        cmocka_unit_test(a_truncated_or_longer_blob_does_not_open),
        cmocka_unit_test(a_blob_moved_to_another_row_column_or_tenant_does_not_open),
        cmocka_unit_test(rotation_seals_with_the_first_key_and_opens_with_all),
        cmocka_unit_test(nonces_and_ciphertexts_differ),
        cmocka_unit_test(secrets_of_1_to_256_bytes_seal_and_others_are_refused),
        cmocka_unit_test(key_rings_are_read_as_documented),
        cmocka_unit_test(bad_key_rings_are_refused_without_quoting_them),
        cmocka_unit_test(a_mac_is_the_same_for_the_ring_that_seals_and_no_other),
        cmocka_unit_test(sixteen_keys_fit_and_seventeen_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, openssl_error_queue_is_empty);
}
