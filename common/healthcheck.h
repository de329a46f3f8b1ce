/* The command `health` of both programs: is the one that runs beside us alive? For container health
 * checks, where there is neither shell nor curl. Blocks for 5 s at most. */
#ifndef NRW_HEALTHCHECK_H
#define NRW_HEALTHCHECK_H

#include "config.h"

/* argv[0] is "health"; "ready" may follow. Asks /health (or /ready) of NRW_ADMIN_LISTEN, on
 * loopback when that listens everywhere. Returns the exit code: 0 it answers 200, 1 it does not, 2
 * bad use or configuration. Says on stderr why. */
int healthcheck_command(enum config_program program, int argc, char *const *argv);

#endif
