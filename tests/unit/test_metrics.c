/* common/metrics.c: the text that Prometheus reads. The registry is one per process: each test has
 * names of its own. */
#include "metrics.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

static struct buf page;

static const char *rendered(void)
{
    buf_done(&page);
    buf_init(&page, 1 << 20);
    metrics_render(&page);
    assert_true(buf_ok(&page));
    return buf_cstr(&page);
}

static int free_page(void **state)
{
    (void)state;
    buf_done(&page);
    return 0;
}

static void assert_block(const char *block)
{
    const char *text = rendered();
    const char *at = strstr(text, block);
    if (at == NULL || (at != text && at[-1] != '\n')) {
        fail_msg("not found:\n%s\nin:\n%s", block, text);
    }
}

/* The value of the sample that starts with `sample`. */
static double value_of(const char *sample)
{
    char line[128];
    assert_true(snprintf(line, sizeof(line), "\n%s ", sample) < (int)sizeof(line));
    const char *at = strstr(rendered(), line);
    assert_non_null(at);
    return strtod(at + strlen(line), NULL);
}

static void test_help_and_type_stand_once_per_name(void **state)
{
    (void)state;
    struct counter *good = metrics_counter("t_sent_total", "outcome=\"good\"", "What was sent.");
    struct counter *other = metrics_counter("t_other_total", NULL, "Others.");
    struct counter *bad =
        metrics_counter("t_sent_total", "outcome=\"bad\",side=\"ours\"", "ignored");
    good->value = UINT64_MAX;
    bad->value += 2;
    other->value++;
    assert_block("# HELP t_sent_total What was sent.\n"
                 "# TYPE t_sent_total counter\n"
                 "t_sent_total{outcome=\"good\"} 18446744073709551615\n"
                 "t_sent_total{outcome=\"bad\",side=\"ours\"} 2\n"
                 "# HELP t_other_total Others.\n"
                 "# TYPE t_other_total counter\n"
                 "t_other_total 1\n");
}

static void test_the_same_name_and_labels_are_the_same_series(void **state)
{
    (void)state;
    const double bounds[] = {1};
    assert_ptr_equal(metrics_counter("t_same_total", "a=\"1\"", ""),
                     metrics_counter("t_same_total", "a=\"1\"", ""));
    assert_ptr_equal(metrics_histogram("t_same_h", NULL, "", bounds, 1),
                     metrics_histogram("t_same_h", "", "", bounds, 1));
}

static double ask(void *ctx)
{
    return *(double *)ctx;
}

static void test_gauges_show_any_number_exactly(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *text;
    } rows[] = {{0, "0"},
                {-1.5, "-1.5"},
                {0.1, "0.1"},
                {1e21, "1e+21"},
                {1234567, "1234567"},
                {1.0 / 3, "0.3333333333333333"},
                {NAN, "NaN"},
                {INFINITY, "+Inf"},
                {-INFINITY, "-Inf"},
                {1700000000.125, "1700000000.125"}};
    static double asked;
    struct gauge *set = metrics_gauge("t_gauge", "kind=\"set\"", "G.");
    metrics_gauge_fn("t_gauge", "kind=\"asked\"", "G.", ask, &asked);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        char block[200];
        set->value = asked = rows[i].value;
        assert_true(
            snprintf(block, sizeof(block),
                     "# TYPE t_gauge gauge\nt_gauge{kind=\"set\"} %s\nt_gauge{kind=\"asked\"} %s\n",
                     rows[i].text, rows[i].text) < (int)sizeof(block));
        assert_block(block);
    }
}

static void test_a_histogram_is_cumulative(void **state)
{
    (void)state;
    static const double bounds[] = {0.1, 1, 2.5};
    struct histogram *h = metrics_histogram("t_seconds", "step=\"x\"", "Time.", bounds, 3);
    static const double values[] = {0, 0.1, 0.11, 1, 2.5, 100};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        histogram_observe(h, values[i]);
    }
    assert_block("# HELP t_seconds Time.\n"
                 "# TYPE t_seconds histogram\n"
                 "t_seconds_bucket{step=\"x\",le=\"0.1\"} 2\n"
                 "t_seconds_bucket{step=\"x\",le=\"1\"} 4\n"
                 "t_seconds_bucket{step=\"x\",le=\"2.5\"} 5\n"
                 "t_seconds_bucket{step=\"x\",le=\"+Inf\"} 6\n"
                 "t_seconds_sum{step=\"x\"} 103.71\n"
                 "t_seconds_count{step=\"x\"} 6\n");
    struct histogram *bare = metrics_histogram("t_bare", NULL, "B.", bounds, 1);
    histogram_observe(bare, NAN); /* counted, in no finite bucket */
    assert_block("t_bare_bucket{le=\"0.1\"} 0\nt_bare_bucket{le=\"+Inf\"} 1\nt_bare_sum "
                 "NaN\nt_bare_count 1\n");
}

static void test_default_bounds_rise_from_1_ms_to_60_s(void **state)
{
    (void)state;
    assert_true(metrics_seconds_bounds[0] == 0.001);
    assert_true(metrics_seconds_bounds[metrics_seconds_bounds_n - 1] == 60);
    assert_non_null(metrics_histogram("t_default", NULL, "D.", metrics_seconds_bounds,
                                      metrics_seconds_bounds_n));
    assert_block("t_default_bucket{le=\"0.001\"} 0\nt_default_bucket{le=\"0.0025\"} 0\n");
}

static void test_help_and_labels_are_escaped(void **state)
{
    (void)state;
    metrics_counter("t_escaped_total", "path=\"C:\\\\x \\\"y\\\"\\n\"", "a\\b \"c\"\nd");
    assert_block("# HELP t_escaped_total a\\\\b \"c\"\\nd\n"
                 "# TYPE t_escaped_total counter\n"
                 "t_escaped_total{path=\"C:\\\\x \\\"y\\\"\\n\"} 0\n");
}

static void test_the_process_describes_itself(void **state)
{
    (void)state;
    double now = (double)clock_wall_us() / 1e6;
    metrics_register_process("1.2.3-\"rc\"\\\n");
    assert_block(
        "# TYPE nrw_build_info gauge\nnrw_build_info{version=\"1.2.3-\\\"rc\\\"\\\\\\n\"} 1\n");
    assert_true(value_of("process_resident_memory_bytes") > 500e3);
    assert_true(value_of("process_resident_memory_bytes") < 2e9);
    double started = value_of("process_start_time_seconds");
    assert_true(started <= now + 1 && started > now - 600);
    double fds = value_of("process_open_fds");
    int fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    assert_true(fds >= 3 && value_of("process_open_fds") == fds + 1);
    close(fd);
    double cpu = value_of("process_cpu_seconds_total");
    while (value_of("process_cpu_seconds_total") <= cpu) {
    }
}

static void test_a_full_page_is_told_by_the_buffer(void **state)
{
    (void)state;
    struct buf small;
    metrics_counter("t_full_total", NULL, "F.");
    buf_init(&small, 20);
    metrics_render(&small);
    assert_false(buf_ok(&small));
    buf_done(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_help_and_type_stand_once_per_name),
        cmocka_unit_test(test_the_same_name_and_labels_are_the_same_series),
        cmocka_unit_test(test_gauges_show_any_number_exactly),
        cmocka_unit_test(test_a_histogram_is_cumulative),
        cmocka_unit_test(test_default_bounds_rise_from_1_ms_to_60_s),
        cmocka_unit_test(test_help_and_labels_are_escaped),
        cmocka_unit_test(test_the_process_describes_itself),
        cmocka_unit_test(test_a_full_page_is_told_by_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, free_page);
}
