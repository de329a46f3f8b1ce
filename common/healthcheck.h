/* The command `health` of both programs: is the one that runs beside us alive? For container health
 * checks, where there is neither shell nor curl. Blocks for 5 s at most. */
#ifndef NRW_HEALTHCHECK_H
#define NRW_HEALTHCHECK_H

/* Asks the path of NRW_ADMIN_LISTEN, on loopback when that listens everywhere. Returns the exit
 * code: 0 it answers 200, 1 it does not, and stderr says why. */
int healthcheck_ask(const char *admin_listen, const char *path);

#endif
