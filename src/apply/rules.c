/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Changes of the rules of identity: asked for, started, finished.
 *
 *	  Who changes a kind leaves a row in cdp.rule_changes with the kinds as
 *	  they were, in the same transaction, and touches nothing else: a rollback
 *	  leaves no trace, and the applier goes on meanwhile.  When that is
 *	  committed, the applier starts the change.  The entries that have been
 *	  applied by then are those that the cursors of that moment see; they were
 *	  read by the old kinds and are read again by the new ones, in the order of
 *	  the log (reread.c).  How far that has come is a set of cursors over the
 *	  same snapshots (cdp.rule_cursors).  So for every entry it is known at any
 *	  time how it has been read: by the new kinds when it came after the start,
 *	  or the cursors have passed it, else as before the change.
 *
 *	  A change that comes while another is on its way begins anew at the start
 *	  of the log; the earlier one stays where it is, so that it is known how
 *	  the entries were read that the later one has not reached.  When the last
 *	  one is through, the rows of all of them go.
 *
 *	  A small log is replayed as a whole by the transaction that changes the
 *	  rules, when it commits (backfill.c).
 *
 * IDENTIFICATION
 *	  src/apply/rules.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "apply/apply.h"
#include "apply/batch.h"
#include "apply/rules.h"
#include "cdp.h"
#include "statement.h"
#include "trust/plan.h"

static CdpStatement load_changes = {
	"SELECT c.id, c.started_at IS NOT NULL, c.judging, c.position, c.done, c.total, c.everyone"
	" FROM cdp.rule_changes c ORDER BY c.id",
	{NULL}
};

static CdpStatement ask_change = {
	"INSERT INTO cdp.rule_changes (id, xid, before, plans)"
	" SELECT greatest(extract(epoch FROM clock_timestamp())::numeric * 1000000,"
	" (SELECT max(c.id) + 1 FROM cdp.rule_changes c)), $1,"
	" (SELECT jsonb_agg(to_jsonb(k)) FROM cdp.identifier_kinds k),"
	" (SELECT jsonb_agg(to_jsonb(p)) FROM cdp.plan_definitions p"
	" WHERE p.until_at IS NULL OR p.until_at > p.from_at)"
	" WHERE NOT EXISTS (SELECT FROM cdp.rule_changes c WHERE c.xid = $1 AND c.started_at IS NULL)",
	{"int8"}
};

static CdpStatement ask_everyone = {
	"UPDATE cdp.rule_changes c SET everyone = true WHERE c.xid = $1 AND c.started_at IS NULL",
	{"int8"}
};

static CdpStatement start_change = {
	"UPDATE cdp.rule_changes c SET started_at = clock_timestamp(),"
	" judging = $2, total = $3 WHERE c.id = $1",
	{"int8", "bool", "int8"}
};

static CdpStatement write_change = {
	"UPDATE cdp.rule_changes c SET judging = $2, position = $3, done = $4, total = $5"
	" WHERE c.id = $1",
	{"int8", "bool", "text", "int8", "int8"}
};

static CdpStatement own_change = {
	"SELECT 1 FROM cdp.rule_changes c WHERE c.xid = $1",
	{"int8"}
};

static CdpStatement applied_entries = {
	"SELECT coalesce((SELECT a.entries FROM cdp.applier a), 0)",
	{NULL}
};

static CdpStatement last_change = {
	"SELECT c.id FROM cdp.rule_changes c ORDER BY c.id DESC LIMIT 1",
	{NULL}
};

static CdpStatement delete_changes = {
	"DELETE FROM cdp.rule_changes c WHERE c.id <= $1",
	{"int8"}
};

static CdpStatement delete_cursors = {
	"DELETE FROM cdp.rule_cursors c WHERE c.change <= $1",
	{"int8"}
};

PG_FUNCTION_INFO_V1(cdp_rules_at_commit);
PG_FUNCTION_INFO_V1(cdp_apply_identity_changes);
PG_FUNCTION_INFO_V1(cdp_rejudge);

/*
 * Kinds are read in the active snapshot.  Changes must be read in the same one,
 * for whoever makes one does not wait for the applier: a change that commits
 * while a batch is at work is the next one's business.
 */
