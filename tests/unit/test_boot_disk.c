/* A disk as mke2fs makes it (recorded: tests/golden/boot_disk.img holds a small ext4 with a Debian
 * grub.cfg), looked at as godwit-boot-reader does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/config.h"
#include "base/err.h"
#include "base/own.h"
#include "storage/boot_disk.h"
#include "storage/partition.h"

static uint8_t *image;
static size_t image_bytes;

static int read_image(void *data, uint64_t offset, void *bytes, size_t count, struct fault *fault)
{
    (void)data;
    (void)fault;
    assert_true(offset <= image_bytes && count <= image_bytes - offset); /* it was told the size */
    memcpy(bytes, image + offset, count);
    return 0;
}

static int set_up(void **state)
{
    struct fault fault = {0};
    (void)state;
    char *text = NULL;
    assert_int_equal(file_read("tests/golden/boot_disk.img", &text, &image_bytes, &fault), 0);
    image = (uint8_t *)text;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(image);
    return 0;
}

static void finds_what_debians_grub_would_boot(void **state)
{
    (void)state;
    struct boot_disk disk;
    struct fault fault = {0};
    uint8_t byte;

    int r = boot_disk_open(&disk, read_image, NULL, image_bytes, &fault);

    assert_string_equal(fault.text, "");
    assert_int_equal(r, 0);
    assert_string_equal(disk.entry.kernel, "/boot/vmlinuz-6.1.0-18-cloud-amd64");
    assert_string_equal(disk.entry.options, "root=UUID=aa ro console=tty0 console=ttyS0,115200");
    assert_int_equal(disk.kernel.bytes, 9000);
    assert_int_equal(disk.entry.initrd_count, 1);
    assert_int_equal(disk.initrds[0].bytes, 6000);
    assert_int_equal(ext4_read(&disk.fs, &disk.initrds[0], 5999, &byte, 1, &fault), 0);
    assert_int_equal(byte, 'i');
}

static void follows_links_within_the_file_system(void **state)
{
    (void)state;
    struct ext4 fs;
    struct ext4_inode inode;
    struct fault fault = {0};
    assert_int_equal(ext4_open(&fs, read_image, NULL, 0, image_bytes, &fault), 0);

    assert_int_equal(ext4_find(&fs, "/vmlinuz", &inode, &fault), 0);
    assert_int_equal(inode.bytes, 9000);
    assert_int_equal(ext4_find(&fs, "/../../boot//./grub/grub.cfg", &inode, &fault), 0);
    assert_int_equal(ext4_find(&fs, "/etc/passwd", &inode, &fault), ERR_NOT_FOUND);
    assert_int_equal(ext4_find(&fs, "/vmlinuz/x", &inode, &fault), ERR_NOT_FOUND);
}

static void put_gpt(uint8_t *head, uint64_t first, uint64_t last)
{
    memset(head, 0, PARTITION_HEAD_BYTES);
    head[510] = 0x55;
    head[511] = 0xaa;
    head[450] = 0xee;
    memcpy(head + 512, "EFI PART", 8);
    bytes_put_u64(head + 512 + 72, 2);
    bytes_put_u32(head + 512 + 80, 128);
    bytes_put_u32(head + 512 + 84, 128);
    head[1024] = 1; /* a kind, any */
    bytes_put_u64(head + 1024 + 32, first);
    bytes_put_u64(head + 1024 + 40, last);
}

static void finds_partitions_of_both_tables_and_none_beyond_the_disk(void **state)
{
    (void)state;
    static uint8_t head[PARTITION_HEAD_BYTES];
    struct partition partitions[PARTITION_MAX];

    put_gpt(head, 2048, 4095);
    assert_int_equal(partition_read(head, sizeof head, MIB(4), partitions), 1);
    assert_int_equal(partitions[0].offset, MIB(1));
    assert_int_equal(partitions[0].bytes, MIB(1));
    assert_int_equal(partition_read(head, sizeof head, MIB(1), partitions), 1);
    assert_int_equal(partitions[0].offset, 0); /* it does not fit: the whole disk is looked at */
    put_gpt(head, 2048, UINT64_MAX);
    assert_int_equal(partition_read(head, sizeof head, MIB(4), partitions), 1);
    assert_int_equal(partitions[0].offset, 0);

    memset(head, 0, sizeof head);
    head[510] = 0x55;
    head[511] = 0xaa;
    for (unsigned i = 0; i < 2; i++) {
        head[446 + 16 * i + 4] = 0x83;
        bytes_put_u32(head + 446 + 16 * i + 8, 2048 * (i + 1));
        bytes_put_u32(head + 446 + 16 * i + 12, 2048);
    }
    assert_int_equal(partition_read(head, sizeof head, MIB(4), partitions), 2);
    assert_int_equal(partitions[1].offset, MIB(2));
}

