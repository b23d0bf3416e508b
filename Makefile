# Commands of a developer. The work is in cargo and in integration/. Everything that is made lies below
# target/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/target/tools/bin:$(PATH)
export CARGO_TERM_COLOR ?= auto

# Tests that mount have names that begin with root_, or lie in a module of such a name.
root_tests := test(/(^|::)root_/)
# Those that drive other people's programs.
peers_tests := package(layerd-integration) & binary(/^(clients|containerd|cri|csi|docker|mount_grammar|conformance|odd_archives|volumes|volume_plugin|package|visible|vm)$$/) | (package(layerd-bench) & binary(peers)) | (package(layerd-layers) & test(/(^|::)root_peers_/))
# Each pair of a containerd and a form of layers, and every row of Docker's dialect.
peers_full_tests := package(layerd-integration) & (binary(containerd) | binary(mount_grammar) & test(/^root_full_/))
# Tests that only run in a machine of `make test-vm`.
vm_only_tests := test(/(^|::)root_full_vm_/)
# Mounts of the tests, whatever becomes of them, are gone with the namespace.
own_mounts := unshare --mount --propagation private --
nextest := cargo nextest run --workspace --locked

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## Run a development daemon below target/run (as root); shows how containerd would use it
	@cargo build --locked -p layerd -p layerctl
	@mkdir -p target/run
	@echo "# What containerd needs to be told (make run CONTAINERD=2.1 shows it for that release):"
	@target/debug/layerctl --address $(CURDIR)/target/run/layerd.sock setup containerd \
		--version $(or $(CONTAINERD),1.7) --root $(CURDIR)/target/run/root
	@exec target/debug/layerd --root target/run/root --socket target/run/layerd.sock --log-level debug

.PHONY: demo
demo: peers ## Show layerd at work with a containerd of its own (as root)
	@cargo build --locked -p layerd -p layerctl
	@integration/demos/demo.sh

# Needs 2 GiB of disk and one of memory.
.PHONY: demo-docker
demo-docker: ## Play a day of Docker 28 on layerd: builds, volumes, a MariaDB, copies of its data (as root)
	@integration/peers/install.sh mariadb
	@cargo build --locked -p layerd -p layerctl
	@integration/demos/docker.sh

.PHONY: demo-rootless
demo-rootless: peers ## Show layerd and containerd of an ordinary user, in a user namespace (as root)
	@cargo build --locked -p layerd -p layerctl
	@integration/demos/rootless.sh

.PHONY: peers
peers: ## Install what the end-to-end tests drive: Debian packages, containerd and Docker (as root)
	@integration/peers/install.sh

.PHONY: tools
tools: ## Build the tools that tests and lint need and this machine lacks
	@.ci/tools

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: lint
lint: tools ## Check format, lints, documentation, licences, arrows between crates, circles of files, words
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --document-private-items --locked
	@.ci/deny
	@.ci/words
	@.ci/circles

.PHONY: prepush
prepush: tools ## Check a push: format, words, and clippy and unit tests of the crates that changed
	@.ci/prepush

.PHONY: test
test: as-root machine ## Run everything that CI runs (as root); installs what it needs
	@.ci/prepare
	$(own_mounts) $(nextest) --profile ci --test-threads $$(($$(nproc) + 1))

# What the tests are, beside what `build` makes.
.PHONY: compile
compile: tools
	$(nextest) --no-run

.PHONY: machine
machine:
	@.ci/machine

.PHONY: test-unit
test-unit: tools ## Run the tests that need no root
	$(nextest) -E 'not $(root_tests)'

.PHONY: test-root
test-root: as-root tools build ## Run the tests that mount, without those of test-peers (as root)
	$(own_mounts) $(nextest) -E '$(root_tests) - ($(peers_tests))'

.PHONY: test-peers
test-peers: as-root peers tools build ## Run containerd's suite and the real clients (as root)
	$(own_mounts) $(nextest) -E '$(peers_tests)'

# Each containerd with each form of layers, also with crashes and with 500 layers, and every row of Docker's dialect:
# `make test` has each of them once, not each pair, and a third of the rows. Its time was not measured.
.PHONY: test-peers-full
test-peers-full: as-root peers tools build ## Run each containerd with each form of layers, and all of Docker's dialect (as root)
	$(own_mounts) $(nextest) --ignore-default-filter -E '$(peers_full_tests) - $(vm_only_tests)'

.PHONY: test-crash
test-crash: as-root peers tools build ## Crash layerd at every call, write and error there is (as root; an hour and a half)
	$(own_mounts) $(nextest) --ignore-default-filter --no-capture -E 'test(/(^|::)root_full_/) - binary(vm) - ($(peers_full_tests)) - $(vm_only_tests)'

