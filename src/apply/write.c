/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Write what a batch has made of the tables of nodes, and what it rejected.
 *
 *	  Rows of cdp.identities, one for nearly every entry, are written without a
 *	  plan (src/rows.h), and updated in place (HOT) as long as their profile
 *	  stays the same: no indexed column changes then.  The other tables are
 *	  written by one statement a kind of change, over arrays.
 *
 * IDENTIFICATION
 *	  src/apply/write.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "cdp.h"
#include "rows.h"
#include "statement.h"

static CdpStatement delete_nodes = {
	"WITH gone AS (DELETE FROM cdp.identities i USING unnest($1) AS u (node_id)"
	" WHERE i.node_id = u.node_id RETURNING i.node_id, i.identifier)"
	" INSERT INTO cdp.former_identities (node_id, identifier, gone_at)"
	" SELECT g.node_id, g.identifier, cdp.clock() FROM gone g"
	" ON CONFLICT (node_id) DO NOTHING",
	{ "int8[]" }
};

static CdpStatement upsert_timers = {
	"INSERT INTO cdp.timers AS t (profile_id, at)"
	" SELECT unnest($1), unnest($2)"
	" ON CONFLICT (profile_id) DO UPDATE SET at = excluded.at",
	{ "int8[]", "timestamptz[]" }
};

static CdpStatement delete_timers = {
	"DELETE FROM cdp.timers t USING unnest($1) AS u (profile_id)"
	" WHERE t.profile_id = u.profile_id",
	{ "int8[]" }
};

static CdpStatement insert_rejected = {
	"INSERT INTO cdp.rejected (entry, source, message_id, reason, detail,"
	" sqlstate, payload)"
	" SELECT u.entry, u.source, u.message_id, u.reason, u.detail, u.sqlstate,"
	" (SELECT to_jsonb(e) FROM cdp.events e WHERE e.xid = u.xid AND e.id = u.entry LIMIT 1)"
	" FROM (SELECT unnest($1) AS entry, unnest($2) AS xid, "
	" unnest($3) AS source, unnest($4) AS message_id, "
	" unnest($5) AS reason, unnest($6) AS detail, "
	" unnest($7) AS sqlstate) AS u",
	{ "int8[]", "int8[]", "text[]", "text[]", "text[]", "text[]", "text[]" }
};

/* Columns of cdp.identities, by position. */
enum
{
	NODE_ID,
	IDENTIFIER,
	PROFILE_ID,
	FIRST_SEEN,
	LAST_SEEN,
	STATE,
	SEGMENTS,
	TIMER,
	RECENT,
	NCOLUMNS
};

/*
 * The node's row as the batch leaves it.
 */
static void
write_row(CdpRows *rows, CdpNode *node, TimestampTz clock)
{
	Datum *values = rows->values;
	bool *isnull = rows->isnull;
	struct varlena *state = node->state;
	struct varlena *recent = node->recent_changed ? node->new_recent : node->recent;
	bool changed = node->is_new || node->segments_changed;
	int nsegments = changed ? node->nnew_segments : node->nsegments;
	Datum segments = (Datum) 0;

	if (node->folded)
		state = node->new_state = CdpNodeClose(node->acc, clock);
	if (nsegments > 0)
		segments = CdpInt4Array(changed ? node->new_segments : node->segments,
								nsegments);

	values[NODE_ID] = Int64GetDatum(node->id);
	values[IDENTIFIER] = PointerGetDatum(node->identifier);
	values[PROFILE_ID] = Int64GetDatum(node->profile);
	values[FIRST_SEEN] = TimestampTzGetDatum(node->first_seen);
	values[LAST_SEEN] = TimestampTzGetDatum(node->last_seen);
	values[STATE] = PointerGetDatum(state);
	values[SEGMENTS] = segments;
	values[TIMER] = TimestampTzGetDatum(node->new_timer);
	values[RECENT] = PointerGetDatum(recent);
	isnull[STATE] = state == NULL;
	isnull[SEGMENTS] = nsegments == 0;
	isnull[TIMER] = node->new_timer == DT_NOEND;
	isnull[RECENT] = recent == NULL;

	if (node->is_new)
		CdpRowsInsert(rows, &node->tid);
	else
		CdpRowsUpdate(rows, &node->tid);
	if (nsegments > 0)
		pfree(DatumGetPointer(segments));
}

