/* Settings of a program: config.def becomes a table, the environment fills a struct from it, and
 * the same table prints --print-config and the README's reference. Every problem is collected
 * before any is reported, so that an operator repairs a file once. Does not judge what a text means
 * (brokers, networks, URLs): its user does. Called by main() at boot: reading a file may block. */
#include "config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "mem.h"

#define PREFIX          "NRW_"
#define PREFIX_LEN      (sizeof(PREFIX) - 1)
#define FILE_SUFFIX     "_FILE"
#define NAME_SIZE       64    /* of our own names; longer ones are unknown anyway */
#define SECRET_FILE_MAX 65536 /* a key ring of 1000 keys has 50 kB                */
#define SHOWN_MAX       80    /* of a wrong value, in a problem                   */
#define VALUE_SIZE      128   /* of a printed number, duration or list            */

enum kind {
    KIND_STR,
    KIND_REQ,
    KIND_SECRET,
    KIND_REQSECRET,
    KIND_INT,
    KIND_BYTES,
    KIND_MS,
    KIND_BOOL,
    KIND_LEVEL,
    KIND_DELAYS
};

struct row {
    const char *field;
    enum kind kind;
    const char *def;
    int64_t lo, hi;
    const char *by;
    const char *text;
    size_t offset;
};

static const struct row rows[] = {
#define SETTING(field, kind, def, lo, hi, by, text)                                                \
    {#field, KIND_##kind, def, lo, hi, by, text, offsetof(struct config, field)},
#include "config.def"
#undef SETTING
};
#define N_ROWS (sizeof(rows) / sizeof(*rows))

struct given {
    const char *value; /* borrowed from envp; NULL = not given */
    const char *file;
};

struct suffix {
    const char *text;
    int64_t factor;
};
/* Largest first: printing takes the first that divides without a rest. */
static const struct suffix duration_suffixes[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000},
                                                  {"s", 1000},     {"ms", 1},      {NULL, 0}};
static const struct suffix byte_suffixes[] = {
    {"GiB", INT64_C(1) << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}, {NULL, 0}};
static const struct suffix no_suffixes[] = {{"", 1}, {NULL, 0}};

static const char *const level_names[] = {"debug", "info", "warn", "error"};
#define N_LEVELS (sizeof(level_names) / sizeof(*level_names))

static bool is_secret(const struct row *row)
{
    return row->kind == KIND_SECRET || row->kind == KIND_REQSECRET;
}

static bool is_required(const struct row *row)
{
    return row->kind == KIND_REQ || row->kind == KIND_REQSECRET;
}

static bool is_used_by(const struct row *row, enum config_program program)
{
    return strcmp(row->by, "both") == 0 ||
           strcmp(row->by, program == CONFIG_API ? "api" : "worker") == 0;
}

static bool is_text(const struct row *row)
{
    return row->kind == KIND_STR || row->kind == KIND_REQ || is_secret(row);
}

static void row_name(const struct row *row, char out[NAME_SIZE])
{
    CHECK(PREFIX_LEN + strlen(row->field) + sizeof(FILE_SUFFIX) <= NAME_SIZE);
    memcpy(out, PREFIX, PREFIX_LEN);
    size_t i = 0;
    for (; row->field[i] != '\0'; i++) {
        out[PREFIX_LEN + i] = (char)toupper((unsigned char)row->field[i]);
    }
    out[PREFIX_LEN + i] = '\0';
}

static void *row_at(struct config *cfg, const struct row *row)
{
    return (char *)cfg + row->offset;
}

/* --- values in -------------------------------------------------------------------------- */

/* Whole decimal number and one of the suffixes, nothing else; false also when it does not fit. */
static bool parse_scaled(const char *text, size_t len, const struct suffix *suffixes, int64_t *ret)
{
    size_t digits = 0;
    int64_t value = 0;
    while (digits < len && text[digits] >= '0' && text[digits] <= '9') {
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, text[digits] - '0', &value)) {
            return false;
        }
        digits++;
    }
    if (digits == 0) {
        return false;
    }
    for (const struct suffix *s = suffixes; s->text != NULL; s++) {
        size_t n = strlen(s->text);
        if (n == len - digits && memcmp(text + digits, s->text, n) == 0) {
            return !__builtin_mul_overflow(value, s->factor, ret);
        }
    }
    return false;
}

