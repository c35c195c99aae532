# shellcheck shell=bash
# What the scripts say to a person: all of it on stderr, because stdout belongs to whoever called them.

say() { printf '%s: %s\n' "${SAY_AS:-${0##*/}}" "$*" >&2; }

# fail WHAT WHY REMEDY: each on a line of its own, so that none of the three is forgotten.
fail() {
    say "$1"
    [[ -z ${2-} ]] || printf '  why:    %s\n' "$2" >&2
    [[ -z ${3-} ]] || printf '  remedy: %s\n' "$3" >&2
    exit "${FAIL_STATUS:-1}"
}

# step LOG TITLE COMMAND...: runs a long command with its output in LOG, and shows that it is alive: a line every
# 15 s with the last thing it did. When it fails, the end of LOG is printed and its status returned.
step() {
    local log=$1 title=$2 began=$SECONDS status=0 beat
    shift 2
    say "$title"
    # The read waits on a pipe that nothing is ever written to: a sleep that leaves no child behind when it is killed.
    # >&2, so that the heartbeat never holds open a stdout which a caller is reading to its end.
    (while :; do
        read -r -t 15 <> <(:) || true
        say "  ... $((SECONDS - began)) s: $(tail -n 1 "$log" 2>/dev/null | cut -c 1-100)"
    done) >&2 &
    beat=$!
    "$@" >>"$log" 2>&1 </dev/null || status=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    if ((status != 0)); then
        say "  failed with status $status; the end of $log:"
        tail -n 15 "$log" | sed 's/^/  | /' >&2
        return "$status"
    fi
    say "  done in $((SECONDS - began)) s"
}
