/*-------------------------------------------------------------------------
 *
 * building.c
 *	  Definitions that are built beside what comes.
 *
 *	  Where there is much history, a definition is not folded by the
 *	  transaction that makes it.  The applier does it, a step at a time, between
 *	  its batches: a step takes the next nodes by number, folds the entries that
 *	  they own by then, and moves the position; the position commits with the
 *	  states.  What comes meanwhile counts for the nodes up to the position only
 *	  (CdpTraitsEvaluate), what is withdrawn or changes its owner likewise.  New
 *	  nodes have greater numbers than all others, so the work ends; from then on
 *	  the position is beyond every node.
 *
 *	  Traits of accounts over entries are built the same way; entries that are
 *	  nobody's come first, account by account.  For those over members everybody
 *	  is evaluated, some profiles at a time: what a member contributes stands in
 *	  a row of its own, so to write it again does no harm.
 *
 *	  Whole definitions are put in their place in one transaction, which also
 *	  evaluates the segments that depend on them for everybody.
 *
 * IDENTIFICATION
 *	  src/apply/building.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/accounts.h"
#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"

/* Rows that are worked on at a time. */
#define CHUNK		10000

/* Most nodes of a step. */
#define MAX_NODES	10000

/* Most accounts of a step. */
#define MAX_ACCOUNTS	1000

/* The position of what is whole. */
#define WHOLE		PG_INT64_MAX

static CdpStatement count_applied = {
	"SELECT coalesce((SELECT a.entries FROM cdp.applier a), 0)",
	{NULL}
};

static CdpStatement next_nodes = {
	"SELECT i.node_id FROM cdp.identities i"
	" WHERE i.node_id > $1 AND i.node_id <= $2 ORDER BY i.node_id LIMIT $3",
	{"int8", "int8", "int8"}
};

/* those whose entries may count for an account */
static CdpStatement next_bearing = {
	"SELECT i.node_id, EXISTS (SELECT FROM cdp.identities j"
	" JOIN cdp.account_nodes n ON n.node_id = j.node_id WHERE j.profile_id = i.profile_id)"
	" FROM cdp.identities i"
	" WHERE i.node_id > $1 AND i.node_id <= $2 ORDER BY i.node_id LIMIT $3",
	{"int8", "int8", "int8"}
};

static CdpStatement next_accounts = {
	"SELECT a.account_id FROM cdp.account_identities a"
	" WHERE a.account_id > $1 AND a.account_id <= $2 ORDER BY a.account_id LIMIT $3",
	{"int8", "int8", "int8"}
};

static CdpStatement next_profiles = {
	"SELECT i.node_id, i.profile_id = i.node_id FROM cdp.identities i"
	" WHERE i.node_id > $1 AND i.node_id <= $2 ORDER BY i.node_id LIMIT $3",
	{"int8", "int8", "int8"}
};

static CdpStatement move_position = {
	"UPDATE cdp.backfills b SET position = $2, done = b.done + $3,"
	" started_at = coalesce(b.started_at, clock_timestamp())"
	" WHERE b.kind = 'trait' AND b.id = ANY ($1)",
	{"int4[]", "int8", "int8"}
};

static CdpStatement whole_traits = {
	"SELECT b.id, b.replaces IS NOT NULL FROM cdp.backfills b"
	" WHERE b.kind = 'trait' AND b.position = $1 ORDER BY b.id",
	{"int8"}
};

/* segments that wait for nothing but to be evaluated */
static CdpStatement ready_segments = {
	"WITH RECURSIVE t(id) AS (SELECT b.id FROM cdp.backfills b"
	" WHERE b.kind = 'trait' AND b.replaces IS NULL"
	" UNION SELECT d.id FROM t JOIN cdp.definition_depends d"
	" ON d.trait_id = t.id AND d.kind = 'trait'),"
	" s(kind, id) AS (SELECT d.kind, d.id FROM t JOIN cdp.definition_depends d"
	" ON d.trait_id = t.id AND d.kind IN ('segment', 'segment version')"
	" UNION SELECT 'segment', d.id FROM s JOIN cdp.segment_definitions d"
	" ON s.kind = 'segment' AND s.id = ANY (d.segment_ids))"
	" SELECT b.id FROM cdp.backfills b WHERE b.kind = $1"
	" AND (b.kind, b.id) NOT IN (SELECT s.kind, s.id FROM s) ORDER BY b.id",
	{"text"}
};

static CdpStatement find_backfill = {
	"SELECT b.kind, b.id, b.replaces IS NOT NULL, b.fresh, t.entity FROM cdp.backfills b"
	" LEFT JOIN cdp.trait_definitions t ON b.kind = 'trait' AND t.id = coalesce(b.replaces, b.id)"
	" LEFT JOIN cdp.segment_definitions s ON b.kind <> 'trait' AND s.id = b.id"
	" WHERE coalesce(t.name, s.name) = $1 AND t.hidden IS NOT TRUE "
	" ORDER BY b.kind DESC, b.replaces LIMIT 1",
	{"text"}
};

