/*-------------------------------------------------------------------------
 *
 * traitset.c
 *	  The definitions of a generation, read and compiled.
 *
 *	  Definitions are texts; every backend that needs them compiles them once
 *	  a generation.  One that does not compile any more (its owner is gone, a
 *	  newer server refuses it) is suspended: it folds nothing and is NULL, and
 *	  the others go on.
 *
 *	  The set that callers hold keeps its address; what it points to is replaced
 *	  when a definition is added, and the old contents stay until the next
 *	  generation is asked for.
 *
 * IDENTIFICATION
 *	  src/traits/traitset.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_type.h"
#include "storage/shmem.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "compat.h"
#include "traits/traitset.h"

static CdpTraitSet *currents[2];	/* of profiles, of accounts */
static List *outdated = NIL;	/* contexts of earlier contents */
static TimestampTz outdated_since;	/* start of the statement that made them so */

/* Columns of a derived trait are other traits. */
typedef struct DerivedState
{
	CdpTraitSet *set;
	CdpTrait   *trait;			/* being compiled */
	List	   *path;			/* of traits being compiled, outermost first */
	const List *strict_ids;
	int		   *order;
	int			norder;
} DerivedState;

static void compile_derived(DerivedState *state, CdpTrait *trait);

static Snapshot
read_snapshot(void)
{
	return ActiveSnapshotSet() ? GetActiveSnapshot() : GetTransactionSnapshot();
}

/* The instant that a read is about: never before what has been applied. */
TimestampTz
CdpReadInstant(TimestampTz applied)
{
	TimestampTz now = CdpClock();

	return now > applied ? now : applied;
}

static int
compare_ids(const void *a, const void *b)
{
	int32		x = (*(CdpTrait *const *) a)->id;
	int32		y = (*(CdpTrait *const *) b)->id;

	return x < y ? -1 : x > y ? 1 : 0;
}

static bool
option_is_true(const Jsonb *options, const char *name)
{
	JsonbValue	v;

	return options != NULL && JB_ROOT_IS_OBJECT(options) &&
		getKeyJsonValueFromContainer((JsonbContainer *) &options->root, name,
									 strlen(name), &v) != NULL &&
		v.type == jbvBool && v.val.boolean;
}

static CdpTrait *
make_trait(CdpDefinition *definition)
{
	CdpTrait   *trait = (CdpTrait *) palloc0(sizeof(CdpTrait));

	trait->id = definition->id;
	trait->name = definition->name;
	trait->hidden = definition->hidden;
	trait->aggregate = definition->aggregate;
	trait->windowed = CdpDefinitionWindowed(definition);
	trait->announce = option_is_true(definition->options, "announce");
	trait->rollup = CdpOfAccounts(definition) && option_is_true(definition->options, "rollup");
	if (CdpOverMembers(definition))
		trait->member_trait = CdpMemberTrait(definition);
	trait->rules = (CdpTraitRules *) palloc0(sizeof(CdpTraitRules));
	trait->rules->definition = definition;
	trait->rules->group = -1;
	trait->rules->typmod = -1;
	return trait;
}

static void
load_definitions(CdpTraitSet *set, const List *transient)
{
	Relation	rel = table_open(CdpRelationOid("trait_definitions"), AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, read_snapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	int			max = 32 + list_length(transient);
	ListCell   *lc;

	if (RelationGetDescr(rel)->natts < CDP_DEF_NATTS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the extension's tables are older than its library"),
				 errhint("Run ALTER EXTENSION cdp UPDATE.")));
	set->traits = (CdpTrait **) palloc(max * sizeof(CdpTrait *));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CdpDefinition *definition = (CdpDefinition *) palloc(sizeof(CdpDefinition));

		slot_getallattrs(slot);
		CdpDefinitionFromRow(definition, slot->tts_values, slot->tts_isnull);
		if (CdpOfAccounts(definition) != set->accounts)
			continue;
		if (set->ntraits + list_length(transient) >= max)
		{
			max *= 2;
			set->traits = (CdpTrait **) repalloc(set->traits, max * sizeof(CdpTrait *));
		}
		set->traits[set->ntraits++] = make_trait(definition);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	foreach(lc, transient)
	{
		CdpDefinition *definition = (CdpDefinition *) lfirst(lc);

		definition->id = CDP_TRANSIENT_TRAIT + foreach_current_index(lc);
		set->traits[set->ntraits++] = make_trait(definition);
	}
	qsort(set->traits, set->ntraits, sizeof(CdpTrait *), compare_ids);
	for (int i = 0; i < set->ntraits; i++)
		set->traits[i]->index = i;
}

