"""The examples in the docs do what the page says: each runs as a program with its own server.

A ``python`` block is a whole program, or the body of its ``main``; the ``text`` block after it is its output.
A comment before the block says what happens to the server during the run.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import rankserver.client
from rankserver.client import aio, ask, sync
from rankserver.client.events import Answer, Counts, Execute
from tests.support.paths import ROOT
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND, read_line
from tests.unit.client.test_sync import INTERNAL, members

API = ROOT / "docs" / "api.md"
README = ROOT / "README.md"
EXAMPLE = re.compile(
    r'(?:<!-- after "(?P<cue>[^"]+)": (?P<action>\w+) the server -->\n)?'
    r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
RUN = """
import ast, asyncio, inspect, sys
code = compile(sys.argv[1], sys.argv[2], "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
main = eval(code, {"__name__": "__main__", "asyncio": asyncio})
if inspect.isawaitable(main):
    asyncio.run(main)
"""


class Example(NamedTuple):
    """A program on a page and its output; after it printed ``cue``, ``action`` is done to the server."""

    name: str
    code: str
    output: str
    cue: str | None
    action: str | None


def examples(page: Path) -> Iterator[Example]:
    text = page.read_text()
    for match in EXAMPLE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Example(
            f"{page.name}:{line}", match["code"], match["output"] or "", match["cue"], match["action"]
        )


def run(example: Example, path: Path) -> tuple[str, str]:
    """Run the example; return its standard output and standard error."""
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(8, unix=path))
        program = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-u", "-c", RUN, example.code, example.name],
                cwd=ROOT,
                env={**os.environ, "RANKSERVER": f"unix:{path}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        )
        stack.callback(program.kill)
        before = b""
        if example.cue:
            before = read_line(program.stdout)  # type: ignore[arg-type]
            while before and not before.endswith(f"{example.cue}\n".encode()):
                before += read_line(program.stdout)  # type: ignore[arg-type]
            server.stop()
        if example.action == "restart":
            stack.enter_context(ServerProcess(8, unix=path))
        out, err = program.communicate(timeout=BOUND)
        assert program.returncode == 0, err.decode()
        return (before + out).decode(), err.decode()


@pytest.mark.parametrize("example", [*examples(API), *examples(README)], ids=lambda example: example.name)
def test_an_example_prints_what_the_page_says(example: Example, tmp_path: Path) -> None:
    assert run(example, tmp_path / "socket") == (example.output, "")


def test_all_examples_of_the_page_are_found() -> None:
    found = list(examples(API))
    text = API.read_text()
    assert len(found) == text.count("```python\n") > 10
    assert sum(bool(example.output) for example in found) == text.count("```text\n") == len(found)
    assert sum(bool(example.cue) for example in found) == text.count("<!--") > 0
    assert len(list(examples(README))) == README.read_text().count("```python\n") == 1


def test_an_example_that_prints_something_else_is_noticed(tmp_path: Path) -> None:
    example = Example(
        "x", "from rankserver.client import connect\nprint(connect().address)\n", "", None, None
    )
    assert run(example, tmp_path / "socket") == (f"unix:{tmp_path}/socket\n", "")


def reference() -> tuple[str, str]:
    """Return the two tables of the reference, for clients and for asks."""
    of_client, _, of_ask = API.read_text().partition("## Reference")[2].partition("Of an `Ask`:")
    return of_client, of_ask


@pytest.mark.parametrize(("kind", "variable", "page"), [(aio.Client, "client", 0), (ask.Ask, "ask", 1)])
def test_the_reference_lists_all_public_names(kind: type, variable: str, page: int) -> None:
    listed = set(re.findall(rf"\b{variable}\.(\w+)", reference()[page].replace("rankserver.client.sync", "")))
    public = members(kind).keys() - INTERNAL | {"address" if kind is aio.Client else "text"}
    assert listed == public | ({"events"} if kind is aio.Client else set())


def arguments(definition: str) -> str:
    function = ast.parse(definition).body[0]
    assert isinstance(function, ast.FunctionDef)
    return ast.unparse(function.args)


def test_the_reference_has_the_arguments_of_connect() -> None:
    written = reference()[0].partition("`connect(")[2].partition(")`")[0]
    assert arguments(f"def connect({written}): ...") == arguments(
        inspect.getsource(rankserver.client.connect)
    )


def test_the_reference_lists_the_fields_of_values() -> None:
    words = set(re.findall(r"\w+", reference()[1]))
    assert words >= {*Answer._fields, *Execute._fields, *Counts._fields}


def test_the_page_mentions_all_public_names() -> None:
    assert set(re.findall(r"\w+", API.read_text())) >= set(rankserver.client.__all__)


def test_the_page_imports_only_public_names() -> None:
    names = re.findall(r"^from rankserver.client import (.+)$", API.read_text(), re.MULTILINE)
    assert {name for line in names for name in line.split(", ")} <= set(rankserver.client.__all__)
    assert sync.connect.__module__ == "rankserver.client.sync"
