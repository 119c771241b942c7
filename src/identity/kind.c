/*-------------------------------------------------------------------------
 *
 * kind.c
 *	  The kinds of identifiers and what their rules make of a raw value.
 *
 *	  cdp.identifier_kinds is read once per generation of definitions into a
 *	  context of its own: normalisers by address, patterns compiled.  Applying
 *	  the rules to a value reads no table and raises no error for what the
 *	  value contains.
 *
 * IDENTIFICATION
 *	  src/identity/kind.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "regex/regex.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "identity/identity.h"

/* An element of blocked or labels. */
typedef struct CdpPattern
{
	bool		is_regex;
	regex_t		regex;
	char	   *value;			/* the element as it was given */
	int			len;
	char	   *canonical;		/* its canonical form, NULL when it has none */
	int			canonicallen;
} CdpPattern;

typedef struct CdpPatterns
{
	int			n;
	CdpPattern *items;
} CdpPatterns;

struct CdpKindRules
{
	int			namelen;
	CdpNormaliser normalise;	/* NULL: verbatim */
	CdpPatterns blocked;
	CdpPatterns labels;
};

struct CdpKindSet
{
	MemoryContext context;
	Oid			schema;			/* the extension may be dropped and made again */
	int64		generation;
	int64		serial;			/* no other set of this backend has it */
	int			n;
	CdpKind    *kinds;			/* by name */
	uint32		mask;
	CdpKind   **slots;			/* open addressing, mask + 1 of them */
	CdpKind		unknown;		/* stands in for kinds that nobody registered */
};

/* in the order of CdpPolicy and CdpShared */
static const char *const policies[] = {"demote", "refuse", "quarantine", "raise"};
static const char *const shareds[] = {"first", "newest", "anonymous"};

/* The set in use; replaced when the generation changes. */
static CdpKindSet *current_set = NULL;

PG_FUNCTION_INFO_V1(cdp_canonical);
PG_FUNCTION_INFO_V1(cdp_identity_rules_changing);
PG_FUNCTION_INFO_V1(cdp_identity_rules_changed);

/*
 * The generation of the rules as the active snapshot sees it, 0 before there is
 * a row.  A plain scan, for this is asked at every call of an SQL function.
 */
static int64
read_generation(void)
{
	Relation	rel = table_open(CdpRelationOid("identity_rules"), AccessShareLock);
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), "generation");
	SysScanDesc scan;
	HeapTuple	tuple;
	int64		result = 0;

	scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(),
							  0, NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, attno, RelationGetDescr(rel), &isnull);

		if (!isnull)
			result = DatumGetInt64(value);
	}
	systable_endscan(scan);
	/* all locks are let go of together for less */
	table_close(rel, NoLock);
	return result;
}

/* ---- patterns ---- */

static void
compile_regex(regex_t *regex, const char *kind, const char *pattern, int len)
{
	pg_wchar   *wide = palloc(sizeof(pg_wchar) * (len + 1));
	int			widelen = pg_mb2wchar_with_len(pattern, wide, len);
	int			result;

	/* "C": what a pattern matches must not depend on the database's locale */
	result = pg_regcomp(regex, wide, widelen, REG_ADVANCED, C_COLLATION_OID);
	pfree(wide);
	if (result != REG_OKAY)
	{
		char		message[100];

		pg_regerror(result, regex, message, sizeof(message));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_REGULAR_EXPRESSION),
				 errmsg("invalid regular expression: %s", message),
				 errdetail("It is \"%s\", of the kind \"%s\".", pattern, kind)));
	}
}

/*
 * Compile a text[]; allocates in the current context.
 */
static void
load_patterns(CdpPatterns *patterns, const char *kind, CdpNormaliser normalise,
			  ArrayType *array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, &n);
	patterns->items = palloc0(sizeof(CdpPattern) * Max(n, 1));
	for (i = 0; i < n; i++)
	{
		CdpPattern *pattern = &patterns->items[patterns->n];

		if (nulls[i])
			continue;
		pattern->value = TextDatumGetCString(elements[i]);
		pattern->len = strlen(pattern->value);
		pattern->is_regex = pattern->value[0] == '^';
		if (pattern->is_regex)
			compile_regex(&pattern->regex, kind, pattern->value, pattern->len);
		else if (normalise == NULL ||
				 !normalise(pattern->value, pattern->len,
							&pattern->canonical, &pattern->canonicallen))
			pattern->canonical = NULL;
		patterns->n++;
	}
}

static void
free_patterns(CdpPatterns *patterns)
{
	int			i;

	for (i = 0; i < patterns->n; i++)
		if (patterns->items[i].is_regex)
			pg_regfree(&patterns->items[i].regex);
}

