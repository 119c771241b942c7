/*-------------------------------------------------------------------------
 *
 * cursor.c
 *	  Which entries come next: batches by snapshot.
 *
 *	  An entry carries the top-level transaction id that wrote it.  Applied is
 *	  what is visible in the done snapshot; next is what is visible in the
 *	  target snapshot and was not in the done one, in the order of (xid, id).
 *	  The target stays as it is until it is worked off, so that one huge
 *	  transaction is applied in bounded batches: position tells how far.
 *
 *	  Of the transactions that were in progress in the done snapshot each is
 *	  probed by itself once it has finished; all others are at or above its
 *	  xmax.  So a long transaction hides nothing, is not skipped, and costs
 *	  one probe a target.
 *
 *	  Transaction ids mean nothing after dump and restore.  Entries therefore
 *	  carry the incarnation of the log that wrote them, each incarnation has a
 *	  cursor of its own, and of all but the live one every entry is committed:
 *	  their last target is a snapshot that sees everything.
 *
 * IDENTIFICATION
 *	  src/apply/cursor.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "apply/cursor.h"
#include "cdp.h"
#include "direct.h"
#include "statement.h"

/* xmax of a snapshot that sees every entry of a restored incarnation */
#define EVERYTHING	((uint64) PG_INT64_MAX)

static CdpDirect load_incarnation = {"incarnation", {"id"}};

static CdpDirect load_cursors = {"applier", {"cursors"}};

static CdpDirect load_change = {
	"rule_cursors",
	{"incarnation", "done", "target", "position_xid", "position_id", "change"}
};

/* $1: whatever runs beside it */
static CdpStatement unfinished_restore = {
	"SELECT 1 WHERE cdp.restore_pending() OR (NOT $1 AND cdp.restore_running())",
	{"bool"}
};

static CdpStatement live_entry = {
	"SELECT 1 FROM cdp.events e WHERE e.incarnation = $1 LIMIT 1",
	{"int4"}
};

/* most logs have one incarnation: to see that needs no hash table of them */
static CdpStatement other_entry = {
	"SELECT 1 FROM cdp.events e WHERE e.incarnation <> $1 LIMIT 1",
	{"int4"}
};

static CdpStatement incarnations_there = {
	"SELECT DISTINCT e.incarnation FROM cdp.events e",
	{NULL}
};

/* when the log cannot be read without */
static CdpStatement read_transaction = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.xid = $1 AND e.id > $2 ORDER BY e.id LIMIT $3",
	{"int8", "int8", "int8"}
};

static CdpStatement read_between = {
	"SELECT " CDP_EVENTS_COLUMNS " FROM cdp.events e"
	" WHERE e.xid > $1 AND e.xid < $2 ORDER BY e.xid, e.id LIMIT $3",
	{"int8", "int8", "int8"}
};

static CdpStatement write_all = {
	"UPDATE cdp.applier SET cursors = $1",
	{"log_cursor[]"}
};

static CdpStatement write_change = {
	"INSERT INTO cdp.rule_cursors AS c (incarnation, done, target, position_xid, position_id, change)"
	" VALUES ($1, $2::pg_snapshot, $3::pg_snapshot, $4, $5, $6)"
	" ON CONFLICT (change, incarnation) DO UPDATE SET done = excluded.done,"
	" target = excluded.target, position_xid = excluded.position_xid,"
	" position_id = excluded.position_id",
	{"int4", "text", "text", "int8", "int8", "int8"}
};

bool
CdpSnapshotVisible(const CdpSnapshot *snapshot, uint64 xid)
{
	int			lo = 0;
	int			hi = snapshot->nxip;

	if (xid < snapshot->xmin)
		return true;
	if (xid >= snapshot->xmax)
		return false;
	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (snapshot->xip[mid] == xid)
			return false;
		if (snapshot->xip[mid] < xid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return true;
}

/*
 * Read what pg_snapshot_out writes: xmin:xmax:xip,xip,...
 */
CdpSnapshot *
CdpSnapshotParse(const char *text)
{
	CdpSnapshot *snapshot = palloc0(sizeof(CdpSnapshot));
	const char *p = text;
	char	   *end;
	int			n = 0;

	for (p = text; *p; p++)
		if (*p == ',')
			n++;
	snapshot->xip = palloc(sizeof(uint64) * (n + 1));

	snapshot->xmin = strtoull(text, &end, 10);
	if (*end == ':')
		snapshot->xmax = strtoull(end + 1, &end, 10);
	if (*end != ':')
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("invalid snapshot \"%s\" in cdp.cursors", text)));
	end++;
	while (*end)
	{
		snapshot->xip[snapshot->nxip++] = strtoull(end, &end, 10);
		if (*end == ',')
			end++;
	}
	return snapshot;
}

