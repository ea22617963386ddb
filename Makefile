# make demo   trains one trunk with two heads on scanned digits, and predicts
# make test   runs the test suite
# make test-peers  compares numbers and files with timm, torchvision, transformers and others
# make lint   runs the linter and the type checker
# make docs   builds the site of the documentation into build/docs
# make bench  times us, the peers and the original into benchmarks/RESULTS.md; takes hours. ONLY="taps training"
#             replaces those sections of it, for what python -m benchmarks --help names
# Each makes .venv first, with the pinned versions in requirements/dev.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := build/peers/.ready
ORIGINAL := build/original/.ready
RUN ?= runs/digits

.PHONY: demo test test-all test-peers lint docs wheel bench clean

demo: $(READY)
	$(BIN)/classy train configs/digits.yaml --output $(RUN) --force
	$(BIN)/classy predict $(RUN) examples/digits/*.png --top 1

test: $(READY)
	$(BIN)/python -m pytest -n auto

test-all: $(READY)
	$(BIN)/python -m pytest -n auto -m ""

test-peers: $(READY) $(PEERS)
	PYTHONPATH=build/peers $(BIN)/python -m pytest -n auto tests/peers

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/sphinx-build -W --keep-going -n -q -b html docs build/docs

# Builds the wheel and uses it in an environment that has nothing else.
wheel: $(READY)
	rm -rf dist build/wheel-test
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/wheel-test
	build/wheel-test/bin/python -m pip install --quiet --constraint requirements/dev.txt dist/*.whl
	cd build && wheel-test/bin/classy show resnet18 --num-classes 10
	cd build && wheel-test/bin/python -c "import torch; from classy_vision.models import build_model; print(build_model('regnet_y_400mf', num_classes=10)(torch.zeros(1, 3, 64, 64)).shape)"

# Times us, the peers and the original, taking turns in one run. They stay out of the environment.
bench: $(READY) $(PEERS) $(ORIGINAL)
	PYTHONPATH=build/peers $(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY))

build/%/.ready: requirements/%.txt $(READY)
	rm -rf build/$*
	$(BIN)/python -m pip install --quiet --no-deps --target build/$* --requirement requirements/$*.txt
	touch $@

$(READY): requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) build dist
