/* Answers that are not a success: application/problem+json, RFC 9457. The table is problem.def. */
#ifndef NRW_PROBLEM_H
#define NRW_PROBLEM_H

#include <jansson.h>
#include <stdio.h>

enum problem {
#define PROBLEM(name, status, slug, title, action) PROBLEM_##name,
#include "problem.def"
#undef PROBLEM
    PROBLEMS_N
};

int problem_status(enum problem p);
/* The object, a new reference. errors: NULL or an array of {pointer or parameter, detail}; taken.
 */
json_t *problem_json(enum problem p, const char *detail, const char *request_id, json_t *errors);

void problem_print_reference(FILE *out); /* the README's markdown table */

#endif
