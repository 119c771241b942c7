/*-------------------------------------------------------------------------
 *
 * set.c
 *	  All segments of a generation of definitions, compiled and ordered.
 *
 *	  A definition that cannot be compiled (somebody edited the tables, or a
 *	  new version of PostgreSQL reads the text differently) is suspended with
 *	  a WARNING: its memberships stay as they are and everybody else's go on.
 *
 * IDENTIFICATION
 *	  src/segments/set.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "segments/predicate.h"

/* One definition while the set is being built. */
typedef struct LoadedSegment
{
	CdpSegment	segment;
	bool		enabled;
	bool		live;
	int			visit;			/* topological sort: 0 new, 1 open, 2 done */
} LoadedSegment;

static CdpSegmentSet *currents[2];	/* of profiles, of accounts */
static CdpTraitSet *current_traits[2];

static char *
column_text(HeapTuple tuple, TupleDesc desc, int column)
{
	return SPI_getvalue(tuple, desc, column);
}

static int32 *
column_ints(HeapTuple tuple, TupleDesc desc, int column, int *n)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);
	ArrayType  *array;
	int32	   *result;

	*n = 0;
	if (isnull)
		return NULL;
	array = DatumGetArrayTypeP(value);
	if (ARR_NDIM(array) != 1 || ARR_HASNULL(array))
		return NULL;
	*n = ARR_DIMS(array)[0];
	result = palloc(*n * sizeof(int32));
	memcpy(result, ARR_DATA_PTR(array), *n * sizeof(int32));
	return result;
}

static char **
column_texts(HeapTuple tuple, TupleDesc desc, int column, int *n)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);
	Datum	   *elements;
	bool	   *nulls;
	char	  **result;

	*n = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, &nulls, n);
	result = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		result[i] = nulls[i] ? pstrdup("") : TextDatumGetCString(elements[i]);
	return result;
}

/*
 * Whether the active snapshot sees this generation.  If it does, definitions
 * are read with it too; if not (the caller has changed them himself), with a
 * new one.
 */
static bool
snapshot_sees(int64 generation)
{
	bool		isnull;

	if (!ActiveSnapshotSet())
		return false;
	if (SPI_execute("SELECT generation FROM cdp.applier", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the generation");
	if (SPI_processed == 0)
		return generation == 0;
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
									   1, &isnull)) == generation;
}

/*
 * Read all definitions in the order of their ids, into context.
 */
static LoadedSegment *
load_definitions(int64 generation, bool accounts, MemoryContext context, int *n)
{
	LoadedSegment *loaded;
	CdpUserContext saved;
	MemoryContext oldcontext;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute(psprintf("SELECT id, name, channel, owner, timezone, predicate, exit_when,"
							 " enabled, terms, trait_names, trait_ids, exclude, holdout, seed, options, hidden"
							 " FROM cdp.segment_definitions WHERE entity = '%s' ORDER BY id",
							 accounts ? "account" : "profile"),
					snapshot_sees(generation), 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the definitions of segments");

	oldcontext = MemoryContextSwitchTo(context);
	*n = (int) SPI_processed;
	loaded = palloc0(Max(*n, 1) * sizeof(LoadedSegment));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		CdpSegment *segment = &loaded[i].segment;
		CdpSegmentRules *rules = palloc0(sizeof(CdpSegmentRules));
		bool		isnull;
		int			nids;

		segment->id = DatumGetInt32(SPI_getbinval(tuple, desc, 1, &isnull));
		segment->name = column_text(tuple, desc, 2);
		segment->channel = column_text(tuple, desc, 3);
		segment->rules = rules;
		rules->column = i;
		rules->owner = column_text(tuple, desc, 4);
		rules->timezone = column_text(tuple, desc, 5);
		rules->predicate_text = column_text(tuple, desc, 6);
		rules->exit_text = column_text(tuple, desc, 7);
		loaded[i].enabled = DatumGetBool(SPI_getbinval(tuple, desc, 8, &isnull));
		rules->references.terms = column_ints(tuple, desc, 9, &rules->references.nterms);
		rules->references.names = column_texts(tuple, desc, 10, &rules->references.nnames);
		rules->references.traits = column_ints(tuple, desc, 11, &nids);
		rules->references.nnames = Min(rules->references.nnames, nids);
		rules->exclude = column_ints(tuple, desc, 12, &rules->nexclude);
		rules->holdout = DatumGetFloat8(SPI_getbinval(tuple, desc, 13, &isnull));
		rules->seed = column_text(tuple, desc, 14);
		segment->hidden = DatumGetBool(SPI_getbinval(tuple, desc, 16, &isnull));
		rules->purpose =
			CdpSegmentPurpose(DatumGetJsonbP(SPI_getbinval(tuple, desc, 15, &isnull)));
	}
	MemoryContextSwitchTo(oldcontext);
	SPI_finish();
	CdpRestoreUser(&saved);
	return loaded;
}

