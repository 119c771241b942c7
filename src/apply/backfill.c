/*-------------------------------------------------------------------------
 *
 * backfill.c
 *	  History under new definitions.
 *
 *	  A new trait folds the entries that have been applied so far, node by
 *	  node; a new segment is evaluated for every profile.  Both run in the
 *	  transaction that makes the definition, under the applier's lock: when it
 *	  commits, the definition is complete, and entries that came meanwhile are
 *	  applied with it.
 *
 *	  New rules of identity replay the log: all evidence, owners and states
 *	  are made again, nodes keep their numbers.
 *
 * IDENTIFICATION
 *	  src/apply/backfill.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "apply/accounts.h"
#include "apply/apply.h"
#include "apply/batch.h"
#include "apply/rules.h"
#include "cdp.h"
#include "statement.h"

/* Rows that are worked on at a time. */
#define CHUNK	10000

static CdpStatement states_of = {
	"SELECT i.node_id, i.state FROM (SELECT unnest($1) AS node_id) AS u"
	" JOIN cdp.identities i ON i.node_id = u.node_id",
	{"int8[]"}
};

static CdpStatement update_states = {
	"UPDATE cdp.identities i SET state = u.state"
	" FROM (SELECT unnest($1) AS node_id, unnest($2) AS state) AS u WHERE i.node_id = u.node_id",
	{"int8[]", "node_state[]"}
};

static CdpStatement next_profiles = {
	"SELECT i.node_id FROM cdp.identities i"
	" WHERE i.node_id > $1 AND i.profile_id = i.node_id"
	" ORDER BY i.node_id LIMIT $2",
	{"int8", "int8"}
};

static CdpStatement members_of = {
	"SELECT count(*) FROM cdp.segment_members m"
	" WHERE m.segment_id = $1 AND m.member",
	{"int4"}
};

static CdpStatement accounts_count = {
	"SELECT count(*) FROM cdp.account_identities",
	{NULL}
};

static CdpStatement profiles_count = {
	"SELECT count(*) FROM cdp.identities i WHERE i.profile_id = i.node_id",
	{NULL}
};

static CdpStatement any_identity = {
	"SELECT 1 FROM cdp.identities LIMIT 1",
	{NULL}
};

static CdpStatement former_members = {
	"UPDATE cdp.segment_members m SET member = false"
	" WHERE m.member AND NOT EXISTS"
	" (SELECT FROM cdp.identities i WHERE i.node_id = m.profile_id"
	" AND i.profile_id = i.node_id AND i.first_seen <> 'infinity')"
	" AND NOT EXISTS (SELECT FROM cdp.account_identities a"
	" WHERE a.account_id = m.profile_id AND a.first_seen <> 'infinity')"
	" RETURNING m.segment_id, m.profile_id",
	{NULL}
};

/* A node whose entries are being folded; hash entry. */
typedef struct Folding
{
	int64		owner;
	CdpNodeAcc *acc;
} Folding;

