/* The commands that both programs have. Their own are in their main folders and come here with what
 * is not theirs. */
#include "shell.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"
#include "healthcheck.h"

bool shell_config(struct config *cfg, enum config_program program)
{
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEMS_MAX);
    const bool ok = config_load(cfg, program, environ, &problems);
    if (!ok) {
        (void)fputs(buf_cstr(&problems), stderr);
    }
    buf_done(&problems);
    return ok;
}

static int print_config(enum config_program program)
{
    struct config cfg;
    const bool ok = shell_config(&cfg, program);
    if (ok) {
        config_print(&cfg, stdout);
    }
    config_free(&cfg);
    return ok ? 0 : 2;
}

static int ask_health(enum config_program program, int argc, char *const *argv)
{
    const bool ready = argc == 2 && strcmp(argv[1], "ready") == 0;
    if (argc > 1 && !ready) {
        (void)fputs("Usage: health [ready]\n", stderr);
        return 2;
    }
    struct config cfg;
    int code = 2;
    if (shell_config(&cfg, program)) {
        code = healthcheck_ask(cfg.admin_listen, ready ? "/ready" : "/health");
    }
    config_free(&cfg);
    return code;
}

int shell_command(const struct shell_program *p, int argc, char *const *argv)
{
    if (strcmp(argv[1], "health") == 0) {
        return ask_health(p->program, argc - 1, argv + 1);
    }
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
        (void)printf("%s %s\n", p->name, NRW_VERSION);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        (void)fputs(p->usage, stdout);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--print-config") == 0) {
        return print_config(p->program);
    }
    if (argc == 2 && strcmp(argv[1], "--config-reference") == 0) {
        config_print_reference(stdout);
        return 0;
    }
    (void)fputs(p->usage, stderr);
    return 2;
}
