/* netrecon-webhooks-worker: boot and nothing else. Commands are commands.c, the running worker is
 * worker.c. */
#include <curl/curl.h>
#include <stdio.h>
#include <unistd.h>

#include "commands.h"
#include "log.h"
#include "shell.h"
#include "worker.h"

int main(int argc, char **argv)
{
    int code = 0;
    if (commands_run(argc, argv, &code)) {
        return code;
    }
    struct config cfg;
    if (!shell_config(&cfg, CONFIG_WORKER)) {
        config_free(&cfg);
        return 2;
    }
    log_init(cfg.log_level, STDOUT_FILENO);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        (void)fputs("libcurl does not initialise\n", stderr);
        config_free(&cfg);
        return 1;
    }
    code = worker_run(&cfg);
    curl_global_cleanup();
    config_free(&cfg);
    return code;
}
