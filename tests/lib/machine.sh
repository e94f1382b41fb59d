# The state of the machine that tests must leave alone, and the removal of what they may leave behind.

# Packet filter, links and routes, as text that changes only if somebody changes them.
machine_state() {
    local save
    for save in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
        echo "# $save"
        if command -v "$save" >/dev/null; then
            # Without comments (they hold the time) and packet counts. Without root nothing is printed.
            "$save" 2>/dev/null | sed -e '/^#/d' -e 's/\[[0-9]*:[0-9]*\]//' || true
        fi
    done
    command -v ip >/dev/null || return 0
    echo '# ip link'
    ip -o link show
    echo '# ip route'
    ip -4 route show table all
    echo '# ip -6 route'
    # The rest of a lifetime is the clock's doing.
    ip -6 route show table all | sed 's/ expires [0-9]*sec//'
    echo '# ip rule'
    ip rule show
    ip -6 rule show
}

# Namespaces whose name starts with $1, and the processes in them: tests that were killed leave them.
machine_remove_leftovers() {
    local namespace pids
    command -v ip >/dev/null || return 0
    for namespace in $(ip netns list 2>/dev/null | awk -v prefix="$1" 'index($1, prefix) == 1 { print $1 }'); do
        pids=$(ip netns pids "$namespace" 2>/dev/null)
        # shellcheck disable=SC2086 # one word for each process
        [ -z "$pids" ] || kill -KILL $pids 2>/dev/null
        ip netns delete "$namespace"
    done
}

# Waits until process $1, a child of this shell, has ended; fails after $2 seconds.
wait_for_end() {
    local tries=$(($2 * 10))
    while kill -0 "$1" 2>/dev/null; do
        [ $((tries -= 1)) -gt 0 ] || return 1
        sleep 0.1
    done
}
