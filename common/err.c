/* Fills struct err. Decides nothing about it: the caller of err_set adds `retriable`, `ours` and
 * `sqlstate`, the caller that handles the error logs it. Called from everywhere. */
#include "err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Library messages (libpq's above all) come with newlines; the text promises to have none. */
static void make_one_line(char *text)
{
    size_t len = strlen(text);
    while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r' || text[len - 1] == ' ')) {
        text[--len] = '\0';
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\n' || text[i] == '\r') {
            text[i] = ' ';
        }
    }
}

bool err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (err == NULL) {
        return false;
    }
    struct err made = {.code = code}; /* built aside: an argument may be err->text itself */
    va_list args;
    va_start(args, fmt);
    if (vsnprintf(made.text, sizeof(made.text), fmt, args) < 0) {
        made.text[0] = '\0';
    }
    va_end(args);
    make_one_line(made.text);
    *err = made;
    return false;
}

bool err_prefix(struct err *err, const char *fmt, ...)
{
    if (err == NULL) {
        return false;
    }
    char text[2 * sizeof(err->text)];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(err->text), fmt, args);
    va_end(args);
    if (n < 0) {
        return false;
    }
    size_t len = strlen(text);
    n = snprintf(text + len, sizeof(text) - len, ": %s", err->text);
    if (n < 0) {
        return false;
    }
    make_one_line(text);
    memcpy(err->text, text, sizeof(err->text) - 1); /* longer than the room: the end is cut */
    err->text[sizeof(err->text) - 1] = '\0';
    return false;
}
