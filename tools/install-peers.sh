#!/bin/sh
# Install the peers that are missing. Usage: tools/install-peers.sh PYTHON (of the virtual environment)
# A peer that cannot be installed is no error: the command to type is printed, and compare.py reports it as skipped.
set -u
python=$1
cd "$(dirname "$0")/.." || exit

"$python" -m pip install --quiet --disable-pip-version-check --editable '.[bench]' ||
    echo "to compare with all peers, type: $python -m pip install -e '.[bench]'" >&2

# Prints the Debian packages of the peers that are not installed, as named in peers.py.
missing() {
    PYTHONPATH=benchmarks "$python" -c '
from peers import PEERS
commands = [peer.install.split() for peer in PEERS if peer.version() is None]
print(*(words[-1] for words in commands if words[0] == "apt-get"))'
}

# A Debian package starts its server at once, and at every boot, which is not wanted here. So these services are
# disabled after the installation. During it, a policy forbids starting these services and no others, unless the
# machine has a policy of its own; see invoke-rc.d(8).
install='
trap "exit 129" HUP
trap "exit 130" INT
trap "exit 143" TERM
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap "rm -f $policy" EXIT
    cat >$policy <<"END"
#!/bin/sh
case $1 in redis-server | nats-server | mosquitto) exit 101 ;; esac
exit 0
END
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq --yes --no-install-recommends install "$@" >/dev/null || exit
for service; do
    update-rc.d "$service" disable
done'

packages=$(missing) || exit
test -n "$packages" || exit 0
if [ "$(id -u)" = 0 ]; then
    root=
else
    root="sudo -n"
fi
# The names are words from peers.py, without blanks or patterns, so they need no quotes.
if command -v apt-get >/dev/null && $root true 2>/dev/null; then
    echo "installing with ${root:+sudo and }apt-get, and disabling as services: $packages" >&2
    $root sh -c "$install" install-peers $packages
fi
packages=$(missing) || exit
test -z "$packages" || echo "to compare with all peers, type: apt-get install $packages" >&2
