# Shared by the scenarios, which run in the lab's guest with the test's folder as /share.
# Each step prints one line, "ok - NAME" or "not ok - NAME", and what a step printed is in /share/log/NAME.
# NIC says what the target stands on: soft (its own RoCEv2, over UDP) or verbs (the kernel's rxe1). TARGET_LOG is what
# the target logs, as `sidelane --log` has it.
# shellcheck shell=bash disable=SC2034


share=/share
log=$share/log
config=$share/sidelane.toml
control=/run/sidelane.sock
nic=${NIC:-soft}
address=192.168.77.2
port=4420
own=nqn.2026-11.io.sidelane:own
other=nqn.2026-11.io.sidelane:other
# A second host: to a target, a host is who it says it is. The first must say so too: without, nvme-cli takes the name
# of whichever host it finds connected.
second_id=22222222-2222-3333-4444-555555555555
second_nqn=nqn.2014-08.org.nvmexpress:uuid:$second_id
second=(--hostnqn "$second_nqn" --hostid "$second_id")
failed=0
mkdir -p "$log"

# step NAME COMMAND...: runs it with its output in a file; shows the end of that where it fails.
step() {
    local name=$1
    shift
    if "$@" >"$log/$name" 2>&1; then
        echo "ok - $name"
    else
        echo "not ok - $name"
        tail -n 100 "$log/$name" | sed 's/^/#   /'
        failed=1
    fi
}

# give_up NAME: a step without which nothing after it means anything.
give_up() {
    echo "not ok - $1"
    tail -n 25 "$log/target" | sed 's/^/#   /'
    exit 1
}

# within SECONDS COMMAND...: again and again, until it succeeds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

# Both network sides, and the SSDs for the target.
machine() {
    lab-net "$nic" >"$log/net" 2>&1 || { cat "$log/net"; exit 1; }
    lab-ssd bind cmb0 cmb1 >"$log/bind" || exit 1
    first_nqn=$(</etc/nvme/hostnqn)
}

# configure [ARGUMENT...]: the lab's configuration (with the arguments of lab-config) on this NIC, with two reactors,
# for two hosts.
configure() {
    lab-config "$@" | sed "s/^nic = .*/nic = \"$nic\"/; s/^cores = .*/cores = [1, 2]/
        s/^hosts = \\[\\(.*\\)\\]/hosts = [\\1, \"$second_nqn\"]/" >"$config"
}

# target_start [ARGUMENT...]: the target in namespace tgt; returns when it listens.
target_start() {
    ip netns exec tgt sidelane --log "${TARGET_LOG:-info}" serve --config "$config" "$@" >>"$log/target" 2>&1 &
    target=$!
    local tries
    for tries in $(seq 1 150); do
        [[ -S $control ]] && sidelane stats --control "$control" >/dev/null 2>&1 && return 0
        kill -0 "$target" 2>/dev/null || break
        sleep 0.2
    done
    echo "the target did not start ($tries tries):"
    cat "$log/target"
    return 1
}

# target_stop: asks it to end, and waits; its exit status is the function's.
target_stop() {
    kill -TERM "$target"
    # Without a bound: `wait` knows none, and a target that hangs ends with the run.
    wait "$target"
}

# stats NAME: the target's counts, for whoever looks at them afterwards.
stats() { sidelane stats --json --control "$control" >"$share/stats-$1.json"; }

# idle_with CONNECTIONS: no payload buffer in use, no response slot lost, one connection for each queue of the hosts.
idle_with() {
    sidelane stats --json --control "$control" >/tmp/stats.json || return
    jq -c '{pools: [.pools[].in_use_bytes], reactors: [.reactors[] | {connections, unspent_permits}], controllers}' \
        /tmp/stats.json
    jq -e --argjson connections "$1" 'all(.pools[]; .in_use_bytes == 0) and all(.reactors[]; .unspent_permits == 0)
        and ([.reactors[].connections] | add) == $connections' /tmp/stats.json >/dev/null
}

# cntlid_of NQN HOST: the controller's number, by the target's word.
cntlid_of() {
    sidelane stats --json --control "$control" |
        jq -er --arg nqn "$1" --arg host "$2" '[.controllers[] | select(.nqn == $nqn and .host == $host) | .cntlid]
            | if length == 1 then .[0] else error("\(length) controllers of that host") end'
}

# attach NQN [ARGUMENT...]: connects, as the first host unless told otherwise, and waits for the disk; prints it.
attach() {
    local nqn=$1 disk tries
    shift
    timeout 60 nvme connect -t rdma -a "$address" -s "$port" -n "$nqn" \
        --hostnqn "$first_nqn" --hostid "$(</etc/nvme/hostid)" "$@" >/dev/null || return
    for tries in $(seq 1 100); do
        disk=$(disk_of "$nqn") && [[ -b $disk ]] && echo "$disk" && return 0
        sleep 0.1
    done
    echo "no disk of $nqn after $tries tries" >&2
    return 1
}

# detach NQN: disconnects. Not while udev still looks at a disk that was just closed: what it asks would fail.
detach() { udevadm settle && timeout 60 nvme disconnect -n "$1"; }

# disk_of NQN: the block device of a connected subsystem's first namespace.
disk_of() {
    local subsystem head
    for subsystem in /sys/class/nvme-subsystem/*; do
        [[ $(<"$subsystem/subsysnqn") == "$1" ]] || continue
        for head in "$subsystem"/nvme*n*; do
            [[ -e $head && ${head##*/} != *c* ]] && echo "/dev/${head##*/}" && return 0
        done
    done
    return 1
}

