/* netrecon-webhooks-worker: boot and nothing else. Commands are commands.c, the running worker is
 * worker.c. */
#include <curl/curl.h>
#include <stdio.h>
#include <unistd.h>

#include "buf.h"
#include "commands.h"
#include "config.h"
#include "log.h"
#include "worker.h"

int main(int argc, char **argv)
{
    int code = 0;
    if (commands_run(argc, argv, &code)) {
        return code;
    }
    struct config cfg;
    struct buf problems;
    buf_init(&problems, CONFIG_PROBLEMS_MAX);
    if (!config_load(&cfg, CONFIG_WORKER, environ, &problems)) {
        (void)fputs(buf_cstr(&problems), stderr);
        buf_done(&problems);
        config_free(&cfg);
        return 2;
    }
    buf_done(&problems);
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
