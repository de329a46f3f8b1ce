/* Time: read, written as text, read from text. Proleptic Gregorian, UTC, no leap seconds in the
 * count (POSIX). No libc calendar functions: they take locks, locale and time zone files into the
 * hot path. Called from everywhere; owns nothing. */
#include "clock.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

#define US_PER_S    INT64_C(1000000)
#define S_PER_DAY   INT64_C(86400)
#define WALL_MAX_US (INT64_C(253402300800) * US_PER_S - 1) /* 9999-12-31T23:59:59.999999Z */

static int64_t read_us(clockid_t id)
{
    struct timespec ts = {0};
    (void)clock_gettime(id, &ts); /* cannot fail for these two ids on Linux */
    return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

int64_t clock_mono_us(void)
{
    return read_us(CLOCK_MONOTONIC);
}

int64_t clock_cpu_us(void)
{
    return read_us(CLOCK_THREAD_CPUTIME_ID);
}

int64_t clock_wall_us(void)
{
    return read_us(CLOCK_REALTIME);
}

static void put_digits(char *at, int64_t v, int digits)
{
    while (digits-- > 0) {
        at[digits] = (char)('0' + v % 10);
        v /= 10;
    }
}

/* Both directions count years from March, so that the leap day is the last one and months follow a
 * formula: (153 * m + 2) / 5 days lie before month m of such a year; 146097 days are 400 years. */
static int64_t days_of_date(int64_t y, int m, int d)
{
    int64_t year = (m > 2 ? y : y - 1) + 400; /* + 400: year 0000 has a February too */
    int64_t month = m > 2 ? m - 3 : m + 9;
    int64_t day_of_year = (153 * month + 2) / 5 + d - 1;
    return year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468 - 146097;
}

static void date_of_days(int64_t days, int64_t *ret_y, int64_t *ret_m, int64_t *ret_d)
{
    int64_t z = days + 719468; /* days since 0000-03-01; never negative here */
    int64_t era = z / 146097;
    int64_t day = z % 146097;
    int64_t year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    int64_t day_of_year = day - (365 * year + year / 4 - year / 100);
    int64_t month = (5 * day_of_year + 2) / 153;
    *ret_d = day_of_year - (153 * month + 2) / 5 + 1;
    *ret_m = month < 10 ? month + 3 : month - 9;
    *ret_y = era * 400 + year + (*ret_m <= 2);
}

void clock_format_rfc3339(int64_t wall_us, char out[CLOCK_RFC3339_SIZE])
{
    if (wall_us < 0) {
        wall_us = 0;
    }
    if (wall_us > WALL_MAX_US) {
        wall_us = WALL_MAX_US;
    }
    int64_t y = 0;
    int64_t m = 0;
    int64_t d = 0;
    int64_t s = wall_us / US_PER_S;
    date_of_days(s / S_PER_DAY, &y, &m, &d);
    s %= S_PER_DAY;
    memcpy(out, "0000-00-00T00:00:00.000000Z", CLOCK_RFC3339_SIZE);
    put_digits(out, y, 4);
    put_digits(out + 5, m, 2);
    put_digits(out + 8, d, 2);
    put_digits(out + 11, s / 3600, 2);
    put_digits(out + 14, s / 60 % 60, 2);
    put_digits(out + 17, s % 60, 2);
    put_digits(out + 20, wall_us % US_PER_S, 6);
}

struct reader {
    const char *p;
    const char *end;
    bool ok; /* sticky */
};

static int read_digits(struct reader *r, int digits)
{
    int v = 0;
    while (digits-- > 0) {
        if (!r->ok || r->p == r->end || *r->p < '0' || *r->p > '9') {
            r->ok = false;
            return 0;
        }
        v = v * 10 + (*r->p++ - '0');
    }
    return v;
}

/* Takes one character out of a set; returns it, or 0. */
static char read_one_of(struct reader *r, const char *set)
{
    if (!r->ok || r->p == r->end || *r->p == '\0' || strchr(set, *r->p) == NULL) {
        r->ok = false;
        return 0;
    }
    return *r->p++;
}

static int64_t read_fraction_us(struct reader *r)
{
    if (!r->ok || r->p == r->end || *r->p != '.') {
        return 0;
    }
    r->p++;
    int64_t us = read_digits(r, 1) * (US_PER_S / 10);
    for (int64_t unit = US_PER_S / 100; r->p < r->end && *r->p >= '0' && *r->p <= '9'; unit /= 10) {
        us += (*r->p++ - '0') * unit; /* unit is 0 after the sixth digit: the rest is cut */
    }
    return us;
}

static int64_t read_offset_s(struct reader *r)
{
    char sign = read_one_of(r, "Zz+-");
    if (sign != '+' && sign != '-') {
        return 0;
    }
    int hours = read_digits(r, 2);
    (void)read_one_of(r, ":");
    int minutes = read_digits(r, 2);
    if (hours > 23 || minutes > 59) {
        r->ok = false;
    }
    int64_t offset = hours * 3600 + minutes * 60;
    return sign == '-' ? -offset : offset;
}

static int days_in_month(int y, int m)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (y % 4 == 0 && y % 100 != 0) || y % 400 == 0;
    return m == 2 && leap ? 29 : days[m - 1];
}

/* Second 60 exists only as the last one of a UTC month; it counts like the second that follows it.
 */
static bool is_leap_second(int64_t following_s)
{
    if (following_s % S_PER_DAY != 0) {
        return false;
    }
    if (following_s < 0) {
        return false; /* no leap seconds before 1972 */
    }
    int64_t y = 0;
    int64_t m = 0;
    int64_t d = 0;
    date_of_days(following_s / S_PER_DAY, &y, &m, &d);
    return d == 1;
}

bool clock_parse_rfc3339(const char *text, size_t len, int64_t *ret_wall_us)
{
    struct reader r = {.p = text, .end = text + len, .ok = text != NULL};
    int y = read_digits(&r, 4);
    (void)read_one_of(&r, "-");
    int m = read_digits(&r, 2);
    (void)read_one_of(&r, "-");
    int d = read_digits(&r, 2);
    (void)read_one_of(&r, "Tt ");
    int hour = read_digits(&r, 2);
    (void)read_one_of(&r, ":");
    int minute = read_digits(&r, 2);
    (void)read_one_of(&r, ":");
    int second = read_digits(&r, 2);
    int64_t fraction_us = read_fraction_us(&r);
    int64_t offset_s = read_offset_s(&r);
    if (!r.ok || r.p != r.end) {
        return false;
    }
    if (m < 1 || m > 12 || d < 1 || d > days_in_month(y, m) || hour > 23 || minute > 59 ||
        second > 60) {
        return false;
    }
    int64_t of_day = (hour * INT64_C(60) + minute) * 60;
    int64_t s = days_of_date(y, m, d) * S_PER_DAY + of_day + second - offset_s;
    if (second == 60 && !is_leap_second(s)) {
        return false;
    }
    if (ret_wall_us != NULL) {
        *ret_wall_us = s * US_PER_S + fraction_us;
    }
    return true;
}
