/*-------------------------------------------------------------------------
 *
 * matches.c
 *	  cdp.matches: is a predicate true of a profile now?
 *
 *	  Reads only.  Behaviour that no segment asks about has no state; it is
 *	  folded from the log for the profile at hand.  So the answer is that of a
 *	  segment with this predicate, whether one exists or not.
 *
 *	  The compiled predicate is kept for the next row of the same query.
 *
 * IDENTIFICATION
 *	  src/segments/matches.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "segments/predicate.h"
#include "statement.h"

/* A compiled predicate; lives as long as the function call's plan. */
typedef struct Match
{
	MemoryContext context;		/* of what follows, emptied to compile anew */
	text	   *text;			/* NULL: nothing is compiled */
	char	   *timezone;
	int64		generation;
	Oid			userid;			/* whose rights were checked */
	CdpTraitSet *own;			/* with transient traits; NULL: the common set */
	Bitmapset  *transient;		/* their indexes, but for declared ones */
	CdpPredicate predicate;
	CdpPredicateSlots *slots;
	int			nsegments;
	ExprState  *state;
	MemoryContext row;			/* emptied at every call */
} Match;

static CdpStatement history = {
	"SELECT n.owner, " CDP_EVENTS_COLUMNS
	" FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL cdp.entries_of(u.node) n"
	" JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
	" AND e.received_at = n.received_at",
	{"int8[]"}
};

static void
compile(Match *match, text *predicate, const char *timezone, int64 generation)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	CdpReferences references = {0};
	CdpTraitSet *traits;
	CdpSegmentSet *segments;
	List	   *transient = NIL;
	char	   *string;
	int			next_term = 0;

	match->text = NULL;
	MemoryContextReset(match->context);
	MemoryContextSwitchTo(match->context);
	match->own = NULL;
	match->transient = NULL;
	string = text_to_cstring(predicate);
	traits = CdpTraitSetGet(generation);
	CdpPredicateProbe(string, timezone, "predicate", traits, &references, &transient);
	segments = CdpSegmentSetGet(generation, traits);
	if (transient != NIL)
	{
		match->own = traits = CdpTraitSetWith(generation, transient);
		for (int i = 0; i < traits->ntraits; i++)
		{
			if (traits->traits[i]->id >= CDP_TRANSIENT_TRAIT &&
				traits->traits[i]->aggregate != CDP_AGG_DECLARED)
				match->transient = bms_add_member(match->transient, i);
		}
	}
	CdpPredicateCompile(string, timezone, "predicate", &references, &next_term, traits,
						segments->columns->ids, segments->columns->n, &match->predicate);
	CdpPredicateCheckBuilt(&match->predicate, traits, segments);
	match->nsegments = segments->columns->n;
	match->slots = CdpPredicateSlotsMake(traits, match->nsegments);
	match->state = ExecInitExpr(match->predicate.expr, NULL);
	match->timezone = pstrdup(timezone);
	match->generation = generation;
	match->userid = GetUserId();
	match->row = AllocSetContextCreate(match->context, "cdp matches row",
									   ALLOCSET_DEFAULT_SIZES);
	match->text = (text *) PG_DETOAST_DATUM_COPY(PointerGetDatum(predicate));
	MemoryContextSwitchTo(oldcontext);
}

static bool
same_text(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/*
 * Fold the profile's history into the traits that have no state.
 */
static void
fold_history(Match *match, CdpProfileNodes *nodes)
{
	MemoryContext context = CurrentMemoryContext;
	int64	   *owners = palloc(nodes->nnodes * sizeof(int64));
	CdpContributions *contributions;
	CdpEntry   *entries;
	CdpUserContext saved;
	Datum		args[1];
	int			n;

	for (int i = 0; i < nodes->nnodes; i++)
		owners[i] = nodes->nodes[i].node_id;
	args[0] = CdpInt8Array(owners, nodes->nnodes);
	CdpBecomeOwner(&saved);
	/* a plan made while there was little history would read all of it for ever */
	CdpPinPlans();
	SPI_connect();
	n = (int) CdpRun(&history, args, NULL);
	MemoryContextSwitchTo(context);
	entries = palloc0(Max(n, 1) * sizeof(CdpEntry));
	for (int i = 0; i < n; i++)
	{
		Datum		values[CDP_EVENTS_NATTS + 1];
		bool		isnull[CDP_EVENTS_NATTS + 1];

		CHECK_FOR_INTERRUPTS();
		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, isnull);
		CdpEntryFromRow(&entries[i], values + 1, isnull + 1);
		entries[i].owner = DatumGetInt64(values[0]);
	}
	CdpEntriesReadAll(entries, n);
	CdpGraphReadProperties(NULL, NULL, entries, n);
	SPI_finish();
	CdpRestoreUser(&saved);

	contributions = palloc0(Max(n, 1) * sizeof(CdpContributions));
	CdpTraitsEvaluate(match->own, match->transient, entries, n, contributions);
	for (int i = 0; i < n; i++)
	{
		for (int k = 0; contributions[i].n > 0 && k < nodes->nnodes; k++)
		{
			if (nodes->nodes[k].node_id == entries[i].owner)
				CdpNodeFold(nodes->accs[k], &entries[i], &contributions[i], false);
		}
	}
}

/*
 * Which of the segments that the predicate refers to the profile is in.
 */
