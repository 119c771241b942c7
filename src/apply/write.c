/*-------------------------------------------------------------------------
 *
 * write.c
 *	  Write what a batch has made of the tables of nodes, and what it rejected.
 *
 *	  One statement a table and kind of change, over arrays.  Rows of
 *	  cdp.identities are updated in place (HOT) as long as their profile stays
 *	  the same: no indexed column changes then.
 *
 * IDENTIFICATION
 *	  src/apply/write.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "cdp.h"
#include "statement.h"
#include "trust/plan.h"

static CdpStatement new_epoch = {
	"INSERT INTO cdp.epochs (epoch, incarnation, system_identifier, timeline,"
	" started_at) VALUES ($1, $2, $3, $4, $5)",
	{"int4", "int4", "int8", "int4", "timestamptz"}
};

/* in the order of the table, so that a new row goes into it as it is */
#define NODE_COLUMNS \
	{"node_id", "int8"}, {"identifier", "identifier"}, {"profile_id", "int8"}, \
	{"first_seen", "timestamptz"}, {"last_seen", "timestamptz"}, {"state", "node_state"}, \
	{"segments", "int[]"}, {"timer", "timestamptz"}, {"recent", "bytea"}

static CdpStatement insert_nodes = {
	"INSERT INTO cdp.identities (node_id, identifier, profile_id, first_seen, last_seen,"
	" state, segments, timer, recent)"
	" SELECT g.node_id, g.identifier, g.profile_id, g.first_seen, g.last_seen,"
	" g.state, g.segments, g.timer, g.recent FROM given g",
	.given = {NODE_COLUMNS}
};

#define UPDATE_NODES \
	"UPDATE cdp.identities i SET profile_id = g.profile_id," \
	" first_seen = g.first_seen, last_seen = g.last_seen," \
	" timer = g.timer, state = g.state, recent = g.recent"

static CdpStatement update_nodes = {
	UPDATE_NODES " FROM given g WHERE i.node_id = g.node_id",
	.given = {NODE_COLUMNS}
};

/* rows that were read in this batch: without the way through the index */
static CdpStatement update_places = {
	UPDATE_NODES " FROM given g WHERE i.ctid = g.place AND i.node_id = g.node_id",
	.given = {NODE_COLUMNS, {"place", "tid"}}
};

static CdpStatement delete_nodes = {
	"WITH gone AS (DELETE FROM cdp.identities i USING unnest($1) AS u (node_id)"
	" WHERE i.node_id = u.node_id RETURNING i.node_id, i.identifier)"
	" INSERT INTO cdp.former_identities (node_id, identifier, gone_at)"
	" SELECT g.node_id, g.identifier, cdp.clock() FROM gone g"
	" ON CONFLICT (node_id) DO NOTHING",
	{"int8[]"}
};

/* the same for rows whose segments change as well: a row is written once */
static CdpStatement update_nodes_and_segments = {
	UPDATE_NODES ", segments = g.segments FROM given g WHERE i.node_id = g.node_id",
	.given = {NODE_COLUMNS}
};

static CdpStatement upsert_timers = {
	"INSERT INTO cdp.timers AS t (profile_id, at)"
	" SELECT unnest($1), unnest($2)"
	" ON CONFLICT (profile_id) DO UPDATE SET at = excluded.at",
	{"int8[]", "timestamptz[]"}
};

static CdpStatement delete_timers = {
	"DELETE FROM cdp.timers t USING unnest($1) AS u (profile_id)"
	" WHERE t.profile_id = u.profile_id",
	{"int8[]"}
};

static CdpStatement insert_rejected = {
	"INSERT INTO cdp.rejected (entry, source, message_id, reason, detail,"
	" sqlstate, payload, held)"
	" SELECT u.entry, u.source, u.message_id, u.reason, u.detail, u.sqlstate,"
	" (SELECT to_jsonb(e) FROM cdp.events e WHERE e.xid = u.xid AND e.id = u.entry LIMIT 1),"
	" u.held AND NOT EXISTS (SELECT FROM cdp.plan_releases r WHERE r.entry = u.entry)"
	" FROM (SELECT unnest($1) AS entry, unnest($2) AS xid, "
	" unnest($3) AS source, unnest($4) AS message_id, "
	" unnest($5) AS reason, unnest($6) AS detail, "
	" unnest($7) AS sqlstate, unnest($8) AS held) AS u",
	{"int8[]", "int8[]", "text[]", "text[]", "text[]", "text[]", "text[]", "bool[]"}
};

