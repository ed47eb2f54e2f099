# Everything runs from here with Python 3.11+, make and a package registry; `make` alone lists the commands.
#
# .venv holds what the commands need, one lock file at a time: a stamp in it stands for each lock, so `make demo`
# never waits for what only the tests use. .venv-protos and .venv-client are apart because their versions conflict.

PYTHON ?= python3
BIN := .venv/bin
LOCKS := deploy/requirements
PIP := -m pip install --quiet --disable-pip-version-check
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-full-width test-equality test-faults soak check format lint types imports protos protos-release \
        check-protos check-client check-manifests check-licences nano eval-nano lock clean

help: ## list the commands
	@grep -E '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# -- run ---------------------------------------------------------------------------------------------------------

demo: .venv/kernels.stamp ## install, start the three services, stream true answers about shipped images
	$(BIN)/python -m deploy.launcher.demo

nano: .venv/runtime.stamp ## train the embedded model from scratch (hours; resumes where it stopped)
	$(BIN)/python -m models.recipe.train
	$(BIN)/python -m models.recipe.export

eval-nano: .venv/kernels.stamp ## measure the embedded model through the services (DOOR=http); JSON=FILE keeps the result
	$(BIN)/python -m benchmarks.eval_nano $(if $(DOOR),--door $(DOOR)) $(if $(JSON),--json $(JSON))

bench-%: .venv/kernels.stamp ## run one measurement, `make bench-NAME`; JSON=FILE keeps the result
	$(BIN)/python -m benchmarks.$(subst -,_,$*) $(if $(JSON),--json $(JSON))

bench-start: .venv/kernels.stamp ## start-up of the 4B model; CHECKPOINT=DIR, QUANTIZE=w4, JSON=FILE
	$(BIN)/python -m benchmarks.start $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) \
	    $(if $(QUANTIZE),--quantize $(QUANTIZE)) $(if $(JSON),--json $(JSON))

# -- prove -------------------------------------------------------------------------------------------------------

# First on Paddle's own operators, whatever is built here; then what computes once more on the native ones.
test: .venv/test.stamp ## every test but the slow ones; TESTS=tests/unit narrows it
	OMP_NUM_THREADS=1 INTERNVL_NATIVE=off $(BIN)/python -m pytest $(PARALLEL) $(or $(TESTS),$(addprefix --ignore=,$(ALONE)))
	$(if $(TESTS),,OMP_NUM_THREADS=1 INTERNVL_NATIVE=off $(BIN)/python -m pytest $(ALONE))
	$(if $(TESTS),,OMP_NUM_THREADS=1 INTERNVL_NATIVE=build $(BIN)/python -m pytest $(PARALLEL) $(COMPUTING))

# A file stays with one worker: its tests share services. WORKERS=0 runs all in one process.
WORKERS ?= 2
# These start and kill whole stacks of processes: nothing else beside them.
ALONE := tests/e2e tests/faults
PARALLEL := --numprocesses $(WORKERS) --dist loadfile
COMPUTING := tests/parity tests/unit/test_engine_model.py tests/unit/test_batch_invariance.py \
             tests/unit/test_quantised_checkpoint.py tests/equality

test-full-width: .venv/test.stamp ## parity at the full width of the 4B model (slow, below 6 GB of memory)
	$(BIN)/python -m pytest -m slow tests/parity

test-equality: .venv/test.stamp ## 200 mixes of requests: every answer as if alone (slow); JSON=FILE keeps fast mode's drift
	OMP_NUM_THREADS=1 EQUALITY_JSON=$(JSON) $(BIN)/python -m pytest -m slow tests/equality

test-faults: .venv/test.stamp ## SIGKILL every process in the middle of things, 20 times over (slow)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/faults

soak: .venv/test.stamp ## 10,000 requests with every kind of trouble, and nothing left of them (slow)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/soak

check: lint types imports check-protos check-client check-manifests check-licences ## everything but the tests

format: .venv/check.stamp ## rewrite the code and the protos in the one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format -w

lint: .venv/check.stamp
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .

types: .venv/check.stamp .venv/test.stamp
	$(BIN)/mypy

imports: .venv/check.stamp
	$(BIN)/lint-imports --no-logo

check-manifests: .venv/test.stamp
	$(BIN)/python -m deploy.checks.manifests

check-licences: .venv/test.stamp .venv/check.stamp
	$(BIN)/python -m deploy.checks.licences

# The client on the oldest versions pyproject.toml allows, with nothing else installed.
check-client: .venv-client/stamp
	PYTHONPATH=.:clients .venv-client/bin/python -m deploy.checks.client

# -- contract ----------------------------------------------------------------------------------------------------

