#!/usr/bin/env bash
# Runs the public WebSocket conformance suite (Autobahn|Testsuite) against hi.
#
#   tests/conformance.sh               every case
#   tests/conformance.sh '1.*'         only the matching cases (or one case: 7.1.5)
#   tests/conformance.sh --without-compression   every case but 12.* and 13.*, which take most of the time
#   HI_BIN=path tests/conformance.sh   test that binary instead of building one
#
# The cases 12.* and 13.* (compression) run against a server with --compression
# on, the others against one without. Exits 0 if every case is OK or
# INFORMATIONAL, 1 if not (NON-STRICT and UNIMPLEMENTED are failures), 2 if the
# suite could not be installed or run.
#
# The suite is Python 2 code. A Python 2.7 with ssl, taken from $PYTHON2, PATH
# or pyenv (or from apt, where the distribution still has it), gets a virtualenv
# of its own under target/conformance, filled with pinned versions from PyPI.
# The reports of the last run stay in target/conformance/report/*/index.html.
set -euo pipefail

limit=900 # seconds for the cases without compression; about 20 are normal
limit_deflated=3600 # seconds for those with it; ten minutes are normal

say() { printf '%s\n' "$*"; }
die() {
    printf 'conformance: %s\n' "$*" >&2
    exit 2
}

deflated=yes
if [[ ${1:-} == --without-compression ]]; then
    deflated=no
    shift
