/* Bugs, and nothing else: CHECK stays on in every build. A failed check logs the expression and
 * aborts; the worker is stateless and at-least-once, so a restart is always the right repair. */
#ifndef NRW_CHECK_H
#define NRW_CHECK_H

#define CHECK(cond) ((cond) ? (void)0 : check_failed(#cond, __FILE__, __LINE__, __func__))

/* Each struct that travels through a `void *` starts with `unsigned magic`; CHECK_MAGIC right after
 * the cast catches a wrong or freed object before it does harm. */
#define CHECK_MAGIC(p, m) CHECK((p) != NULL && (p)->magic == (m))

_Noreturn void check_failed(const char *expr, const char *file, int line, const char *func);

#endif
