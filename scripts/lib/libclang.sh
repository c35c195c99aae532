# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # what is said below of scratch and log, and what libclang_choose sets
# The libclang that rdma-sys is built with: what fits, where to look, how to fetch one, and the link to it.
#
# The build script of rdma-sys reads the C headers of rdma-core with bindgen 0.59, by libclang. From 16 on, libclang
# gives C types without a name one in words ("union (anonymous at ...)"), and bindgen 0.59 panics on it; left alone it
# takes the newest libclang of the machine. So .cargo/config.toml points it to the folder libclang/ beside this file,
# where set-up links one that fits. `make libclang-matrix` shows that what is said here is so.
#
# Whoever joins this in sets `scratch`, a folder that is thrown away, and `log`, and has lib/say.sh of the lab.

libclang_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libclang_folder=$libclang_here/libclang
libclang_majors=(14 15)
libclang_takes='14 or 15'
# The folder itself is nobody's own setting, though cargo hands it to what it runs.
[[ ${LIBCLANG_PATH-} != "$libclang_folder"* ]] || unset LIBCLANG_PATH
[[ -z ${LIBCLANG_PATH-} ]] || LIBCLANG_PATH=$(realpath -s "$LIBCLANG_PATH")
# The same library from the package index that pip is set up for; the hashes are those of x86-64 and of arm64.
libclang_wheel_version=14.0.6
libclang_wheel_hashes=(
    206d2789e4450a37d054e63b70451a6fc1873466397443fa13de2b3d4adb2796
    e2add1703129b2abe066fb1890afa880870a89fd6ab4ec5d2a7a8dc8d271677e
)

# libclang_prepare: what libclang_version asks with. Before all else that is here.
libclang_prepare() {
    command -v gcc >/dev/null || fail "cannot ask a libclang for its version" "there is no gcc" "scripts/setup build"
    gcc -o "$scratch/libclang-version" "$libclang_here/libclang-version.c" -ldl
}

# libclang_version FILE: its version, by its own word: neither the name of a file nor that of a package proves it.
libclang_version() {
    local said
    said=$(timeout 60 "$scratch/libclang-version" "$1" 2>>"$log") || return 1
    [[ $said =~ version\ ([0-9]+(\.[0-9]+)*) ]] && printf '%s\n' "${BASH_REMATCH[1]}"
}

# libclang_fits VERSION
libclang_fits() {
    [[ " ${libclang_majors[*]} " == *" ${1%%.*} "* ]]
}

# libclang_choose FILE...: sets `libclang` to the first that fits, and `libclang_seen` to what was passed over, in
# words.
libclang_choose() {
    local file version real
    local -A asked=()
    libclang='' libclang_seen=''
    for file in "$@"; do
        # One library often has several names.
        real=$(realpath -e "$file" 2>/dev/null) || continue
        [[ -z ${asked[$real]-} ]] || continue
        asked[$real]=1
        version=$(libclang_version "$file") || version='of no version that it tells'
        if libclang_fits "$version"; then
            libclang=$file
            return 0
        fi
        libclang_seen+="${libclang_seen:+; }$file is libclang $version"
    done
    return 1
}

# libclang_in FOLDER_OR_FILE: the files there that clang-sys would take for a libclang.
libclang_in() {
    local file
    [[ -d $1 ]] || {
        printf '%s\n' "$1"
        return
    }
    # libclang.so last: it comes and goes with the -dev package.
    for file in "$1"/libclang.so.* "$1"/libclang-*.so.* "$1"/libclang-*.so "$1"/libclang.so; do
        [[ ! -e $file || ${file##*/} == *-cpp.* ]] || printf '%s\n' "$file"
    done
}

libclang_wheel_place() {
    local cache=${SIDELANE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sidelane}
    printf '%s\n' "$cache/libclang/$libclang_wheel_version-$(uname -m)"
}

# libclang_installed: every libclang of this machine, one a line: somebody's own and the one in use first.
libclang_installed() {
    local folder
    [[ -z ${LIBCLANG_PATH-} ]] || libclang_in "$LIBCLANG_PATH"
    readlink "$libclang_folder/libclang.so" || true
    for folder in /usr/lib/llvm-*/lib /usr/lib64/llvm*/lib*; do
        [[ ! -d $folder ]] || libclang_in "$folder"
    done
    PATH=$PATH:/usr/sbin:/sbin ldconfig -p | awk '$1 ~ /^libclang(-[0-9.]+)?\.so/ { print $NF }'
    printf '%s\n' "$(libclang_wheel_place)/libclang.so"
}

# libclang_link FILE: the link that bindgen follows. By rename, for a build may be looking, and under no name that it
# would take for a library until then.
libclang_link() {
    [[ $(readlink "$libclang_folder/libclang.so" || true) != "$1" ]] || return 0
    ln -s "$1" "$libclang_folder/.link.$$"
    mv -T "$libclang_folder/.link.$$" "$libclang_folder/libclang.so"
    say "rdma-sys is built with $1, libclang $(libclang_version "$1")"
}

# Somebody's own LIBCLANG_PATH wins over .cargo/config.toml, so it has to fit.
libclang_check_own() {
    local file version
    [[ -n ${LIBCLANG_PATH-} ]] || return 0
    [[ -n $(libclang_in "$LIBCLANG_PATH") ]] ||
        fail "LIBCLANG_PATH names a place without a libclang" "there is none in $LIBCLANG_PATH" \
            "unset LIBCLANG_PATH, and set-up looks for one"
    # All of them, because clang-sys takes the newest.
    while IFS= read -r file; do
        version=$(libclang_version "$file") || version='of no version that it tells'
        libclang_fits "$version" || fail "LIBCLANG_PATH names one that rdma-sys cannot be built with" \
            "$file is libclang $version, and it takes $libclang_takes" \
            "unset LIBCLANG_PATH, and set-up looks for one; or let it name one that fits"
    done < <(libclang_in "$LIBCLANG_PATH")
}

# libclang_fetch_wheel: puts the wheel's library into the cache. Its place says its version, and it gets there by
# rename, so what is there is whole.
libclang_fetch_wheel() {
    local place work
    place=$(libclang_wheel_place)
    rm -rf "$place" # what does not fit and is there all the same
    mkdir -p "${place%/*}"
    # Not in the scratch folder: the rename must stay within one filesystem.
    work=$(mktemp -d "${place%/*}/fetch.XXXXXX")
    {
        printf 'libclang==%s' "$libclang_wheel_version"
        printf ' --hash=sha256:%s' "${libclang_wheel_hashes[@]}"
        printf '\n'
    } >"$work/requirements"
    if python3 -m pip download --no-deps --only-binary :all: --require-hashes --dest "$work" \
        --requirement "$work/requirements" &&
        python3 -m zipfile -e "$work"/libclang-*.whl "$work/wheel" &&
        mkdir "$work/whole" &&
        mv "$work"/wheel/libclang-*.data/platlib/clang/native/libclang.so \
            "$work"/wheel/libclang-*.dist-info/LICENSE.TXT "$work/whole"; then
        # Whoever was faster put the same there.
        mv -T "$work/whole" "$place" 2>/dev/null || true
    fi
    rm -rf "$work"
    [[ -e $place/libclang.so ]]
}
