# The verbs of this project. `make` alone lists them; hooks and CI call the same ones.

PYTHON    ?= python3
VENV      ?= .venv
BIN       := $(VENV)/bin
EXPORTING := $(VENV)/.exporting
INSTALLED := $(VENV)/.installed
OLDEST    := build/oldest
NEWEST    := build/newest
MATRIX    := build/onnxruntime
LMMS      := build/lmms
CLIENTS   := build/clients
SERVING   := build/serving
RAY_SERVE := build/ray-serve
PAGE      := build/page
# The lower bound, two between, and the newest that is tested.
ONNXRUNTIMES = $(shell sed -nE 's/^cpu = .*onnxruntime>=([0-9.]+).*/\1/p' pyproject.toml) 1.26.0 1.30.0 $(shell sed -n 's/^onnxruntime==//p' constraints.txt)
TORCH     ?= $(shell sed -n '/^torch==/p' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

MODEL     ?= pebble/checkpoint
PRECISION ?= fp32
RECIPE    ?=
ADAPTER   ?=
OUT       ?= bundles/pebble-$(if $(RECIPE),$(basename $(notdir $(RECIPE))),$(PRECISION))
ARGS      ?=

DEMO      := bundles/pebble-fp32
IMAGE     ?= $(or $(PICTURE),pebble/heldout/stop-sign.png)
QUESTION  ?= Describe this picture in more detail.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup lock export run test test-oldest test-newest test-onnxruntime lmms ray-serve lint format types wheel accuracy real bench bench-quick cuda-check clients page-check serve-check pebble clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  variables: PYTHON, VENV, ARGS (more arguments for export, run and test)"

setup: $(INSTALLED) ## create .venv and install everything (CPU torch where there is no NVIDIA GPU)

# $(1): the bin folder of an environment. Without a GPU torch comes as a CPU wheel: from the configured indexes if they
# have one, else from PyTorch's own; PyPI's (with CUDA libraries) works too and is the last resort. What torch needs
# comes with everything else: PyTorch's index has old versions of it.
define install_torch
@if $(1)/pip freeze | grep -qE '^$(TORCH)(\+|$$)'; then :; \
elif command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then $(1)/pip install -q --no-deps $(TORCH); \
else \
	$(1)/pip install -q --no-deps "$(TORCH)+cpu" 2>/dev/null || \
	$(1)/pip install -q --no-deps $(TORCH) --index-url $(CPU_INDEX) 2>/dev/null || \
	$(1)/pip install -q --no-deps $(TORCH); \
fi
endef

# All that exporting and answering need, and no tools of development: `make run` waits for this alone.
$(EXPORTING): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pumice needs Python 3.11 or newer: make setup PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(call install_torch,$(BIN))
	$(BIN)/pip install -q -c constraints.txt -e ".[export]"
	@touch $@

$(INSTALLED): $(EXPORTING) optimum_plugin/pyproject.toml
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]" -e ./optimum_plugin
	@touch $@

# torch keeps its version unless it is given, for its CPU builds come from another index than everything else.
lock: ## pin the newest versions of everything in constraints.txt (TORCH=torch==2.14.1 to renew torch, too)
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	$(call install_torch,build/lock/bin)
	build/lock/bin/pip install -q -e ".[dev]"
	@{ echo "# The versions that pumice is developed and tested with; \`make setup\` installs them (pip install -c)."; \
	echo "# Written by \`make lock\`, with $$(build/lock/bin/python --version) on $$(uname -sm); then run the tests: .ci/run"; \
	echo "# torch stands without its build (+cpu, +cu…) and without the CUDA packages that some of its builds need."; \
	build/lock/bin/pip freeze --all --exclude-editable --exclude pip | sed -E '/^(nvidia|cuda|triton)/d; s/\+.*//'; \
	} >build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build/lock

export: $(EXPORTING) ## MODEL=<folder or hub id> PRECISION=fp32|int8|int4|… or RECIPE=<name or file> OUT=<folder> ADAPTER=<LoRA folders>: write a bundle
	$(BIN)/pumice export $(MODEL) $(OUT) $(if $(RECIPE),--recipe $(RECIPE),--precision $(PRECISION)) $(ADAPTER:%=--adapter %) $(ARGS)

run: $(EXPORTING) $(DEMO)/manifest.json ## the first answer: what exporting needs into .venv, the bundled model exported, and asked
	$(BIN)/pumice run $(DEMO) -i $(IMAGE) "$(QUESTION)" $(ARGS)

