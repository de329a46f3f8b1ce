/* The command `keys` against a real PostgreSQL with the real schema: what it prints, what it keeps
 * and how it fails. */
#include "keys.h"

#include "pg_fixture.h"

#include "api_key.h"
#include "ids.h"

#define N_OF(a) (sizeof(a) / sizeof(*(a)))
#define TENANT  "70000000-0000-4000-8000-000000000000"
#define OTHER   "70000000-0000-4000-8000-000000000001"
#define NOBODY  "70000000-0000-4000-8000-00000000dead"

static struct {
    char out[8192];
    char err[8192];
} said;

static void read_back(FILE *file, char *out, size_t size)
{
    rewind(file);
    const size_t n = fread(out, 1, size - 1, file);
    out[n] = '\0';
    (void)fclose(file);
}

/* Runs the command with the words up to NULL; what it says is in `said`. */
static int keys(const char *const *words)
{
    char *argv[16] = {mem_dup("keys")};
    int argc = 1;
    for (; words[argc - 1] != NULL; argc++) {
        argv[argc] = mem_dup(words[argc - 1]);
    }
    FILE *files[2] = {tmpfile(), tmpfile()};
    const int kept[2] = {fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3),
                         fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)};
    (void)fflush(NULL);
    for (int i = 0; i < 2; i++) {
        assert_true(files[i] != NULL && kept[i] != -1);
        assert_int_equal(i + 1, dup2(fileno(files[i]), i + 1));
    }
    const int code = keys_command(argc, argv);
    (void)fflush(NULL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(i + 1, dup2(kept[i], i + 1));
        (void)close(kept[i]);
    }
    read_back(files[0], said.out, sizeof(said.out));
    read_back(files[1], said.err, sizeof(said.err));
    for (int i = 0; i < argc; i++) {
        free(argv[i]);
    }
    return code;
}
#define KEYS(...) keys((const char *const[]){__VA_ARGS__, NULL})

static void must_say(const char *where, const char *what)
{
    if (strstr(where, what) == NULL) {
        fail_msg("'%s' is not in:\n%s", what, where);
    }
}

static void must_be_seconds_away(const char *column, long seconds)
{
    char text[256];
    pg_server_format(text, sizeof(text),
                     "SELECT abs(extract(epoch FROM %s - now()) - %ld) < 60 FROM api_keys", column,
                     seconds);
    sql_is("t", text);
}

static int begin(void **state)
{
    (void)state;
    if (pg_server.postmaster != 0) {
        char url[160];
        pg_server_url(url, sizeof(url), "postgres");
        assert_int_equal(0, setenv("NRW_DATABASE_URL", url, 1));
        assert_int_equal(0, setenv("NRW_KAFKA_BROKERS", "127.0.0.1:9", 1));
        assert_int_equal(
            0, setenv("NRW_KEYRING", "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", 1));
        sql("DELETE FROM api_keys; DELETE FROM tenants;"
            "INSERT INTO tenants (id, name) VALUES ('" TENANT "', 't'), ('" OTHER "', 'o')");
    }
    return 0;
}

static void a_key_is_printed_once_and_only_its_hash_is_kept(void **state)
{
    (void)state;
    pg_server_needed();
    assert_int_equal(0, KEYS("create", "--tenant", TENANT, "--name", "Grafana f\xc3\xbcr alle"));
    assert_int_equal(API_KEY_TEXT + 1, strlen(said.out));
    assert_int_equal('\n', said.out[API_KEY_TEXT]);
    said.out[API_KEY_TEXT] = '\0';
    unsigned char hash[API_KEY_SHA256];
    assert_true(api_key_hash(said.out, API_KEY_TEXT, hash));
    char text[512];
    pg_server_format(text, sizeof(text),
                     "SELECT tenant_id || ' ' || name || ' ' || scopes::text || ' ' ||"
                     " (expires_at IS NULL AND revoked_at IS NULL AND last_used_at IS NULL)"
                     " FROM api_keys WHERE key_sha256 = sha256('%s')",
                     said.out);
    sql_is(TENANT " Grafana f\xc3\xbcr alle {webhooks_read,webhooks_write} true", text);
    pg_server_format(text, sizeof(text),
                     "SELECT count(*) FROM api_keys k WHERE k::text LIKE '%%%s%%'", said.out + 8);
    sql_is("0", text);
    must_say(said.err, "expires never. It is not shown again.");
    assert_null(strstr(said.err, "nr_live_"));
}

