/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  The driver: one batch of the log through all stations, exactly once.
 *
 *	  The order within a batch:
 *
 *	   1. lock, then look: the applier's lock is held before any snapshot is
 *		  taken, so that one applier follows another without a gap
 *	   2. read entries and judge them; find duplicates
 *	   3. take back what entries did that a better copy replaces, or that are
 *		  undone; bring in again what is not undone any more
 *	   4. identity: nodes, links, components
 *	   5. traits: evaluate and fold, what a policy does not withhold
 *	   6. profiles touched by 3 to 5, and those whose time has come: values,
 *		  segments, timers
 *	   7. write everything, number the changes, move the cursor, announce
 *
 *	  Everything is computed in memory and written once.  The cursor is
 *	  written in the same transaction as the state: both are there or neither.
 *
 * IDENTIFICATION
 *	  src/apply/batch.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/batch.h"
#include "apply/crash.h"
#include "cdp.h"
#include "compat.h"
#include "direct.h"
#include "statement.h"
#include "trust/audit.h"
#include "trust/plan.h"

static CdpDirect load_applier = {
	"applier",
	{"generation", "next_node", "next_seq", "epoch", "clock", "entries", "duplicates",
	"rejected", "token", "paused_at", "cursors", "batches"}
};

static CdpDirect load_epochs = {
	"epochs", {"epoch", "incarnation", "system_identifier", "timeline"}
};

static CdpStatement any_backfills = {
	"SELECT 1 FROM cdp.backfills LIMIT 1",
	{NULL},
	"backfills"
};

static CdpStatement any_erasures = {
	"SELECT 1 FROM cdp.erasure_identifiers i"
	" JOIN cdp.erasures r ON r.id = i.erasure WHERE r.state <> 'requested' LIMIT 1",
	{NULL},
	"erasure_identifiers"
};

static CdpStatement make_applier = {
	"INSERT INTO cdp.applier DEFAULT VALUES ON CONFLICT DO NOTHING",
	{NULL}
};

static CdpStatement write_applier = {
	"UPDATE cdp.applier SET next_node = $1, next_seq = $2, epoch = $3,"
	" clock = $4, entries = $5, duplicates = $6, rejected = $7,"
	" batches = $8, token = $9, last_batch_at = clock_timestamp(),"
	" cursors = coalesce($10, cursors)",
	{"int8", "int8", "int4", "timestamptz", "int8", "int8", "int8", "int8", "int8",
	"log_cursor[]"}
};

/* the same where little has changed: each column costs the executor something */
static CdpStatement write_advance = {
	"UPDATE cdp.applier SET next_node = $1, next_seq = $2, clock = $3, entries = $4,"
	" batches = $5, token = $6, last_batch_at = $7, cursors = $8",
	{"int8", "int8", "timestamptz", "int8", "int8", "int8", "timestamptz", "log_cursor[]"}
};

static CdpStatement due_timers = {
	"SELECT t.profile_id FROM cdp.timers t WHERE t.at <= $1 ORDER BY t.at LIMIT $2",
	{ "timestamptz", "int8" },
	"timers"
};

static CdpStatement next_timer = {
	"SELECT t.at FROM cdp.timers t ORDER BY t.at LIMIT 1",
	{ NULL },
	"timers"
};

/* while some rest because they raised errors */
static CdpStatement due_others = {
	"SELECT t.profile_id FROM cdp.timers t WHERE t.at <= $1"
	" AND t.profile_id <> ALL ($3) ORDER BY t.at LIMIT $2",
	{ "timestamptz", "int8", "int8[]" },
	"timers"
};

static CdpStatement next_other = {
	"SELECT t.at FROM cdp.timers t WHERE t.profile_id <> ALL ($1)"
	" ORDER BY t.at LIMIT 1",
	{ "int8[]" },
	"timers"
};

CdpAttempt CdpAttempted;

/* what to take from the row of cdp.applier; cursors may be NULL */
typedef struct ApplierRow
{
	CdpApplier *applier;
	CdpCursorSet *cursors;
} ApplierRow;

