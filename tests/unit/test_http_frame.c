/* common/http_frame.c: each rule of RFC 9112 that it keeps, each leniency of others that it lacks,
 * each limit at its maximum and one above. Every request is read in one piece and byte by byte. */
#include "http_frame.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

#define TARGET_MAX  32
#define HEADERS_MAX 700
#define HEADERS_N   5
#define BODY_MAX    64

static const struct frame_limits limits = {.target_max = TARGET_MAX,
                                           .headers_max = HEADERS_MAX,
                                           .headers_n = HEADERS_N,
                                           .body_max = BODY_MAX};

#define G    "GET / HTTP/1.1\r\nHost: x\r\n"
#define P    "POST / HTTP/1.1\r\nHost: x\r\n"
#define C    P "Transfer-Encoding: chunked\r\n\r\n"
#define NEXT "GET /next HTTP/1.1\r\n"

struct row {
    const char *name, *bytes;
    enum frame_fault fault; /* FRAME_GOOD: complete, and NEXT is not part of it */
    size_t len;             /* of bytes; 0: a C string */
};

/* The request alone, then with what follows on the connection. */
static void expect(const char *name, const char *bytes, size_t len, enum frame_fault fault)
{
    struct buf all;
    buf_init(&all, 4096);
    buf_add(&all, bytes, len);
    buf_add_str(&all, NEXT);
    for (size_t step = 1; step <= all.len; step = step == 1 ? all.len : all.len + 1) {
        struct frame f;
        size_t took = 0;
        frame_begin(&f);
        while (took < all.len && !f.done && f.fault == FRAME_GOOD) {
            const size_t n = step < all.len - took ? step : all.len - took;
            took += frame_feed(&f, &limits, all.data + took, n);
        }
        if (f.fault != fault || f.done != (fault == FRAME_GOOD) || (f.done && took != len)) {
            fail_msg("%s (%zu at a time): fault %d \"%s\", not %d; done %d after %zu of %zu", name,
                     step, f.fault, frame_text(f.fault), fault, f.done, took, len);
        }
    }
    buf_done(&all);
}

static void expect_rows(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        expect(rows[i].name, rows[i].bytes, rows[i].len > 0 ? rows[i].len : strlen(rows[i].bytes),
               rows[i].fault);
    }
}
#define EXPECT_ROWS(rows) expect_rows(rows, sizeof(rows) / sizeof(*(rows)))

static void test_requests_end_where_they_say(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"no body", G "\r\n", FRAME_GOOD, 0},
        {"HTTP/1.0 needs no Host", "GET / HTTP/1.0\r\n\r\n", FRAME_GOOD, 0},
        {"length", P "Content-Length: 5\r\n\r\nhello", FRAME_GOOD, 0},
        {"a body of GET", G "Content-Length: 5\r\n\r\nhello", FRAME_GOOD, 0},
        {"length 0 of HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", FRAME_GOOD,
         0},
        {"leading zeros", P "Content-Length: 0000000005\r\n\r\nhello", FRAME_GOOD, 0},
        {"blanks around a value", P "content-LENGTH:   5  \r\n\r\nhello", FRAME_GOOD, 0},
        {"no blank before a value", P "Content-Length:5\r\n\r\nhello", FRAME_GOOD, 0},
        {"chunks", C "5\r\nhello\r\n0A\r\n, world 23\r\n0\r\n\r\n", FRAME_GOOD, 0},
        {"no chunk", C "000\r\n\r\n", FRAME_GOOD, 0},
        {"CHUNKED", P "transfer-encoding: CHUNKED\r\n\r\n1\r\n\n\r\n0\r\n\r\n", FRAME_GOOD, 0},
        {"continue", P "Content-Length: 1\r\nExpect: 100-Continue\r\n\r\na", FRAME_GOOD, 0},
        {"HTTP/1.0 expects nothing", "GET / HTTP/1.0\r\nExpect: x\r\n\r\n", FRAME_GOOD, 0},
        {"any token as a method", "brew / HTTP/1.1\r\nHost: x\r\n\r\n", FRAME_GOOD, 0},
        {"percent", "GET /%2F%0a%f0? HTTP/1.1\r\nHost: x\r\n\r\n", FRAME_GOOD, 0},
        {"IPv6", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", FRAME_GOOD, 0},
        {"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", FRAME_GOOD, 0},
        {"latin in a value", G "User-Agent: caf\xe9\tx\r\n\r\n", FRAME_GOOD, 0},
        {"an empty value", G "X:\r\n\r\n", FRAME_GOOD, 0},
    };
    EXPECT_ROWS(rows);
}