.PHONY: test-vm
test-vm: as-root peers tools build ## Run tests on the kernels of Debian 12, 13 and the next, emulated (as root; an hour)
	@integration/peers/install.sh zfs
	$(own_mounts) $(nextest) --ignore-default-filter --no-capture -E 'package(layerd-integration) & binary(vm) & test(/(^|::)root_full_/)'

.PHONY: soak
soak: as-root tools build ## Let 64 clients loose on a daemon that is ended again and again, SOAK_SECONDS=1800 (as root)
	SOAK_SECONDS=$(or $(SOAK_SECONDS),1800) $(own_mounts) $(nextest) --ignore-default-filter --no-capture -E 'test(/(^|::)root_full_soak$$/)'

.PHONY: test-package
test-package: as-root peers tools build ## Install, upgrade and remove the package in a Debian (as root)
	$(own_mounts) $(nextest) -E 'package(layerd-integration) & binary(package)'

.PHONY: evidence
evidence: test-package ## Make the transcripts of the package, the doctor, the clients and a lost database anew (as root)
	$(own_mounts) $(nextest) -E 'binary(/^(csi|cri|volume_plugin)$$/)'
	@integration/evidence.sh

.PHONY: pictures
pictures: as-root peers build ## Take the pictures of `layerctl report` anew, with a browser (as root)
	@command -v chromium >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
	$(own_mounts) $(nextest) --ignore-default-filter -E 'test(root_full_pictures_of_the_report)'

# The end-to-end tests start the programs that this builds.
.PHONY: build
build: ## Build all programs
	cargo build --workspace --locked

.PHONY: as-root
as-root:
	@[[ $$(id -u) == 0 ]] || { echo "make: these tests mount file systems: run make as root" >&2; exit 1; }

# Needs 7 GiB of disk and 12 GiB of memory; nothing else should run meanwhile.
.PHONY: bench
bench: as-root peers release ## Measure layerd beside containerd's overlayfs (as root; an hour)
	@peer=$$(integration/bench/peer/build.sh); bench="$(own_mounts) target/release/layerd-bench"; \
		$$bench ops --fs tmpfs,ext4,xfs --peer "$$peer" --inside "$$peer" --svg docs/evidence/bench.svg; \
		$$bench scale --peer "$$peer"; $$bench flat; $$bench remove; $$bench flushes

.PHONY: bench-durability
bench-durability: as-root release ## Measure what durability = "full" costs (as root)
	@$(own_mounts) target/release/layerd-bench durability

.PHONY: bench-unpack
bench-unpack: as-root peers release ## Measure unpacking beside containerd, igzip with tar, and into images (as root)
	@$(own_mounts) target/release/layerd-bench unpack
	@$(own_mounts) target/release/layerd-bench unpack --memory
	@$(own_mounts) target/release/layerd-bench images
	@$(own_mounts) target/release/layerd-bench forms

.PHONY: fuzz
fuzz: as-root ## Fuzz the reading and unpacking of layers, MINUTES=20 each (as root)
	@mounts/layers/fuzz/run.sh $(or $(MINUTES),20)

# Needs 4 GiB of disk. On two cores shared with other builds 19 mutants of the engine and the drivers took 41 s
# each, from 3 to 105, and the tests without a change 5 minutes: for 200 that is over two hours. SEED=7 repeats
# a sample, SAMPLE=50 tries as many; ALL=1 also runs the long tests, and as root those that mount, for mutants
# that the others miss.
.PHONY: mutants
mutants: tools ## Change 200 random places of the code and count the changes that tests notice, SEED= SAMPLE=
	@.ci/tools mutants
	@ALL=$(ALL) .ci/mutants $(or $(SAMPLE),200) $(SEED)

.PHONY: bench-volumes
bench-volumes: as-root peers release ## Measure removal, copy-up and attachments of volumes, also by Docker (as root)
	@$(own_mounts) target/release/layerd-bench volumes
	@$(own_mounts) target/release/layerd-bench attachments
	@$(own_mounts) target/release/layerd-bench docker

.PHONY: release
release: ## Build layerd and what measures it, optimised
	@cargo build --release --locked -p layerd -p layerd-bench

.PHONY: package
package: tools ## Make the packages for all distributions and an image, with checksums, in target/packages
	@.ci/tools auditable
	@cargo build --locked -p layerd-rpm
	@deploy/build.sh
	@rm -rf target/packages
	@deploy/package.sh release
	@deploy/packages.sh release target/packages/layerd_*.deb target/packages

.PHONY: package-reproducible
package-reproducible: ## Make the packages of this commit twice, in two folders, and compare them byte by byte
	@deploy/reproducible.sh
