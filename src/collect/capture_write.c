/*-------------------------------------------------------------------------
 *
 * capture_write.c
 *	  Rows of attached tables that were mapped: compared with what the log says
 *	  of them, and written to it.
 *
 *	  cdp.attached_rows knows for each row that was logged its key, the entry
 *	  that counts and a hash of what that entry says.  So a change of a row is
 *	  an undo of its entry and a new entry, a row that is gone is an undo, and a
 *	  row that says what it said before is nothing.  Whatever a table went
 *	  through, the entries of its source that count are its rows.
 *
 *	  With copy => false the entries of new rows that are many are packed (pack.c).
 *	  When a row that is packed changes or goes, cdp.attached_rows is told first
 *	  what counts for it, and has it from then on.
 *
 * IDENTIFICATION
 *	  src/collect/capture_write.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "cdp.h"
#include "collect/attach.h"
#include "collect/bundle.h"
#include "statement.h"

#define ROWS_NAME CDP_ROWS_NAME
#define GONE_NAME "cdp_gone"

/*
 * Ids are drawn here and not by the column's default, for both tables get
 * them.  An undo counts only for what is earlier, hence its time.  Rows that
 * are known are found again where the join has seen them; one that is not there
 * any more, as keys need not be unique, is put like a new one.  Entry 0 is none.
 */
#define LOG_ROWS(which) \
	"WITH fresh AS MATERIALIZED (" \
	" SELECT nextval('cdp.events_id_seq') AS id, i.*," \
	" COALESCE(i.occurred_at, cdp.clock()) AS at," \
	" NULLIF(r.entry, 0) AS old_entry, r.at AS old_at, r.ctid AS place" \
	" FROM " which " AS i" \
	" LEFT JOIN cdp.attached_rows r ON r.attachment = $1 AND r.key = i.key" \
	" WHERE $4 OR r.hash IS DISTINCT FROM i.hash OR r.entry = 0)," \
	" retracted AS (" \
	" INSERT INTO cdp.events (source, type, identifiers, properties, occurred_at)" \
	" SELECT $2, 'undo', '{}', jsonb_build_object('entry', '#' || f.old_entry)," \
	" GREATEST(cdp.clock(), f.old_at)" \
	" FROM fresh f WHERE f.old_entry IS NOT NULL)," \
	" logged AS (" \
	" INSERT INTO cdp.events (id, source, type, event, identifiers, properties, occurred_at)" \
	" SELECT f.id, $2, $3, f.event, f.identifiers, f.properties, f.at FROM fresh f)," \
	" renewed AS (" \
	" UPDATE cdp.attached_rows r" \
	" SET hash = f.hash, entry = f.id, at = CASE WHEN f.at > cdp.clock() THEN f.at END" \
	" FROM fresh f WHERE r.ctid = f.place RETURNING r.entry)," \
	" kept AS (" \
	" INSERT INTO cdp.attached_rows AS r (attachment, key, hash, entry, at)" \
	" SELECT $1, f.key, f.hash, f.id, CASE WHEN f.at > cdp.clock() THEN f.at END FROM fresh f" \
	" WHERE f.id NOT IN (SELECT n.entry FROM renewed n)" \
	" ON CONFLICT (attachment, key) DO UPDATE" \
	" SET hash = excluded.hash, entry = excluded.entry, at = excluded.at)" \
	" SELECT count(*), count(f.old_entry) FROM fresh f"

static CdpStatement log_rows = {
	LOG_ROWS(ROWS_NAME),
	{ "int4", "text", "text", "bool" }
};

/* what should be a key may not be one: the earliest row counts, and it is said */
static CdpStatement log_distinct_rows = {
	LOG_ROWS("(SELECT DISTINCT ON (d.key) d.* FROM " ROWS_NAME " AS d ORDER BY d.key, d.occurred_at, d.hash)"),
	{ "int4", "text", "text", "bool" }
};

static CdpStatement count_doubles = {
	"SELECT count(*) - count(DISTINCT d.key) FROM " ROWS_NAME " AS d",
	{ NULL }
};

#define RETRACT(which, after) \
	"WITH gone AS (" \
	" DELETE FROM cdp.attached_rows r " which \
	" RETURNING r.entry, r.at, r.attachment, r.key, r.packed)," \
	" retracted AS (" \
	" INSERT INTO cdp.events (source, type, identifiers, properties, occurred_at)" \
	" SELECT $2, 'undo', '{}', jsonb_build_object('entry', '#' || g.entry)," \
	" GREATEST(cdp.clock(), g.at) FROM gone g WHERE g.entry <> 0)" after \
	" SELECT count(*) FROM gone g WHERE g.entry <> 0"

#define RETRACT_GONE "USING " GONE_NAME " AS o WHERE r.attachment = $1 AND r.key = o.key"

static CdpStatement retract_gone = {
	RETRACT(RETRACT_GONE, ""),
	{ "int4", "text" }
};