/* When the next step may begin, by cdp.backfill_rate. */
static TimestampTz not_before = 0;

/*
 * The hook of cdp.h.
 */
bool
CdpBackfillNeeded(void)
{
	CdpUserContext saved;
	int64		entries;

	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRun(&count_applied, NULL, NULL);
	entries = CdpCellInt8(0, 1);
	SPI_finish();
	CdpRestoreUser(&saved);
	return entries > cdp_backfill_at_once;
}

/*
 * May a step be made?  Otherwise *until is when, on the extension's clock.
 */
bool
CdpBackfillDue(TimestampTz *until)
{
	TimestampTz now;

	*until = DT_NOEND;
	if (cdp_backfill_rate < 0)
		return false;
	now = GetCurrentTimestamp();
	if (cdp_backfill_rate == 0 || now >= not_before)
		return true;
	*until = CdpClock() + (not_before - now);
	return false;
}

/*
 * The traits that are behind most; they go on together until they meet those
 * that are ahead of them.
 */
static Bitmapset *
choose_traits(CdpTraitSet *set, bool over_members, int64 *after, int64 *upto)
{
	Bitmapset  *chosen = NULL;
	int			i;

	*after = *upto = WHOLE;
	for (i = 0; i < set->ntraits; i++)
	{
		CdpTrait   *trait = set->traits[i];

		if (!trait->building || trait->aggregate == CDP_AGG_EXPRESSION ||
			trait->built == WHOLE || CdpTraitSuspended(trait) ||
			(trait->member_trait != 0) != over_members)
			continue;
		if (trait->built < *after)
		{
			*upto = *after;
			*after = trait->built;
			bms_free(chosen);
			chosen = NULL;
		}
		if (trait->built == *after)
			chosen = bms_add_member(chosen, i);
		else
			*upto = Min(*upto, trait->built);
	}
	return chosen;
}

/*
 * Fold what these nodes own.
 */
static int64
fold_owned(CdpBatch *batch, Bitmapset *only, const int64 *nodes, int nnodes)
{
	MemoryContext old = CurrentMemoryContext;
	MemoryContext chunk;
	Datum		arg = CdpInt8Array(nodes, nnodes);
	Portal		portal;
	int64		total = 0;

	CdpPrepare(&CdpOwnedEntries);
	portal = SPI_cursor_open(NULL, CdpOwnedEntries.plan, &arg, NULL, false);
	chunk = AllocSetContextCreate(old, "cdp backfill", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		CdpEntry   *entries;
		int			n;
		int			i;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(chunk);
		n = CdpFetchHere(portal, CHUNK);
		if (n == 0)
			break;
		entries = palloc(sizeof(CdpEntry) * n);
		for (i = 0; i < n; i++)
		{
			Datum		values[CDP_EVENTS_NATTS + 1];
			bool		isnull[CDP_EVENTS_NATTS + 1];

			heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
							  values, isnull);
			CdpEntryFromRow(&entries[i], values + 1, isnull + 1);
			entries[i].owner = DatumGetInt64(values[0]);
		}
		SPI_freetuptable(SPI_tuptable);
		CdpEntriesReadAll(entries, n);
		CdpGraphReadProperties(batch->graph->reading, batch->graph->reading_arg, entries, n);
		CdpFoldChunk(batch->traits, only, entries, n, batch->applier.clock, batch->graph);
		total += n;
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
	SPI_cursor_close(portal);
	return total;
}

/*
 * Move the position of these traits.
 */
static void
move(CdpTraitSet *set, Bitmapset *chosen, int64 position, int64 done)
{
	int32	   *ids = palloc(sizeof(int32) * bms_num_members(chosen));
	int			nids = 0;
	Datum		args[3];

	for (int i = -1; (i = bms_next_member(chosen, i)) >= 0;)
	{
		set->traits[i]->built = position;
		ids[nids++] = set->traits[i]->id;
	}
	args[0] = CdpInt4Array(ids, nids);
	args[1] = Int64GetDatum(position);
	args[2] = Int64GetDatum(done);
	CdpRun(&move_position, args, NULL);
	CdpBackfillDone(done);
}

void
CdpBackfillDone(int64 done)
{
	if (cdp_backfill_rate > 0)
		not_before = GetCurrentTimestamp() +
			(TimestampTz) (done * (double) USECS_PER_SEC / cdp_backfill_rate);
}

/*
 * The next numbers, and of them those that are of use by the second column, if
 * there is one.
 */
