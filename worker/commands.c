/* The operator's commands of the worker program. Each prints its answer on stdout and complaints on
 * stderr. */
#include "commands.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bounds.h"
#include "buf.h"
#include "dlq.h"
#include "ids.h"
#include "seal.h"
#include "shell.h"

static const char usage[] =
    "Usage: netrecon-webhooks-worker [COMMAND]\n"
    "Consumes events from Kafka and delivers them to the webhooks in PostgreSQL. Configured by "
    "NRW_* environment variables.\n"
    "\n"
    "Without a command it runs in the foreground until SIGTERM, logging JSON lines to stdout.\n"
    "  --version            print the version\n"
    "  --help               print this text\n"
    "  --print-config       print the configuration in force, secrets masked\n"
    "  --config-reference   print the table of all settings (Markdown)\n"
    "  seal --webhook UUID --tenant UUID [--column webhooks.secret|webhooks.previous_secret]\n"
    "                       read a webhook's secret from stdin, print it sealed with the first key "
    "of NRW_KEYRING,\n"
    "                       as a bytea literal for SQL (\\x...)\n"
    "  dlq list|redrive ...  look at the dead-letter topic, send letters again; dlq --help tells "
    "more\n"
    "  health [ready]       ask the worker of NRW_ADMIN_LISTEN whether it lives (is ready)\n"
    "\n"
    "Exit codes: 0 stopped as asked, 1 could not start or go on, 2 bad configuration or use.\n";

struct seal_options {
    struct uuid webhook;
    struct uuid tenant;
    const char *column;
};

static bool parse_seal(int argc, char *const *argv, struct seal_options *o)
{
    bool have_webhook = false;
    bool have_tenant = false;
    o->column = "webhooks.secret";
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *value = argv[i + 1];
        if (strcmp(argv[i], "--webhook") == 0) {
            have_webhook = uuid_parse(value, strlen(value), &o->webhook);
        } else if (strcmp(argv[i], "--tenant") == 0) {
            have_tenant = uuid_parse(value, strlen(value), &o->tenant);
        } else if (strcmp(argv[i], "--column") == 0 &&
                   (strcmp(value, "webhooks.secret") == 0 ||
                    strcmp(value, "webhooks.previous_secret") == 0)) {
            o->column = value;
        } else {
            return false;
        }
    }
    return have_webhook && have_tenant && argc % 2 == 0;
}

/* One line or all of stdin; a trailing newline is not part of the secret. */
static bool read_secret(char *secret, size_t size, size_t *ret_len)
{
    size_t n = 0;
    ssize_t got = 0;
    while (n < size && (got = read(STDIN_FILENO, secret + n, size - n)) > 0) {
        n += (size_t)got;
    }
    if (n > 0 && secret[n - 1] == '\n') {
        n--;
    }
    *ret_len = n;
    return got != -1 && n >= 1 && n <= LIMIT_SECRET;
}

static bool seal_secret(const struct config *cfg, const struct seal_options *o, const char *secret,
                        size_t len)
{
    struct err err = {0};
    struct buf blob;
    buf_init(&blob, 1024);
    const struct seal_aad aad = {.column = o->column, .row = o->webhook, .tenant = o->tenant};
    struct keyring *keys = keyring_new(cfg->keyring, &err);
    const bool ok = keys != NULL && seal(keys, &aad, secret, len, &blob, &err);
    if (ok) {
        (void)fputs("\\x", stdout);
        for (size_t i = 0; i < blob.len; i++) {
            (void)printf("%02x", (unsigned)(unsigned char)blob.data[i]);
        }
        (void)putchar('\n');
    } else {
        (void)fprintf(stderr, "seal: %s\n", err.text);
    }
    keyring_free(keys);
    buf_done(&blob);
    return ok;
}

static int run_seal(int argc, char *const *argv)
{
    struct seal_options o;
    if (!parse_seal(argc, argv, &o)) {
        (void)fputs(usage, stderr);
        return 2;
    }
    struct config cfg;
    char secret[LIMIT_SECRET + 2];
    size_t len = 0;
    int code = 2;
    if (shell_config(&cfg, CONFIG_WORKER)) {
        if (!read_secret(secret, sizeof(secret), &len)) {
            (void)fprintf(stderr, "seal: the secret on stdin must have 1 to %d bytes\n",
                          LIMIT_SECRET);
        } else {
            code = seal_secret(&cfg, &o, secret, len) ? 0 : 1;
        }
        OPENSSL_cleanse(secret, sizeof(secret));
    }
    config_free(&cfg);
    return code;
}

bool commands_run(int argc, char *const *argv, int *ret_code)
{
    static const struct shell_program program = {CONFIG_WORKER, "netrecon-webhooks-worker", usage};
    *ret_code = 0;
    if (argc < 2) {
        return false;
    }
    if (strcmp(argv[1], "seal") == 0) {
        *ret_code = run_seal(argc, argv);
    } else if (strcmp(argv[1], "dlq") == 0) {
        *ret_code = dlq_command(argc - 1, argv + 1);
    } else {
        *ret_code = shell_command(&program, argc, argv);
    }
    return true;
}
