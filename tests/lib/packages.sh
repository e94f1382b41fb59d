# What the tests need from the system: which Debian package has it, and which tests go without.

# command : package : what is lost without it
packages_table="
ip:iproute2:tests with network namespaces are skipped
ss:iproute2:tests that compare with ss are skipped
tmux:tmux:tests of the terminal interface are skipped
curl:curl:scenario tests are skipped
python3:python3:scenario tests are skipped
ensurepip:python3-venv:tests of the control socket's schema and of the metrics are skipped
openssl:openssl:the tests of causes are skipped
ps:procps:tests that measure memory are skipped
mandoc:mandoc:no reader of manual pages judges ours
systemd-socket-activate:systemd:the tests of socket activation and of the units are skipped
systemd-analyze:systemd:the tests of socket activation and of the units are skipped
nginx:nginx:the tests of PROXY headers with real servers are skipped
/usr/lib/nginx/modules/ngx_stream_module.so:libnginx-mod-stream:the tests of PROXY headers with real servers are skipped
haproxy:haproxy:the tests of PROXY headers with real servers are skipped
nsenter:util-linux:tests with network namespaces are skipped
dockerd:docker.io:the Docker tests are skipped
docker:docker.io:the Docker tests are skipped
iptables:iptables:the Docker tests are skipped
busybox:busybox-static:the Docker tests are skipped
podman:podman:the Podman tests are skipped
crun:crun:the Podman tests are skipped
/usr/lib/podman/netavark:netavark:the Podman tests are skipped
"

# Lists what is missing, or installs it ($1 is true).
packages_provide() {
    local missing
    missing=$(packages_missing)
    [ -n "$missing" ] || return 0
    if [ "$1" != true ]; then
        echo "$missing" | while IFS=: read -r command package loss; do
            echo "missing: $command (apt-get install $package) - $loss"
        done
        echo 'tests/run --install installs all of it'
        return 0
    fi
    # shellcheck disable=SC2046 # one word for each package
    packages_install $(echo "$missing" | cut -d: -f2 | sort -u)
    missing=$(packages_missing)
    if [ -n "$missing" ]; then
        echo "tests/run: still missing after the install: $(echo "$missing" | cut -d: -f1 | tr '\n' ' ')" >&2
        return 1
    fi
}

packages_missing() {
    echo "$packages_table" | while IFS=: read -r command package loss; do
        [ -n "$command" ] || continue
        packages_has "$command" || echo "$command:$package:$loss"
    done
}

packages_has() {
    local path
    # No command, but a module that Debian packs by itself: python3 -m venv needs it.
    if [ "$1" = ensurepip ]; then
        python3 -c 'import ensurepip' >/dev/null 2>&1
        return
    fi
    # A module is no command either.
    case "$1" in *.so)
        [ -e "$1" ]
        return
        ;;
    esac
    path=$(command -v "$1") || return 1
    # In an image of its own there is no library that busybox could load.
    [ "$1" != busybox ] || ! LC_ALL=C ldd "$path" >/dev/null 2>&1
}

packages_install() {
    local had_docker=true had_podman=true had_nginx=true had_haproxy=true
    command -v dockerd >/dev/null || had_docker=false
    command -v podman >/dev/null || had_podman=false
    command -v nginx >/dev/null || had_nginx=false
    command -v haproxy >/dev/null || had_haproxy=false
    echo "installing: $*"
    as_root apt-get update -q
    # Newer releases pack the client of docker.io by itself.
    case " $* " in
        *' docker.io '*) apt-cache show docker-cli >/dev/null 2>&1 && set -- "$@" docker-cli ;;
    esac
    # A daemon that an install starts would change the machine's packet filter: nothing is to be started.
    policy=/usr/sbin/policy-rc.d
    [ ! -e $policy ] || as_root cp -p $policy "$work/policy-rc.d"
    policy_set=true
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 755 $policy
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
    packages_restore
    # Nor is one to start with the machine, unless it was there before.
    if [ $had_docker = false ] && command -v systemctl >/dev/null; then
        as_root systemctl disable docker.service docker.socket containerd.service >/dev/null 2>&1 || true
    fi
    if [ $had_podman = false ] && command -v systemctl >/dev/null; then
        as_root systemctl disable podman.service podman.socket podman-auto-update.timer podman-restart.service \
            >/dev/null 2>&1 || true
    fi
    if [ $had_nginx = false ] && command -v systemctl >/dev/null; then
        as_root systemctl disable nginx.service >/dev/null 2>&1 || true
    fi
    if [ $had_haproxy = false ] && command -v systemctl >/dev/null; then
        as_root systemctl disable haproxy.service >/dev/null 2>&1 || true
    fi
    hash -r
}

policy_set=false
# Puts the machine's own rule for the start of services back.
packages_restore() {
    [ $policy_set = true ] || return 0
    policy_set=false
    if [ -e "$work/policy-rc.d" ]; then
        as_root cp -p "$work/policy-rc.d" $policy
    else
        as_root rm -f $policy
    fi
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "tests/run: needs root for: $*" >&2
        return 1
    fi
}
