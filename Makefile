# SPDX-License-Identifier: GPL-2.0
#
# The module as people use it; kbuild reads Kbuild.

# The version of the module and of its packages.
version := 0.1.0
# The build tree of the kernel that the module is for.
KDIR ?= /lib/modules/$(shell uname -r)/build
# What the VM runs: the kernel, as tools/vm/run --help names them, and rxe or siw.
KERNEL ?= release
RDMA ?= rxe
CMD ?= bash -c 'ip -n a address; rdma link; cat /proc/modules'

# Runs kbuild in the tree that modules for KDIR are compiled in, which is made first if need be.
kbuild = tree=$$(tools/kernel-tree $(KDIR)) && $(MAKE) -C "$$tree" M=$(CURDIR) MO=$(CURDIR)/build/module
run = tools/vm/run --kernel $(KERNEL) --rdma $(RDMA) $(if $(DEADLINE),--deadline $(DEADLINE))

.PHONY: module
module: ## build build/module/sdp.ko for KDIR=<kernel build tree> (takes LLVM=1, CLIPPY=1 …)
	@mkdir -p build/module
	+@$(kbuild) modules && tools/check-symbols build/module/sdp.ko "$$tree/Module.symvers" && echo "$$tree" > build/module/tree

.PHONY: modules_install
modules_install: ## install the module that was built, below INSTALL_MOD_PATH
	@test -e build/module/tree || { echo 'there is no module yet; run make first' >&2; exit 1; }
	+@$(MAKE) -C "$$(cat build/module/tree)" M=$(CURDIR) MO=$(CURDIR)/build/module modules_install
	@depmod $(if $(INSTALL_MOD_PATH),--basedir $(INSTALL_MOD_PATH)) "$$(cat "$$(cat build/module/tree)/include/config/kernel.release")"

.PHONY: deb
deb: ## make Debian packages in build/deb, with KDIR=/usr/src/linux-headers-… also of the module for that kernel
	@tools/deb/build $(version) $(if $(filter-out file,$(origin KDIR)),$(KDIR))

.PHONY: clean
clean: ## remove everything that was built in the checkout
	rm -rf build

.PHONY: prepare
prepare: ## prepare the root and the kernels of the VM, once; UPDATE=1 takes the newest of Debian's kernels
	@tools/vm/prepare $(if $(UPDATE),--update)

.PHONY: build
build: ## build the module and the selftests for the VM: KERNEL=release|7.3|7.2|debug
	@tools/vm/prepare $(KERNEL)
	@tools/vm/build $(KERNEL)

.PHONY: vm
vm: build ## run CMD='…' in the VM, with the module loaded: KERNEL=release|7.3|7.2|debug RDMA=rxe|siw DEADLINE=600
	@$(run) -- bash -c "$$CMD"

.PHONY: shell
shell: build ## a shell in the VM, with the module loaded: KERNEL=release|7.3|7.2|debug RDMA=rxe|siw
	@$(run) --shell

.PHONY: demo
demo: ## show the module at work
	@tools/vm/prepare $(KERNEL)
	@tools/vm/build $(KERNEL) sdp_cat
	@$(run) -- selftests/demo

.PHONY: sweep
sweep: build ## measure calls with and without a copy, by size, in the VM: KERNEL=release|7.3|7.2|debug RDMA=rxe|siw
	@$(run) --plain --deadline 1800 -- build/cargo/release/sdp_sweep

.PHONY: connections
connections: build ## tell what connections cost in the VM, memory and time, and open 5,000 in 3 GiB: KERNEL=release|7.3|7.2|debug RDMA=rxe|siw
	@$(run) --plain --deadline 1800 -- build/cargo/release/sdp_connections --limit 64 --charged 95
	@$(run) --plain --deadline 1800 -- build/cargo/release/sdp_connections --stream 1048576 --parallel 64 --rounds 1 --limit 64 --charged 95
	@$(run) --plain --memory 3072 --deadline 3600 -- build/cargo/release/sdp_connections --count 5000 --parallel 64 --limit 64 --charged 95

.PHONY: compare
compare: ## measure throughput and latency against the module of another revision, in one VM: BASE=<revision> ROUNDS=3
	@tools/vm/prepare release
	@tools/compare $(or $(BASE),HEAD~1) $(ROUNDS)

.PHONY: bench
bench: ## measure SDP beside verbs, rsockets and TCP in the VM, on rxe and siw, at two MTUs: ARGS='--rdma rxe --mtu 9000'
	@tools/bench $(ARGS)

.PHONY: check
check: ## run the tests: on the host, of the packages, and in the VM on Debian's kernels and the debug kernel
	@tools/check

.PHONY: check-long
check-long: ## run the tests that take hours: other compilers, many connections, unmodified programs, random calls, seeded bugs: CASES=strict
	@tools/check-long $(CASES)

.PHONY: check-programs
check-programs: ## run unmodified programs over SDP in the VM: Redis, nginx, HAProxy, PostgreSQL, iperf3, Java, Python, Go
	@tools/check-programs

.PHONY: rules
rules: ## print the code and the tests of each protocol rule; fails when one is missing
	@tools/rules

.PHONY: sim
sim: ## simulate pairs of ends over an adversarial link: SDP_SEEDS=n SDP_SEED=n
	@SDP_SEEDS=$(SDP_SEEDS) SDP_SEED=$(SDP_SEED) tools/sim

.PHONY: bench-proto
bench-proto: ## count the instructions of a message in the protocol core (needs valgrind)
	@tools/bench-proto

.PHONY: fuzz
fuzz: ## let a fuzzer play a hostile peer: SECONDS=60
	@tools/fuzz $(or $(SECONDS),60)

.PHONY: panics
panics: ## prove that no function of the protocol core can panic
	@tools/panics

.PHONY: mutants
mutants: ## test the tests of the protocol core (about an hour; needs cargo-mutants)
	@tools/mutants

.PHONY: seeded
seeded: ## try bugs written by hand: which of units, simulation, hostile and strict peers find each
	@tools/seeded

.PHONY: lint
lint: ## check format, warnings, boundaries between the layers, and scripts
	@tools/lint

.PHONY: fmt
fmt: ## format the Rust sources
	@tools/lint --fix

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z_-]*\):.* ## \(.*\)/\1\t\2/p' Makefile | while IFS='	' read -r name what; do printf '  make %-16s %s\n' "$$name" "$$what"; done
export CMD
