# What the demonstration and the tests share: a check prints one line, `ok NAME` or `FAIL NAME: why`, and
# `done_checks` leaves the counts for the line by which the host knows that all of them ran.

passed=0
failed=0

ok() {
    passed=$((passed + 1))
    echo "ok $1"
}

fail() {
    failed=$((failed + 1))
    echo "FAIL $1: $2"
}

# same NAME FOUND EXPECTED
same() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        fail "$1" "found '$2', expected '$3'"
    fi
}

# says NAME STATUS STDOUT STDERR COMMAND...: runs the command and compares all three.
says() {
    name=$1 status=$2 out=$3 err=$4
    shift 4
    found_out=$("$@" 2>/tmp/err)
    found_status=$?
    found_err=$(cat /tmp/err)
    if [ "$found_status" = "$status" ] && [ "$found_out" = "$out" ] && [ "$found_err" = "$err" ]; then
        ok "$name"
    else
        fail "$name" "status $found_status, out '$found_out', err '$found_err'; expected $status, '$out', '$err'"
    fi
}

# exact NAME VALUE COMMAND...: runs the command, which must succeed and say the value, a newline, and not a byte more.
exact() {
    name=$1
    printf '%s\n' "$2" >/tmp/expected
    shift 2
    "$@" >/tmp/out 2>/tmp/err
    found_status=$?
    if [ "$found_status" = 0 ] && cmp -s /tmp/out /tmp/expected && [ ! -s /tmp/err ]; then
        ok "$name"
    else
        fail "$name" "status $found_status, $(wc -c </tmp/out) bytes of $(wc -c </tmp/expected), err '$(head -c 200 /tmp/err)'"
    fi
}

done_checks() {
    echo "$passed $failed" >>/tmp/counts
    [ "$failed" = 0 ]
}

# as COMMAND...: runs the command as the user $who.
as() {
    if [ "$who" = root ]; then
        "$@"
    else
        su "$who" -c 'exec "$@"' -- sh "$@"
    fi
}

# option NAME DEFAULT: the value of portcullis.NAME on the kernel's command line.
option() {
    value=$2
    for word in $(cat /proc/cmdline); do
        case $word in
            "portcullis.$1="*) value=${word#*=} ;;
        esac
    done
    echo "$value"
}

# Seconds since the start, with two decimals, by the monotonic clock.
uptime_seconds() {
    cut -d ' ' -f 1 /proc/uptime
}

# count_of NAME: interrupts of that line of /proc/interrupts, over all processors.
count_of() {
    awk -v "name=$1" '$1 == name ":" || $NF == name { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i }
        END { print sum + 0 }' /proc/interrupts
}
