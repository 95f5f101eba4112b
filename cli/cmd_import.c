#include "cli/cmd_import.h"

#include <string.h>

#include "base/config.h"
#include "base/err.h"
#include "base/json.h"
#include "base/own.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/export_libvirt.h"
#include "cli/import.h"
#include "cli/import_libvirt.h"
#include "cli/import_xl.h"
#include "cli/vm_spec_file.h"
#include "proto/gw_code.h"
#include "proto/method.h"
#include "proto/pool.pb-c.h"

/* XML begins with '<'; nothing else does. */
static bool looks_like_xml(const char *text)
{
    if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
        text += 3;
    return text[strspn(text, " \t\r\n")] == '<';
}

static int read_definition(struct import *import, const char *path, const char *form,
                           struct fault *fault)
{
    AUTO_FREE char *text = NULL;
    size_t count;
    int r = file_read(path, &text, &count, fault);
    if (r < 0)
        return r;
    bool is_xml = strcmp(form, "auto") == 0 ? looks_like_xml(text) : strcmp(form, "libvirt") == 0;
    r = is_xml ? import_libvirt(import, text, count, fault) : import_xl(import, text, count, fault);
    if (r < 0)
        return fault_wrap(fault, r, "%s", path);
    struct fault unfit = {0};
    if (import->obstacles.count == 0 && vm_spec_check(import->spec, &unfit) < 0)
        import_obstacle(import, "%s", unfit.text);
    return 0;
}

static int refuse(struct context *context, struct import *import, const char *path)
{
    char message[IMPORT_LINE_SIZE];
    char *details[IMPORT_LINES_MAX + 1];
    size_t count = 0;
    for (unsigned i = 0; i < import->obstacles.count; i++)
        details[count++] = import->obstacles.text[i];
    if (import->obstacles.overflow)
        details[count++] = (char *)"and more"; /* only read */
    (void)snprintf(message, sizeof message, "%s cannot run on the embedded VMM as it is",
                   import->spec->name ? import->spec->name : path);
    Godwit__OperatorError error = GODWIT__OPERATOR_ERROR__INIT;
    const struct gw_code_row *row = gw_code_row(GW_IMPORT_REFUSED);
    error.code = (char *)row->label;
    error.name = (char *)row->name;
    error.message = message;
    error.details = details;
    error.n_details = count;
    error.has_exit_code = true;
    error.exit_code = row->exit_code;
    return error_print(context, &error);
}

int cmd_vm_import(struct context *context)
{
    const struct command_line *line = context->line;
    const char *path = line->operands[0];
    struct fault fault = {0};
    AUTO(import_deinit) struct import import;
    int r = import_init(&import, command_text(line, "bridge"), &fault);
    if (r == 0)
        r = read_definition(&import, path, command_text(line, "form"), &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    for (unsigned i = 0; i < import.notes.count; i++)
        (void)fprintf(context->talk, "note: %s\n", import.notes.text[i]);
    if (import.obstacles.count > 0)
        return refuse(context, &import, path);

    AUTO_FREE char *text = NULL;
    enum json_form form = context->output == OUTPUT_JSON     ? JSON_FORM_PRETTY
                          : context->output == OUTPUT_NDJSON ? JSON_FORM_COMPACT
                                                             : JSON_FORM_YAML;
    r = json_print(&import.spec->base, form, &text, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

static int fetch(struct context *context, Godwit__VmList **ret_list, struct fault *fault)
{
    Godwit__VmListRequest request = GODWIT__VM_LIST_REQUEST__INIT;
    struct client *client;
    request.vm = (char *)context->line->operands[0]; /* only read */
    int r = client_of(context, &client, fault);
    if (r == 0)
        r = client_call(client, METHOD_VM_LIST, &request.base, &godwit__vm_list__descriptor,
                        CLIENT_CALL_MS, ret_list, fault);
    return r;
}

int cmd_vm_export(struct context *context)
{
    AUTO_FREE char *text = NULL;
    Godwit__VmList *list = NULL;
    struct fault fault = {0};
    int r = fetch(context, &list, &fault);
    if (r == 0 && (list->n_vms == 0 || !list->vms[0]->spec)) {
        r = fault_set(&fault, ERR_NOT_FOUND, "the pool has no VM '%.63s'",
                      context->line->operands[0]);
        fault_hint(&fault, "godwit vm ls");
    }
    if (r == 0)
        r = export_libvirt(list->vms[0]->spec, &text, &fault);
    if (r == 0)
        (void)fputs(text, context->out);
    if (list)
        godwit__vm_list__free_unpacked(list, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}
