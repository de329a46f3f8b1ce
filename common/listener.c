/* Reads the address that a setting gives to listen on, and binds it. httpd.c owns what comes of it.
 */
#include "listener.h"

#include <event2/util.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "check.h"

#define BACKLOG 512

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* libevent's own parser refuses port 0. */
static bool parse_address(const char *text, union address *ret)
{
    char host[64];
    const char *colon = strrchr(text, ':');
    size_t len = colon == NULL ? sizeof(host) : (size_t)(colon - text);
    bool v6 = text[0] == '[';
    size_t brackets = v6 ? 1 : 0;
    if (len >= sizeof(host) || len < 1 + 2 * brackets || (v6 && colon[-1] != ']')) {
        return false;
    }
    memcpy(host, text + brackets, len - 2 * brackets);
    host[len - 2 * brackets] = '\0';
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > UINT16_MAX) {
        return false;
    }
    *ret = (union address){.v6 = {0}};
    if (v6) {
        ret->v6.sin6_family = AF_INET6;
        ret->v6.sin6_port = htons((uint16_t)port);
        return evutil_inet_pton(AF_INET6, host, &ret->v6.sin6_addr) == 1;
    }
    ret->v4.sin_family = AF_INET;
    ret->v4.sin_port = htons((uint16_t)port);
    return evutil_inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1;
}

struct evconnlistener *listener_new(struct event_base *base, const char *listen, struct err *err)
{
    union address addr;
    if (!parse_address(listen, &addr)) {
        (void)err_set(err, ERR_INVALID, "\"%.80s\" is not address:port or [address]:port", listen);
        return NULL;
    }
    struct evconnlistener *listener = evconnlistener_new_bind(
        base, NULL, NULL, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
        BACKLOG, &addr.any, addr.any.sa_family == AF_INET6 ? sizeof(addr.v6) : sizeof(addr.v4));
    if (listener == NULL) {
        (void)err_set(err, ERR_IO, "cannot listen on %.80s: %s", listen,
                      evutil_socket_error_to_string(EVUTIL_SOCKET_ERROR()));
    }
    return listener;
}

unsigned listener_port(struct evconnlistener *listener)
{
    union address addr = {.v6 = {0}};
    socklen_t len = sizeof(addr);
    CHECK(getsockname(evconnlistener_get_fd(listener), &addr.any, &len) == 0);
    return ntohs(addr.any.sa_family == AF_INET6 ? addr.v6.sin6_port : addr.v4.sin_port);
}
