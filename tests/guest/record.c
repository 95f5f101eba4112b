#include "record.h"

#include "serial.h"

static void put(struct record *record, char c)
{
    /* One byte stays for the newline. A long record is cut rather than lost. */
    if (record->length < RECORD_BYTES_MAX - 1)
        record->text[record->length++] = c;
}

static void put_text(struct record *record, const char *text)
{
    while (*text)
        put(record, *text++);
}

static void put_key(struct record *record, const char *key)
{
    put(record, ' ');
    put_text(record, key);
    put(record, '=');
}

static void put_number(struct record *record, uint64_t value, uint32_t base)
{
    char digits[20];
    uint32_t count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count)
        put(record, digits[--count]);
}

void record_begin(struct record *record, const char *kind)
{
    record->length = 0;
    put_text(record, "gw ");
    put_text(record, kind);
}

void record_word(struct record *record, const char *word)
{
    put(record, ' ');
    put_text(record, word);
}

void record_text(struct record *record, const char *key, const char *value)
{
    put_key(record, key);
    put_text(record, value);
}

void record_number(struct record *record, const char *key, uint64_t value)
{
    put_key(record, key);
    put_number(record, value, 10);
}

void record_more(struct record *record, uint64_t value)
{
    put(record, ',');
    put_number(record, value, 10);
}

void record_hex(struct record *record, const char *key, uint64_t value)
{
    put_key(record, key);
    put_text(record, "0x");
    put_number(record, value, 16);
}

void record_end(struct record *record)
{
    record->text[record->length++] = '\n';
    serial_write(record->text, record->length);
}
