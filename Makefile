# `make run` and `make test` do all their set-up themselves.

PYTHON ?= python3
VENV := .venv
SEEDS ?= 5000
FUZZ_INPUTS ?= 5000000
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := pyproject.toml setup.py build_ext.py $(wildcard rankserver/_*.[ch] rankserver/_*.txt)

.PHONY: run test lint format sanitize sanitize-functional valgrind simulate fuzz bench bench-smoke microbench reliability wheel clean

run: $(READY)
	@$(BIN)/python -m rankserver 8

test: lint
	$(BIN)/pytest --numprocesses auto

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The C core's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(READY)
	PYTHON=$(CURDIR)/$(BIN)/python tests/sanitize.sh

# The functional tests, with the servers that they start under the sanitizers: some seven minutes. What is left out
# are bounds on all memory of a program, which the sanitizers alone exceed.
sanitize-functional: $(READY)
	PYTHON=$(CURDIR)/$(BIN)/python tests/sanitize.sh tests/functional \
		"--deselect=tests/functional/test_reliability.py::test_what_the_page_says_holds[never-reads]" \
		"--deselect=tests/functional/test_client.py::test_a_hundred_thousand_commands_from_a_file_need_little_memory"

# Some of them with the servers under Valgrind, which are fifty times slower there. OPTIONS go to pytest, to name others.

valgrind: $(READY)
	$(BIN)/python -m tests.valgrind $(OPTIONS)

# The server's loop under simulated clock, sockets and kernel, and broken servers that this must catch: all
# that a seed does is the same each time. `python -m simulate --replay SEED` prints it.
simulate: $(READY)
	$(BIN)/python -m simulate --seeds $(SEEDS)
	$(BIN)/python -m simulate --mutants

# All that reads what others sent: the core's input under the sanitizers, the parser, the client's session.
fuzz: $(READY)
	$(BIN)/python -m fuzz --inputs $(FUZZ_INPUTS)

# Compares rankserver with other servers, which are installed if they are missing, and with the ceiling of the machine;
# then measures a command from Enter to another screen, and the answers on their way back. It takes about 40 minutes.
# load.py, membership.py and answers.py measure a single case, and fail with --require if it is too slow.
bench: $(READY)
	@sh tools/install-peers.sh $(BIN)/python
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/interactive.py
	$(BIN)/python benchmarks/answers.py --require 50000

# Runs all benchmarks in small, to see that they work: the figures mean nothing.
bench-smoke: $(READY)
	$(BIN)/python benchmarks/load.py --clients 20 --commands 20000 --bursts 2 --rate 50 --require 0.2
	$(BIN)/python benchmarks/membership.py --clients 500 --idle 100 --idle-seconds 1
	$(BIN)/python benchmarks/interactive.py --commands 30
	$(BIN)/python benchmarks/answers.py --clients 100 --asks 3
	$(BIN)/python benchmarks/paired.py . --rounds 1 --quick
	$(BIN)/python benchmarks/compare.py --quick --peers asyncio,threads,ceiling --output build/compare
	$(BIN)/pytest benchmarks/micro --benchmark-disable

# Abuses the server, and Redis and NATS where they can be compared, and writes the table of docs/reliability.md. It
# takes about fifteen minutes; the tests do the same in small.
reliability: $(READY)
	PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/reliability.py

# What each part of the C core costs. OPTIONS go to pytest: how to compare two runs is said in CONTRIBUTING.md.
microbench: $(READY)
	$(BIN)/pytest benchmarks/micro --benchmark-enable --benchmark-columns=min,median,iqr,ops,rounds $(OPTIONS)

wheel: $(READY)
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info rankserver/*.so

# The environment is made anew when the C core or the packaging has changed.
$(READY): $(SOURCES)
	@sh tools/check-setup.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