$(DEMO)/manifest.json: pebble/checkpoint/model.safetensors | $(EXPORTING)
	$(BIN)/pumice export pebble/checkpoint $(DEMO) --overwrite

# One process a core, each computing with one thread: quicker than one process with threads for all.
test: $(INSTALLED) ## the test suite (ARGS="-m 'not slow'" for a quick one)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

# What an installed wheel needs, at its lower bounds; bundles come from .venv, for there is no torch.
test-oldest: $(INSTALLED) $(OLDEST)/.installed ## the runtime's tests on the lower bounds of pyproject.toml
	$(BIN)/python -m tests.bounds export $(OLDEST)/bundles
	OMP_NUM_THREADS=1 $(OLDEST)/bin/pytest -n logical --maxprocesses 8 --dist worksteal -m "not slow" \
		--bundles $(OLDEST)/bundles tests/runtime $(ARGS)

$(OLDEST)/.installed: pyproject.toml constraints.txt tests/bounds.py
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) -m tests.bounds pins >$(OLDEST)/pins.txt
	$(OLDEST)/bin/pip install -q -r $(OLDEST)/pins.txt -e ".[cpu,parquet,serve,structured,video]"
	$(OLDEST)/bin/pip check
	@touch $@

# Made anew every time, for what is newest changes; torch as in `make lock`, but the newest.
test-newest: TORCH := torch
test-newest: ## all tests on the newest release of everything: minutes to install; ARGS as for test
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(call install_torch,$(NEWEST)/bin)
	$(NEWEST)/bin/pip install -q -e ".[dev]" -e ./optimum_plugin
	@echo "newer than constraints.txt, or not in it:"
	@$(NEWEST)/bin/pip freeze --exclude-editable | sed 's/+.*//' | grep -vxFf constraints.txt || true
	OMP_NUM_THREADS=1 $(NEWEST)/bin/pytest -n logical --maxprocesses 8 --dist worksteal $(ARGS)

# Bundles come from .venv; each version of onnxruntime has an environment of what an installed wheel needs.
test-onnxruntime: $(INSTALLED) $(ONNXRUNTIMES:%=$(MATRIX)/%/.installed) ## fp32, int8, int4, cpu-fast and cpu-w8a8 on old and new versions of onnxruntime: prints the table
	$(BIN)/python -m tests.onnxruntime_matrix export $(MATRIX)/bundles
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.onnxruntime_matrix compare $(MATRIX)/bundles $(ONNXRUNTIMES:%=$(MATRIX)/%)

$(MATRIX)/%/.installed: pyproject.toml constraints.txt
	rm -rf $(MATRIX)/$*
	$(PYTHON) -m venv $(MATRIX)/$*
	grep -v '^onnxruntime==' constraints.txt >$(MATRIX)/$*/constraints.txt
	$(MATRIX)/$*/bin/pip install -q -c $(MATRIX)/$*/constraints.txt -e . onnxruntime==$*
	@touch $@

# lmms-eval alone is installed there; the rest it finds in .venv, whose packages a line in a .pth file adds.
lmms: $(INSTALLED) $(LMMS)/.installed ## the plug-in for lmms-eval in lmms-eval itself: minutes to install
	OMP_NUM_THREADS=1 HF_HOME=$(CURDIR)/$(LMMS)/huggingface HF_HUB_OFFLINE=1 \
		$(LMMS)/bin/python -m pytest -W ignore tests/lmms $(ARGS)

