# shellcheck shell=bash
# shellcheck disable=SC2054,SC2154  # QEMU's options hold commas; vm joins the parts
# One run of the machine: its folder, its QEMU, its end.
#
# Everything of a run lives in a folder of its own, and nothing has a fixed port, so any number may run at once. QEMU
# dies with this script, even when that is killed outright (setpriv --pdeathsig).

run_dir=
qemu_pid=
clock=
boot_clock=
readers=()

# new_run_dir: sets `run_dir`. It holds a lock for as long as the run or its QEMU lives; a folder without an owner was
# left by a run that was killed, and goes.
new_run_dir() {
    local dir fd gate
    # One at a time: between making a folder and locking it, another run would take it for abandoned.
    exec {gate}<"${TMPDIR:-/tmp}"
    flock "$gate"
    for dir in "${TMPDIR:-/tmp}"/sidelane-lab.*; do
        [[ -O $dir/lock ]] || continue
        exec {fd}<"$dir/lock"
        ! flock -n "$fd" || rm -rf "$dir"
        exec {fd}<&-
    done
    run_dir=$(mktemp -d "${TMPDIR:-/tmp}/sidelane-lab.XXXXXX")
    exec {run_lock}>"$run_dir/lock"
    flock "$run_lock"
    exec {gate}<&-
    mkdir "$run_dir/run" "$run_dir/bin"
    : >"$run_dir/run/stdout"
    : >"$run_dir/run/stderr"
    trap end_run EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Only by the ids that this run has started.
end_run() {
    local pid
    set +e
    for pid in $qemu_pid $clock $boot_clock "${readers[@]}"; do
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    [[ -z ${qmp-} ]] || rm -f "$qmp"
    rm -rf "$run_dir"
}

# The binary under test, copied: a rebuild during the run must not pull it from under the guest.
lend_sidelane() {
    local candidate
    if [[ -n ${SIDELANE_BIN-} ]]; then
        [[ -x $SIDELANE_BIN ]] ||
            fail "SIDELANE_BIN is '$SIDELANE_BIN'" "there is no program of that name" "build it, or unset SIDELANE_BIN"
        cp --reflink=auto "$SIDELANE_BIN" "$run_dir/bin/sidelane"
        return
    fi
    for candidate in "$lab"/../../.build/{release,debug}/sidelane; do
        [[ ! -x $candidate ]] || {
            cp --reflink=auto "$candidate" "$run_dir/bin/sidelane"
            return
        }
    done
}

# lend NAME DIR [OPTION]: a folder of the host that the guest mounts by NAME.
lend() {
    qemu+=(
        -fsdev "local,id=$1,path=$2,security_model=none,multidevs=remap${3-}"
        -device "virtio-9p-pci,fsdev=$1,mount_tag=$1"
    )
}

# start_qemu OPTION...: boots the image with `devices`, in the background. Input, if any, is that of this script.
start_qemu() {
    local -a qemu=(
        qemu-system-x86_64 -name "sidelane-lab,process=sidelane-lab" "${accel[@]}" "${machine[@]}"
        -kernel "$image/kernel" -initrd "$image/initramfs"
        # panic=-1 with -no-reboot: a panic ends QEMU at once. oops=panic: after an oops nothing that a test sees can be
        # relied on. loglevel=5: warnings are worth the console's time.
        # no_timer_check: on a busy host an emulated CPU may get no tick while the kernel looks for one, which it takes
        # for broken hardware ("timer doesn't work through Interrupt-remapped IO-APIC").
        -append "console=ttyS0 loglevel=5 panic=-1 oops=panic intel_iommu=on iommu=pt mitigations=off no_timer_check"
        -chardev "file,id=console,path=$run_dir/console" -serial chardev:console
        -drive "if=none,id=root,file=$image/disk,format=raw,snapshot=on,cache=unsafe"
        -device virtio-blk-pci,drive=root
    )
    lend lab "$lab/guest" ,readonly=on
    lend run "$run_dir/run"
    lend bin "$run_dir/bin" ,readonly=on
    if [[ -n $share ]]; then
        lend share "$share"
        : >"$run_dir/run/share"
    fi
    [[ -z $qmp ]] || qemu+=(-qmp "unix:$qmp,server=on,wait=off")
    setpriv --pdeathsig KILL "${qemu[@]}" "${devices[@]}" "$@" <&0 2>"$run_dir/qemu.log" &
    qemu_pid=$!
}

# follow FILE: copies it to stdout as it grows, until QEMU has gone.
follow() {
    setpriv --pdeathsig KILL tail -c +1 -s 0.05 --follow=descriptor --pid="$qemu_pid" "$run_dir/run/$1" &
    readers+=("$!")
}

# lab_failed STATUS WHAT WHY REMEDY: the machine failed, not the command. Its last words are shown, and kept.
lab_failed() {
    local kept
    kept=$lab/../../.build/lab
    mkdir -p "$kept" 2>/dev/null && kept=$(cd "$kept" && pwd) || kept=${TMPDIR:-/tmp}
    kept=$kept/console-$(date +%Y%m%dT%H%M%S)-$$.log
    {
        cat "$run_dir/console"
        [[ ! -s $run_dir/qemu.log ]] || sed 's/^/qemu: /' "$run_dir/qemu.log"
    } >"$kept" 2>/dev/null
    say "the end of the guest's console (all of it: $kept):"
    tail -n 60 "$kept" | tr -d '\r' | sed 's/^/  | /' >&2
    FAIL_STATUS=$1 fail "${@:2}"
}
