GO      ?= go
VERSION := $(or $(shell git describe --tags --always --dirty 2>/dev/null),devel)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null)
BUILT   := $(shell git log -1 --format=%cI 2>/dev/null)
export STAMP := -X banger/personas.Version=$(VERSION) -X banger/personas.Commit=$(COMMIT) -X banger/personas.Built=$(BUILT)
LINTER  := honnef.co/go/tools/cmd/staticcheck@v0.7.0
RACED   := ./fc/... ./ops/... ./store/... ./personas/...
ALL     := ./... ./testdata/assets ./testdata/deaf ./testdata/host ./testdata/lab/... ./testdata/quickvmm/... ./testdata/testsum

export CGO_ENABLED := 0

build: ## a static ./banger
	$(GO) generate ./personas/guest/binary
	$(GO) build -tags embedguest -trimpath -buildvcs=false -ldflags '-s -w $(STAMP)' -o banger .

deb: build ## a Debian package that installs, upgrades and uninstalls as ./banger does
	install/deb/build.sh $(VERSION)

assets: ## kernels and root file systems, for tests
	testdata/assets.sh

test: assets build ## everything, real VMs included
	$(GO) vet $(ALL)
	$(GO) test -json -p 1 -timeout 20m -coverprofile coverage.out $(TESTFLAGS) ./... ./testdata/lab/... ./testdata/testsum | $(GO) run ./testdata/testsum

race: ## the packages that have goroutines, under the race detector; needs a C compiler
	@command -v $${CC:-cc} >/dev/null || { echo "race: skipped: no C compiler"; exit 0; }; \
	CGO_ENABLED=1 $(GO) test -race -short -json -timeout 20m $(RACED) | $(GO) run ./testdata/testsum -name race

fuzz: ## every fuzz target, 10 s each
	@$(GO) list ./... | while read -r pkg; do \
		list=$$($(GO) test -list '^Fuzz' $$pkg) || { echo "$$list"; exit 1; }; \
		for f in $$(echo "$$list" | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime 10s $$pkg || exit 1; \
		done; \
	done

bench: assets build ## what banger costs, as ratios
	testdata/assets.sh lab.tar
	$(GO) test -p 1 -run '^$$' -bench . -benchtime 1x -timeout 30m . ./testdata/lab/launch

lab: build ## a shell on a throw-away host with systemd; TIER=host for one with KVM
	testdata/assets.sh linux-image-cloud.deb debian.tar debian-systemd.tar lab.tar
	$(GO) run ./testdata/lab shell -tier $(or $(TIER),ns)

smoke: ## scenarios on such hosts; SMOKE=name for one, TIER=host for all with KVM, TIER=ns for those that need none
	testdata/assets.sh linux-image-cloud.deb debian.tar debian-systemd.tar lab.tar
	BANGER_SMOKE=1 BANGER_SMOKE_TIER=$(TIER) $(GO) test -json -count 1 -timeout 60m -run 'TestSmoke/scenario/$(or $(SMOKE),.*)$$' ./testdata/lab/smoke | $(GO) run ./testdata/testsum -name smoke
	@$(GO) tool cover -func coverage.smoke | tail -n 1

lint: ## formatting, vet, staticcheck
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet $(ALL)
	$(GO) run $(LINTER) $(ALL)

quickstart: ## from a bare Debian machine to a command in a VM
	testdata/quickstart.sh

clean:
	rm -f banger banger_*.deb personas/guest/binary/banger-guest coverage.out coverage.smoke

.PHONY: build deb assets test race fuzz bench lab smoke lint quickstart clean
