/* The dialogue of a mail: MAIL, RCPT, DATA, the message, RSET after a refusal, QUIT at the end; one
 * command at a time, and what each answer means. Not pipelined: a mail costs four round trips to a
 * server that is near. The connection is smtplink.c's (which says why libcurl does not say these
 * few lines itself); outboxes are mailer.c's, which calls this. */
#include "smtp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "check.h"
#include "mem.h"
#include "mime.h"
#include "pgarray.h"
#include "smtplink.h"

#define SMTP_MAGIC      0x736d7470u
#define QUIT_TIMEOUT_MS 5000
#define MESSAGE_MAX     262144u
#define LINE_MAX_LEN    2048 /* of an answer; RFC 5321 says 512 */
#define LINES_MAX       64
#define WHY_MAX         320

/* What is under way; from SMTP_MAIL on, what the server has to answer. */
enum smtp_step {
    SMTP_FREE,
    SMTP_CONNECT,
    SMTP_MAIL,
    SMTP_RCPT,
    SMTP_DATA,
    SMTP_BODY,
    SMTP_RESET, /* after a refusal: the connection is good for the next mail */
    SMTP_QUIT,
};

struct smtp {
    unsigned magic;
    enum smtp_step step;
    struct smtplink *link;
    struct event *deadline;
    int64_t timeout_ms;
    char *from;

    bool unsaid; /* step's command waits for the loop: nobody is called back from inside a call */
    struct buf out;
    size_t out_at;
    char in[LINE_MAX_LEN];
    size_t in_len;
    unsigned lines;       /* of this answer */
    char line[SMTP_TEXT]; /* the last one */

    char to[MIME_ADDRESS_MAX + 1];
    const char *message;
    size_t len;
    struct smtp_result result;
    smtp_done_fn *done;
    void (*rested)(void *ctx);
    void *ctx;
};

static struct smtp *smtp_of(void *ctx)
{
    struct smtp *s = ctx;
    CHECK_MAGIC(s, SMTP_MAGIC);
    return s;
}

static void arm(struct smtp *s, int64_t ms)
{
    const struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    CHECK(event_add(s->deadline, &tv) == 0);
}

/* --- ends ------------------------------------------------------------------------------- */

static void end(struct smtp *s, bool keep)
{
    const bool was_quit = s->step == SMTP_QUIT;
    s->step = SMTP_FREE;
    s->unsaid = false;
    (void)event_del(s->deadline); /* fails only for an event that is not registered */
    if (!keep) {
        smtplink_close(s->link);
    }
    if (was_quit) {
        s->rested(s->ctx);
    } else {
        s->done(s->ctx, &s->result);
    }
}

static void set_result(struct smtp *s, enum smtp_outcome outcome, const char *what)
{
    char text[WHY_MAX + SMTP_TEXT];
    const bool both = what[0] != '\0' && s->line[0] != '\0';
    (void)snprintf(text, sizeof(text), "%.*s%s%s", WHY_MAX - 8, what, both ? ": " : "", s->line);
    s->result.outcome = outcome;
    (void)pgarray_clean_text(text, strlen(text), s->result.text, sizeof(s->result.text));
}

/* The connection is of no use any more. A refusal that was noted before stays the result. */
static void lose(struct smtp *s, const char *what)
{
    if (s->step != SMTP_RESET) {
        set_result(s, SMTP_UNAVAILABLE, what);
    }
    end(s, false);
}

static void on_deadline(evutil_socket_t fd, short what, void *ctx)
{
    (void)fd, (void)what;
    static const char *const waiting_for[] = {
        [SMTP_FREE] = "",      [SMTP_CONNECT] = "the connection",
        [SMTP_MAIL] = "MAIL",  [SMTP_RCPT] = "RCPT",
        [SMTP_DATA] = "DATA",  [SMTP_BODY] = "the mail",
        [SMTP_RESET] = "RSET", [SMTP_QUIT] = "QUIT"};
    struct smtp *s = smtp_of(ctx);
    char text[64];
    (void)snprintf(text, sizeof(text), "timed out, waiting for the answer to %s",
                   waiting_for[s->step]);
    s->line[0] = '\0';
    lose(s, text);
}

/* --- the dialogue ----------------------------------------------------------------------- */

static void flush(struct smtp *s)
{
    while (s->out_at < s->out.len) {
        size_t n = 0;
        const char *why = "";
        const enum smtplink_io io =
            smtplink_write(s->link, s->out.data + s->out_at, s->out.len - s->out_at, &n, &why);
        if (io == SMTPLINK_BROKEN) {
            lose(s, why);
            return;
        }
        if (io == SMTPLINK_AGAIN) {
            smtplink_want_write(s->link);
            return;
        }
        s->out_at += n;
    }
}

/* A line that begins with a dot gets another one; a line of one dot ends the mail. */
static void add_message(struct buf *out, const char *message, size_t len)
{
    const char *stop = message + len;
    while (message < stop) {
        const char *lf = memchr(message, '\n', (size_t)(stop - message));
        const char *next = lf != NULL ? lf + 1 : stop;
        if (message[0] == '.') {
            buf_add_str(out, ".");
        }
        buf_add(out, message, (size_t)(next - message));
        message = next;
    }
    buf_add_str(out, ".\r\n");
}

static void say(struct smtp *s, enum smtp_step step)
{
    buf_reset(&s->out);
    s->out_at = 0;
    s->step = step;
    s->unsaid = false;
    s->in_len = 0, s->lines = 0;
    if (step == SMTP_MAIL) {
        buf_add_fmt(&s->out, "MAIL FROM:<%s>\r\n", s->from);
    } else if (step == SMTP_RCPT) {
        buf_add_fmt(&s->out, "RCPT TO:<%s>\r\n", s->to);
    } else if (step == SMTP_DATA) {
        buf_add_str(&s->out, "DATA\r\n");
    } else if (step == SMTP_BODY) {
        add_message(&s->out, s->message, s->len);
    } else {
        buf_add_str(&s->out, step == SMTP_RESET ? "RSET\r\n" : "QUIT\r\n");
    }
    CHECK(buf_ok(&s->out));
    flush(s);
}

static void say_later(struct smtp *s, enum smtp_step step)
{
    s->step = step;
    s->unsaid = true;
    smtplink_want_write(s->link);
}

