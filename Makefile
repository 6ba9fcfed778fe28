# make demo   evaluates the shipped small model on held-out portraits beside classical methods,
#             fine-tunes it for two minutes, and evaluates it again
# make test   runs the tests
#
# Both create .venv when it is missing and install what they need, once.
#   PYTHON  interpreter for .venv, 3.11 or newer    (make test PYTHON=python3.12)
#   EXTRAS  extras to install: test, train, eval, classical, app, beam, cuda12, cuda13, gpu-aot, tpu    (make demo EXTRAS=test,cuda12)
#   DEMO    folder of the demo's results

PYTHON ?= python3
EXTRAS ?= test
DEMO ?= demo

empty :=
space := $(empty) $(empty)
comma := ,
STAMP := .venv/.installed-$(subst $(comma),-,$(subst $(space),,$(EXTRAS)))
RUN := .venv/bin/python

.PHONY: demo test slow lint install clean

demo: install
	$(RUN) main.py --config=configs/demo.py --workdir=$(DEMO)/before --mode=eval --config.eval.checkpoint=small
	$(RUN) main.py --config=configs/demo.py --workdir=$(DEMO)
	$(RUN) main.py --config=configs/demo.py --workdir=$(DEMO) --mode=eval --config.eval.baseline=$(DEMO)/before

# A process takes up to 6 GB. Tests of one file share what they compile, so one process has them all.
test: install
	$(RUN) -m pytest -n auto --maxprocesses=4 --dist loadfile

slow: install
	$(RUN) -m pytest -m slow

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m mypy

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than Python 3.11; name another with PYTHON=..."; exit 2; }
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -m pip install --upgrade --quiet pip
	$(RUN) -m pip install --quiet -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv $(DEMO)