static void test_first_lines_that_are_refused(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"HTTP/0.9", "GET /\r\n", FRAME_TARGET, 0},
        {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FRAME_TARGET, 0},
        {"TLS", "\x16\x03\x01\x02", FRAME_METHOD, 0},
        {"empty line first", "\r\n" G "\r\n", FRAME_METHOD, 0},
        {"blank first", " " G "\r\n", FRAME_METHOD, 0},
        {"2 characters", "GE / HTTP/1.1\r\n", FRAME_METHOD, 0},
        {"17 characters", "ABCDEFGHIJKLMNOPQ / HTTP/1.1\r\n", FRAME_METHOD, 0},
        {"NUL in the method", "G\0T / HTTP/1.1\r\n", FRAME_METHOD, 16},
        {"absolute form", "GET http://x/ HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"authority form", "GET x:443 HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"CONNECT", "CONNECT x:443 HTTP/1.1\r\n", FRAME_METHOD, 0},
        {"asterisk form", "OPTIONS * HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"two slashes", "GET //evil/ HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"two blanks", "GET  / HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"a tab", "GET /\tHTTP/1.1\r\n", FRAME_TARGET, 0},
        {"NUL", "GET /a\0b HTTP/1.1\r\n", FRAME_TARGET, 20},
        {"%00", "GET /a%00 HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"%0", "GET /a%0 HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"%zz", "GET /a%zz HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"%%20", "GET /a%%20 HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"not ASCII", "GET /\xc3\xa9 HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"fragment", "GET /#a HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"backslash", "GET /\\x HTTP/1.1\r\n", FRAME_TARGET, 0},
        {"a blank in it", "GET /a b HTTP/1.1\r\n", FRAME_VERSION, 0},
        {"HTTP/1.2", "GET / HTTP/1.2\r\n", FRAME_VERSION, 0},
        {"HTTP/1.10", "GET / HTTP/1.10\r\n", FRAME_VERSION, 0},
        {"http/1.1", "GET / http/1.1\r\n", FRAME_VERSION, 0},
        {"a blank behind", "GET / HTTP/1.1 \r\n", FRAME_VERSION, 0},
        {"NUL behind", "GET / HTTP/1.1\0\r\n", FRAME_VERSION, 17},
        {"bare LF", "GET / HTTP/1.1\nHost: x\n\n", FRAME_LINE_END, 0},
        {"bare CR", "GET / HTTP/1.1\rHost: x\r\n\r\n", FRAME_LINE_END, 0},
    };
    EXPECT_ROWS(rows);
}

