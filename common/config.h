/* Settings from the environment, read once at boot and constant afterwards. The table is
 * config.def. */
#ifndef NRW_CONFIG_H
#define NRW_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "bounds.h"
#include "buf.h"
#include "log.h"

typedef char *config_str; /* never NULL after config_load */
typedef struct {
    int64_t ms[LIMIT_ATTEMPTS];
} config_delays;

#define CONFIG_TYPE_STR       config_str
#define CONFIG_TYPE_REQ       config_str
#define CONFIG_TYPE_SECRET    config_str
#define CONFIG_TYPE_REQSECRET config_str
#define CONFIG_TYPE_INT       int64_t
#define CONFIG_TYPE_BYTES     int64_t
#define CONFIG_TYPE_MS        int64_t
#define CONFIG_TYPE_BOOL      bool
#define CONFIG_TYPE_LEVEL     enum log_level
#define CONFIG_TYPE_DELAYS    config_delays

struct config {
#define SETTING(field, kind, def, lo, hi, by, text) CONFIG_TYPE_##kind field;
#include "config.def"
#undef SETTING
};

#define CONFIG_PROBLEMS_MAX ((size_t)1024 * 1024) /* for config_load's buffer */

/* Both programs read one environment: each knows every name, and requires only what it uses. */
enum config_program { CONFIG_WORKER, CONFIG_API };

/* Reads envp (NULL-terminated "NAME=value" strings). Unknown NRW_* names, bad, out-of-range,
 * missing and doubly given (NAME and NAME_FILE) values are ALL collected in `problems`, one line
 * each; secret values never appear there. NAME_FILE works for SECRET kinds; a trailing newline of
 * the file is dropped. False: at least one problem; cfg is then only good for config_free.
 * NRW_CRASH_AT (test builds) and NRW_API_URL (clients) are known and ignored here. */
bool config_load(struct config *cfg, enum config_program program, char *const *envp,
                 struct buf *problems) MUST_CHECK;
void config_free(struct config *cfg); /* cleanses secrets */

void config_print(const struct config *cfg, FILE *out); /* NAME=value lines, secrets as ****** */
void config_print_reference(FILE *out);                 /* the README's markdown table          */

#endif
