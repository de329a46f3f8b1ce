/* The log: its lines are JSON whatever they carry, it never blocks and never cuts a line, and it
 * counts what it drops. Also the last line of a process that failed a CHECK. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "clock.h"
#include "log.h"

/* A regular file in memory; what was logged to it comes back with taken(). */
static int fresh_file(void)
{
    int fd = memfd_create("log", MFD_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static char *taken(int fd, size_t *ret_len)
{
    off_t len = lseek(fd, 0, SEEK_END);
    char *text = calloc(1, (size_t)len + 1);
    assert_non_null(text);
    assert_int_equal(pread(fd, text, (size_t)len, 0), len);
    close(fd);
    *ret_len = (size_t)len;
    return text;
}

/* Parses the lines of text; each must be whole, at most PIPE_BUF long, and start with the three
 * members. Returns an array. */
static json_t *lines_of(const char *text, size_t len)
{
    json_t *all = json_array();
    const char *end = text + len;
    while (text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        assert_non_null(newline);
        assert_true(newline + 1 - text <= PIPE_BUF);
        json_error_t why;
        json_t *line = json_loadb(text, (size_t)(newline - text),
                                  JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
        if (line == NULL) {
            fail_msg("%s: %.*s", why.text, (int)(newline - text), text);
        }
        assert_memory_equal(text, "{\"time\":\"", 9);
        assert_true(clock_parse_rfc3339(json_string_value(json_object_get(line, "time")),
                                        json_string_length(json_object_get(line, "time")), NULL));
        assert_non_null(json_object_get(line, "level"));
        assert_non_null(json_object_get(line, "event"));
        json_array_append_new(all, line);
        text = newline + 1;
    }
    return all;
}

static json_t *logged(int fd)
{
    size_t len = 0;
    log_flush();
    char *text = taken(fd, &len);
    json_t *all = lines_of(text, len);
    free(text);
    return all;
}

static void every_kind_of_field_is_json(void **state)
{
    (void)state;
    struct uuid id = {{0xf4, 0x7a, 0xc1, 0x0b, 0x58, 0xcc, 0x43, 0x72, 0xa5, 0x67, 0x0e, 2, 0xb2,
                       0xc3, 0xd4, 0x79}};
    struct err err = {.text = "say \"hi\"\n\xff"};
    int fd = fresh_file();
    int64_t before = clock_wall_us();
    log_init(LOG_LEVEL_DEBUG, fd);
    log_warn("test.fields", F_STR("s", "a\tb"), F_STR("no", NULL), F_STRN("n", "abc\0def", 5),
             F_INT("zero", 0), F_INT("min", INT64_MIN), F_INT("max", INT64_MAX), F_UUID("id", &id),
             F_UUID("no_id", NULL), F_MS("took", 1234567), F_MS("short", 7), F_MS("minus", -1500),
             F_ERR(&err));
    json_t *all = logged(fd);
    json_t *line = json_array_get(all, 0);
    assert_int_equal(json_array_size(all), 1);
    int64_t at = 0;
    const char *time = json_string_value(json_object_get(line, "time"));
    assert_true(clock_parse_rfc3339(time, strlen(time), &at));
    assert_true(at >= before && at <= clock_wall_us());
    assert_string_equal(json_string_value(json_object_get(line, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(line, "event")), "test.fields");
    assert_string_equal(json_string_value(json_object_get(line, "s")), "a\tb");
    assert_true(json_is_null(json_object_get(line, "no")));
    assert_int_equal(json_string_length(json_object_get(line, "n")), 5);
    assert_int_equal(json_integer_value(json_object_get(line, "zero")), 0);
    assert_true(json_integer_value(json_object_get(line, "min")) == INT64_MIN);
    assert_true(json_integer_value(json_object_get(line, "max")) == INT64_MAX);
    assert_string_equal(json_string_value(json_object_get(line, "id")),
                        "f47ac10b-58cc-4372-a567-0e02b2c3d479");
    assert_true(json_is_null(json_object_get(line, "no_id")));
    char *text = json_dumps(line, JSON_REAL_PRECISION(10));
    assert_non_null(strstr(text, "\"took\": 1234.567"));
    assert_non_null(strstr(text, "\"short\": 0.007"));
    assert_non_null(strstr(text, "\"minus\": -1.5"));
    free(text);
    assert_string_equal(json_string_value(json_object_get(line, "error")),
                        "say \"hi\"\n\xef\xbf\xbd");
    json_decref(all);
}

static void log_one_of_each_level(void)
{
    log_debug("test.level", F_INT("n", LOG_LEVEL_DEBUG));
    log_info("test.level", F_INT("n", LOG_LEVEL_INFO));
    log_warn("test.level", F_INT("n", LOG_LEVEL_WARN));
    log_error("test.level", F_INT("n", LOG_LEVEL_ERROR));
}

static void only_the_threshold_and_above_are_logged(void **state)
{
    (void)state;
    for (int level = LOG_LEVEL_DEBUG; level <= LOG_LEVEL_ERROR; level++) {
        int fd = fresh_file();
        log_init((enum log_level)level, fd);
        log_one_of_each_level();
        json_t *all = logged(fd);
        assert_int_equal(json_array_size(all), LOG_LEVEL_ERROR - level + 1);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(all, 0), "n")), level);
        json_decref(all);
    }
}

static void a_field_too_long_for_a_line_is_left_out_and_said(void **state)
{
    (void)state;
    static char huge[100000];
    int fd = fresh_file();
    log_init(LOG_LEVEL_INFO, fd);
    memset(huge, 'x', sizeof(huge) - 1);
    log_info("test.long", F_STR("huge", huge), F_INT("after", 1));
    memset(huge, 1, 700); /* six characters each */
    log_info("test.long", F_INT("before", 1), F_STRN("escaped", huge, 700), F_INT("after", 1));
    for (size_t len = 3900; len < 4100; len++) { /* around the very edge */
        log_info("test.long", F_STRN("edge", huge + 1000, len));
    }
    json_t *all = logged(fd);
    size_t i = 0;
    json_t *line = NULL;
    size_t whole = 0;
    json_array_foreach(all, i, line)
    {
        bool cut = json_is_true(json_object_get(line, "truncated"));
        if (i < 2) {
            assert_true(cut);
            assert_int_equal(json_integer_value(json_object_get(line, "after")), 1);
        } else {
            assert_int_equal(cut, json_object_get(line, "edge") == NULL);
            whole += !cut;
        }
    }
    assert_int_equal(json_array_size(all), 202);
    assert_in_range(whole, 1, 199);
    json_decref(all);
}

static void *read_all(int fd, size_t *len) /* what a pipe holds right now */
{
    char *text = malloc(1 << 20);
    assert_non_null(text);
    *len = 0;
    ssize_t n = 0;
    while ((n = read(fd, text + *len, (1 << 20) - *len)) > 0) {
        *len += (size_t)n;
    }
    return text;
}

/* A packet pipe keeps the borders of writes: each must be whole lines of at most PIPE_BUF bytes. */
static void each_write_to_a_pipe_is_whole_lines_and_atomic(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_DIRECT | O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK | O_DIRECT), 0);
    log_init(LOG_LEVEL_INFO, fds[1]);
    static char filler[3000];
    memset(filler, 'x', sizeof(filler));
    int lines = 0;
    for (int i = 0; i < 200; i++) {
        log_info("test.packet", F_INT("i", i), F_STRN("filler", filler, (size_t)(i * 31 % 3000)));
    }
    for (int turn = 0; turn < 1000 && lines < 200; turn++) {
        log_flush();
        char packet[PIPE_BUF];
        ssize_t n = 0;
        while ((n = read(fds[0], packet, sizeof(packet))) > 0) {
            assert_int_equal(packet[0], '{');
            json_t *all = lines_of(packet, (size_t)n);
            lines += (int)json_array_size(all);
            json_decref(all);
        }
    }
    assert_int_equal(lines, 200);
    close(fds[0]);
    close(fds[1]);
}