static int64 *
next_numbers(CdpStatement *statement, int64 after, int64 upto, int limit, int *n,
			 int64 *last, int *nread)
{
	Datum		args[3];
	int64	   *numbers;

	args[0] = Int64GetDatum(after);
	args[1] = Int64GetDatum(upto);
	args[2] = Int64GetDatum(limit);
	*nread = CdpRunHere(statement, args, NULL);
	numbers = palloc(sizeof(int64) * Max(*nread, 1));
	*n = 0;
	for (int i = 0; i < *nread; i++)
	{
		bool		isnull;

		*last = CdpCellInt8(i, 1);
		if (SPI_tuptable->tupdesc->natts == 1 || DatumGetBool(CdpCell(i, 2, &isnull)))
			numbers[(*n)++] = *last;
	}
	SPI_freetuptable(SPI_tuptable);
	return numbers;
}

/*
 * How many nodes, or accounts, make a step of about so many entries?
 */
static int
step_size(double entries_each, int max, int most)
{
	return (int) Max(1, Min(most, max / entries_each));
}

/*
 * Not at once: there may be many that own nothing, then again those that do.
 */
static void
learn_entries(double *entries_each, int64 entries, int n)
{
	if (n > 0)
		*entries_each = Max(0.5, (3 * *entries_each + entries / (double) n) / 4);
}

/*
 * The entries that are nobody's of the next accounts.
 */
static int64
nobodys_step(CdpBatch *batch, CdpTraitSet *set, Bitmapset *chosen, int64 after, int64 upto,
			 int max)
{
	static double entries_per_account = 10;
	int limit = step_size(entries_per_account, max, MAX_ACCOUNTS);
	int64		last = 0;
	int64		entries = 0;
	int			n;
	int			nread;
	int64	   *accounts = next_numbers(&next_accounts, after - CDP_NOBODYS_OWNER(0),
										Min(upto, 0) - CDP_NOBODYS_OWNER(0), limit,
										&n, &last, &nread);

	/* they count from now on: what the step folds is of this position */
	move(set, chosen, nread == limit ? CDP_NOBODYS_OWNER(last) : Min(upto, 0), 0);
	if (n > 0)
		entries = CdpAccountsBuild(batch, chosen, accounts, n, true);
	learn_entries(&entries_per_account, entries, nread);
	move(set, chosen, set->traits[bms_next_member(chosen, -1)]->built, entries);
	return entries;
}

int64
CdpBackfillStep(CdpBatch *batch, int max)
{
	static double entries_per_node = 10;
	CdpTraitSet *set = batch->traits;
	bool		accounts = false;
	int64		after;
	int64		upto;
	Bitmapset  *chosen = choose_traits(set, false, &after, &upto);
	int64	   *nodes;
	int64		last = 0;
	int64		entries = 0;
	int			limit;
	int			nread;
	int			n;

	if (bms_is_empty(chosen))
	{
		accounts = true;
		set = CdpAccountTraitSetGet(batch->applier.generation);
		chosen = choose_traits(set, false, &after, &upto);
	}
	if (bms_is_empty(chosen))
		return -1;
	if (cdp_backfill_rate > 0)
		max = Min(max, cdp_backfill_rate);
	if (after < 0)
		return nobodys_step(batch, set, chosen, after, upto, max);
	if (after == 0)
		entries_per_node = Max(1, batch->applier.entries / (double) batch->applier.next_node);
	limit = step_size(entries_per_node, max, MAX_NODES);

	nodes = next_numbers(accounts ? &next_bearing : &next_nodes, after, upto, limit,
						 &n, &last, &nread);
	for (int i = -1; (i = bms_next_member(chosen, i)) >= 0;)
		set->traits[i]->built = nread == limit ? last : upto;
	if (n > 0)
		entries = accounts ? CdpAccountsBuild(batch, chosen, nodes, n, false) :
			fold_owned(batch, chosen, nodes, n);
	learn_entries(&entries_per_node, entries, nread);
	move(set, chosen, nread == limit ? last : upto, entries);
	return entries;
}

int
CdpBackfillMembers(CdpBatch *batch, int max, int64 **profiles)
{
	CdpTraitSet *accounts = CdpAccountTraitSetGet(batch->applier.generation);
	CdpTraitSet *traits = CdpTraitSetGet(batch->applier.generation);
	Bitmapset  *chosen;
	int64		after;
	int64		upto;
	int64		last = 0;
	int64		done = 0;
	int			limit;
	int			nread;
	int			n;

	if (accounts->nbuilding == 0)
		return 0;
	CdpTraitsBuilt(traits);
	CdpTraitsBuilt(accounts);
	if (!bms_is_empty(choose_traits(traits, false, &after, &upto)) ||
		!bms_is_empty(choose_traits(accounts, false, &after, &upto)))
		return 0;
	chosen = choose_traits(accounts, true, &after, &upto);
	if (bms_is_empty(chosen))
		return 0;
	limit = Max(1, Min(MAX_NODES, cdp_backfill_rate > 0 ? Min(max, cdp_backfill_rate) : max));
	do
	{
		*profiles = next_numbers(&next_profiles, after, upto, limit, &n, &last, &nread);
		after = nread == limit ? last : upto;
		done += nread;
	} while (n == 0 && nread == limit);
	move(accounts, chosen, after, done);
	return n > 0 ? n : -1;
}

