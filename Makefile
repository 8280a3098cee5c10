# The targets of this project; `make help` lists them. Every target works as root and as an ordinary user.

GO ?= go

# Tests need a PostgreSQL server; withpostgres starts one for the time of a command and says at the end whether it did.
# testsum runs go test and ends with a list of what was skipped.
TEST = bin/withpostgres -- bin/testsum
TEST_TIMEOUT = 20m

# The race detector watches this repository, its drivers and the standard library. It leaves out SQLite's own C code, which was translated
# to Go and takes ten times as long under it, and the tables that go-runewidth makes at each start of outboxctl.
UNWATCHED = modernc.org/sqlite/lib modernc.org/libc/... modernc.org/memory/... github.com/mattn/go-runewidth
RACE = -race $(foreach package,$(UNWATCHED),-gcflags=$(package)=-race=false)

CAMPAIGN_TIMEOUT = 4h
# How many changes of each target mutate tries in a campaign; 0 for all.
MUTANTS = 100

.PHONY: help build test check campaign bench lint fmt FORCE

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' Makefile

build: ## compile everything and put the programs into bin
	$(GO) build ./...
	if [ -d cmd/outboxctl ]; then $(GO) build -o bin/outboxctl ./cmd/outboxctl; fi

# Many tests wait for a server or a timer, so more of them run at once than there are processors.
PARALLEL = 4

test: bin/withpostgres bin/testsum ## run every test in its short form with the race detector, on SQLite and PostgreSQL
	$(TEST) $(RACE) -parallel $(PARALLEL) -timeout $(TEST_TIMEOUT) ./...
	cd examples/integrations && ../../bin/withpostgres -- ../../bin/testsum -timeout $(TEST_TIMEOUT) ./...
	cd bench && ../bin/withpostgres -- ../bin/testsum -timeout $(TEST_TIMEOUT) ./...

check: lint test ## what a change must pass: lint and test

campaign: bin/withpostgres bin/testsum bin/mutate ## run the long forms of the tests: hours of faults, kills and load; counts go to campaign.txt
	rm -f campaign.txt
	OUTBOX_CAMPAIGN=1 OUTBOX_CAMPAIGN_REPORT=$(CURDIR)/campaign.txt $(TEST) $(RACE) -count 1 -timeout $(CAMPAIGN_TIMEOUT) ./...; \
	code=$$?; cat campaign.txt; exit $$code
	bin/withpostgres -- bin/mutate -n $(MUTANTS)

bench: bin/withpostgres ## measure beside the peers and print the table of docs/benchmarks.md, then run the benchmarks of the packages
	cd bench && $(GO) run .
	bin/withpostgres -- $(GO) test -run '^$$' -bench . -benchmem ./...

lint: bin/golangci-lint ## run go vet and the linters
	$(GO) vet ./...
	cd tools && $(GO) vet ./... && $(GO) test ./...
	cd bench && $(GO) vet ./...
	cd examples/integrations && $(GO) vet ./...
	bin/golangci-lint run ./...

fmt: bin/golangci-lint ## format the code
	bin/golangci-lint fmt

# The linter is a tool of this repository at the version of tools/go.mod; the first build takes a minute or two.
bin/golangci-lint: tools/go.mod tools/go.sum
	cd tools && $(GO) build -o ../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

bin/testsum: FORCE
	cd tools && $(GO) build -o ../$@ ./testsum

bin/mutate: FORCE
	cd tools && $(GO) build -o ../$@ ./mutate

bin/withpostgres: FORCE
	$(GO) build -o $@ ./internal/pgtest/cmd/withpostgres

# go build knows by itself what has changed.
FORCE:
