# cdp: a customer data platform inside PostgreSQL

EXTENSION    = cdp
EXTVERSION   = $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" cdp.control)
MODULE_big   = cdp

# One subsystem a folder, in the order in which data flows.
STATIONS     = collect identity traits segments activate apply
OBJS         = $(patsubst %.c,%.o,$(wildcard src/*.c $(addprefix src/,$(addsuffix /*.c,$(STATIONS)))))

# The install script is assembled from parts: first the types, then every
# station's tables, then every station's functions.
SQL_PARTS    = sql/header.sql \
               $(wildcard sql/identity/types.sql sql/traits/types.sql) \
               $(wildcard $(foreach s,collect identity traits segments activate apply,sql/$(s)/tables.sql)) \
               $(wildcard $(foreach s,$(STATIONS),sql/$(s)/functions.sql)) \
               $(wildcard $(foreach s,$(STATIONS),sql/$(s)/views.sql)) \
               $(wildcard sql/grants.sql)
DATA         = $(filter-out sql/$(EXTENSION)--$(EXTVERSION).sql,$(wildcard sql/*--*.sql))
DATA_built   = sql/$(EXTENSION)--$(EXTVERSION).sql

EXTRA_CLEAN  = sql/$(EXTENSION)--$(EXTVERSION).sql

PG_CPPFLAGS  = -I$(srcdir)/src
PG_CFLAGS    = -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers
SHLIB_LINK   = -licuuc -licui18n

# No bitcode: nothing here gains from inlining by JIT, and it would need clang.
override with_llvm = no

PG_CONFIG   ?= pg_config
PGXS        := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

sql/$(EXTENSION)--$(EXTVERSION).sql: $(SQL_PARTS) cdp.control Makefile
	cat $(SQL_PARTS) > $@.tmp && mv $@.tmp $@