/*
 * Which of them are not whole.
 */
static void
find_building(CdpTraitSet *set)
{
	Relation	rel = table_open(CdpRelationOid("backfills"), AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, read_snapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		CdpTrait   *trait;

		if (strcmp(TextDatumGetCString(slot_getattr(slot, 1, &isnull)), "trait") != 0)
			continue;
		trait = CdpTraitById(set, DatumGetInt32(slot_getattr(slot, 2, &isnull)));
		if (trait == NULL)
			continue;
		(void) slot_getattr(slot, 3, &isnull);
		trait->building = true;
		trait->built = PG_INT64_MIN;	/* until it is told, see CdpTraitsBuilt */
		trait->version = !isnull;
		set->nbuilding++;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(rel, AccessShareLock);
}

/*
 * An expression of this group, shared with others that are equal.
 */
static CdpSharedExpr *
share(CdpTraitSet *set, Expr *expr, int group)
{
	CdpSharedExpr *shared;
	ListCell   *lc;

	if (expr == NULL)
		return NULL;
	foreach(lc, set->lookup->shared)
	{
		shared = (CdpSharedExpr *) lfirst(lc);
		if (shared->group == group && equal(shared->expr, expr))
			return shared;
	}
	shared = (CdpSharedExpr *) palloc0(sizeof(CdpSharedExpr));
	shared->expr = expr;
	shared->group = group;
	shared->state = ExecInitExpr(expr, NULL);
	set->lookup->shared = lappend(set->lookup->shared, shared);
	return shared;
}

static int
find_group(CdpTraitSet *set, Oid owner, char *timezone, bool can_fail)
{
	CdpTraitIndex *lookup = set->lookup;
	CdpEvalGroup *group;

	for (int i = 0; i < lookup->ngroups; i++)
	{
		group = &lookup->groups[i];
		if (group->owner == owner &&
			(timezone == NULL ? group->timezone == NULL
			 : group->timezone != NULL && strcmp(group->timezone, timezone) == 0))
		{
			group->can_fail |= can_fail;
			return i;
		}
	}
	if (lookup->groups == NULL)
		lookup->groups = (CdpEvalGroup *) palloc(sizeof(CdpEvalGroup));
	else
		lookup->groups = (CdpEvalGroup *)
			repalloc(lookup->groups, (lookup->ngroups + 1) * sizeof(CdpEvalGroup));
	group = &lookup->groups[lookup->ngroups];
	memset(group, 0, sizeof(CdpEvalGroup));
	group->owner = owner;
	group->timezone = timezone;
	group->can_fail = can_fail;
	return lookup->ngroups++;
}

static void
set_type(CdpTrait *trait, Oid type)
{
	trait->type = type;
	get_typlenbyvalalign(type, &trait->typlen, &trait->typbyval, &trait->typalign);
	trait->collation = get_typcollation(type);
}

/* The value for profiles without one. */
static void
compile_empty(CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	CdpDefinition *definition = rules->definition;

	if (definition->empty)
	{
		Oid			input;
		Oid			typioparam;
		int			nest_level = CdpPinSettings(definition->timezone);

		if (CdpHasClockWord(definition->empty) &&
			TypeCategory(trait->type) == TYPCATEGORY_DATETIME)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
					 errmsg("time \"%s\" is relative to the clock",
							definition->empty)));
		getTypeInputInfo(trait->type, &input, &typioparam);
		rules->empty = OidInputFunctionCall(input, definition->empty, typioparam,
											rules->typmod);
		rules->has_empty = true;
		CdpUnpinSettings(nest_level);
	}
	else if (trait->aggregate == CDP_AGG_COUNT ||
			 trait->aggregate == CDP_AGG_UNIQUE_COUNT ||
			 trait->aggregate == CDP_AGG_SESSIONS ||
			 trait->aggregate == CDP_AGG_STREAK ||
			 trait->aggregate == CDP_AGG_LONGEST_STREAK)
	{
		rules->empty = Int64GetDatum(0);
		rules->has_empty = true;
	}
	else if (trait->aggregate == CDP_AGG_EXISTS)
	{
		rules->empty = BoolGetDatum(false);
		rules->has_empty = true;
	}
}

