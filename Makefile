# `make demo` runs the embedded model, `make test` the fast tests; each sets up all that it needs,
# once: the demo a light environment, to which the tests add torch and their tools.
# `make test-all` adds the slow tests, `make hostile` everything that hostile input could do (a part
# of it is among the tests); `make fuzz EXAMPLES=5000` searches for more.
# `make exporters` runs the exporters' tests with transformers and Keras, in an environment of its
# own. `make serving` runs the tests of servers, remote models and jobs against real Triton, KServe
# and MLServer servers and Ray, in three environments: their pins exclude each other's and ours.
# `make openvino` runs the core of the tests on OpenVINO's build of ONNX Runtime, in another one.
# `make docs` builds the documentation into site/; warnings are errors.
# `make zoo` compares gradients with PyTorch's on the architectures of three libraries, then exports
# and explains some of them and of Keras, in about two hours; it resumes where it was stopped.
# Another interpreter: `make demo PYTHON=python3.12`.

comma := ,
VENV := .venv
INSTALLED := $(VENV)/.installed
PACKAGES := -e '.[cpu]'
DEV := $(VENV)/.dev
DEV_PACKAGES := -e '.[cpu,dev]'
DOCS := $(VENV)/.docs
DOCS_PACKAGES := -e '.[cpu,docs]'
EXPORTERS := .exporters
EXPORTERS_INSTALLED := $(EXPORTERS)/.installed
EXPORTERS_PACKAGES := -e '.[cpu,test,transformers,keras]'
SERVING := .serving
SERVING_INSTALLED := $(SERVING)/.installed
TRITON := .serving-triton
TRITON_INSTALLED := $(TRITON)/.installed
MLSERVER := .serving-mlserver
MLSERVER_INSTALLED := $(MLSERVER)/.installed
OPENVINO := .openvino
OPENVINO_PACKAGES := -e '.[test]' onnxruntime-openvino
OPENVINO_INSTALLED := $(OPENVINO)/.installed
OPENVINO_TESTS := providers models gradients methods test_batch.py test_explainer.py test_live_stack.py
EXAMPLES := 1000
# Small matrices are slower in several threads, the more so beside another worker of the tests.
PYTEST := OPENBLAS_NUM_THREADS=1 $(VENV)/bin/pytest
ZOO := .zoo
ZOO_PACKAGES := -e '.[cpu,torchvision,timm,transformers,keras]'
ZOO_INSTALLED := $(ZOO)/.installed
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11)

.PHONY: demo test test-all hostile fuzz exporters serving openvino docs lint types zoo clean

demo: $(INSTALLED)
	$(VENV)/bin/ibisa-onnx demo -o out/

test: $(DEV)
	$(PYTEST) -n 2

test-all: $(DEV)
	$(PYTEST) -n 2 -m 'not hostile'

hostile: $(DEV)
	$(PYTEST) tests/hostile -m hostile

exporters: $(EXPORTERS_INSTALLED)
	$(EXPORTERS)/bin/pytest tests/exporters/test_frameworks.py tests/exporters/test_weights.py

serving: $(SERVING_INSTALLED) $(TRITON_INSTALLED) $(MLSERVER_INSTALLED)
	IBISA_TRITON_PYTHON=$(CURDIR)/$(TRITON)/bin/python \
	IBISA_MLSERVER_PYTHON=$(CURDIR)/$(MLSERVER)/bin/python \
	OPENBLAS_NUM_THREADS=1 $(SERVING)/bin/pytest tests/serving tests/monitor/test_exporting.py -m 'not hostile'

openvino: $(OPENVINO_INSTALLED)
	IBISA_TEST_PROVIDER=openvino OPENBLAS_NUM_THREADS=1 \
	$(OPENVINO)/bin/pytest -n 2 $(addprefix tests/,$(OPENVINO_TESTS))

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

fuzz: $(DEV)
	FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) tests/fuzz tests/test_explanation.py

lint: $(DEV)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: $(DEV)
	$(VENV)/bin/mypy

zoo: $(ZOO_INSTALLED)
	$(ZOO)/bin/python benchmarks/zoo.py --write docs/reference/operators.md
	$(ZOO)/bin/python benchmarks/exports.py --write docs/how-to/export.md

clean:
	rm -rf $(VENV) $(EXPORTERS) $(SERVING) $(TRITON) $(MLSERVER) $(OPENVINO) $(ZOO) out site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is made afresh when the packages it should hold change, so that it holds no others.
define new_environment
	@for python in $(PYTHONS); do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Setting up $(1) with $$($$python --version); this takes $(4), once."; \
			exec $$python -m venv --clear $(1); \
		fi; \
	done; \
	echo "make: no Python 3.11 or later among: $(PYTHONS). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1
	$(1)/bin/pip install --quiet --disable-pip-version-check -c $(2) setuptools
	$(call packages,$(1),$(2),$(3))
endef

define packages
	$(1)/bin/pip install --quiet --disable-pip-version-check --no-build-isolation -c $(2) $(3)
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(call new_environment,$(VENV),constraints.txt,$(PACKAGES),about a minute)
	@touch $@

$(DEV): $(INSTALLED)
	@echo "Adding torch and what tests need to $(VENV); this takes a few minutes, once."
	$(call packages,$(VENV),constraints.txt,$(DEV_PACKAGES))
	@touch $@

$(DOCS): $(INSTALLED)
	$(call packages,$(VENV),constraints.txt,$(DOCS_PACKAGES))
	@touch $@

$(EXPORTERS_INSTALLED): pyproject.toml constraints.txt
	$(call new_environment,$(EXPORTERS),constraints.txt,$(EXPORTERS_PACKAGES),some minutes)
	@touch $@

$(SERVING_INSTALLED): pyproject.toml constraints/serving.txt
	$(call new_environment,$(SERVING),constraints/serving.txt,-e '.[cpu$(comma)serving-test]',some minutes)
	@touch $@

$(TRITON_INSTALLED): pyproject.toml constraints/triton.txt
	$(call new_environment,$(TRITON),constraints/triton.txt,-e '.[cpu$(comma)triton]',a few minutes)
	@touch $@

$(MLSERVER_INSTALLED): pyproject.toml constraints/mlserver.txt
	$(call new_environment,$(MLSERVER),constraints/mlserver.txt,-e '.[cpu$(comma)mlserver]',a few minutes)
	@touch $@

$(OPENVINO_INSTALLED): pyproject.toml constraints/openvino.txt
	$(call new_environment,$(OPENVINO),constraints/openvino.txt,$(OPENVINO_PACKAGES),a few minutes)
	@touch $@

$(ZOO_INSTALLED): pyproject.toml benchmarks/zoo.txt
	$(call new_environment,$(ZOO),benchmarks/zoo.txt,$(ZOO_PACKAGES),many minutes)
	@touch $@
