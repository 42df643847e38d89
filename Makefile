# Two commands: `make up` starts timeshare here, `make test` runs everything.
# PYTHON: the interpreter the environment is built from. The system's one is preferred because
# multi-user sessions run as other users, who must be able to execute it.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
VENV ?= .venv
APT := DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=900
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# Exact versions with their hashes, for what may run as root. LOCK= takes the newest versions that pyproject.toml allows.
LOCK ?= requirements-hub.lock
# Options for `timeshare up`, such as UP="--simulate a100-40gb:2".
UP ?=
# The folder of the Slurm that `make slurm-up` starts.
SLURM ?= /var/lib/timeshare-slurm
# Debian packages that tests use. `make test SYSTEM=` installs none; tests that miss one say so and are skipped.
SYSTEM := python3-venv chromium fonts-dejavu-core bubblewrap postgresql sudo \
	nginx-light apache2 caddy openssl \
	munge slurm-client slurmctld slurmd slurmdbd mariadb-server-core mariadb-client-core
PARTS := reservations spawners idle_culler notebooks hub_config

.PHONY: up test fast gpu lint setup lock stress bench screenshots system system-if-root slurm-up slurm-down clean
# `make -j test`: nothing before the packages are there.
.NOTPARALLEL:

up: $(VENV)/.user
	$(BIN)/timeshare up $(UP)

setup: $(VENV)/.dev

$(VENV)/.user: pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ -n "$(LOCK)" ]; then \
		$(PIP) --require-hashes --only-binary :all: -r $(LOCK) || { \
			echo "The versions in $(LOCK) cannot be installed for $$($(BIN)/python --version): pip says why above." >&2; \
			echo "Name another interpreter (make up PYTHON=python3.11 VENV=.venv311), or take the newest versions," >&2; \
			echo "which nothing checks against hashes: make up LOCK=" >&2; exit 1; }; \
		$(PIP) --no-deps --no-build-isolation -e .; \
	else $(PIP) -e '.[hub]'; fi
	touch $@

# With uv, which takes seconds; pip, which takes minutes, where only pip is configured. uv's lock file is open to all.
$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -e '.[dev]' || $(PIP) -e '.[dev]'
	rm -f $(VENV)/.lock
	touch $@ $(VENV)/.user

# All that runs on the hub's side, for Python 3.10 and later, with the hashes of its files; setuptools installs timeshare itself.
lock: setup
	echo 'setuptools>=77' | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
		--no-annotate --upgrade --extra hub --extra postgresql --extra oidc --custom-compile-command 'make lock' \
		--output-file requirements-hub.lock pyproject.toml -
	$(BIN)/npm install --prefix hub_config/npm --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts \
		--no-audit --no-fund
	$(BIN)/python docs/licences.py

# mypy reads packages from folders of their own names, so it is shown the tree as it will be imported.
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p build/typed/timeshare
	for part in $(PARTS); do ln -sfn ../../../$$part build/typed/timeshare/$$part; done
	$(BIN)/mypy

# Most tests wait for processes: four files at a time keep two cores busy, begun in the order of tests/conftest.py.
test: system-if-root lint
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

# What needs no hub, browser or long histories: a minute or two.
fast: lint
	$(BIN)/python -m pytest -m 'not hub and not browser and not stress'

# What only a real GPU can show, one test after the other; without a GPU each says so and is skipped.
gpu: setup
	$(BIN)/python -m pytest tests/gpu -v --timeout=120

# The full counts of crashes and histories: an hour and more.
stress: setup
	STRESS=full $(BIN)/python -m pytest -m stress -v --timeout=14400
	STRESS=full $(BIN)/python -m pytest tests/test_api_contract.py

bench: setup
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/grants.py
	$(BIN)/python benchmarks/placement.py
	$(BIN)/python benchmarks/promises.py
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/passes.py
	$(BIN)/python benchmarks/stock.py
	$(BIN)/python benchmarks/flood.py
	$(BIN)/python benchmarks/slurm.py

# The pictures of the documentation, taken anew.
screenshots: setup
	SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/test_browser.py tests/test_limits_pages.py tests/test_batch_browser.py tests/test_lab_browser.py

# What the tests use of the system (as root, Debian). Quick when all is there.
system:
	@for package in $(SYSTEM); do \
		dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed || missing=yes; \
	done; \
	test -z "$$missing" || { $(APT) update && $(APT) install -y --no-install-recommends $(SYSTEM); }

# A fresh machine runs all tests; nobody but root, and nothing but a Debian, has packages installed.
system-if-root:
	@if [ "$$(id -u)" = 0 ] && grep -qx ID=debian /etc/os-release; then $(MAKE) --no-print-directory system; fi

# A real Slurm with simulated GPUs, to look at (as root); the one of the tests is another.
slurm-up: setup
	@PYTHONPATH=tests $(BIN)/python -m slurm_cluster up $(SLURM)

slurm-down: setup
	@PYTHONPATH=tests $(BIN)/python -m slurm_cluster down $(SLURM)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