static int
node_order(const void *a, const void *b)
{
	const CdpNode *x = *(CdpNode *const *) a;
	const CdpNode *y = *(CdpNode *const *) b;

	return x->id < y->id ? -1 : x->id > y->id ? 1 :
												0;
}

static int
place_order(const void *a, const void *b)
{
	const CdpNode *x = *(CdpNode *const *) a;
	const CdpNode *y = *(CdpNode *const *) b;
	int cmp;

	if (!ItemPointerIsValid(&x->tid) || !ItemPointerIsValid(&y->tid))
		cmp = (int) ItemPointerIsValid(&x->tid) - (int) ItemPointerIsValid(&y->tid);
	else
		cmp = ItemPointerCompare((ItemPointer) &x->tid, (ItemPointer) &y->tid);
	return cmp != 0 ? cmp : node_order(a, b);
}

/*
 * Write rows of cdp.identities: those that are there page by page, then the
 * new ones in the order of their numbers.
 */
static void
write_rows(CdpNode **changed, int nchanged, CdpNode **new, int nnew,
		   TimestampTz clock)
{
	CdpRows rows;
	CdpRowHint *hints;
	int first;
	int i;

	CdpRowsBegin(&rows, "identities");
	if (RelationGetDescr(rows.rel)->natts != NCOLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"cdp.identities\" does not have %d columns",
						NCOLUMNS)));
	memset(rows.isnull, false, sizeof(bool) * NCOLUMNS);

	qsort(changed, nchanged, sizeof(CdpNode *), place_order);
	hints = palloc(sizeof(CdpRowHint) * Max(nchanged, 1));
	for (first = 0; first < nchanged; first = i)
	{
		ItemPointer place = &changed[first]->tid;
		int n = 0;
		int j;

		CHECK_FOR_INTERRUPTS();
		for (i = first; i < nchanged &&
			 (i == first ||
			  (ItemPointerIsValid(place) &&
			   ItemPointerGetBlockNumber(place) ==
				   ItemPointerGetBlockNumber(&changed[i]->tid)));
			 i++)
		{
			hints[n].key = changed[i]->id;
			hints[n++].tid = &changed[i]->tid;
		}
		if (ItemPointerIsValid(place))
			CdpRowsVisit(&rows, hints, n);
		for (j = first; j < i; j++)
		{
			CdpNode *node = changed[j];

			if (!ItemPointerIsValid(&node->tid) &&
				!CdpRowsFind(&rows, "identities_pkey", node->id, &node->tid))
				elog(ERROR, "identity %lld has no row", (long long) node->id);
			write_row(&rows, node, clock);
		}
	}
	qsort(new, nnew, sizeof(CdpNode *), node_order);
	for (i = 0; i < nnew; i++)
		write_row(&rows, new[i], clock);
	CdpRowsEnd(&rows);
	pfree(hints);
}

/*
 * cdp.identities and cdp.timers.
 */
