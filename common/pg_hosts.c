/* Takes the lists of hosts, addresses and ports of a PostgreSQL URL apart as libpq does, has the
 * names among them looked up (store_address.c), and writes the lists anew: a host with several
 * addresses stands there several times, one without is left out, and the one that is to be tried
 * first stands first. That the certificate fits the host is libpq's part. Called by pg.c. */
#include "pg_hosts.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/param.h>

#include "buf.h"
#include "check.h"
#include "mem.h"
#include "store_address.h"

#define HOSTS_MAGIC 0x7067686fu
#define LIST_MAX    (1u << 20) /* bytes; the URL is the operator's, its names' addresses are DNS' */

/* A comma list and how many items it has: at least one, "" has one that is empty. */
struct list {
    char **items;
    unsigned n;
};

struct pg_hosts {
    unsigned magic;
    unsigned n;            /* 0: libpq is to read the URL by itself                */
    struct list hosts;     /* n of them, or one that is empty                      */
    struct list addresses; /* the same                                             */
    struct list ports;     /* n of them, or one for all                            */
    const char **names;    /* to be looked up, in their order; they live in hosts */
    unsigned n_names;
    unsigned first;
    struct store_lookup *lookup;
    pg_hosts_fn *fn;
    void *ctx;
};

/* --- the URL ---------------------------------------------------------------------------- */

static struct list list_split(const char *text)
{
    struct list list = {.n = 1};

    for (const char *at = text; *at != '\0'; at++) {
        list.n += *at == ',';
    }
    list.items = mem_zero(list.n, sizeof(*list.items));
    for (unsigned i = 0; i < list.n; i++) {
        const size_t len = strcspn(text, ",");
        list.items[i] = mem_dupn(text, len);
        text += len + 1;
    }
    return list;
}

static void list_done(struct list *list)
{
    for (unsigned i = 0; i < list->n; i++) {
        free(list->items[i]);
    }
    free(list->items);
    *list = (struct list){.n = 0};
}

static const char *list_at(const struct list *list, unsigned i)
{
    return list->items[list->n == 1 ? 0 : i];
}

static bool says_nothing(const struct list *list)
{
    return list->n == 1 && *list->items[0] == '\0';
}

/* In several ports an empty one is libpq's own; in the lists anew it might be the only one, and one
 * that is empty would leave the URL's list in force. */
static void fill_empty(struct list *list, const char *text)
{
    for (unsigned i = 0; i < list->n && list->n > 1; i++) {
        if (*list->items[i] == '\0') {
            free(list->items[i]);
            list->items[i] = mem_dup(text);
        }
    }
}

static const PQconninfoOption *find_option(const PQconninfoOption *options, const char *keyword)
{
    while (options->keyword != NULL && strcmp(options->keyword, keyword) != 0) {
        options++;
    }
    CHECK(options->keyword != NULL);
    return options;
}

/* What counts: the URL, then the environment. */
static const char *value_of(const PQconninfoOption *options, const char *keyword)
{
    const PQconninfoOption *o = find_option(options, keyword);
    const char *value = o->val == NULL && o->envvar != NULL ? getenv(o->envvar) : o->val;

    return value == NULL ? "" : value;
}

static bool is_name(const char *host)
{
    return *host != '\0' && *host != '/' && *host != '@' && !store_address_is_given(host);
}

static bool is_wanted(const struct pg_hosts *h, unsigned i)
{
    return *list_at(&h->addresses, i) == '\0' && is_name(list_at(&h->hosts, i));
}

/* 0: libpq refuses these lists, before it resolves anything. */
static unsigned common_length(const struct pg_hosts *h)
{
    const unsigned n = MAX(h->hosts.n, h->addresses.n);

    return (h->hosts.n == n || says_nothing(&h->hosts)) &&
                   (h->addresses.n == n || says_nothing(&h->addresses)) &&
                   (h->ports.n == n || h->ports.n == 1)
               ? n
               : 0;
}

static void read_options(struct pg_hosts *h, const PQconninfoOption *options)
{
    h->hosts = list_split(value_of(options, "host"));
    h->addresses = list_split(value_of(options, "hostaddr"));
    h->ports = list_split(value_of(options, "port"));
    fill_empty(&h->ports, find_option(options, "port")->compiled);
    h->n = *value_of(options, "service") == '\0' ? common_length(h) : 0;
    h->names = mem_zero(h->n + 1, sizeof(*h->names));
    for (unsigned i = 0; i < h->n; i++) {
        if (is_wanted(h, i)) {
            h->names[h->n_names++] = list_at(&h->hosts, i);
        }
    }
}

