# The link between the host and `tgt` in bad weather: what the interop scenarios share. It comes after lib.sh.
# shellcheck shell=bash disable=SC2154

# Room for all packets that may be under way: only what the weather takes is to be lost.
netem=(root netem limit 100000)

# link_mtu BYTES: of both ends. 1500 leaves RoCE a path MTU of 1024, 4200 one of 4096.
link_mtu() {
    ip link set v0 mtu "$1" && ip -n tgt link set v1 mtu "$1" && sleep 0.5 &&
        ibv_devinfo -d rxe0 | grep -E "active_mtu:.*$((${1} < 4200 ? 1024 : 4096))"
}

# weather NAME NETEM...: from now on, in both directions, as `man tc-netem` has it.
weather() {
    echo "weather $1 begins" >/dev/kmsg
    began=${EPOCHREALTIME/./}
    shift
    tc qdisc add dev v0 "${netem[@]}" "$@" && ip netns exec tgt tc qdisc add dev v1 "${netem[@]}" "$@"
}

# fair_weather NAME: it is over, and what netem still held is lost with it; what it did is noted.
fair_weather() {
    note "$1" us "$((${EPOCHREALTIME/./} - began))"
    note "$1" weather "$({ tc -j -s qdisc show dev v0 && ip netns exec tgt tc -j -s qdisc show dev v1; } |
        jq -cs 'flatten | map(select(.kind == "netem")) | {packets: (map(.packets) | add), dropped: (map(.drops) | add)}')"
    note "$1" rxe "$(rdma -j statistic show link rxe0/1 | jq -c '.[0] | del(.ifindex, .ifname, .port)')"
    note "$1" kernel_lost "$(dmesg | sed -n "/weather $1 begins/,\$p" | grep -cE 'starting error recovery|controller.*fatal')"
    tc qdisc del dev v0 root
    ip netns exec tgt tc qdisc del dev v1 root
}

# note CASE KEY JSON: for whoever judges it afterwards.
note() { jq -nc --arg case "$1" --arg key "$2" --argjson value "$3" '{$case, $key, $value}' >>"$share/weathers"; }
