/* netrecon-webhooks-api: boot and nothing else. Commands are api_commands.c, the running service is
 * service.c. */
#include <stdio.h>
#include <unistd.h>

#include "api_commands.h"
#include "buf.h"
#include "config.h"
#include "log.h"
#include "service.h"

int main(int argc, char **argv)
{
    int code = 0;
    if (api_commands_run(argc, argv, &code)) {
        return code;
    }
    struct config cfg;
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEMS_MAX);
    if (!config_load(&cfg, CONFIG_API, environ, &problems)) {
        (void)fputs(buf_cstr(&problems), stderr);
        buf_done(&problems);
        config_free(&cfg);
        return 2;
    }
    buf_done(&problems);
    log_init(cfg.log_level, STDOUT_FILENO);
    code = service_run(&cfg);
    config_free(&cfg);
    return code;
}
