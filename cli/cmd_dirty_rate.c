#include "cli/cmd_dirty_rate.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/forecast_text.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

enum { DIRTY_RATE_MS = 30000, TEXT_SIZE = 2048 };

static int tell(struct context *context, const Godwit__VmDirtyRateReply *reply)
{
    char text[TEXT_SIZE];
    if (context_is_machine(context)) {
        AUTO_FREE char *json = NULL;
        struct fault fault = {0};
        enum json_form form = context->output == OUTPUT_YAML   ? JSON_FORM_YAML
                              : context->output == OUTPUT_JSON ? JSON_FORM_PRETTY
                                                               : JSON_FORM_COMPACT;
        if (json_print(&reply->base, form, &json, &fault) < 0)
            return error_print_fault(context, &fault);
        (void)fputs(json, context->out);
        return EXIT_CODE_DONE;
    }
    forecast_text_sample(reply, text, sizeof text);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

int cmd_dirty_rate(struct context *context)
{
    Godwit__VmDirtyRateRequest request = GODWIT__VM_DIRTY_RATE_REQUEST__INIT;
    Godwit__VmDirtyRateReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};
    request.vm = (char *)context->line->operands[0]; /* texts are only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_DIRTY_RATE, &request.base,
                        &godwit__vm_dirty_rate_reply__descriptor, DIRTY_RATE_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error ? error_print(context, reply->error) : tell(context, reply);
    godwit__vm_dirty_rate_reply__free_unpacked(reply, NULL);
    return exit_code;
}