static void
take_applier(Datum *values, bool *isnull, void *arg)
{
	ApplierRow *row = arg;
	CdpApplier *applier = row->applier;

	applier->generation = DatumGetInt64(values[0]);
	applier->next_node = DatumGetInt64(values[1]);
	applier->next_seq = DatumGetInt64(values[2]);
	applier->epoch = DatumGetInt32(values[3]);
	applier->clock = DatumGetTimestampTz(values[4]);
	applier->entries = DatumGetInt64(values[5]);
	applier->duplicates = DatumGetInt64(values[6]);
	applier->rejected = DatumGetInt64(values[7]);
	applier->token = DatumGetInt64(values[8]);
	applier->paused = !isnull[9];
	applier->batches = DatumGetInt64(values[11]);
	applier->read = true;
	if (row->cursors != NULL)
		CdpCursorsTake(row->cursors, values[10]);
}

static void
take_epoch(Datum *values, bool *isnull, void *arg)
{
	CdpEpoch   *last = arg;

	if (DatumGetInt32(values[0]) < last->epoch)
		return;
	last->epoch = DatumGetInt32(values[0]);
	last->incarnation = DatumGetInt32(values[1]);
	last->system_identifier = DatumGetInt64(values[2]);
	last->timeline = DatumGetInt32(values[3]);
}

static void
write_row(CdpStatement *statement, Datum *args, const char *nulls)
{
	if (CdpRun(statement, args, nulls) != 1)
		elog(ERROR, "the row of cdp.applier was not written");
}

static void
applier_stored(CdpApplier *applier)
{
	applier->stored.epoch = applier->epoch;
	applier->stored.duplicates = applier->duplicates;
	applier->stored.rejected = applier->rejected;
}

static bool
any(CdpStatement *statement)
{
	bool		found = CdpRun(statement, NULL, NULL) > 0;

	SPI_freetuptable(SPI_tuptable);
	return found;
}

/*
 * The last row of cdp.epochs, which only who writes a token adds to: what this
 * process knew when it wrote the token that is there still holds.
 */
static int64 epoch_token = 0;
static CdpEpoch epoch_then;

static void
load_epoch(CdpBatch *batch)
{
	if (epoch_token != 0 && batch->applier.token == epoch_token)
		batch->last_epoch = epoch_then;
	else
	{
		batch->last_epoch.epoch = -1;
		(void) CdpReadDirect(&load_epochs, take_epoch, &batch->last_epoch);
	}
}

/*
 * The cursors, and the row of cdp.applier for CdpApplierLoad, which makes it.
 */
static CdpCursorSet *
load_cursors(CdpBatch *batch)
{
	ApplierRow	row = {&batch->applier, CdpCursorsNew()};

	(void) CdpReadDirect(&load_applier, take_applier, &row);
	return row.cursors;
}

/*
 * The row of cdp.applier, made when it is not there.
 */
void
CdpApplierLoad(CdpBatch *batch)
{
	CdpApplier *applier = &batch->applier;
	ApplierRow	row = {applier, NULL};

	if (!applier->read)
		(void) CdpReadDirect(&load_applier, take_applier, &row);
	if (!applier->read)
	{
		CdpRun(&make_applier, NULL, NULL);
		(void) CdpReadDirect(&load_applier, take_applier, &row);
	}
	applier_stored(applier);
	load_epoch(batch);
	applier->backfills = any(&any_backfills);
	applier->erasures = any(&any_erasures);

	/* the applied clock never goes back */
	batch->previous = applier->clock;
	applier->clock = Max(applier->clock, CdpClock());
}

/*
 * Odd numbers from one on that no other process has come near.
 */