/*
 * Does any pattern match the canonical value?  A regular expression that
 * cannot be worked out on it does not.
 */
static bool
match_patterns(CdpPatterns *patterns, const char *value, int len)
{
	pg_wchar	wide[CDP_MAX_IDENTIFIER + 1];
	int			widelen = -1;
	int			i;

	for (i = 0; i < patterns->n; i++)
	{
		CdpPattern *pattern = &patterns->items[i];

		if (!pattern->is_regex)
		{
			if (pattern->len == len && memcmp(pattern->value, value, len) == 0)
				return true;
			if (pattern->canonical != NULL && pattern->canonicallen == len &&
				memcmp(pattern->canonical, value, len) == 0)
				return true;
			continue;
		}
		if (widelen < 0)
			widelen = pg_mb2wchar_with_len(value, wide, len);
		if (pg_regexec(&pattern->regex, wide, widelen, 0, NULL, 0, NULL, 0) == REG_OKAY)
			return true;
	}
	return false;
}

/*
 * What programs write when they know no value, whatever the kind: nothing,
 * only zeros and dashes, and some words.
 */
static bool
is_placeholder(const char *value, int len)
{
	static const char *const words[] = {
		"-1", "null", "none", "undefined", "nan", "anonymous", "guest",
		"[object object]"
	};
	int			i;

	while (len > 0 && (value[0] == ' ' || (value[0] >= '\t' && value[0] <= '\r')))
		value++, len--;
	while (len > 0 && (value[len - 1] == ' ' ||
					   (value[len - 1] >= '\t' && value[len - 1] <= '\r')))
		len--;

	for (i = 0; i < len && (value[i] == '0' || value[i] == '-'); i++)
		;
	if (i == len)
		return true;
	if (len > 15)
		return false;
	for (i = 0; i < lengthof(words); i++)
		if (strlen(words[i]) == len && pg_strncasecmp(words[i], value, len) == 0)
			return true;
	return false;
}

/* ---- the set ---- */

static void
free_set(CdpKindSet *set)
{
	int			i;

	for (i = 0; i < set->n; i++)
	{
		free_patterns(&set->kinds[i].rules->blocked);
		free_patterns(&set->kinds[i].rules->labels);
	}
	MemoryContextDelete(set->context);
}

static bool
column_is_true(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static int
column_int(HeapTuple tuple, TupleDesc desc, int column, int otherwise)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? otherwise : DatumGetInt32(value);
}

static void
column_patterns(HeapTuple tuple, TupleDesc desc, int column, CdpKind *kind,
				CdpPatterns *patterns)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	if (!isnull)
		load_patterns(patterns, kind->name, kind->rules->normalise,
					  DatumGetArrayTypeP(value));
}

/*
 * The period that an interval stands for; check_kind lets no other ones pass.
 */
static CdpPeriod
column_period(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);
	Interval   *interval;

	if (isnull)
		return CDP_PERIOD_EVER;
	interval = DatumGetIntervalP(value);
	switch (interval->month)
	{
		case 0:
			return interval->day == 1 ? CDP_PERIOD_DAY : CDP_PERIOD_WEEK;
		case 1:
			return CDP_PERIOD_MONTH;
		case 3:
			return CDP_PERIOD_QUARTER;
		default:
			return CDP_PERIOD_YEAR;
	}
}

/*
 * Which of the names is in the column?
 */
static int
column_choice(HeapTuple tuple, TupleDesc desc, int column,
			  const char *const *names, int n)
{
	char	   *value = SPI_getvalue(tuple, desc, column);
	int			i;

	for (i = 0; i < n; i++)
		if (value != NULL && strcmp(names[i], value) == 0)
			return i;
	elog(ERROR, "unexpected rule \"%s\" of a kind", value ? value : "");
}

/*
 * One row of the query in load_set.  The current context is the set's.
 */
