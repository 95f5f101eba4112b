#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/err.h"
#include "base/own.h"
#include "cli/vm_spec_schema.h"
#include "proto/vm_spec.pb-c.h"

static json_t *schema_of(void)
{
    AUTO_FREE char *text = NULL;
    struct fault fault = {0};
    json_error_t error;

    assert_int_equal(vm_spec_schema_print(&text, &fault), 0);
    json_t *schema = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(schema);
    return schema;
}

static void names_every_field_with_its_meaning(void **state)
{
    (void)state;
    json_t *schema = schema_of();
    const json_t *properties = json_object_get(schema, "properties");

    for (unsigned i = 0; i < godwit__vm_spec__descriptor.n_fields; i++) {
        const json_t *field =
            json_object_get(properties, godwit__vm_spec__descriptor.fields[i].name);
        assert_non_null(field);
        assert_non_null(json_object_get(field, "description"));
    }
    assert_int_equal(json_object_size(properties), godwit__vm_spec__descriptor.n_fields);
    json_decref(schema);
}

static void holds_the_limits_of_the_binder(void **state)
{
    (void)state;
    json_t *schema = schema_of();
    const char *type;
    int least, most;

    assert_int_equal(json_unpack(schema, "{s:{s:{s:{s:{s:i,s:i}}}}}", "properties", "cpu",
                                 "properties", "vcpus", "minimum", &least, "maximum", &most),
                     0);
    assert_int_equal(least, 1);
    assert_int_equal(most, 16);
    assert_int_equal(json_unpack(schema, "{s:{s:{s:s}}}", "properties", "disks", "type", &type),
                     0);
    assert_string_equal(type, "array");
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_every_field_with_its_meaning),
        cmocka_unit_test(holds_the_limits_of_the_binder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