static void test_headers_that_are_refused(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"no colon", G "nonsense\r\n\r\n", FRAME_HEADER_NAME, 0},
        {"no name", G ": x\r\n\r\n", FRAME_HEADER_NAME, 0},
        {"blank before the colon", P "Content-Length : 5\r\n\r\nhello", FRAME_HEADER_NAME, 0},
        {"tab before the colon", P "Content-Length\t: 5\r\n\r\nhello", FRAME_HEADER_NAME, 0},
        {"NUL in a name", G "X\0: x\r\n\r\n", FRAME_HEADER_NAME, sizeof(G "X\0: x\r\n\r\n") - 1},
        {"a name that is not ASCII", G "X\xe9: x\r\n\r\n", FRAME_HEADER_NAME, 0},
        {"folded", G "X: a\r\n Content-Length: 5\r\n\r\n", FRAME_HEADER_FOLDED, 0},
        {"folded by a tab", G "X: a\r\n\tb\r\n\r\n", FRAME_HEADER_FOLDED, 0},
        {"NUL in a value", G "X: a\0b\r\n\r\n", FRAME_HEADER_VALUE,
         sizeof(G "X: a\0b\r\n\r\n") - 1},
        {"vertical tab", P "Transfer-Encoding:\vchunked\r\n\r\n", FRAME_HEADER_VALUE, 0},
        {"DEL", G "X: \x7f\r\n\r\n", FRAME_HEADER_VALUE, 0},
        {"bare LF after a value", G "X: a\n\r\n", FRAME_LINE_END, 0},
        {"bare CR in a value", G "X: a\rb\r\n\r\n", FRAME_LINE_END, 0},
        {"bare LF at the end", G "\n", FRAME_LINE_END, 0},
        {"bare CR at the end", G "\rX", FRAME_LINE_END, 0},
        {"no Host", "GET / HTTP/1.1\r\n\r\n", FRAME_HOST, 0},
        {"two Hosts", G "Host: x\r\n\r\n", FRAME_HOST, 0},
        {"Host with a path", "GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", FRAME_HOST, 0},
        {"Host with a user", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", FRAME_HOST, 0},
        {"Host with a blank", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", FRAME_HOST, 0},
        {"Host list", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", FRAME_HOST, 0},
        {"expectation", P "Content-Length: 1\r\nExpect: 200-ok\r\n\r\na", FRAME_EXPECT, 0},
        {"one of two expectations", P "Expect: 100-continue\r\nExpect: x\r\n\r\n", FRAME_EXPECT, 0},
    };
    EXPECT_ROWS(rows);
}

static void test_lengths_that_are_refused(void **state)
{
    (void)state;
    static const char *const values[] = {
        "+5",  "-5",    "0x5", "5,5",         "5, 5",        "5 5",
        "",    "5.0",   "5a",  "a",           "\t5",         "5\t",
        "1e1", "\"5\"", "_5",  "99999999999", "00000000005", "18446744073709551621"};
    char text[256];
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        (void)snprintf(text, sizeof(text), P "Content-Length: %s\r\n\r\nhello", values[i]);
        expect(text, text, strlen(text), FRAME_LENGTH);
    }
    static const struct row rows[] = {
        {"twice, equal", P "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", FRAME_LENGTH, 0},
        {"twice", P "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", FRAME_LENGTH, 0},
        {"of HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", FRAME_BODY_NOT_TAKEN,
         0},
        {"of TRACE", "TRACE / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
         FRAME_BODY_NOT_TAKEN, 0},
        {"of an unknown method", "get / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
         FRAME_BODY_NOT_TAKEN, 0},
        {"chunks of HEAD", "HEAD / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
         FRAME_BODY_NOT_TAKEN, 0},
    };
    EXPECT_ROWS(rows);
}

static void test_encodings_that_are_refused(void **state)
{
    (void)state;
    static const char *const values[] = {"gzip, chunked",
                                         "chunked, identity",
                                         "chunked, chunked",
                                         "xchunked",
                                         "chunkedx",
                                         "identity",
                                         "gzip",
                                         "",
                                         "chunked;q=1",
                                         "\"chunked\"",
                                         "\tchunked",
                                         "chunked\t",
                                         "chunked,",
                                         ",chunked",
                                         "chunk ed"};
    char text[256];
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        (void)snprintf(text, sizeof(text), P "Transfer-Encoding: %s\r\n\r\n0\r\n\r\n", values[i]);
        expect(text, text, strlen(text), FRAME_ENCODING);
    }
#define TE "Transfer-Encoding: chunked\r\n"
    static const struct row rows[] = {
        {"with a length", P "Content-Length: 5\r\n" TE "\r\n0\r\n\r\n", FRAME_ENCODING, 0},
        {"before a length", P TE "Content-Length: 5\r\n\r\n0\r\n\r\n", FRAME_ENCODING, 0},
        {"twice", P TE TE "\r\n0\r\n\r\n", FRAME_ENCODING, 0},
        {"HTTP/1.0", "POST / HTTP/1.0\r\n" TE "\r\n0\r\n\r\n", FRAME_ENCODING, 0},
    };
    EXPECT_ROWS(rows);
#undef TE
}

/* At the maximum it is read whole, blanks and all; one more and its end would not be seen. */
static void test_a_value_that_matters_and_is_too_long_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *begin, *end, *body;
        enum frame_fault fault; /* at the maximum */
    } rows[] = {
        {"Transfer-Encoding", "chunked", "", "0\r\n\r\n", FRAME_GOOD},
        {"Transfer-Encoding", "chunked", ", identity", "0\r\n\r\n", FRAME_ENCODING},
        {"Content-Length", "2", "", "ok", FRAME_GOOD},
        {"Content-Length", "2", "0", "ok", FRAME_LENGTH},
        {"Expect", "100-continue", "", "", FRAME_GOOD},
        {"Expect", "100-continue", ", else", "", FRAME_EXPECT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        for (int extra = 0; extra <= 1; extra++) {
            char text[512];
            const int blanks =
                FRAME_VALUE_MAX + extra - (int)strlen(rows[i].begin) - (int)strlen(rows[i].end);
            (void)snprintf(text, sizeof(text), P "%s: %s%*s%s\r\n\r\n%s", rows[i].name,
                           rows[i].begin, blanks, "", rows[i].end, rows[i].body);
            expect(rows[i].name, text, strlen(text),
                   extra > 0 ? FRAME_HEADERS_LARGE : rows[i].fault);
        }
    }
}