void
CdpFoldChunk(CdpTraitSet *traits, Bitmapset *only, CdpEntry *entries, int n,
			 TimestampTz clock, CdpGraph *graph)
{
	CdpContributions *contributions = palloc0(sizeof(CdpContributions) * n);
	HASHCTL		ctl;
	HTAB	   *foldings;
	HASH_SEQ_STATUS seq;
	Folding    *folding;
	int64	   *owners = palloc(sizeof(int64) * n);
	Datum	   *states = palloc(sizeof(Datum) * n);
	int			nowners = 0;
	Datum		args[2];
	uint64		r;
	int			i;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Folding);
	ctl.hcxt = CurrentMemoryContext;
	foldings = hash_create("cdp foldings", n, &ctl,
						   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	CdpTraitsEvaluate(traits, only, entries, n, contributions);
	for (i = 0; i < n; i++)
	{
		bool		found;

		if (contributions[i].n == 0)
			continue;
		folding = hash_search(foldings, &entries[i].owner, HASH_ENTER, &found);
		if (!found)
		{
			folding->acc = NULL;
			owners[nowners++] = entries[i].owner;
		}
	}
	if (nowners == 0)
		return;

	args[0] = CdpInt8Array(owners, nowners);
	CdpRunHere(&states_of, args, NULL);
	for (r = 0; r < SPI_processed; r++)
	{
		int64		id = CdpCellInt8(r, 1);

		folding = hash_search(foldings, &id, HASH_FIND, NULL);
		folding->acc = CdpNodeOpen(traits, CdpCellVarlena(r, 2, CurrentMemoryContext));
	}
	SPI_freetuptable(SPI_tuptable);

	for (i = 0; i < n; i++)
	{
		if (contributions[i].n == 0)
			continue;
		folding = hash_search(foldings, &entries[i].owner, HASH_FIND, NULL);
		if (folding->acc == NULL)
			elog(ERROR, "owner %lld of entry %lld is not in cdp.identities",
				 (long long) entries[i].owner, (long long) entries[i].id);
		CdpNodeFold(folding->acc, &entries[i], &contributions[i], false);
	}

	nowners = 0;
	hash_seq_init(&seq, foldings);
	while ((folding = hash_seq_search(&seq)) != NULL)
	{
		struct varlena *state = CdpNodeStore(folding->acc, folding->owner, clock,
												  CurrentMemoryContext);
		CdpNode    *node = graph ? CdpGraphNode(graph, folding->owner) : NULL;

		if (node != NULL)
			CdpGraphNewState(graph, node, state);
		owners[nowners] = folding->owner;
		states[nowners++] = PointerGetDatum(state);
	}
	args[0] = CdpInt8Array(owners, nowners);
	args[1] = CdpVarlenaArray(states, NULL, nowners, CdpTypeOid("node_state"));
	CdpRunHere(&update_states, args, NULL);
}

/*
 * Fold all applied entries into the given traits (indexes).
 */
static void
fold_history(CdpTraitSet *traits, Bitmapset *only, TimestampTz clock)
{
	SPIPlanPtr	plan;
	Portal		portal;
	MemoryContext chunk;
	MemoryContext old = CurrentMemoryContext;
	bool		hold;
	CdpRules   *rules = CdpRulesLoad(NULL, false, &hold);

	/*
	 * Planned anew: how much history there is decides how to join it.  In the
	 * order of owners, so that every node is written about once.
	 */
	plan = SPI_prepare("SELECT n.owner, " CDP_EVENTS_COLUMNS
					   " FROM cdp.entries n"
					   " JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry"
					   " AND e.received_at = n.received_at"
					   " ORDER BY n.owner", 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s",
			 SPI_result_code_string(SPI_result));
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, false);
	chunk = AllocSetContextCreate(CurrentMemoryContext, "cdp backfill",
								  ALLOCSET_DEFAULT_SIZES);
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
		CdpGraphReadProperties(rules == NULL ? NULL : CdpRulesReading, rules, entries, n);
		CdpFoldChunk(traits, only, entries, n, clock, NULL);
		MemoryContextReset(chunk);
	}
	MemoryContextSwitchTo(old);
	SPI_cursor_close(portal);
	SPI_freeplan(plan);
	MemoryContextDelete(chunk);
}

/*
 * Evaluate every profile; changes go to batch->changes in the context that is
 * current now.
 */
static void
evaluate_all(CdpBatch *batch)
{
	int64		after = 0;
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext,
												"cdp evaluation",
												ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		MemoryContext old;
		CdpChangeList kept = batch->changes;
		Datum		args[2];
		int64	   *ids;
		int			n;
		int			i;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(chunk);
		args[0] = Int64GetDatum(after);
		args[1] = Int64GetDatum(CHUNK);
		n = CdpRun(&next_profiles, args, NULL);
		ids = palloc(sizeof(int64) * Max(n, 1));
		for (i = 0; i < n; i++)
			ids[i] = CdpCellInt8(i, 1);
		SPI_freetuptable(SPI_tuptable);
		if (n == 0)
		{
			MemoryContextSwitchTo(old);
			break;
		}
		after = ids[n - 1];

		memset(&batch->changes, 0, sizeof(CdpChangeList));
		batch->graph = CdpGraphBegin(batch->kinds, batch->applier.next_node,
									 0, 0);
		CdpGraphAddProfiles(batch->graph, ids, n);
		CdpGraphSettle(batch->graph, NULL, 0);
		CdpProfilesCollect(batch);
		for (i = 0; i < batch->nprofiles; i++)
		{
			batch->profiles[i]->touched = true;
			batch->profiles[i]->cause = CDP_CAUSE_DEFINITION;
		}
		CdpProfilesEvaluate(batch);
		CdpWriteRows(batch);
		CdpAccountsMemberValues(batch);
		CdpPrimaryEvaluate(batch);

		/* keep the changes, let go of everything else */
		MemoryContextSwitchTo(old);
		for (i = 0; i < batch->changes.n; i++)
		{
			CdpChange  *change = CdpChangeAdd(&kept);

			*change = batch->changes.items[i];
			if (change->payload != NULL)
			{
				Jsonb	   *copy = palloc(VARSIZE(change->payload));

				memcpy(copy, change->payload, VARSIZE(change->payload));
				change->payload = copy;
			}
		}
		batch->changes = kept;
		MemoryContextReset(chunk);
	}
	MemoryContextDelete(chunk);
}