static void
load_kind(CdpKind *kind, HeapTuple tuple, TupleDesc desc)
{
	char	   *normaliser;

	/* SPI_getvalue allocates in the current context */
	kind->name = SPI_getvalue(tuple, desc, 1);
	kind->rules = palloc0(sizeof(struct CdpKindRules));
	kind->rules->namelen = strlen(kind->name);
	normaliser = SPI_getvalue(tuple, desc, 2);
	kind->rules->normalise = CdpNormaliserByName(normaliser);
	if (kind->rules->normalise == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("kind \"%s\" has an unknown normaliser \"%s\"",
						kind->name, normaliser)));
	if (strcmp(normaliser, "verbatim") == 0)
		kind->rules->normalise = NULL;
	kind->email = strcmp(normaliser, "email") == 0;
	kind->priority = column_int(tuple, desc, 3, INT_MAX);
	kind->max_per_profile = column_int(tuple, desc, 4, 0);
	kind->links = column_is_true(tuple, desc, 5);
	kind->account = column_is_true(tuple, desc, 6);
	kind->registered = true;
	column_patterns(tuple, desc, 7, kind, &kind->rules->blocked);
	column_patterns(tuple, desc, 8, kind, &kind->rules->labels);
	kind->within = column_period(tuple, desc, 9);
	kind->policy = column_choice(tuple, desc, 10, policies, lengthof(policies));
	kind->shared = column_choice(tuple, desc, 11, shareds, lengthof(shareds));
}

static void
build_lookup(CdpKindSet *set)
{
	uint32		size = 16;
	int			i;

	while (size < 4 * set->n)
		size *= 2;
	set->mask = size - 1;
	set->slots = palloc0(sizeof(CdpKind *) * size);
	for (i = 0; i < set->n; i++)
	{
		CdpKind    *kind = &set->kinds[i];
		uint32		slot = hash_bytes((unsigned char *) kind->name,
									  kind->rules->namelen) & set->mask;

		while (set->slots[slot] != NULL)
			slot = (slot + 1) & set->mask;
		set->slots[slot] = kind;
	}
}

static CdpKindSet *
load_set(int64 generation, const char *source, Oid type, Datum argument)
{
	MemoryContext context;
	MemoryContext oldcontext;
	CdpUserContext user;
	CdpKindSet *set;
	int			i;

	/* goes with the caller's context until it is complete */
	context = AllocSetContextCreate(CurrentMemoryContext, "cdp kinds",
									ALLOCSET_SMALL_SIZES);
	set = MemoryContextAllocZero(context, sizeof(CdpKindSet));
	set->context = context;
	set->schema = CdpSchemaOid();
	set->generation = generation;

	CdpBecomeOwner(&user);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* read only: in the snapshot in which the generation was read */
	if (SPI_execute_with_args(psprintf("SELECT kind, normaliser, priority, max_per_profile,"
									   " links, entity = 'account', blocked, labels,"
									   " within, policy, shared"
									   " FROM %s ORDER BY kind COLLATE \"C\"", source),
							  1, &type, &argument, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdp.identifier_kinds");
	oldcontext = MemoryContextSwitchTo(context);
	set->n = SPI_processed;
	set->kinds = palloc0(sizeof(CdpKind) * Max(set->n, 1));
	for (i = 0; i < set->n; i++)
	{
		load_kind(&set->kinds[i], SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		set->kinds[i].index = i;
	}
	build_lookup(set);
	set->unknown.name = "";
	set->unknown.index = -1;
	set->unknown.priority = INT_MAX;
	set->unknown.rules = palloc0(sizeof(struct CdpKindRules));
	MemoryContextSwitchTo(oldcontext);
	SPI_finish();
	CdpRestoreUser(&user);
	return set;
}

CdpKindSet *
CdpKindSetGet(int64 generation)
{
	static int64 last_serial = 0;
	CdpKindSet *set = current_set;

	/* definitions of other kinds have a generation of their own */
	generation = read_generation();
	if (set != NULL && set->generation == generation &&
		set->schema == CdpSchemaOid())
		return set;

	set = load_set(generation, "cdp.identifier_kinds", INT8OID, (Datum) 0);
	set->serial = ++last_serial;
	MemoryContextSetParent(set->context, CacheMemoryContext);
	if (current_set != NULL)
		free_set(current_set);
	current_set = set;
	return set;
}

/* ---- kinds of earlier times ---- */

static bool
same_patterns(const CdpPatterns *a, const CdpPatterns *b)
{
	int			i;

	if (a->n != b->n)
		return false;
	for (i = 0; i < a->n; i++)
		if (strcmp(a->items[i].value, b->items[i].value) != 0)
			return false;
	return true;
}

/*
 * Do both sets make the same nodes of every entry?  Among identifiers that
 * link, the order does not matter for that: all of them become nodes.  Of
 * those that only label, the first may become one.
 */
static bool
same_meaning(CdpKindSet *a, CdpKindSet *b)
{
	int			i;

	if (a->n != b->n)
		return false;
	for (i = 0; i < a->n; i++)
	{
		CdpKind    *x = &a->kinds[i];
		CdpKind    *y = &b->kinds[i];

		if (strcmp(x->name, y->name) != 0 ||
			x->rules->normalise != y->rules->normalise ||
			x->links != y->links || x->account != y->account ||
			!same_patterns(&x->rules->blocked, &y->rules->blocked) ||
			!same_patterns(&x->rules->labels, &y->rules->labels))
			return false;
		if (x->priority != y->priority &&
			(!x->links || x->rules->labels.n > 0))
			return false;
	}
	return true;
}

CdpKindSet *
CdpKindSetAt(TimestampTz known_at, bool *same)
{
	static CdpKindSet *past = NULL;
	static TimestampTz past_version;
	CdpKindSet *present = CdpKindSetGet(-1);
	CdpUserContext user;
	Oid			type = TIMESTAMPTZOID;
	Datum		arg = TimestampTzGetDatum(known_at);
	TimestampTz version = DT_NOBEGIN;
	bool		later = false;
	bool		isnull;

	CdpBecomeOwner(&user);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT max(since) FILTER (WHERE since <= $1),"
							  " coalesce(bool_or(since > $1), false)"
							  " FROM cdp.kind_history",
							  1, &type, &arg, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read cdp.kind_history");
	arg = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!isnull)
		version = DatumGetTimestampTz(arg);
	later = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
									   SPI_tuptable->tupdesc, 2, &isnull));
	SPI_finish();
	CdpRestoreUser(&user);

	*same = true;
	if (!later)
		return present;
	if (past == NULL || past->generation != present->generation ||
		past->schema != present->schema || past_version != version)
	{
		CdpKindSet *set = load_set(present->generation, "cdp.kinds_at($1)",
								   TIMESTAMPTZOID, TimestampTzGetDatum(version));

		MemoryContextSetParent(set->context, CacheMemoryContext);
		if (past != NULL)
			free_set(past);
		past = set;
		past_version = version;
	}
	*same = same_meaning(past, present);
	return past;
}

