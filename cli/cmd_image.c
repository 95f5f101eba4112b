#include "cli/cmd_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/id.h"
#include "base/own.h"
#include "base/sparse.h"
#include "base/units.h"
#include "base/world.h"
#include "cli/client.h"
#include "cli/context.h"
#include "cli/error_text.h"
#include "cli/image_file.h"
#include "cli/image_send.h"
#include "cli/listing.h"
#include "cli/render.h"
#include "cli/transfer_bar.h"
#include "cli/words.h"
#include "net/digest.h"
#include "proto/gw_code.h"
#include "proto/image.pb-c.h"
#include "proto/limits.h"
#include "proto/method.h"

/* ---- ls, show ---- */
static void say_list(char ret_cell[static RENDER_CELL_SIZE], char *const *texts, size_t count)
{
    struct words words;
    words_init(&words, ret_cell, RENDER_CELL_SIZE);
    for (size_t i = 0; i < count; i++)
        words_say(&words, "%s%s", i ? "," : "", texts[i]);
}

static void cell_hosts(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__ImageInfo *image = (const Godwit__ImageInfo *)row;
    say_list(ret_cell, image->hosts, image->n_hosts);
}

static void cell_vms(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__ImageInfo *image = (const Godwit__ImageInfo *)row;
    say_list(ret_cell, image->vms, image->n_vms);
}

static void cell_short(const ProtobufCMessage *row, char ret_cell[static RENDER_CELL_SIZE])
{
    const Godwit__ImageInfo *image = (const Godwit__ImageInfo *)row;
    (void)snprintf(ret_cell, RENDER_CELL_SIZE, "%.12s", image->digest ? image->digest : "");
}

static const struct render_column columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "size", .head = "SIZE", .unit = RENDER_BYTES},
    {.field = "digest", .head = "DIGEST", .cell = cell_short},
    {.field = "hosts", .head = "HOSTS", .cell = cell_hosts},
    {.field = "vms", .head = "VMS", .cell = cell_vms},
    {.field = "created_unix_ms", .head = "IMPORTED", .unit = RENDER_AGO},
    {.field = "kernel", .head = "KERNEL", .wide = true},
};
static const struct render_view view = {
    .columns = columns, .count = ARRAY_COUNT(columns), .name_field = "name"};

static const struct render_column page_columns[] = {
    {.field = "name", .head = "NAME"},
    {.field = "size", .head = "SIZE", .unit = RENDER_BYTES},
    {.field = "digest", .head = "SHA-256"},
    {.field = "kernel", .head = "KERNEL"},
    {.field = "initrd", .head = "INITRD"},
    {.field = "cmdline", .head = "CMDLINE"},
    {.field = "hosts", .head = "HOSTS", .cell = cell_hosts},
    {.field = "vms", .head = "VMS", .cell = cell_vms},
    {.field = "created_unix_ms", .head = "IMPORTED", .unit = RENDER_AGO},
};
static const struct render_view page_view = {
    .columns = page_columns, .count = ARRAY_COUNT(page_columns), .name_field = "name"};

static int list_images(struct context *context, const char *name, Godwit__ImageList **ret_list,
                       struct fault *fault)
{
    Godwit__ImageListRequest request = GODWIT__IMAGE_LIST_REQUEST__INIT;
    struct client *client;

    request.name = (char *)(uintptr_t)name; /* only read */
    int r = client_of(context, &client, fault);
    return r < 0 ? r
                 : client_call(client, METHOD_IMAGE_LIST, &request.base,
                               &godwit__image_list__descriptor, CLIENT_CALL_MS, ret_list, fault);
}

static int fetch_images(struct context *context, ProtobufCMessage **ret_reply,
                        const ProtobufCMessage *const **ret_rows, size_t *ret_count,
                        struct fault *fault)
{
    Godwit__ImageList *list = NULL;

    int r = list_images(context, NULL, &list, fault);
    if (r < 0)
        return r;
    *ret_reply = &list->base;
    *ret_rows = (const ProtobufCMessage *const *)list->images;
    *ret_count = list->n_images;
    return 0;
}

int cmd_image_ls(struct context *context)
{
    static const struct listing listing = {
        .view = &view,
        .nothing = "The pool has no images yet: godwit image import FILE --name NAME",
        .fetch = fetch_images};
    return listing_run(context, &listing);
}

