# flywheel: `make up` runs it, `make test` shows that it works, `make help` lists the rest.
# Arguments go through: make up ARGS="--for 10m --report report.json" PORT=9090

.DEFAULT_GOAL := help
.PHONY: help up test torture seeded-bugs build check bench web libtorch venv clean-data

ARGS ?=
PORT ?=
PYTHON ?= python3
FEATURES ?=
export PYTHON YES FEATURES

help: ## list these targets
	@printf 'usage: make TARGET [ARGS="..."] [PORT=8080] [PYTHON=python3] [FEATURES="kafka redis-tls"]\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: ## get what is missing, build, run the loop (first time: about 15 minutes on 2 cores; later: seconds)
	@scripts/up.sh $(if $(PORT),--port $(PORT)) $(ARGS)

test: ## get what is missing and run every test (first time: about 25 minutes on 2 cores)
	@scripts/test.sh

torture: ## kills, power cuts and faults by the hundred, on each log, store and catalog (more than an hour on 2 cores; ARGS="--only T6" for some)
	@scripts/torture.sh $(ARGS)

seeded-bugs: ## build with seeded faults and show that each is found (about 10 minutes; ARGS="ack-before-write" for one)
	@scripts/seeded-bugs.sh $(ARGS)

build: ## build every program in release, trainer included (first time: about 15 minutes on 2 cores)
	@scripts/build.sh

check: ## rustfmt, clippy, the layer table, unused dependencies, golden files, metrics (first time: about 5 minutes)
	@cargo xtask check $(ARGS)

bench: ## build, get the peers, measure against them (about 15 minutes; ARGS="replay --peer --json" for one)
	@scripts/bench.sh $(ARGS)

web: ## build the page into dashboards/web/dist (under a minute)
	@scripts/web.sh build

libtorch: ## get libtorch into .libtorch (544 MB, a minute or two)
	@scripts/libtorch.sh

venv: ## get the Python packages of the tests into .venv (under a minute)
	@scripts/venv.sh test

clean-data: ## remove ./data: events, tables, models (asks first; builds and downloads stay)
	@scripts/clean-data.sh $(ARGS)
