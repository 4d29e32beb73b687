"""Send one command from one client to another through the installed programs, as a user would."""

import subprocess
import sysconfig
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))
# Seconds that each step may take.
BOUND = 20


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start an installed console script with pipes."""
    command = [str(SCRIPTS / name), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def expect(program: subprocess.Popen[str], text: str) -> str:
    """Read the next line of a program's output, which must contain ``text``."""
    line = program.stdout.readline() if program.stdout else ""
    if text not in line:
        raise SystemExit(f"expected {text!r}, got {line!r}")
    print(line, end="")
    return line


def main() -> None:
    """Run a server and two clients; the lower-ranked one executes what the other one sends."""
    server = start("rankserver", "2", "--port", "0")
    address = expect(server, "listening on ").split()[-1]
    leader = start("rankserver-client", address, "--name", "leader")
    expect(leader, "as leader: rank 0 of 1")
    follower = start("rankserver-client", address, "--name", "follower", "--delay", "0")
    expect(follower, "as follower: rank 1 of 2")
    output, _ = leader.communicate("uptime\n", timeout=BOUND)
    if "sent #3: uptime" not in output or "#3: executed by 1 of 1" not in output:
        raise SystemExit(f"the leader printed {output!r}")
    expect(follower, "executing #3 from rank 0: uptime")
    expect(follower, "executed #3: uptime")
    expect(follower, "rank is now 0 of 1")
    follower.communicate(timeout=BOUND)
    server.terminate()
    codes = [program.wait(BOUND) for program in (leader, follower, server)]
    if codes != [0, 0, 0]:
        raise SystemExit(f"exit codes {codes}")


if __name__ == "__main__":
    main()
