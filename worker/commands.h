/* What the program does besides running: --version, --help, --print-config, --config-reference,
 * seal. */
#ifndef NRW_COMMANDS_H
#define NRW_COMMANDS_H

#include <stdbool.h>

/* True when argv named a command; *ret_code is then the exit code: 0, 1 (it failed), 2 (bad use).
 */
bool commands_run(int argc, char *const *argv, int *ret_code);

#endif