static void says_what_it_looked_at_when_there_is_nothing_to_boot(void **state)
{
    (void)state;
    struct boot_disk disk;
    struct fault fault = {0};
    memset(image, 0, image_bytes);

    assert_int_equal(boot_disk_open(&disk, read_image, NULL, image_bytes, &fault), ERR_NOT_FOUND);
    assert_non_null(strstr(fault.text, "nothing to boot: 1 partitions, 0 of them ext4"));
}

static void survives_every_byte_of_it_being_wrong(void **state)
{
    (void)state;
    static const uint8_t wrong[] = {0x00, 0xff};
    for (size_t at = 0; at < image_bytes; at++) {
        if (at >= 8192 && image[at] == 0)
            continue; /* contents and what is not used */
        uint8_t was = image[at];
        for (size_t i = 0; i < ARRAY_COUNT(wrong); i++) {
            struct boot_disk disk;
            struct fault fault = {0};
            image[at] = wrong[i];
            (void)boot_disk_open(&disk, read_image, NULL, image_bytes, &fault);
        }
        image[at] = was;
        if (at > 24576)
            break; /* metadata lies before */
    }
}

/* ---- entries alone ---- */
static void reads_boot_loader_specification_entries(void **state)
{
    (void)state;
    static const char text[] = "title Fedora Linux (6.8.5) 40\nversion 6.8.5\n"
                               "linux /vmlinuz-6.8.5\ninitrd /initramfs-6.8.5.img $tuned_initrd\n"
                               "options root=UUID=bb ro $kernelopts quiet $tuned_params\n";
    static const char grubenv[] = "# GRUB Environment Block\nsaved_entry=id-6.8.5\n"
                                  "kernelopts=console=ttyS0 net.ifnames=0\n####";
    struct boot_environment environment;
    struct boot_entry entry;
    struct fault fault = {0};
    boot_environment_parse(grubenv, sizeof grubenv - 1, &environment);

    assert_int_equal(boot_entry_parse_bls(text, sizeof text - 1, &environment, &entry, &fault), 0);

    assert_string_equal(entry.kernel, "/vmlinuz-6.8.5");
    assert_int_equal(entry.initrd_count, 1);
    assert_string_equal(entry.options, "root=UUID=bb ro console=ttyS0 net.ifnames=0 quiet");
    assert_true(boot_entry_is_better("id-6.8.5.conf", "id-6.9.0.conf", &environment));
    environment.saved_entry[0] = '\0';
    assert_true(boot_entry_is_better("id-6.10.0.conf", "id-6.9.0.conf", &environment));
    assert_true(boot_entry_is_better("id-6.9.0.conf", "id-7-rescue.conf", &environment));
}

static void takes_the_entry_that_default_names(void **state)
{
    (void)state;
    static const char text[] = "set default=\"${saved_entry}\"\n"
                               "menuentry 'One' --id one {\n linux /one a=1\n}\n"
                               "submenu 'More' {\n"
                               "menuentry 'Two' --id two {\n linux /two 'b=2 c'\n initrd /i2\n}\n}\n";
    struct boot_environment environment = {.saved_entry = "More>two"};
    struct boot_entry entry;
    struct fault fault = {0};

    assert_int_equal(boot_entry_parse_grub(text, sizeof text - 1, &environment, &entry, &fault), 0);
    assert_string_equal(entry.kernel, "/two");
    assert_string_equal(entry.options, "b=2 c");
    environment.saved_entry[0] = '\0';
    assert_int_equal(boot_entry_parse_grub(text, sizeof text - 1, &environment, &entry, &fault), 0);
    assert_string_equal(entry.kernel, "/one");
    assert_int_equal(boot_entry_parse_grub("echo", 4, &environment, &entry, &fault), ERR_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(finds_what_debians_grub_would_boot),
        TEST(follows_links_within_the_file_system),
        TEST(finds_partitions_of_both_tables_and_none_beyond_the_disk),
        TEST(says_what_it_looked_at_when_there_is_nothing_to_boot),
        TEST(survives_every_byte_of_it_being_wrong),
        cmocka_unit_test(reads_boot_loader_specification_entries),
        cmocka_unit_test(takes_the_entry_that_default_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
