# shellcheck shell=bash
# shellcheck disable=SC2034,SC2054,SC2154  # vm joins the parts; QEMU's options hold commas
# KVM or software emulation?
#
# /dev/kvm may be there and still not be able to run a stock kernel (nested virtualisation that lacks a feature), so
# KVM is only used once this very machine and kernel have been seen to boot under it. The verdict holds until the
# host boots anew.

machine=(
    # Without the SATA and SMBus controllers: nothing is on them, and the guest would take a second to see that.
    -M q35,kernel-irqchip=split,sata=off,smbus=off -cpu max -smp 2 -m 3G
    -nodefaults -no-user-config -display none -no-reboot
    # aw-bits=48: with 39, the default of QEMU 7, the BARs of the SSDs are out of the IOMMU's reach.
    -device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on,aw-bits=48
)

# lab_accel: sets `accel` to QEMU's options. LAB_ACCEL=kvm or LAB_ACCEL=tcg overrules the probe.
lab_accel() {
    case ${LAB_ACCEL:-$(kvm_verdict)} in
    kvm) accel=(-accel kvm) ;;
    # One thread: with one per CPU, which is no faster here, guests were seen to lose timer interrupts, to oops where
    # the kernel patches its own code, and to reset, once in some tens of runs.
    tcg) accel=(-accel tcg,thread=single) ;;
    *) fail "LAB_ACCEL is '$LAB_ACCEL'" "QEMU is run with one of two accelerators here" "set it to kvm or tcg" ;;
    esac
}

kvm_verdict() {
    [[ -r /dev/kvm && -w /dev/kvm ]] || {
        echo tcg
        return
    }
    local verdict console answer=tcg
    verdict=$lab_cache/kvm-verdict-${image##*/}-$(</proc/sys/kernel/random/boot_id)
    if [[ ! -s $verdict ]]; then
        rm -f "$lab_cache"/kvm-verdict-*
        say "trying a boot under KVM (once per boot of this machine)"
        console=$(timeout --foreground 20 setpriv --pdeathsig KILL qemu-system-x86_64 -accel kvm "${machine[@]}" \
            -kernel "$image/kernel" -initrd "$image/initramfs" \
            -append 'console=ttyS0 quiet panic=-1 lab.probe' -serial stdio </dev/null 2>/dev/null) || true
        [[ $console == *lab-probe-ok* ]] && answer=kvm
        # By rename, for runs that start side by side.
        echo "$answer" >"$verdict.$BASHPID"
        mv "$verdict.$BASHPID" "$verdict"
        say "from now on: $(<"$verdict")"
    fi
    cat "$verdict"
}
