/* The operator's commands of the API program. Each prints its answer on stdout and complaints on
 * stderr. */
#include "api_commands.h"

#include <stdio.h>
#include <string.h>

#include "keys.h"
#include "problem.h"
#include "secrets.h"
#include "shell.h"

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

bool api_commands_run(int argc, char *const *argv, int *ret_code)
{
    static const struct shell_program program = {CONFIG_API, "netrecon-webhooks-api", usage};
    *ret_code = 0;
    if (argc < 2) {
        return false;
    }
    if (strcmp(argv[1], "keys") == 0) {
        *ret_code = keys_command(argc - 1, argv + 1);
    } else if (strcmp(argv[1], "secrets") == 0) {
        *ret_code = secrets_command(argc - 1, argv + 1);
    } else if (argc == 2 && strcmp(argv[1], "--problem-reference") == 0) {
        problem_print_reference(stdout);
    } else {
        *ret_code = shell_command(&program, argc, argv);
    }
    return true;
}
