/* The UUID map against a plain array that cannot be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "map.h"

#define KEYS 3000

static struct uuid key_of(unsigned i)
{
    struct uuid key = {{0}};
    memcpy(key.b, &i, sizeof(i));
    return key;
}

static void count_one(void *ctx, void *value)
{
    assert_non_null(value);
    ++*(size_t *)ctx;
}

static void an_empty_map_answers(void **state)
{
    (void)state;
    struct map m;
    size_t seen = 0;
    struct uuid key = key_of(1);
    map_init(&m);
    assert_null(map_get(&m, &key));
    assert_null(map_remove(&m, &key));
    map_each(&m, count_one, &seen);
    assert_int_equal(seen, 0);
    map_done(&m);
    map_done(&m); /* twice is harmless */
}

static void a_second_put_replaces(void **state)
{
    (void)state;
    int a = 0;
    int b = 0;
    struct map m;
    struct uuid key = key_of(1);
    map_init(&m);
    map_put(&m, &key, &a);
    map_put(&m, &key, &b);
    assert_int_equal(m.n, 1);
    assert_ptr_equal(map_get(&m, &key), &b);
    assert_ptr_equal(map_remove(&m, &key), &b);
    assert_null(map_get(&m, &key));
    assert_int_equal(m.n, 0);
    map_done(&m);
}

static void all_agree(const struct map *m, void *const *model, unsigned keys)
{
    size_t n = 0;
    for (unsigned i = 0; i < keys; i++) {
        struct uuid key = key_of(i);
        assert_ptr_equal(map_get(m, &key), model[i]);
        n += model[i] != NULL;
    }
    size_t seen = 0;
    map_each(m, count_one, &seen);
    assert_int_equal(seen, n);
    assert_int_equal(m->n, n);
}

/* Removal is the part that goes wrong: chains that wrap around the end, holes inside of chains. */
static void any_order_of_puts_and_removals_agrees_with_an_array(void **state)
{
    (void)state;
    static char values[KEYS];
    static const unsigned sizes[] = {12, 24, 100, KEYS};
    uint32_t x = 1;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
        void *model[KEYS] = {0};
        struct map m;
        map_init(&m);
        for (int op = 0; op < 60000; op++) {
            x = x * 1664525 + 1013904223;
            unsigned i = (x >> 8) % sizes[s];
            struct uuid key = key_of(i);
            if (x >> 31) {
                map_put(&m, &key, &values[i]);
                model[i] = &values[i];
            } else {
                assert_ptr_equal(map_remove(&m, &key), model[i]);
                model[i] = NULL;
            }
            if (op % 1000 == 0 || sizes[s] == 12) {
                all_agree(&m, model, sizes[s]);
            }
        }
        all_agree(&m, model, sizes[s]);
        map_done(&m);
    }
}

static void a_map_that_breathes_does_not_grow(void **state)
{
    (void)state;
    static char value;
    struct map m;
    map_init(&m);
    for (unsigned i = 0; i < 100000; i++) {
        struct uuid key = key_of(i);
        map_put(&m, &key, &value);
        if (i >= 10) {
            struct uuid old = key_of(i - 10);
            assert_non_null(map_remove(&m, &old));
        }
    }
    assert_int_equal(m.mask + 1, 16);
    assert_int_equal(m.n, 10);
    map_done(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_map_answers),
        cmocka_unit_test(a_second_put_replaces),
        cmocka_unit_test(any_order_of_puts_and_removals_agrees_with_an_array),
        cmocka_unit_test(a_map_that_breathes_does_not_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
