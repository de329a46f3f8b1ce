/* What an operator would read on the page of metrics right now. */
#ifndef NRW_METRICS_PAGE_H
#define NRW_METRICS_PAGE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"
#include "metrics.h"

/* series: name{label="value"}, as it is written there. */
static double metrics_page_value(const char *series)
{
    struct buf page;
    char line[120];
    buf_init(&page, (size_t)1024 * 1024);
    metrics_render(&page);
    (void)snprintf(line, sizeof(line), "\n%s ", series);
    const char *at = strstr(buf_cstr(&page), line);
    assert_non_null(at);
    const double value = strtod(at + strlen(line), NULL);
    buf_done(&page);
    return value;
}

#endif
