/* libc's resolver blocks, and no name may reach it: this getaddrinfo() stands in front of libc's,
 * passes addresses on and refuses names. To be included by a test program once. */
#ifndef NRW_TEST_NO_LOOKUPS_H
#define NRW_TEST_NO_LOOKUPS_H

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <stdbool.h>
#include <string.h>

static unsigned names_asked;

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **ret)
{
    typedef int getaddrinfo_fn(const char *, const char *, const struct addrinfo *,
                               struct addrinfo **);
    void *found = dlsym(RTLD_NEXT, "getaddrinfo");
    getaddrinfo_fn *libcs;
    struct in6_addr address;

    if ((hints == NULL || (hints->ai_flags & AI_NUMERICHOST) == 0) && name != NULL &&
        inet_pton(AF_INET, name, &address) != 1 && inet_pton(AF_INET6, name, &address) != 1) {
        names_asked++;
        return EAI_FAIL;
    }
    memcpy(&libcs, &found, sizeof(libcs)); /* ISO C has no such cast */
    return libcs(name, service, hints, ret);
}

#endif
