/* Writes commands in Redis' protocol, and the two forms of a script call: by hash, and by text when
 * the server has lost the hash. hiredis could do the first, but not without casts and copies. Holds
 * no state, sends nothing. Called by redis.c only. */
#include "redis_format.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

#define EVALSHA_WORDS 3 /* EVALSHA, the hash, the number of keys */
#define SHA1_TEXT     40
#define EVALSHA_HEAD  "*%d\r\n$7\r\nEVALSHA\r\n$40\r\n"
#define EVAL_HEAD     "*%d\r\n$4\r\nEVAL\r\n$%zu\r\n"

static void add_words(struct buf *out, int argc, const char *const *argv, const size_t *argv_len)
{
    for (int i = 0; i < argc; i++) {
        buf_add_fmt(out, "$%zu\r\n", argv_len[i]);
        buf_add(out, argv[i], argv_len[i]);
        buf_add(out, "\r\n", 2);
    }
    CHECK(buf_ok(out));
}

void redis_format(struct buf *out, int argc, const char *const *argv, const size_t *argv_len)
{
    buf_reset(out);
    buf_add_fmt(out, "*%d\r\n", argc);
    add_words(out, argc, argv, argv_len);
}

void redis_script_init(struct redis_script *s, const char *name, const char *text)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    CHECK(EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL) == 1);
    CHECK(len * 2 == SHA1_TEXT);
    s->name = name;
    s->text = text;
    for (size_t i = 0; i < len; i++) {
        CHECK(snprintf(s->sha1 + 2 * i, 3, "%02x", digest[i]) == 2);
    }
}

void redis_format_evalsha(struct buf *out, const struct redis_script *s, int n_keys, int argc,
                          const char *const *argv, const size_t *argv_len)
{
    char keys[16];
    int keys_len = snprintf(keys, sizeof(keys), "%d", n_keys);
    CHECK(keys_len > 0 && (size_t)keys_len < sizeof(keys));
    buf_reset(out);
    buf_add_fmt(out, EVALSHA_HEAD "%s\r\n", argc + EVALSHA_WORDS, s->sha1);
    buf_add_fmt(out, "$%d\r\n%s\r\n", keys_len, keys);
    add_words(out, argc, argv, argv_len);
}

void redis_format_eval(struct buf *out, const struct redis_script *s, int argc, const char *evalsha,
                       size_t len)
{
    int head = snprintf(NULL, 0, EVALSHA_HEAD, argc + EVALSHA_WORDS);
    CHECK(head > 0 && (size_t)head + SHA1_TEXT < len);
    size_t skip = (size_t)head + SHA1_TEXT; /* what follows is the same in both forms */
    buf_reset(out);
    buf_add_fmt(out, EVAL_HEAD, argc + EVALSHA_WORDS, strlen(s->text));
    buf_add_str(out, s->text);
    buf_add(out, evalsha + skip, len - skip);
    CHECK(buf_ok(out));
}
