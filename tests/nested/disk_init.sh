#!/bin/busybox sh
# /init of a guest whose root is its first disk.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
echo "gw userspace uptime=$(cut -d' ' -f1 /proc/uptime) cpus=$(grep -c ^processor /proc/cpuinfo) kernel=$(uname -r)"
while read -r module; do
    insmod "/modules/$module" 2>/dev/null || echo "gw note: no $module"
done </modules/order
mount -t ext4 /dev/vda /root || { echo "gw failed: mounting /dev/vda"; poweroff -f; }
umount /proc /sys
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