struct pg_hosts *pg_hosts_new(const char *url)
{
    struct pg_hosts *h = mem_zero(1, sizeof(*h));
    PQconninfoOption *options = PQconninfoParse(url, NULL);

    h->magic = HOSTS_MAGIC;
    if (options != NULL) {
        read_options(h, options);
        PQconninfoFree(options);
    }
    return h;
}

void pg_hosts_free(struct pg_hosts *h)
{
    if (h == NULL) {
        return;
    }
    CHECK_MAGIC(h, HOSTS_MAGIC);
    store_lookup_cancel(h->lookup);
    list_done(&h->hosts);
    list_done(&h->addresses);
    list_done(&h->ports);
    free(h->names);
    h->magic = 0;
    free(h);
}

/* --- the lists anew --------------------------------------------------------------------- */

struct target {
    unsigned host; /* its place in the URL */
    const char *address;
};

/* ret: room for all. Returns how many there are. */
static unsigned list_targets(const struct pg_hosts *h, const struct store_host *found,
                             struct target *ret, struct err *left_out)
{
    unsigned n = 0;

    for (unsigned i = 0; i < h->n; i++) {
        if (!is_wanted(h, i)) {
            ret[n++] = (struct target){.host = i, .address = list_at(&h->addresses, i)};
            continue;
        }
        CHECK(found != NULL);
        for (unsigned a = 0; a < found->n; a++) {
            ret[n++] = (struct target){.host = i, .address = found->addresses[a]};
        }
        if (found->n == 0) {
            const bool first = left_out->code == ERR_NONE;
            (void)err_set(left_out, found->err.code, "%s%s%s", left_out->text, first ? "" : "; ",
                          found->err.text);
            left_out->retriable = left_out->ours = true;
        }
        found++;
    }
    return n;
}

static void write_lists(const struct pg_hosts *h, const struct target *targets, unsigned n,
                        struct buf ret[3])
{
    for (unsigned i = 0; i < n; i++) {
        const struct target *to = &targets[(i + h->first % n) % n];
        const char *comma = i > 0 ? "," : "";

        buf_add_fmt(&ret[0], "%s%s", comma, list_at(&h->hosts, to->host));
        buf_add_fmt(&ret[1], "%s%s", comma, to->address);
        if (h->ports.n > 1) {
            buf_add_fmt(&ret[2], "%s%s", comma, h->ports.items[to->host]);
        }
    }
}

/* found: one for each name. */
static void hand_on(struct pg_hosts *h, const struct store_host *found)
{
    struct target *targets = mem_zero((size_t)h->n * STORE_ADDRESSES_MAX + 1, sizeof(*targets));
    struct err left_out = {.code = ERR_NONE};
    struct buf lists[3]; /* host, hostaddr, port */

    for (size_t i = 0; i < 3; i++) {
        buf_init(&lists[i], LIST_MAX);
    }
    write_lists(h, targets, list_targets(h, found, targets, &left_out), lists);
    const struct pg_place place = {buf_cstr(&lists[0]), buf_cstr(&lists[1]), buf_cstr(&lists[2])};
    const bool too_long = !buf_ok(&lists[0]) || !buf_ok(&lists[1]) || !buf_ok(&lists[2]);
    if (too_long) {
        (void)err_set(&left_out, ERR_LIMIT, "the hosts of the URL have too many addresses");
        left_out.retriable = left_out.ours = true;
    }
    /* An empty list leaves the URL's in force, and libpq would ask for its names: when none of them
     * resolved, or when of "a," only the default socket is left. */
    const bool lost = too_long || (h->n_names > 0 && *place.host == '\0');
    h->fn(h->ctx, lost ? NULL : &place, &left_out);
    for (size_t i = 0; i < 3; i++) {
        buf_done(&lists[i]);
    }
    free(targets);
}

static void on_found(void *ctx, const struct store_host *found, unsigned n)
{
    struct pg_hosts *h = ctx;

    CHECK_MAGIC(h, HOSTS_MAGIC);
    CHECK(n == h->n_names);
    h->lookup = NULL;
    hand_on(h, found);
}

void pg_hosts_find(struct pg_hosts *h, struct event_base *base, unsigned first, pg_hosts_fn *fn,
                   void *ctx)
{
    CHECK_MAGIC(h, HOSTS_MAGIC);
    CHECK(h->lookup == NULL);
    h->first = first;
    h->fn = fn;
    h->ctx = ctx;
    if (h->n_names == 0) {
        hand_on(h, NULL);
    } else {
        h->lookup = store_lookup_new(base, h->names, h->n_names, on_found, h);
    }
}