static int64
count_of(CdpStatement *statement, Datum *args)
{
	int64		count;

	CdpRun(statement, args, NULL);
	count = CdpCellInt8(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return count;
}

/*
 * segment_defined: how many are in it, how many are not.
 */
static void
announce_definitions(CdpBatch *batch, List *segment_ids, const char *entity)
{
	int64		profiles = count_of(entity ? &accounts_count : &profiles_count, NULL);
	CdpSegmentSet *segments = entity == NULL ? batch->segments :
		CdpSegmentSetGet(batch->applier.generation,
						 CdpAccountTraitSetGet(batch->applier.generation));
	ListCell   *lc;

	foreach(lc, segment_ids)
	{
		CdpSegment *segment = CdpSegmentById(segments, lfirst_int(lc));
		Datum		arg = Int32GetDatum(lfirst_int(lc));
		int64		members = count_of(&members_of, &arg);
		int64		passed[2] = {0, 0};
		CdpChange  *change;
		char	   *payload;

		if (segment == NULL || segment->hidden)
			continue;
		for (int i = 0; i < batch->changes.n; i++)
		{
			if (batch->changes.items[i].segment == NULL ||
				batch->changes.items[i].segment->id != segment->id)
				continue;
			if (strcmp(batch->changes.items[i].kind, "segment_entered") == 0)
				passed[0]++;
			else if (strcmp(batch->changes.items[i].kind, "segment_exited") == 0)
				passed[1]++;
		}
		CdpSegmentTold(segment->id, members, passed[0], passed[1]);
		payload = psprintf("{\"members\": %lld, \"%s\": %lld, \"entered\": %lld, \"exited\": %lld}",
						   (long long) members, entity ? "accounts" : "profiles",
						   (long long) profiles,
						   (long long) passed[0], (long long) passed[1]);
		change = CdpChangeAdd(&batch->changes);
		change->kind = "segment_defined";
		change->entity = entity;
		change->segment = segment;
		change->cause = CDP_CAUSE_DEFINITION;
		change->occurred_at = batch->applier.clock;
		change->payload =
			DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(payload)));
	}
}

static void
finish(CdpBatch *batch)
{
	if (batch->changes.n > 0)
	{
		CdpCursorSet *cursors = CdpCursorsLoad();

		CdpEpochCheck(batch, cursors->incarnation);
		CdpChangesWrite(&batch->changes, batch->applier.epoch,
						batch->applier.next_seq, batch->applier.clock);
		CdpChangesNotify(&batch->changes, batch->applier.epoch,
						 batch->applier.next_seq, batch->applier.clock);
		batch->applier.next_seq += batch->changes.n;
	}
	CdpApplierWrite(batch, false, NULL);
}

typedef struct Work
{
	CdpUserContext saved;
	MemoryContext context;
	MemoryContext old;
} Work;

static void
begin_work(Work *work, CdpBatch *batch)
{
	memset(batch, 0, sizeof(CdpBatch));
	CdpApplierLock();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());	/* see CdpApplyBatch */
	CdpBecomeOwner(&work->saved);
	SPI_connect();
	work->context = AllocSetContextCreate(CurrentMemoryContext,
										  "cdp definition",
										  ALLOCSET_DEFAULT_SIZES);
	work->old = MemoryContextSwitchTo(work->context);
	CdpApplierLoad(batch);
	CdpBatchPrepare(batch, NULL, false);
}

