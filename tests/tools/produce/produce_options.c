/* The command line of the load generator. Owns nothing: texts point into argv. produce.c calls it.
 * A mistake ends the program with exit 2 and one line on stderr, because a test that runs on with
 * half its options would prove nothing. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "produce.h"

#define TENANTS_MAX 1000000u

static const char usage[] =
    "usage: produce --brokers B --topic T --tenant UUID [options]\n"
    "  --event TYPE|all       all = the 14 types in turn (default alert.created)\n"
    "  --count N              messages (default 1; with --event all 14)\n"
    "  --rate R               per second, evenly; data.produced_at_us is then the wall time of the "
    "call\n"
    "  --burst N              with --rate: N at once, as often as makes the rate (default 1)\n"
    "  --tenants N            N tenants in turn: the given one and UUIDv5(given, \"tenant-<i>\"), "
    "i = 1 .. N-1\n"
    "  --print-tenants        print their ids, one a line, and end\n"
    "  --data JSON            the data member, bytes as given\n"
    "  --samples DIR          data members out of DIR/<type>.json\n"
    "  --size BYTES           of the whole envelope, by a data.padding member\n"
    "  --stdin                one raw message per line        --file F   the whole file is the "
    "message\n"
    "  --key K --timestamp-ms MS --header NAME=VALUE (often)\n"
    "  --acked FILE           event ids, appended after the broker's report\n"
    "  --wait                 first wait up to 60 s until the broker knows the topic\n"
    "  --conf FILE, -X K=V    librdkafka properties\n"
    "  --timeout-s S          a message not acknowledged by then has failed (default 120)\n"
    "Prints {\"acked\":n,\"failed\":n,\"seconds\":s}; exit 1 if any failed.\n";

enum option_id {
    OPT_BROKERS = 256,
    OPT_TOPIC,
    OPT_TENANT,
    OPT_TENANTS,
    OPT_PRINT_TENANTS,
    OPT_EVENT,
    OPT_COUNT,
    OPT_RATE,
    OPT_BURST,
    OPT_DATA,
    OPT_SAMPLES,
    OPT_SIZE,
    OPT_STDIN,
    OPT_FILE,
    OPT_KEY,
    OPT_TIMESTAMP,
    OPT_HEADER,
    OPT_ACKED,
    OPT_WAIT,
    OPT_CONF,
    OPT_TIMEOUT,
};

static const struct option long_options[] = {
    {"brokers", required_argument, NULL, OPT_BROKERS},
    {"topic", required_argument, NULL, OPT_TOPIC},
    {"tenant", required_argument, NULL, OPT_TENANT},
    {"tenants", required_argument, NULL, OPT_TENANTS},
    {"print-tenants", no_argument, NULL, OPT_PRINT_TENANTS},
    {"event", required_argument, NULL, OPT_EVENT},
    {"count", required_argument, NULL, OPT_COUNT},
    {"rate", required_argument, NULL, OPT_RATE},
    {"burst", required_argument, NULL, OPT_BURST},
    {"data", required_argument, NULL, OPT_DATA},
    {"samples", required_argument, NULL, OPT_SAMPLES},
    {"size", required_argument, NULL, OPT_SIZE},
    {"stdin", no_argument, NULL, OPT_STDIN},
    {"file", required_argument, NULL, OPT_FILE},
    {"key", required_argument, NULL, OPT_KEY},
    {"timestamp-ms", required_argument, NULL, OPT_TIMESTAMP},
    {"header", required_argument, NULL, OPT_HEADER},
    {"acked", required_argument, NULL, OPT_ACKED},
    {"wait", no_argument, NULL, OPT_WAIT},
    {"conf", required_argument, NULL, OPT_CONF},
    {"timeout-s", required_argument, NULL, OPT_TIMEOUT},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {NULL, 0, NULL, 0},
};

static uint64_t number(const char *option, const char *text, uint64_t min, uint64_t max)
{
    char *end = NULL;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || n < min || n > max)
        produce_fail(option, "not a number in range");
    return n;
}

static void add_header(struct produce *p, const char *text)
{
    const char *equals = strchr(text, '=');
    if (equals == NULL)
        produce_fail("--header", "wants NAME=VALUE");
    if (p->headers == NULL)
        p->headers = rd_kafka_headers_new(4);
    (void)rd_kafka_header_add(p->headers, text, equals - text, equals + 1, -1);
}

static bool number_option(struct produce *p, int id)
{
    switch (id) {
    case OPT_TENANTS:
        p->tenants_n = number("--tenants", optarg, 1, TENANTS_MAX);
        return true;
    case OPT_COUNT:
        p->count = number("--count", optarg, 1, UINT32_MAX);
        return true;
    case OPT_RATE:
        p->rate = number("--rate", optarg, 1, 10000000);
        return true;
    case OPT_BURST:
        p->burst = number("--burst", optarg, 1, 1000000);
        return true;
    case OPT_SIZE:
        p->size = number("--size", optarg, 1, MESSAGE_MAX);
        return true;
    case OPT_TIMESTAMP:
        p->timestamp_ms = (int64_t)number("--timestamp-ms", optarg, 1, INT64_MAX);
        return true;
    case OPT_TIMEOUT:
        p->timeout_s = number("--timeout-s", optarg, 1, 86400);
        return true;
    default:
        return false;
    }
}

static const char **text_place(struct produce *p, int id)
{
    switch (id) {
    case OPT_BROKERS:
        return &p->brokers;
    case OPT_TOPIC:
        return &p->topic;
    case OPT_EVENT:
        return &p->event;
    case OPT_DATA:
        return &p->data;
    case OPT_SAMPLES:
        return &p->samples_dir;
    case OPT_FILE:
        return &p->file;
    case OPT_KEY:
        return &p->key;
    case OPT_ACKED:
        return &p->acked_path;
    case OPT_CONF:
        return &p->conf_path;
    default:
        return NULL;
    }
}

static void other_option(struct produce *p, int id)
{
    switch (id) {
    case OPT_TENANT:
        p->has_tenant = uuid_parse(optarg, strlen(optarg), &p->tenant);
        if (!p->has_tenant)
            produce_fail("--tenant", "not a UUID");
        break;
    case OPT_PRINT_TENANTS:
        p->print_tenants = true;
        break;
    case OPT_STDIN:
        p->from_stdin = true;
        break;
    case OPT_HEADER:
        add_header(p, optarg);
        break;
    case OPT_WAIT:
        p->wait_topic = true;
        break;
    case 'X':
        if (p->properties_n == PROPERTIES_MAX)
            produce_fail("-X", "too many");
        p->properties[p->properties_n++] = optarg;
        break;
    case 'h':
        (void)fputs(usage, stdout);
        exit(0);
    case 'V':
        (void)puts("produce " NRW_VERSION);
        exit(0);
    default:
        produce_fail("option", "unknown; --help lists them");
    }
}

void produce_parse_options(struct produce *p, int argc, char **argv)
{
    int id;
    while ((id = getopt_long(argc, argv, "hVX:", long_options, NULL)) != -1) {
        const char **text = text_place(p, id);
        if (text != NULL) {
            *text = optarg;
        } else if (!number_option(p, id)) {
            other_option(p, id);
        }
    }
    bool raw = p->from_stdin || p->file != NULL;
    if (optind != argc)
        produce_fail(argv[optind], "not an option");
    if (!p->print_tenants && (p->brokers == NULL || p->topic == NULL))
        produce_fail("--brokers and --topic", "are needed");
    if (!p->has_tenant && (!raw || p->print_tenants))
        produce_fail("--tenant", "is needed");
    if (p->from_stdin && p->file != NULL)
        produce_fail("--stdin and --file", "exclude each other");
    p->all_events = strcmp(p->event, "all") == 0;
    if (p->count == 0)
        p->count = p->all_events && !raw ? EVENT_TYPES_N : 1;
}