/* The pipe's write end blocks: if log_flush did, this test would hang. */
static void a_reader_that_stops_costs_lines_but_never_blocks(void **state)
{
    (void)state;
    enum { LINES = 20000 };
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    log_init(LOG_LEVEL_INFO, fds[1]);
    uint64_t dropped_before = log_dropped_total();
    for (int i = 0; i < LINES; i++) {
        log_info("test.stalled", F_INT("i", i),
                 F_STR("filler", "0123456789012345678901234567890123456789"));
        log_flush();
    }
    uint64_t dropped = log_dropped_total() - dropped_before;
    assert_in_range(dropped, 1, LINES - 1);

    size_t len = 0;
    json_int_t told = 0;
    json_int_t next = 0;
    size_t lines = 0;
    for (int turn = 0; turn < 1000; turn++) { /* the reader is back */
        char *text = read_all(fds[0], &len);
        json_t *all = lines_of(text, len); /* only whole lines, at every moment */
        size_t i = 0;
        json_t *line = NULL;
        json_array_foreach(all, i, line)
        {
            if (strcmp(json_string_value(json_object_get(line, "event")), "log.dropped") == 0) {
                told += json_integer_value(json_object_get(line, "lines"));
                next = -1;
            } else {
                json_int_t got = json_integer_value(json_object_get(line, "i"));
                assert_true(next < 0 || got == next); /* in order; a gap is told where it is */
                next = got + 1;
                lines++;
            }
        }
        json_decref(all);
        free(text);
        log_flush();
    }
    assert_int_equal(told, dropped);
    assert_int_equal(lines, LINES - dropped);
    close(fds[0]);
    close(fds[1]);
}