static void scopes_and_expiry_are_as_asked(void **state)
{
    (void)state;
    static const struct {
        const char *expires;
        long seconds;
    } rows[] = {{"90d", 90L * 86400}, {"1h", 3600}, {"36500d", 36500L * 86400}};
    pg_server_needed();
    for (size_t i = 0; i < N_OF(rows); i++) {
        (void)begin(NULL);
        assert_int_equal(0, KEYS("create", "--expires", rows[i].expires, "--scopes",
                                 "webhooks_read", "--name", "n", "--tenant", TENANT));
        sql_is("{webhooks_read}", "SELECT scopes FROM api_keys");
        must_be_seconds_away("expires_at", rows[i].seconds);
    }
    (void)begin(NULL);
    assert_int_equal(0, KEYS("create", "--tenant", TENANT, "--name", "n", "--expires",
                             "2126-01-31T01:00:00+01:00"));
    must_say(said.err, "expires 2126-01-31T00:00:00Z");
    sql_is("t", "SELECT expires_at = '2126-01-31T00:00:00Z' FROM api_keys");
}

static void the_list_has_each_key_of_the_tenant_and_no_secret(void **state)
{
    (void)state;
    pg_server_needed();
    assert_int_equal(0, KEYS("list", "--tenant", TENANT));
    assert_string_equal("", said.out);
    must_say(said.err, "has none");
    sql("INSERT INTO api_keys (id, tenant_id, name, key_sha256, scopes, created_at, expires_at,"
        " revoked_at, last_used_at) VALUES"
        " ('a0000000-0000-4000-8000-000000000001', '" TENANT "', E'one\\n\\x1b[31m\\u009b \\u00fc',"
        "  sha256('1'), '{webhooks_read}', '2026-01-02T03:04:05Z', '2027-01-02T03:04:05Z',"
        "  '2026-02-02T03:04:05Z', '2026-01-03T03:04:05Z'),"
        " ('a0000000-0000-4000-8000-000000000002', '" TENANT "', 'two', sha256('2'), '{}',"
        "  '2026-01-02T03:04:06Z', NULL, NULL, NULL),"
        " ('a0000000-0000-4000-8000-000000000003', '" OTHER "', 'three', sha256('3'), '{}',"
        "  now(), NULL, NULL, NULL)");
    assert_int_equal(0, KEYS("list", "--tenant", TENANT));
    assert_string_equal(
        "id                                    scopes         created               expires     "
        "          revoked               last_used             name\n"
        "a0000000-0000-4000-8000-000000000001  webhooks_read  2026-01-02T03:04:05Z  "
        "2027-01-02T03:04:05Z  2026-02-02T03:04:05Z  2026-01-03T03:04:05Z  one??[31m? \xc3\xbc\n"
        "a0000000-0000-4000-8000-000000000002  -              2026-01-02T03:04:06Z  -           "
        "          -                     -                     two\n",
        said.out);
    assert_string_equal("", said.err);
}

static void revoking_twice_keeps_the_first_time(void **state)
{
    (void)state;
    pg_server_needed();
    sql("INSERT INTO api_keys (id, tenant_id, name, key_sha256) SELECT"
        " ('a0000000-0000-4000-8000-00000000000' || n)::uuid, '" TENANT "', 'key ' || n,"
        " sha256(n::text::bytea) FROM generate_series(1, 2) n");
    assert_int_equal(0, KEYS("revoke", "a0000000-0000-4000-8000-000000000001"));
    must_say(said.out, "API key a0000000-0000-4000-8000-000000000001 'key 1': revoked 20");
    sql_is("key 1", "SELECT name FROM api_keys WHERE revoked_at <= now()");
    sql("UPDATE api_keys SET revoked_at = '2026-02-02T03:04:05Z' WHERE revoked_at IS NOT NULL");
    assert_int_equal(0, KEYS("revoke", "A0000000-0000-4000-8000-000000000001"));
    must_say(said.out, "revoked 2026-02-02T03:04:05Z");
    assert_int_equal(1, KEYS("revoke", "a0000000-0000-4000-8000-000000000003"));
    must_say(said.err, "no API key has the id a0000000-0000-4000-8000-000000000003");
    assert_string_equal("", said.out);
}

static void an_unknown_tenant_is_named(void **state)
{
    (void)state;
    pg_server_needed();
    assert_int_equal(1, KEYS("create", "--tenant", NOBODY, "--name", "n"));
    must_say(said.err, "no tenant has the id " NOBODY);
    assert_string_equal("", said.out);
    assert_int_equal(1, KEYS("list", "--tenant", NOBODY));
    must_say(said.err, "no tenant has the id " NOBODY);
    sql_is("0", "SELECT count(*) FROM api_keys");
}