static bool begins(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

/* Only the two classes of "this address": a relay that is set up wrongly refuses everybody for
 * good, too, but with 5.7.1 or without a class. */
static enum smtp_outcome recipient_refused(const char *line)
{
    const bool address = strlen(line) > 4 && line[0] == '5' &&
                         (begins(line + 4, "5.1.") || begins(line + 4, "5.2."));
    return address ? SMTP_BAD_ADDRESS : SMTP_REFUSED;
}

static void refused(struct smtp *s)
{
    switch (s->step) {
    case SMTP_RCPT:
        set_result(s, recipient_refused(s->line), "recipient refused");
        say(s, SMTP_RESET);
        break;
    case SMTP_DATA:
        set_result(s, SMTP_REFUSED, "DATA refused");
        say(s, SMTP_RESET);
        break;
    case SMTP_BODY:
        set_result(s, SMTP_REFUSED, "mail refused");
        end(s, true);
        break;
    case SMTP_MAIL:
        lose(s, "sender refused");
        break;
    case SMTP_FREE:
    case SMTP_CONNECT:
    case SMTP_RESET:
    case SMTP_QUIT:
        lose(s, "");
        break;
    }
}

static void accepted(struct smtp *s)
{
    switch (s->step) {
    case SMTP_MAIL:
        say(s, SMTP_RCPT);
        break;
    case SMTP_RCPT:
        say(s, SMTP_DATA);
        break;
    case SMTP_DATA:
        say(s, SMTP_BODY);
        break;
    case SMTP_BODY:
        s->result = (struct smtp_result){.outcome = SMTP_SENT};
        end(s, true);
        break;
    case SMTP_RESET:
        end(s, true);
        break;
    case SMTP_QUIT:
    case SMTP_FREE:
    case SMTP_CONNECT:
        end(s, false);
        break;
    }
}

/* The last line of an answer is in s->line. */
static void answered(struct smtp *s)
{
    const char wanted = s->step == SMTP_DATA ? '3' : '2';
    s->lines = 0;
    if (s->out_at < s->out.len) {
        lose(s, "the server answers before it was asked");
    } else if (begins(s->line, "421")) { /* it is going away, whatever was asked */
        lose(s, "");
    } else if (s->line[0] == wanted) {
        accepted(s);
    } else {
        refused(s);
    }
}

/* One line of an answer, without its end. False: the answer is complete, or no answer. */
static bool take_line(struct smtp *s, const char *line, size_t len)
{
    (void)pgarray_clean_text(line, len, s->line, sizeof(s->line));
    const bool code =
        len >= 3 && strspn(s->line, "0123456789") == 3 && s->line[0] >= '2' && s->line[0] <= '5';
    if (!code || ++s->lines > LINES_MAX) {
        lose(s, "no answer that SMTP knows");
        return false;
    }
    if (s->line[3] == '-') {
        return true;
    }
    answered(s);
    return false;
}

/* Lines in s->in; one answer at a time, because it may end what is under way. */
static bool take_lines(struct smtp *s)
{
    for (;;) {
        const char *lf = memchr(s->in, '\n', s->in_len);
        if (lf == NULL) {
            return true;
        }
        const size_t used = (size_t)(lf - s->in) + 1;
        char line[LINE_MAX_LEN];
        size_t len = used - 1;
        len -= len > 0 && s->in[len - 1] == '\r';
        memcpy(line, s->in, len);
        memmove(s->in, s->in + used, s->in_len - used);
        s->in_len -= used;
        if (!take_line(s, line, len)) {
            return false;
        }
    }
}

/* The server speaks unasked: it closes the connection, or is about to. Nothing of the next mail has
 * been said yet. */
static void connect_again(struct smtp *s)
{
    smtplink_close(s->link);
    if (s->step == SMTP_QUIT) {
        end(s, false);
    } else if (s->step != SMTP_FREE) {
        s->step = SMTP_CONNECT;
        s->unsaid = false;
        smtplink_open(s->link);
    }
}

static void on_readable(void *ctx)
{
    struct smtp *s = smtp_of(ctx);
    if (s->step == SMTP_FREE || s->unsaid) {
        connect_again(s);
        return;
    }
    while (s->step > SMTP_CONNECT) {
        size_t n = 0;
        const char *why = "";
        const enum smtplink_io io =
            smtplink_read(s->link, s->in + s->in_len, sizeof(s->in) - s->in_len, &n, &why);
        if (io == SMTPLINK_AGAIN) {
            return;
        }
        if (io == SMTPLINK_BROKEN) {
            s->line[0] = '\0';
            lose(s, why);
            return;
        }
        s->in_len += n;
        if (take_lines(s) && s->in_len == sizeof(s->in)) {
            lose(s, "no answer that SMTP knows");
            return;
        }
    }
}

static void on_writable(void *ctx)
{
    struct smtp *s = smtp_of(ctx);
    if (s->unsaid) {
        say(s, s->step);
    } else {
        flush(s);
    }
}

static void on_up(void *ctx)
{
    struct smtp *s = smtp_of(ctx);
    CHECK(s->step == SMTP_CONNECT);
    say(s, SMTP_MAIL);
}

static void on_failed(void *ctx, const char *what, const char *line)
{
    struct smtp *s = smtp_of(ctx);
    CHECK(s->step == SMTP_CONNECT);
    memcpy(s->line, line, strlen(line) + 1);
    lose(s, what);
}

/* --- from outside ----------------------------------------------------------------------- */

struct smtp *smtp_new(struct event_base *base, const struct smtp_config *cfg, struct err *err)
{
    CHECK(mime_address_ok(cfg->from));
    struct smtp *s = mem_zero(1, sizeof(*s));
    const struct smtplink_handlers handlers = {.up = on_up,
                                               .failed = on_failed,
                                               .readable = on_readable,
                                               .writable = on_writable,
                                               .ctx = s};
    s->magic = SMTP_MAGIC;
    s->from = mem_dup(cfg->from);
    s->timeout_ms = cfg->timeout_ms;
    s->deadline = evtimer_new(base, on_deadline, s);
    CHECK(s->deadline != NULL);
    buf_init(&s->out, MESSAGE_MAX);
    s->link = smtplink_new(base, cfg, &handlers, err);
    if (s->link == NULL) {
        smtp_free(s), s = NULL;
    }
    return s;
}

void smtp_send(struct smtp *s, const char *to, const char *message, size_t len, smtp_done_fn *done,
               void *ctx)
{
    CHECK_MAGIC(s, SMTP_MAGIC);
    CHECK(s->step == SMTP_FREE && mime_address_ok(to) && len <= MESSAGE_MAX / 2);
    memcpy(s->to, to, strlen(to) + 1);
    s->message = message;
    s->len = len;
    s->done = done;
    s->ctx = ctx;
    s->line[0] = '\0';
    arm(s, s->timeout_ms);
    if (smtplink_is_up(s->link)) {
        say_later(s, SMTP_MAIL);
    } else {
        s->step = SMTP_CONNECT;
        smtplink_open(s->link);
    }
}

bool smtp_is_free(const struct smtp *s)
{
    return s->step == SMTP_FREE;
}

bool smtp_rest(struct smtp *s, void (*rested)(void *ctx), void *ctx)
{
    CHECK_MAGIC(s, SMTP_MAGIC);
    CHECK(s->step == SMTP_FREE);
    if (!smtplink_is_up(s->link)) {
        return false;
    }
    s->rested = rested;
    s->ctx = ctx;
    arm(s, QUIT_TIMEOUT_MS);
    say_later(s, SMTP_QUIT);
    return true;
}

void smtp_free(struct smtp *s)
{
    if (s == NULL) {
        return;
    }
    smtplink_free(s->link), s->link = NULL;
    event_free(s->deadline), s->deadline = NULL;
    buf_done(&s->out);
    free(s->from), s->from = NULL;
    s->magic = 0;
    free(s);
}