fi
(($# <= 1)) || die "usage: $0 [CASES], for example $0 '1.*'"
cases=${1:-*}
[[ $cases =~ ^[0-9.*]+$ ]] || die "not a pattern of case numbers: $cases"
if [[ -n ${HI_BIN:-} ]]; then
    hi_bin=$(command -v -- "$HI_BIN") || die "HI_BIN: no such program: $HI_BIN"
    hi_bin=$(realpath -- "$hi_bin")
fi

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p -- "$target/conformance"
target=$(cd -- "$target" && pwd)
work=$target/conformance
venv=$work/venv

# --- the suite ---------------------------------------------------------------

virtualenv='virtualenv==20.21.1' # the last line that creates Python 2.7 environments

# What autobahntestsuite 25.10.1 asks for in its requirements.txt, less what the
# fuzzing client never imports, and with the indirect dependencies pinned too.
requirements='
autobahntestsuite==25.10.1
autobahn==0.10.9
wsaccel==0.6.2
txaio==2.1.0
Twisted==19.10.0
zope.interface==4.6.0
constantly==15.1.0
incremental==16.10.1
hyperlink==20.0.1
idna==2.10
typing==3.7.4.3
attrs==20.3.0
six==1.16.0
pyOpenSSL==19.1.0
cryptography==3.3.2
cffi==1.14.6
enum34==1.1.10
ipaddress==1.0.23
service_identity==18.1.0
pyasn1==0.4.8
pyasn1-modules==0.2.8
Jinja2==2.11.3
MarkupSafe==1.1.1
unittest2==1.1.0
traceback2==1.4.0
linecache2==1.0.0
setuptools==44.0.0
'

find_python2() {
    local candidate found
    for candidate in "${PYTHON2:-}" python2.7 python2 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        # A pyenv shim may exist without a Python behind it: ask it to run.
        [[ -n $candidate ]] || continue
        found=$("$candidate" -c 'import ctypes, ssl, sys, zlib
assert sys.version_info[:2] == (2, 7) and sys.subversion[0] == "CPython"
print(sys.executable)' 2>/dev/null) || continue
        printf '%s\n' "$found"
        return 0
    done
    return 1
}

apt_install() {
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    say "installing system packages with apt-get: $*"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        >>"$work/install.log" 2>&1
}

logged() {
    "$@" >>"$work/install.log" 2>&1 && return
    tail -n 20 "$work/install.log" >&2
    die "failed: $* (log: $work/install.log)"
}

install_suite() {
    local python2
    : >"$work/install.log"
    rm -rf -- "$venv" "$work/tool"
    if ! python2=$(find_python2); then
        apt_install python2.7 python2.7-dev || true
        python2=$(find_python2) || die "the suite needs CPython 2.7 with ssl, and there is none here
(tried \$PYTHON2, python2.7, python2, pyenv and apt). 'pyenv install 2.7.18' gives one."
    fi
    command -v cc >/dev/null || apt_install gcc libc6-dev || die "a C compiler is needed (to build wsaccel)"
    say "installing the conformance suite into $venv ($python2)"
    if ! python3 -m venv "$work/tool" >>"$work/install.log" 2>&1; then
        apt_install python3 python3-venv || true
        logged python3 -m venv --clear "$work/tool"
    fi
    logged "$work/tool/bin/pip" install --disable-pip-version-check "$virtualenv"
    logged "$work/tool/bin/virtualenv" --no-download --python "$python2" "$venv"
    printf '%s' "$requirements" >"$work/requirements.txt"
    logged "$venv/bin/pip" install --disable-pip-version-check --no-deps -r "$work/requirements.txt"
    logged "$venv/bin/wstest" --autobahnversion
    rm -rf -- "$work/tool"
    printf '%s' "$requirements" >"$venv/installed" # last: an interrupted installation is done again
}

if ! printf '%s' "$requirements" | cmp -s - "$venv/installed" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    install_suite
fi

# --- hi ----------------------------------------------------------------------

if [[ -z ${hi_bin:-} ]]; then
    cargo build --release || die "cargo build --release failed"
    hi_bin=$target/release/hi
    [[ -x $hi_bin ]] || die "the build left no $hi_bin"
fi

pid= suite=
stop_hi() {
    [[ -n $pid ]] || return 0
    kill "$pid" 2>/dev/null || true
    for ((i = 0; i < 50; i++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
}
stop_all() {
    [[ -z $suite ]] || kill "$suite" 2>/dev/null || true
    stop_hi
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start_hi OPTIONS: starts it, and sets pid and port.
start_hi() {
    "$hi_bin" --listen 127.0.0.1:0 --internal off --max-message 32m "$@" </dev/null \
        >"$report/hi.out" 2>"$report/hi.log" &
    pid=$!
    port=
    for ((i = 0; i < 100; i++)); do
        port=$(sed -nE 's#.*http://(127\.0\.0\.1|localhost):([0-9]+).*#\2#p' "$report/hi.log" | head -n 1)
        [[ -z $port ]] || return 0
        if ! kill -0 "$pid" 2>/dev/null; then
            cat "$report/hi.log" >&2
            die "$hi_bin ended before it listened"
        fi
        sleep 0.1
    done
    cat "$report/hi.log" >&2
    die "$hi_bin named no http://127.0.0.1:PORT/ on stderr within 10 seconds"
}

# --- a run -------------------------------------------------------------------

# run NAME LIMIT DEFLATED OPTIONS: runs the cases that match and are about
# compression (DEFLATED=yes) or not (no), against a hi with these options, for
# at most LIMIT seconds. Leaves the reports in report/NAME.
run() {
    local limit=$2 deflated=$3 status=0 alive=yes
    report=$work/report/$1
    # Others may run other cases at the same time.
    [[ $cases == '*' ]] || report+=-${cases//[^0-9.]/}
    rm -rf -- "$report"
    mkdir -p -- "$report"

    # Resolve the pattern here: wstest would wait forever if it matched no case.
    "$venv/bin/python" - "$cases" "$deflated" >"$report/cases" 2>"$report/cases.err" <<'PY' ||
import sys
from autobahntestsuite.fuzzing import CaseSet, Cases, CaseCategories, CaseSubCategories
known = CaseSet("hi", "Case", Cases, CaseCategories, CaseSubCategories)
chosen = known.parseSpecCases({"cases": [sys.argv[1]], "exclude-cases": []})
deflated = sys.argv[2] == "yes"
print("\n".join(c for c in chosen if c in known.CasesById and (c.split(".")[0] in ("12", "13")) == deflated))
PY
        die "cannot list the cases: $(tail -n 1 "$report/cases.err")"
    grep -q . "$report/cases" || return 0
    any=yes

    start_hi "${@:4}"
    cat >"$report/spec.json" <<JSON
{
  "outdir": "$report",
  "servers": [{"agent": "hi", "url": "ws://127.0.0.1:$port/raw/conformance"}],
  "cases": [$(sed 's/.*/"&"/' "$report/cases" | paste -sd,)],
  "exclude-cases": [],
  "exclude-agent-cases": {}
}
JSON
    say "running $(wc -l <"$report/cases") cases against ws://127.0.0.1:$port/raw/conformance ${*:4}"
    timeout "$limit" "$venv/bin/wstest" -m fuzzingclient -s "$report/spec.json" >"$report/wstest.log" 2>&1 &
    suite=$! # in the background, so that a signal ends this script at once
    wait "$suite" || status=$?
    suite=
    kill -0 "$pid" 2>/dev/null || alive=
    stop_hi
    if [[ $status != 0 || ! -f $report/index.json ]]; then
        tail -n 5 "$report/wstest.log" >&2
        ((status != 124)) || die "the suite did not end within $limit seconds"
        die "the suite failed with status $status (log: $report/wstest.log)"
    fi
    if [[ -z $alive ]]; then
        tail -n 20 "$report/hi.log" >&2
        say "hi ended during the run (log: $report/hi.log)"
    fi

    # A case without a result counts as failed: wstest stops early, and with
    # status 0, when it cannot connect any more.
    "$venv/bin/python" - "$report" "$alive" <<'PY' || failed=yes
import json, sys
report, alive = sys.argv[1:]
results = list(json.load(open(report + "/index.json")).values())
results = results[0] if results else {}
good = ("OK", "INFORMATIONAL")
passed = failed = 0
for case in open(report + "/cases").read().split():
    r = results.get(case)
    if r and r["behavior"] in good and r["behaviorClose"] in good:
        passed += 1
        continue
    failed += 1
    if r:
        why = json.load(open(report + "/" + r["reportfile"]))
        print("FAIL %s: behavior %s (%s), close %s (%s)" % (
            case, r["behavior"], why["result"], r["behaviorClose"], why["resultClose"]))
    else:
        print("FAIL %s: no result, the server could not be reached" % case)
print("%d passed, %d failed" % (passed, failed))
sys.exit(1 if failed or not alive else 0)
PY
}

any= failed=
run plain "$limit" no
[[ $deflated == no ]] || run deflated "$limit_deflated" yes --compression on
[[ -n $any ]] || die "no case matches $cases"
[[ -z $failed ]]