static void bad_use_changes_nothing_and_says_what_is_wrong(void **state)
{
    (void)state;
#define CREATE "create", "--tenant", TENANT, "--name", "n"
    char name_201[202] = {0};
    memset(name_201, 'n', 201);
    const struct {
        const char *why;
        const char *words[10];
    } rows[] = {
        {"Usage: ", {NULL}},
        {"Usage: ", {"make", "--tenant", TENANT, "--name", "n"}},
        {"Usage: ", {"create"}},
        {"Usage: ", {"create", "--tenant", TENANT}},
        {"Usage: ", {"create", "--name", "n"}},
        {"Usage: ", {CREATE, "--expires"}},
        {"Usage: ", {"list"}},
        {"Usage: ", {"list", "--name", "n"}},
        {"Usage: ", {"list", "--tenant", TENANT, "--name", "n"}},
        {"Usage: ", {"revoke"}},
        {"Usage: ", {"revoke", TENANT, TENANT}},
        {"--tenant 'acme' is not a UUID", {"list", "--tenant", "acme"}},
        {"option '--colour' is unknown", {CREATE, "--colour", "red"}},
        {"--scopes 'scans_read' scope 'scans_read' is not one", {CREATE, "--scopes", "scans_read"}},
        {"--scopes '' ", {CREATE, "--scopes", ""}},
        {"--expires '0d' is no time to come", {CREATE, "--expires", "0d"}},
        {"--expires '36501d'", {CREATE, "--expires", "36501d"}},
        {"--expires '1000000h'", {CREATE, "--expires", "1000000h"}},
        {"--expires '-1d'", {CREATE, "--expires", "-1d"}},
        {"--expires '90'", {CREATE, "--expires", "90"}},
        {"--expires '90days'", {CREATE, "--expires", "90days"}},
        {"--expires 'd'", {CREATE, "--expires", "d"}},
        {"--expires '2020-01-01T00:00:00Z'", {CREATE, "--expires", "2020-01-01T00:00:00Z"}},
        {"--expires '2126-01-01'", {CREATE, "--expires", "2126-01-01"}},
        {"is not one line", {"create", "--tenant", TENANT, "--name", ""}},
        {"is not one line", {"create", "--tenant", TENANT, "--name", "a\nb"}},
        {"is not one line", {"create", "--tenant", TENANT, "--name", "a\x1b[2J"}},
        {"is not one line", {"create", "--tenant", TENANT, "--name", "\xff"}},
        {"is not one line", {"create", "--tenant", TENANT, "--name", name_201}},
        {"revoke takes the id", {"revoke", "nr_live_0123456789abcdef"}},
    };
    pg_server_needed();
    for (size_t i = 0; i < N_OF(rows); i++) {
        const int code = keys(rows[i].words);
        if (code != 2 || strstr(said.err, rows[i].why) == NULL) {
            fail_msg("row %zu: %d, %s", i, code, said.err);
        }
        assert_string_equal("", said.out);
        assert_null(strstr(said.err, "0123456789abcdef"));
    }
    sql_is("0", "SELECT count(*) FROM api_keys");
    assert_int_equal(0, KEYS("--help"));
    must_say(said.out, "Usage: ");
    assert_int_equal(0, KEYS("create", "--tenant", TENANT, "--name", name_201 + 1));
}

static void a_database_that_cannot_be_asked_is_told(void **state)
{
    (void)state;
    pg_server_needed();
    assert_int_equal(0, setenv("NRW_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/d", 1));
    assert_int_equal(1, KEYS("list", "--tenant", TENANT));
    must_say(said.err, "keys: PostgreSQL: ");
    assert_null(strstr(said.err, "hunter2"));
    assert_int_equal(0, setenv("NRW_DATABASE_URL", "postgres//u:hunter2@x", 1));
    assert_int_equal(2, KEYS("list", "--tenant", TENANT));
    must_say(said.err, "NRW_DATABASE_URL: ");
    assert_null(strstr(said.err, "hunter2"));
    assert_int_equal(0, unsetenv("NRW_DATABASE_URL"));
    assert_int_equal(2, KEYS("list", "--tenant", TENANT));
    must_say(said.err, "NRW_DATABASE_URL");
}

int main(void)
{
#define KEYS_TEST(f) cmocka_unit_test_setup(f, begin)
    const struct CMUnitTest tests[] = {
        KEYS_TEST(a_key_is_printed_once_and_only_its_hash_is_kept),
        KEYS_TEST(scopes_and_expiry_are_as_asked),
        KEYS_TEST(the_list_has_each_key_of_the_tenant_and_no_secret),
        KEYS_TEST(revoking_twice_keeps_the_first_time),
        KEYS_TEST(an_unknown_tenant_is_named),
        KEYS_TEST(bad_use_changes_nothing_and_says_what_is_wrong),
        KEYS_TEST(a_database_that_cannot_be_asked_is_told),
    };
    return cmocka_run_group_tests(tests, start_server_with_schema, pg_server_stop);
}