static uint64
run_in_snapshot(CdpStatement *statement)
{
	int			rc;

	if (CdpTableIsVoid("rule_changes"))
	{
		SPI_tuptable = NULL;
		return 0;
	}
	CdpPrepare(statement);
	rc = SPI_execute_plan(statement->plan, NULL, NULL, true, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

static int64
count_entries(void)
{
	int64		entries;

	CdpRun(&applied_entries, NULL, NULL);
	entries = CdpCellInt8(0, 1);
	SPI_freetuptable(SPI_tuptable);
	return entries;
}

/* ---- changing them ---- */

/*
 * Before the first change of a transaction: keep the kinds as they are.
 */
void
CdpRulesChanging(void)
{
	CdpUserContext saved;
	Datum		arg = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));

	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRun(&ask_change, &arg, NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
}

void
CdpRulesChanged(void)
{
	CdpWakeAtCommit();
}

static void
replay_now(void)
{
	CdpBatchResult result;

	CdpReplay();
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = CdpApplyBatch(PG_INT64_MAX, false, CDP_WORK_ALL);
	} while (result.more);
}

/*
 * A deferred trigger on cdp.rule_changes: at the end of the transaction that
 * changes the rules a small log is replayed.
 */
Datum
cdp_rules_at_commit(PG_FUNCTION_ARGS)
{
	Datum		arg = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	CdpUserContext saved;
	bool		small;

	if (!CALLED_AS_TRIGGER(fcinfo))
		elog(ERROR, "cdp_rules_at_commit is not called as a trigger");
	if (IsolationUsesXactSnapshot())
		return PointerGetDatum(NULL);

	/* a row that a restore brings is of another transaction */
	PushActiveSnapshot(GetTransactionSnapshot());
	CdpBecomeOwner(&saved);
	SPI_connect();
	small = CdpRun(&own_change, &arg, NULL) > 0 &&
		cdp_replay_at_commit > 0 && count_entries() <= cdp_replay_at_commit;
	SPI_finish();
	CdpRestoreUser(&saved);
	PopActiveSnapshot();
	if (small)
		replay_now();
	return PointerGetDatum(NULL);
}

/*
 * cdp.apply_identity_changes() returns void: replay the whole log under the
 * rules as they are, in this transaction, whether a change is on its way or
 * not.
 */
Datum
cdp_apply_identity_changes(PG_FUNCTION_ARGS)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("entries can be applied at isolation level READ COMMITTED only"),
				 errhint("Use BEGIN ISOLATION LEVEL READ COMMITTED.")));
	replay_now();
	PG_RETURN_VOID();
}

/*
 * cdp.rejudge() returns void: judge everybody again, under the guards as they are
 * when that is done: a change of the rules that changes none.
 */
