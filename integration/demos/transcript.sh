# What the scripts that make transcripts share: sourced, by a script that says in $demo where its
# logs lie.

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

say() {
    printf '\n# %s\n' "$*"
}

# Prints a command as a person would type it, then runs it. A failure is part of the story.
show() {
    local code=0
    echo "\$ $*"
    "$@" || code=$?
    ((code == 0)) || echo "(exit code $code)"
}

# Waits for a command to succeed, up to $patience seconds, or ten.
await() {
    local try
    for ((try = 0; try < ${patience:-10} * 20; try++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    die "waited in vain for: $*; see the logs in $demo"
}
