# Every target does its own set-up in .venv from the hashed lock files, once. `make help` lists them.
# pip's own settings (PIP_INDEX_URL, PIP_CERT, ... or its configuration files) are honoured: nothing here overrides them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS   ?=

# PyTorch is large, so it has an environment of its own, with whatever build pip finds (a CPU build where an index of
# such is set up; else the CUDA build, which needs its CUDA packages even where there is no GPU).
TORCH      := .venv-torch
TORCH_DONE := $(TORCH)/.installed
# The release that is locked; another is locked by make lock TORCH_RELEASE=...
TORCH_RELEASE  := 2.13.0
WITH_TORCH := tests/runtimes/torch tests/cli/test_torch.py tests/cli/test_devices.py tests/gpu

# What needs a GPU runs in an environment with the CUDA builds of PyTorch and of ONNX Runtime, made where there is one.
GPU      := .venv-cuda
GPU_DONE := $(GPU)/.installed

# Two levels of set-up in one environment; dev contains runtime. A stamp is newer than what it was made from.
RUNTIME := $(VENV)/.runtime-installed
DEV     := $(VENV)/.dev-installed

PIP_TOOLS := pip-tools==7.6.2
COMPILE    = CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --generate-hashes \
	--allow-unsafe --strip-extras --all-build-deps --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

# The oldest compiler whose code all accepted releases of protobuf run. Its messages get a pool of descriptors of their own:
# in the common one they would quarrel with every other copy of the protocol that a program imports.
PROTOC   := grpcio-tools==1.72.2 "setuptools<81"
PROTOCOL := src/clockwork/grpc_frontend

# Compiled modules never lie beside the sources, so that nobody runs stale code: they need PYTHONPATH=build/compiled.
COMPILED_DIR  := build/compiled
COMPILED_DONE := $(COMPILED_DIR)/.made
WITH_COMPILED := tests/state tests/scheduling tests/controller tests/sim tests/test_blocks.py \
	tests/test_compiled.py tests/test_histogram.py tests/test_pages.py

# Watches which code runs; not in the lock files, for it is heavy and few need it.
ATHERIS := atheris==3.0.0
FUZZER  := build/fuzzer
TARGETS := frames messages infer_body repository paths grpc_message grpc_fields
SECONDS ?= 30

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-torch test-gpu test-compiled check format compile dist bench fuzz lock protocol clean

help: ## Say what there is to make
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: $(DEV) ## Make .venv with everything to run, test and check Clockwork

demo: $(RUNTIME) ## Run examples/demo.py
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(DEV) ## Run the tests; ARGS="-k name" narrows them
	@$(BIN)/python -m pytest $(ARGS)

test-torch: $(TORCH_DONE) ## Run the tests of PyTorch programs in .venv-torch
	@$(TORCH)/bin/python -m pytest $(WITH_TORCH) $(ARGS)

test-gpu: ## Run the tests that need an NVIDIA GPU in .venv-cuda; where there is none, say what is missing
	@$(PYTHON) tools/has_gpu.py
	@$(MAKE) --no-print-directory $(GPU_DONE)
	@$(GPU)/bin/python -m pytest tests/gpu --gpu $(ARGS)

test-compiled: $(COMPILED_DONE) ## Run the tests of the compiled packages on the compiled modules
	@PYTHONPATH=$(COMPILED_DIR) $(BIN)/python -m pytest --compiled $(WITH_COMPILED) $(ARGS)

check: $(DEV) ## Lint, check the formatting, the types and the law of rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(DEV) ## Put the code in the house's format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(COMPILED_DONE) ## Compile state, scheduling and controller into build/compiled (about a minute)

dist: $(DEV) ## Make the source distribution and a wheel in dist; COMPILED=1 adds a wheel with compiled modules
	@$(BIN)/python tools/dist.py $(if $(COMPILED),--compiled) dist

