/* Owns the catalogue of problems and their JSON. Pure: call.c sends them. */
#include "problem.h"

#include "check.h"

struct row {
    int status;
    const char *type;
    const char *title;
    const char *action;
};

static const struct row rows[PROBLEMS_N] = {
#define PROBLEM(name, status, slug, title, action)                                                 \
    [PROBLEM_##name] = {status, "/problems/" slug, title, action},
#include "problem.def"
#undef PROBLEM
};

int problem_status(enum problem p)
{
    return rows[p].status;
}

json_t *problem_json(enum problem p, const char *detail, const char *request_id, json_t *errors)
{
    json_t *o = json_pack("{s:s, s:s, s:i, s:s, s:s}", "type", rows[p].type, "title", rows[p].title,
                          "status", rows[p].status, "detail", detail, "request_id", request_id);
    CHECK(o != NULL); /* the texts are ours, or were made clean */
    if (errors != NULL) {
        CHECK(json_object_set_new(o, "errors", errors) == 0);
    }
    return o;
}

void problem_print_reference(FILE *out)
{
    (void)fputs("| Status | `type` | Meaning | What to do |\n|---|---|---|---|\n", out);
    for (int i = 0; i < PROBLEMS_N; i++) {
        (void)fprintf(out, "| %d | `%s` | %s | %s |\n", rows[i].status, rows[i].type, rows[i].title,
                      rows[i].action);
    }
}