/* The kinds before changes of the rules; all that are not finished stay. */
static List *sets_before = NIL;

/*
 * Let go of the kinds before changes that are earlier than this one.
 */
void
CdpKindSetsForget(int64 change)
{
	Oid			schema = CdpSchemaOid();
	ListCell   *lc;

	foreach(lc, sets_before)
	{
		CdpKindSet *set = lfirst(lc);

		if (set->generation >= change && set->schema == schema)
			continue;
		sets_before = foreach_delete_current(sets_before, lc);
		free_set(set);
	}
}

/*
 * The kinds as they were before a change of the rules that is not finished.
 */
CdpKindSet *
CdpKindSetBefore(int64 change)
{
	Oid			schema = CdpSchemaOid();
	ListCell   *lc;
	CdpKindSet *set;
	MemoryContext old;

	foreach(lc, sets_before)
	{
		set = lfirst(lc);
		if (set->generation == change && set->schema == schema)
			return set;
	}
	set = load_set(change, "cdp.kinds_before($1)", INT8OID, Int64GetDatum(change));
	set->serial = -change;
	MemoryContextSetParent(set->context, CacheMemoryContext);
	old = MemoryContextSwitchTo(CacheMemoryContext);
	sets_before = lappend(sets_before, set);
	MemoryContextSwitchTo(old);
	return set;
}

/*
 * Do two sets take any entry for the same identifiers in the same order?
 */
bool
CdpKindSetsReadAlike(CdpKindSet *a, CdpKindSet *b)
{
	int			i;

	if (!same_meaning(a, b))
		return false;
	for (i = 0; i < a->n; i++)
		if (a->kinds[i].priority != b->kinds[i].priority)
			return false;
	return true;
}

/*
 * Do two sets have the same rules about who may be one person, for a kind of
 * this name?
 */
bool
CdpKindSetsJudgeAlike(CdpKindSet *a, CdpKindSet *b, const char *name)
{
	CdpKind    *x = CdpKindLookup(a, name, strlen(name));
	CdpKind    *y = CdpKindLookup(b, name, strlen(name));

	return x->registered == y->registered &&
		x->max_per_profile == y->max_per_profile && x->within == y->within &&
		x->policy == y->policy && x->shared == y->shared;
}

int64
CdpKindSetSerial(CdpKindSet *set)
{
	return set->serial;
}

bool
CdpKindSetRaises(CdpKindSet *set)
{
	int			i;

	for (i = 0; i < set->n; i++)
		if (set->kinds[i].policy == CDP_POLICY_RAISE &&
			set->kinds[i].max_per_profile > 0)
			return true;
	return false;
}

int
CdpKindCount(CdpKindSet *set)
{
	return set->n;
}

CdpKind *
CdpKindByIndex(CdpKindSet *set, int index)
{
	Assert(index >= 0 && index < set->n);
	return &set->kinds[index];
}