char *
CdpSnapshotFormat(const CdpSnapshot *snapshot)
{
	StringInfoData buf;
	int			i;

	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":",
					 snapshot->xmin, snapshot->xmax);
	for (i = 0; i < snapshot->nxip; i++)
		appendStringInfo(&buf, "%s" UINT64_FORMAT, i > 0 ? "," : "",
						 snapshot->xip[i]);
	return buf.data;
}

static CdpSnapshot *
simple_snapshot(uint64 xmax)
{
	CdpSnapshot *snapshot = palloc0(sizeof(CdpSnapshot));

	snapshot->xmin = snapshot->xmax = xmax;
	return snapshot;
}

CdpSnapshot *
CdpSnapshotNow(void)
{
	CdpSnapshot *snapshot;
	FullTransactionId own;
	Datum		now;

	PushActiveSnapshot(GetTransactionSnapshot());
	now = OidFunctionCall0(F_PG_CURRENT_SNAPSHOT);
	PopActiveSnapshot();
	snapshot = CdpSnapshotParse(DatumGetCString(DirectFunctionCall1(pg_snapshot_out, now)));

	/*
	 * A snapshot does not list its own transaction as running.  Entries that
	 * it has written so far, and may write yet, are for a later target.
	 */
	own = GetTopFullTransactionIdIfAny();
	if (FullTransactionIdIsValid(own) &&
		CdpSnapshotVisible(snapshot, U64FromFullTransactionId(own)))
	{
		uint64		xid = U64FromFullTransactionId(own);
		uint64	   *xip = palloc(sizeof(uint64) * (snapshot->nxip + 1));
		int			n = 0;
		int			i;

		for (i = 0; i < snapshot->nxip && snapshot->xip[i] < xid; i++)
			xip[n++] = snapshot->xip[i];
		xip[n++] = xid;
		for (; i < snapshot->nxip; i++)
			xip[n++] = snapshot->xip[i];
		snapshot->xip = xip;
		snapshot->nxip = n;
		snapshot->xmin = Min(snapshot->xmin, xid);
	}
	return snapshot;
}

static CdpSnapshot *
stored_snapshot(Datum value)
{
	return CdpSnapshotParse(DatumGetCString(DirectFunctionCall1(pg_snapshot_out, value)));
}

static void
take_incarnation(Datum *values, bool *isnull, void *arg)
{
	CdpCursorSet *set = arg;

	set->incarnation = DatumGetInt32(values[0]);
}

static void
take_cursor(Datum *values, bool *isnull, CdpCursorSet *set)
{
	CdpCursor  *cursor;

	if (set->cursors == NULL)
		set->cursors = palloc(sizeof(CdpCursor));
	else
		set->cursors = repalloc(set->cursors, sizeof(CdpCursor) * (set->n + 1));
	cursor = &set->cursors[set->n++];
	cursor->incarnation = DatumGetInt32(values[0]);
	cursor->done = isnull[1] ? simple_snapshot(1) : stored_snapshot(values[1]);
	cursor->target = isnull[2] ? NULL : stored_snapshot(values[2]);
	cursor->position_xid = DatumGetInt64(values[3]);
	cursor->position_id = DatumGetInt64(values[4]);
	if (cursor->incarnation == set->incarnation)
		set->active = true;
}

