/* From a row of the table to something that can be delivered to. */
#include "webhook.h"

#include "worker_fixture.h"

#include "event_types.h"

#define KEYS    "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define UNTIL   INT64_C(1773570600000000)
#define BLOBS_N 4

static struct netguard *guard;
static struct keyring *keys;
static struct buf blobs[BLOBS_N]; /* the rows of one test borrow them */
static size_t blobs_n;

static int begin(void **state)
{
    (void)state;
    guard = netguard_new("", "", NULL);
    keys = keyring_new(KEYS, NULL);
    return guard == NULL || keys == NULL;
}

static int end(void **state)
{
    (void)state;
    netguard_free(guard);
    keyring_free(keys);
    return 0;
}

static int drop_blobs(void **state)
{
    (void)state;
    while (blobs_n > 0) {
        buf_done(&blobs[--blobs_n]);
    }
    return 0;
}

/* The secret sealed to column and row, as the API does it. */
static const struct buf *sealed(const char *column, const struct webhook_row *row,
                                const char *secret, size_t len)
{
    struct err err = {0};
    const struct seal_aad aad = {.column = column, .row = row->id, .tenant = row->tenant_id};
    assert_true(blobs_n < BLOBS_N);
    struct buf *b = &blobs[blobs_n++];
    buf_init(b, 1024);
    if (!seal(keys, &aad, secret, len, b, &err)) {
        fail_msg("%s", err.text);
    }
    return b;
}

static struct webhook_row make_row(const char *url, const char *events)
{
    struct webhook_row row = {
        .id = id_of(0x3b, 1),
        .tenant_id = id_of(0x70, 1),
        .version = 7,
        .url = url,
        .url_len = strlen(url),
        .events = events,
        .events_len = strlen(events),
    };
    const struct buf *b = sealed("webhooks.secret", &row, "new secret of 16", 16);
    row.secret = b->data;
    row.secret_len = b->len;
    return row;
}

static void give_previous(struct webhook_row *row, const char *column)
{
    const struct buf *b = sealed(column, row, "old secret of 16", 16);
    row->previous_secret = b->data;
    row->previous_secret_len = b->len;
    row->previous_until_us = UNTIL;
}

static struct webhook *load(const struct webhook_row *row)
{
    return webhook_new(row, false, guard, keys);
}

static void signs_with(const struct signer *s, const char *secret)
{
    char expected[SIGN_NETRECON_SIZE];
    char got[SIGN_NETRECON_SIZE];
    struct signer *reference = signer_new(secret, strlen(secret), NULL);
    assert_non_null(reference);
    assert_non_null(s);
    assert_true(signer_netrecon(reference, "body", 4, expected, NULL));
    assert_true(signer_netrecon(s, "body", 4, got, NULL));
    assert_string_equal(expected, got);
    signer_free(reference);
}

static void a_good_row_is_usable(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/a?b=c", "*");
    row.failing = true;
    struct webhook *wh = load(&row);
    assert_int_equal(WEBHOOK_USABLE, wh->fault);
    assert_true(uuid_equal(&row.id, &wh->id));
    assert_true(uuid_equal(&row.tenant_id, &wh->tenant_id));
    assert_int_equal(7, wh->version);
    assert_true(wh->failing);
    assert_string_equal("https://hooks.example.com/a?b=c", wh->endpoint.url);
    signs_with(wh->signer, "new secret of 16");
    assert_null(wh->previous);
    webhook_unref(wh);
}

/* The array of patterns as the query gives it: separated by one blank. */
static const struct {
    const char *events;
    const char *wants;  /* a type that it matches, or NULL */
    const char *spurns; /* a type that it does not match, or NULL */
} patterns[] = {
    {"alert.created", "alert.created", "alert.resolved"},
    {"alert.created scan.failed", "scan.failed", "scan.started"},
    {"alert.*", "alert.resolved", "scan.failed"},
    {"*", "backup.failed", NULL},
    {"*", "type.of.tomorrow", NULL},
    {"alert.* scan.*", "scan.started", "type.of.tomorrow"},
    {"no.such.type alert.created", "alert.created", "no.such.type"},
    {"  alert.created  scan.failed ", "scan.failed", "scan.started"},
    {"no.such.type", NULL, "no.such.type"},
    {"", NULL, "alert.created"},
    {"alert.creat", NULL, "alert.created"},
    {"alert.created.", NULL, "alert.created"},
};

static void patterns_become_the_types_that_they_match(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(patterns); i++) {
        struct webhook_row row = make_row("https://hooks.example.com/", "");
        const size_t len = strlen(patterns[i].events); /* not NUL-terminated in the row */
        char *events = malloc(len + 1);
        assert_non_null(events);
        char *tight = memcpy(events + 1, patterns[i].events, len);
        row.events = tight;
        row.events_len = len;
        struct webhook *wh = load(&row);
        const char *yes = patterns[i].wants;
        const char *no = patterns[i].spurns;
        if ((yes != NULL && (wh->mask & event_type_bit(yes, strlen(yes))) == 0) ||
            (no != NULL && (wh->mask & event_type_bit(no, strlen(no))) != 0)) {
            fail_msg("\"%s\": mask %x", patterns[i].events, wh->mask);
        }
        webhook_unref(wh);
        free(events);
        (void)drop_blobs(NULL);
    }
}

