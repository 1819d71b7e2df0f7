# Becomes the first process of a host, systemd. Runs in a mount namespace of its own: boot.sh BASE SCRATCH ADDRESS GROUP
set -eu
base=$1 scratch=$2 address=$3 group=$4
root=$scratch/root

if [ "${5-}" != inside ]; then
    # In a control group of its own, which is the root of all that it sees from then on.
    mount --make-rprivate /
    mount -t cgroup2 cgroup2 "$root"
    mkdir "$root/$group"
    echo $$ >"$root/$group/cgroup.procs"
    umount "$root"
    exec unshare -m -n -p -u -i -C --fork sh "$0" "$base" "$scratch" "$address" "$group" inside
fi
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
mount -t proc proc "$root/proc"
# Read-only, so that nothing waits for a udevd, which there is not.
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
if [ -e /dev/net/tun ]; then
    touch "$root/dev/net/tun"
    mount --bind /dev/net/tun "$root/dev/net/tun"
fi
# Containers' files lie on overlays, which must not lie on an overlay.
mkdir -p "$root/var/lib/weft"
mount --bind "$scratch/data" "$root/var/lib/weft"

echo host1 >"$root/etc/hostname"
ip link set lo up
ip link add eth0 type veth peer name wire
ip address add "$address/24" dev eth0
ip link set eth0 up
ip link set wire up

cd "$root"
pivot_root . mnt
umount -l /mnt
# A terminal would be asked for a login.
exec env -i container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd systemd.mask=console-getty.service