static int print_page(struct context *context, const Godwit__ImageInfo *image)
{
    AUTO_FREE char *text = NULL;
    struct render_options options;
    struct fault fault = {0};

    render_options_of(context, &options);
    if (render_page(&options, &page_view, &image->base, &text, &fault) < 0)
        return error_print_fault(context, &fault);
    (void)fputs(text, context->out);
    return EXIT_CODE_DONE;
}

int cmd_image_show(struct context *context)
{
    Godwit__ImageList *list = NULL;
    struct fault fault = {0};

    int r = list_images(context, context->line->operands[0], &list, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = list->n_images == 1 ? print_page(context, list->images[0]) : EXIT_CODE_FAILED;
    godwit__image_list__free_unpacked(list, NULL);
    return exit_code;
}

/* ---- import ---- */
static int tell_imported(struct context *context, const struct image_send *send,
                         const Godwit__ImageInfo *image)
{
    char size[UNITS_TEXT_SIZE], sent[UNITS_TEXT_SIZE];

    if (context_is_machine(context) || context->output == OUTPUT_NAME)
        return print_page(context, image);
    units_print_bytes(image->size, size);
    units_print_bytes(send->sent_bytes, sent);
    (void)fprintf(context->out, "image %s is on %s: %s", words_or_dash(image->name),
                  send->taken_by, size);
    if (send->was_there)
        (void)fputs(", was there already", context->out);
    else
        (void)fprintf(context->out, ", %s sent", sent);
    (void)fprintf(context->out, ", SHA-256 %.12s\n", image->digest ? image->digest : "");
    return EXIT_CODE_DONE;
}

static int tell_reply(struct context *context, const struct image_send *send,
                      Godwit__ImageReply *reply)
{
    int exit_code = reply->error   ? error_print(context, reply->error)
                    : reply->image ? tell_imported(context, send, reply->image)
                                   : EXIT_CODE_FAILED;

    godwit__image_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_image_import(struct context *context)
{
    const struct command_line *line = context->line;
    const char *form = command_text(line, "form");
    struct transfer_bar bar;
    char digest[DIGEST_TEXT_SIZE];
    Godwit__ImageInfo image = GODWIT__IMAGE_INFO__INIT;
    Godwit__ImageReply *reply = NULL;
    struct fault fault = {0};
    AUTO_FD int fd = -1;
    struct image_send send = {.image = &image, .bar = &bar};

    image.name = (char *)(uintptr_t)command_text(line, "name"); /* only read, as are all texts */
    image.kernel = (char *)(uintptr_t)command_text(line, "kernel");
    image.initrd = (char *)(uintptr_t)command_text(line, "initrd");
    image.cmdline = (char *)(uintptr_t)command_text(line, "cmdline");
    send.host = command_text(line, "host") ? command_text(line, "host") : "";
    transfer_bar_init(&bar, context);
    int r = 0;
    if (!image.name || !id_name_is_valid(image.name)) {
        r = fault_set(&fault, ERR_INVALID,
                      "--name: found '%.70s'; letters, digits, '.', '_' and '-' would fit, first a "
                      "letter or digit",
                      image.name ? image.name : "");
    }
    if (r == 0)
        r = image_file_open(line->operands[0], form ? form : "auto", &fd, &send.size, &fault);
    if (r == 0) {
        send.fd = fd;
        image.has_size = true;
        image.size = send.size;
        r = image_send_digest(&send, digest, &fault);
    }
    if (r == 0) {
        image.digest = digest;
        r = image_send_all(&send, context, &reply, &fault);
    }
    transfer_bar_clear(&bar);
    if (r == 0)
        return tell_reply(context, &send, reply);
    int exit_code = error_print_fault(context, &fault);
    return r == ERR_CANCELED ? EXIT_CODE_DETACHED : exit_code;
}

/* ---- copy, rm ---- */
int cmd_image_copy(struct context *context)
{
    Godwit__ImageCopyRequest request = GODWIT__IMAGE_COPY_REQUEST__INIT;
    Godwit__ImageReply *reply = NULL;
    struct client *client;
    struct transfer_bar bar;
    struct fault fault = {0};

    request.name = (char *)(uintptr_t)context->line->operands[0]; /* only read */
    request.to = (char *)(uintptr_t)command_text(context->line, "to");
    transfer_bar_init(&bar, context);
    int r = client_of(context, &client, &fault);
    if (r == 0 && !request.to) {
        r = fault_set(&fault, ERR_INVALID, "say which host is to have it: --to HOST");
        fault_hint(&fault, "godwit host ls");
    }
    if (r == 0) {
        transfer_bar_listen(&bar, client);
        r = client_call(client, METHOD_IMAGE_COPY, &request.base, &godwit__image_reply__descriptor,
                        0, &reply, &fault);
        client_listen(client, NULL);
    }
    transfer_bar_clear(&bar);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error   ? error_print(context, reply->error)
                    : reply->image ? print_page(context, reply->image)
                                   : EXIT_CODE_FAILED;
    godwit__image_reply__free_unpacked(reply, NULL);
    return exit_code;
}

/* ---- seal ---- */
int cmd_image_seal_disk(struct context *context, const char *vm, const char *disk,
                        const char *name, Godwit__ImageReply **ret_reply, struct fault *fault)
{
    Godwit__ImageSealRequest request = GODWIT__IMAGE_SEAL_REQUEST__INIT;
    struct client *client;
    struct transfer_bar bar;

    request.vm = (char *)(uintptr_t)vm; /* only read, as the next two */
    request.disk = (char *)(uintptr_t)disk;
    request.name = (char *)(uintptr_t)name;
    transfer_bar_init(&bar, context);
    int r = client_of(context, &client, fault);
    if (r == 0) {
        transfer_bar_listen(&bar, client);
        r = client_call(client, METHOD_IMAGE_SEAL, &request.base, &godwit__image_reply__descriptor,
                        0, ret_reply, fault);
        client_listen(client, NULL);
    }
    transfer_bar_clear(&bar);
    return r;
}

int cmd_image_tell(struct context *context, Godwit__ImageReply *reply)
{
    int exit_code = reply->error   ? error_print(context, reply->error)
                    : reply->image ? print_page(context, reply->image)
                                   : EXIT_CODE_FAILED;

    godwit__image_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_image_seal(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__ImageReply *reply = NULL;
    struct fault fault = {0};

    int r = cmd_image_seal_disk(context, line->operands[0], command_text(line, "disk"),
                                line->operands[1], &reply, &fault);
    return r < 0 ? error_print_fault(context, &fault) : cmd_image_tell(context, reply);
}

static int remove_one(struct context *context, const char *name)
{
    Godwit__ImageRemoveRequest request = GODWIT__IMAGE_REMOVE_REQUEST__INIT;
    Godwit__ImageReply *reply = NULL;
    struct client *client;
    struct fault fault = {0};

    request.name = (char *)(uintptr_t)name; /* only read */
    int r = client_of(context, &client, &fault);
    if (r == 0)
        r = client_call(client, METHOD_IMAGE_REMOVE, &request.base,
                        &godwit__image_reply__descriptor, 2 * CLIENT_CALL_MS, &reply, &fault);
    if (r < 0)
        return error_print_fault(context, &fault);
    int exit_code = reply->error ? error_print(context, reply->error) : EXIT_CODE_DONE;
    if (!reply->error && !context_is_machine(context))
        (void)fprintf(context->out, "%s is removed\n", name);
    for (size_t i = 0; i < reply->n_left_on; i++)
        (void)fprintf(context->talk,
                      "its content is still on %s, which does not answer: import it again and "
                      "remove it to be rid of it\n",
                      reply->left_on[i]);
    godwit__image_reply__free_unpacked(reply, NULL);
    return exit_code;
}

int cmd_image_rm(struct context *context)
{
    const struct command_line *line = context->line;
    int failed_with = EXIT_CODE_DONE;
    size_t failed = 0;

    for (size_t i = 0; i < line->operand_count; i++) {
        int exit_code = remove_one(context, line->operands[i]);
        if (exit_code != EXIT_CODE_DONE) {
            failed_with = failed ? failed_with : exit_code; /* the first says most */
            failed++;
        }
    }
    return failed > 0 && failed < line->operand_count ? EXIT_CODE_PARTLY : failed_with;
}

/* ---- export ---- */
struct exporting {
    const Godwit__ImageInfo *image;
    int fd;
    struct digest *sum;
    struct transfer_bar bar;
};

static int take_part(struct exporting *exporting, uint64_t at, const Godwit__ImageData *part,
                     uint64_t *ret_next, struct fault *fault)
{
    uint64_t left = exporting->image->size - at;

    if ((part->data.len == 0) == (part->zeros == 0) || part->data.len > left || part->zeros > left)
        return fault_set(fault, ERR_CORRUPT, "a host gives a part that does not fit at byte %llu",
                         (unsigned long long)at);
    int r = part->data.len
                ? sparse_write(exporting->fd, at, part->data.data, part->data.len, fault)
                : 0;
    if (r < 0)
        return r;
    if (part->data.len)
        digest_add(exporting->sum, part->data.data, part->data.len);
    else
        digest_add_zeros(exporting->sum, part->zeros);
    *ret_next = at + part->data.len + part->zeros;
    return 0;
}

static int export_all(struct context *context, struct exporting *exporting, struct fault *fault)
{
    const Godwit__ImageInfo *image = exporting->image;
    struct client *client;
    char found[DIGEST_TEXT_SIZE];

    int r = client_of(context, &client, fault);
    for (uint64_t at = 0; r == 0 && at < image->size;) {
        Godwit__ImageReadRequest request = GODWIT__IMAGE_READ_REQUEST__INIT;
        Godwit__ImageData *part = NULL;
        request.name = image->name;
        request.has_offset = true;
        request.offset = at;
        r = client_call(client, METHOD_IMAGE_READ, &request.base, &godwit__image_data__descriptor,
                        2 * CLIENT_CALL_MS, &part, fault);
        if (r == 0) {
            r = take_part(exporting, at, part, &at, fault);
            godwit__image_data__free_unpacked(part, NULL);
            transfer_bar_update(&exporting->bar, image->name, at, image->size, world_now_ms());
        }
    }
    transfer_bar_clear(&exporting->bar);
    if (r < 0)
        return r;
    digest_finish(exporting->sum, found);
    if (!image->digest || strcmp(found, image->digest) != 0)
        return fault_set(fault, ERR_CORRUPT,
                         "what came has the SHA-256 %.12s..., image %s has %.12s...", found,
                         image->name, image->digest ? image->digest : "");
    if (ftruncate(exporting->fd, (off_t)image->size) < 0 || fsync(exporting->fd) < 0)
        return fault_set_errno(fault, err_from_errno(errno), errno, "writing the file");
    return 0;
}

static int export_to(struct context *context, const Godwit__ImageInfo *image, const char *path,
                     struct fault *fault)
{
    struct exporting exporting = {.image = image};
    AUTO_FD int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    if (fd < 0)
        return fault_set_errno(fault, errno == EEXIST ? ERR_EXISTS : err_from_errno(errno), errno,
                               "making %s", path);
    exporting.fd = fd;
    exporting.sum = digest_new();
    transfer_bar_init(&exporting.bar, context);
    int r = exporting.sum ? export_all(context, &exporting, fault)
                          : fault_set(fault, ERR_NOMEM, "no memory to export an image");
    (void)digest_free(exporting.sum);
    if (r < 0)
        (void)unlink(path); /* we made it, and it holds a part only */
    return r;
}

int cmd_image_export(struct context *context)
{
    const struct command_line *line = context->line;
    Godwit__ImageList *list = NULL;
    struct fault fault = {0};

    int r = list_images(context, line->operands[0], &list, &fault);
    if (r == 0 && list->n_images != 1)
        r = fault_set(&fault, ERR_NOT_FOUND, "there is no image '%.80s'", line->operands[0]);
    if (r == 0)
        r = export_to(context, list->images[0], line->operands[1], &fault);
    if (r == 0 && !context_is_machine(context))
        (void)fprintf(context->out, "%s is in %s, SHA-256 as it should be\n", line->operands[0],
                      line->operands[1]);
    if (list)
        godwit__image_list__free_unpacked(list, NULL);
    return r < 0 ? error_print_fault(context, &fault) : EXIT_CODE_DONE;
}