static void
compile_basic(CdpTraitSet *set, CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	CdpDefinition *definition = rules->definition;
	char	   *timezone = NULL;
	Expr	   *filter;
	Expr	   *value;
	Expr	   *each;

	rules->utc = pg_strcasecmp(definition->timezone, "UTC") == 0 ||
		pg_strcasecmp(definition->timezone, "GMT") == 0;
	rules->tz = pg_tzset(definition->timezone);
	if (rules->tz == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known", definition->timezone)));

	if (trait->aggregate == CDP_AGG_DECLARED)
	{
		Oid			input;
		Oid			element;

		set_type(trait, CdpTypeFromName(definition->type, &rules->typmod));
		getTypeInputInfo(trait->type, &input, &rules->typioparam);
		fmgr_info_cxt(input, &rules->input, CurrentMemoryContext);
		element = get_element_type(trait->type);
		rules->pinned = TypeCategory(OidIsValid(element) ? element : trait->type) ==
			TYPCATEGORY_DATETIME;
		compile_empty(trait);
		return;
	}

	if (trait->member_trait != 0)
	{
		/* folds nothing */
		set_type(trait, trait->aggregate == CDP_AGG_COUNT ? INT8OID : NUMERICOID);
		compile_empty(trait);
		return;
	}

	filter = CdpCompileFilter(definition, NULL);
	value = CdpCompileValue(definition, &rules->state, NULL);
	each = CdpCompileEach(definition);
	rules->since = definition->has_since ? definition->since : DT_NOBEGIN;
	rules->limited = rules->state.typlen == -1 &&
		(trait->aggregate == CDP_AGG_LIST || trait->aggregate == CDP_AGG_UNIQUE_LIST);
	set_type(trait, CdpStateResultType(&rules->state));
	compile_empty(trait);
	if (CdpNeedsSettings(filter) || CdpNeedsSettings(value) || CdpNeedsSettings(each))
		timezone = definition->timezone;
	rules->group = find_group(set, rules->owner, timezone,
							  filter != NULL || value != NULL || each != NULL);
	if (CDP_AGG_OF_CONSENT(trait->aggregate))
		rules->purpose = CdpPurposeMake(definition);
	rules->each = share(set, each, rules->group);
	rules->filter = share(set, filter, rules->group);
	rules->value = share(set, value, rules->group);
}

/*
 * Compile one trait, as its owner: functions are checked for his right to
 * call them.
 */
static void
compile_as_owner(DerivedState *state, CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	Oid			userid;
	int			sec_context;

	rules->owner = get_role_oid(rules->definition->owner, true);
	if (!OidIsValid(rules->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("its owner \"%s\" does not exist", rules->definition->owner)));
	GetUserIdAndSecContext(&userid, &sec_context);
	if (rules->owner != userid)
		SetUserIdAndSecContext(rules->owner,
							   sec_context | SECURITY_RESTRICTED_OPERATION);
	if (trait->aggregate == CDP_AGG_EXPRESSION)
		compile_derived(state, trait);
	else
		compile_basic(state->set, trait);
	SetUserIdAndSecContext(userid, sec_context);
}

/*
 * A hidden trait means nothing to a user: the segments that read it are
 * suspended, too, and tell why.  It has a name when it is a purpose.
 */
static void
warn_suspended(const CdpTrait *trait, const ErrorData *error)
{
	bool		purpose = CDP_AGG_OF_CONSENT(trait->aggregate);

	if (trait->hidden && !purpose)
		return;
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("%s \"%s\" is suspended: %s", purpose ? "purpose" : "trait",
					purpose ? trait->rules->definition->key : trait->name, error->message)));
}

/*
 * Compile, or suspend what does not.
 */
static void
compile(DerivedState *state, CdpTrait *trait)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	CdpTrait   *outer = state->trait;
	int			depth = list_length(state->path);

	if (trait->rules->compiled)
		return;
	if (IsInParallelMode() || list_member_int(state->strict_ids, trait->id))
	{
		compile_as_owner(state, trait);
		trait->rules->compiled = true;
		return;
	}
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		compile_as_owner(state, trait);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *edata;
		CdpTraitRules *rules = trait->rules;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (!CdpSwallowError(edata))
			ReThrowError(edata);
		state->trait = outer;
		state->path = list_truncate(state->path, depth);
		/* an altered definition may have made a circle: that is never stored */
		warn_suspended(trait, edata);
		rules->suspended = true;
		rules->why = pstrdup(edata->message);
		rules->compiling = false;
		rules->group = -1;
		rules->has_empty = false;
		rules->filter = rules->value = rules->each = NULL;
		set_type(trait, TEXTOID);
	}
	PG_END_TRY();
	trait->rules->compiled = true;
}