static void
end_work(Work *work)
{
	MemoryContextSwitchTo(work->old);
	MemoryContextDelete(work->context);
	SPI_finish();
	CdpRestoreUser(&work->saved);
	PopActiveSnapshot();
}

/*
 * Fold history into the traits, evaluate everybody for the segments.  What is
 * being built beside what comes is left to that, and what waits for it.
 */
static void
backfill(List *trait_ids, List *segment_ids, bool everybody, bool accounts, bool later)
{
	List	   *evaluated = NIL;
	List	   *of_accounts = NIL;
	CdpSegmentSet *account_segments;
	bool		refold = false;
	bool		over_members;
	CdpBatch	batch;
	Work		work;
	Bitmapset  *only = NULL;
	ListCell   *lc;
	uint64		any;

	begin_work(&work, &batch);
	any = CdpRun(&any_identity, NULL, NULL);
	SPI_freetuptable(SPI_tuptable);

	foreach(lc, trait_ids)
	{
		CdpTrait   *trait = CdpTraitById(batch.traits, lfirst_int(lc));

		if (trait == NULL &&
			(trait = CdpTraitById(CdpAccountTraitSetGet(batch.applier.generation),
								  lfirst_int(lc))) != NULL)
		{
			if (trait->building)
				continue;
			/* what members contribute follows from evaluating them */
			accounts = true;
			refold |= trait->member_trait == 0;
			everybody |= trait->member_trait != 0;
			continue;
		}
		if (trait == NULL)
			elog(ERROR, "trait %d is not defined", lfirst_int(lc));
		if (trait->building)
			continue;
		everybody |= trait->windowed;
		if (trait->aggregate != CDP_AGG_DECLARED &&
			trait->aggregate != CDP_AGG_EXPRESSION)
			only = bms_add_member(only, trait->index);
	}
	account_segments = CdpSegmentSetGet(batch.applier.generation,
										CdpAccountTraitSetGet(batch.applier.generation));
	foreach(lc, segment_ids)
	{
		int			column = CdpSegmentColumn(batch.segments, lfirst_int(lc));

		if (column < 0)
		{
			column = CdpSegmentColumn(account_segments, lfirst_int(lc));
			if (CdpSegmentWaits(account_segments, column))
				CdpBackfillBegin("segment", lfirst_int(lc), 0, false);
			else
				of_accounts = lappend_int(of_accounts, lfirst_int(lc));
			continue;
		}
		if (column >= 0 && (later || CdpSegmentWaits(batch.segments, column)))
			CdpBackfillBegin("segment", lfirst_int(lc), 0, false);
		else
			evaluated = lappend_int(evaluated, lfirst_int(lc));
	}
	accounts |= of_accounts != NIL;
	if (list_length(evaluated) + list_length(of_accounts) < list_length(segment_ids))
		CdpGenerationBump();
	/* what segments of profiles read of accounts is noted with these */
	accounts |= evaluated != NIL && batch.segments->primary;
	/* accounts are evaluated once, when it is known what members contribute */
	over_members = any > 0 && CdpAccountsOverMembers(&batch) &&
		(everybody || (evaluated != NIL && CdpAccountsOverSegments(&batch)));
	if (accounts)
	{
		bool		pinned = CdpPinPlans();

		if (!over_members)
			CdpAccountsBackfill(&batch, refold);
		else if (refold)
			CdpAccountsRefoldAll(&batch);
		CdpUnpinPlans(pinned);
	}
	if (any > 0)
	{
		if (!bms_is_empty(only))
			fold_history(batch.traits, only, batch.applier.clock);
		if (evaluated != NIL || everybody)
		{
			bool		pinned = CdpPinPlans();

			evaluate_all(&batch);
			CdpPrimaryNewsForget();
			CdpUnpinPlans(pinned);
		}
	}
	if (over_members)
		CdpAccountsBackfill(&batch, false);
	announce_definitions(&batch, evaluated, NULL);
	announce_definitions(&batch, of_accounts, "account");
	finish(&batch);
	end_work(&work);
}