CdpKind *
CdpKindLookup(CdpKindSet *set, const char *kind, int kindlen)
{
	uint32		slot = hash_bytes((const unsigned char *) kind, kindlen) & set->mask;

	for (; set->slots[slot] != NULL; slot = (slot + 1) & set->mask)
	{
		CdpKind    *candidate = set->slots[slot];

		if (candidate->rules->namelen == kindlen &&
			memcmp(candidate->name, kind, kindlen) == 0)
			return candidate;
	}
	return &set->unknown;
}

CdpCanonicalStatus
CdpCanonicalise(CdpKindSet *set, const CdpIdentifier *raw,
				CdpIdentifier **canonical, CdpKind **kind)
{
	const char *data = VARDATA_ANY(raw);
	int			len = VARSIZE_ANY_EXHDR(raw);
	int			kindlen = CdpIdentifierKindLength(raw);
	const char *value = data + kindlen + 1;
	int			valuelen = len - kindlen - 1;
	struct CdpKindRules *rules;
	CdpIdentifier *result;
	char	   *normalised = NULL;

	*canonical = NULL;
	*kind = CdpKindLookup(set, data, kindlen);
	rules = (*kind)->rules;

	if (is_placeholder(value, valuelen))
		return CDP_CANONICAL_BLOCKED;
	if (rules->normalise != NULL)
	{
		if (!rules->normalise(value, valuelen, &normalised, &valuelen))
			return CDP_CANONICAL_INVALID;
		value = normalised;
		if (is_placeholder(value, valuelen))
			return CDP_CANONICAL_BLOCKED;
	}
	if (kindlen + 1 + valuelen > CDP_MAX_IDENTIFIER)
		return CDP_CANONICAL_INVALID;
	if (match_patterns(&rules->blocked, value, valuelen))
		return CDP_CANONICAL_BLOCKED;

	result = palloc(VARHDRSZ + kindlen + 1 + valuelen);
	SET_VARSIZE(result, VARHDRSZ + kindlen + 1 + valuelen);
	memcpy(VARDATA(result), data, kindlen + 1);
	memcpy(VARDATA(result) + kindlen + 1, value, valuelen);
	*canonical = result;

	if ((*kind)->account)
		return CDP_CANONICAL_ACCOUNT;
	if (!(*kind)->links || match_patterns(&rules->labels, value, valuelen))
		return CDP_CANONICAL_LABEL;
	return CDP_CANONICAL_OK;
}

/*
 * cdp.canonical(cdp.identifier) returns cdp.identifier: NULL when its kind's
 * rules block it or give it no canonical form.
 */
Datum
cdp_canonical(PG_FUNCTION_ARGS)
{
	CdpIdentifier *raw = PG_GETARG_IDENTIFIER_PP(0);
	CdpIdentifier *canonical;
	CdpKind    *kind;

	(void) CdpCanonicalise(CdpKindSetGet(-1), raw, &canonical, &kind);
	if (canonical == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(canonical);
}

/*
 * Has the kind the same policy in both sets?
 */
bool
CdpKindSetsPoliciesAlike(CdpKindSet *a, CdpKindSet *b, const char *name)
{
	int			len = strlen(name);

	return CdpKindLookup(a, name, len)->policy == CdpKindLookup(b, name, len)->policy;
}

/*
 * cdp.identity_rules_changing() returns void: the rules are about to be
 * written, by this transaction alone.
 */
Datum
cdp_identity_rules_changing(PG_FUNCTION_ARGS)
{
	CdpRulesLock();
	if (CdpRulesChangingHook != NULL)
		CdpRulesChangingHook();
	PG_RETURN_VOID();
}

/*
 * cdp.identity_rules_changed() returns void: they have been written.
 */
Datum
cdp_identity_rules_changed(PG_FUNCTION_ARGS)
{
	CdpUserContext user;

	CdpBecomeOwner(&user);
	SPI_connect();
	if (SPI_execute("SELECT cdp.remember_kinds()", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not keep the version of the kinds");

	/*
	 * Numbers come from the clock so that none that was rolled back, or that
	 * an extension had which is gone, is one that some backend has cached.
	 */
	if (SPI_execute("INSERT INTO cdp.identity_rules AS r (generation)"
					" VALUES (extract(epoch FROM clock_timestamp()) * 1000000)"
					" ON CONFLICT (one) DO UPDATE SET generation ="
					" greatest(r.generation + 1, excluded.generation)",
					false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not announce the rules of identity");
	SPI_finish();
	CdpRestoreUser(&user);
	if (CdpRulesChangedHook != NULL)
		CdpRulesChangedHook();
	PG_RETURN_VOID();
}