static Node *
derived_column(void *arg, const char *name, int location)
{
	DerivedState *state = (DerivedState *) arg;
	CdpTrait   *trait = CdpTraitLookup(state->set, name);
	Var		   *var;

	if (trait == NULL && state->trait->hidden)
		trait = CdpTraitByHiddenName(state->set, name);
	if (trait == NULL)
		return NULL;
	if (trait->rules->compiling)
	{
		StringInfoData cycle;
		ListCell   *lc;
		bool		inside = false;

		initStringInfo(&cycle);
		foreach(lc, state->path)
		{
			CdpTrait   *step = (CdpTrait *) lfirst(lc);

			inside |= step == trait;
			if (inside)
				appendStringInfo(&cycle, "%s -> ", step->name);
		}
		appendStringInfoString(&cycle, trait->name);
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_RECURSION),
				 errmsg("traits depend on each other in a circle"),
				 errdetail("The circle is %s.", cycle.data)));
	}
	compile(state, trait);
	/* of a class that suspends what reads it, and stops nobody else */
	if (trait->rules->suspended)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 trait->hidden ? errmsg("%s", trait->rules->why) :
				 errmsg("trait \"%s\" is suspended", trait->name)));
	var = makeVar(1, trait->index + 1, trait->type, -1, trait->collation, 0);
	var->location = location;
	return (Node *) var;
}

static void
compile_derived(DerivedState *state, CdpTrait *trait)
{
	CdpTraitRules *rules = trait->rules;
	CdpTrait   *outer = state->trait;
	int			read = -1;

	check_stack_depth();
	rules->compiling = true;
	state->trait = trait;
	state->path = lappend(state->path, trait);
	rules->expr = CdpCompileDerived(rules->definition, derived_column, state);
	state->path = list_delete_last(state->path);
	state->trait = outer;
	rules->compiling = false;

	set_type(trait, exprType((Node *) rules->expr));
	trait->depends = CdpExpressionDepends(rules->expr);
	while ((read = bms_next_member(trait->depends, read)) >= 0)
		trait->building |= state->set->traits[read]->building;
	rules->pinned = CdpNeedsSettings(rules->expr);
	rules->safe = CdpCannotFail(rules->expr);
	rules->exprstate = ExecInitExpr(rules->expr, NULL);
	compile_empty(trait);
	state->order[state->norder++] = trait->index;
}

static void
add_event(CdpTraitSet *set, const char *event)
{
	CdpTraitIndex *lookup = set->lookup;
	int			len = strlen(event);
	uint32		hash = hash_bytes((const unsigned char *) event, len);
	uint32		i = hash & lookup->mask;
	CdpEventTraits *slot;

	for (;;)
	{
		slot = &lookup->events[i];
		if (slot->event == NULL)
			break;
		if (slot->hash == hash && slot->eventlen == len &&
			memcmp(slot->event, event, len) == 0)
			return;
		i = (i + 1) & lookup->mask;
	}
	slot->hash = hash;
	slot->event = event;
	slot->eventlen = len;
	slot->traits = (int *) palloc(mul_size(set->ntraits, sizeof(int)));
	for (int j = 0; j < set->ntraits; j++)
	{
		CdpTraitRules *rules = set->traits[j]->rules;

		if (rules->group >= 0 && rules->definition->key == NULL &&
			(rules->definition->event == NULL ||
			 strcmp(rules->definition->event, event) == 0))
			slot->traits[slot->ntraits++] = j;
	}
}

/*
 * Hidden traits with a key look at identify calls that write it, or (those
 * about a membership) at entries that name the account.
 */
static bool
trait_of_account(const CdpDefinition *definition)
{
	return definition->aggregate == CDP_AGG_LAST;
}

