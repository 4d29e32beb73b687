#!/bin/sh
# Install the peers that are missing. Usage: tools/install-peers.sh PYTHON, that of the virtual environment.
# What cannot be installed is no error: the command to type is printed, and compare.py names the peer as skipped.
set -u
python=$1
cd "$(dirname "$0")/.." || exit

"$python" -m pip install --quiet --disable-pip-version-check --editable '.[bench]' ||
    echo "to compare with all peers, type: $python -m pip install -e '.[bench]'" >&2

# Prints the Debian packages of the peers that are not there, as the registry names them.
missing() {
    PYTHONPATH=benchmarks "$python" -c '
from peers import PEERS
commands = [peer.install.split() for peer in PEERS if peer.version() is None]
print(*(words[-1] for words in commands if words[0] == "apt-get"))'
}

# A Debian package starts its server at once, and at every boot. Nobody asked for that here: a policy that
# forbids to start these, and nothing else, is in force while we install, if the machine has none of its own
# (see invoke-rc.d(8)), and what was installed is disabled.
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
# The names are words of the registry, without blanks or patterns.
if command -v apt-get >/dev/null && $root true 2>/dev/null; then
    echo "installing with ${root:+sudo and }apt-get, and disabling as services: $packages" >&2
    $root sh -c "$install" install-peers $packages
fi
packages=$(missing) || exit
test -z "$packages" || echo "to compare with all peers, type: apt-get install $packages" >&2
