# cdp: a customer data platform inside PostgreSQL
#
#   make && make install     build and install into the PostgreSQL of pg_config
#   make test                build, install into a private copy, run every suite
#   make demo                the shop story and a year of real orders
#   make bench               ratios to plain PostgreSQL (EVENTS=1000000)
#   make torture             the slow tests (kill -9, long random streams, fuzz)
#   make fuzz                mutated predicates under AddressSanitizer
#   make lint                formatting, second compiler, scripts, house rules
#
# test, demo, bench and torture install what is missing (they ask, unless
# YES=1) and touch no server of yours: see test/setup and test/private.sh.

EXTENSION    = cdp
EXTVERSION   = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" cdp.control)
MODULE_big   = cdp

# One subsystem a folder, in the order in which data flows.
STATIONS     = collect identity traits segments activate apply trust
CSOURCES     = $(wildcard src/*.c $(addprefix src/,$(addsuffix /*.c,$(STATIONS))) src/identity/index/*.c)
CXXSOURCES   =

# Phone numbers: with libphonenumber when its headers are there (yes: fail
# without them), else only E.164 is read.
WITH_PHONENUMBER = auto
ifeq ($(WITH_PHONENUMBER),auto)
override WITH_PHONENUMBER = $(if $(wildcard $(addsuffix \
	/include/phonenumbers/phonenumberutil.h,/usr /usr/local)),yes,no)
endif
ifeq ($(WITH_PHONENUMBER),yes)
CXXSOURCES  += src/identity/phone.cpp
PHONE_FLAGS  = -DCDP_WITH_PHONENUMBER
PHONE_LIBS   = -lphonenumber -lstdc++
endif

OBJS         = $(CSOURCES:.c=.o) $(CXXSOURCES:.cpp=.o)

# The install script is assembled from parts: first the types, then every
# station's tables, then every station's functions.
SQL_PARTS    = sql/header.sql \
               $(wildcard sql/identity/types.sql sql/traits/types.sql sql/segments/types.sql) \
               $(wildcard sql/identity/kinds.sql) \
               $(wildcard $(foreach s,collect identity traits segments activate apply,sql/$(s)/tables.sql)) \
               $(wildcard $(foreach s,$(STATIONS),sql/$(s)/functions.sql)) \
               $(wildcard sql/collect/attach.sql sql/collect/attachment_presets.sql) \
               $(wildcard sql/identity/history.sql sql/identity/presets.sql) \
               $(wildcard sql/identity/index.sql) \
               $(wildcard sql/identity/graph.sql) \
               $(wildcard sql/identity/explain.sql sql/identity/accounts.sql) \
               $(wildcard sql/apply/rules.sql) \
               $(wildcard sql/apply/backfill.sql sql/apply/domains.sql) \
               $(wildcard sql/activate/profile.sql sql/activate/accounts.sql) \
               $(wildcard sql/activate/poll.sql sql/activate/retention.sql sql/activate/audience.sql) \
               $(wildcard sql/activate/segments.sql) \
               $(wildcard $(addprefix sql/apply/verify,_consent.sql _log.sql _identity.sql _replay.sql \
                   _traits.sql _segments.sql _accounts.sql .sql)) \
               $(wildcard sql/apply/asof.sql) \
               $(wildcard sql/apply/merges.sql) \
               $(wildcard sql/apply/worker.sql sql/activate/check.sql) \
               $(wildcard sql/apply/config.sql) \
               $(wildcard $(addprefix sql/trust/,audit.sql sensitivity.sql visibility.sql schema.sql consent.sql plans.sql erase.sql export.sql retention.sql restore.sql)) \
               $(wildcard sql/apply/sample.sql) \
               $(wildcard $(foreach s,$(STATIONS),sql/$(s)/views.sql)) \
               $(wildcard sql/trust/access.sql)
DATA         = $(filter-out sql/$(EXTENSION)--$(EXTVERSION).sql,$(wildcard sql/*--*.sql))
DATA_built   = sql/$(EXTENSION)--$(EXTVERSION).sql

EXTRA_CLEAN  = sql/$(EXTENSION)--$(EXTVERSION).sql results output_iso \
               tmp_check log regression.diffs regression.out

PG_CPPFLAGS  = -I$(srcdir)/src $(PHONE_FLAGS)
PG_CFLAGS    = -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers
PG_CXXFLAGS  = -Wextra -Werror -fvisibility=hidden -fvisibility-inlines-hidden
SHLIB_LINK   = -licuuc -licui18n $(PHONE_LIBS)

# No bitcode: nothing here gains from inlining by JIT, and it would need clang.
override with_llvm = no

# Stock PGXS targets work too (make installcheck against a running server that
# has the extension installed); `make test' needs no server at all.
REGRESS      = $(patsubst test/sql/%.sql,%,$(sort $(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --launcher=test/fresh
ISOLATION    = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=. --launcher=test/fresh
TAP_TESTS    = 1
PROVE_TESTS  = $(sort $(wildcard test/t/*.pl))

PG_CONFIG   ?= pg_config
export PG_CONFIG
PGXS        := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

# Without the server's headers only the targets that can install them exist.
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)

$(OBJS): $(wildcard src/*.h src/*/*.h src/*/*/*.h)

sql/$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS) cdp.control Makefile
	cat $(SQL_PARTS) > $@.tmp && mv $@.tmp $@
else
.DEFAULT_GOAL := all
all install:
	@echo "cdp: the server's headers are missing ($(PG_CONFIG) --pgxs gives '$(PGXS)');" >&2
	@echo "     install postgresql-server-dev-15, or run: make setup" >&2
	@exit 1
clean:
endif

.PHONY: setup test torture fuzz demo bench lint readme-check

setup:
	@test/setup

test: setup
	@test/run

torture: setup
	@test/run torture
	@test/fuzz

fuzz: setup
	@test/fuzz

demo:
	@test/setup demo
	@demo/run

bench: setup
	@bench/run

lint:
	@test/lint
