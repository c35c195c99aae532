# What bench-lab does to one target: bring it up, connect the host, measure, take it down.
# It reads the variables of bench-lab, and prints its JSON lines.
# shellcheck shell=bash disable=SC2154

nqn_of() { echo "nqn.2026-11.io.sidelane:bench-$1"; }

# Of each target: the host's disk, and the process where it has one.
declare -A disks pids
nvmet=/sys/kernel/config/nvmet
# Nothing ever comes here: a sleep that costs no process.
exec {never}<> <(:)
nap() { read -r -t "$1" -u "$never" || true; }

# The second veth is for a target on verbs across it: rxe wants UDP port 4791 for itself, as `soft` does in `tgt`. (That
# is why this is not `lab-net second`, which has rxe in `tgt`.)
network() {
    lab-net
    [[ " ${targets[*]} " == *' verbs-veth '* && ! -e /run/netns/tgt2 ]] || return 0
    ip netns add tgt2
    ip -n tgt2 link set lo up
    ip link add v2 mtu 4200 type veth peer name v3 mtu 4200 netns tgt2
    ip addr add 192.168.78.1/24 dev v2
    ip -n tgt2 addr add 192.168.78.2/24 dev v3
    ip -n tgt2 link set v3 up
    ip link set v2 up
    rdma link add rxe2 type rxe netdev v2
    ip netns exec tgt2 rdma link add rxe3 type rxe netdev v3
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        # A GID for the address: without one, connecting fails as if there were no route.
        ! grep -qs 'ffff:c0a8:4e01$' /sys/class/infiniband/rxe2/ports/1/gids/* ||
            ! grep -qs 'ffff:c0a8:4e02$' /sys/class/infiniband/rxe3/ports/1/gids/* || return 0
        nap 0.1
    done
    echo "rxe2 and rxe3 had no GIDs for their addresses within 10 s"
    return 1
}

# bring_up TARGET BACKEND IN_CAPSULE
bring_up() {
    case $1 in
    nvmet) nvmet_up "$2" "$3" ;;
    *) sidelane_up "$@" ;;
    esac
}

take_down() {
    case $1 in
    nvmet) nvmet_down ;;
    *) sidelane_down "$1" ;;
    esac
}

# `if` around a function turns `set -e` off in it, hence the && chains.
nvmet_up() {
    local device subsystem
    subsystem=$nvmet/subsystems/$(nqn_of nvmet)
    if [[ $1 == null ]]; then
        # irqmode=0: a command ends where it began, as with Sidelane's null backend.
        modprobe null_blk nr_devices=1 gb=1 bs=4096 queue_mode=2 irqmode=0 || return
        device=/dev/nullb0
    else
        device=$(lab-ssd release "$(field nvmet 7)" | cut -d ' ' -f 2) || return
    fi
    modprobe nvmet-rdma || return
    mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config || return
    mkdir "$subsystem" "$subsystem/namespaces/1" "$nvmet/ports/1" &&
        echo 1 >"$subsystem/attr_allow_any_host" &&
        echo "$device" >"$subsystem/namespaces/1/device_path" &&
        echo 1 >"$subsystem/namespaces/1/enable" &&
        echo rdma >"$nvmet/ports/1/addr_trtype" &&
        echo ipv4 >"$nvmet/ports/1/addr_adrfam" &&
        field nvmet 5 >"$nvmet/ports/1/addr_traddr" &&
        field nvmet 6 >"$nvmet/ports/1/addr_trsvcid" &&
        echo "$2" >"$nvmet/ports/1/param_inline_data_size" &&
        ln -s "$subsystem" "$nvmet/ports/1/subsystems/"
}

nvmet_down() {
    local nqn
    nqn=$(nqn_of nvmet)
    rm -f "$nvmet/ports/1/subsystems/$nqn"
    rmdir "$nvmet/ports/1" "$nvmet/subsystems/$nqn/namespaces/1" "$nvmet/subsystems/$nqn"
}

# sidelane_config TARGET BACKEND IN_CAPSULE
sidelane_config() {
    local backend='{ kind = "null", size = "1 GiB", block = 4096 }' address
    if [[ $2 == ssd ]]; then
        address=$(lab-ssd bind "$(field "$1" 7)") || return
        backend="{ kind = \"nvme\", device = \"$address\", nsid = 1 }"
    fi
    # p2p off: nvmet has no peer memory here either, so both take payload through host memory.
    cat <<END
[target]
control = "/run/sidelane-$1.sock"
cores = [$target_cpu]
flush = "$([[ $1 == *-flush ]] && echo always || echo auto)"
[[listener]]
id = "$1"
nic = "${1%-*}"
address = "$(field "$1" 5)"
port = $(field "$1" 6)
[[subsystem]]
nqn = "$(nqn_of "$1")"
in_capsule = $3
allow_any_host = true
[[subsystem.namespace]]
nsid = 1
backend = $backend
p2p = "off"
END
}

sidelane_up() {
    local config=$share/$1.toml socket=/run/sidelane-$1.sock space tries
    space=$(field "$1" 4)
    local -a within=()
    [[ $space == - ]] || within=(ip netns exec "$space")
    sidelane_config "$@" >"$config" || return
    # First whether it would: a kind of NIC that this build does not have is said here, in one message.
    "${within[@]}" sidelane check --config "$config" || return
    "${within[@]}" sidelane --log info serve --config "$config" {never}<&- &
    pids[$1]=$!
    for ((tries = 0; tries < 150; tries++)); do
        [[ ! -S $socket ]] || return 0
        kill -0 "${pids[$1]}" || return
        nap 0.2
    done
    echo "it did not listen within 30 s"
    return 1
}

sidelane_down() {
    local pid=${pids[$1]-} tries
    [[ -n $pid ]] || return 0
    unset "pids[$1]"
    kill -TERM "$pid" || true
    for ((tries = 0; tries < 150; tries++)); do
        kill -0 "$pid" 2>/dev/null || break
        nap 0.2
    done
    # One that does not end in 30 s must not keep the others from being measured.
    kill -KILL "$pid" 2>/dev/null && echo "it had to be killed"
    wait "$pid" || echo "it ended with status $?"
    rm -f "/run/sidelane-$1.sock"
}

# connect TARGET: returns when the host has the disk.
connect() {
    local tries disk nqn
    nqn=$(nqn_of "$1")
    timeout 60 nvme connect -t rdma -a "$(field "$1" 5)" -s "$(field "$1" 6)" -n "$nqn" || return
    for ((tries = 0; tries < 100; tries++)); do
        if disk=$(disk_of "$nqn") && [[ -b $disk ]]; then
            disks[$1]=$disk
            # udev's own looks at the new disk are not to be measured.
            udevadm settle
            return 0
        fi
        nap 0.1
    done
    echo "the host got no disk of $nqn within 10 s"
    return 1
}

disconnect() {
    udevadm settle
    timeout 60 nvme disconnect -n "$(nqn_of "$1")"
}

# fill TARGET: writes what the measurements will use, and warms the way.
fill() { timeout 120 dd if=/dev/zero of="${disks[$1]}" bs=1M count="${span%m}" oflag=direct; }

# last_words FILE: the message in what a program said, without its journal of start-up.
last_words() { { grep -m 1 -i error "$1" || tail -n 1 "$1"; } | tr -d '\033' | cut -c 1-300; }

# absent TARGET BACKEND IN_CAPSULE WHY
absent() {
    say "  without $1: $4"
    jq -nc --arg target "$1" --arg backend "$2" --argjson in_capsule "$3" --arg why "$4" \
        '{kind: "absent", $target, $backend, $in_capsule, $why}'
}

# sample TARGET: sets `now` to four figures: microseconds of the clock; commands that the host's disk has ended;
# microseconds that all of the guest's CPUs were busy; nanoseconds that the target's process ran (0 without one).
sample() {
    local user nice system irq softirq steal reads writes file ran process=0
    read -r _ user nice system _ _ irq softirq steal _ </proc/stat
    [[ -z ${disks[$1]-} ]] || read -r reads _ _ _ writes _ <"/sys/class/block/${disks[$1]##*/}/stat"
    if [[ -n ${pids[$1]-} ]]; then
        # What utime and stime are made of, without their ticks of 10 ms.
        for file in "/proc/${pids[$1]}/task/"*/schedstat; do
            read -r ran _ <"$file" && process=$((process + ran))
        done
    fi
    now=("${EPOCHREALTIME/./}" "$((${reads:-0} + ${writes:-0}))"
        "$(((user + nice + system + irq + softirq + steal) * 10000))" "$process")
}

