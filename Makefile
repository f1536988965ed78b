# The commands of this repository. `make help` lists them.

PYTHON ?= python3
PROFILE ?= default
SCREEN ?= simulated
DATA ?=
PLATEMAP ?=
FEATURES ?=
CHANNELS ?=
OUT ?= _build
SEED ?= 0
SURROGATE ?=
PARAMS ?=
ONLY ?=
PATTERN ?=
QUICK ?=
LARGE ?=

# What a user gives is text. Make would run a $(shell ...) in it, and the shell what follows a semicolon: it is kept as it
# was typed, and reaches a program through the environment alone. In a recipe write "$$OUT", and $(OUT) only to decide.
$(foreach name,PROFILE SCREEN FEATURES DATA PLATEMAP CHANNELS OUT SEED SURROGATE PARAMS ONLY PATTERN QUICK LARGE,$(eval override $(name) := $$(value $(name))))
export PROFILE SCREEN FEATURES DATA PLATEMAP CHANNELS OUT SEED SURROGATE PARAMS ONLY PATTERN

override BIN := .venv/bin
# Ctrl-C waits until Python can heed it, where there is GNU's env; otherwise Python's first tenth of a second answers it with a traceback.
override RUN := $(shell env --block-signal=INT true 2>/dev/null && echo env --block-signal=INT) $(BIN)/python -m tools.run
override INSTALLED := .venv/.installed
override TESTED := .venv/.tested
override PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help book report lab student check data table test lint study bench simulate faults notebooks clean

help:
	@echo 'make book       build the book; prints the path of its first page'
	@echo '                PROFILE=tiny|default|paper  SCREEN=simulated|bbbc021|kimorph|PATH.csv  DATA=DIR'
	@echo '                OUT=DIR  SEED=N  SURROGATE=column,column  PARAMS="key=value ..."'
	@echo '                of a table: DATA=DIR:DIR where its images lie  PLATEMAP=TABLE what its wells hold  CHANNELS=name,name'
	@echo 'make report     what SCREEN=PATH.csv (or bbbc021, kimorph) shows: a summary, then figures and tables step by step;'
	@echo '                make book gives the same on a screen that is not simulated'
	@echo '                FEATURES=PATH,PATH tables of features that are there already, alone or next to the network of SCREEN'
	@echo 'make lab        open the notebooks of the book in JupyterLab, numbers filled in: OUT=DIR'
	@echo 'make student    the same notebooks without solutions, for a class: OUT=DIR, written to DIR/student'
	@echo 'make check      examine a screen before a report is made of it: SCREEN=PATH.csv, or bbbc021|kimorph DATA=DIR;'
	@echo '                with the DATA, PLATEMAP, CHANNELS and PARAMS that the report will be given'
	@echo 'make data       fetch a public screen: SCREEN=bbbc021 DATA=DIR  ONLY=Week1,Week2_24381 for a part of it'
	@echo '                or the Gene Ontology: SCREEN=kimorph DATA=DIR'
	@echo '                or the tables of the chapter on real plates: SCREEN=ljosa|jumpmoa|lincs DATA=DIR'
	@echo 'make table      write the table of a folder as a microscope left it: SCREEN=FOLDER OUT=FILE.csv'
	@echo '                PATTERN=REGEX for names of your own, with groups such as (?P<well>[A-P]\d+)'
	@echo 'make test       run the test suite, with coverage, the reason of every skip and the slowest 20'
	@echo '                QUICK=1: without the files that take longest, and without coverage'
	@echo 'make lint       look at the code: formatter, linter, types'
	@echo 'make study      run seeds, variants and baselines; writes book/recorded (SCREEN=PATH.csv: on that screen)'
	@echo 'make bench      measure every stage beside a textbook version and the limit; writes book/recorded/bench.json'
	@echo '                LARGE=1: a screen of 5,000 fields from end to end, bench-large.json  ONLY=stage,stage: printed only'
	@echo '                QUICK=1: tiny sizes, printed only  OUT=FILE.json: written there'
	@echo 'make simulate   write a simulated screen alone: OUT=DIR (new, empty, or such a screen) SEED=N  SCREEN=kimorph for that one'
	@echo 'make faults     kill, fill and damage small runs; print what happened and what was kept'
	@echo 'make notebooks  bring the .md and .ipynb of each notebook into step'
	@echo 'make clean      remove the default output folder, reruns and caches; what others put there stays'

# PyTorch comes by its version and after the rest: its builds differ between indexes and machines, so no hash fits all of them.
$(INSTALLED): requirements.txt requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo 'error: Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) install "$$(grep ^torch== requirements.txt)"
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) check
	@touch $@

# What the tests and the linter need besides.
$(TESTED): $(INSTALLED) requirements-tests.lock
	$(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements-tests.lock
	$(PIP) check
	@touch $@

book report: $(INSTALLED)
	@test "$@:$$SCREEN:$$FEATURES" != report:simulated: || \
	    { echo 'error: name the screen or the features: make report SCREEN=PATH.csv, make report FEATURES=PATH' >&2; exit 2; }
	@$(RUN) doit run
	@$(BIN)/python -c 'import os; print(os.path.realpath(os.path.expanduser(os.environ["OUT"]) + "/html/index.html"))'

lab: $(INSTALLED)
	@$(BIN)/python -m mcnn_book lab --out "$$OUT"

student: $(INSTALLED)
	@$(RUN) tools.student

check: $(INSTALLED)
	@$(RUN) mcnn_book check --screen "$$SCREEN" --data "$$DATA" --out "$$OUT" --platemap "$$PLATEMAP" --channels "$$CHANNELS" \
	    --params "$$PARAMS"

data: $(INSTALLED)
	@$(RUN) mcnn_book data --screen "$$SCREEN" --data "$$DATA" --only "$$ONLY"

table: $(INSTALLED)
	@$(RUN) mcnn_book table --screen "$$SCREEN" --out "$$OUT" --pattern "$$PATTERN"

test: $(TESTED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations 20 \
	    $(if $(QUICK),-m 'not slow',--cov --cov-report=term-missing:skip-covered)

lint: $(TESTED)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

study: $(INSTALLED)
	$(RUN) mcnn_book study $(if $(filter-out simulated,$(SCREEN)),--screen "$$SCREEN")

bench: $(INSTALLED)
	$(RUN) benchmarks $(if $(QUICK),--quick) $(if $(LARGE),--large) --only "$$ONLY" $(if $(filter-out _build,$(OUT)),--out "$$OUT")

simulate: $(INSTALLED)
	@test "$$OUT" != _build || { echo 'error: name the folder of the screen: make simulate OUT=DIR' >&2; exit 2; }
	$(RUN) mcnn_book simulate $(if $(filter kimorph,$(SCREEN)),--screen kimorph) --out "$$OUT" --seed "$$SEED"

faults: $(TESTED)
	@$(BIN)/python -m tests.faults --record

notebooks: $(INSTALLED)
	@$(RUN) tools.book

clean: $(INSTALLED)
	@$(BIN)/python -m mcnn_book clean
	rm -rf .coverage .pytest_cache
