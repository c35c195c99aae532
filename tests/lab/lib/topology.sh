# shellcheck shell=bash
# shellcheck disable=SC2154  # vm joins the parts
# The words that topology files are written in. Each adds to `devices` what QEMU needs; ids are the names given here,
# so that a test can say `device_del cmb0` over QMP.
#
#   root_port ID                     a PCIe root port
#   switch ID ROOT_PORT PORT...      a switch below it, with downstream ports
#   ssd SERIAL PORT [cmb=MIB] [pmr=MIB] [ns=BYTES...] [OPTION=VALUE...]
#                                    an NVMe SSD of 1 GiB with a disk of its own; other options go to QEMU's nvme. With
#                                    ns= it has, instead, a namespace of 1 GiB with blocks of so many bytes for each
#   ivshmem ID PORT MIB              a function that is nothing but memory, in BAR 2
#
# Bus numbers follow the order of the root ports in the file.

devices=()
root_ports=0
chassis=0

root_port() {
    # A fixed slot per port: the bus numbers of the topology must not depend on what else sits on the root bus.
    devices+=(-device "pcie-root-port,id=$1,bus=pcie.0,addr=$(printf '0x%x' $((0x10 + root_ports))),chassis=$((++chassis)),slot=$chassis")
    root_ports=$((root_ports + 1))
}

switch() {
    local id=$1 above=$2 port
    shift 2
    devices+=(-device "x3130-upstream,id=$id,bus=$above")
    for port; do
        devices+=(-device "xio3130-downstream,id=$port,bus=$id,chassis=$((++chassis)),slot=$chassis")
    done
}

# disk ID: sparse, and gone with the run: what a test writes stays its own.
disk() {
    truncate -s 1G "$run_dir/$1"
    devices+=(-drive "id=$1,if=none,file=$run_dir/$1,format=raw,cache=unsafe,discard=unmap")
}

ssd() {
    local serial=$1 port=$2 option nsid
    shift 2
    local nvme=nvme,id=$serial,serial=$serial,bus=$port
    local -a block_bytes=()
    for option; do
        case $option in
        ns=*) block_bytes+=("${option#*=}") ;;
        cmb=*) nvme+=,cmb_size_mb=${option#*=} ;;
        pmr=*)
            devices+=(-object "memory-backend-ram,id=$serial-pmr,size=${option#*=}M,share=on")
            nvme+=,pmrdev=$serial-pmr
            ;;
        *) nvme+=,$option ;;
        esac
    done
    if ((!${#block_bytes[@]})); then
        disk "$serial-disk"
        devices+=(-device "$nvme,drive=$serial-disk")
        return
    fi
    devices+=(-device "$nvme")
    for nsid in $(seq "${#block_bytes[@]}"); do
        disk "$serial-disk-$nsid"
        nvme=nvme-ns,bus=$serial,nsid=$nsid,drive=$serial-disk-$nsid
        devices+=(-device "$nvme,logical_block_size=${block_bytes[nsid - 1]},physical_block_size=${block_bytes[nsid - 1]}")
    done
}

ivshmem() {
    devices+=(
        -object "memory-backend-ram,id=$1-memory,size=$3M,share=on"
        -device "ivshmem-plain,id=$1,bus=$2,memdev=$1-memory"
    )
}

# The first comment of a topology file is its description.
list_topologies() {
    local file
    for file in "$lab"/topology/*; do
        printf '%-10s %s\n' "${file##*/}" "$(sed -n '/^# shellcheck/d; s/^# //p' "$file" | sed -n 1p)"
    done
}

load_topology() {
    local file=$lab/topology/$1
    [[ $1 != */* && -f $file ]] ||
        fail "there is no topology '$1'" "no such file in tests/lab/topology" "choose one of: $(cd "$lab/topology" && echo *)"
    # shellcheck source=/dev/null
    source "$file"
}
