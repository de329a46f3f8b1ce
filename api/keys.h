/* The operator's command `keys`: API keys are made, listed and revoked. Blocks, and is for a shell
 * only: the service never calls it. */
#ifndef NRW_KEYS_H
#define NRW_KEYS_H

/* argv[0] is "keys". `create` prints the new key and nothing else on stdout, so that a script can
 * catch it, and what it is good for on stderr; it is not kept, only its hash. Settings come from
 * the environment. Returns the exit code: 0, 1 (it failed), 2 (bad use or configuration). */
int keys_command(int argc, char *const *argv);

#endif