# controller_of NQN [HOST]: the character device of a connected subsystem's controller.
controller_of() {
    local controller
    for controller in /sys/class/nvme/nvme*; do
        [[ $(<"$controller/subsysnqn") == "$1" && $(<"$controller/transport") == rdma ]] || continue
        [[ $(<"$controller/hostnqn") == "${2-$(<"$controller/hostnqn")}" ]] &&
            echo "/dev/${controller##*/}" && return 0
    done
    return 1
}

# attribute CONTROLLER NAME: what sysfs says of it.
attribute() { cat "/sys/class/nvme/${1##*/}/$2"; }

# is_live CONTROLLER
is_live() { [[ $(attribute "$1" state) == live ]]; }

# registers Y|N: nvme-rdma's register_always. With N the host names memory by a key that is always there, if that memory
# is in one piece, as it is with fio's --iomem=shmhuge. Such a host outlives that rxe goes back; see interop-target.
registers() { modprobe -r nvme-rdma && modprobe nvme-rdma register_always="$1"; }

# in_one_piece: what the host writes and reads can be, and nobody else comes along.
in_one_piece() {
    echo 64 >/proc/sys/vm/nr_hugepages
    # When a job ends that has written, udev would look what is on the disk now. It reads into pages that are not in one
    # piece, which takes a registration.
    mkdir -p /run/udev/rules.d
    echo 'KERNEL=="nvme*", OPTIONS="nowatch"' >/run/udev/rules.d/99-nobody-watches.rules
    udevadm control --reload
}

# interrupted FIO OUTPUT JSON: tells a fio in the background to end, which is no error, and keeps what it has reported
# without what it says of the signal.
interrupted() {
    kill -INT "$1"
    wait "$1"
    sed -n '/^{/,$p' "$2" >"$3"
}

# verify DISK FIO-ARGUMENT...: writes at random with a checksum in each block, and reads it all back. A disk that has
# gone is an error: fio would make a file of that name, and be content.
verify() {
    local disk=$1
    shift
    timeout 180 fio --name=verify --filename="$disk" --allow_file_create=0 --direct=1 --ioengine=libaio --rw=randwrite \
        --verify=crc32c --do_verify=1 --verify_fatal=1 --randrepeat=1 --group_reporting "$@"
}

# The storms that blow, by name.
declare -A storms

# Rounds of a storm that lie side by side on a disk, before the first is written over.
rounds=200

# round_of NUMBER: what is written in it, and where.
round_of() { printf '%s\n' --randseed="$1" --size=4m --offset="$(($1 % rounds * 4))m"; }

# storm NAME DISK [FIO-ARGUMENT...]: verified writes in the background, round after round; returns in the middle of one.
storm() {
    local name=$1 disk=$2
    shift 2
    rm -f "/tmp/$name.end"
    : >"/tmp/$name.begun"
    (
        while [[ ! -e /tmp/$name.end ]]; do
            echo >>"/tmp/$name.begun"
            mapfile -t round < <(round_of "$(wc -l <"/tmp/$name.begun")")
            verify "$disk" --bsrange=4k-128k --iodepth=8 "${round[@]}" "$@" || exit
        done
    ) >"$log/storm-$name" 2>&1 &
    storms[$name]=$!
    one_more "$name" && sleep 1
}

# one_more NAME: a round begins from now on.
one_more() {
    local begun
    begun=$(wc -l <"/tmp/$1.begun")
    within 120 eval "(( \$(wc -l </tmp/$1.begun) > $begun ))"
}

# storm_ends NAME: the current round is the last; all of them must have read what they wrote.
storm_ends() {
    touch "/tmp/$1.end"
    wait "${storms[$1]}" && return
    tail -n 25 "$log/storm-$1"
    return 1
}

# without_unsent_keep_alives: drops the two lines in which a host tells of a keep-alive that fell due while
# its controller was being deleted. The host ends it before it has begun (error 4, BLK_STS_TRANSPORT) and
# takes its round-trip time from a deadline of zero. A keep-alive that was lost on the way is told of with
# an error recovery as well, and that line stays.
without_unsent_keep_alives() {
    awk '/failed nvme_keep_alive_end_io error=4$/ && rtt { rtt = ""; next }
         rtt { print rtt; rtt = "" }
         /long keepalive RTT/ { rtt = $0; next }
         { print }
         END { if (rtt) print rtt }'
}

# kernel_is_silent: nothing from the nvme and rdma modules that is a warning or worse.
kernel_is_silent() {
    dmesg --level=emerg,alert,crit,err,warn | grep -iE 'nvme|rdma|rxe|bogus' | without_unsent_keep_alives |
        grep . || return 0
    both_sides_speak
    return 1
}

# both_sides_speak: what is known of a connection that was lost. The host says how its work requests failed at a level
# below a warning, and rxe says what it saw in counts only.
both_sides_speak() {
    echo "the kernel, at any level:"
    dmesg | grep -iE 'nvme|rdma|rxe' | tail -n 60
    echo "its adapters:"
    rdma statistic show link
    echo "the target:"
    sidelane stats --json --control "$control" | jq -c 'del(.pools, .namespaces, .queue_pairs)'
    grep -E 'WARN|ERROR|association ended' "$log/target" | tail -n 15
}

# kernel_is_sound: whatever it says about lost connections, nothing went wrong in the kernel itself.
kernel_is_sound() { ! dmesg | grep -E 'WARNING:|BUG:|blocked for more|RIP:|rcu.*stall'; }
