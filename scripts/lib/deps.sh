# Sourced by demo, test and bench: install what is missing (root) or say the one line to run.
# Debian 12 names. GODWIT_PACKAGES_TEST comes on top for scripts/test and scripts/bench.

GODWIT_PACKAGES="build-essential cmake ninja-build pkg-config python3 git ccache
  libuv1-dev libprotobuf-c-dev protobuf-c-compiler libssl-dev liblz4-dev libzstd-dev libxxhash-dev liburing-dev
  libsqlite3-dev libyaml-dev libxml2-dev libsmartcols-dev libjansson-dev libcmocka-dev libipsec-mb-dev
  libcurl4-openssl-dev libvirt-dev iproute2"
GODWIT_PACKAGES_TEST="clang libclang-rt-14-dev qemu-system-x86 qemu-utils xfsprogs openssl
  etcd-server curl
  libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients
  mmdebstrap busybox-static e2fsprogs xfsprogs acpica-tools nbdkit libnbd-bin"

godwit_deps() {
    local missing="" package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" ||
            missing="$missing $package"
    done
    [ -z "$missing" ] && return 0
    if [ "$(id -u)" != 0 ]; then
        echo "missing packages; run this once, then try again:" >&2
        echo "  sudo apt-get install -y --no-install-recommends$missing" >&2
        return 1
    fi
    echo "installing:$missing" >&2
    # shellcheck disable=SC2086
    { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
        >/tmp/godwit-apt.$$ 2>&1 || { cat /tmp/godwit-apt.$$ >&2; rm -f /tmp/godwit-apt.$$; return 1; }
    rm -f /tmp/godwit-apt.$$
}

# godwit_build PRESET [TARGET...]: configure and build quietly; the whole log only when it fails.
godwit_build() {
    local preset=$1 log
    shift
    log=$(mktemp)
    if ! { cmake --preset "$preset" && cmake --build "build/$preset" ${1:+--target "$@"}; } >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        rm -f "$log"
        echo "building '$preset' failed" >&2
        return 1
    fi
    rm -f "$log"
}
