# `make run` needs python3 and nothing else. The other targets make themselves an
# environment in .venv, with or without a compiler, with or without python3-venv.

PYTHON ?= python3
VENV   ?= .venv
EXTRA  ?= test
ARGS   ?=
APP    ?=
PYTHONS ?= 3.14 3.15
BIN    := $(VENV)/bin
CYTHON := $(wildcard simple_ws/*.pyx simple_ws/_c/*.pxi)

# The extension as it is called in the tree.
SPEEDUPS = simple_ws/_speedups$$($(BIN)/python -c \
	'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')

# Said before anything is made with a Python that is too old.
define check_python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"Python 3.11 or later is needed; if it has another name, add PYTHON=python3.13")'
endef

# Debian's python3 comes without ensurepip; its own pip can install into .venv then, and
# where that is missing too, one is fetched.
define install
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1 \
	  && ! $(PYTHON) -m pip --version >/dev/null 2>&1; \
	then $(BIN)/python scripts/get_pip.py || exit 1; fi; \
	if $(BIN)/python -m pip --version >/dev/null 2>&1; \
	then set -- $(BIN)/python -m pip; \
	else set -- $(PYTHON) -m pip --python $(BIN)/python; fi; \
	echo "installing $(1) into $(VENV)"; \
	$(2) "$$@" install --quiet --disable-pip-version-check $(1)
endef

# What tests run in Node. Without it, and where nothing can be installed, they are skipped.
NODE_TESTS := tests/live/node_modules/.stamp
PYRIGHT := tests/typing/node_modules/.stamp

.PHONY: help run test freethreaded newer lint types reference docs conformance browser bench package wheels cross aarch64 methods sanitize tsan fuzz \
	soak chaos clean

help: ## show this list
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20
	@echo "  ARGS='…' is handed on, as in: make test ARGS='-k utf8 -x'"

run: ## start the drawing board, or APP=board the kanban board; open the printed address
	$(check_python)
	PYTHONPATH=. $(PYTHON) $(if $(APP),examples/$(APP)/$(APP).py,ws_example.py) $(ARGS)

test: $(VENV)/.stamp $(NODE_TESTS) ## run the tests, with the extension and without
	@scripts/run_tests.sh $(BIN)/python "$(SPEEDUPS)" $(ARGS)

# Older packages are taken where the newest has no wheel for this kind of Python.
freethreaded: ## run the tests on a CPython without the GIL, which is built once
	python=$$(scripts/free_threaded.sh) && PYTHON_GIL=0 PIP_PREFER_BINARY=1 \
	$(MAKE) test PYTHON="$$python" VENV=.venv-free-threaded \
	EXTRA=test-freethreaded ARGS="$(ARGS)"

newer: ## run the tests on newer CPythons, PYTHONS="3.14 3.15", from a Debian installed once
	@export ARGS="$(ARGS)"; \
	for version in $(PYTHONS); do scripts/newer_python.sh "$$version" || exit 1; done

lint: $(VENV)/.stamp-dev ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(BIN):$$PATH" $(BIN)/cython-lint $(CYTHON)

types: $(VENV)/.stamp-dev $(PYRIGHT) ## check types, also of the documentation
	$(BIN)/mypy
	$(BIN)/python scripts/check_types.py
	@if [ -e "$(SPEEDUPS)" ]; \
	then PYTHONPATH=. $(BIN)/stubtest simple_ws._speedups; \
	else echo "== stubtest left out: the extension is not built"; fi

reference: $(VENV)/.stamp ## write the pages of docs/reference that come from the package
	$(BIN)/python scripts/public_names.py
	$(BIN)/python scripts/reference_pages.py

docs: $(VENV)/.stamp-docs ## build the documentation, docs/_build/html/index.html
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)

conformance: $(VENV)/.stamp ## run all cases of the Autobahn test suite
	$(BIN)/python tests/conformance/run.py $(ARGS)

browser: $(VENV)/.stamp-browser $(NODE_TESTS) ## draw in a real Chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

bench: $(VENV)/.stamp ## measure beside other servers and clients
	$(BIN)/python benchmarks/run.py $(ARGS)
	@if [ -z "$(ARGS)" ]; then for name in clients heartbeat workers asgi; \
	do $(BIN)/python benchmarks/$$name.py || exit 1; done; fi

package: $(VENV)/.stamp-package ## build the sdist and a wheel, and check their contents
	$(BIN)/python scripts/check_package.py $(ARGS)

wheels: ## build, repair and test a wheel for each CPython on this machine
	$(PYTHON) scripts/build_wheels.py $(ARGS)

cross: $(VENV)/.stamp-dev ## compile and link the extension for other systems, with Zig
	$(BIN)/python scripts/cross_compile.py $(ARGS)

aarch64: ## run tests on Linux for aarch64, emulated, in a Debian that is unpacked once
	@$(MAKE) --no-print-directory cross ARGS=manylinux-aarch64
	scripts/aarch64.sh $(abspath $(BIN))/python $(ARGS)

methods: $(VENV)/.stamp-dev ## run tests with the extension as it is on Windows, without system calls
	scripts/socket_methods.sh $(abspath $(BIN))/python $(ARGS)

sanitize: $(VENV)/.stamp-dev ## run the tests of codecs and core under ASAN and UBSAN
	scripts/sanitize.sh $(abspath $(BIN))/python $(ARGS)

tsan: ## run the tests of threads under TSAN, on a CPython without the GIL built with it
	python=$$(scripts/free_threaded.sh) && PIP_PREFER_BINARY=1 \
	$(MAKE) .venv-free-threaded/.stamp PYTHON="$$python" VENV=.venv-free-threaded \
	EXTRA=test-freethreaded
	scripts/tsan.sh .venv-free-threaded $(ARGS)

fuzz: $(VENV)/.stamp ## fuzz what reads the network, guided by coverage
	@if $(BIN)/python -c 'import atheris' 2>/dev/null \
	  || $(MAKE) --silent $(VENV)/.stamp-fuzz >/dev/null 2>&1; \
	then $(BIN)/python tests/fuzz/run.py $(ARGS); \
	else echo "== fuzz left out: atheris cannot be installed here"; fi

soak: $(VENV)/.stamp ## hundreds of clients for minutes, some killed in the middle
	$(BIN)/python tests/soak/run.py $(ARGS)

chaos: $(VENV)/.stamp ## several nodes for minutes, and every 20 s something fails
	$(BIN)/python tests/chaos/run.py $(ARGS)

clean: ## remove what was built and installed
	rm -rf $(VENV) .venv-free-threaded .venv-3.* build dist wheelhouse *.egg-info .sanitizer .tsan .wheels .fuzz .typing docs/_build
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf tests/live/node_modules tests/typing/node_modules
	rm -f simple_ws/_speedups.c simple_ws/_speedups.html simple_ws/_speedups*.so
	find simple_ws tests benchmarks scripts -name __pycache__ -prune -exec rm -r {} +

$(BIN)/python:
	$(check_python)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 \
	|| $(PYTHON) -m venv --clear --without-pip $(VENV)

# An old extension must not outlive a failed build, which pip does not report.
$(VENV)/.stamp: pyproject.toml setup.py $(CYTHON) $(wildcard simple_ws/_c/*.h) | $(BIN)/python
	@rm -f "$(SPEEDUPS)"
	$(call install,-e '.[$(EXTRA)]')
	@touch $@

# Tools only: the extension stays as it was built above.
$(VENV)/.stamp-%: $(VENV)/.stamp
	$(call install,-e '.[$*]',SIMPLE_WS_EXTENSION=0)
	@touch $@

# No lock file: it would name the registry of whoever made it.
$(NODE_TESTS): tests/live/package.json
	@scripts/install_node_tests.sh tests/live

$(PYRIGHT): tests/typing/package.json
	@scripts/install_node_tests.sh tests/typing