static int64
next_token(void)
{
	static uint64 token = 0;

	if (token == 0)
	{
		if (!pg_strong_random(&token, sizeof(token)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		token |= 1;
	}
	token += 2;
	return (int64) token;
}

void
CdpApplierWrite(CdpBatch *batch, bool counted, const CdpCursorSet *cursors)
{
	CdpApplier *applier = &batch->applier;
	Datum		args[10];

	/* never 0, never the same twice: see identity/nodes.c */
	applier->token = next_token();
	applier->batches += counted;
	if (cursors != NULL && applier->epoch == applier->stored.epoch &&
		applier->duplicates == applier->stored.duplicates &&
		applier->rejected == applier->stored.rejected)
	{
		args[0] = Int64GetDatum(applier->next_node);
		args[1] = Int64GetDatum(applier->next_seq);
		args[2] = TimestampTzGetDatum(applier->clock);
		args[3] = Int64GetDatum(applier->entries);
		args[4] = Int64GetDatum(applier->batches);
		args[5] = Int64GetDatum(applier->token);
		args[6] = TimestampTzGetDatum(GetCurrentTimestamp());
		args[7] = CdpCursorsDatum(cursors);
		write_row(&write_advance, args, NULL);
		epoch_token = applier->token;
		epoch_then = batch->last_epoch;
		return;
	}
	args[0] = Int64GetDatum(applier->next_node);
	args[1] = Int64GetDatum(applier->next_seq);
	args[2] = Int32GetDatum(applier->epoch);
	args[3] = TimestampTzGetDatum(applier->clock);
	args[4] = Int64GetDatum(applier->entries);
	args[5] = Int64GetDatum(applier->duplicates);
	args[6] = Int64GetDatum(applier->rejected);
	args[7] = Int64GetDatum(applier->batches);
	args[8] = Int64GetDatum(applier->token);
	args[9] = cursors != NULL ? CdpCursorsDatum(cursors) : (Datum) 0;
	write_row(&write_applier, args, cursors != NULL ? NULL : "         n");
	applier_stored(applier);
}

/*
 * Definitions and the graph for a batch whose applier row is loaded.  keep:
 * go on with the nodes of the batch before, and keep them for the next.
 */
void
CdpBatchPrepare(CdpBatch *batch, CdpRules *rules, bool keep)
{
	int64		generation = batch->applier.generation;

	CdpIsolatedLoad(generation);
	batch->kinds = rules ? rules->kinds : CdpKindSetGet(generation);
	batch->traits = CdpTraitSetGet(generation);
	CdpTraitsBuilt(batch->traits);
	CdpTraitsBuilt(CdpAccountTraitSetGet(generation));
	batch->segments = CdpSegmentSetGet(generation, batch->traits);
	batch->graph = CdpGraphBegin(batch->kinds, batch->applier.next_node,
								 generation,
								 keep ? batch->applier.token : 0);
	/* nodes that are kept go with the guards that they were judged by */
	if (batch->graph->batch == 1)
		CdpGuardsKeep();
	if (rules != NULL)
	{
		batch->graph->reading = CdpRulesReading;
		batch->graph->reading_arg = rules;
		batch->graph->repolicied = CdpRulesRepolicied(rules);
	}
}

/*
 * Bring in the profiles whose time has come; returns how many.
 */
static int
add_due(CdpBatch *batch, int max, int64 **due)
{
	Datum		args[3];
	int64	   *resting;
	TimestampTz until;
	int			nresting = CdpTimersResting(&resting, &until);
	int			n;
	int			i;

	if (nresting < 0)
		return 0;
	args[0] = TimestampTzGetDatum(batch->applier.clock);
	args[1] = Int64GetDatum(max);
	if (nresting > 0)
		args[2] = CdpInt8Array(resting, nresting);
	n = CdpRun(nresting > 0 ? &due_others : &due_timers, args, NULL);
	*due = palloc(sizeof(int64) * Max(n, 1));
	for (i = 0; i < n; i++)
		(*due)[i] = CdpCellInt8(i, 1);
	SPI_freetuptable(SPI_tuptable);
	return n;
}

static TimestampTz
when_next(void)
{
	TimestampTz at = DT_NOEND;
	int64	   *resting;
	TimestampTz until;
	int			nresting = CdpTimersResting(&resting, &until);
	Datum		arg;

	if (nresting < 0)
		return until;
	if (nresting > 0)
		arg = CdpInt8Array(resting, nresting);
	if (CdpRun(nresting > 0 ? &next_other : &next_timer, &arg, NULL) == 1)
		at = CdpCellInt8(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return Min(at, until);
}

/*
 * Evaluate and fold the entries that count.
 */
static void
fold_entries(CdpBatch *batch)
{
	CdpContributions *contributions;
	int			i;

	contributions = palloc0(sizeof(CdpContributions) * Max(batch->nentries, 1));
	CdpTraitsEvaluate(batch->traits, NULL, batch->entries, batch->nentries,
					  contributions);
	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];
		CdpNode    *node;

		if (!batch->counts[i] || entry->owner == 0 || entry->withheld)
			continue;
		if (contributions[i].n == 0 && entry->type != CDP_ENTRY_IDENTIFY)
			continue;
		node = entry->owner_node;
		/* it is in his states as it was, and all of them are computed anew later */
		if (CdpRefoldIsDeferred(batch, entry->owner))
		{
			node->row_changed = true;
			continue;
		}
		if (node->acc == NULL)
			node->acc = CdpNodeOpen(batch->traits, node->state);
		CdpNodeFold(node->acc, entry, &contributions[i], true);
		node->folded = true;
		node->row_changed = true;

		/* what a large profile has combined is added to, not made again */
		if (node->in_combined)
		{
			CdpNode    *root = CdpNodeRoot(node);

			if (root->delta == NULL)
				root->delta = CdpNodeOpen(batch->traits, NULL);
			CdpNodeFold(root->delta, entry, &contributions[i], true);
		}
	}
	pfree(contributions);
}

/*
 * The entries of a batch through the stations up to the traits: what apply
 * and replay have in common.
 */
void
CdpBatchFold(CdpBatch *batch, CdpCursorSet *before)
{
	int			n = batch->nread = batch->nentries;
	int			i;
	List	   *withdrawn;

	for (i = 0; i < n; i++)
		(void) CdpEntryJudge(&batch->entries[i]);
	CdpGraphCheck(batch->graph, batch->entries, n);
	if (!batch->replaying && !batch->rereading)
		CdpErasedRefuse(batch);
	batch->counts = palloc(sizeof(bool) * Max(n, 1));
	for (i = 0; i < n; i++)
		batch->counts[i] = batch->entries[i].reject_reason == NULL;

	withdrawn = CdpFindDuplicates(batch, before);
	withdrawn = CdpUndo(batch, before, withdrawn);
	n = batch->nentries;
	withdrawn = list_concat(batch->reread, withdrawn);
	if (withdrawn != NIL || batch->nemptied > 0)
		CdpWithdraw(batch, withdrawn);

	/* what does not count is out of the way from here on */
	for (i = 0; i < n; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (entry->reject_reason != NULL)
			batch->applier.rejected += entry->reject_sqlstate != 0;
		else if (entry->undone)
		{
			CdpHistoryKeep(batch, entry);
			entry->ncandidates = 0;
			entry->reject_reason = "undone";
		}
		else if (!batch->counts[i])
		{
			batch->applier.duplicates++;
			entry->ncandidates = 0;
			entry->reject_reason = "duplicate";
		}
	}
	CdpGraphAdd(batch->graph, batch->entries, n, true);
	CdpRenewEvidence(batch, CdpGraphDecide(batch->graph, batch->entries, n));
	CdpGraphSettle(batch->graph, batch->entries, n);
	CdpWithhold(batch);
	fold_entries(batch);
	/* whose memberships of accounts change is evaluated */
	for (i = 0; i < n; i++)
		if (batch->entries[i].naccounts > 0 && batch->counts[i] &&
			batch->entries[i].owner_node != NULL)
			batch->entries[i].owner_node->row_changed = true;
	CdpHistoryWrite(batch);
	batch->applier.entries += batch->nread;
}

/*
 * Evaluate the profiles that were collected, write what the batch has made, and
 * announce it.
 */
void
CdpBatchWrite(CdpBatch *batch)
{
	CdpProfilesEvaluate(batch);
	CdpTraitErrorsFlush();

	CdpGraphWrite(batch->graph);
	CdpWriteEntries(batch);
	CdpWriteRows(batch);
	CdpWriteRejected(batch);
	CdpAccountsApply(batch);
	CdpPrimaryEvaluate(batch);
	if (batch->farewell != NULL)
		*CdpChangeAdd(&batch->changes) = *batch->farewell;

	if (batch->changes.n > 0)
	{
		CdpChangesWrite(&batch->changes, batch->applier.epoch,
						batch->applier.next_seq, batch->applier.clock);
		CdpChangesNotify(&batch->changes, batch->applier.epoch,
						 batch->applier.next_seq, batch->applier.clock);
		batch->applier.next_seq += batch->changes.n;

		/* who is told of a change must find it after a crash, too */
		ForceSyncCommit();
	}
	batch->applier.next_node = batch->graph->next_node;
}

/*
 * Note the decisions of this batch in the audit.
 */
static void
audit_decisions(CdpBatch *batch)
{
	int64	   *decisions = NULL;
	int64	   *xids = NULL;
	int			n = 0;
	int			i;

	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntryType type = batch->entries[i].type;

		if (!batch->counts[i] ||
			(!CDP_ENTRY_DECIDES(type) && type != CDP_ENTRY_UNDO &&
			 type != CDP_ENTRY_RELEASE && type != CDP_ENTRY_ERASE))
			continue;
		if (decisions == NULL)
		{
			decisions = palloc_array(int64, batch->nentries);
			xids = palloc_array(int64, batch->nentries);
		}
		decisions[n] = batch->entries[i].id;
		xids[n++] = batch->entries[i].xid;
	}
	CdpAuditDecisions(decisions, xids, n);
}

