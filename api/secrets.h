/* The operator's command `secrets`: which keys of the ring seal the webhooks' secrets, and sealing
 * them anew with the first one. Blocks, and is for a shell only. */
#ifndef NRW_SECRETS_H
#define NRW_SECRETS_H

/* argv[0] is "secrets". Can be stopped and repeated at any time; webhooks that change meanwhile are
 * taken in another round. Returns the exit code: 0, 1 (it failed, or a secret does not open), 2
 * (bad use or configuration). */
int secrets_command(int argc, char *const *argv);

#endif