void
CdpBackfill(List *trait_ids, List *segment_ids, bool everybody)
{
	backfill(trait_ids, segment_ids, everybody, false,
			 segment_ids != NIL && !everybody && CdpBackfillNeeded());
}

void
CdpEvaluateEverybody(List *segment_ids, bool profiles, bool accounts)
{
	backfill(NIL, segment_ids, profiles, accounts, false);
}

PG_FUNCTION_INFO_V1(cdp_domains_changed);

/*
 * cdp.domains_changed() returns void: which domains of addresses mean accounts
 * is another thing now.  Who is a member of what follows from it, and all that
 * follows from that: here where history is short, else in steps of the applier.
 */
Datum
cdp_domains_changed(PG_FUNCTION_ARGS)
{
	CdpBatch	batch;
	Work		work;
	int64	   *accounts;
	int			n;
	bool		pinned;

	begin_work(&work, &batch);
	if (CdpBackfillNeeded())
	{
		CdpDomainsAsk(batch.applier.next_node);
		end_work(&work);
		ereport(NOTICE,
				(errmsg("the applier goes over all identifiers for which domains mean accounts"),
				 errdetail("Until that is done, those that it has not come to mean what they have meant so far."),
				 errhint("See cdp.progress; cdp.wait_backfill() waits for it.")));
		PG_RETURN_VOID();
	}
	CdpDomainsFinish();
	pinned = CdpPinPlans();
	accounts = CdpDomainsMark(&batch, &n);
	/* whether there are accounts is asked of the active snapshot */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (n > 0)
	{
		CdpAccountsRefoldAll(&batch);
		evaluate_all(&batch);
		CdpPrimaryNewsForget();
		batch.graph = CdpGraphBegin(batch.kinds, batch.applier.next_node, 0, 0);
		batch.nprofiles = 0;
		CdpAccountsRenew(&batch, accounts, n);
		CdpAccountsBackfill(&batch, false);
	}
	PopActiveSnapshot();
	CdpUnpinPlans(pinned);
	finish(&batch);
	end_work(&work);
	PG_RETURN_VOID();
}

/*
 * Profiles that are none under the new rules leave the segments that they were
 * in.  The rows of some are gone already: a copy of a message that the replay
 * withdraws takes the nodes with it that only it named.
 */