/*
 * Have tracking plans count the entries of this batch that count, or would if it
 * were not for a plan; not those of earlier batches that count again.
 */
static void
judge_plans(CdpBatch *batch)
{
	CdpEntry  **entries = palloc_array(CdpEntry *, Max(batch->nread, 1));
	int			n = 0;
	int			i;

	for (i = 0; i < batch->nread; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if ((batch->counts[i] && entry->reject_reason == NULL && !entry->withheld &&
			 !entry->unread) ||
			(entry->reject_reason != NULL &&
			 strcmp(entry->reject_reason, CDP_PLAN_REASON) == 0))
			entries[n++] = entry;
	}
	CdpPlansJudge(entries, n);
	pfree(entries);
}

/*
 * The subtransaction in which a batch is at work, if it is one of this transaction.
 */
static LocalTransactionId applying = InvalidLocalTransactionId;
static SubTransactionId applying_in;

/*
 * A batch within a batch, as by a trigger that somebody has put on one of our tables,
 * would begin where this one did.
 */
static void
refuse_nested(void)
{
	if (applying == CdpMyLxid && SubTransactionIsActive(applying_in))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("entries cannot be applied while entries are being applied"),
				 errhint("What a trigger or a definition calls must not call cdp.apply().")));
	applying = CdpMyLxid;
	applying_in = GetCurrentSubTransactionId();
}