static const struct suffix *suffixes_of(const struct row *row)
{
    if (row->kind == KIND_BYTES) {
        return byte_suffixes;
    }
    return row->kind == KIND_INT ? no_suffixes : duration_suffixes;
}

static bool parse_number(const struct row *row, const char *text, size_t len, int64_t *ret)
{
    int64_t value;
    if (!parse_scaled(text, len, suffixes_of(row), &value) || value < row->lo || value > row->hi) {
        return false;
    }
    *ret = value;
    return true;
}

static bool parse_delays(const struct row *row, const char *text, config_delays *ret)
{
    config_delays delays;
    for (int i = 0; i < LIMIT_ATTEMPTS; i++) {
        size_t len = strcspn(text, ",");
        bool last = i == LIMIT_ATTEMPTS - 1;
        if (!parse_number(row, text, len, &delays.ms[i]) || (text[len] == '\0') != last) {
            return false;
        }
        text += last ? len : len + 1;
    }
    *ret = delays;
    return true;
}

static bool parse_bool(const char *text, bool *ret)
{
    static const char *const words[] = {"false", "true", "0", "1", "no", "yes"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (strcmp(text, words[i]) == 0) {
            *ret = i % 2 == 1;
            return true;
        }
    }
    return false;
}

static bool parse_level(const char *text, enum log_level *ret)
{
    for (unsigned i = 0; i < N_LEVELS; i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

/* A key ring or a key set may stand on several indented lines; in other texts a control character
 * is an accident, and would let a value forge lines of --print-config. */
static bool parse_text(const struct row *row, const char *text, char **ret)
{
    for (const char *p = text; *p != '\0'; p++) {
        bool blank = *p == '\n' || *p == '\r' || *p == '\t';
        if (((unsigned char)*p < 0x20 || *p == 0x7f) && !(blank && is_secret(row))) {
            return false;
        }
    }
    if (*ret != NULL && is_secret(row)) {
        OPENSSL_cleanse(*ret, strlen(*ret));
    }
    free(*ret);
    *ret = mem_dup(text);
    return true;
}

static bool parse_value(struct config *cfg, const struct row *row, const char *text)
{
    void *at = row_at(cfg, row);
    switch (row->kind) {
    case KIND_STR:
    case KIND_REQ:
    case KIND_SECRET:
    case KIND_REQSECRET:
        return parse_text(row, text, at);
    case KIND_INT:
    case KIND_BYTES:
    case KIND_MS:
        return parse_number(row, text, strlen(text), at);
    case KIND_BOOL:
        return parse_bool(text, at);
    case KIND_LEVEL:
        return parse_level(text, at);
    case KIND_DELAYS:
        return parse_delays(row, text, at);
    }
    CHECK(false);
    return false;
}

/* --- values out ------------------------------------------------------------------------- */

/* The shortest exact form: 120000 ms is "2m", 90000 ms is "90s". */
static void format_scaled(int64_t value, const struct suffix *s, char *out, size_t size)
{
    while (value % s->factor != 0) {
        s++;
    }
    if (value == 0 && s->factor > 1) { /* "0s" reads better than "0d" */
        s = &duration_suffixes[3];
    }
    int n = snprintf(out, size, "%" PRId64 "%s", value / s->factor, s->text);
    CHECK(n > 0 && (size_t)n < size);
}

static void format_number(const struct row *row, int64_t value, char *out, size_t size)
{
    if (value == 0 && row->kind == KIND_BYTES) {
        format_scaled(0, no_suffixes, out, size);
        return;
    }
    format_scaled(value, suffixes_of(row), out, size);
}

static void format_delays(const struct row *row, const config_delays *delays, char *out,
                          size_t size)
{
    size_t used = 0;
    for (int i = 0; i < LIMIT_ATTEMPTS; i++) {
        if (i > 0) {
            out[used++] = ',';
        }
        format_number(row, delays->ms[i], out + used, size - used - 1);
        used += strlen(out + used);
    }
}

/* Texts are returned as they are, everything else is written into `scratch`. */
static const char *format_value(const struct config *cfg, const struct row *row,
                                char scratch[VALUE_SIZE])
{
    const void *at = (const char *)cfg + row->offset;
    switch (row->kind) {
    case KIND_STR:
    case KIND_REQ:
        return *(const config_str *)at;
    case KIND_SECRET:
    case KIND_REQSECRET:
        return **(const config_str *)at == '\0' ? "" : "******";
    case KIND_INT:
    case KIND_BYTES:
    case KIND_MS:
        format_number(row, *(const int64_t *)at, scratch, VALUE_SIZE);
        return scratch;
    case KIND_BOOL:
        return *(const bool *)at ? "true" : "false";
    case KIND_LEVEL:
        return level_names[*(const enum log_level *)at];
    case KIND_DELAYS:
        format_delays(row, at, scratch, VALUE_SIZE);
        return scratch;
    }
    CHECK(false);
    return "";
}

static const char *noun_of(const struct row *row)
{
    /* In the order of enum kind. */
    /* clang-format off */
    static const char *const nouns[] = {
        "text", "text", "secret text", "secret text", "whole number", "size in bytes", "duration",
        "boolean (true, false)", "log level (debug, info, warn, error)", "list of five durations"};
    /* clang-format on */
    return nouns[row->kind];
}

static bool has_range(const struct row *row)
{
    return !is_text(row) && row->kind != KIND_BOOL && row->kind != KIND_LEVEL;
}

static void add_range(const struct row *row, struct buf *out)
{
    char lo[VALUE_SIZE];
    char hi[VALUE_SIZE];
    format_number(row, row->lo, lo, sizeof(lo));
    format_number(row, row->hi, hi, sizeof(hi));
    buf_add_fmt(out, "%s%s to %s", row->kind == KIND_DELAYS ? "each " : "", lo, hi);
}

/* --- problems --------------------------------------------------------------------------- */

/* One problem is one line, whatever bytes somebody put into a variable. */
static void add_shown(struct buf *out, const char *text, size_t len)
{
    size_t shown = len < SHOWN_MAX ? len : SHOWN_MAX;
    for (size_t i = 0; i < shown; i++) {
        char c = text[i];
        buf_add(out, c >= 0x20 && c < 0x7f ? &c : "?", 1);
    }
    if (shown < len) {
        buf_add_str(out, "...");
    }
}

static void report_bad_value(const struct row *row, const char *value, struct buf *problems)
{
    char name[NAME_SIZE];
    row_name(row, name);
    if (is_text(row)) {
        buf_add_fmt(problems, "%s: contains a control character\n", name);
        return;
    }
    buf_add_fmt(problems, "%s: \"", name);
    add_shown(problems, value, strlen(value));
    if (!has_range(row)) {
        buf_add_fmt(problems, "\" is not a %s\n", noun_of(row));
        return;
    }
    int64_t number;
    if (row->kind != KIND_DELAYS && parse_scaled(value, strlen(value), suffixes_of(row), &number)) {
        buf_add_str(problems, "\" is out of range (");
    } else {
        buf_add_fmt(problems, "\" is not a %s (", noun_of(row));
    }
    add_range(row, problems);
    const struct suffix *suffixes = suffixes_of(row);
    buf_add_str(problems, suffixes == duration_suffixes ? "; suffixes ms, s, m, h, d)\n"
                          : suffixes == byte_suffixes   ? "; suffixes KiB, MiB, GiB)\n"
                                                        : ")\n");
}

/* Edit distance without regard to case; both are shorter than NAME_SIZE. */
static size_t distance(const char *a, const char *b)
{
    size_t row[NAME_SIZE + 1];
    size_t n = strlen(b);
    for (size_t j = 0; j <= n; j++) {
        row[j] = j;
    }
    for (size_t i = 1; a[i - 1] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            bool same = toupper((unsigned char)a[i - 1]) == toupper((unsigned char)b[j - 1]);
            size_t best = diagonal + (same ? 0 : 1);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[n];
}

static void report_unknown(const char *name, size_t len, struct buf *problems)
{
    add_shown(problems, name, len);
    buf_add_str(problems, ": no such setting");
    char nearest[NAME_SIZE] = "";
    char unknown[NAME_SIZE];
    /* A third of the name wrong is still a slip of the pen, more is another word. */
    size_t least = (len - PREFIX_LEN) / 3 + 2;
    for (size_t i = 0; len < NAME_SIZE && i < 2 * N_ROWS; i++) {
        char candidate[NAME_SIZE];
        const struct row *row = &rows[i / 2];
        row_name(row, candidate);
        if (i % 2 == 1) {
            if (!is_secret(row)) {
                continue;
            }
            memcpy(candidate + strlen(candidate), FILE_SUFFIX, sizeof(FILE_SUFFIX));
        }
        memcpy(unknown, name, len);
        unknown[len] = '\0';
        size_t d = distance(unknown, candidate);
        if (d < least) {
            least = d;
            memcpy(nearest, candidate, sizeof(nearest));
        }
    }
    buf_add_fmt(problems, nearest[0] == '\0' ? "%s\n" : "; did you mean %s?\n", nearest);
}

/* --- the environment -------------------------------------------------------------------- */

/* Names with our prefix that stand in the same shells and are no settings of a program. */
static bool is_for_others(const char *name, size_t len)
{
    static const char *const names[] = {
        "NRW_API_URL",  /* where clients find the API */
        "NRW_CRASH_AT", /* belongs to test builds     */
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strlen(names[i]) == len && memcmp(name, names[i], len) == 0) {
            return true;
        }
    }
    return false;
}

/* Sorts one "NAME=value" into `given`. An empty value counts as not given: deployment templates
 * write them. */
static void sort_entry(const char *entry, struct given given[N_ROWS], struct buf *problems)
{
    const char *equals = strchr(entry, '=');
    if (strncmp(entry, PREFIX, PREFIX_LEN) != 0 || equals == NULL) {
        return;
    }
    size_t len = (size_t)(equals - entry);
    if (is_for_others(entry, len)) {
        return;
    }
    for (size_t i = 0; i < N_ROWS; i++) {
        char name[NAME_SIZE];
        row_name(&rows[i], name);
        size_t n = strlen(name);
        bool is_file =
            len == n + strlen(FILE_SUFFIX) && memcmp(entry + n, FILE_SUFFIX, len - n) == 0;
        if ((len != n && !is_file) || memcmp(entry, name, n) != 0) {
            continue;
        }
        if (is_file && !is_secret(&rows[i])) {
            buf_add_fmt(problems, "%s" FILE_SUFFIX ": only secrets are read from a file; set %s\n",
                        name, name);
        } else if (equals[1] != '\0') {
            const char **slot = is_file ? &given[i].file : &given[i].value;
            if (*slot != NULL) {
                buf_add_fmt(problems, "%s: given more than once\n", name);
            }
            *slot = equals + 1;
        }
        return;
    }
    report_unknown(entry, len, problems);
}

static bool read_fd(int fd, char *out, size_t size, size_t *ret_len)
{
    size_t len = 0;
    while (len < size) {
        ssize_t n = read(fd, out + len, size - len); /* at boot no signal handler interrupts it */
        if (n == -1) {
            return false;
        }
        if (n == 0) {
            break;
        }
        len += (size_t)n;
    }
    *ret_len = len;
    return true;
}

/* What is wrong with the content of a secret's file, or NULL. Drops one trailing newline. */
static const char *check_secret(char *text, size_t len)
{
    if (len > SECRET_FILE_MAX) {
        return "is larger than 64 KiB";
    }
    if (len > 0 && text[len - 1] == '\n') {
        len--;
        if (len > 0 && text[len - 1] == '\r') {
            len--;
        }
    }
    text[len] = '\0';
    if (len == 0) {
        return "is empty";
    }
    return strlen(text) == len ? NULL : "contains a NUL byte";
}

static void load_file(struct config *cfg, const struct row *row, const char *path,
                      struct buf *problems)
{
    char name[NAME_SIZE];
    row_name(row, name);
    /* Somebody may have put the secret itself where its path belongs: show only what looks like a
     * path. */
    const char *shown = path[0] == '/' || path[0] == '.' ? path : "the file";
    char *text = mem_alloc(SECRET_FILE_MAX + 1);
    size_t len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool ok = fd != -1 && read_fd(fd, text, SECRET_FILE_MAX + 1, &len);
    const char *problem = ok ? check_secret(text, len) : strerror(errno);
    if (fd != -1) {
        close(fd);
    }
    if (problem == NULL && !parse_value(cfg, row, text)) {
        problem = "contains a control character";
    }
    if (problem != NULL) {
        buf_add_fmt(problems, "%s" FILE_SUFFIX ": ", name);
        add_shown(problems, shown, strlen(shown));
        buf_add_fmt(problems, ok ? " %s\n" : ": %s\n", problem);
    }
    OPENSSL_cleanse(text, SECRET_FILE_MAX + 1);
    free(text);
}

static void load_row(struct config *cfg, const struct row *row, const struct given *given,
                     enum config_program program, struct buf *problems)
{
    char name[NAME_SIZE];
    row_name(row, name);
    if (given->value != NULL && given->file != NULL) {
        buf_add_fmt(problems, "%s: given twice, also as %s" FILE_SUFFIX "\n", name, name);
    } else if (given->file != NULL) {
        load_file(cfg, row, given->file, problems);
    } else if (given->value != NULL) {
        if (!parse_value(cfg, row, given->value)) {
            report_bad_value(row, given->value, problems);
        }
    } else if (is_required(row) && is_used_by(row, program)) {
        buf_add_fmt(problems, "%s: must be set (%s)\n", name, row->text);
    }
}

bool config_load(struct config *cfg, enum config_program program, char *const *envp,
                 struct buf *problems)
{
    struct given given[N_ROWS] = {{NULL, NULL}};
    size_t before = problems->len;
    memset(cfg, 0, sizeof(*cfg));
    for (size_t i = 0; i < N_ROWS; i++) {
        CHECK(parse_value(cfg, &rows[i], rows[i].def));
    }
    for (; *envp != NULL; envp++) {
        sort_entry(*envp, given, problems);
    }
    for (size_t i = 0; i < N_ROWS; i++) {
        load_row(cfg, &rows[i], &given[i], program, problems);
    }
    return problems->len == before && buf_ok(problems);
}

void config_free(struct config *cfg)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!is_text(&rows[i])) {
            continue;
        }
        config_str *text = row_at(cfg, &rows[i]);
        if (*text != NULL && is_secret(&rows[i])) {
            OPENSSL_cleanse(*text, strlen(*text));
        }
        free(*text), *text = NULL;
    }
}