bench: $(RUNTIME) ## Run each benchmarks/bench_*.py; results go to build/bench/*.json
	@mkdir -p build/bench
	@set -e; for script in $(sort $(wildcard benchmarks/bench_*.py)); do \
		name=$$(basename $$script .py); name=$${name#bench_}; \
		echo "== $$name"; $(BIN)/python $$script --json build/bench/$$name.json $(ARGS); \
	done

fuzz: $(DEV) $(FUZZER) ## Throw bytes at what reads strangers' bytes, SECONDS=30 at each; findings go to build/fuzz
	@set -e; for target in $(TARGETS); do \
		echo "== $$target"; PYTHONPATH=$(FUZZER) $(BIN)/python tests/fuzzing/with_coverage.py $$target \
			build/fuzz/$$target -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
			-artifact_prefix=build/fuzz/found-$$target- $(ARGS); \
	done

lock: ## Renew the lock files; PYTHON must be the oldest supported one (3.11), UPGRADE=1 moves to newer releases
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make lock needs PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install $(PIP_TOOLS)
	$(COMPILE) $(if $(UPGRADE),--upgrade) --extra demo -o requirements.lock pyproject.toml
	$(COMPILE) $(if $(UPGRADE),--upgrade) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml
	echo "torch===$(TORCH_RELEASE)" > build/lock/public.txt; echo "torch==$(TORCH_RELEASE)" > build/lock/any.txt
	$(COMPILE) --extra torch -c requirements-dev.lock -c build/lock/any.txt -o build/lock/torch.lock pyproject.toml
	$(COMPILE) --extra torch --extra cuda -c requirements-dev.lock -c build/lock/public.txt -o build/lock/cuda.lock pyproject.toml
	echo onnxruntime-gpu > build/lock/onnx.in
	$(filter-out --all-build-deps,$(COMPILE)) -c requirements-dev.lock -o build/lock/onnx.lock build/lock/onnx.in
	$(PYTHON) tools/lock_torch.py requirements-dev.lock build/lock/torch.lock build/lock/cuda.lock build/lock/onnx.lock .

protocol: ## Make the modules *_pb2 from the .proto files beside them
	$(PYTHON) -m venv build/protocol
	build/protocol/bin/python -m pip --disable-pip-version-check --quiet install $(PROTOC)
	cd $(PROTOCOL) && $(CURDIR)/build/protocol/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. *.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(PROTOCOL)/*_pb2.py

clean: ## Remove .venv, build and the tools' caches
	rm -rf $(VENV) $(TORCH) $(GPU) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf src/*.egg-info
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(FUZZER): | $(BIN)/python
	@$(PIP) install --no-deps --target $@ $(ATHERIS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Clockwork needs Python 3.11 or newer; say which: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) from $<"
	@$(PIP) install --require-hashes -r $<
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV) from $<"
	@$(PIP) install --require-hashes -r $<
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(RUNTIME)

$(COMPILED_DONE): $(DEV) setup.py MANIFEST.in $(wildcard tools/*.py) $(shell find src -name "*.py")
	@$(BIN)/python tools/dist.py --compiled --unpacked $(COMPILED_DIR)
	@touch $@

$(TORCH_DONE): requirements-dev.lock requirements-torch.lock requirements-torch-cuda.lock pyproject.toml
	@echo "Setting up $(TORCH) from requirements-torch.lock"
	@$(MAKE) --no-print-directory VENV=$(TORCH) setup
	@$(TORCH)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-torch.lock || \
		{ echo "There is no CPU build of PyTorch here: its CUDA build, and what that needs, follow"; \
		$(TORCH)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-torch-cuda.lock; }
	@touch $@

# ONNX Runtime's build for CUDA is another package with the same files, so the one for CPUs leaves first.
$(GPU_DONE): requirements-dev.lock requirements-torch-cuda.lock requirements-onnx-cuda.lock pyproject.toml
	@echo "Setting up $(GPU) from requirements-torch-cuda.lock and requirements-onnx-cuda.lock: some 4 GB"
	@$(MAKE) --no-print-directory VENV=$(GPU) setup
	@$(GPU)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-torch-cuda.lock
	@$(GPU)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes onnxruntime
	@$(GPU)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements-onnx-cuda.lock
	@touch $@