/* From so many rows on a statement more is less than finding them by an index. */
#define MIN_PLACES	16

/*
 * A row for one of the statements on cdp.identities, which share their columns.
 */
static void
add_row(CdpGiven *given, CdpNode *node, CdpBatch *batch)
{
	bool		new = given->statement == &insert_nodes;
	bool		segments = new || given->statement == &update_nodes_and_segments;
	struct varlena *state = node->state;
	struct varlena *recent = node->recent_changed ? node->new_recent : node->recent;
	Datum		values[10];
	bool		isnull[10] = {false};

	if (node->new_state != NULL)
		state = node->new_state;
	else if (node->folded)
		state = node->new_state = CdpNodeStore(node->acc, node->id, batch->applier.clock,
											   batch->graph->resident);

	values[0] = Int64GetDatum(node->id);
	values[1] = PointerGetDatum(node->identifier);
	isnull[1] = !new;
	values[2] = Int64GetDatum(node->profile);
	values[3] = TimestampTzGetDatum(node->first_seen);
	values[4] = TimestampTzGetDatum(node->last_seen);
	values[5] = PointerGetDatum(state);
	isnull[5] = state == NULL;
	isnull[6] = !segments || node->nnew_segments == 0;
	values[6] = isnull[6] ? (Datum) 0
		: CdpInt4Array(node->new_segments, node->nnew_segments);
	values[7] = TimestampTzGetDatum(node->new_timer);
	isnull[7] = node->new_timer == DT_NOEND;
	values[8] = PointerGetDatum(recent);
	isnull[8] = recent == NULL;
	values[9] = PointerGetDatum(&node->place);
	CdpGiveRow(given, values, isnull);
	ItemPointerSetInvalid(&node->place);
}

/*
 * Rows whose segments stay as they are: where they were read, or by number.
 */
static void
change_rows(CdpNode **nodes, int n, CdpBatch *batch)
{
	CdpNode   **placed = palloc_extended(sizeof(CdpNode *) * (Size) Max(n, 1), MCXT_ALLOC_HUGE);
	CdpGiven   *given;
	int			nplaced = 0;
	int			nothers = 0;

	for (int i = 0; i < n; i++)
		nplaced += ItemPointerIsValid(&nodes[i]->place);
	if (nplaced >= MIN_PLACES)
	{
		given = CdpGive(&update_places);
		nplaced = 0;
		for (int i = 0; i < n; i++)
		{
			if (!ItemPointerIsValid(&nodes[i]->place))
				nodes[nothers++] = nodes[i];
			else
			{
				placed[nplaced++] = nodes[i];
				add_row(given, nodes[i], batch);
			}
		}
		n = nothers;

		/* the table has been written anew, or some of these rows by who did not tell */
		if (CdpRunGiven(given, NULL, NULL) != (uint64) nplaced)
		{
			memcpy(&nodes[n], placed, sizeof(CdpNode *) * nplaced);
			n += nplaced;
		}
	}
	given = CdpGive(&update_nodes);
	for (int i = 0; i < n; i++)
		add_row(given, nodes[i], batch);
	(void) CdpRunGiven(given, NULL, NULL);
	pfree(placed);
}

/*
 * cdp.identities and cdp.timers.
 */
