from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from client import bounds

UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"""
BIND = "30 23 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw"


@pytest.mark.parametrize(
    ("memberships", "mounts", "own"),
    [
        ("0::/", UNIFIED, {"cgroup2": "/sys/fs/cgroup"}),
        ("0::/user.slice/a b", UNIFIED, {"cgroup2": "/sys/fs/cgroup/user.slice/a b"}),
        ("0::/a:b", UNIFIED, {"cgroup2": "/sys/fs/cgroup/a:b"}),
        ("0::/docker/1/x", BIND, {"cgroup2": "/sys/fs/cgroup/x"}),
        ("0::/docker/1", BIND, {"cgroup2": "/sys/fs/cgroup"}),
        # It is not where we can see it.
        ("0::/docker/11", BIND, {}),
        ("0::/", "23 1 0:1 / /proc rw - proc proc rw", {}),
        ("0::/", "", {}),
        (
            "9:name=systemd:/\n8:pids:/a\n1:cpu:/b\n0::/c",
            HYBRID,
            {"cgroup": "/sys/fs/cgroup/pids/a", "cgroup2": "/sys/fs/cgroup/unified/c"},
        ),
        ("2:cpu:/b", HYBRID, {}),
    ],
)
def test_our_own_cgroups_are_found(memberships: str, mounts: str, own: dict[str, str]) -> None:
    assert bounds.own_cgroups(memberships, mounts) == own


def delegated(place: Path, *, others: str = "", controllers: str = "cpu pids", enabled: str = "cpu") -> str:
    """Make a directory that looks like a cgroup that we may change; return what it enables in the end."""
    for name, content in {
        "cgroup.type": "domain\n",
        "cgroup.procs": others,
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": enabled,
    }.items():
        (place / name).write_text(content)
    bounds._delegate(str(place))
    return (place / "cgroup.subtree_control").read_text()


def test_an_agent_alone_in_its_cgroup_moves_into_a_leaf(tmp_path: Path) -> None:
    assert delegated(tmp_path) == "+pids"
    assert (tmp_path / "agent" / "cgroup.procs").read_text() == "0"


def test_an_agent_goes_back_if_others_are_in_its_cgroup(tmp_path: Path) -> None:
    assert delegated(tmp_path, others="17\n") == "cpu"
    assert (tmp_path / "cgroup.procs").read_text() == "0"


@pytest.mark.parametrize(("controllers", "enabled"), [("cpu", ""), ("cpu pids", "pids")])
def test_an_agent_stays_where_moving_would_not_help(tmp_path: Path, controllers: str, enabled: str) -> None:
    assert delegated(tmp_path, controllers=controllers, enabled=enabled) == enabled
    assert not (tmp_path / "agent").exists()


def test_cgroups_are_made_together_or_not_at_all(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    with pytest.raises(FileNotFoundError):
        bounds.make((str(first), str(second)))
    assert not list(first.iterdir())
    second.mkdir()
    made = bounds.make((str(first), str(second)))
    assert [os.path.dirname(path) for path in made] == [str(first), str(second)]
    bounds.remove(made)
    bounds.remove(made)
    assert not list(first.iterdir())


def test_only_cgroups_whose_makers_have_gone_are_abandoned(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/true"]) as gone:
        pass
    for name in ("other", f"rankserver-{os.getpid()}-a", f"rankserver-{gone.pid}-b", "rankserver-1-c"):
        (tmp_path / name).mkdir()
    assert bounds._abandoned(str(tmp_path)) == [f"{tmp_path}/rankserver-{gone.pid}-b"]


@pytest.mark.parametrize(
    ("uid", "uid_map", "outside"),
    [
        (0, [0, 0, 2**32 - 1], 0),
        (0, [0, 1000, 1], 1000),
        (5, [0, 1000, 1, 1, 100_000, 65_536], 100_004),
        (70_000, [0, 1000, 1], 70_000),
    ],
)
def test_a_user_is_known_outside_its_namespace(uid: int, uid_map: list[int], outside: int) -> None:
    assert bounds._outside(uid, uid_map) == outside