static void test_chunks_that_are_refused(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"plus", C "+5\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"minus", C "-1\r\n\r\n", FRAME_CHUNK, 0},
        {"0x", C "0x5\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"blank before", C " 5\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"blank behind", C "5 \r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"extension", C "5;a=b\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"empty line", C "\r\n5\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"bare LF", C "5\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"bare CR", C "5\rhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"too much data", C "5\r\nhello!\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"LF behind the data", C "5\r\nhello\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"9 digits", C "000000005\r\nhello\r\n0\r\n\r\n", FRAME_CHUNK, 0},
        {"overflow", C "ffffffffffffffff\r\n", FRAME_CHUNK, 0},
        {"large", C "ffffffff\r\n", FRAME_BODY_LARGE, 0},
        {"trailer", C "0\r\nX: y\r\n\r\n", FRAME_TRAILER, 0},
        {"bare LF at the end", C "0\r\n\n", FRAME_TRAILER, 0},
    };
    EXPECT_ROWS(rows);
}

/* what is n times c, between before and after. */
static void expect_many(const char *name, const char *before, char c, size_t n, const char *after,
                        enum frame_fault fault)
{
    struct buf text;
    buf_init(&text, 1024);
    buf_add_str(&text, before);
    memset(buf_extend(&text, n), c, n);
    buf_add_str(&text, after);
    expect(name, text.data, text.len, fault);
    buf_done(&text);
}

static void test_limits_hold_exactly(void **state)
{
    (void)state;
    static const char v[] = " HTTP/1.1\r\nHost: x\r\n\r\n";
    expect_many("target", "GET /", 'a', TARGET_MAX - 1, v, FRAME_GOOD);
    expect_many("target + 1", "GET /", 'a', TARGET_MAX, v, FRAME_TARGET_LONG);
    const size_t used = strlen("Host: x\r\nX: \r\n");
    expect_many("headers", G "X: ", 'a', HEADERS_MAX - used, "\r\n\r\n", FRAME_GOOD);
    expect_many("headers + 1", G "X: ", 'a', HEADERS_MAX - used + 1, "\r\n\r\n",
                FRAME_HEADERS_LARGE);
    expect("header lines", G "a:\r\nb:\r\nc:\r\nd:\r\n\r\n", strlen(G) + 16 + 2, FRAME_GOOD);
    expect("header lines + 1", G "a:\r\nb:\r\nc:\r\nd:\r\ne:\r\n\r\n", strlen(G) + 20 + 2,
           FRAME_HEADERS_LARGE);
    expect_many("body", P "Content-Length: 64\r\n\r\n", 'a', BODY_MAX, "", FRAME_GOOD);
    expect_many("body + 1", P "Content-Length: 65\r\n\r\n", 'a', BODY_MAX + 1, "",
                FRAME_BODY_LARGE);
    expect_many("chunks", C "20\r\n01234567890123456789012345678901\r\n20\r\n", 'a', 32,
                "\r\n0\r\n\r\n", FRAME_GOOD);
    expect_many("chunks + 1", C "20\r\n01234567890123456789012345678901\r\n21\r\n", 'a', 33,
                "\r\n0\r\n\r\n", FRAME_BODY_LARGE);
    expect_many("Host", "GET / HTTP/1.0\r\nHost: ", 'a', HEADERS_MAX, "\r\n\r\n",
                FRAME_HEADERS_LARGE);
}

static void test_every_fault_has_a_status_and_words(void **state)
{
    (void)state;
    for (int i = FRAME_METHOD; i <= FRAME_DISAGREED; i++) {
        assert_in_range(frame_status((enum frame_fault)i), 400, 431);
        assert_true(strlen(frame_text((enum frame_fault)i)) > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_end_where_they_say),
        cmocka_unit_test(test_first_lines_that_are_refused),
        cmocka_unit_test(test_headers_that_are_refused),
        cmocka_unit_test(test_lengths_that_are_refused),
        cmocka_unit_test(test_encodings_that_are_refused),
        cmocka_unit_test(test_a_value_that_matters_and_is_too_long_is_refused),
        cmocka_unit_test(test_chunks_that_are_refused),
        cmocka_unit_test(test_limits_hold_exactly),
        cmocka_unit_test(test_every_fault_has_a_status_and_words),
    };
    return cmocka_run_group_tests_name("http_frame", tests, NULL, NULL);
}
