# Two commands on a fresh machine with Python 3.11 and make:
#   make train                      set up, then train on Reacher-v5 (or WORLD=Pendulum-v1, Hopper-v5, CartPole-v1, ...)
#   make test                       set up, then pass every check: format, lint, types, floors, tests
PYTHON ?= python3.11
WORLD ?= Reacher-v5
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
NEEDS := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: help train test setup setup-dev clean

help:
	@sed -n '1,3s/^# \{0,1\}//p' Makefile

train: $(VENV)/.ready-run
	$(BIN)/bb-wm train $(WORLD) $(ARGS)

test: $(VENV)/.ready-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

setup: $(VENV)/.ready-run
setup-dev: $(VENV)/.ready-dev

# A stamp is written by its recipe's last line only, so an interrupted set-up is done again.
$(VENV)/.ready-run: $(VENV)/.made $(NEEDS)
	@test -f $(VENV)/.ready-dev -a $(VENV)/.ready-dev -nt pyproject.toml -a $(VENV)/.ready-dev -nt constraints.txt \
		|| { echo "Installing bb_wm (a few minutes the first time) ..." && $(PIP) -e '.[run]'; }
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.made $(NEEDS)
	@echo "Installing bb_wm with its checks (a few minutes the first time) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; name another 3.11 or newer: make PYTHON=python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) lacks venv (on Debian: apt install python3.11-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) build dist