void
CdpWriteRows(CdpBatch *batch)
{
	int			max = batch->graph->nactive;
	CdpNode    *node;
	CdpNumbered *all;
	CdpGiven   *new = CdpGive(&insert_nodes);
	CdpNode   **changed;
	CdpGiven   *moved = CdpGive(&update_nodes_and_segments);
	int64	   *gone = palloc(sizeof(int64) * Max(max, 1));
	int64	   *set = palloc(sizeof(int64) * Max(max, 1));
	TimestampTz *set_at = palloc(sizeof(TimestampTz) * Max(max, 1));
	int64	   *unset = palloc(sizeof(int64) * Max(max, 1));
	int			nchanged = 0;
	int			ngone = 0;
	int			nset = 0;
	int			nunset = 0;
	int			i;
	Datum		args[2];

	if (max == 0)
		return;

	/* in the order of node numbers: neighbours in the table and its indexes */
	all = palloc(sizeof(CdpNumbered) * max);
	for (i = 0; i < max; i++)
	{
		node = batch->graph->active[i];
		all[i].number = node->id;
		all[i].then = 0;
		all[i].item = node;
	}
	CdpNumberedSort(all, max);
	changed = palloc_extended(sizeof(CdpNode *) * (Size) max, MCXT_ALLOC_HUGE);

	for (i = 0; i < max; i++)
	{
		node = all[i].item;
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
			add_row(new, node, batch);
		else if (node->segments_changed)
			add_row(moved, node, batch);
		else if (node->row_changed || node->folded || node->recent_changed ||
				 node->profile != node->old_profile ||
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
		CdpChunksDelete(gone, ngone);
	}
	change_rows(changed, nchanged, batch);
	(void) CdpRunGiven(moved, NULL, NULL);
	(void) CdpRunGiven(new, NULL, NULL);
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
	int			max = Max(batch->nentries, 1);
	int64	   *ids = palloc(sizeof(int64) * max);
	int64	   *xids = palloc(sizeof(int64) * max);
	Datum	   *sources = palloc(sizeof(Datum) * max);
	Datum	   *messages = palloc(sizeof(Datum) * max);
	bool	   *nomessage = palloc(sizeof(bool) * max);
	Datum	   *reasons = palloc(sizeof(Datum) * max);
	Datum	   *details = palloc(sizeof(Datum) * max);
	bool	   *nodetail = palloc(sizeof(bool) * max);
	Datum	   *states = palloc(sizeof(Datum) * max);
	bool	   *held = palloc(sizeof(bool) * max);
	int			n = 0;
	int			i;
	Datum		args[8];

	for (i = 0; i < batch->nentries; i++)
	{
		CdpEntry   *entry = &batch->entries[i];

		if (entry->reject_reason == NULL || entry->reject_sqlstate == 0)
			continue;
		ids[n] = entry->id;
		xids[n] = entry->xid;
		sources[n] = PointerGetDatum(entry->source);
		nomessage[n] = entry->message_id == NULL;
		messages[n] = PointerGetDatum(entry->message_id);
		reasons[n] = CStringGetTextDatum(entry->reject_reason);
		nodetail[n] = entry->reject_detail == NULL;
		details[n] = nodetail[n] ? (Datum) 0
			: CStringGetTextDatum(entry->reject_detail);
		states[n] = CStringGetTextDatum(unpack_sql_state(entry->reject_sqlstate));
		held[n] = strcmp(entry->reject_reason, CDP_PLAN_REASON) == 0;
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
	args[7] = CdpBoolArray(held, n);
	CdpRun(&insert_rejected, args, NULL);
}

/*
 * Numbers of changes belong to an epoch.  A new one begins when the database
 * is not the one that numbered the last change: restored, recovered to an
 * earlier time, or failed over.
 */
void
CdpEpochCheck(CdpBatch *batch, int32 incarnation)
{
	int64		system_identifier = (int64) GetSystemIdentifier();
	int32		timeline = (int32) GetWALInsertionTimeLine();
	CdpEpoch   *last = &batch->last_epoch;
	Datum		args[5];

	if (last->epoch == batch->applier.epoch &&
		last->incarnation == incarnation &&
		last->system_identifier == system_identifier &&
		last->timeline == timeline)
		return;
	batch->applier.epoch++;
	args[0] = Int32GetDatum(batch->applier.epoch);
	args[1] = Int32GetDatum(incarnation);
	args[2] = Int64GetDatum(system_identifier);
	args[3] = Int32GetDatum(timeline);
	args[4] = TimestampTzGetDatum(GetCurrentTimestamp());
	CdpRun(&new_epoch, args, NULL);
}