static int
incarnation_order(const void *a, const void *b)
{
	int32		x = ((const CdpCursor *) a)->incarnation;
	int32		y = ((const CdpCursor *) b)->incarnation;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* The columns of cdp.log_cursor. */
#define CURSOR_NATTS 5

void
CdpCursorsTake(CdpCursorSet *set, Datum column)
{
	ArrayType  *array = DatumGetArrayTypeP(column);
	TupleDesc	desc = lookup_rowtype_tupdesc(ARR_ELEMTYPE(array), -1);
	Datum	   *rows;
	bool	   *nulls;
	int			n;
	int			i;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE, &rows, &nulls, &n);
	for (i = 0; i < n; i++)
	{
		HeapTupleHeader header = DatumGetHeapTupleHeader(rows[i]);
		HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};
		Datum		columns[CURSOR_NATTS];
		bool		missing[CURSOR_NATTS];

		heap_deform_tuple(&tuple, desc, columns, missing);
		take_cursor(columns, missing, set);
	}
	ReleaseTupleDesc(desc);
	if (set->n > 1)
		qsort(set->cursors, set->n, sizeof(CdpCursor), incarnation_order);
}

static void
take_cursors(Datum *values, bool *isnull, void *arg)
{
	CdpCursorsTake(arg, values[0]);
}

/* the cursors of one change of the rules */
typedef struct ChangeCursors
{
	int64		change;
	CdpCursorSet *set;
} ChangeCursors;

static void
take_change(Datum *values, bool *isnull, void *arg)
{
	ChangeCursors *change = arg;

	if (DatumGetInt64(values[5]) == change->change)
		take_cursor(values, isnull, change->set);
}

/*
 * The incarnation stays what it is as long as the extension is there: it is read
 * once of each table of that name that there ever was.
 */
CdpCursorSet *
CdpCursorsNew(void)
{
	static Oid	table = InvalidOid;
	static int32 incarnation;
	CdpCursorSet *set = palloc0(sizeof(CdpCursorSet));
	Oid			relid = CdpRelationOid("incarnation");

	if (relid != table)
	{
		if (CdpReadDirect(&load_incarnation, take_incarnation, set) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"cdp.incarnation\" does not hold exactly one row")));
		incarnation = set->incarnation;
		table = relid;
	}
	set->incarnation = incarnation;
	return set;
}

CdpCursorSet *
CdpCursorsLoad(void)
{
	CdpCursorSet *set = CdpCursorsNew();

	(void) CdpReadDirect(&load_cursors, take_cursors, set);
	return set;
}

CdpCursorSet *
CdpCursorsLoadChange(int64 change)
{
	CdpCursorSet *set = CdpCursorsNew();
	ChangeCursors cursors = {change, set};

	(void) CdpReadDirect(&load_change, take_change, &cursors);
	if (set->n > 1)
		qsort(set->cursors, set->n, sizeof(CdpCursor), incarnation_order);
	return set;
}

CdpCursorSet *
CdpCursorsCopy(const CdpCursorSet *set)
{
	CdpCursorSet *copy = palloc(sizeof(CdpCursorSet));

	/* snapshots are never changed in place */
	*copy = *set;
	copy->cursors = palloc(sizeof(CdpCursor) * Max(set->n, 1));
	memcpy(copy->cursors, set->cursors, sizeof(CdpCursor) * set->n);
	return copy;
}

static CdpCursor *
find_cursor(CdpCursorSet *set, int32 incarnation)
{
	int			i;

	for (i = 0; i < set->n; i++)
		if (set->cursors[i].incarnation == incarnation)
			return &set->cursors[i];
	return NULL;
}

/*
 * Is there something that this database is still to be given, without which
 * entries would be applied wrongly: tombstones of who was erased, definitions?
 * by_hand: that says that nothing runs.
 */
bool
CdpRestoreUnfinished(bool by_hand)
{
	Datum		arg = BoolGetDatum(by_hand);
	bool		found = CdpRun(&unfinished_restore, &arg, NULL) > 0;

	SPI_freetuptable(SPI_tuptable);
	return found;
}

