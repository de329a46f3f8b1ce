/* Hosts librdkafka's mock brokers as a process: what the demo falls back to when no real Apache
 * Kafka can be had. One broker on 127.0.0.1 on a port that librdkafka chooses (it cannot be told
 * one), topics in memory only, gone when the process ends. Runs until SIGTERM or SIGINT. Not a
 * Kafka: a stand-in that knows produce, fetch and consumer groups. Started by
 * deploy/local/services/kafka.sh. */
#include <getopt.h>
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOPICS_MAX     16
#define PARTITIONS_MAX 1000
#define PATH_BYTES     4096

struct options {
    const char *bootstrap_file; /* NULL: standard output only */
    const char *topics[TOPICS_MAX];
    size_t topics_n;
};

static void usage(FILE *out)
{
    (void)fputs("usage: mock_kafka [--bootstrap-file FILE] [--topic NAME:PARTITIONS]...\n"
                "Serves librdkafka's mock brokers (one, in memory, on 127.0.0.1) until SIGTERM.\n"
                "Its address goes to standard output and, complete or not at all, into FILE.\n",
                out);
}

/* Exits itself for --help, --version and a wrong command line. */
static struct options parse(int argc, char **argv)
{
    static const struct option longs[] = {{"bootstrap-file", required_argument, NULL, 'b'},
                                          {"topic", required_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {"version", no_argument, NULL, 'v'},
                                          {NULL, 0, NULL, 0}};
    struct options o = {0};
    int opt;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        if (opt == 'b') {
            o.bootstrap_file = optarg;
        } else if (opt == 't' && o.topics_n < TOPICS_MAX) {
            o.topics[o.topics_n++] = optarg;
        } else if (opt == 'h') {
            usage(stdout);
            exit(EXIT_SUCCESS);
        } else if (opt == 'v') {
            (void)puts("mock_kafka " NRW_VERSION);
            exit(EXIT_SUCCESS);
        } else {
            usage(stderr);
            exit(2);
        }
    }
    return o;
}

/* "NAME:PARTITIONS" */
static bool create_topic(rd_kafka_mock_cluster_t *cluster, const char *text)
{
    char name[250];
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    long partitions = colon ? strtol(colon + 1, &end, 10) : 0;
    if (!colon || colon == text || (size_t)(colon - text) >= sizeof name || *end != '\0' ||
        partitions < 1 || partitions > PARTITIONS_MAX) {
        (void)fprintf(stderr, "mock_kafka: not NAME:PARTITIONS (1 to %d): %s\n", PARTITIONS_MAX,
                      text);
        return false;
    }
    memcpy(name, text, (size_t)(colon - text));
    name[colon - text] = '\0';
    rd_kafka_resp_err_t rc = rd_kafka_mock_topic_create(cluster, name, (int)partitions, 1);
    if (rc != RD_KAFKA_RESP_ERR_NO_ERROR) {
        (void)fprintf(stderr, "mock_kafka: topic %s: %s\n", name, rd_kafka_err2str(rc));
    }
    return rc == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* By rename, so that a reader never sees half an address. */
static bool write_bootstrap(const char *file, const char *address)
{
    char draft[PATH_BYTES];
    int n = snprintf(draft, sizeof draft, "%s.new", file);
    FILE *out = n > 0 && (size_t)n < sizeof draft ? fopen(draft, "we") : NULL;
    bool ok = out && fprintf(out, "%s\n", address) > 0;
    if (out && fclose(out) != 0) {
        ok = false;
    }
    if (!ok || rename(draft, file) != 0) {
        perror(file);
        return false;
    }
    return true;
}

static bool serve(rd_kafka_mock_cluster_t *cluster, const struct options *o, const sigset_t *ends)
{
    const char *address = rd_kafka_mock_cluster_bootstraps(cluster);
    for (size_t i = 0; i < o->topics_n; i++) {
        if (!create_topic(cluster, o->topics[i])) {
            return false;
        }
    }
    if (printf("mock brokers at %s\n", address) < 0 || fflush(stdout) != 0) {
        return false;
    }
    if (o->bootstrap_file && !write_bootstrap(o->bootstrap_file, address)) {
        return false;
    }
    int received = 0;
    return sigwait(ends, &received) == 0;
}

int main(int argc, char **argv)
{
    struct options o = parse(argc, argv);
    /* Blocked before librdkafka starts its threads, so that only sigwait sees them. */
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);

    char text[256] = "";
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, NULL, text, sizeof text);
    rd_kafka_mock_cluster_t *cluster = rk ? rd_kafka_mock_cluster_new(rk, 1) : NULL;
    bool ok = cluster && serve(cluster, &o, &ends);
    if (!cluster) {
        (void)fprintf(stderr, "mock_kafka: no mock cluster: %s\n", text);
    } else {
        rd_kafka_mock_cluster_destroy(cluster);
    }
    if (rk) {
        rd_kafka_destroy(rk);
    }
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
