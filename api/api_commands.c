/* The operator's commands of the API program. Each prints its answer on stdout and complaints on
 * stderr. */
#include "api_commands.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "config.h"
#include "healthcheck.h"
#include "keys.h"
#include "problem.h"
#include "secrets.h"

static const char usage[] =
    "Usage: netrecon-webhooks-api [COMMAND]\n"
    "The REST API of NetRecon Webhooks. Configured by NRW_* environment variables.\n"
    "\n"
    "Without a command it runs in the foreground until SIGTERM, logging JSON lines to stdout.\n"
    "  --version             print the version\n"
    "  --help                print this text\n"
    "  --print-config        print the configuration in force, secrets masked\n"
    "  --config-reference    print the table of all settings (Markdown)\n"
    "  --problem-reference   print the table of all errors (Markdown)\n"
    "  keys create|list|revoke ...   manage API keys; keys --help tells more\n"
    "  secrets status|reseal         which keys seal the secrets; seal all with the first one\n"
    "  health [ready]        ask the API of NRW_ADMIN_LISTEN whether it lives (is ready)\n"
    "\n"
    "Exit codes: 0 stopped as asked, 1 could not start or go on, 2 bad configuration or use.\n";

static bool load_config(struct config *cfg)
{
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEMS_MAX);
    const bool ok = config_load(cfg, CONFIG_API, environ, &problems);
    if (!ok) {
        (void)fputs(buf_cstr(&problems), stderr);
    }
    buf_done(&problems);
    return ok;
}

static int print_config(void)
{
    struct config cfg;
    const bool ok = load_config(&cfg);
    if (ok) {
        config_print(&cfg, stdout);
    }
    config_free(&cfg);
    return ok ? 0 : 2;
}

bool api_commands_run(int argc, char *const *argv, int *ret_code)
{
    *ret_code = 0;
    if (argc < 2) {
        return false;
    }
    if (strcmp(argv[1], "keys") == 0) {
        *ret_code = keys_command(argc - 1, argv + 1);
    } else if (strcmp(argv[1], "secrets") == 0) {
        *ret_code = secrets_command(argc - 1, argv + 1);
    } else if (strcmp(argv[1], "health") == 0) {
        *ret_code = healthcheck_command(CONFIG_API, argc - 1, argv + 1);
    } else if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)puts("netrecon-webhooks-api " NRW_VERSION);
    } else if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(usage, stdout);
    } else if (argc == 2 && strcmp(argv[1], "--print-config") == 0) {
        *ret_code = print_config();
    } else if (argc == 2 && strcmp(argv[1], "--config-reference") == 0) {
        config_print_reference(stdout);
    } else if (argc == 2 && strcmp(argv[1], "--problem-reference") == 0) {
        problem_print_reference(stdout);
    } else {
        (void)fputs(usage, stderr);
        *ret_code = 2;
    }
    return true;
}