bool
CdpCursorsActivate(CdpCursorSet *set, bool force)
{
	/* looking for a live entry in a large restored log is slow: do not hurry */
	static TimestampTz not_before = 0;
	TimestampTz now = GetCurrentTimestamp();
	Datum		arg = Int32GetDatum(set->incarnation);
	CdpCursor  *cursors;
	int32	   *incarnations;
	int			n;
	int			i;

	if (set->active)
		return true;
	if (!force)
	{
		uint64		found;

		if (now < not_before)
			return false;
		found = CdpRun(&live_entry, &arg, NULL);
		SPI_freetuptable(SPI_tuptable);
		if (found == 0)
		{
			TimestampTz later = GetCurrentTimestamp();

			not_before = later + 100 * (later - now);
			return false;
		}
	}

	n = CdpRun(&other_entry, &arg, NULL);
	SPI_freetuptable(SPI_tuptable);
	if (n > 0)
		n = CdpRun(&incarnations_there, NULL, NULL);
	incarnations = palloc(sizeof(int32) * (n + 1));
	for (i = 0; i < n; i++)
	{
		bool		isnull;

		incarnations[i] = DatumGetInt32(CdpCell(i, 1, &isnull));
	}
	if (n > 0)
		SPI_freetuptable(SPI_tuptable);
	incarnations[n++] = set->incarnation;

	cursors = palloc0(sizeof(CdpCursor) * (set->n + n));
	memcpy(cursors, set->cursors, sizeof(CdpCursor) * set->n);
	set->cursors = cursors;
	for (i = 0; i < n; i++)
	{
		CdpCursor  *cursor;

		if (find_cursor(set, incarnations[i]) != NULL)
			continue;
		cursor = &set->cursors[set->n++];
		cursor->incarnation = incarnations[i];
		cursor->done = simple_snapshot(1);
	}
	set->active = true;
	return true;
}

/* Entries that are being read. */
typedef struct Reading
{
	CdpCursor  *cursor;
	CdpLogScan *log;			/* NULL: by statements */
	CdpEntry   *entries;
	int			n;
} Reading;

/*
 * Append the entry to the batch if the cursor is one of its incarnation and its
 * target sees it; moves the position over it in any case.
 */
static void
take_entry(Datum *values, bool *isnull, void *arg)
{
	Reading    *reading = arg;
	CdpCursor  *cursor = reading->cursor;
	int64		xid = DatumGetInt64(values[CDP_EVENTS_XID]);

	cursor->position_xid = xid;
	cursor->position_id = DatumGetInt64(values[CDP_EVENTS_ID]);
	if (DatumGetInt32(values[CDP_EVENTS_INCARNATION]) == cursor->incarnation &&
		CdpSnapshotVisible(cursor->target, xid))
		CdpEntryFromRow(&reading->entries[reading->n++], values, isnull);
}

/*
 * The same with the rows of SPI_tuptable; returns how many they are.
 */
static int
take_rows(Reading *reading)
{
	Datum		values[CDP_EVENTS_NATTS];
	bool		isnull[CDP_EVENTS_NATTS];
	int			n = (int) SPI_processed;
	int			i;

	for (i = 0; i < n; i++)
	{
		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
						  values, isnull);
		take_entry(values, isnull, reading);
	}
	SPI_freetuptable(SPI_tuptable);
	return n;
}

/*
 * Entries of a transaction whose ids are above the given one, at most max of them.
 */
static int
take_transaction(Reading *reading, int64 xid, int64 id, int max)
{
	Datum		args[3];

	if (reading->log != NULL)
		return CdpLogScanTransaction(reading->log, xid, id, max, take_entry, reading);
	args[0] = Int64GetDatum(xid);
	args[1] = Int64GetDatum(id);
	args[2] = Int64GetDatum(max);
	CdpRun(&read_transaction, args, NULL);
	return take_rows(reading);
}

/*
 * Entries of transactions between two, at most max of them.
 */
static int
take_between(Reading *reading, int64 above, int64 below, int max)
{
	Datum		args[3];

	if (reading->log != NULL)
		return CdpLogScanBetween(reading->log, above, below, max, take_entry, reading);
	args[0] = Int64GetDatum(above);
	args[1] = Int64GetDatum(below);
	args[2] = Int64GetDatum(max);
	CdpRun(&read_between, args, NULL);
	return take_rows(reading);
}

/*
 * The rest of a transaction; false when the batch is full before.
 */
