#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/err.h"
#include "cli/pool_file.h"
#include "placement/choose.h"

static const char two_hosts[] = "hosts:\n"
                                "  - {name: node1, cpus: 8, memory: 32GiB, domain: a}\n"
                                "  - {name: node2, cpus: 8, memory: 16GiB, labels: 'ssd=yes,x=y'}\n"
                                "vms:\n"
                                "  - name: web-1\n"
                                "    host: node1\n"
                                "    memory: 8GiB\n"
                                "    used: 2GiB\n"
                                "    load: 150\n"
                                "  - {name: web-2, memory: 4GiB, vcpus: 2}\n";
static Godwit__PoolFile *pool;
static struct layout *layout;
static struct fault fault;

static int build(const char *more)
{
    char text[2048];
    fault = (struct fault){0};
    (void)snprintf(text, sizeof text, "%s%s", two_hosts, more);
    int r = pool_file_parse(text, strlen(text), "pool.yaml", &pool, &fault);
    return r < 0 ? r : pool_file_layout(pool, LAYOUT_STALL, &layout, &fault);
}

static int tear_down(void **state)
{
    (void)state;
    layout = layout_free(layout);
    if (pool)
        godwit__pool_file__free_unpacked(pool, NULL);
    pool = NULL;
    return 0;
}

static void a_file_becomes_hosts_vms_loads_and_rules(void **state)
{
    (void)state;

    assert_int_equal(build("rules:\n  - {id: fast, kind: pin, vms: 'web-*', hosts: ssd=yes}\n"), 0);

    assert_int_equal(layout_host_count(layout), 2);
    assert_int_equal(layout_vm(layout, 0)->host, 0);
    assert_true(layout_vm(layout, 0)->demand > 1.49 && layout_vm(layout, 0)->demand < 1.51);
    assert_int_equal(layout_vm(layout, 1)->host, LAYOUT_NONE);
    assert_int_equal(layout_free_bytes(layout, 0), GIB(24)); /* by sizes, not by what is used */
    assert_int_equal(layout_broken_rule(layout, 0), 0);
    assert_int_equal(choose_host(layout, 1), 1);
}

static void what_makes_no_sense_is_refused_in_words(void **state)
{
    (void)state;
    static const struct {
        const char *more, *words;
    } cases[] = {
        {"rules:\n  - {id: r, kind: love, vms: web-1}\n", "rule 'r' needs an id and a kind"},
        {"rules:\n  - {id: r, kind: pin, vms: web-1, hosts: node9}\n", "rule r names no host"},
        {"rules:\n  - {id: r, kind: spread, vms: db-*}\n", "rule r names no VM"},
        {"  - {name: web-1, memory: 4GiB}\n", "there are two VMs web-1"},
        {"  - {name: x, memory: 4GiB, host: node7}\n", "x is on node7, which is no host"},
        {"  - {name: x, memory: 40GiB, host: node2}\n", "node2 has less memory than its VMs use"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(build(cases[i].more), ERR_INVALID);
        if (!strstr(fault.text, cases[i].words))
            fail_msg("'%s' lacks '%s'", fault.text, cases[i].words);
        (void)tear_down(NULL);
    }
}

static void an_unknown_key_is_told_with_its_place(void **state)
{
    (void)state;

    assert_int_equal(build("rulez: 1\n"), ERR_INVALID);

    assert_non_null(strstr(fault.text, "pool.yaml:"));
    assert_non_null(strstr(fault.text, "rulez"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_file_becomes_hosts_vms_loads_and_rules, tear_down),
        cmocka_unit_test_teardown(what_makes_no_sense_is_refused_in_words, tear_down),
        cmocka_unit_test_teardown(an_unknown_key_is_told_with_its_place, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
