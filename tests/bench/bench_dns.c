/* The name server of the bench: h<i>.bench.test has the address BASE + i, or always BASE; TTL 60.
 * Names are not checked further, other types have no records. One UDP socket on loopback, no state.
 * Started by rig.py, ended by SIGTERM (default action). Not part of the product. */
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define HEADER    12u
#define LABEL_MAX 63u
#define TTL_S     60u
#define TYPE_A    1u

static const char usage[] = "usage: bench_dns --listen 127.0.0.1:PORT --base 127.1.0.1 [--one]\n"
                            "  --one   every name has the address BASE (else h<i> has BASE + i)\n";

/* The question's end, or 0 when it is none that we answer. */
static size_t question_end(const uint8_t *q, size_t len)
{
    size_t at = HEADER;
    while (at < len && q[at] != 0) {
        if (q[at] > LABEL_MAX) {
            return 0;
        }
        at += 1u + q[at];
    }
    return at + 5 <= len ? at + 5 : 0; /* root label, type, class */
}

/* The digits behind the first letter of the first label. */
static uint32_t host_number(const uint8_t *q)
{
    uint32_t n = 0;
    for (unsigned i = 1; i < q[HEADER]; i++) {
        const uint8_t c = q[HEADER + 1 + i];
        n = c >= '0' && c <= '9' ? n * 10 + (uint32_t)(c - '0') : n;
    }
    return n;
}

static size_t add_address(uint8_t *q, size_t at, uint32_t address)
{
    const uint8_t record[] = {0xc0,
                              HEADER,
                              0,
                              TYPE_A,
                              0,
                              1,
                              0,
                              0,
                              0,
                              TTL_S,
                              0,
                              4, /* name, type, class, TTL, length */
                              (uint8_t)(address >> 24),
                              (uint8_t)(address >> 16),
                              (uint8_t)(address >> 8),
                              (uint8_t)address};
    memcpy(q + at, record, sizeof(record));
    return at + sizeof(record);
}

/* Turns the query into its answer; its length, or 0 for none. buf has room for one record more. */
static size_t answer(uint8_t *q, size_t len, uint32_t base, bool one)
{
    const size_t end = len > HEADER ? question_end(q, len) : 0;
    if (end == 0 || (q[2] & 0x80) != 0) {
        return 0;
    }
    const bool has = q[end - 4] == 0 && q[end - 3] == TYPE_A;
    q[2] = 0x84; /* an authoritative answer */
    q[3] = 0;
    memset(q + 4, 0, HEADER - 4);
    q[5] = 1;
    q[7] = has;
    return has ? add_address(q, end, one ? base : base + host_number(q)) : end;
}

static bool parse_listen(char *text, struct sockaddr_in *ret)
{
    char *colon = strrchr(text, ':');
    if (colon == NULL) {
        return false;
    }
    *colon = '\0';
    char *end = NULL;
    const unsigned long port = strtoul(colon + 1, &end, 10);
    ret->sin_family = AF_INET;
    ret->sin_port = htons((uint16_t)port);
    return *end == '\0' && port > 0 && port <= UINT16_MAX &&
           inet_pton(AF_INET, text, &ret->sin_addr) == 1 &&
           ntohl(ret->sin_addr.s_addr) >> 24 == 127;
}

static int serve(int fd, uint32_t base, bool one)
{
    for (;;) {
        uint8_t q[1024];
        struct sockaddr_in from;
        socklen_t from_len = sizeof(from);
        const ssize_t n = recvfrom(fd, q, 512, 0, (struct sockaddr *)&from, &from_len);
        if (n < 0) {
            perror("bench_dns: recvfrom");
            return 1;
        }
        const size_t len = answer(q, (size_t)n, base, one);
        if (len > 0) { /* an answer that is lost is asked for again */
            (void)sendto(fd, q, len, 0, (const struct sockaddr *)&from, from_len);
        }
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
                                            {"base", required_argument, NULL, 'b'},
                                            {"one", no_argument, NULL, 'o'},
                                            {NULL, 0, NULL, 0}};
    struct sockaddr_in listen = {0};
    struct in_addr base = {0};
    bool one = false;
    bool ok = true;
    for (int id; (id = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        ok = ok && (id == 'o' || (id == 'l' && parse_listen(optarg, &listen)) ||
                    (id == 'b' && inet_pton(AF_INET, optarg, &base) == 1));
        one = one || id == 'o';
    }
    if (!ok || listen.sin_family == 0 || base.s_addr == 0) {
        (void)fputs(usage, stderr);
        return 2;
    }
    const int room = 4 << 20; /* thousands of look-ups at once */
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 &&
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) != 0) { /* root only */
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    }
    if (fd < 0 || bind(fd, (const struct sockaddr *)&listen, sizeof(listen)) != 0) {
        perror("bench_dns");
        return 1;
    }
    return serve(fd, ntohl(base.s_addr), one);
}
