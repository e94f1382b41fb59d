# A private Docker engine for the tests: own socket, data folder, bridge, and namespaces for network, mounts and
# processes. Tests find it by PORTOLAN_TEST_DOCKER (what DOCKER_HOST would be) and reach its containers from the network
# namespace PORTOLAN_TEST_DOCKER_NETNS; both are unset where it cannot run, and PORTOLAN_TEST_DOCKER_MISSING says why.

engine_life=9 # Replaced by a descriptor of the shell's choice.
engine_pid=
engine_dir=
engine_made_etc=false

engine_start() {
    local command
    if [ "$(id -u)" -ne 0 ]; then
        engine_missing 'root'
        return 0
    fi
    for command in dockerd docker busybox ip iptables nsenter unshare; do
        packages_has "$command" || { engine_missing "$command"; return 0; }
    done

    engine_dir=$work/engine
    mkdir "$engine_dir"
    local netns=$PORTOLAN_TEST_PREFIX-docker
    if ! ip netns add "$netns"; then
        engine_missing 'network namespaces (ip netns add fails)'
        return 0
    fi
    ip -n "$netns" link set lo up

    # The engine's own files may lie in /etc/docker; it is hidden under an empty folder, which has to exist for that.
    if [ ! -e /etc/docker ]; then
        mkdir /etc/docker
        engine_made_etc=true
    fi
    echo '{}' >"$engine_dir/daemon.json"

    # It lives as long as this descriptor is open, so even a killed run leaves no engine behind.
    exec {engine_life}> >(
        exec setsid --wait nsenter --net="/run/netns/$netns" \
            unshare --mount --propagation private --pid --fork --kill-child --mount-proc \
            bash tests/lib/engine-inside.sh "$engine_dir" "$PORTOLAN_TEST_PREFIX" "$(engine_filter "$netns")" \
            >"$engine_dir/log" 2>&1
    )
    engine_pid=$!

    local host=unix://$engine_dir/docker.sock tries=300
    until docker -H "$host" version >/dev/null 2>&1; do
        if ! kill -0 "$engine_pid" 2>/dev/null || [ $((tries -= 1)) -le 0 ]; then
            echo 'tests/run: the Docker engine did not start; the end of its log:' >&2
            tail -n 20 "$engine_dir/log" >&2
            engine_missing 'a Docker engine that starts'
            return 0
        fi
        sleep 0.2
    done
    engine_image "$host"
    export PORTOLAN_TEST_DOCKER=$host
    export PORTOLAN_TEST_DOCKER_NETNS=/run/netns/$netns
}

engine_missing() {
    export PORTOLAN_TEST_DOCKER_MISSING=$1
    echo "the Docker tests go without: $1 is missing"
}

# `legacy` where the kernel takes only the older packet filter's rules.
engine_filter() {
    local inside=(nsenter --net="/run/netns/$1")
    if ! "${inside[@]}" iptables -t nat -N portolan-probe 2>/dev/null; then
        if "${inside[@]}" iptables-legacy -t nat -N portolan-probe 2>/dev/null; then
            "${inside[@]}" iptables-legacy -t nat -X portolan-probe
            echo legacy
            return 0
        fi
    else
        "${inside[@]}" iptables -t nat -X portolan-probe
    fi
    echo default
}

# An image can be pulled nowhere: one of busybox alone is made.
engine_image() {
    local root=$engine_dir/image applet
    mkdir -p "$root/bin" "$root/tmp" "$root/www"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in cat chmod echo hostname httpd mkdir nc printf sh sleep; do
        ln -s busybox "$root/bin/$applet"
    done
    tar -C "$root" -c . | docker -H "$1" import - portolan-test >/dev/null
    rm -rf "$root"
}

engine_stop() {
    [ -n "$engine_pid" ] || { engine_clean; return 0; }
    local host=unix://$engine_dir/docker.sock
    # One by one and killed: the engine itself would grant each ten seconds.
    timeout 30 docker -H "$host" ps -aq 2>/dev/null | xargs -r timeout 30 docker -H "$host" rm -f >/dev/null 2>&1
    exec {engine_life}>&-
    wait_for_end "$engine_pid" 30 || kill -KILL "$engine_pid" 2>/dev/null
    engine_pid=
    engine_clean
}

engine_clean() {
    find /sys/fs/cgroup -depth -type d -path "*/$PORTOLAN_TEST_PREFIX-docker*" -exec rmdir {} + 2>/dev/null
    if [ $engine_made_etc = true ]; then
        rmdir /etc/docker
        engine_made_etc=false
    fi
}