/*
 * The first column of the statement's rows.
 */
static List *
run_ids(CdpStatement *statement, Datum *args)
{
	List	   *ids = NIL;
	uint64		i;

	CdpRun(statement, args, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		ids = lappend_int(ids, DatumGetInt32(CdpCell(i, 1, &isnull)));
	}
	SPI_freetuptable(SPI_tuptable);
	return ids;
}

bool
CdpBackfillSwitch(void)
{
	Datum		whole = Int64GetDatum(WHOLE);
	List	   *traits = run_ids(&whole_traits, &whole);
	List	   *segments = NIL;
	List	   *ready;
	List	   *altered;
	Datum		kind;
	ListCell   *lc;
	bool		everybody = false;
	bool		accounts = false;

	foreach(lc, traits)
	{
		int32		id = lfirst_int(lc);
		CdpTrait   *trait = CdpTraitById(CdpTraitSetFresh(), id);
		bool		replaces;

		/* others are evaluated when something happens to a profile */
		everybody |= trait != NULL &&
			(trait->windowed || trait->aggregate == CDP_AGG_RATE ||
			 trait->aggregate == CDP_AGG_STREAK);
		if (trait == NULL)
		{
			trait = CdpTraitById(CdpAccountTraitSetFresh(), id);
			accounts |= trait != NULL;
		}
		replaces = trait != NULL && trait->version;
		CdpVersionSwitch(id);
		everybody |= CdpFeedsAccounts(id) != NIL;
		if (replaces)
			segments = list_concat_unique_int(segments, CdpSegmentsOfTrait(id));
	}
	kind = CStringGetTextDatum("segment");
	ready = run_ids(&ready_segments, &kind);
	foreach(lc, ready)
	{
		(void) CdpBackfillEnd("segment", lfirst_int(lc));
		segments = list_append_unique_int(segments, lfirst_int(lc));
	}
	kind = CStringGetTextDatum("segment version");
	altered = run_ids(&ready_segments, &kind);
	if (traits == NIL && ready == NIL && altered == NIL)
		return false;
	CdpGenerationBump();
	if (segments != NIL || everybody || accounts)
		CdpEvaluateEverybody(segments, everybody, accounts);

	/* these are evaluated next */
	foreach(lc, altered)
		CdpSegmentVersionSwitch(lfirst_int(lc));
	return true;
}

PG_FUNCTION_INFO_V1(cdp_cancel_backfill);

/*
 * cdp.cancel_backfill(name text) returns void
 */
Datum
cdp_cancel_backfill(PG_FUNCTION_ARGS)
{
	Datum		name = PG_GETARG_DATUM(0);
	Oid			type = TEXTOID;
	CdpUserContext saved;
	char	   *kind = NULL;
	char	   *entity = NULL;
	int32		id = 0;
	bool		version = false;
	bool		fresh = false;
	bool		isnull;

	CdpApplierLock();
	CdpBecomeOwner(&saved);
	SPI_connect();
	if (CdpRun(&find_backfill, &name, NULL) > 0)
	{
		kind = TextDatumGetCString(CdpCell(0, 1, &isnull));
		id = DatumGetInt32(CdpCell(0, 2, &isnull));
		version = DatumGetBool(CdpCell(0, 3, &isnull));
		fresh = DatumGetBool(CdpCell(0, 4, &isnull));
		if (strcmp(kind, "trait") == 0)
			entity = TextDatumGetCString(CdpCell(0, 5, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	CdpRestoreUser(&saved);
	if (kind == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("nothing called \"%s\" is being built", TextDatumGetCString(name)),
				 errhint("See cdp.progress.")));
	if (version)
	{
		if (strcmp(kind, "trait") == 0)
		{
			CdpVersionDrop(id);
			CdpSegmentsUnnamedPrune();
		}
		else if (CdpSegmentVersionDrop(id))
			CdpSegmentsUnnamedPrune();
		CdpGenerationBump();
	}
	else if (!fresh)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the former version of %s \"%s\" is not kept", kind, TextDatumGetCString(name)),
				 errhint("Alter it again, or drop it.")));
	else if (SPI_execute_with_args(psprintf(entity == NULL ? "SELECT cdp.drop_%s($1)" :
											"SELECT cdp.drop_%s($1, entity => '%s')", kind, entity),
								   1, &type, &name, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not drop %s", kind);
	SPI_finish();
	PG_RETURN_VOID();
}
