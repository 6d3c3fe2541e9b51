# make demo     set everything up in .venv, then show the main job
# make test     set everything up in .venv, then run the tests
# make lint     ruff, mypy --strict
# make install  set everything up in .venv
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: install demo test lint clean
install: $(VENV)/.installed

# scripts/install.sh builds llama.cpp with the flags this machine needs.
$(VENV)/.installed: pyproject.toml scripts/install.sh
	PYTHON=$(PYTHON) bash scripts/install.sh $(VENV)
	touch $@

demo: install
	$(BIN)/slice-ros demo $(DEMO)

test: install
	$(BIN)/python -m pytest $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build install log *.egg-info