static const char *const bad_urls[] = {"http://hooks.example.com/",
                                       "https://127.0.0.1/",
                                       "https://[::ffff:10.0.0.1]/",
                                       "https://localhost/",
                                       "ftp://hooks.example.com",
                                       "not a url",
                                       "",
                                       "https://u:p@example.com/"};

static void a_url_against_the_policy_is_a_fault_that_says_so(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(bad_urls); i++) {
        const struct webhook_row row = make_row(bad_urls[i], "alert.created");
        struct webhook *wh = load(&row);
        if (wh->fault != WEBHOOK_BAD_URL) {
            fail_msg("%s: fault %d", bad_urls[i], wh->fault);
        }
        assert_true(wh->fault_text[0] != '\0');
        assert_true(wh->mask != 0); /* it still takes events: each is a failed attempt */
        webhook_unref(wh);
        (void)drop_blobs(NULL);
    }
}

static void plain_http_is_usable_where_the_operator_allows_it(void **state)
{
    (void)state;
    const struct webhook_row row = make_row("http://hooks.example.com/", "*");
    struct webhook *wh = webhook_new(&row, true, guard, keys);
    assert_int_equal(WEBHOOK_USABLE, wh->fault);
    webhook_unref(wh);
}

static void is_without_secret(const struct webhook_row *row, const char *name)
{
    struct webhook *wh = load(row);
    if (wh->fault != WEBHOOK_NO_SECRET) {
        fail_msg("%s: fault %d", name, wh->fault);
    }
    assert_true(wh->fault_text[0] != '\0');
    assert_null(strstr(wh->fault_text, "secret of 16"));
    webhook_unref(wh);
}

static void a_secret_that_does_not_open_is_a_fault_of_ours(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/", "*");
    char cut[1024];
    memcpy(cut, row.secret, row.secret_len);
    cut[row.secret_len - 1] ^= 1;
    const struct webhook_row good = row;

    row.secret = cut;
    is_without_secret(&row, "altered");
    row = good;
    row.secret_len -= 1;
    is_without_secret(&row, "cut short");
    row = good;
    row.secret_len = 0;
    is_without_secret(&row, "empty");
    row = good;
    row.id = id_of(0x3b, 2);
    is_without_secret(&row, "another row's");
    row = good;
    row.tenant_id = id_of(0x70, 2);
    is_without_secret(&row, "another tenant's");
    row = good;
    struct keyring *other = keyring_new("k2:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", NULL);
    assert_non_null(other);
    struct webhook *wh = webhook_new(&row, false, guard, other);
    assert_int_equal(WEBHOOK_NO_SECRET, wh->fault);
    webhook_unref(wh);
    keyring_free(other);
}

static void a_rotation_has_both_secrets(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/", "*");
    give_previous(&row, "webhooks.previous_secret");
    struct webhook *wh = load(&row);
    assert_int_equal(WEBHOOK_USABLE, wh->fault);
    signs_with(wh->signer, "new secret of 16");
    signs_with(wh->previous, "old secret of 16");
    assert_int_equal(UNTIL, wh->previous_until_us);
    webhook_unref(wh);
}

/* Receivers that only know the old secret would refuse: better late than refused. */
static void a_previous_secret_that_does_not_open_is_a_fault_of_ours(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/", "*");
    give_previous(&row, "webhooks.secret"); /* sealed to the other column */
    is_without_secret(&row, "previous");
}

static void a_secret_of_256_bytes_fits(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/", "*");
    char secret[LIMIT_SECRET + 1];
    memset(secret, 's', LIMIT_SECRET);
    secret[LIMIT_SECRET] = '\0';
    const struct buf *b = sealed("webhooks.secret", &row, secret, LIMIT_SECRET);
    row.secret = b->data;
    row.secret_len = b->len;
    struct webhook *wh = load(&row);
    assert_int_equal(WEBHOOK_USABLE, wh->fault);
    signs_with(wh->signer, secret);
    webhook_unref(wh);
}

static void the_last_reference_frees_it(void **state)
{
    (void)state;
    struct webhook_row row = make_row("https://hooks.example.com/", "*");
    give_previous(&row, "webhooks.previous_secret");
    struct webhook *wh = load(&row);
    assert_ptr_equal(wh, webhook_ref(wh));
    webhook_unref(wh);
    signs_with(wh->previous, "old secret of 16"); /* still whole */
    webhook_unref(wh);
    webhook_unref(NULL);
}

int main(void)
{
#define WEBHOOK_TEST(f) cmocka_unit_test_teardown(f, drop_blobs)
    const struct CMUnitTest tests[] = {
        WEBHOOK_TEST(a_good_row_is_usable),
        WEBHOOK_TEST(patterns_become_the_types_that_they_match),
        WEBHOOK_TEST(a_url_against_the_policy_is_a_fault_that_says_so),
        WEBHOOK_TEST(plain_http_is_usable_where_the_operator_allows_it),
        WEBHOOK_TEST(a_secret_that_does_not_open_is_a_fault_of_ours),
        WEBHOOK_TEST(a_rotation_has_both_secrets),
        WEBHOOK_TEST(a_previous_secret_that_does_not_open_is_a_fault_of_ours),
        WEBHOOK_TEST(a_secret_of_256_bytes_fits),
        WEBHOOK_TEST(the_last_reference_frees_it),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