/* what a bundle has of the row must not count again: then it stays, with entry 0 */
static CdpStatement retract_packed = {
	RETRACT(RETRACT_GONE " AND (r.entry <> 0 OR NOT r.packed)",
			", marked AS (INSERT INTO cdp.attached_rows (attachment, key, hash, entry, packed)"
			" SELECT g.attachment, g.key, 0, 0, true FROM gone g WHERE g.packed)"),
	{ "int4", "text" }
};

static CdpStatement retract_others = {
	RETRACT("WHERE r.attachment = $1 AND NOT EXISTS"
			" (SELECT FROM " GONE_NAME " AS o WHERE o.key = r.key)", ""),
	{ "int4", "text" }
};

static CdpStatement retract_absent = {
	RETRACT("WHERE r.attachment = $1 AND NOT EXISTS"
			" (SELECT FROM " ROWS_NAME " AS i WHERE i.key = r.key)", ""),
	{ "int4", "text" }
};

/*
 * The same of rows whose entries may be packed: which they are, for all that are
 * not among those in a relation.
 */
#define KNOWN_BUT(which) \
	"SELECT k.key FROM cdp.known_rows($1, $2) AS k" \
	" WHERE NOT EXISTS (SELECT FROM " which " AS i WHERE i.key = k.key)"

static CdpStatement known_absent = {
	KNOWN_BUT(ROWS_NAME),
	{ "int4", "int8" }
};

static CdpStatement known_others = {
	KNOWN_BUT(GONE_NAME),
	{ "int4", "int8" }
};

/* when all rows are mapped anew, what was said of them before is out of date */
static CdpStatement forget_refused = {
	"DELETE FROM cdp.rejected WHERE source = $1 AND reason = $2 AND entry IS NULL",
	{ "text", "text" }
};

static CdpStatement refuse = {
	"INSERT INTO cdp.rejected (source, reason, detail, sqlstate, payload)"
	" VALUES ($1, $2, $3, $4, $5)",
	{ "text", "text", "text", "text", "jsonb" }
};

static void
write_refused(CdpCapture *capture, bool everything)
{
	ListCell *cell;
	Datum args[5];

	args[0] = PointerGetDatum(capture->attachment->source);
	args[1] = CStringGetTextDatum(psprintf("attachment \"%s\": row cannot be mapped",
										   capture->attachment->name));
	if (everything)
		CdpRun(&forget_refused, args, NULL);
	foreach(cell, capture->refused)
	{
		CdpRefused *one = lfirst(cell);

		args[2] = CStringGetTextDatum(one->detail);
		args[3] = CStringGetTextDatum(unpack_sql_state(one->sqlstate));
		args[4] = PointerGetDatum(one->row);
		CdpRun(&refuse, args, one->row ? NULL : "    n");
	}
}

