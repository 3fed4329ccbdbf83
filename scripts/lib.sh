# shellcheck shell=bash
# Sourced by the other scripts: where a cluster's parameters, pids and logs are, how one of its processes is started, recognised,
# awaited and stopped, and how missing programs are installed. Cluster functions expect DATA, the absolute data directory.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PATH="$PATH:$HOME/.cargo/bin"

STOP_SECONDS_MAX=30
LOG_LINES_SHOWN=20

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# --- Installing -------------------------------------------------------------------------------------------------------------

# apt_install PACKAGE...: Debian and Ubuntu only; as root or through sudo.
apt_install() {
  local as_root=()
  command -v apt-get >/dev/null || fail "please install: $*"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || fail "please install as root: $*"
    as_root=(sudo)
  fi
  echo "installing $*"
  {
    "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  } >/dev/null || fail "could not install: $*"
}

# needs COMMAND PACKAGE: installs PACKAGE if COMMAND is absent.
needs() {
  command -v "$1" >/dev/null || apt_install "$2"
}

needs_rust() {
  command -v cargo >/dev/null || fail "needs a Rust toolchain: see https://rustup.rs"
  needs cc build-essential
}

# build PROFILE PACKAGE...: builds their programs and sets bin, the directory that they are in. MILLRACE_PROFILE names another profile of
# Cargo.toml, MILLRACE_BIN a directory with programs that are built already.
build() {
  local profile=${MILLRACE_PROFILE:-$1} folder
  shift
  if [[ -n ${MILLRACE_BIN:-} ]]; then
    bin=$(realpath -e -- "$MILLRACE_BIN") || fail "MILLRACE_BIN names no directory"
    return
  fi
  needs_rust
  folder=$profile
  if [[ $profile == dev ]]; then folder=debug; fi
  bin=$(cd "$ROOT" && realpath -m -- "${CARGO_TARGET_DIR:-target}/$folder")
  [[ -d $bin ]] || echo "building $* with profile $profile: about four minutes the first time on two cores, more for profile full" >&2
  (cd "$ROOT" && cargo build --profile "$profile" --locked --bins "${@/#/--package=}")
}

# python_of_tests: sets VENV to a Python that has what the tests import. It is made anew when the pins have changed; the copy inside says
# which ones it was made from.
python_of_tests() {
  local requirements=$ROOT/tests/requirements.txt
  VENV=$ROOT/tests/.venv
  needs python3 python3
  cmp -s "$requirements" "$VENV/requirements.txt" && return
  python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
  rm -rf "$VENV"
  python3 -m venv "$VENV"
  "$VENV/bin/pip" install --quiet -r "$requirements"
  cp "$requirements" "$VENV/requirements.txt"
}

# --- One cluster ------------------------------------------------------------------------------------------------------------

# The default belongs to the checkout, so that every script finds it from any working directory.
# shellcheck disable=SC2034
DATA_DEFAULT="$ROOT/.millrace"

# What describes a cluster; DATA/cluster.env remembers it from scripts/run for the other scripts.
port=9092 controllers=3 brokers=1 shards="" bin=""

load_cluster() {
  [[ -f $DATA/cluster.env ]] || fail "no cluster in $DATA"
  # shellcheck source=/dev/null
  source "$DATA/cluster.env"
}

# members [KIND]: prints "KIND I" for every process, or for those of one kind; controllers first.
members() {
  local i
  if [[ ${1:-controller} == controller ]]; then for ((i = 1; i <= controllers; i++)); do echo "controller $i"; done; fi
  if [[ ${1:-broker} == broker ]]; then for ((i = 1; i <= brokers; i++)); do echo "broker $i"; done; fi
}

# require_member KIND I: refuses what is no process of this cluster.
require_member() {
  [[ $1 == broker || $1 == controller ]] || fail "expected broker or controller, got '$1'"
  local count=$brokers
  if [[ $1 == controller ]]; then count=$controllers; fi
  if ! [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || (($2 > count)); then fail "the cluster in $DATA has no $1 '$2'"; fi
}

listen_address() {
  if [[ $1 == broker ]]; then echo "127.0.0.1:$((port + $2 - 1))"; else echo "127.0.0.1:$((port + 3000 + $2 - 1))"; fi
}

metrics_address() {
  if [[ $1 == broker ]]; then echo "127.0.0.1:$((port + 1000 + $2 - 1))"; else echo "127.0.0.1:$((port + 2000 + $2 - 1))"; fi
}

# running_pid KIND I: prints the pid, or fails if the process does not run. A pid file may outlive its process, and the number may
# by then belong to another program, so the command line has to name this very member's data directory.
running_pid() {
  local pid
  pid=$(cat "$DATA/pids/$1-$2" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  grep -zqxF -- "$DATA/$1-$2" "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

any_running() {
  local kind i
  while read -r kind i; do
    if running_pid "$kind" "$i" >/dev/null; then return 0; fi
  done < <(members)
  return 1
}

# start_process KIND I: starts it in a session of its own, so that Ctrl-C reaches the script alone, which then stops in order.
start_process() {
  local kind=$1 i=$2 j list="" command
  if [[ $kind == broker ]]; then
    for ((j = 1; j <= controllers; j++)); do list+=",$(listen_address controller "$j")"; done
    command=("$bin/millrace-broker" --id "$i" --listen "$(listen_address broker "$i")" --advertise "$(listen_address broker "$i")"
      --controllers "${list#,}")
    if [[ -n $shards ]]; then command+=(--shards "$shards"); fi
  else
    for ((j = 1; j <= controllers; j++)); do list+=",$j=$(listen_address controller "$j")"; done
    command=("$bin/millrace-controller" serve --id "$i" --listen "$(listen_address controller "$i")" --peers "${list#,}")
  fi
  command+=(--secret-file "$DATA/secret" --metrics "$(metrics_address "$kind" "$i")" --data "$DATA/$kind-$i")
  mkdir -p "$DATA/pids" "$DATA/logs"
  make_secret
  raise_limits
  setsid "${command[@]}" </dev/null >>"$DATA/logs/$kind-$i.log" 2>&1 9>&- &
  echo $! >"$DATA/pids/$kind-$i"
  # Until the new process has become the program asked for, nothing tells it from this shell.
  for ((j = 0; j < 100; j++)); do
    if running_pid "$kind" "$i" >/dev/null || ! kill -0 $! 2>/dev/null; then return 0; fi
    sleep 0.01
  done
}

# What the processes of the cluster prove to each other that they know; made once, and readable by its owner alone.
make_secret() {
  [[ -s $DATA/secret ]] && return
  (umask 077 && head -c 32 /dev/urandom | base64 >"$DATA/secret.new" && mv -- "$DATA/secret.new" "$DATA/secret")
}

# Every connection is a descriptor, and registered memory is locked memory: take as much of both as this user may have.
raise_limits() {
  ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
  ulimit -l "$(ulimit -Hl)" 2>/dev/null || true
}

# answers KIND I PATH: whether the process's HTTP endpoint says 200.
answers() {
  curl -fs -o /dev/null --max-time 2 "http://$(metrics_address "$1" "$2")$3" 2>/dev/null
}

# show_log KIND I: the end of a process's log, on stderr.
show_log() {
  printf -- '--- last lines of %s:\n' "$DATA/logs/$1-$2.log" >&2
  tail -n "$LOG_LINES_SHOWN" "$DATA/logs/$1-$2.log" >&2 || true
}

# wait_gone KIND I: up to STOP_SECONDS_MAX for a signalled process to end.
wait_gone() {
  local deadline=$((SECONDS + STOP_SECONDS_MAX))
  while running_pid "$1" "$2" >/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
  rm -f "$DATA/pids/$1-$2"
}

# Stops all brokers, then all controllers, so that brokers can still hand over to a control plane. Fails if one had to be killed.
stop_cluster() {
  local order kind i pid status=0
  for order in broker controller; do
    while read -r kind i; do
      if pid=$(running_pid "$kind" "$i"); then kill -TERM "$pid" 2>/dev/null || true; fi
    done < <(members "$order")
    while read -r kind i; do
      wait_gone "$kind" "$i" && continue
      echo "$kind $i did not stop within $STOP_SECONDS_MAX s: killed" >&2
      if pid=$(running_pid "$kind" "$i"); then kill -KILL "$pid" 2>/dev/null || true; fi
      wait_gone "$kind" "$i" || true
      status=1
    done < <(members "$order")
  done
  return $status
}
