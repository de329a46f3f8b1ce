/* The registry behind /metrics: families of series in the order of their registration, rendered in
 * the text format 0.0.4. It is the one mutable global of common/ besides the log, because a counter
 * must be reachable from any module without being handed through; it is filled at boot and only
 * read afterwards. Plain integers: the process has one thread of ours. Does not serve HTTP (admin.c
 * does) and keeps no history. */
#include "metrics.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "mem.h"

#define FAMILIES_MAX 256
#define SERIES_MAX   256 /* of one family; the API has four for each route */
#define BOUNDS_MAX   32
#define NUMBER_SIZE  40

struct histogram {
    unsigned n;
    double bounds[BOUNDS_MAX];
    uint64_t buckets[BOUNDS_MAX + 1]; /* not cumulative; the last one is +Inf */
    double sum;
};

enum series_type { SERIES_COUNTER, SERIES_GAUGE, SERIES_HISTOGRAM };

struct series {
    char *labels; /* "" or a="b",c="d" */
    double (*fn)(void *ctx);
    void *ctx;
    union {
        struct counter counter;
        struct gauge gauge;
        struct histogram *histogram;
    } v;
    struct series *next;
};

struct family {
    char *name;
    char *help;
    enum series_type type;
    struct series *first;
};

static struct family families[FAMILIES_MAX];
static unsigned families_n;

const double metrics_seconds_bounds[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                         0.5,   1,      2.5,   5,    10,    15,   30,  60};
const unsigned metrics_seconds_bounds_n =
    sizeof(metrics_seconds_bounds) / sizeof(*metrics_seconds_bounds);

/* --- registration ----------------------------------------------------------------------- */

static size_t name_len(const char *s, bool colons)
{
    size_t n = 0;
    while (isalpha((unsigned char)s[n]) || s[n] == '_' || (colons && s[n] == ':') ||
           (n > 0 && isdigit((unsigned char)s[n]))) {
        n++;
    }
    return n;
}

/* Length of `"…"` at s with the three escapes of the format, 0 when it is not one. */
static size_t quoted_len(const char *s)
{
    if (*s != '"') {
        return 0;
    }
    for (size_t n = 1; s[n] != '\0' && s[n] != '\n'; n++) {
        if (s[n] == '"') {
            return n + 1;
        }
        if (s[n] == '\\' && strchr("\\\"n", s[++n]) == NULL) {
            return 0;
        }
        if (s[n] == '\0') {
            return 0;
        }
    }
    return 0;
}

/* One wrong label makes Prometheus drop the whole page, so a literal that is wrong must not get
 * past a first run. */
static bool labels_ok(const char *s)
{
    while (*s != '\0') {
        size_t n = name_len(s, false);
        if (n == 0 || s[n] != '=') {
            return false;
        }
        s += n + 1;
        n = quoted_len(s);
        if (n == 0) {
            return false;
        }
        s += n;
        if (*s == ',' && s[1] != '\0') {
            s++;
        } else if (*s != '\0') {
            return false;
        }
    }
    return true;
}

static struct family *family_of(const char *name, const char *help, enum series_type type)
{
    for (unsigned i = 0; i < families_n; i++) {
        if (strcmp(families[i].name, name) == 0) {
            CHECK(families[i].type == type);
            return &families[i];
        }
    }
    CHECK(families_n < FAMILIES_MAX);
    CHECK(*name != '\0' && name[name_len(name, true)] == '\0');
    struct family *f = &families[families_n++];
    *f = (struct family){.name = mem_dup(name), .help = mem_dup(help), .type = type};
    return f;
}

/* The same name and labels give the same series again. */
static struct series *series_of(const char *name, const char *labels, const char *help,
                                enum series_type type)
{
    struct family *f = family_of(name, help, type);
    const char *text = labels == NULL ? "" : labels;
    CHECK(labels_ok(text));
    struct series **at = &f->first;
    unsigned n = 0;
    for (; *at != NULL; at = &(*at)->next, n++) {
        if (strcmp((*at)->labels, text) == 0) {
            return *at;
        }
    }
    CHECK(n < SERIES_MAX);
    *at = mem_zero(1, sizeof(**at));
    (*at)->labels = mem_dup(text);
    return *at;
}

struct counter *metrics_counter(const char *name, const char *labels, const char *help)
{
    return &series_of(name, labels, help, SERIES_COUNTER)->v.counter;
}

