/* netrecon-webhooks-api: boot and nothing else. Commands are api_commands.c, the running service is
 * service.c. */
#include <unistd.h>

#include "api_commands.h"
#include "log.h"
#include "service.h"
#include "shell.h"

int main(int argc, char **argv)
{
    int code = 0;
    if (api_commands_run(argc, argv, &code)) {
        return code;
    }
    struct config cfg;
    if (!shell_config(&cfg, CONFIG_API)) {
        config_free(&cfg);
        return 2;
    }
    log_init(cfg.log_level, STDOUT_FILENO);
    code = service_run(&cfg);
    config_free(&cfg);
    return code;
}
