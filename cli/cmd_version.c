#include "cli/cmd_version.h"

#include "cli/context.h"
#include "proto/gw_code.h"
#include "proto/limits.h"

#ifndef GODWIT_VERSION
#define GODWIT_VERSION "0.1.0"
#endif

const char *cmd_version_text(void)
{
    return GODWIT_VERSION;
}

int cmd_version(struct context *context)
{
    switch (context->output) {
    case OUTPUT_JSON:
    case OUTPUT_NDJSON:
        (void)fprintf(context->out, "{\"version\":\"%s\",\"protocol\":%d}\n", GODWIT_VERSION,
                      PROTOCOL_VERSION);
        break;
    case OUTPUT_YAML:
        (void)fprintf(context->out, "version: \"%s\"\nprotocol: %d\n", GODWIT_VERSION,
                      PROTOCOL_VERSION);
        break;
    case OUTPUT_NAME:
        (void)fprintf(context->out, "%s\n", GODWIT_VERSION);
        break;
    case OUTPUT_TABLE:
    case OUTPUT_WIDE:
        (void)fprintf(context->out, "godwit %s (protocol %d)\n", GODWIT_VERSION, PROTOCOL_VERSION);
        break;
    }
    return EXIT_CODE_DONE;
}
