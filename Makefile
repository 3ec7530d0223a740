# Everything needs uv, which is taken from the system if it is there, else from a private environment.
# Where pyenv has the Pythons, its shims serve the one that PYENV_VERSION names.

PYTHON ?= 3.13
ENV ?= .venv
ENGINE ?= uvloop
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)

# The package is checked strictly.  The tests and examples use libraries that are not typed.
LENIENT := --allow-untyped-defs --allow-untyped-decorators --allow-subclassing-any --no-warn-return-any

# The compiled core is optional: where it cannot be built, the installation is none the worse for it.  In the gate a
# warning is an error, and a test asks for the core.
CORE := $(wildcard hybridexec/_core/*.[ch])
CORE_CFLAGS := -Wall -Wextra $(if $(CI),-Werror)

# One process more than there are CPUs: most tests wait for something.  (tests/conftest.py)
PYTEST = $(ENV)/bin/python -m pytest -n auto --dist worksteal

.PHONY: bootstrap demo test test-engine test-version sanitized conformance compatibility applications lint types lowest hunt dist clean

bootstrap: $(ENV)/.done

$(ENV)/.done: pyproject.toml $(CORE) $(filter .uv/bin/uv,$(UV))
	PYENV_VERSION=$(PYTHON) $(UV) venv --quiet --clear --python $(PYTHON) $(ENV)
	$(UV) pip install --quiet --python $(ENV)/bin/python $(RESOLUTION) -r pyproject.toml --extra cli --group dev $(GROUPS)
	CFLAGS="$(CORE_CFLAGS)" $(UV) pip install --quiet --python $(ENV)/bin/python --no-deps \
		--config-settings editable_mode=compat --editable .
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv

demo: bootstrap
	$(ENV)/bin/hybridexec demo

test: bootstrap
	@echo "The tests take some seven minutes on two cores."
	$(PYTEST) $(TESTS)

test-engine: bootstrap
	$(PYTEST) --engine $(ENGINE) -m "differs_by_engine and not slow" $(TESTS)

test-version: bootstrap
	$(PYTEST) -m "differs_by_version and not slow" $(TESTS)

# In a copy: the core is built another way there.  Leaks are not looked for: CPython has its own at exit.
SANITIZE := -fsanitize=address,undefined
SANITIZERS = $(shell cc -print-file-name=libasan.so):$(shell cc -print-file-name=libubsan.so)
sanitized:
	rm -rf build/sanitized
	git clone --quiet . build/sanitized
	LDFLAGS="$(SANITIZE)" $(MAKE) -C build/sanitized bootstrap \
		CORE_CFLAGS="-g -fno-omit-frame-pointer -fno-sanitize-recover=undefined $(SANITIZE)"
	cd build/sanitized && env LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
		.venv/bin/python -m pytest -n auto --dist worksteal --timeout 900 $(TESTS)

conformance: bootstrap
	$(ENV)/bin/python -m tests.conformance $(CONFORMANCE)

compatibility:
	$(MAKE) ENV=.venv-compatibility GROUPS="--group compatibility" bootstrap
	PYTHONPATH=tests .venv-compatibility/bin/python -m compatibility $(COMPATIBILITY)

# One after the other: they are large.  APPLICATIONS is what to run instead of all of them.
applications:
	$(MAKE) ENV=.venv-applications GROUPS="--group applications" bootstrap
	.venv-applications/bin/python -m pytest --hunt -p no:cacheprovider --timeout 600 $(or $(APPLICATIONS),tests/applications)

lint: bootstrap
	$(ENV)/bin/ruff check .
	$(ENV)/bin/ruff format --check .

types: bootstrap
	$(ENV)/bin/mypy
	$(ENV)/bin/mypy $(LENIENT) --exclude "tests/(compatibility|applications)/" tests examples benchmarks
	cd tests && ../$(ENV)/bin/mypy --config-file ../pyproject.toml $(LENIENT) --ignore-missing-imports compatibility applications

lowest:
	$(MAKE) ENV=.venv-lowest PYTHON=3.12 RESOLUTION="--resolution lowest-direct" test-version

hunt:
	.ci/hunt $(SECONDS)

# What would be released.
dist: bootstrap
	$(UV) build --quiet --out-dir dist

clean:
	rm -rf .venv* .uv build dist hybridexec/_core/*.so