static bool
read_rest(Reading *reading, int64 xid, int64 id, int max)
{
	for (;;)
	{
		int			want = max - reading->n;

		if (want == 0)
			return false;
		if (take_transaction(reading, xid, id, want) < want)
			return true;
		id = reading->cursor->position_id;
	}
}

/*
 * Read from a cursor until the batch is full or its target worked off.  Returns
 * whether the target is worked off.
 */
static bool
read_cursor(Reading *reading, int max)
{
	CdpCursor  *cursor = reading->cursor;
	CdpSnapshot *done = cursor->done;
	CdpSnapshot *target = cursor->target;
	int			i;

	/* transactions that were running then and have finished since */
	for (i = 0; i < done->nxip; i++)
	{
		int64		xid = (int64) done->xip[i];

		if (xid < cursor->position_xid || !CdpSnapshotVisible(target, xid))
			continue;
		if (!read_rest(reading, xid,
					   cursor->position_xid == xid ? cursor->position_id : PG_INT64_MIN, max))
			return false;
	}

	/* everything from the done snapshot's xmax on */
	if (cursor->position_xid < (int64) done->xmax)
	{
		cursor->position_xid = (int64) done->xmax - 1;
		cursor->position_id = PG_INT64_MAX;
	}
	for (;;)
	{
		int			want;

		CHECK_FOR_INTERRUPTS();
		if (cursor->position_id != PG_INT64_MAX &&
			!read_rest(reading, cursor->position_xid, cursor->position_id, max))
			return false;
		want = max - reading->n;
		if (want == 0)
			return false;
		if (take_between(reading, cursor->position_xid, (int64) target->xmax, want) < want)
			return true;
	}
}

/*
 * The same, from the log as it is now: whatever the target sees is there, but for a
 * caller who may not write, and reads by the snapshot that there is.
 */
static bool
read_target(CdpCursor *cursor, int max, CdpEntry *entries, int *n)
{
	Reading		reading = {cursor, CdpLogScanBegin(), entries, *n};
	bool		worked_off = read_cursor(&reading, max);

	if (reading.log != NULL)
		CdpLogScanEnd(reading.log);
	*n = reading.n;
	return worked_off;
}

int
CdpCursorsRead(CdpCursorSet *set, int max, CdpEntry **result, bool *more,
			   bool new_targets)
{
	CdpEntry   *entries = MemoryContextAllocHuge(CurrentMemoryContext,
												 sizeof(CdpEntry) * (Size) max);
	int			n = 0;
	int			pass;
	int			i;

	*more = false;
	for (pass = 0; pass < 2; pass++)
	{
		for (i = 0; i < set->n && !*more; i++)
		{
			CdpCursor  *cursor = &set->cursors[i];
			bool		live = cursor->incarnation == set->incarnation;
			bool		resumed;

			/* what a dump brought comes first */
			if (live != (pass == 1))
				continue;
			do
			{
				resumed = cursor->target != NULL;
				if (!resumed)
				{
					if (!new_targets)
						break;
					if (!live && cursor->done->xmin == EVERYTHING)
						break;
					cursor->target = live ? CdpSnapshotNow()
						: simple_snapshot(EVERYTHING);
					cursor->position_xid = 0;
					cursor->position_id = 0;
				}
				if (!read_target(cursor, max, entries, &n))
				{
					*more = true;
					break;
				}
				cursor->done = cursor->target;
				cursor->target = NULL;
				cursor->position_xid = 0;
				cursor->position_id = 0;
			} while (resumed);
		}
	}
	CdpEntriesReadAll(entries, n);
	*result = entries;
	return n;
}

int
CdpCursorsPending(const CdpCursorSet *set, int max, CdpEntry **entries)
{
	CdpCursorSet *copy = CdpCursorsCopy(set);
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	CdpCursor	mine = {.incarnation = copy->incarnation};
	Reading		reading = {&mine};
	bool		more;

	(void) CdpCursorsActivate(copy, true);
	reading.n = CdpCursorsRead(copy, max, entries, &more, true);
	if (FullTransactionIdIsValid(own) && reading.n < max)
	{
		int			before = reading.n;

		mine.target = simple_snapshot(EVERYTHING);
		reading.entries = *entries;
		reading.log = CdpLogScanBegin();
		(void) read_rest(&reading, (int64) U64FromFullTransactionId(own), PG_INT64_MIN, max);
		if (reading.log != NULL)
			CdpLogScanEnd(reading.log);
		CdpEntriesReadAll(*entries + before, reading.n - before);
	}
	return reading.n;
}

