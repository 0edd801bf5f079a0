# `make demo` runs the main job, `make test` the tests; each makes a virtual environment with what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto
TORCH := 2.13.0
TORCHVISION := 0.28.0
TRITON := 3.8.0

.PHONY: demo test lint weights clean

demo: $(VENV)/.ready
	$(BIN)/streamprune demo

# The second run is of the kernels themselves: Triton's interpreter executes them on the CPU where there is no GPU.
# Then on a device that only says it is one, which torch keeps as long as the process lives.
test: $(VENV)/.ready
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) tests/operator tests/cache -k triton
	$(PYTEST) tests/device
	TRITON_INTERPRET=1 $(PYTEST) tests/device -k "operator or once and (qwen2_5_vl or internvl)"

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Trains the small model that ships again, from nothing, to the same weights: an hour on a CPU core. Killed, it goes on.
weights: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy.train --out trained/plain --seed 0
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.accuracy.carriers.train --out trained/model --one-steps 0 \
	  --weights trained/plain/model.safetensors

# On a machine with a GPU torch brings its CUDA and its own Triton; elsewhere the CPU build is taken, from what pip is
# set up for, from PyTorch's index, or (where no build is marked so, as on macOS) the plain one.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	if command -v nvidia-smi >/dev/null 2>&1; then \
	  $(PIP) install torch==$(TORCH) torchvision==$(TORCHVISION); \
	else \
	  $(PIP) install torch==$(TORCH)+cpu 2>/dev/null \
	  || $(PIP) install torch==$(TORCH)+cpu torchvision==$(TORCHVISION)+cpu --extra-index-url https://download.pytorch.org/whl/cpu \
	  || $(PIP) install torch==$(TORCH); \
	  [ "$$(uname)" != Linux ] || $(PIP) install triton==$(TRITON); \
	fi
	$(PIP) install -c constraints.txt -e ".[video,dev]"
	touch $@

clean:
	rm -rf $(VENV) streamprune-demo trained build dist
