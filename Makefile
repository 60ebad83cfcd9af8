# make demo: install what is locked, run the embedded demo screen.   make test: install, run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Options of pip for PyTorch alone, which choose another build, such as the CPU one: make demo TORCH_ARGS="..." (README.md).
TORCH_ARGS ?=
export DO_NOT_TRACK := 1

.PHONY: demo test slow check mutants clean

demo: $(VENV)/.installed
	$(BIN)/kedro run --pipelines demo

# A worker a core, each with one thread: the same tests take two thirds of the time on two cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# What takes longer: the real data and a Chromium (where they are at hand), kedro viz, the built wheel, a killed run that goes on.
slow: $(VENV)/.installed
	$(PYTEST) -m slow

# Do the tests notice a wrong line? make mutants COUNT=200 SEED=1
COUNT ?= 200
SEED ?= 1
mutants: $(VENV)/.installed
	$(BIN)/python .ci/mutants.py --count $(COUNT) --seed $(SEED)

check: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Written last, so a broken installation is taken up again; redone when the locked versions change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing DeepNoise into $(VENV): the first time this downloads about 3.3 GB and takes 6.8 GB of disk,"
	@echo "nearly all of it PyTorch with its GPU libraries. README.md tells how to take the small CPU build."
	$(PYTHON) -c "import sys; sys.exit('DeepNoise needs Python 3.11.1 or newer, this is ' + sys.version.split()[0] + '; name another as make PYTHON=python3.12' if sys.version_info < (3, 11, 1) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifneq ($(TORCH_ARGS),)
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt $(TORCH_ARGS) torch torchvision
endif
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e ".[viz,dev]"
	touch $@

clean:
	rm -rf $(VENV)
