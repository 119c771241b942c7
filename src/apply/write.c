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

#include "access/heaptoast.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "apply/batch.h"
#include "cdp.h"
#include "direct.h"
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
	{"segments", "int[]"}, {"timer", "timestamptz"}, {"recent", "bytea"}, {"single", "bool"}

static CdpStatement insert_nodes = {
	"INSERT INTO cdp.identities AS i (node_id, identifier, profile_id, first_seen, last_seen,"
	" state, segments, timer, recent, single)"
	" SELECT g.node_id, g.identifier, g.profile_id, g.first_seen, g.last_seen,"
	" g.state, g.segments, g.timer, g.recent, g.single FROM given g RETURNING i.node_id, i.ctid",
	.given = {NODE_COLUMNS}
};

#define UPDATE_NODES(columns, found) \
	"UPDATE cdp.identities i SET profile_id = g.profile_id," \
	" first_seen = g.first_seen, last_seen = g.last_seen," \
	" timer = g.timer, state = g.state, recent = g.recent, single = g.single" columns \
	" FROM given g WHERE " found " RETURNING i.node_id, i.ctid"
#define BY_NUMBER	"i.node_id = g.node_id"
/* of rows of which it is known where they are: without the way through the index */
#define BY_PLACE	"i.ctid = g.place AND i.node_id = g.node_id"

static CdpStatement update_nodes = {
	UPDATE_NODES("", BY_NUMBER), .given = {NODE_COLUMNS}
};

static CdpStatement update_places = {
	UPDATE_NODES("", BY_PLACE), .given = {NODE_COLUMNS, {"place", "tid"}}
};

/* the same for rows whose segments change as well: a row is written once */
static CdpStatement update_nodes_and_segments = {
	UPDATE_NODES(", segments = g.segments", BY_NUMBER), .given = {NODE_COLUMNS}
};

static CdpStatement update_places_and_segments = {
	UPDATE_NODES(", segments = g.segments", BY_PLACE), .given = {NODE_COLUMNS, {"place", "tid"}}
};

