/* One blocking request over libcurl's easy interface. shell.c calls it instead of the service. */
#include "healthcheck.h"

#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

#define TIMEOUT_MS 5000L
#define URL_SIZE   256

static size_t drop(const char *data, size_t size, size_t n, void *ctx)
{
    (void)data;
    (void)ctx;
    return size * n;
}

static void url_of(const char *listen, const char *path, char out[URL_SIZE])
{
    static const char *const everywhere[][2] = {{"0.0.0.0:", "127.0.0.1:"}, {"[::]:", "[::1]:"}};
    const char *host = "";
    for (size_t i = 0; i < sizeof(everywhere) / sizeof(*everywhere); i++) {
        const size_t len = strlen(everywhere[i][0]);
        if (strncmp(listen, everywhere[i][0], len) == 0) {
            host = everywhere[i][1];
            listen += len;
        }
    }
    (void)snprintf(out, URL_SIZE, "http://%s%s%s", host, listen, path);
}

int healthcheck_ask(const char *admin_listen, const char *path)
{
    char url[URL_SIZE];
    long status = 0;
    url_of(admin_listen, path, url);
    CURL *easy = curl_easy_init();
    CHECK(easy != NULL);
    CHECK(curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK);
    CHECK(curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK);
    CHECK(curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, TIMEOUT_MS) == CURLE_OK);
    CHECK(curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop) == CURLE_OK);
    const CURLcode code = curl_easy_perform(easy);
    if (code == CURLE_OK) {
        (void)curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status); /* 0 without an answer */
    }
    curl_easy_cleanup(easy);
    if (status == 200) {
        return 0;
    }
    if (code == CURLE_OK) {
        (void)fprintf(stderr, "%s: status %ld\n", url, status);
    } else {
        (void)fprintf(stderr, "%s: %s\n", url, curl_easy_strerror(code));
    }
    return 1;
}