void
CdpWriteRows(CdpBatch *batch)
{
	int max = batch->graph->nactive;
	TimestampTz clock = batch->applier.clock;
	CdpNode **new;
	CdpNode **changed;
	int64 *gone = palloc(sizeof(int64) * Max(max, 1));
	int64 *set = palloc(sizeof(int64) * Max(max, 1));
	TimestampTz *set_at = palloc(sizeof(TimestampTz) * Max(max, 1));
	int64 *unset = palloc(sizeof(int64) * Max(max, 1));
	int nnew = 0;
	int nchanged = 0;
	int ngone = 0;
	int nset = 0;
	int nunset = 0;
	int i;
	Datum args[2];

	if (max == 0)
		return;
	new = palloc(sizeof(CdpNode *) * max);
	changed = palloc(sizeof(CdpNode *) * max);
	for (i = 0; i < max; i++)
	{
		CdpNode *node = batch->graph->active[i];

		if (node->is_gone)
		{
			/* in a replay it may come back; CdpReplay clears away what did not */
			if (!node->is_new && batch->replaying)
			{
				node->profile = node->id;
				changed[nchanged++] = node;
			}
			else if (!node->is_new)
				gone[ngone++] = node->id;
			if (node->timer != DT_NOEND)
				unset[nunset++] = node->id;
			continue;
		}
		if (node->is_new)
			new[nnew++] = node;
		else if (node->segments_changed || node->row_changed || node->folded ||
				 node->recent_changed || node->profile != node->old_profile ||
				 node->new_timer != node->timer)
			changed[nchanged++] = node;
		if (node->new_timer != node->timer)
		{
			if (node->new_timer == DT_NOEND)
				unset[nunset++] = node->id;
			else
			{
				set[nset] = node->id;
				set_at[nset++] = node->new_timer;
			}
		}
	}

	if (ngone > 0)
	{
		args[0] = CdpInt8Array(gone, ngone);
		CdpRun(&delete_nodes, args, NULL);
	}
	if (nchanged + nnew > 0)
		write_rows(changed, nchanged, new, nnew, clock);
	if (nunset > 0)
	{
		args[0] = CdpInt8Array(unset, nunset);
		CdpRun(&delete_timers, args, NULL);
	}
	if (nset > 0)
	{
		args[0] = CdpInt8Array(set, nset);
		args[1] = CdpTimestampArray(set_at, nset);
		CdpRun(&upsert_timers, args, NULL);
	}
}

/*
 * cdp.rejected: entries that cannot be applied, with the reason.  (Duplicates
 * have a reason as well, but no SQLSTATE: they are counted only.)
 */
void
CdpWriteRejected(CdpBatch *batch)
{
	int max = Max(batch->nentries, 1);
	int64 *ids = palloc(sizeof(int64) * max);
	int64 *xids = palloc(sizeof(int64) * max);
	Datum *sources = palloc(sizeof(Datum) * max);
	Datum *messages = palloc(sizeof(Datum) * max);
	bool *nomessage = palloc(sizeof(bool) * max);
	Datum *reasons = palloc(sizeof(Datum) * max);
	Datum *details = palloc(sizeof(Datum) * max);
	bool *nodetail = palloc(sizeof(bool) * max);
	Datum *states = palloc(sizeof(Datum) * max);
	int n = 0;
	int i;
	Datum args[7];

	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry *entry = &batch->entries[i];

		if (entry->reject_reason == NULL || entry->reject_sqlstate == 0)
			continue;
		ids[n] = entry->id;
		xids[n] = entry->xid;
		sources[n] = PointerGetDatum(entry->source);
		nomessage[n] = entry->message_id == NULL;
		messages[n] = PointerGetDatum(entry->message_id);
		reasons[n] = CStringGetTextDatum(entry->reject_reason);
		nodetail[n] = entry->reject_detail == NULL;
		details[n] = nodetail[n] ? (Datum) 0 : CStringGetTextDatum(entry->reject_detail);
		states[n] = CStringGetTextDatum(unpack_sql_state(entry->reject_sqlstate));
		n++;
	}
	if (n == 0)
		return;
	args[0] = CdpInt8Array(ids, n);
	args[1] = CdpInt8Array(xids, n);
	args[2] = CdpVarlenaArray(sources, NULL, n, TEXTOID);
	args[3] = CdpVarlenaArray(messages, nomessage, n, TEXTOID);
	args[4] = CdpVarlenaArray(reasons, NULL, n, TEXTOID);
	args[5] = CdpVarlenaArray(details, nodetail, n, TEXTOID);
	args[6] = CdpVarlenaArray(states, NULL, n, TEXTOID);
	CdpRun(&insert_rejected, args, NULL);
}
