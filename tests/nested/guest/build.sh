#!/bin/sh
# Builds the guest's programs: build.sh OUT_DIR [CC]  ->  OUT_DIR/load (static)
set -eu
out=${1:?usage: build.sh OUT_DIR [CC]}
cc=${2:-cc}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
# x86-64-v1: a guest of every baseline runs it
$cc -std=gnu17 -O2 -g -march=x86-64 -static -pthread -Wall -Wextra -Wconversion -Wshadow -Wvla \
    -Wmissing-prototypes -Werror -I"$here" "$here"/*.c -o "$out/load.$$"
strip "$out/load.$$"
mv "$out/load.$$" "$out/load"
