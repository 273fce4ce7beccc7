# Everything a contributor needs; `make` alone lists the targets. The environment is .venv: the first
# target that needs it makes it, and pyproject.toml, when changed, makes it again. EXTRAS=dev,docs
# leaves out torch and the trainers (1.5 GB), and with them what the tests of the cookbook need.
# On Linux without an NVIDIA GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the small torch.

PYTHON ?= python3
EXTRAS ?= dev,docs,cookbook
# At a time, on one thread each: small models are sooner done so than one by one on all threads.
JOBS ?= 2
test recipes: export OMP_NUM_THREADS := 1
BIN := .venv/bin

# A checkout that was moved has an environment full of old paths; it is set up again.
MOVED := $(shell test "$$(cat .venv/.installed 2>/dev/null)" = "$$(pwd)" || echo moved)
CASES := examples/support-bot.yaml \
    $(filter-out examples/support-bot.yaml,$(sort $(wildcard examples/*.yaml)))

RECIPES := $(shell ls nbs/recipes/*.ipynb | sed 's:.*/[0-9]*_::; s:[.]ipynb$$::; s:_:-:g')

.DEFAULT_GOAL := help
.PHONY: help demo test recipes lab prepare docs export sync check lint types gpu-test clean distclean moved

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'

.venv/.installed: pyproject.toml $(MOVED)
	@.ci/setup.sh '$(PYTHON)' '$(EXTRAS)'

moved:

demo: .venv/.installed ## advise on a case, then run the recommended recipe on the lab model
	@for case in $(CASES); do \
		echo; echo "== advisor ask --answers $$case"; \
		$(BIN)/advisor ask --answers "$$case" || exit $$?; \
	done
	@echo; echo "== the recommended recipe of $(firstword $(CASES)), on the lab model"
	@$(BIN)/python -c 'from cookbook.demo import main; main()' $(firstword $(CASES))

test: .venv/.installed ## the notebooks' own tests, then pytest
	@echo "== notebooks (recipes excepted: pytest runs them)"
	@$(BIN)/nbdev-test nbs --n-workers $(JOBS)
	@echo "== pytest"
	@$(BIN)/pytest -n $(JOBS) --dist loadfile

recipes: .venv/.installed ## run every recipe on the lab model; results in build/recipes
	@mkdir -p build/recipes
	@printf '%s\n' $(RECIPES) | xargs -P $(JOBS) -I% sh -c '\
		$(BIN)/cookbook run % --output build/recipes/% --resume >build/recipes/%.log 2>&1; code=$$?; \
		echo "== cookbook run %"; cat build/recipes/%.log; [ $$code = 0 ] || exit 255'

lab: .venv/.installed ## train the lab models again and write their card (an hour on two cores)
	@$(BIN)/cookbook run lab-pretraining --mode full --set weights=cookbook/lab/weights \
		--output build/lab --resume

# Without an NVIDIA GPU the same scripts run on the CPU, with toy models where memory is measured.
gpu-test: .venv/.installed ## recipes and training memory on this machine's GPU (nine minutes; MODEL=...)
	@began=$$(date +%s); \
	$(BIN)/python benchmarks/gpu_recipes.py $(if $(shell command -v nvidia-smi),,--device cpu) \
		$(if $(MODEL),--model '$(MODEL)') --minutes 6; recipes=$$?; \
	$(BIN)/python benchmarks/gpu_memory.py $(if $(shell command -v nvidia-smi),,--device cpu --tiny) \
		--budget $$((520 + began - $$(date +%s))) && exit $$recipes

prepare: ## before a commit: export, clean, lint, types, test
	@$(MAKE) --no-print-directory export
	@$(MAKE) --no-print-directory clean
	@$(MAKE) --no-print-directory lint types
	@$(MAKE) --no-print-directory test

docs: .venv/.installed ## the site, in build/site
	@$(BIN)/python -m sphinx -q -E -W --keep-going -b html nbs build/site
	@$(BIN)/python nbs/_ext/offline.py build/site
	@echo "Open build/site/index.html"

export: .venv/.installed ## notebooks to advisor/, cookbook/ and README.md
	@$(BIN)/python -m cookbook.build export

sync: .venv/.installed ## edits in advisor/ and cookbook/ back into the notebooks
	@$(BIN)/python -m cookbook.build sync

check: .venv/.installed ## are notebooks and packages in step?
	@$(BIN)/python -m cookbook.build check

lint: .venv/.installed ## ruff, on modules, tests and notebooks
	@$(BIN)/ruff check .

types: .venv/.installed ## mypy, on advisor and cookbook
	@$(BIN)/mypy

clean: .venv/.installed ## strip counts and metadata from the notebooks
	@$(BIN)/nbdev-clean --fname nbs

distclean: ## remove everything that was made: environment, build, caches
	@rm -rf .venv .venv.lock build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
