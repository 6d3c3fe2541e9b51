# make demo     set everything up in .venv, then show the main job
# make test     set everything up in .venv, then run the tests in random order; PYTEST="-n 2" takes two processes,
#               PYTEST="--randomly-seed=N" the order that was printed, PYTEST="-p no:randomly" that of the files
# make coverage run the tests with every line counted, also in the processes that they start; Qt for Python is installed for it
# make mutate   put one fault after the other into scheduler, mask, outlook and policies, and count those that tests notice;
#               MUTATE="--max-children 1" takes one process, MUTATE='slice_ros.mask*' some of them
# make chaos    break a running server 210 times; make soak loads one for half an hour, make fuzz sends 100,000 wrong inputs;
#               make door does all three to the gateway, make fleet takes the servers behind a dispatcher away 200 times
# make docs     build the documentation as a site with search, build/site
# make lint     ruff, mypy --strict
# make install  set everything up in .venv; CUDA=1 for NVIDIA GPUs, RPC=1 for a model on several computers, ROS=jazzy for that ROS 2 instead of
#               Kilted where none is sourced, PYTHON=python3.12 for that one; remembered from then on, until CUDA= or make clean
# make train    train the default model, with PyTorch in an environment of its own; make evaluate asks it for held-out examples;
#               make reasoner trains the toy that benchmarks of reasoning ask
VENV   ?= .venv
BIN    := $(VENV)/bin

TRAIN_VENV ?= .venv-train
MODEL := models/robot-q8_0.gguf
CHECKPOINT := build/robot.pt

.PHONY: install demo test coverage mutate chaos soak fuzz door fleet docs lint train evaluate reasoner clean
install: $(VENV)/.installed

# scripts/install.sh builds llama.cpp with the flags this machine needs, and with the parts asked for, now or before; also where
# another ROS 2 is sourced than then, or none any more.
PARTS_BEFORE := $(shell cat $(VENV)/.installed 2>/dev/null)
given_or_before = $(if $(filter undefined,$(origin $(1))),$(filter $(1)=%,$(PARTS_BEFORE)),$(addprefix $(1)=,$($(1))))
PARTS := $(strip $(foreach part,PYTHON ROS CUDA RPC,$(call given_or_before,$(part))) $(addprefix ROS_DISTRO=,$(ROS_DISTRO)))
ifneq ($(PARTS),$(PARTS_BEFORE))
.PHONY: $(VENV)/.installed
endif
$(VENV)/.installed: pyproject.toml scripts/install.sh scripts/interfaces/pyproject.toml CMakeLists.txt $(wildcard action/* msg/* srv/*)
	env $(PARTS) bash scripts/install.sh $(VENV)
	echo "$(PARTS)" > $@

demo: install
	$(BIN)/slice-ros demo $(DEMO)

test: install
	$(BIN)/python -m pytest $(PYTEST)

coverage: install
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,monitor]"
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

mutate: install
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,mutation]"
	$(BIN)/mutmut run $(MUTATE)
	$(BIN)/mutmut results

docs: install
	$(BIN)/mkdocs build --strict --quiet
	@echo "see build/site/index.html"

chaos soak fuzz door fleet: install
	$(BIN)/python -m reliability.$@ $(ARGUMENTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(TRAIN_VENV)/.installed: training/requirements.txt
	$(or $(PYTHON),python3) -m venv $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/pip install --quiet -r training/requirements.txt
	touch $@

train: $(TRAIN_VENV)/.installed
	$(TRAIN_VENV)/bin/python -m training.train --output $(CHECKPOINT) $(TRAIN)
	$(TRAIN_VENV)/bin/python -m training.export $(CHECKPOINT) --output $(MODEL) --golden test/robot_golden.json
	$(TRAIN_VENV)/bin/python -m training.export $(CHECKPOINT) --output $(CHECKPOINT:.pt=-f32.gguf) --type f32

evaluate: install
	$(BIN)/python -m training.evaluate $(MODEL) $(EVALUATE)

reasoner: $(TRAIN_VENV)/.installed
	$(TRAIN_VENV)/bin/python -m training.reasoner $(REASONER)

clean:
	rm -rf $(VENV) $(TRAIN_VENV) build install log mutants *.egg-info
