# shellcheck shell=bash
# shellcheck disable=SC2154  # vm joins the parts
# The image the guest boots: found in the cache, or built there by image/build.
#
# It lives outside the checkout, under a key made of all that decides its content, and is put there by rename: what
# carries the final name is whole.

lab_cache=${SIDELANE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sidelane}/lab

# lab_image: sets `image` to a folder with disk, kernel and initramfs.
lab_image() {
    local key lock
    # One line a file, name and content, so that a rename counts as well.
    key=$(cd "$lab/image" && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c 1-16)
    image=$lab_cache/$key
    mkdir -p "$lab_cache"
    if [[ ! -e $image/disk ]]; then
        exec {lock}>"$lab_cache/$key.lock"
        flock -n "$lock" || {
            say "another process is building the lab's image; waiting for it"
            flock "$lock"
        }
        [[ -e $image/disk ]] || build_image "$image" "$lock"
        exec {lock}>&-
    fi
    # Two weeks without a boot and an image makes room for others.
    touch "$image" 2>/dev/null || true # somebody else may own it
    find "$lab_cache" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} + 2>/dev/null || true
}

build_image() {
    local final=$1 lock=$2 mirror tool began=$SECONDS
    # Not local: the trap below needs it after this function has gone.
    as_root=()
    for tool in debootstrap mke2fs cpio busybox xz zstd; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$tool" >/dev/null ||
            fail "the lab's image cannot be built" "$tool is missing" "scripts/setup test"
    done
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            fail "the lab's image cannot be built" "debootstrap has to be root, this is not, and there is no sudo" \
                "run 'tests/lab/vm image' once as root with SIDELANE_CACHE=${lab_cache%/lab}"
        as_root=(sudo)
    fi
    mirror=$("$lab/lib/mirror") || exit 1

    # Not $(mktemp) in /tmp: the rename at the end must stay within one filesystem.
    build=$(mktemp -d "$lab_cache/build.XXXXXX")
    chmod 755 "$build"
    trap '"${as_root[@]}" rm -rf "$build"' EXIT
    say "building the lab's image, once; it goes to $final"
    # The lock is not handed down: a stray child must not hold it for ever.
    PATH=$PATH:/usr/sbin:/sbin "${as_root[@]}" unshare --mount --propagation private --pid --fork --kill-child \
        --mount-proc "$lab/image/build" "$mirror" "$build" {lock}>&- ||
        fail "the lab's image could not be built" "the last step above failed" \
            "see that the machine's Debian mirror offers trixie and trixie-backports, or set LAB_DEBIAN_MIRROR"
    rm -rf "$final"
    mv "$build" "$final"
    trap - EXIT
    say "the lab's image is ready after $((SECONDS - began)) s"
}