static void
index_events(CdpTraitSet *set)
{
	CdpTraitIndex *lookup = set->lookup;
	uint32		size = 16;

	while (size < 2 * (uint32) set->ntraits)
		size *= 2;
	lookup->mask = size - 1;
	lookup->events = (CdpEventTraits *) palloc0(mul_size(size, sizeof(CdpEventTraits)));
	lookup->any.traits = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	lookup->calls.traits = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	lookup->namings.traits = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	lookup->consents.traits = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	for (int i = 0; i < set->ntraits; i++)
	{
		CdpTraitRules *rules = set->traits[i]->rules;

		if (rules->suspended && rules->definition->aggregate != CDP_AGG_DECLARED &&
			(rules->definition->aggregate != CDP_AGG_EXPRESSION || rules->definition->hidden))
			lookup->suspended = bms_add_member(lookup->suspended, i);
		if (rules->group < 0)
			continue;
		lookup->groups[rules->group].traits =
			bms_add_member(lookup->groups[rules->group].traits, i);
		if (rules->purpose)
			lookup->consents.traits[lookup->consents.ntraits++] = i;
		else if (rules->definition->key && trait_of_account(rules->definition))
			lookup->namings.traits[lookup->namings.ntraits++] = i;
		else if (rules->definition->key)
			lookup->calls.traits[lookup->calls.ntraits++] = i;
		else if (rules->definition->event)
			add_event(set, rules->definition->event);
		else
			lookup->any.traits[lookup->any.ntraits++] = i;
	}
}

/* Descriptors under which expressions see an entry, and a profile's values. */
static void
make_slots(CdpTraitSet *set)
{
	CdpTraitIndex *lookup = set->lookup;
	TupleDesc	desc;

	static const Oid types[CDP_EVENTS_NATTS] = {
		INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, InvalidOid, JSONBOID,
		JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID, INT4OID
	};

	lookup->entrydesc = CreateTemplateTupleDesc(CDP_EVENTS_NATTS);
	for (int i = 0; i < CDP_EVENTS_NATTS; i++)
		TupleDescInitEntry(lookup->entrydesc, i + 1, NULL,
						   OidIsValid(types[i]) ? types[i] :
						   get_array_type(CdpTypeOid("identifier")), -1, 0);
	lookup->entryslot = MakeSingleTupleTableSlot(lookup->entrydesc, &TTSOpsVirtual);

	desc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(desc, 1, "item", JSONBOID, -1, 0);
	lookup->itemslot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);

	desc = CreateTemplateTupleDesc(set->ntraits);
	for (int i = 0; i < set->ntraits; i++)
		TupleDescInitEntry(desc, i + 1, NULL, set->traits[i]->type, -1, 0);
	lookup->valueslot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	lookup->econtext = CreateStandaloneExprContext();
}

/*
 * Who wants to know when a trait changes by itself, without an entry and at any
 * midnight: segments that read it, and those to whom changes are announced.
 * Others see it when they look, and cost no timers.
 */
static void
find_watched(CdpTraitSet *set, const int *order, int norder)
{
	Relation	rel = table_open(CdpRelationOid("definition_depends"), AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, read_snapshot(), 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		char	   *kind = TextDatumGetCString(slot_getattr(slot, 1, &isnull));
		CdpTrait   *trait;

		if (strcmp(kind, "trait") == 0)
			continue;
		trait = CdpTraitById(set, DatumGetInt32(slot_getattr(slot, 3, &isnull)));
		if (trait != NULL)
			trait->rules->state.watched = true;
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	for (int i = 0; i < set->ntraits; i++)
		if (set->traits[i]->announce)
			set->traits[i]->rules->state.watched = true;
	/* what derived traits read that are watched; those that depend come last */
	for (int i = norder - 1; i >= 0; i--)
	{
		CdpTrait   *trait = set->traits[order[i]];
		int			read = -1;

		if (!trait->rules->state.watched || trait->rules->suspended)
			continue;
		while ((read = bms_next_member(trait->depends, read)) >= 0)
			set->traits[read]->rules->state.watched = true;
	}
}

/*
 * Read and compile everything into a context of its own.
 */
static void
build(CdpTraitSet *set, bool accounts, int64 generation, const List *strict_ids,
	  const List *transient)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "cdp traits",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	DerivedState state = {0};
	CdpTraitIndex *lookup = (CdpTraitIndex *) palloc0(sizeof(CdpTraitIndex));

	memset(set, 0, sizeof(CdpTraitSet));
	set->accounts = accounts;
	set->context = context;
	set->generation = generation;
	set->lookup = lookup;
	load_definitions(set, transient);
	find_building(set);

	state.set = set;
	state.strict_ids = strict_ids;
	state.order = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	lookup->fallible = (int *) palloc(mul_size(Max(set->ntraits, 1), sizeof(int)));
	for (int i = 0; i < set->ntraits; i++)
		compile(&state, set->traits[i]);
	for (int i = 0; i < set->ntraits; i++)
		if (set->traits[i]->aggregate == CDP_AGG_DECLARED)
			lookup->fallible[lookup->nfallible++] = i;
	for (int i = 0; i < state.norder; i++)
		lookup->fallible[lookup->nfallible++] = state.order[i];
	find_watched(set, state.order, state.norder);
	index_events(set);
	make_slots(set);

	MemoryContextSwitchTo(old);
	if (transient == NIL)
		MemoryContextSetParent(context, CacheMemoryContext);
}

