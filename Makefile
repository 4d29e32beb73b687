# `make run` and `make test` set up everything that they need, in .venv.
#
#   make run N=100 PORT=6060    a server for N clients, on this port

N ?= 8
PORT ?= 5050
PYTHON ?= python3
VENV := .venv
# Stamp file: what `make run` needs is installed.
INSTALLED := $(VENV)/installed
SEEDS ?= 5000
FUZZ_INPUTS ?= 5000000
BIN := $(VENV)/bin
# Stamp file: what all other targets need is installed.
READY := $(VENV)/ready
SOURCES := pyproject.toml setup.py build_ext.py $(wildcard rankserver/_*.[ch])

.PHONY: run test lint format sanitize sanitize-functional valgrind simulate fuzz bench bench-smoke microbench reliability dist clean

run: $(INSTALLED)
	$(BIN)/python -m rankserver $(N) --port $(PORT)

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

# The functional tests, with their servers under the sanitizers, which takes about seven minutes. Tests that bound the
# memory of a whole program are left out, because the sanitizers alone exceed the bound.
sanitize-functional: $(READY)
	PYTHON=$(CURDIR)/$(BIN)/python tests/sanitize.sh tests/functional \
		"--deselect=tests/functional/test_reliability.py::test_what_the_page_says_holds[never-reads]" \
		"--deselect=tests/functional/test_client.py::test_100_000_commands_from_a_file_need_little_memory"

# Some functional tests, with their servers under Valgrind, which is fifty times slower. OPTIONS are passed to pytest,
# to select others.
valgrind: $(READY)
	$(BIN)/python -m tests.valgrind $(OPTIONS)

# Runs the server with a simulated clock, sockets and kernel, and then servers that are broken on purpose, which the
# simulation must catch. A seed always gives the same run: `python -m simulate --replay SEED` prints it.
simulate: $(READY)
	$(BIN)/python -m simulate --seeds $(SEEDS)
	$(BIN)/python -m simulate --mutants

# Fuzzes everything that reads what others sent: the core's input under the sanitizers, the parser and the client's
# session.
fuzz: $(READY)
	$(BIN)/python -m fuzz --inputs $(FUZZ_INPUTS)

# Compares rankserver with other servers, which are installed if they are missing, and with the ceiling of the machine.
# Then measures the way of a command from Enter to another screen, and the way of the answers back. It takes about
# 40 minutes. load.py, membership.py and answers.py measure a single case, and fail if it is slower than --require.
bench: $(READY)
	@sh tools/install-peers.sh $(BIN)/python
	$(BIN)/python benchmarks/compare.py
	$(BIN)/python benchmarks/interactive.py
	$(BIN)/python benchmarks/fairness.py --require 50
	$(BIN)/python benchmarks/answers.py --require 50000

# Runs all benchmarks on a small scale, to see that they work: the figures mean nothing.
bench-smoke: $(READY)
	$(BIN)/python benchmarks/load.py --clients 20 --commands 20000 --bursts 2 --rate 50 --require 0.2
	$(BIN)/python benchmarks/membership.py --clients 500 --idle 100 --idle-seconds 1
	$(BIN)/python benchmarks/interactive.py --commands 30
	$(BIN)/python benchmarks/fairness.py --commands 30
	$(BIN)/python benchmarks/answers.py --clients 100 --asks 3
	$(BIN)/python benchmarks/paired.py . --rounds 1 --quick
	$(BIN)/python benchmarks/compare.py --quick --peers asyncio,threads,ceiling --output build/compare
	$(BIN)/pytest benchmarks/micro --benchmark-disable

# Produces the table of docs/reliability.md: what the server withstands, compared with Redis and NATS where possible. It
# takes about fifteen minutes; the tests do the same on a small scale.
reliability: $(READY)
	PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/reliability.py

# Measures what each part of the C core costs. OPTIONS are passed to pytest; CONTRIBUTING.md explains how to compare two
# runs.
microbench: $(READY)
	$(BIN)/pytest benchmarks/micro --benchmark-enable --benchmark-columns=min,median,iqr,ops,rounds $(OPTIONS)

# Builds the source distribution, and the wheel from it.
dist: $(READY)
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) build dist *.egg-info rankserver/*.so

# $(call install,REQUIREMENT,WHAT)
define install
	@sh tools/check-setup.sh $(PYTHON)
	@test -x $(BIN)/python || { echo "creating the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "building the C core and installing $(2)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '$(1)'
endef

# Everything is installed again when the C core or the packaging has changed.
$(INSTALLED): $(SOURCES)
	$(call install,.,what the server and the client need)
	@touch $@

$(READY): $(SOURCES)
	$(call install,.[dev],what the tests need)
	@touch $(INSTALLED) $@
