/* What bare_curl.c and transport_bench.c have in common: options, body, headers, host names, the
 * line of JSON at the end. Everything is static: each tool is one translation unit. */
#ifndef NRW_HTTP_BENCH_H
#define NRW_HTTP_BENCH_H

#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "clock.h"
#include "mem.h"

#define BENCH_HEADERS 9u

struct bench {
    const char *program;
    const char *url; /* http://127.0.0.1:8080/path or https://… */
    char scheme[8];  /* "http" or "https"                       */
    char host[64];   /* of the URL                              */
    unsigned port;
    const char *path;
    const char *ca_file;
    unsigned long count, warmup, concurrency, size, hosts, shards;
    bool many_addresses; /* host i lives at 127.0.(1 + i / 250).(1 + i % 250), else all at 127.0.0.1
                          */
    char *body;

    unsigned long started, done, failures, reused;
    int64_t from_us, cpu_from_us;
};

/* The same lines that a delivery sends, with values of the same length. */
static const char *const bench_headers[BENCH_HEADERS] = {
    "X-NetRecon-Event: asset.discovered",
    "X-NetRecon-Event-Id: 0195a7f0-1234-7abc-8def-0123456789ab",
    "X-NetRecon-Delivery: 0195a7f0-1234-5abc-8def-0123456789ab",
    "X-NetRecon-Attempt: 1",
    "X-NetRecon-Timestamp: 1773570600",
    "X-NetRecon-Signature: sha256=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "webhook-id: 0195a7f0-1234-7abc-8def-0123456789ab",
    "webhook-timestamp: 1773570600",
    "webhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
};

static int64_t bench_cpu_us(void)
{
    struct rusage use;
    (void)getrusage(RUSAGE_SELF, &use);
    return ((int64_t)use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 + use.ru_utime.tv_usec +
           use.ru_stime.tv_usec;
}

static void bench_die(const struct bench *b, const char *what)
{
    (void)fprintf(stderr,
                  "%s: %s\nusage: %s --url http://127.0.0.1:PORT/PATH [--count N] [--warmup N] "
                  "[--concurrency C] [--size BYTES | --body FILE]\n"
                  "  [--hosts M [--addresses one|many]] [--shards N] [--ca FILE]\n",
                  b->program, what, b->program);
    exit(2);
}

static unsigned long bench_number(const struct bench *b, const char *text)
{
    char *end = NULL;
    const unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0') {
        bench_die(b, "not a number");
    }
    return n;
}

static void bench_read_body(struct bench *b, const char *file)
{
    FILE *f = fopen(file, "rbe");
    if (f == NULL) {
        bench_die(b, "cannot open the body");
    }
    b->body = mem_alloc(1u << 20);
    b->size = fread(b->body, 1, 1u << 20, f);
    (void)fclose(f); /* read only */
}

static void bench_fill_body(struct bench *b)
{
    static const char pattern[] = "{\"asset\":\"10.1.2.3\",\"ports\":[22,80,443]},";
    b->body = mem_alloc(b->size + 1);
    for (size_t i = 0; i < b->size; i++) {
        b->body[i] = pattern[i % (sizeof(pattern) - 1)];
    }
}

static void bench_split_url(struct bench *b)
{
    int used = 0;
    if (sscanf(b->url, "%7[a-z]://%63[^:/]:%u%n", b->scheme, b->host, &b->port, &used) != 3) {
        bench_die(b, "the URL needs scheme, host and port");
    }
    b->path = b->url + used;
}

static void bench_option(struct bench *b, int id, const char *value, const char **body)
{
    switch (id) {
    case 'u':
        b->url = value;
        break;
    case 'n':
        b->count = bench_number(b, value);
        break;
    case 'w':
        b->warmup = bench_number(b, value);
        break;
    case 'c':
        b->concurrency = bench_number(b, value);
        break;
    case 's':
        b->size = bench_number(b, value);
        break;
    case 'b':
        *body = value;
        break;
    case 'h':
        b->hosts = bench_number(b, value);
        break;
    case 'a':
        b->many_addresses = strcmp(value, "many") == 0;
        break;
    case 'S':
        b->shards = bench_number(b, value);
        break;
    case 'A':
        b->ca_file = value;
        break;
    default:
        bench_die(b, "unknown option");
    }
}

