# `make demo` runs the main job, `make test` the tests; each sets up all it needs, once.
# Another interpreter: `make demo PYTHON=python3.12`.

VENV := .venv
INSTALLED := $(VENV)/.installed
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)

.PHONY: demo test lint types clean

demo: $(INSTALLED)
	$(VENV)/bin/ibisa-onnx demo -o out/

test: $(INSTALLED)
	$(VENV)/bin/pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(INSTALLED)
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made afresh when the packages it should hold change, so that it holds no others.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHONS); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Setting up $(VENV) with $$($$python --version); this takes a few minutes, once."; \
			exec $$python -m venv --clear $(VENV); \
		fi; \
	done; \
	echo "make: no Python 3.11 or later among: $(PYTHONS). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints.txt -e '.[cpu,dev]'
	@touch $@