void
CdpCursorsRewind(CdpCursorSet *set)
{
	int			i;

	for (i = 0; i < set->n; i++)
	{
		/* a target that is half worked off is pending again */
		set->cursors[i].target = set->cursors[i].done;
		set->cursors[i].done = simple_snapshot(1);
		set->cursors[i].position_xid = 0;
		set->cursors[i].position_id = 0;
	}
}

bool
CdpCursorsApplied(CdpCursorSet *before, int32 incarnation, int64 xid, int64 id)
{
	CdpCursor  *cursor = find_cursor(before, incarnation);

	if (cursor == NULL)
		return false;
	if (CdpSnapshotVisible(cursor->done, xid))
		return true;
	return cursor->target != NULL &&
		CdpSnapshotVisible(cursor->target, xid) &&
		(xid < cursor->position_xid ||
		 (xid == cursor->position_xid && id <= cursor->position_id));
}

bool
CdpCursorsReach(CdpCursorSet *set, int32 incarnation, int64 xid)
{
	CdpCursor  *cursor = find_cursor(set, incarnation);

	if (cursor == NULL)
		return false;
	return CdpSnapshotVisible(cursor->done, xid) ||
		(cursor->target != NULL && CdpSnapshotVisible(cursor->target, xid));
}

bool
CdpCursorsWorking(CdpCursorSet *set)
{
	int			i;

	for (i = 0; i < set->n; i++)
		if (set->cursors[i].target != NULL)
			return true;
	return false;
}

static Datum
snapshot_datum(const CdpSnapshot *snapshot)
{
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(CdpSnapshotFormat(snapshot)));
}

Datum
CdpCursorsDatum(const CdpCursorSet *set)
{
	Oid			type = CdpTypeOid("log_cursor");
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	Datum	   *rows = palloc_array(Datum, Max(set->n, 1));
	int			i;

	for (i = 0; i < set->n; i++)
	{
		CdpCursor  *cursor = &set->cursors[i];
		Datum		values[CURSOR_NATTS];
		bool		isnull[CURSOR_NATTS] = {false};

		values[0] = Int32GetDatum(cursor->incarnation);
		values[1] = snapshot_datum(cursor->done);
		isnull[2] = cursor->target == NULL;
		values[2] = isnull[2] ? (Datum) 0 : snapshot_datum(cursor->target);
		values[3] = Int64GetDatum(cursor->position_xid);
		values[4] = Int64GetDatum(cursor->position_id);
		rows[i] = HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
	}
	ReleaseTupleDesc(desc);
	return PointerGetDatum(construct_array(rows, set->n, type, -1, false, TYPALIGN_DOUBLE));
}

void
CdpCursorsWrite(CdpCursorSet *set)
{
	Datum		arg = CdpCursorsDatum(set);

	if (CdpRun(&write_all, &arg, NULL) != 1)
		elog(ERROR, "cursors were not written");
}

void
CdpCursorsWriteChange(CdpCursorSet *set, int64 change)
{
	int			i;

	for (i = 0; i < set->n; i++)
	{
		CdpCursor  *cursor = &set->cursors[i];
		Datum		args[6];
		char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};

		args[0] = Int32GetDatum(cursor->incarnation);
		args[1] = CStringGetTextDatum(CdpSnapshotFormat(cursor->done));
		if (cursor->target != NULL)
			args[2] = CStringGetTextDatum(CdpSnapshotFormat(cursor->target));
		else
			nulls[2] = 'n';
		args[3] = Int64GetDatum(cursor->position_xid);
		args[4] = Int64GetDatum(cursor->position_id);
		args[5] = Int64GetDatum(change);
		if (CdpRun(&write_change, args, nulls) != 1)
			elog(ERROR, "cursor of incarnation %d was not written",
				 cursor->incarnation);
	}
}