static void bench_options(struct bench *b, const char *program, int argc, char **argv)
{
    static const struct option options[] = {
        {"url", required_argument, NULL, 'u'},
        {"count", required_argument, NULL, 'n'},
        {"warmup", required_argument, NULL, 'w'},
        {"concurrency", required_argument, NULL, 'c'},
        {"size", required_argument, NULL, 's'},
        {"body", required_argument, NULL, 'b'},
        {"hosts", required_argument, NULL, 'h'},
        {"addresses", required_argument, NULL, 'a'},
        {"shards", required_argument, NULL, 'S'},
        {"ca", required_argument, NULL, 'A'},
        {NULL, 0, NULL, 0},
    };
    *b = (struct bench){.program = program,
                        .count = 100000,
                        .warmup = (unsigned long)-1,
                        .concurrency = 64,
                        .size = 400,
                        .shards = 16,
                        .ca_file = "/etc/ssl/certs/ca-certificates.crt"};
    const char *body = NULL;
    for (int id; (id = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        bench_option(b, id, optarg, &body);
    }
    if (b->url == NULL || b->count == 0 || b->concurrency == 0 || b->shards == 0) {
        bench_die(b, "--url is needed, numbers must be positive");
    }
    bench_split_url(b);
    if (body != NULL) {
        bench_read_body(b, body);
    } else {
        bench_fill_body(b);
    }
    if (b->warmup == (unsigned long)-1) { /* every connection open, every host seen */
        b->warmup = b->hosts > b->concurrency ? b->hosts : b->concurrency;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    const struct rlimit files = {1u << 20, 1u << 20};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
        struct rlimit most;
        (void)getrlimit(RLIMIT_NOFILE, &most);
        most.rlim_cur = most.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &most);
    }
}

static void bench_host(const struct bench *b, unsigned long i, char host[64], char address[16])
{
    if (b->hosts == 0) {
        (void)snprintf(host, 64, "%s", b->host);
        (void)snprintf(address, 16, "%.15s", b->host);
        return;
    }
    (void)snprintf(host, 64, "h%lu.bench.test", i);
    if (b->many_addresses) {
        (void)snprintf(address, 16, "127.0.%lu.%lu", (1 + i / 250) % 256, 1 + i % 250);
    } else {
        (void)snprintf(address, 16, "127.0.0.1");
    }
}

/* Which host the next request goes to: round robin. */
static unsigned long bench_next(struct bench *b)
{
    return b->started++ % (b->hosts > 0 ? b->hosts : 1);
}

static bool bench_more(const struct bench *b)
{
    return b->started < b->warmup + b->count;
}

/* One request ended; the clocks start when the warm-up has. */
static void bench_ended(struct bench *b, bool ok, bool reused)
{
    if (++b->done == b->warmup || b->from_us == 0) {
        b->from_us = clock_mono_us();
        b->cpu_from_us = bench_cpu_us();
        b->failures = b->reused = 0;
    }
    b->failures += !ok;
    b->reused += reused;
}

static int bench_report(const struct bench *b)
{
    struct rusage use;
    (void)getrusage(RUSAGE_SELF, &use);
    const double s = (double)(clock_mono_us() - b->from_us) / 1e6;
    const double n = (double)b->count;
    (void)printf(
        "{\"program\":\"%s\",\"requests\":%lu,\"concurrency\":%lu,\"hosts\":%lu,\"addresses\":\"%"
        "s\","
        "\"seconds\":%.3f,\"requests_per_s\":%.0f,\"cpu_us_per_request\":%.1f,\"failures\":%lu,"
        "\"reused\":%lu,\"peak_rss_kib\":%ld}\n",
        b->program, b->count, b->concurrency, b->hosts, b->many_addresses ? "many" : "one", s,
        n / s, (double)(bench_cpu_us() - b->cpu_from_us) / n, b->failures, b->reused,
        use.ru_maxrss);
    return b->failures == 0 ? 0 : 1;
}

#endif