# spent TARGET: what lies between the samples `before` and `now`, as JSON.
spent() {
    local process=null
    [[ -z ${pids[$1]-} ]] || process=$((now[3] - before[3]))
    echo "{\"us\":$((now[0] - before[0])),\"commands\":$((now[1] - before[1])),\"busy_us\":$((now[2] - before[2])),\
\"process_ns\":$process}"
}

# idle TARGET: what a connected host costs that asks for nothing; `none` is the guest with all targets unconnected.
idle() {
    local now before
    nap 1
    sample "$1"
    before=("${now[@]}")
    nap "$idle_s"
    sample "$1"
    echo "{\"kind\":\"idle\",\"target\":\"$1\",\"spent\":$(spent "$1")}"
}

# measure TARGET: one short run of fio, from the variables of the loop around it.
measure() {
    local name=$1 out=$log/fio disk=${disks[$1]} fio first now before spent=null tries status=0
    sample "$name"
    first=${now[1]}
    timeout -k 5 60 fio --name=run --filename="$disk" --direct=1 --ioengine=libaio --rw="$rw" --bs="$block" \
        --iodepth="$depth" --size="$span" --time_based --runtime="${run_ms}ms" --ramp_time="${ramp_ms}ms" \
        --cpus_allowed="$host_cpu" --disk_util=0 --output-format=json --output="$out" 2>"$out-errors" {never}<&- &
    fio=$!
    # From the first commands on: fio's start costs as much as many commands do.
    for ((tries = 0; tries < 400; tries++)); do
        sample "$name"
        ((now[1] < first + 2 * depth)) || break
        nap 0.05
    done
    before=("${now[@]}")
    nap "$((run_ms / 1000)).$(printf %03d $((run_ms % 1000)))"
    if kill -0 "$fio" 2>/dev/null; then
        sample "$name"
        ((now[1] <= before[1])) || spent=$(spent "$name")
    fi
    wait "$fio" || status=$?
    if ((status != 0)) || ! jq -c --arg target "$name" --arg backend "$backend" --argjson in_capsule "$in_capsule" \
        --arg rw "${rw#rand}" --argjson block "$block" --argjson depth "$depth" --argjson round "$round" \
        --argjson spent "$spent" '.jobs[0] as $job | $job[$rw] as $way | if $job.error == 0 and $way.iops > 0 then
            {kind: "run", $target, $backend, $in_capsule, $rw, $block, $depth, $round, iops: $way.iops,
             p50_us: ($way.clat_ns.percentile["50.000000"] / 1000), p99_us: ($way.clat_ns.percentile["99.000000"] / 1000),
             $spent} else error("fio says error \($job.error)") end' "$out" 2>>"$out-errors"; then
        jq -nc --arg target "$name" --arg backend "$backend" --argjson in_capsule "$in_capsule" \
            --arg rw "${rw#rand}" --argjson block "$block" --argjson depth "$depth" --argjson round "$round" \
            --arg why "status $status: $(tail -n 1 "$out-errors" | cut -c 1-300)" \
            '{kind: "failed", $target, $backend, $in_capsule, $rw, $block, $depth, $round, $why}'
    fi
}
