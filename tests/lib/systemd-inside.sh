# A systemd of a test's own: on a copy of this machine's files in memory, in namespaces of its own, without its network.
# Ends, with all that runs in it, when its standard input ends.
#
# $1 is a folder for it, $2 a name for its control group, $3 a folder with what goes into /etc/systemd/system, $4 the
# program, $5 the profile, and $6 the unit to start. Its first process is told in $1/pid.
set -eu
dir=$1 name=$2 units=$3 program=$4 profile=$5 unit=$6

# Where it takes its place, in mounts that nobody else sees.
prepare() {
    local root=$dir/files/root device
    mkdir "$dir/files"
    mount -t tmpfs tmpfs "$dir/files"
    mkdir "$dir/files/upper" "$dir/files/work" "$root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/files/upper,workdir=$dir/files/work" "$root"
    # Nothing of the machine's is started, nor are its disks mounted; and it is not for the first time that this one starts.
    rm -rf "$root/etc/systemd/system" "$root/etc/systemd/user" "$root/etc/fstab" "$root/etc/crypttab"
    echo 70727474657374707274746573747072 >"$root/etc/machine-id"
    cp -r "$units" "$root/etc/systemd/system"
    touch "$root/usr/bin/portolan"
    mount --bind "$program" "$root/usr/bin/portolan"
    mkdir -p "$root/etc/portolan/profiles"
    chmod 755 "$root/etc/portolan" "$root/etc/portolan/profiles"
    install -m 644 "$profile" "$root/etc/portolan/profiles/default.json"
    mount -t proc proc "$root/proc"
    # What it would set there is of the whole machine.
    mount --bind "$root/proc/sys" "$root/proc/sys"
    mount -o remount,bind,ro "$root/proc/sys"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for device in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do
        # shellcheck disable=SC2086 # a name and two numbers
        set -- $device
        mknod -m 666 "$root/dev/$1" c "$2" "$3"
    done
    mkdir "$root/dev/pts" "$root/dev/shm" "$root/outside"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t tmpfs tmpfs "$root/dev/shm"
    cd "$root"
    pivot_root . outside
    umount -l /outside
}

if [ "${7:-}" = inside ]; then
    prepare
    ip link set lo up
    [ -x /usr/lib/systemd/systemd ] && systemd=/usr/lib/systemd/systemd || systemd=/lib/systemd/systemd
    # Nor has it a way to the kernel's clock, log and modules.
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set -sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog,-mac_admin,-mac_override \
        "$systemd" --system --unit="$unit" --log-target=console --show-status=no
fi

mkdir "$dir/cgroup"
mount -t cgroup2 cgroup2 "$dir/cgroup"
group=$dir/cgroup/$name
mkdir "$group"
exec 3<&0 </dev/null
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child bash "$0" "$@" inside 3<&-
) &
outer=$!
cat <&3 >/dev/null &
until first=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null) && [ -n "$first" ]; do
    kill -0 "$outer" || exit 1
    sleep 0.05
done
echo "${first% }" >"$dir/pid.new"
mv "$dir/pid.new" "$dir/pid"
wait -n || true

kill -KILL "$outer" 2>/dev/null || true
for _ in $(seq 200); do
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -e "$group" ] || break
    sleep 0.05
done