/*
 * A hidden segment is told by the name of one that asks for it.
 */
static const char *
told_name(const CdpSegment *segment)
{
	return segment->hidden ? CdpSegmentAsking(segment->id) : segment->name;
}

static CdpPredicate
keep_predicate(const CdpPredicate *predicate)
{
	CdpPredicate kept = *predicate;

	kept.expr = copyObject(predicate->expr);
	kept.traits = bms_copy(predicate->traits);
	kept.segments = bms_copy(predicate->segments);
	kept.of_primary = bms_copy(predicate->of_primary);
	return kept;
}

/*
 * Compile one definition as its owner; false and a WARNING when that fails.
 */
static bool
compile_definition(CdpSegmentSet *set, CdpTraitSet *traits, LoadedSegment *loaded)
{
	CdpSegmentRules *rules = loaded->segment.rules;
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	MemoryContext work;
	volatile bool done = false;

	work = AllocSetContextCreate(oldcontext, "cdp segment compilation",
								 ALLOCSET_DEFAULT_SIZES);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(work);
	PG_TRY();
	{
		CdpPredicate predicate;
		CdpPredicate exit_when;
		Oid			userid;
		int			sec_context;
		Oid			owner = get_role_oid(rules->owner, true);
		int			next_term = 0;

		GetUserIdAndSecContext(&userid, &sec_context);
		if (OidIsValid(owner))
			SetUserIdAndSecContext(owner, sec_context | SECURITY_RESTRICTED_OPERATION);
		CdpPredicateCompile(rules->predicate_text, rules->timezone, "predicate",
							&rules->references, &next_term, traits,
							set->columns->ids, set->columns->n, &predicate);
		CdpPredicateCompile(rules->exit_text, rules->timezone, "exit_when",
							&rules->references, &next_term, traits,
							set->columns->ids, set->columns->n, &exit_when);
		SetUserIdAndSecContext(userid, sec_context);

		MemoryContextSwitchTo(set->context);
		rules->predicate = keep_predicate(&predicate);
		rules->exit_when = keep_predicate(&exit_when);
		loaded->segment.traits = bms_union(predicate.traits, exit_when.traits);
		if (rules->consent >= 0)
			loaded->segment.traits = bms_add_member(loaded->segment.traits, rules->consent);
		loaded->segment.clock = predicate.clock || exit_when.clock;
		loaded->segment.identity = predicate.identity || exit_when.identity;
		loaded->segment.primary = predicate.of_primary != NULL || exit_when.of_primary != NULL;
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = oldowner;
		if (!CdpErrorIsLocal(error->sqlerrcode))
			ReThrowError(error);
		/* without its owner the one that asks for a hidden segment tells the same */
		if (!loaded->segment.hidden || OidIsValid(get_role_oid(rules->owner, true)))
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("segment \"%s\" is suspended: %s",
							told_name(&loaded->segment), error->message),
					 errhint("Correct it with cdp.alter_segment().")));
		set->columns->broken[rules->column] =
			MemoryContextStrdup(set->context, error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(oldcontext);
	CurrentResourceOwner = oldowner;
	MemoryContextDelete(work);
	return done;
}

/*
 * Those whose own back-fill is not done.
 */
static void
find_unfinished(CdpSegmentSet *set)
{
	CdpUserContext saved;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute("SELECT b.id FROM cdp.backfills b WHERE b.kind = 'segment'",
					snapshot_sees(set->generation), 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the back-fills of segments");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int			column = CdpSegmentColumn(set, DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
																			  SPI_tuptable->tupdesc,
																			  1, &isnull)));

		if (column >= 0)
			set->columns->waiting[column] = true;
	}
	SPI_finish();
	CdpRestoreUser(&saved);
}

/*
 * Does it read a trait that is being built, or refer to a segment that waits?
 */
static bool
must_wait(CdpSegmentSet *set, CdpTraitSet *traits, const Bitmapset *read,
		  const Bitmapset *segments)
{
	int			i = -1;

	while ((i = bms_next_member(read, i)) >= 0)
		if (traits->traits[i]->building)
			return true;
	i = -1;
	while ((i = bms_next_member(segments, i)) >= 0)
		if (set->columns->waiting[i])
			return true;
	return false;
}

