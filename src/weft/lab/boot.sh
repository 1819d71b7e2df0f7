#!/bin/sh
# The first process of a lab host, in its new namespaces. It makes the machine's file system look like a host's own, takes the
# underlay's cable, says "ready" and becomes tini, which does what PID 1 must do: reap orphans, such as each container's conmon.
#
#   NAME ADDRESS UPLINK   hostname, address with prefix length, interface
#   RUN DATA ETC          the host's /run, its state directory, and its hostname, hosts and resolv.conf
#   STATE                 where it sees DATA: /var/lib/weft
#   CGROUPS               one line for each hierarchy: kind, mount point, options or -
set -eu

read -r go # whoever boots us has recorded us and plugged in the cable; end of file: it is dead, and so are we
[ "$go" = go ]

mount --make-rprivate /
hostname "$NAME"

for file in hostname hosts resolv.conf; do
    target=$(readlink -m "/etc/$file") # resolv.conf is often a link into /run
    case $target in
    /run/*)
        mkdir -p "$(dirname "$RUN${target#/run}")"
        cp "$ETC/$file" "$RUN${target#/run}"
        ;;
    *) if [ -e "$target" ]; then mount --bind "$ETC/$file" "$target"; fi ;;
    esac
done

mount -t proc proc /proc
umount -R -l /sys # else the runtime would find two mounts of each hierarchy
mount -t sysfs sysfs /sys # shows this network namespace's interfaces
case $CGROUPS in
*" /sys/fs/cgroup "*) ;; # version 2 alone
*) mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup ;;
esac
echo "$CGROUPS" | while read -r kind path options; do
    [ -n "$kind" ] || continue
    mkdir -p "$path"
    if [ "$options" = - ]; then
        mount -t "$kind" "$kind" "$path"
    else
        mount -t "$kind" -o "$options" "$kind" "$path"
    fi
done
mount --bind "$DATA" "$STATE"
mount --bind "$RUN" /run # last: $RUN, $DATA and $ETC are themselves below /run or seen through it
mount --make-rshared / # as systemd leaves it, with no peer outside these namespaces: what is mounted later can reach containers

ip link set lo up
ip address add "$ADDRESS" brd + dev "$UPLINK"
ip link set "$UPLINK" up

echo ready
exec tini -- sleep infinity </dev/null >/dev/null 2>&1
