/* Any protobuf message as JSON or YAML, driven by its descriptor: the wire's names are the
 * output's.
 *
 * Flow:   message -> [json] -> stdout, logs
 * Thread: any; no state.
 *
 * Names are the proto's. Absent optional fields are left out, repeated ones are always there; enums
 * are their words without the prefix, lower case ("rolled-back"); 64-bit numbers are numbers; bytes
 * are base64; what is not UTF-8 in a string becomes U+FFFD.
 */
#ifndef GODWIT_BASE_JSON_H
#define GODWIT_BASE_JSON_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>

struct fault;

enum json_form {
    JSON_FORM_PRETTY,  /* indented, for eyes and pagers */
    JSON_FORM_COMPACT, /* one line */
    JSON_FORM_YAML
};

enum { JSON_DEPTH_MAX = 32, JSON_ENUM_SIZE = 48 };

/* Gives malloc'ed text that ends with a line end. */
int json_print(const ProtobufCMessage *message, enum json_form form, char **ret_text,
               struct fault *fault);
/* The same of several: one array, but with JSON_FORM_COMPACT one line each (ndjson). */
int json_print_list(const ProtobufCMessage *const *messages, size_t count, enum json_form form,
                    char **ret_text, struct fault *fault);

/* The word for a value: "rolled-back" for MOVE_PHASE_ROLLED_BACK; the number if it has none. */
void json_enum_word(const ProtobufCEnumDescriptor *type, int value,
                    char ret_word[static JSON_ENUM_SIZE]);

/* Bytes of the letter that `bytes` begins with; 0 when that is no UTF-8 (or count is 0). */
size_t json_utf8_length(const void *bytes, size_t count);

#endif