$(LMMS)/.installed: pyproject.toml tests/lmms/requirements.txt
	rm -rf $(LMMS)
	$(BIN)/python -m venv $(LMMS)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(LMMS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_checkout.pth"
	$(LMMS)/bin/pip install -q --no-deps -r tests/lmms/requirements.txt -e .
	@touch $@

# Ray Serve is half a gigabyte, so that `make setup` leaves it out; the bundle comes from .venv, for there is no torch.
ray-serve: $(INSTALLED) $(RAY_SERVE)/.installed ## the server in Ray Serve, two replicas on this machine: minutes to install
	$(BIN)/pumice export pebble/checkpoint $(RAY_SERVE)/bundles/pebble-fp32 --overwrite
	OMP_NUM_THREADS=1 $(RAY_SERVE)/bin/python -m pytest -W ignore --bundles $(RAY_SERVE)/bundles tests/ray_serve $(ARGS)

$(RAY_SERVE)/.installed: pyproject.toml constraints.txt
	rm -rf $(RAY_SERVE)
	$(PYTHON) -m venv $(RAY_SERVE)
	$(RAY_SERVE)/bin/pip install -q -c constraints.txt -e ".[cpu,ray-serve]" hypothesis openai psutil pytest
	@touch $@

lint: $(INSTALLED) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Folders are not named as they are imported (runtime/ is pumice, export/ is pumice.export), so mypy gets a tree of links.
types: $(INSTALLED) ## mypy, strict
	@rm -rf build/types
	@mkdir -p build/types/pumice
	@ln -s $(addprefix $(CURDIR)/,$(filter-out runtime/__pycache__,$(wildcard runtime/*)) export models) build/types/pumice/
	$(BIN)/mypy

wheel: $(INSTALLED) ## sdist and wheel into dist/, and the wheel of optimum's command
	rm -rf build/lib build/bdist.* optimum_plugin/build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m build --no-isolation --wheel --outdir dist optimum_plugin

accuracy: $(INSTALLED) ## accuracy by recipe on four kinds of pebble, into docs/accuracy.md
	$(BIN)/python -m bench.accuracy --write $(ARGS)

real: $(INSTALLED) ## recipes and llama.cpp's formats on a real language model (downloads 90 MB), into docs/accuracy.md
	$(BIN)/python -m bench.real --write $(ARGS)

bench: $(INSTALLED) ## pumice beside its peers, into docs/benchmarks/cpu.md: hours (ARGS="--shape interleave-0.5b" for less)
	$(BIN)/python -m bench run --write $(ARGS)

bench-quick: $(INSTALLED) ## the same on small models, without installing anything or writing pages: minutes
	$(BIN)/python -m bench run --quick $(ARGS)

cuda-check: $(INSTALLED) ## on a machine with an NVIDIA GPU: parity, then the bench, into docs/benchmarks/cuda.md
	$(BIN)/python -m bench.cuda_check $(ARGS)

# Each client in an environment of its own, made once; a browser is used where there is a Chromium.
clients: $(INSTALLED) $(CLIENTS)/genai/.installed $(CLIENTS)/node/.installed ## Transformers.js, onnxruntime-genai and plain ONNX Runtime on bundles, openai-node and the AI SDK on `pumice serve`: the same answers? (needs node)
	PUMICE_CLIENTS=$(CLIENTS) OMP_NUM_THREADS=1 $(BIN)/pytest -s tests/clients $(ARGS)

$(CLIENTS)/genai/.installed: tests/clients/requirements.txt
	rm -rf $(CLIENTS)/genai
	$(PYTHON) -m venv $(CLIENTS)/genai
	$(CLIENTS)/genai/bin/pip install -q -r $<
	@touch $@

$(CLIENTS)/node/.installed: tests/clients/package.json
	rm -rf $(CLIENTS)/node
	mkdir -p $(CLIENTS)/node
	cp $< $(CLIENTS)/node/
	cd $(CLIENTS)/node && ONNXRUNTIME_NODE_INSTALL=skip npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

# Half an hour to an hour, mostly waiting; ARGS="soak --minutes 1" for a part of it.
serve-check: $(INSTALLED) $(DEMO)/manifest.json $(SERVING)/.installed ## what the server promises, tried at length: floods, leaving, drains, fuzz, a soak …
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.serving $(DEMO) $(ARGS)

$(SERVING)/.installed: tests/serving/requirements.txt
	rm -rf $(SERVING)
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/pip install -q -r $<
	@touch $@

# What drives the browser is installed there; the rest it finds in .venv, as lmms. The browser is the system's own.
page-check: $(INSTALLED) $(PAGE)/.installed ## the page of `pumice serve` in Chromium: what it does, keeps and looks like, axe, hostile texts
	PUMICE_PAGE=$(CURDIR)/$(PAGE) OMP_NUM_THREADS=1 $(PAGE)/bin/python -m pytest tests/page $(ARGS)

$(PAGE)/.installed: pyproject.toml tests/page/requirements.txt tests/page/package.json
	rm -rf $(PAGE)
	$(BIN)/python -m venv $(PAGE)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$($(PAGE)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/of_the_checkout.pth"
	$(PAGE)/bin/pip install -q --no-deps -r tests/page/requirements.txt -e .
	cp tests/page/package.json $(PAGE)/
	cd $(PAGE) && npm install --no-audit --no-fund --no-package-lock --loglevel=error
	@touch $@

pebble: $(INSTALLED) ## train the bundled model again (about an hour on two cores; ARGS=--restart from scratch)
	$(BIN)/python -m pebble.train $(ARGS)

clean: ## remove what was built; .venv, bundles and training state stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
