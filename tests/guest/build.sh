#!/bin/sh
# Builds the test guest: build.sh OUT_DIR [CC]  ->  OUT_DIR/guest.elf
set -eu

out=${1:?usage: build.sh OUT_DIR [CC]}
cc=${2:-cc}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
work=$(mktemp -d "$out/guest.XXXXXX")
trap 'rm -rf "$work"' EXIT

# general-regs-only: the vector registers hold known patterns for the guest's whole life
# (registers.c), so the compiler may not use them. The two -fno after it keep memset and memcpy from
# calling themselves.
flags="-std=gnu17 -O2 -g -march=x86-64 -mtune=generic -mgeneral-regs-only
    -ffreestanding -nostdlib -static -mno-red-zone -fno-pic -fno-pie -fno-stack-protector
    -fno-asynchronous-unwind-tables -fno-strict-aliasing -fcf-protection=none
    -fno-builtin
    -Wall -Wextra -Wconversion -Wshadow -Wvla -Wmissing-prototypes -Werror"

objects=
for source in "$here"/*.c "$here"/*.S; do
    object=$work/$(basename "$source").o
    # shellcheck disable=SC2086 # a list of flags
    $cc $flags -I"$here" -c "$source" -o "$object"
    objects="$objects $object"
done
# shellcheck disable=SC2086
$cc -nostdlib -static -Wl,-T,"$here/guest.lds" -Wl,--build-id=none -Wl,-z,noexecstack \
    -Wl,-z,max-page-size=4096 -Wl,--no-warn-rwx-segments $objects -o "$work/guest.elf"
mv "$work/guest.elf" "$out/guest.elf"
