# Sourced by the other scripts: finds the checkout and puts a Node 24 or newer, and the CRIU that was fetched, first in PATH.
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$top"
node_floor=24

node_major() { "$1" -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0; }

if [ -x "$top/.tools/node/bin/node" ]; then
  PATH=$top/.tools/node/bin:$PATH
fi
if [ -x "$top/.tools/criu/criu" ]; then
  PATH=$top/.tools/criu:$PATH
fi
export PATH

have_node() { command -v node >/dev/null && [ "$(node_major node)" -ge "$node_floor" ]; }
say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
help() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0; } # the comment at the script's head
takes_nothing() { # ARGUMENT...: of a script without options
  case ${1-} in
    "") ;;
    --help | -h) help ;;
    *) fail "unknown argument $1; scripts/$(basename "$0") takes none" ;;
  esac
}
