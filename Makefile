# make demo: the main job on the embedded models. make test: the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo study gpu-study test gpu lint install clean

demo: install
	$(BIN)/kbit demo

# The study of docs/embedded-study.md from the beginning: hours on two cores. `kbit study` alone
# writes the document again from the committed results.
study: install
	$(BIN)/kbit sweep sweeps/embedded.yaml --db results/embedded.db
	$(BIN)/kbit outliers sotu-neox sotu-opt --db results/embedded.db
	$(BIN)/kbit study docs/embedded-study --db results/embedded.db

# What makes models robust, at 34 million parameters on a GPU: make gpu-study TEXT=~/texts, a folder
# of .txt documents. Ten minutes; done again it goes on where it stopped.
gpu-study: install
	$(BIN)/kbit train-study sweeps/training-gpu.yaml --text $(TEXT)
	$(BIN)/kbit score-study sweeps/training-gpu.yaml
	$(BIN)/kbit study results/training-gpu --paper intriguing

# Tests use a part of what is installed: its modules are compiled when first imported.
test: export PIP_COMPILE = 0
test: install lint
	# The processes that tests start read compiled modules, whatever the environment says.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# All that needs an NVIDIA GPU, about ten minutes: tests, benchmark tables, compute-sanitizer. With
# WHEELS=FOLDER peers and the sanitizer are installed from wheels brought along (see the script).
gpu: install
	$(BIN)/python benchmarks/gpu.py $(if $(WHEELS),--wheels "$(WHEELS)")

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

# torch goes first: the constraints file pins the build that every other package is resolved against.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("kbit needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV)