static Datum *
referred_segments(Match *match, CdpTraitSet *traits, CdpProfileNodes *nodes,
				  const CdpProfileValues *values, TimestampTz now)
{
	CdpSegmentSet *segments = CdpSegmentSetGet(match->generation, traits);
	Datum	   *member = palloc0(Max(match->nsegments, 1) * sizeof(Datum));
	CdpProfileEval profile = {0};

	if (bms_is_empty(match->predicate.segments))
		return member;
	profile.profile_id = nodes->profile_id;
	profile.values = *values;
	profile.nbefore = nodes->nsegments;
	profile.before = nodes->segments;
	profile.identifiers = CdpProfileIdentifiers(nodes);
	profile.nidentifiers = nodes->nnodes;
	if (segments->primary)
		CdpPrimaryAccountRead(segments->generation, &profile, now);
	CdpSegmentsEvaluateSome(segments, &profile, 1, now, match->predicate.segments, false);
	for (int i = 0; i < profile.nafter; i++)
	{
		int			column = CdpSegmentColumn(segments, profile.after[i]);

		if (column >= 0)
			member[column] = BoolGetDatum(true);
	}
	return member;
}

/*
 * In the row's memory context; false when there is no such profile.
 */
static bool
evaluate(Match *match, int64 profile_id, TimestampTz now, bool *result, bool *isnull)
{
	CdpTraitSet *common = CdpTraitSetGet(match->generation);
	CdpTraitSet *traits = match->own ? match->own : common;
	CdpProfileNodes nodes;
	CdpProfileValues values;
	Datum	   *member;
	Oid			userid;
	int			sec_context;
	int			nest_level = 0;

	if (!CdpProfileRead(profile_id, traits, &nodes))
		return false;
	if (!bms_is_empty(match->transient))
		fold_history(match, &nodes);
	CdpProfileEvaluate(traits, nodes.accs, nodes.nnodes, now, &values);
	if (match->own != NULL && !bms_is_empty(match->predicate.segments))
	{
		/* segments read from the common set */
		CdpProfileNodes others;
		CdpProfileValues common_values;

		(void) CdpProfileRead(profile_id, common, &others);
		CdpProfileEvaluate(common, others.accs, others.nnodes, now, &common_values);
		member = referred_segments(match, common, &others, &common_values, now);
	}
	else
		member = referred_segments(match, common, &nodes, &values, now);

	CdpEnvironmentInstant(match->slots, now);
	if (match->predicate.of_primary != NULL)
	{
		CdpProfileEval profile = {.profile_id = nodes.profile_id};

		CdpPrimaryAccountRead(match->generation, &profile, now);
		CdpEnvironmentPrimary(match->slots, profile.primary);
	}
	if (match->predicate.identity)
		CdpEnvironmentIdentity(match->slots, match->generation,
							   CdpProfileIdentifiers(&nodes), nodes.nnodes);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(userid, sec_context | SECURITY_RESTRICTED_OPERATION);
	if (match->predicate.pinned)
		nest_level = CdpPinSettings(match->timezone);
	*result = CdpPredicateValue(match->slots, match->state, &values, member,
								palloc0(Max(match->nsegments, 1)), isnull);
	if (match->predicate.pinned)
		CdpUnpinSettings(nest_level);
	SetUserIdAndSecContext(userid, sec_context);
	return true;
}

static Datum
matches(FunctionCallInfo fcinfo, int64 profile_id, int64 generation, TimestampTz applied)
{
	text	   *predicate = PG_GETARG_TEXT_PP(1);
	char	   *timezone = text_to_cstring(PG_GETARG_TEXT_PP(2));
	Match	   *match = (Match *) fcinfo->flinfo->fn_extra;
	MemoryContext oldcontext;
	bool		found;
	bool		result;
	bool		isnull;

	if (match == NULL)
	{
		match = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Match));
		match->context = AllocSetContextCreate(fcinfo->flinfo->fn_mcxt, "cdp matches",
											   ALLOCSET_DEFAULT_SIZES);
		fcinfo->flinfo->fn_extra = match;
	}
	if (match->text == NULL || !same_text(match->text, predicate) ||
		strcmp(match->timezone, timezone) != 0 || match->generation != generation ||
		match->userid != GetUserId())
		compile(match, predicate, timezone, generation);
	if (profile_id == 0)
		PG_RETURN_NULL();

	MemoryContextReset(match->row);
	oldcontext = MemoryContextSwitchTo(match->row);
	found = evaluate(match, profile_id, CdpReadInstant(applied), &result, &isnull);
	MemoryContextSwitchTo(oldcontext);
	if (!found || isnull)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(result);
}

PG_FUNCTION_INFO_V1(cdp_matches_by_id);

/*
 * cdp.matches(profile_id, predicate, timezone): also for an id that has been
 * merged away.
 */
Datum
cdp_matches_by_id(PG_FUNCTION_ARGS)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);

	return matches(fcinfo, CdpProfileOfNode(PG_GETARG_INT64(0)), generation, applied);
}

PG_FUNCTION_INFO_V1(cdp_matches);

/*
 * cdp.matches(identifier, predicate, timezone)
 */
Datum
cdp_matches(PG_FUNCTION_ARGS)
{
	TimestampTz applied;
	int64		generation = CdpApplierGlance(&applied);
	int64		profile_id = CdpProfileOfIdentifier(generation, PG_GETARG_IDENTIFIER_PP(0));

	return matches(fcinfo, profile_id, generation, applied);
}