static void
run_by_snapshot(CdpStatement *statement, Datum *args, Snapshot snapshot)
{
	int rc;

	CdpPrepare(statement);
	rc = SPI_execute_snapshot(statement->plan, args, NULL, snapshot, InvalidSnapshot, false, true, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
}

/*
 * Take rows that a statement yields for gone.
 */
static void
take_gone(CdpCapture *capture, CdpStatement *statement, Snapshot snapshot)
{
	Datum args[2] = { Int32GetDatum(capture->attachment->id), Int64GetDatum(capture->attachment->version) };
	TupleDesc desc = CdpGoneDescriptor();
	SPITupleTable *table;
	uint64 n;
	int nest_level = NewGUCNestLevel();

	/* all rows are compared with all: a plan for a few would never end */
	(void) set_config_option("enable_nestloop", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (snapshot == NULL)
		CdpRunLatest(statement, args);
	else
		run_by_snapshot(statement, args, snapshot);
	AtEOXact_GUC(true, nest_level);
	table = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		bool isnull;
		Datum key = SPI_getbinval(table->vals[i], table->tupdesc, 1, &isnull);

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(capture->gone, desc, &key, &isnull);
		capture->ngone++;
	}
	SPI_freetuptable(table);
}

/*
 * Rows that are gone.
 */
static void
write_gone(CdpCapture *capture)
{
	CdpAttachment *attachment = capture->attachment;
	Datum args[2] = { Int32GetDatum(attachment->id), PointerGetDatum(attachment->source) };

	if (capture->ngone == 0)
		return;
	if (!attachment->copy)
		CdpPackKnowGone(capture);
	CdpRunLatest(attachment->copy ? &retract_gone : &retract_packed, args);
	capture->retracted += CdpCellInt8(0, 1);
}

/*
 * Rows that are there.
 */
static void
write_rows(CdpCapture *capture)
{
	CdpAttachment *attachment = capture->attachment;
	Tuplestorestate *all = capture->rows;
	int64 n = capture->nrows;
	Datum args[4];

	if (n == 0)
		return;
	if (!attachment->copy)
		capture->rows = CdpPackNew(capture, &capture->nrows);
	if (capture->nrows > 0)
	{
		args[0] = Int32GetDatum(attachment->id);
		args[1] = PointerGetDatum(attachment->source);
		args[2] = CStringGetTextDatum(attachment->mapping->type);
		args[3] = BoolGetDatum(capture->anew);
		if (capture->rows != all)
		{
			CdpCaptureUnregister();
			CdpCaptureRegister(capture);
		}
		CdpRunLatest(capture->doubles ? &log_distinct_rows : &log_rows, args);
		capture->logged += CdpCellInt8(0, 1);
		capture->retracted += CdpCellInt8(0, 2);
	}
	if (capture->rows != all)
	{
		CdpCaptureUnregister();
		tuplestore_end(capture->rows);
		capture->rows = all;
		capture->nrows = n;
		CdpCaptureRegister(capture);
	}
}

/*
 * Rows with the key of another one, which is said.
 */
static void
refuse_doubles(CdpCapture *capture)
{
	ErrorData error = { .sqlerrcode = ERRCODE_UNIQUE_VIOLATION };
	int64 doubles;

	CdpRunLatest(&count_doubles, NULL);
	doubles = CdpCellInt8(0, 1);
	if (doubles == 0)
		return;
	error.message = psprintf("Rows with the key of another one: " INT64_FORMAT
							 "; of each key one row counts.",
							 doubles);
	CdpCaptureRefuse(capture, CurrentMemoryContext, &error, NULL);
}

/*
 * Write to the log what has been captured; with everything, rows that are in
 * it and have not been captured are gone.
 */
void
CdpCaptureWrite(CdpCapture *capture, bool everything)
{
	CdpAttachment *attachment = capture->attachment;
	CdpUserContext saved;

	CdpBecomeOwner(&saved);
	CdpCaptureRegister(capture);
	CdpRegisterRows(GONE_NAME, capture->gone, CdpGoneDescriptor(), capture->ngone);

	/* what could not be mapped stays as it was: it is not known to be gone */
	if (everything && capture->rejected == 0)
	{
		if (attachment->copy)
		{
			Datum args[2] = { Int32GetDatum(attachment->id), PointerGetDatum(attachment->source) };

			CdpRunLatest(&retract_absent, args);
			capture->retracted += CdpCellInt8(0, 1);
		}
		else
			take_gone(capture, &known_absent, NULL);
	}
	if (capture->nrows > 0 && capture->doubles)
		refuse_doubles(capture);
	CdpPinPlans();
	write_gone(capture);
	write_rows(capture);
	write_refused(capture, everything);
	CdpCaptureUnregister();
	SPI_unregister_relation(GONE_NAME);
	CdpRestoreUser(&saved);
}

/*
 * The keys of rows that are there are exchanged for those of rows that are not.
 */
static void
retract_known_others(CdpCapture *capture, Snapshot snapshot)
{
	Tuplestorestate *there = capture->gone;

	capture->gone = tuplestore_begin_heap(false, false, work_mem);
	capture->ngone = 0;
	take_gone(capture, &known_others, snapshot);
	SPI_unregister_relation(GONE_NAME);
	tuplestore_end(there);
	CdpPinPlans();
	CdpRegisterRows(GONE_NAME, capture->gone, CdpGoneDescriptor(), capture->ngone);
	write_gone(capture);
	SPI_unregister_relation(GONE_NAME);
}

/*
 * After TRUNCATE of the table or of a part of it: what is not there any more is
 * retracted.  Both statements see the same moment, as others go on writing to
 * other parts.
 */
void
CdpCaptureTruncate(CdpCapture *capture, Oid relid, const char *key)
{
	CdpAttachment *attachment = capture->attachment;
	CdpUserContext saved;
	Snapshot snapshot;
	bool empty;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (key != NULL)
	{
		char *from = psprintf("%s AS r", attachment->relation);

		capture->moment = snapshot;
		CdpCaptureKeys(capture, relid, CdpMappingKeyQuery(attachment->mapping, key, from, true));
		capture->moment = NULL;
	}
	empty = capture->rejected == 0 && capture->ngone == 0;
	CdpBecomeOwner(&saved);
	if (capture->rejected == 0)
	{
		CdpRegisterRows(GONE_NAME, capture->gone, CdpGoneDescriptor(), capture->ngone);
		if (attachment->copy)
		{
			Datum args[2] = { Int32GetDatum(attachment->id), PointerGetDatum(attachment->source) };

			run_by_snapshot(&retract_others, args, snapshot);
			capture->retracted += CdpCellInt8(0, 1);
			SPI_unregister_relation(GONE_NAME);
		}
		else
			retract_known_others(capture, snapshot);
	}
	write_refused(capture, empty);
	CdpRestoreUser(&saved);
	UnregisterSnapshot(snapshot);
}
