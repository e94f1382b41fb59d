# The state of the machine that tests must leave alone, and the removal of what they may leave behind.

# Provides what tests need ($1 as of packages_provide), and then writes the state that they must leave to $work/before.
# Before an install, the tools that tell of that state may be missing themselves; what the kernel tells without them,
# and those that are there, must tell the same after it.
machine_prepare() {
    local saves
    saves=$(machine_saves)
    # shellcheck disable=SC2086 # one word for each command
    { machine_plain; machine_filter $saves; } >"$work/before-install"
    packages_provide "$1"
    # shellcheck disable=SC2086 # the same
    { machine_plain; machine_filter $saves; } >"$work/after-install"
    if ! diff -u --label before --label after "$work/before-install" "$work/after-install"; then
        echo 'tests/run: installing has changed the packet filter, links or routes' >&2
        return 1
    fi
    machine_state >"$work/before"
}

# Packet filter, links and routes, as text that changes only if somebody changes them.
machine_state() {
    local saves
    saves=$(machine_saves)
    # shellcheck disable=SC2086 # one word for each command
    machine_filter $saves
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

# The commands that print the packet filter, as far as they are there.
machine_saves() {
    local save
    for save in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
        if command -v "$save" >/dev/null; then echo "$save"; fi
    done
}

# What each of these commands prints.
machine_filter() {
    local save
    for save; do
        echo "# $save"
        # Without comments (they hold the time) and packet counts. Without root nothing is printed.
        "$save" 2>/dev/null | sed -e '/^#/d' -e 's/\[[0-9]*:[0-9]*\]//' || true
    done
}

# Links and routes as the kernel lists them where there is no `ip`.
machine_plain() {
    local link
    for link in /sys/class/net/*; do
        [ -e "$link/flags" ] || continue
        echo "${link##*/} $(cat "$link/flags" "$link/address" 2>/dev/null | tr '\n' ' ')"
    done
    # Without the counts of users.
    cut -f 1-4,7-8 /proc/net/route 2>/dev/null || true
    awk '{ print $1, $2, $5, $6, $9, $10 }' /proc/net/ipv6_route 2>/dev/null || true
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
