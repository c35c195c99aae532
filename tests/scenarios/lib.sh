# Shared by the scenarios, which run in the lab's guest with the test's folder as /share.
# Each step prints one line, "ok - NAME" or "not ok - NAME", and what a step printed is in /share/log/NAME.
# shellcheck shell=bash disable=SC2034


share=/share
log=$share/log
config=$share/sidelane.toml
control=/run/sidelane.sock
address=192.168.77.2
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
        tail -n 25 "$log/$name" | sed 's/^/#   /'
        failed=1
    fi
}

# target_start [ARGUMENT...]: the target in namespace tgt; returns when it listens.
target_start() {
    ip netns exec tgt sidelane --log info serve --config "$config" "$@" >"$log/target" 2>&1 &
    target=$!
    local tries
    for tries in $(seq 1 150); do
        [[ -S $control ]] && return 0
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
    wait "$target"
}

# attach NQN [ARGUMENT...]: connects and waits for the disk; prints it.
attach() {
    local nqn=$1 disk tries
    shift
    nvme connect -t rdma -a "$address" -s 4420 -n "$nqn" "$@" >/dev/null || return
    for tries in $(seq 1 100); do
        disk=$(disk_of "$nqn") && [[ -b $disk ]] && echo "$disk" && return 0
        sleep 0.1
    done
    echo "no disk of $nqn after $tries tries" >&2
    return 1
}

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

# controller_of NQN: the character device of a connected subsystem's controller.
controller_of() {
    local controller
    for controller in /sys/class/nvme/nvme*; do
        [[ $(<"$controller/subsysnqn") == "$1" && $(<"$controller/transport") == rdma ]] &&
            echo "/dev/${controller##*/}" && return 0
    done
    return 1
}

# kernel_is_silent: nothing from the nvme and rdma modules that is a warning or worse.
kernel_is_silent() {
    ! dmesg --level=emerg,alert,crit,err,warn | grep -iE 'nvme|rdma|rxe|bogus'
}
