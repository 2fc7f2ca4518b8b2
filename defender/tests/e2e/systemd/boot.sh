# Makes what is around it private, and becomes a systemd that knows the units of the directory $1 and nothing else.
# $2: the control groups to mount, as MOUNT_POINT=TYPE=OPTIONS.
set -e
mount --make-rprivate /
mount -t proc proc /proc
# A systemd that starts sets sysctls of the whole machine.
mount --bind /proc/sys /proc/sys
mount -o remount,ro,bind /proc/sys
for group in $2; do
    point=${group%%=*} rest=${group#*=}
    umount -l "$point"
    mount -t "${rest%%=*}" -o "${rest#*=}" cgroup "$point"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/bed /run/lock /run/etc
mount --bind "$1" /run/bed
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /var
mkdir -p /var/lib /var/log /var/tmp /var/cache
cp -a /etc/. /run/etc
mkdir -p /run/etc/defender
cp /run/bed/config.toml /run/etc/defender
rm -f /run/etc/machine-id
echo 0123456789abcdef0123456789abcdef > /run/etc/machine-id
mount --bind /run/etc /etc
umount -l /sys/fs/bpf || true
mount -t bpf -o mode=700 bpf /sys/fs/bpf
exec env -i container=other PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/run/bed/units SYSTEMD_GENERATOR_PATH=/run/bed/none \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=null --show-status=0
