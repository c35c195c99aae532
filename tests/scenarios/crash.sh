# Hosts and targets that fail, and how it is told what that did: what the crash scenarios share. It comes after lib.sh.
# shellcheck shell=bash disable=SC2154,SC2034

# A host that is to outlive everything, and soon to notice.
patience=(--reconnect-delay 1 --ctrl-loss-tmo 600 --keep-alive-tmo 5 --nr-io-queues 4)
# What a storm asks of a target.
hard=(--bsrange=4k-128k --iodepth=16)

# begin: of a fault. took FAULT: its end, noted for whoever tells of it afterwards.
fault_began=
begin() { fault_began=${EPOCHREALTIME/[.,]/}; }
took() { echo "$(((${EPOCHREALTIME/[.,]/} - fault_began) / 1000)) $*" >>"$share/took"; }

# target_dies SIGNAL
target_dies() {
    kill -"$1" "$target"
    wait "$target" 2>/dev/null
    true
}

# is_known NQN HOST: the target has a controller of that host.
is_known() { cntlid_of "$@" >/dev/null 2>&1; }

# reconnects CONTROLLER NUMBER: how often the host came back, which is no less; where a machine is very slow, more.
reconnects() {
    local count
    count=$(dmesg | grep -c "nvme ${1##*/}: Successfully reconnected")
    echo "$count"
    ((count >= $2))
}

# read_all STORM DISK: reads what each round of a storm has written. That needs rounds that lie side by side.
read_all() {
    local name=$1 disk=$2
    cat >"/tmp/$name.fio" <<END
[global]
filename=$disk
allow_file_create=0
direct=1
ioengine=libaio
rw=randwrite
verify=crc32c
verify_only=1
verify_fatal=1
thread=1
END
    local round
    for round in $(seq "$(wc -l <"/tmp/$name.begun")"); do
        printf '[round-%s]\nstonewall\n' "$round"
        round_of "$round" | sed 's/^--//'
        printf '%s\n' "${hard[@]#--}"
    done >>"/tmp/$name.fio"
    timeout 300 fio --group_reporting "/tmp/$name.fio"
}

# on_the_ssd SERIAL STORM: the same, by the kernel's own driver.
on_the_ssd() {
    local disk
    disk=$(lab-ssd release "$1") || return
    read_all "$2" "${disk##* }"
}

# sequence DISK: writes one block after the other, many at a time, each noted when the target has acknowledged it.
sequence() {
    sequences=$((${sequences-0} + 1))
    rm -f /tmp/sequence*
    timeout 120 fio --name=sequence --filename="$1" --allow_file_create=0 --direct=1 --ioengine=libaio --iodepth=16 \
        --rw=write --bs="$sequence_bytes" --size=100m --offset="$((sequences * 100))m" --verify=crc32c --do_verify=0 \
        --write_lat_log=/tmp/sequence --log_offset=1 >"$log/sequence-$sequences" 2>&1 &
    sequence=$!
    # Nothing says when the first block is written; that it is not over yet can be seen.
    sleep 1 && kill -0 "$sequence"
}
sequence_bytes=16384

# sequence_breaks: its disk has gone.
sequence_breaks() {
    timeout 60 tail --pid="$sequence" -f /dev/null && ! wait "$sequence"
}

# sequence_is_there DISK: all that was acknowledged, but for what comes after a gap of some that were not.
sequence_is_there() {
    local first=$((sequences * 100 << 20)) count
    count=$(cut -d, -f 5 /tmp/sequence_clat.1.log | sort -n |
        awk -v next_one="$first" -v bytes="$sequence_bytes" '$1 == next_one { count++; next_one += bytes } END { print count + 0 }')
    echo "$count blocks in one piece, of $(wc -l </tmp/sequence_clat.1.log) that were acknowledged"
    ((count > 16)) || return
    timeout 180 fio --name=sequence --filename="$1" --allow_file_create=0 --direct=1 --ioengine=libaio --iodepth=8 \
        --rw=read --bs="$sequence_bytes" --offset="$first" --size="$((count * sequence_bytes))" \
        --verify=crc32c --verify_fatal=1
}