CdpBatchResult
CdpApplyBatch(int64 max_entries, bool activate, int work)
{
	CdpBatchResult result = {0};
	CdpBatch	batch = {0};
	CdpUserContext saved;
	MemoryContext context;
	MemoryContext old;
	CdpCursorSet *cursors;
	CdpCursorSet *before;
	CdpRules   *rules;
	bool		hold;
	bool		rereading;
	bool		building;
	TimestampTz build_next = DT_NOEND;
	static bool history_first = false;
	int			max = (int) Min(max_entries, (int64) cdp_batch_size);
	int64	   *due = NULL;
	int			ndue;
	int64	   *news = NULL;
	int			nnews = 0;
	int			members = 0;
	bool		activated;
	bool		worked_off = false;
	int			i;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("entries can be applied at isolation level READ COMMITTED only"),
				 errhint("Use BEGIN ISOLATION LEVEL READ COMMITTED.")));
	PreventCommandDuringRecovery("cdp.apply()");

	refuse_nested();

	result.next_timer = DT_NOEND;
	memset(&CdpAttempted, 0, sizeof(CdpAttempted));
	CdpApplierLock();

	/*
	 * The caller's snapshot is older than the lock: definitions that were
	 * changed while we waited would be read in their old form, and cached
	 * under the new generation.
	 */
	PushActiveSnapshot(GetTransactionSnapshot());
	CdpBecomeOwner(&saved);
	CdpPinPlans();
	SPI_connect();
	context = CdpBatchMemoryTake();
	old = MemoryContextSwitchTo(context);

	cursors = load_cursors(&batch);
	activated = !cursors->active;
	if (!CdpCursorsActivate(cursors, activate))
		goto done;
	if (activated && CdpRestoreUnfinished(activate))
	{
		if (activate)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the restore of this database is not finished"),
					 errdetail("Entries would be applied without definitions, or tombstones of who was erased."),
					 errhint("When parts of the dump were left out and nothing more will come, SELECT cdp.finish_restore().")));
		goto done;
	}
	before = CdpCursorsCopy(cursors);
	CdpApplierLoad(&batch);
	if (batch.applier.paused && max > 0)
	{
		/* by hand, who is told nothing would take it for applied */
		if (activate)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("applying is paused"),
					 errhint("It goes on after SELECT cdp.resume().")));
		goto done;
	}
	rules = CdpRulesLoad(before, true, &hold);

	if (batch.applier.erasures && max > 0 && (work & CDP_WORK_HISTORY) != 0)
	{
		CdpEpochCheck(&batch, cursors->incarnation);
		CdpBatchPrepare(&batch, rules, true);
		CdpMessagesBegin(&batch);
		CdpAttempted.history = true;
		CdpCrashMark(true);
		result.reread = CdpErasureStep(&batch, before, max);
		CdpApplierWrite(&batch, true, NULL);
		CdpMessagesEnd(&batch);
		CdpGraphEnd(batch.graph, batch.applier.generation, batch.applier.token);
		result.changes = batch.changes.n;
		result.more = true;
		result.next_timer = when_next();
		goto done;
	}

	building = rules == NULL && max > 0 && (work & CDP_WORK_HISTORY) != 0 &&
		batch.applier.backfills && CdpBackfillDue(&build_next);

	/* history and what has come take turns */
	rereading = rules != NULL && rules->n > 0 && !hold && max > 0 &&
		(work & CDP_WORK_HISTORY) != 0;
	batch.nentries = ndue = 0;
	if (!((rereading || building) && history_first))
	{
		if (work & CDP_WORK_ENTRIES)
			batch.nentries = CdpCursorsRead(cursors, max, &batch.entries,
											&result.more, !hold);
		if (work & CDP_WORK_TIMERS)
			ndue = add_due(&batch, max, &due);
		/* the members of accounts that have other values now, in what room there is */
		if ((work & CDP_WORK_TIMERS) && ndue < max)
			nnews = CdpPrimaryNews(max - ndue, &news);
	}
	CdpAttempted.entries = batch.nentries;
	if (batch.nentries > 0)
	{
		CdpAttempted.entry = batch.entries[0].id;
		CdpAttempted.xid = batch.entries[0].xid;
	}
	CdpAttempted.timers = ndue + nnews;
	if (ndue + nnews > 0)
		CdpAttempted.profile = ndue > 0 ? due[0] : news[0];
	CdpAttempted.history = batch.nentries == 0 && ndue == 0 && nnews == 0 && (rereading || building);
	if (batch.nentries + ndue + nnews > 0 || CdpAttempted.history)
		CdpCrashMark(CdpAttempted.history);
	if (batch.nentries == 0 && ndue == 0 && nnews == 0 && rereading)
	{
		history_first = false;
		CdpEpochCheck(&batch, cursors->incarnation);
		CdpBatchPrepare(&batch, rules, true);
		CdpMessagesBegin(&batch);
		result.reread = CdpReread(&batch, rules, before, max);
		CdpApplierWrite(&batch, true, result.more ? NULL : cursors);
		CdpMessagesEnd(&batch);
		CdpGraphEnd(batch.graph, batch.applier.generation, batch.applier.token);
		result.changes = batch.changes.n;
		result.more = true;
		result.next_timer = when_next();
		goto done;
	}
	if (batch.nentries == 0 && ndue == 0 && nnews == 0 && building)
	{
		bool		turn = history_first;

		history_first = false;
		if ((nnews = CdpDomainsStep(&batch, max, &news)) != 0)
			nnews = Max(nnews, 0);
		else if (CdpBackfillSwitch())
			result.reread = 1;
		else if ((nnews = CdpBackfillMembers(&batch, max, &news)) < 0)
			nnews = 0;
		else if (nnews == 0)
		{
			CdpBatchPrepare(&batch, NULL, true);
			CdpMessagesBegin(&batch);
			result.reread = CdpBackfillStep(&batch, max);
			if (result.reread >= 0)
			{
				CdpApplierWrite(&batch, true, NULL);
				CdpMessagesEnd(&batch);
				CdpGraphEnd(batch.graph, batch.applier.generation,
							batch.applier.token);
			}
		}
		/* members that are to be looked at are, like those that have news */
		members = nnews;
		if (nnews == 0)
		{
			if (!result.more)
				CdpCursorsWrite(cursors);
			result.more |= turn || result.reread >= 0;
			result.reread = Max(result.reread, 0);
			result.next_timer = when_next();
			goto done;
		}
	}
	else
		history_first = true;
	if ((rules != NULL && (work & CDP_WORK_HISTORY) != 0) || building)
		result.more = true;
	if (batch.nentries == 0 && ndue == 0 && nnews == 0)
	{
		/*
		 * The batch before this one may have been full with the last entry of
		 * its target: that it is worked off has to be written, for those who
		 * wait for it.  Otherwise an idle look writes nothing.
		 */
		for (i = 0; i < before->n; i++)
			worked_off |= before->cursors[i].target != NULL;
		if (activated || worked_off)
			CdpCursorsWrite(cursors);
		CdpAuditSeal();
		if (max > 0 && (work & CDP_WORK_HISTORY) != 0 && rules == NULL && !building &&
			CdpRetentionDue(&batch))
		{
			CdpCrashMark(true);
			CdpEpochCheck(&batch, cursors->incarnation);
			CdpBatchPrepare(&batch, NULL, true);
			CdpMessagesBegin(&batch);
			result.reread = CdpRetentionStep(&batch, before, &result.more);
			CdpApplierWrite(&batch, true, NULL);
			CdpMessagesEnd(&batch);
			CdpGraphEnd(batch.graph, batch.applier.generation, batch.applier.token);
			result.changes = batch.changes.n;
		}
		result.next_timer = when_next();
		goto done;
	}

	CdpEpochCheck(&batch, cursors->incarnation);
	CdpBatchPrepare(&batch, rules, true);
	CdpErasuresTake(&batch);
	CdpGraphAddProfiles(batch.graph, due, ndue);
	CdpGraphAddProfiles(batch.graph, news, nnews);
	batch.due = due;
	batch.ndue = ndue;
	CdpBatchFold(&batch, before);

	CdpProfilesCollect(&batch);
	for (i = 0; i < ndue; i++)
	{
		CdpProfile *profile = CdpProfileOf(&batch, due[i]);

		if (profile != NULL && !profile->touched)
		{
			profile->touched = true;
			profile->cause = CDP_CAUSE_TIMER;
		}
	}
	for (i = 0; i < nnews; i++)
	{
		CdpProfile *profile = CdpProfileOf(&batch, news[i]);

		if (profile == NULL)
			continue;
		profile->touched = true;
		if (batch.exchanges != NIL)
			profile->cause = CDP_CAUSE_DEFINITION;
	}
	CdpBatchWrite(&batch);
	audit_decisions(&batch);
	judge_plans(&batch);
	CdpApplierWrite(&batch, true, cursors);
	CdpMessagesEnd(&batch);
	CdpGraphEnd(batch.graph, batch.applier.generation, batch.applier.token);

	result.entries = batch.nread;
	result.changes = batch.changes.n;
	result.timers = ndue;
	result.reread = members;
	if (ndue + nnews >= max || batch.told ||
		((rules != NULL || batch.applier.erasures) && (work & CDP_WORK_HISTORY) != 0))
		result.more = true;
	if (!result.more)
		result.next_timer = when_next();

done:
	result.next_timer = Min(result.next_timer, build_next);
	MemoryContextSwitchTo(old);
	CdpBatchMemoryKeep(context);
	SPI_finish();
	CdpRestoreUser(&saved);
	PopActiveSnapshot();
	applying = InvalidLocalTransactionId;
	return result;
}
