# The first process in the namespaces of a private Podman: serves its Docker-compatible API on DIR/podman.sock, and
# ends with it when its standard input ends. Whatever else runs in here ends with this process.
set -u
dir=$1

# Podman of the machine keeps locks and networks in /run.
mount -t tmpfs tmpfs /run
mkdir -p /run/lock
# crun refuses a machine that has both versions of control groups; none is used here.
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
cat >"$dir/containers.conf" <<END
[containers]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"
tmp_dir = "$dir/tmp"
[network]
network_backend = "netavark"
network_config_dir = "$dir/networks"
default_subnet = "203.0.113.0/24"
END
cat >"$dir/storage.conf" <<END
[storage]
driver = "vfs"
graphroot = "$dir/graph"
runroot = "/run/graph"
END
export CONTAINERS_CONF=$dir/containers.conf CONTAINERS_STORAGE_CONF=$dir/storage.conf HOME=$dir

exec 3<&0 </dev/null
podman system service --time 0 "unix://$dir/podman.sock" 3<&- &
cat <&3 >/dev/null &
wait -n
