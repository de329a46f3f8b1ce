/* The operator's commands of the API program. */
#ifndef NRW_API_COMMANDS_H
#define NRW_API_COMMANDS_H

#include <stdbool.h>

/* False: no command was given, the service shall run. */
bool api_commands_run(int argc, char *const *argv, int *ret_code);

#endif