struct gauge *metrics_gauge(const char *name, const char *labels, const char *help)
{
    return &series_of(name, labels, help, SERIES_GAUGE)->v.gauge;
}

void metrics_gauge_fn(const char *name, const char *labels, const char *help,
                      double (*fn)(void *ctx), void *ctx)
{
    struct series *s = series_of(name, labels, help, SERIES_GAUGE);
    s->fn = fn;
    s->ctx = ctx;
}

void metrics_counter_fn(const char *name, const char *labels, const char *help,
                        double (*fn)(void *ctx), void *ctx)
{
    struct series *s = series_of(name, labels, help, SERIES_COUNTER);
    s->fn = fn;
    s->ctx = ctx;
}

struct histogram *metrics_histogram(const char *name, const char *labels, const char *help,
                                    const double *bounds, unsigned n)
{
    CHECK(n > 0 && n <= BOUNDS_MAX);
    struct series *s = series_of(name, labels, help, SERIES_HISTOGRAM);
    if (s->v.histogram != NULL) {
        CHECK(s->v.histogram->n == n);
        return s->v.histogram;
    }
    struct histogram *h = mem_zero(1, sizeof(*h));
    h->n = n;
    for (unsigned i = 0; i < n; i++) {
        CHECK(isfinite(bounds[i]) && (i == 0 || bounds[i] > bounds[i - 1]));
        h->bounds[i] = bounds[i];
    }
    s->v.histogram = h;
    return h;
}

void histogram_observe(struct histogram *h, double value)
{
    unsigned i = 0;
    while (i < h->n && !(value <= h->bounds[i])) {
        i++;
    }
    h->buckets[i]++;
    h->sum += value;
}

/* --- rendering -------------------------------------------------------------------------- */

/* The shortest text that reads back as the same number: 0.1 and not 0.10000000000000001. */
static const char *format_double(double value, char out[NUMBER_SIZE])
{
    if (isnan(value)) {
        return "NaN";
    }
    if (isinf(value)) {
        return value > 0 ? "+Inf" : "-Inf";
    }
    for (int digits = 6; digits <= 17; digits++) {
        int n = snprintf(out, NUMBER_SIZE, "%.*g", digits, value);
        CHECK(n > 0 && n < NUMBER_SIZE);
        if (strtod(out, NULL) == value) {
            break;
        }
    }
    return out;
}

static void add_escaped(struct buf *out, const char *text, bool quotes)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n') {
            buf_add_str(out, "\\n");
        } else if (*text == '\\' || (quotes && *text == '"')) {
            buf_add_fmt(out, "\\%c", *text);
        } else {
            buf_add(out, text, 1);
        }
    }
}

static void add_sample(struct buf *out, const struct family *f, const struct series *s,
                       const char *suffix, const char *le, const char *value)
{
    buf_add_str(out, f->name);
    buf_add_str(out, suffix);
    if (*s->labels != '\0' || le != NULL) {
        buf_add_fmt(out, "{%s", s->labels);
        if (le != NULL) {
            buf_add_fmt(out, "%sle=\"%s\"", *s->labels == '\0' ? "" : ",", le);
        }
        buf_add_str(out, "}");
    }
    buf_add_fmt(out, " %s\n", value);
}

static const char *format_u64(uint64_t value, char out[NUMBER_SIZE])
{
    int n = snprintf(out, NUMBER_SIZE, "%" PRIu64, value);
    CHECK(n > 0 && n < NUMBER_SIZE);
    return out;
}

static void render_histogram(struct buf *out, const struct family *f, const struct series *s)
{
    const struct histogram *h = s->v.histogram;
    char le[NUMBER_SIZE];
    char value[NUMBER_SIZE];
    uint64_t count = 0;
    for (unsigned i = 0; i <= h->n; i++) {
        count += h->buckets[i];
        const char *bound = i == h->n ? "+Inf" : format_double(h->bounds[i], le);
        add_sample(out, f, s, "_bucket", bound, format_u64(count, value));
    }
    add_sample(out, f, s, "_sum", NULL, format_double(h->sum, value));
    add_sample(out, f, s, "_count", NULL, format_u64(count, value));
}