static CdpStatement delete_nodes = {
	"WITH gone AS (DELETE FROM cdp.identities i USING unnest($1) AS u (node_id)"
	" WHERE i.node_id = u.node_id RETURNING i.node_id, i.identifier)"
	" INSERT INTO cdp.former_identities (node_id, identifier, gone_at)"
	" SELECT g.node_id, g.identifier, cdp.clock() FROM gone g"
	" ON CONFLICT (node_id) DO NOTHING",
	{"int8[]"}
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

/* A row without identifier, state and references. */
#define ROW_SIZE	100

/* What a statement is given, and what it tells, is in memory: so many rows at a time. */
#define MAX_ROWS	50000

/*
 * Is it all of its profile?  What is in memory in part has other members there.
 */
static bool
is_single(CdpNode *node)
{
	return !node->is_gone && CdpNodeRoot(node)->size == 1;
}

/*
 * A row for one of the statements on cdp.identities, which share their columns.
 * Returns about how much room it takes.
 */
static Size
add_row(CdpGiven *given, CdpNode *node, CdpBatch *batch)
{
	Size		size = ROW_SIZE + VARSIZE_ANY(node->identifier);
	bool		new = given->statement == &insert_nodes;
	bool		segments = given->statement != &update_nodes && given->statement != &update_places;
	struct varlena *state = node->state;
	struct varlena *recent = node->recent_changed ? node->new_recent : node->recent;
	Datum		values[11];
	bool		isnull[11] = {false};

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
	values[9] = BoolGetDatum(node->single = is_single(node));
	values[10] = PointerGetDatum(&node->place);
	CdpGiveRow(given, values, isnull);
	ItemPointerSetInvalid(&node->place);

	/* segments that stay as they are, too */
	size += sizeof(int32) * Max(node->nsegments, node->nnew_segments);
	if (state != NULL)
		size += VARSIZE_ANY(state);
	if (recent != NULL)
		size += VARSIZE_ANY(recent);
	return Min(size, TOAST_TUPLE_THRESHOLD);
}

/*
 * Run a statement over the rows of these nodes, and keep where they are from then
 * on.  Returns how many it has not found; those come first.
 */
static int
write_rows(CdpStatement *statement, CdpNode **nodes, int n, CdpBatch *batch)
{
	bool		by_place = statement == &update_places || statement == &update_places_and_segments;
	CdpRoom    *rooms = by_place ? palloc(sizeof(CdpRoom) * Min(n, MAX_ROWS)) : NULL;
	int			left = 0;

	for (int next = 0; next < n;)
	{
		int			first = next;
		int			upto = next + Min(n - next, MAX_ROWS);
		CdpGiven   *given = CdpGive(statement);
		uint64		written;

		CHECK_FOR_INTERRUPTS();
		for (int i = first; i < upto; i++)
		{
			BlockNumber block = ItemPointerGetBlockNumberNoCheck(&nodes[i]->place);
			Size		size = add_row(given, nodes[i], batch);

			if (by_place)
				rooms[i - first] = (CdpRoom) {.block = block, .size = size};
		}
		/* a way through the index would prune pages */
		if (by_place)
			CdpMakeRoom("identities", rooms, upto - first);
		written = CdpRunGiven(given, NULL, NULL);
		/* they come in the order in which they are given; others count as not found */
		for (uint64 r = 0; r < written; r++)
		{
			int64		id = CdpCellInt8(r, 1);
			bool		isnull;

			while (next < upto && nodes[next]->id != id)
				nodes[left++] = nodes[next++];
			if (next < upto)
				nodes[next++]->place = *(ItemPointer) DatumGetPointer(CdpCell(r, 2, &isnull));
		}
		while (next < upto)
			nodes[left++] = nodes[next++];
		SPI_freetuptable(SPI_tuptable);
	}
	return left;
}

/*
 * Change rows: where they are, if that is known, or by number.
 */
static void
change_rows(CdpStatement *by_place, CdpStatement *by_number, CdpNode **nodes, int n,
			CdpBatch *batch)
{
	CdpNode   **placed;
	int			nplaced = 0;
	int			nothers = 0;

	for (int i = 0; i < n; i++)
		nplaced += ItemPointerIsValid(&nodes[i]->place);
	if (nplaced > 0 && (nplaced >= MIN_PLACES || nplaced == n))
	{
		placed = palloc_extended(sizeof(CdpNode *) * (Size) nplaced, MCXT_ALLOC_HUGE);
		nplaced = 0;
		for (int i = 0; i < n; i++)
		{
			if (ItemPointerIsValid(&nodes[i]->place))
				placed[nplaced++] = nodes[i];
			else
				nodes[nothers++] = nodes[i];
		}
		/* the table has been written anew, or some of these rows by who did not tell */
		nplaced = write_rows(by_place, placed, nplaced, batch);
		memcpy(&nodes[nothers], placed, sizeof(CdpNode *) * nplaced);
		n = nothers + nplaced;
		pfree(placed);
	}
	(void) write_rows(by_number, nodes, n, batch);
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
	CdpNode   **new;
	CdpNode   **changed;
	CdpNode   **moved;
	int64	   *gone = palloc(sizeof(int64) * Max(max, 1));
	int64	   *set = palloc(sizeof(int64) * Max(max, 1));
	TimestampTz *set_at = palloc(sizeof(TimestampTz) * Max(max, 1));
	int64	   *unset = palloc(sizeof(int64) * Max(max, 1));
	int			nnew = 0;
	int			nchanged = 0;
	int			nmoved = 0;
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
	new = palloc_extended(sizeof(CdpNode *) * (Size) max, MCXT_ALLOC_HUGE);
	changed = palloc_extended(sizeof(CdpNode *) * (Size) max, MCXT_ALLOC_HUGE);
	moved = palloc_extended(sizeof(CdpNode *) * (Size) max, MCXT_ALLOC_HUGE);

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
			new[nnew++] = node;
		else if (node->segments_changed)
			moved[nmoved++] = node;
		else if (node->row_changed || node->folded || node->recent_changed ||
				 node->profile != node->old_profile ||
				 node->new_timer != node->timer || (node->single && !is_single(node)))
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
	change_rows(&update_places, &update_nodes, changed, nchanged, batch);
	change_rows(&update_places_and_segments, &update_nodes_and_segments, moved, nmoved, batch);
	(void) write_rows(&insert_nodes, new, nnew, batch);
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
