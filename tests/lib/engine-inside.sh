# The first process in the engine's namespaces: starts dockerd, and ends with it when its standard input ends.
# Whatever else runs in here ends with this process.
set -u
dir=$1 prefix=$2 filter=$3

# A daemon of the machine leaves sockets and locks in /run that must not be found, and its settings in /etc/docker.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/docker
if [ "$filter" = legacy ]; then
    mount --bind "$(readlink -f "$(command -v iptables-legacy)")" "$(readlink -f "$(command -v iptables-nft)")"
fi

exec 3<&0 </dev/null
# 203.0.113.0/24 is reserved for documentation: no network of the developer's is in its way.
dockerd --config-file "$dir/daemon.json" --data-root "$dir/data" --exec-root "$dir/exec" \
    --host "unix://$dir/docker.sock" --pidfile "$dir/pid" --bip 203.0.113.1/24 \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$prefix-docker" 3<&- &
daemon=$!
cat <&3 >/dev/null &
wait -n

kill -TERM "$daemon" 2>/dev/null
for _ in $(seq 150); do
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