PROTOS := $(sort $(wildcard protos/internvl/v1/*.proto))
PROTOC = .venv-protos/bin/python -m grpc_tools.protoc --proto_path=protos \
    --plugin=protoc-gen-mypy=.venv-protos/bin/protoc-gen-mypy \
    --plugin=protoc-gen-mypy_grpc=.venv-protos/bin/protoc-gen-mypy_grpc

define generate
	rm -rf $(1)/internvl/v1/*_pb2*
	mkdir -p $(1)
	$(PROTOC) --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS)
	$(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(filter %_service.proto,$(PROTOS))
endef

protos: .venv-protos/stamp ## write the stubs of internvl/v1 from the protos
	$(call generate,.)

# Against the last release: lint and format of the protos, no breaking change, stubs that match them.
check-protos: .venv-protos/stamp .venv/check.stamp
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against protos/released.json
	@rm -rf build/protos
	@$(call generate,build/protos)
	diff --recursive --exclude=__init__.py --exclude=__pycache__ build/protos/internvl/v1 internvl/v1

protos-release: .venv/check.stamp ## make today's protos the ones that later changes must not break
	$(BIN)/buf build --exclude-source-info --output protos/released.json

# -- install -----------------------------------------------------------------------------------------------------

.venv/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer, please: make PYTHON=...")'
	$(PYTHON) -m venv .venv

.venv/runtime.stamp: $(LOCKS)/runtime.lock pyproject.toml | .venv/pyvenv.cfg
	@echo 'Installing what the services need, once: 1.1 GB on disk'
	@$(BIN)/python $(PIP) --require-hashes -r $(LOCKS)/runtime.lock
	@PYTHONWARNINGS=ignore $(BIN)/python $(PIP) --no-deps --editable .
	@touch $@

# Without a compiler it says so in a line, and everything runs on Paddle's own operators.
.venv/kernels.stamp: .venv/runtime.stamp $(wildcard kernels/native/*.py kernels/native/source/*)
	@echo 'Building the native operators, once: about a minute'
	-@$(BIN)/python -m kernels.native
	@touch $@

.venv/test.stamp: $(LOCKS)/test.lock .venv/runtime.stamp
	@echo 'Installing what the tests need, once: torch and transformers among it'
	@$(BIN)/python $(PIP) -r $(LOCKS)/test.lock
	@touch $@

.venv/check.stamp: $(LOCKS)/check.lock | .venv/pyvenv.cfg
	@echo 'Installing the checkers, once'
	@$(BIN)/python $(PIP) --require-hashes -r $(LOCKS)/check.lock
	@touch $@

.venv-protos/stamp: $(LOCKS)/protos.lock
	$(PYTHON) -m venv .venv-protos
	@.venv-protos/bin/python $(PIP) --require-hashes -r $(LOCKS)/protos.lock
	@touch $@

.venv-client/stamp: $(LOCKS)/client-floor.lock pyproject.toml
	$(PYTHON) -m venv .venv-client
	@.venv-client/bin/python $(PIP) --require-hashes -r $(LOCKS)/client-floor.lock
	@touch $@

# One file per set of packages, each held to the versions of the ones before it. test.lock leaves out what a CUDA
# build of torch brings, and has no hashes: which build of torch to take is the machine's choice.
UV = .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header $(UPGRADE) pyproject.toml
HASHED = $(UV) --generate-hashes
HELD := --constraint $(LOCKS)/runtime.lock

lock: .venv-lock/pyvenv.cfg ## resolve the lock files anew; UPGRADE=--upgrade moves to the newest versions
	$(HASHED) --extra all --extra nano --output-file $(LOCKS)/runtime.lock
	$(HASHED) --extra vision --extra cpu $(HELD) --output-file $(LOCKS)/vision.lock
	$(HASHED) --extra llm --extra cpu $(HELD) --output-file $(LOCKS)/llm.lock
	$(UV) --extra test $(HELD) --no-annotate --output-file $(LOCKS)/test.lock
	sed -i -E -e '/^(cuda|nvidia|triton)-?/d' -e '/^torch==/d' $(LOCKS)/test.lock
	sed -n -E 's/^ *"(torch==[^"]*)",/\1/p' pyproject.toml >> $(LOCKS)/test.lock
	$(HASHED) --extra gateway --extra s3 $(HELD) --constraint $(LOCKS)/test.lock --output-file $(LOCKS)/gateway.lock
	$(HASHED) --extra check $(HELD) --constraint $(LOCKS)/test.lock --output-file $(LOCKS)/check.lock
	$(HASHED) --resolution lowest-direct --output-file $(LOCKS)/client-floor.lock
	$(HASHED) --extra protos --output-file $(LOCKS)/protos.lock

.venv-lock/pyvenv.cfg:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) 'uv>=0.9'

clean: ## remove the virtual environments and everything built
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