static void render_series(struct buf *out, const struct family *f, const struct series *s)
{
    char value[NUMBER_SIZE];
    if (f->type == SERIES_HISTOGRAM) {
        render_histogram(out, f, s);
    } else if (s->fn != NULL) {
        add_sample(out, f, s, "", NULL, format_double(s->fn(s->ctx), value));
    } else if (f->type == SERIES_COUNTER) {
        add_sample(out, f, s, "", NULL, format_u64(s->v.counter.value, value));
    } else {
        add_sample(out, f, s, "", NULL, format_double(s->v.gauge.value, value));
    }
}

void metrics_render(struct buf *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    for (unsigned i = 0; i < families_n; i++) {
        const struct family *f = &families[i];
        buf_add_fmt(out, "# HELP %s ", f->name);
        add_escaped(out, f->help, false);
        buf_add_fmt(out, "\n# TYPE %s %s\n", f->name, types[f->type]);
        for (const struct series *s = f->first; s != NULL; s = s->next) {
            render_series(out, f, s);
        }
    }
}

/* --- this process ----------------------------------------------------------------------- */

static double resident_bytes(void *ctx)
{
    (void)ctx;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f == NULL) {
        return NAN;
    }
    char line[128];
    if (fgets(line, sizeof(line), f) != NULL) {
        const char *second = strchr(line, ' ');
        pages = second == NULL ? 0 : strtol(second, NULL, 10);
    }
    (void)fclose(f); /* only read */
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* Linux from 6.2 on tells the number as the folder's size. Before that the folder has to be read:
 * with thousands of connections that takes milliseconds, on the loop. */
static double open_fds(void *ctx)
{
    (void)ctx;
    struct stat st;
    if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0) {
        return (double)st.st_size;
    }
    DIR *dir = opendir("/proc/self/fd");
    if (dir == NULL) {
        return NAN; /* most likely no descriptor is left: the alert is on absence then */
    }
    int n = -1; /* the directory's own */
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        n += entry->d_name[0] == '.' ? 0 : 1;
    }
    closedir(dir);
    return n;
}

static double max_fds(void *ctx)
{
    (void)ctx;
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? (double)limit.rlim_cur : NAN;
}

static double cpu_seconds(void *ctx)
{
    (void)ctx;
    struct timespec ts = {0, 0};
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts); /* cannot fail for the own process */
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Field 22 of /proc/self/stat counts clock ticks since boot. The command in field 2 may hold blanks
 * and brackets, so counting starts behind the last bracket. NAN when unreadable. */
static double started_after_boot(void)
{
    char line[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    if (f == NULL) {
        return NAN;
    }
    const char *p = fgets(line, sizeof(line), f) == NULL ? NULL : strrchr(line, ')');
    (void)fclose(f); /* only read */
    for (int field = 2; p != NULL && field < 22; field++) {
        p = strchr(p + 1, ' ');
    }
    return p == NULL ? NAN : strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK);
}

void metrics_register_process(const char *version)
{
    struct timespec since_boot = {0, 0};
    (void)clock_gettime(CLOCK_BOOTTIME,
                        &since_boot); /* cannot fail: the clock exists since 2.6.39 */
    double age =
        (double)since_boot.tv_sec + (double)since_boot.tv_nsec / 1e9 - started_after_boot();
    metrics_gauge_fn("process_resident_memory_bytes", NULL, "Resident memory size in bytes.",
                     resident_bytes, NULL);
    metrics_gauge_fn("process_open_fds", NULL, "Number of open file descriptors.", open_fds, NULL);
    metrics_gauge_fn("process_max_fds", NULL, "Maximum number of open file descriptors.", max_fds,
                     NULL);
    metrics_counter_fn("process_cpu_seconds_total", NULL,
                       "Total user and system CPU time spent in seconds.", cpu_seconds, NULL);
    metrics_gauge("process_start_time_seconds", NULL,
                  "Start time of the process since unix epoch in seconds.")
        ->value = (double)clock_wall_us() / 1e6 - age;

    struct buf labels;
    buf_init(&labels, 256);
    buf_add_str(&labels, "version=\"");
    add_escaped(&labels, version, true);
    buf_add_str(&labels, "\"");
    CHECK(buf_ok(&labels));
    metrics_gauge("nrw_build_info", buf_cstr(&labels), "1; the label tells which build this is.")
        ->value = 1;
    buf_done(&labels);
}