static void
leave_former(CdpBatch *batch)
{
	CdpTraitSet *traits = CdpAccountTraitSetGet(batch->applier.generation);
	CdpSegmentSet *accounts = CdpSegmentSetGet(batch->applier.generation, traits);
	uint64		i;

	CdpRun(&former_members, NULL, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		CdpSegment *segment;
		CdpChange  *change;
		const char *entity = NULL;

		segment = CdpSegmentById(batch->segments,
								 DatumGetInt32(CdpCell(i, 1, &isnull)));
		if (segment == NULL)
		{
			segment = CdpSegmentById(accounts, DatumGetInt32(CdpCell(i, 1, &isnull)));
			entity = "account";
		}
		if (segment == NULL || segment->hidden)
			continue;
		change = CdpChangeAdd(&batch->changes);
		change->entity = entity;
		change->kind = "segment_exited";
		change->profile_id = CdpCellInt8(i, 2);
		change->segment = segment;
		change->cause = CDP_CAUSE_DEFINITION;
		change->occurred_at = batch->applier.clock;
	}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * The rules of identity have changed.  Everything that follows from them is
 * forgotten and made again from the entries that were applied: the cursors go
 * back to the beginning and the log is folded up to where they were.
 */
void
CdpReplay(void)
{
	CdpBatch	batch;
	Work		work;
	CdpCursorSet *cursors;
	bool		more = true;
	bool		pinned;
	int			i;
	static const char *const forget[] = {
		("INSERT INTO cdp.merged_profiles (profile_id, created_at, merged_at)"
		 " SELECT node_id, first_seen, cdp.clock() FROM cdp.identities"
		 " WHERE profile_id = node_id ON CONFLICT (profile_id) DO NOTHING"),
		"DELETE FROM cdp.entry_pieces",
		"DELETE FROM cdp.withheld_entries",
		"DELETE FROM cdp.refolds",
		"DELETE FROM cdp.backfills WHERE kind = 'domains'",
		"DELETE FROM cdp.releases",
		"DELETE FROM cdp.links",
		"DELETE FROM cdp.decisions",
		"DELETE FROM cdp.history_entries",
		"DELETE FROM cdp.rejected WHERE entry IS NOT NULL",
		("UPDATE cdp.identities SET profile_id = node_id, state = NULL,"
		 " recent = NULL, single = false,"
		 " first_seen = 'infinity', last_seen = '-infinity', timer = NULL"),
		"DELETE FROM cdp.timers",
		"DELETE FROM cdp.window_items",
		"DELETE FROM cdp.account_evidence",
		"DELETE FROM cdp.account_nodes",
		"DELETE FROM cdp.account_values",
		"DELETE FROM cdp.account_totals",
		("UPDATE cdp.account_identities SET first_seen = 'infinity', last_seen = '-infinity',"
		 " parent = NULL, state = NULL, timer = NULL")
	};

	begin_work(&work, &batch);
	CdpRulesFinish();
	cursors = CdpCursorsLoad();
	if (cursors->n == 0)
	{
		end_work(&work);
		return;
	}

	for (i = 0; i < lengthof(forget); i++)
		if (SPI_execute(forget[i], false, 0) < 0)
			elog(ERROR, "could not forget what the old rules made");

	batch.applier.entries = 0;
	batch.applier.duplicates = 0;
	batch.applier.rejected = 0;
	batch.replaying = true;
	pinned = CdpPinPlans();
	CdpCursorsRewind(cursors);
	while (more)
	{
		MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext,
													"cdp replay",
													ALLOCSET_DEFAULT_SIZES);
		MemoryContext old = MemoryContextSwitchTo(chunk);
		CdpCursorSet *before = CdpCursorsCopy(cursors);

		CHECK_FOR_INTERRUPTS();
		batch.nentries = CdpCursorsRead(cursors, cdp_batch_size,
										&batch.entries, &more, false);
		batch.graph = CdpGraphBegin(batch.kinds, batch.applier.next_node, 0, 0);
		CdpBatchFold(&batch, before);
		CdpProfilesCollect(&batch);
		CdpGraphWrite(batch.graph);
		CdpWriteEntries(&batch);
		CdpWriteRows(&batch);
		CdpWriteRejected(&batch);
		CdpAccountsApply(&batch);
		batch.namings = NIL;
		batch.applier.next_node = batch.graph->next_node;
		MemoryContextSwitchTo(old);
		MemoryContextDelete(chunk);
	}

	/* what was applied of a target that is not worked off is pending again */
	CdpCursorsWrite(cursors);
	leave_former(&batch);
	if (SPI_execute("DELETE FROM cdp.merged_profiles m WHERE NOT EXISTS"
					" (SELECT FROM cdp.identities i WHERE i.node_id = m.profile_id"
					" AND i.profile_id <> i.node_id AND i.first_seen <> 'infinity')",
					false, 0) < 0 ||
		SPI_execute("UPDATE cdp.identities SET segments = NULL"
					" WHERE profile_id <> node_id AND segments IS NOT NULL",
					false, 0) < 0 ||
		SPI_execute("WITH gone AS (DELETE FROM cdp.identities WHERE first_seen = 'infinity'"
					" RETURNING node_id, identifier)"
					" INSERT INTO cdp.former_identities (node_id, identifier, gone_at)"
					" SELECT g.node_id, g.identifier, cdp.clock() FROM gone g"
					" ON CONFLICT (node_id) DO NOTHING",
					false, 0) < 0 ||
		SPI_execute("DELETE FROM cdp.account_identities WHERE first_seen = 'infinity'",
					false, 0) < 0)
		elog(ERROR, "could not clear away former profiles");
	batch.graph = CdpGraphBegin(batch.kinds, batch.applier.next_node, 0, 0);
	/* whether there are accounts is asked of the active snapshot */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	CdpAccountsBackfill(&batch, true);
	evaluate_all(&batch);
	CdpAccountsBackfill(&batch, false);
	PopActiveSnapshot();
	CdpUnpinPlans(pinned);
	finish(&batch);
	end_work(&work);
}