static void the_last_flush_waits_but_not_for_ever(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, 4096), 4096);
    log_init(LOG_LEVEL_INFO, fds[1]);
    for (int i = 0; i < 500; i++) {
        log_info("test.last", F_INT("i", i));
    }
    int64_t before = clock_mono_us();
    log_flush_blocking(50000);
    int64_t took = clock_mono_us() - before;
    assert_in_range(took, 40000, 5000000);

    pid_t pid = fork(); /* now a reader that is slow to come */
    assert_true(pid >= 0);
    if (pid == 0) {
        char text[1000];
        size_t lines = 0;
        ssize_t n = 0;
        close(fds[1]);
        while ((n = read(fds[0], text, sizeof(text))) > 0) {
            for (ssize_t i = 0; i < n; i++) {
                lines += text[i] == '\n';
            }
        }
        _exit(lines == 500 ? 0 : 1);
    }
    close(fds[0]);
    log_flush_blocking(10000000);
    close(fds[1]);
    int status = 1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void a_reader_that_is_gone_is_survived(void **state)
{
    (void)state;
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    close(fds[0]);
    log_init(LOG_LEVEL_INFO, fds[1]);
    log_info("test.gone", F_INT("i", 1));
    log_flush(); /* SIGPIPE would end this program */
    log_flush_blocking(10000000);
    close(fds[1]);
    int fd = fresh_file();
    log_init(LOG_LEVEL_INFO, fd);
    json_t *all = logged(fd); /* the line was kept */
    assert_int_equal(json_array_size(all), 1);
    json_decref(all);
}

static void a_failed_check_says_what_and_where_after_what_was_logged(void **state)
{
    (void)state;
    int out[2];
    int errs[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(errs, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const struct rlimit no_core = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(errs[1], STDERR_FILENO);
        log_init(LOG_LEVEL_INFO, out[1]);
        log_info("test.before", F_INT("i", 1));
        const char *volatile name = "b";
        CHECK(name[0] == 'a' || name[0] == '"');
        _exit(0);
    }
    close(out[1]);
    close(errs[1]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    size_t len = 0;
    char *text = read_all(out[0], &len);
    json_t *all = lines_of(text, len);
    assert_int_equal(json_array_size(all), 1);
    json_decref(all);
    free(text);
    text = read_all(errs[0], &len);
    all = lines_of(text, len);
    assert_int_equal(json_array_size(all), 1);
    json_t *line = json_array_get(all, 0);
    assert_string_equal(json_string_value(json_object_get(line, "level")), "error");
    assert_string_equal(json_string_value(json_object_get(line, "event")), "bug");
    assert_string_equal(json_string_value(json_object_get(line, "failed")),
                        "name[0] == 'a' || name[0] == '\"'");
    assert_non_null(strstr(json_string_value(json_object_get(line, "where")), "test_log.c:"));
    json_decref(all);
    free(text);
    close(out[0]);
    close(errs[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_field_is_json),
        cmocka_unit_test(only_the_threshold_and_above_are_logged),
        cmocka_unit_test(a_field_too_long_for_a_line_is_left_out_and_said),
        cmocka_unit_test(each_write_to_a_pipe_is_whole_lines_and_atomic),
        cmocka_unit_test(a_reader_that_stops_costs_lines_but_never_blocks),
        cmocka_unit_test(the_last_flush_waits_but_not_for_ever),
        cmocka_unit_test(a_reader_that_is_gone_is_survived),
        cmocka_unit_test(a_failed_check_says_what_and_where_after_what_was_logged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