/*
 * Append a segment to the set after those that it refers to.  A cycle cannot
 * be defined; should the tables contain one, its members are left out.
 */
static bool
order_segment(CdpSegmentSet *set, CdpTraitSet *traits, LoadedSegment *loaded, int column)
{
	LoadedSegment *this = &loaded[column];
	CdpSegmentRules *rules = this->segment.rules;
	Bitmapset  *needs;
	int			other = -1;

	check_stack_depth();
	if (!this->live || this->visit == 2)
		return true;
	if (this->visit == 1)
		return false;
	this->visit = 1;
	needs = bms_union(rules->predicate.segments, rules->exit_when.segments);
	needs = bms_add_members(needs, rules->excluded);
	while ((other = bms_next_member(needs, other)) >= 0)
	{
		if (!order_segment(set, traits, loaded, other))
		{
			this->live = false;
			ereport(WARNING,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("segment \"%s\" is suspended: it depends on itself",
							told_name(&this->segment))));
			set->columns->broken[column] = "it depends on itself";
			break;
		}
	}
	this->visit = 2;
	if (this->live)
		set->columns->waiting[column] |= must_wait(set, traits, this->segment.traits, needs);
	if (this->live && !set->columns->waiting[column])
	{
		set->columns->position[column] = set->nsegments;
		set->segments[set->nsegments++] = this->segment;
		set->identity |= this->segment.identity;
	}
	return this->live;
}

/*
 * What a segment's members follow from: its traits, those that they are
 * derived from, and what the segments that it refers to follow from.
 */
static void
collect_depends(CdpSegmentSet *set, CdpTraitSet *traits, CdpSegment *segment)
{
	CdpSegmentRules *rules = segment->rules;
	Bitmapset  *todo = bms_copy(segment->traits);
	Bitmapset  *others;
	int			index;

	while ((index = bms_next_member(todo, -1)) >= 0)
	{
		todo = bms_del_member(todo, index);
		if (bms_is_member(index, segment->depends))
			continue;
		segment->depends = bms_add_member(segment->depends, index);
		todo = bms_add_members(todo, traits->traits[index]->depends);
	}
	others = bms_union(rules->predicate.segments, rules->exit_when.segments);
	others = bms_add_members(others, rules->excluded);
	index = -1;
	while ((index = bms_next_member(others, index)) >= 0)
	{
		/* one that is not evaluated does not change */
		if (set->columns->position[index] < 0)
			continue;
		segment->depends =
			bms_add_members(segment->depends,
							set->segments[set->columns->position[index]].depends);
		segment->primary |= set->segments[set->columns->position[index]].primary;
	}
	bms_free(others);
	set->primary |= segment->primary;
	set->of_primary = bms_add_members(set->of_primary, rules->predicate.of_primary);
	set->of_primary = bms_add_members(set->of_primary, rules->exit_when.of_primary);
}

/*
 * The trait that a segment's purpose is.  One that is not there or not whole
 * has no value, and so nobody consents.
 */
static void
find_purpose(CdpSegmentColumns *columns, int column, CdpTraitSet *traits)
{
	CdpSegmentRules *rules = columns->segments[column]->rules;

	rules->consent = -1;
	if (rules->purpose == NULL)
		return;
	columns->purposed = bms_add_member(columns->purposed, column);
	rules->consent = CdpPurposeReferred(rules->purpose, &rules->references, traits);
}

static void
build_set(CdpSegmentSet *set, CdpTraitSet *traits)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	CdpSegmentColumns *columns;
	LoadedSegment *loaded;
	int			n;

	loaded = load_definitions(set->generation, traits->accounts, set->context, &n);

	MemoryContextSwitchTo(set->context);
	columns = palloc0(sizeof(CdpSegmentColumns));
	columns->n = n;
	columns->ids = palloc(Max(n, 1) * sizeof(int32));
	columns->names = palloc(Max(n, 1) * sizeof(char *));
	columns->position = palloc(Max(n, 1) * sizeof(int));
	columns->broken = palloc0(Max(n, 1) * sizeof(char *));
	columns->waiting = palloc0(Max(n, 1) * sizeof(bool));
	columns->segments = palloc(Max(n, 1) * sizeof(CdpSegment *));
	for (int i = 0; i < n; i++)
	{
		columns->ids[i] = loaded[i].segment.id;
		columns->names[i] = loaded[i].segment.name;
		columns->position[i] = -1;
		columns->segments[i] = &loaded[i].segment;
		find_purpose(columns, i, traits);
	}
	set->columns = columns;
	set->segments = palloc0(Max(n, 1) * sizeof(CdpSegment));

	columns->slots = CdpPredicateSlotsMake(traits, n);
	MemoryContextSwitchTo(oldcontext);

	find_unfinished(set);

	/* one that is gone excludes nobody */
	for (int i = 0; i < n; i++)
	{
		CdpSegmentRules *rules = loaded[i].segment.rules;

		for (int k = 0; k < rules->nexclude; k++)
		{
			int			column = CdpSegmentColumn(set, rules->exclude[k]);

			MemoryContextSwitchTo(set->context);
			if (column >= 0)
				rules->excluded = bms_add_member(rules->excluded, column);
			MemoryContextSwitchTo(oldcontext);
		}
	}
	for (int i = 0; i < n; i++)
		loaded[i].live = loaded[i].enabled && compile_definition(set, traits, &loaded[i]);
	for (int i = 0; i < n; i++)
		(void) order_segment(set, traits, loaded, i);
	MemoryContextSwitchTo(set->context);
	for (int i = 0; i < set->nsegments; i++)
		collect_depends(set, traits, &set->segments[i]);
	CdpSharedTermsFind(set, CDP_EVALUATION_CHUNK);
	MemoryContextSwitchTo(oldcontext);
}