void config_print(const struct config *cfg, FILE *out)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        char name[NAME_SIZE];
        char scratch[VALUE_SIZE];
        row_name(&rows[i], name);
        (void)fprintf(out, "%s=%s\n", name, format_value(cfg, &rows[i], scratch));
    }
}

void config_print_reference(FILE *out)
{
    (void)fputs("| Variable | Default | Value | Used by | Meaning |\n|---|---|---|---|---|\n", out);
    for (size_t i = 0; i < N_ROWS; i++) {
        const struct row *row = &rows[i];
        char name[NAME_SIZE];
        struct buf value;
        row_name(row, name);
        buf_init(&value, 1024);
        buf_add_str(&value, noun_of(row));
        if (is_secret(row)) {
            buf_add_fmt(&value, ", or a file's path in `%s" FILE_SUFFIX "`", name);
        } else if (has_range(row)) {
            buf_add_str(&value, ", ");
            add_range(row, &value);
        }
        const char *def = is_required(row) ? "**required**" : row->def;
        const char *tick = is_required(row) || *def == '\0' ? "" : "`";
        (void)fprintf(out, "| `%s` | %s%s%s | %s | %s | %s |\n", name, tick, def, tick,
                      buf_cstr(&value), row->by, row->text);
        buf_done(&value);
    }
}
