/* What both programs do at the command line: their settings from the environment, and the commands
 * that are the same. Complaints go to stderr, answers to stdout; exit codes are 0, 1 (could not)
 * and 2 (bad configuration or use). */
#ifndef NRW_SHELL_H
#define NRW_SHELL_H

#include <stdbool.h>

#include "config.h"

struct shell_program {
    enum config_program program;
    const char *name; /* of the executable */
    const char *usage;
};

/* True: cfg is what NRW_* say. False: each problem was told. The caller frees cfg either way. */
bool shell_config(struct config *cfg, enum config_program program) MUST_CHECK;

/* Answers --version, --help, --print-config, --config-reference and health; anything else is bad
 * use. argc: at least 2. Returns the exit code. */
int shell_command(const struct shell_program *p, int argc, char *const *argv);

#endif