static void
free_outdated(void)
{
	ListCell   *lc;

	foreach(lc, outdated)
		MemoryContextDelete((MemoryContext) lfirst(lc));
	list_free(outdated);
	outdated = NIL;
}

static CdpTraitSet *
ensure_current(bool accounts)
{
	if (CacheMemoryContext == NULL)
		CreateCacheMemoryContext();
	if (currents[accounts] == NULL)
		currents[accounts] = (CdpTraitSet *) MemoryContextAllocZero(TopMemoryContext,
																	sizeof(CdpTraitSet));
	return currents[accounts];
}

static CdpTraitSet *
get_set(bool accounts, int64 generation)
{
	CdpTraitSet *current = ensure_current(accounts);
	CdpTraitSet built;

	if (generation < 0)
		generation = CdpApplierGlance(NULL);
	if (current->context != NULL && current->generation == generation)
		return current;
	build(&built, accounts, generation, NIL, NIL);
	if (current->context != NULL)
		MemoryContextDelete(current->context);
	free_outdated();
	*current = built;
	return current;
}

CdpTraitSet *
CdpTraitSetGet(int64 generation)
{
	return get_set(false, generation);
}

CdpTraitSet *
CdpAccountTraitSetGet(int64 generation)
{
	return get_set(true, generation);
}

/*
 * After a change of definitions by this very transaction: read them again with
 * what it has written.  Those in strict_ids must compile.  Callers' pointers
 * to the set and to its traits stay valid.
 */
CdpTraitSet *
CdpTraitSetReloadOf(bool accounts, const List *strict_ids)
{
	CdpTraitSet *current = ensure_current(accounts);
	CdpTraitSet built;

	/* nobody keeps pointers from one statement to the next */
	if (outdated_since != GetCurrentStatementStartTimestamp())
		free_outdated();
	outdated_since = GetCurrentStatementStartTimestamp();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	build(&built, accounts, CdpApplierGlance(NULL), strict_ids, NIL);
	PopActiveSnapshot();
	if (current->context != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		outdated = lappend(outdated, current->context);
		MemoryContextSwitchTo(old);
	}
	*current = built;
	return current;
}

CdpTraitSet *
CdpTraitSetReload(const List *strict_ids)
{
	return CdpTraitSetReloadOf(false, strict_ids);
}

/*
 * The set as of this very command, for those who change definitions; pointers
 * stay valid as with CdpTraitSetReload.
 */
static CdpTraitSet *
fresh_set(bool accounts)
{
	CdpTraitSet *current = currents[accounts];
	int64		generation;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	generation = CdpApplierGlance(NULL);
	PopActiveSnapshot();
	if (current != NULL && current->context != NULL &&
		current->generation == generation)
		return current;
	return CdpTraitSetReloadOf(accounts, NIL);
}

CdpTraitSet *
CdpTraitSetFresh(void)
{
	return fresh_set(false);
}

CdpTraitSet *
CdpAccountTraitSetFresh(void)
{
	return fresh_set(true);
}

/*
 * A set with definitions that are nowhere stored: see traits.h.
 */
CdpTraitSet *
CdpTraitSetWith(int64 generation, List *transient)
{
	CdpTraitSet *set = (CdpTraitSet *) palloc(sizeof(CdpTraitSet));

	build(set, false, generation, NIL, transient);
	return set;
}

Oid
CdpTransientType(const CdpDefinition *definition)
{
	int32		typmod;

	return CdpTypeFromName(definition->type, &typmod);
}

CdpTrait *
CdpTraitByName(CdpTraitSet *set, const char *name)
{
	for (int i = 0; i < set->ntraits; i++)
		if (!set->traits[i]->hidden && strcmp(set->traits[i]->name, name) == 0)
			return set->traits[i];
	return NULL;
}

CdpTrait *
CdpTraitById(CdpTraitSet *set, int32 id)
{
	int			low = 0;
	int			high = set->ntraits;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (set->traits[middle]->id < id)
			low = middle + 1;
		else if (set->traits[middle]->id > id)
			high = middle;
		else
			return set->traits[middle];
	}
	return NULL;
}
