#!/bin/busybox sh
# /init of an emulated host: modules, /dev/kvm, one bridge with the network card in it, this machine's
# root read-only below an overlay in memory, the folder that hosts share, and then the command server.
# The kernel's command line gives gw.name, gw.address and gw.server.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev

value() { tr ' ' '\n' </proc/cmdline | sed -n "s/^gw\.$1=//p"; }
fail() { echo "gw host failed: $*"; poweroff -f; }

while read -r module; do
    insmod "/modules/$module" || fail "inserting $module"
done </modules/order
[ -c /dev/kvm ] || fail "no /dev/kvm"

hostname "$(value name)"
ip link set lo up
ip link add br0 type bridge
ip link set br0 type bridge stp_state 0 forward_delay 0 2>/dev/null
ip link set eth0 master br0
ip link set eth0 up
ip link set br0 up
ip addr add "$(value address)/24" dev br0

mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro root /lower || fail "mounting root"
mount -t tmpfs -o size=50% none /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work none /root || fail "overlay"
mount -t proc none /root/proc
mount -t sysfs none /root/sys
mount -t devtmpfs none /root/dev
mkdir -p /root/dev/pts /root/dev/shm /root/srv/shared
mount -t devpts none /root/dev/pts
mount -t tmpfs none /root/dev/shm
mount -t tmpfs none /root/run
mount -t tmpfs none /root/tmp
mount -t tmpfs none /root/var/tmp
mount -t cgroup2 none /root/sys/fs/cgroup
# cache=none: every read and write goes to the server, as with disks that hosts share
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none,access=any shared /root/srv/shared ||
    fail "mounting the shared folder"
cp /host_server.py /root/run/
exec /bin/init
