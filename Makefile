# make demo: install what is locked, run the embedded demo screen.   make test: install, run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DO_NOT_TRACK := 1

.PHONY: demo test check clean

demo: $(VENV)/.installed
	$(BIN)/kedro run --pipelines demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.installed
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy

# Written last, so a broken installation is taken up again; redone when the locked versions change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing DeepNoise into $(VENV): the first time this downloads about 3.3 GB and takes 6.4 GB of disk,"
	@echo "nearly all of it PyTorch with its GPU libraries. README.md tells how to take the small CPU build."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e ".[viz,dev]"
	touch $@

clean:
	rm -rf $(VENV)
