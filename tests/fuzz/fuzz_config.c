/* Any environment: the input is cut at NUL bytes into entries. Loading must never crash or leak, a
 * refusal must say why, and what was accepted must print and load again to the same text. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "config.h"
#include "mem.h"

#define ENTRIES_MAX 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *print(const struct config *cfg)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    CHECK(out != NULL);
    config_print(cfg, out);
    CHECK(fclose(out) == 0);
    return text;
}

static void check_round_trip(const struct config *cfg)
{
    char *text = print(cfg);
    char *lines = mem_dup(text);
    char *envp[128] = {NULL};
    size_t n = 0;
    for (char *at = lines, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        *end = '\0';
        envp[n++] = at;
    }
    struct config again;
    struct buf problems;
    buf_init(&problems, 65536);
    CHECK(config_load(&again, CONFIG_WORKER, envp, &problems));
    char *text_again = print(&again);
    CHECK(strcmp(text, text_again) == 0);
    free(text);
    free(lines);
    free(text_again);
    config_free(&again);
    buf_done(&problems);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *envp[ENTRIES_MAX + 4] = {NULL};
    char *copy = mem_dupn((const char *)data, size);
    size_t n = 0;
    for (size_t at = 0; at < size && n < ENTRIES_MAX; at += strlen(copy + at) + 1) {
        bool reads_file =
            strstr(copy + at, "_FILE=") != NULL; /* no file of this machine, and no FIFO */
        if (!reads_file) {
            envp[n++] = copy + at;
        }
    }
    char broker[] = "NRW_KAFKA_BROKERS=k";
    char url[] = "NRW_DATABASE_URL=postgresql:///";
    char keyring[] = "NRW_KEYRING=k";
    envp[n++] = broker;
    envp[n++] = url;
    envp[n++] = keyring;

    struct config cfg;
    struct buf problems;
    buf_init(&problems, 65536);
    bool ok = config_load(&cfg, CONFIG_WORKER, envp, &problems);
    CHECK(ok == (problems.len == 0 && buf_ok(&problems)));
    if (ok) {
        check_round_trip(&cfg);
    }
    config_free(&cfg);
    buf_done(&problems);
    free(copy);
    return 0;
}
