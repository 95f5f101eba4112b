#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/host_load.h"

static void reads_the_kernels_pressure_of_ten_seconds(void **state)
{
    (void)state;
    double percent = -1;

    assert_true(host_load_parse_pressure(
        "some avg10=12.34 avg60=1.00 avg300=0.10 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 "
        "total=0\n",
        &percent));
    assert_true(percent > 12.33 && percent < 12.35);
}

static void what_is_no_pressure_leaves_the_figure_alone(void **state)
{
    (void)state;
    double percent = 7;

    assert_false(host_load_parse_pressure("", &percent));
    assert_false(host_load_parse_pressure("full avg10=1.0", &percent));
    assert_false(host_load_parse_pressure("some avg10=-1", &percent));
    assert_false(host_load_parse_pressure("some avg10=101", &percent));
    assert_true(percent == 7);
}

static void reads_what_a_thread_got_and_what_it_waited_for(void **state)
{
    (void)state;
    uint64_t run_ns = 0, wait_ns = 0;

    assert_true(host_load_parse_schedstat("584782 1200 7\n", &run_ns, &wait_ns));
    assert_int_equal(run_ns, 584782);
    assert_int_equal(wait_ns, 1200);
    assert_false(host_load_parse_schedstat("584782", &run_ns, &wait_ns));
}

static void knows_vcpus_of_both_kinds_by_name(void **state)
{
    (void)state;
    assert_true(host_load_is_vcpu("vcpu3\n"));
    assert_true(host_load_is_vcpu("CPU 0/KVM\n"));
    assert_true(host_load_is_vcpu("CPU 11/KVM\n"));
    assert_true(host_load_is_vcpu("CPU 0/TCG\n")); /* a domain of type qemu uses its host, too */
    assert_true(host_load_is_vcpu("ALL CPUs/TCG\n"));
    assert_false(host_load_is_vcpu("CPU 0/XYZ\n"));
    assert_false(host_load_is_vcpu("IO 0/TCG\n"));
    assert_false(host_load_is_vcpu("qemu-system-x86\n"));
    assert_false(host_load_is_vcpu("IO mon_iothread\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_kernels_pressure_of_ten_seconds),
        cmocka_unit_test(what_is_no_pressure_leaves_the_figure_alone),
        cmocka_unit_test(knows_vcpus_of_both_kinds_by_name),
        cmocka_unit_test(reads_what_a_thread_got_and_what_it_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
