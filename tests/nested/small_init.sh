#!/bin/sh
# The first thing that a small guest's init runs, from its disk.
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
mount -o remount,rw /
[ ! -e /etc/provisioned ] || echo "$(cat /etc/motd) $(cat /etc/provisioned)"