Datum
cdp_rejudge(PG_FUNCTION_ARGS)
{
	Datum		arg = Int64GetDatum((int64) U64FromFullTransactionId(GetTopFullTransactionId()));
	CdpUserContext saved;

	CdpRulesLock();
	CdpRulesChanging();
	CdpBecomeOwner(&saved);
	SPI_connect();
	CdpRun(&ask_everyone, &arg, NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
	CdpRulesChanged();
	PG_RETURN_VOID();
}

/* ---- under way ---- */

bool
CdpRulesReadOtherwise(CdpRules *rules)
{
	int			i;

	for (i = 0; i < rules->n; i++)
		if (!CdpKindSetsReadAlike(rules->changes[i].before, rules->kinds) ||
			!CdpPlanSetsAlike(CdpPlanSetBefore(rules->changes[i].id), CdpPlanSetNow()))
			return true;
	return false;
}

static void
add_name(List **names, const char *name)
{
	ListCell   *lc;

	foreach(lc, *names)
		if (strcmp(lfirst(lc), name) == 0)
			return;
	*names = lappend(*names, pstrdup(name));
}

static void
add_judged(List **names, CdpRules *rules, CdpRuleChange *change, const char *name)
{
	if (change->everyone || !CdpKindSetsJudgeAlike(change->before, rules->kinds, name))
		add_name(names, name);
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

List *
CdpRulesJudged(CdpRules *rules)
{
	List	   *names = NIL;
	int			i,
				j;

	for (i = 0; i < rules->n; i++)
	{
		CdpKindSet *before = rules->changes[i].before;

		for (j = 0; j < CdpKindCount(before); j++)
			add_judged(&names, rules, &rules->changes[i], CdpKindByIndex(before, j)->name);
		for (j = 0; j < CdpKindCount(rules->kinds); j++)
			add_judged(&names, rules, &rules->changes[i], CdpKindByIndex(rules->kinds, j)->name);
	}
	list_sort(names, by_name);
	return names;
}

List *
CdpRulesRepolicied(CdpRules *rules)
{
	List	   *names = NIL;
	int			i,
				j,
				k;

	for (i = 0; i < rules->n; i++)
	{
		CdpKindSet *sets[2] = {rules->changes[i].before, rules->kinds};

		for (k = 0; k < 2; k++)
		{
			for (j = 0; j < CdpKindCount(sets[k]); j++)
			{
				const char *name = CdpKindByIndex(sets[k], j)->name;

				if (!CdpKindSetsPoliciesAlike(sets[0], sets[1], name))
					add_name(&names, name);
			}
		}
	}
	return names;
}

/*
 * Start what has been asked for: what the cursors see now has been read
 * otherwise.
 */
static void
start_changes(CdpRules *rules, CdpCursorSet *live)
{
	bool		judging = !CdpRulesReadOtherwise(rules);
	int64		total = judging ? 0 : count_entries();
	int			i;

	for (i = 0; i < rules->n; i++)
	{
		CdpRuleChange *change = &rules->changes[i];
		Datum		args[3];

		if (change->started)
			continue;
		change->started = true;
		change->judging = judging;
		change->total = total;
		change->cursors = CdpCursorsCopy(live);
		CdpCursorsRewind(change->cursors);
		args[0] = Int64GetDatum(change->id);
		args[1] = BoolGetDatum(judging);
		args[2] = Int64GetDatum(total);
		CdpRun(&start_change, args, NULL);
		CdpCursorsWriteChange(change->cursors, change->id);
	}
}

CdpRules *
CdpRulesLoad(CdpCursorSet *live, bool start, bool *hold)
{
	CdpRules   *rules;
	int			nstarted = 0;
	uint64		n = run_in_snapshot(&load_changes);
	uint64		i;

	*hold = false;
	if (n == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return NULL;
	}
	rules = palloc0(sizeof(CdpRules));
	rules->changes = palloc0(sizeof(CdpRuleChange) * n);
	rules->n = n;
	for (i = 0; i < n; i++)
	{
		CdpRuleChange *change = &rules->changes[i];
		struct varlena *position = CdpCellVarlena(i, 4, CurrentMemoryContext);
		bool		isnull;

		change->id = CdpCellInt8(i, 1);
		change->started = DatumGetBool(CdpCell(i, 2, &isnull));
		change->judging = DatumGetBool(CdpCell(i, 3, &isnull));
		change->position = position ? text_to_cstring((text *) position) : NULL;
		change->done = CdpCellInt8(i, 5);
		change->total = CdpCellInt8(i, 6);
		change->everyone = DatumGetBool(CdpCell(i, 7, &isnull));
		if (change->started)
			nstarted++;
	}
	SPI_freetuptable(SPI_tuptable);
	CdpKindSetsForget(rules->changes[0].id);
	CdpPlanSetsForget(rules->changes[0].id);
	for (i = 0; i < n; i++)
	{
		rules->changes[i].before = CdpKindSetBefore(rules->changes[i].id);
		if (rules->changes[i].started)
			rules->changes[i].cursors = CdpCursorsLoadChange(rules->changes[i].id);
	}
	rules->kinds = CdpKindSetGet(-1);
	if (nstarted == n)
		return rules;

	if (start && !CdpCursorsWorking(live))
		start_changes(rules, live);
	else
	{
		/* as if they had not been asked for yet */
		*hold = true;
		rules->kinds = rules->changes[nstarted].before;
		rules->n = nstarted;
	}
	return rules;
}

CdpKindSet *
CdpRulesReading(void *arg, const CdpEntry *entry)
{
	CdpRules   *rules = arg;
	CdpKindSet *after = rules->kinds;
	int			i;

	for (i = rules->n - 1; i >= 0; i--)
	{
		CdpRuleChange *change = &rules->changes[i];

		if (!CdpCursorsReach(change->cursors, entry->incarnation, entry->xid) ||
			CdpCursorsApplied(change->cursors, entry->incarnation, entry->xid,
							  entry->id))
			return after;
		after = change->before;
	}
	return after;
}

void
CdpRulesWrite(CdpRules *rules, bool cursors)
{
	CdpRuleChange *change = &rules->changes[rules->n - 1];
	Datum		args[5];
	char		nulls[5] = {' ', ' ', change->position ? ' ' : 'n', ' ', ' '};

	args[0] = Int64GetDatum(change->id);
	args[1] = BoolGetDatum(change->judging);
	args[2] = change->position ? CStringGetTextDatum(change->position) : (Datum) 0;
	args[3] = Int64GetDatum(change->done);
	args[4] = Int64GetDatum(change->total);
	CdpRun(&write_change, args, nulls);
	if (cursors)
		CdpCursorsWriteChange(change->cursors, change->id);
}

void
CdpRulesFinish(void)
{
	Datum		last;

	if (run_in_snapshot(&last_change) == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return;
	}
	last = Int64GetDatum(CdpCellInt8(0, 1));
	SPI_freetuptable(SPI_tuptable);
	CdpRun(&delete_changes, &last, NULL);
	CdpRun(&delete_cursors, &last, NULL);
}