CdpSegmentSet *
CdpSegmentSetGet(int64 generation, CdpTraitSet *traits)
{
	CdpSegmentSet *current = currents[traits->accounts];
	CdpSegmentSet *set;
	MemoryContext context;

	if (generation < 0)
		generation = traits->generation;
	if (current != NULL && current->generation == generation &&
		current_traits[traits->accounts] == traits)
		return current;

	context = AllocSetContextCreate(CurrentMemoryContext, "cdp segments",
									ALLOCSET_DEFAULT_SIZES);
	set = MemoryContextAllocZero(context, sizeof(CdpSegmentSet));
	set->generation = generation;
	set->context = context;
	build_set(set, traits);

	/* complete: from here on it outlives the transaction */
	if (current != NULL)
		MemoryContextDelete(current->context);
	MemoryContextSetParent(context, CacheMemoryContext);
	currents[traits->accounts] = set;
	current_traits[traits->accounts] = traits;
	return set;
}

CdpSegment *
CdpSegmentById(CdpSegmentSet *set, int32 id)
{
	int			column = CdpSegmentColumn(set, id);

	if (column < 0 || set->columns->position[column] < 0)
		return NULL;
	return &set->segments[set->columns->position[column]];
}

CdpSegment *
CdpSegmentNamed(CdpSegmentSet *set, int32 id)
{
	int			column = CdpSegmentColumn(set, id);

	return column < 0 ? NULL : set->columns->segments[column];
}

bool
CdpSegmentConsents(const CdpSegment *segment, const CdpProfileValues *values)
{
	return segment->rules->purpose == NULL ||
		CdpConsentGranted(values, segment->rules->consent);
}

bool
CdpSegmentWaits(const CdpSegmentSet *set, int column)
{
	return column >= 0 && set->columns->waiting[column];
}

void
CdpPredicateCheckBuilt(const CdpPredicate *predicate, const CdpTraitSet *traits,
					   const CdpSegmentSet *segments)
{
	int			i = -1;

	while ((i = bms_next_member(predicate->traits, i)) >= 0)
	{
		if (traits->traits[i]->building)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 traits->traits[i]->hidden ?
					 errmsg("the history of an event that the predicate reads is being folded") :
					 errmsg("trait \"%s\" is being built", traits->traits[i]->name),
					 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
	}
	i = -1;
	while ((i = bms_next_member(predicate->segments, i)) >= 0)
	{
		if (segments->columns->waiting[i])
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("segment \"%s\" is being built",
							told_name(segments->columns->segments[i])),
					 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
	}
}

/*
 * The column of a segment, live or not; columns are in the order of ids.
 */
int
CdpSegmentColumn(const CdpSegmentSet *set, int32 id)
{
	int			low = 0;
	int			high = set->columns->n;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (set->columns->ids[middle] < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < set->columns->n && set->columns->ids[low] == id ? low : -1;
}

int
CdpSegmentColumnByName(const CdpSegmentSet *set, const char *name)
{
	for (int i = 0; i < set->columns->n; i++)
	{
		if (strcmp(set->columns->names[i], name) == 0)
			return set->columns->segments[i]->hidden ? -1 : i;
	}
	return -1;
}

const char *
CdpSegmentName(const CdpSegmentSet *set, int32 id)
{
	int			column = CdpSegmentColumn(set, id);

	return column < 0 ? NULL : set->columns->names[column];
}
