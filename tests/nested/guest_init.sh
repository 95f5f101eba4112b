#!/bin/busybox sh
# /init of a Linux guest: its devices, its address, its disk, then the load. The kernel's command line may give
# gw.address, gw.peer, gw.hog and gw.then (load | poweroff | reboot | shell).
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
echo "gw userspace uptime=$(cut -d' ' -f1 /proc/uptime) cpus=$(grep -c ^processor /proc/cpuinfo) kernel=$(uname -r)"

value() { tr ' ' '\n' </proc/cmdline | sed -n "s/^gw\.$1=//p"; }

while read -r module; do
    insmod "/modules/$module" 2>/dev/null || echo "gw note: no $module"
done </modules/order

words=
ip link set lo up
if [ -n "$(value address)" ]; then
    tries=0
    while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 50 ]; do
        usleep 100000
        tries=$((tries + 1))
    done
    ip addr add "$(value address)/24" dev eth0 && ip link set eth0 up || echo "gw failed: eth0"
    words="--peer $(value peer)"
fi
if [ -e /dev/vda ]; then
    mkdir -p /data
    mount -t ext4 /dev/vda /data || echo "gw failed: mounting /dev/vda"
    words="$words --blocks /data/blocks"
fi
echo "gw devices blk=$(ls /sys/block | tr '\n' ',') net=$(ls /sys/class/net | tr '\n' ',') rtc=$(ls /sys/class/rtc 2>/dev/null | tr '\n' ',') clocksource=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"

case "$(value then)" in
poweroff) echo "gw powers off"; poweroff -f ;;
reboot) echo "gw reboots"; reboot -f ;;
shell) exec setsid cttyhack sh ;;
esac
# shellcheck disable=SC2086
exec /bin/load guest $words --hog "$(value hog)" </dev/ttyS0 >/dev/ttyS0
