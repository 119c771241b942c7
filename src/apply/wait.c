/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  cdp.wait_applied(): wait until everything that was committed when it was
 *	  called has been applied.
 *
 *	  A change of the rules of identity that history has not gone through is
 *	  something to wait for, too.  cdp.wait_backfill() waits for definitions
 *	  that are being built, and for attached tables that are being loaded.
 *
 *	  Looked for is an entry that the snapshot of the call sees and that is
 *	  not in the done snapshot of the cursor.  That the cursor's snapshot is
 *	  older than ours proves nothing: the applier does not move it when there is
 *	  nothing to apply.
 *
 * IDENTIFICATION
 *	  src/apply/wait.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "apply/worker.h"
#include "cdp.h"
#include "collect/collect.h"

PG_FUNCTION_INFO_V1(cdp_wait_applied);
PG_FUNCTION_INFO_V1(cdp_wait_backfill);

/* First and longest pause between two looks, in ms. */
#define MIN_PAUSE	1
#define MAX_PAUSE	50

typedef enum Pending
{
	PENDING_NOTHING,
	PENDING_ENTRIES,
	PENDING_INACTIVE,			/* a restored log that nobody has activated */
	PENDING_UNKNOWN				/* no definition has that name */
} Pending;

/*
 * Is anything that the snapshot sees not applied?  Of incarnations other than
 * the live one every entry counts: they came with a dump.
 */
static const char *pending_sql =
"SELECT CASE"
" WHEN EXISTS (SELECT FROM cdp.rule_changes)"
" THEN 1"
" WHEN EXISTS (SELECT FROM cdp.events e"
"  WHERE e.incarnation = i.id"
"   AND e.xid >= coalesce(pg_snapshot_xmax(c.done)::text::bigint, 0)"
"   AND e.xid < pg_snapshot_xmax($1::pg_snapshot)::text::bigint"
"   AND pg_visible_in_snapshot(e.xid::text::xid8, $1::pg_snapshot))"
" THEN 1"
" WHEN c.incarnation IS NULL"
" THEN CASE WHEN EXISTS (SELECT FROM cdp.events) THEN 2 ELSE 0 END"
" WHEN EXISTS (SELECT FROM cdp.cursors o"
"  WHERE o.incarnation <> i.id"
"   AND pg_snapshot_xmin(o.done) < '9223372036854775807'::xid8)"
" THEN 1"
" WHEN EXISTS (SELECT FROM pg_snapshot_xip(c.done) x"
"  JOIN cdp.events e ON e.xid = x::text::bigint"
"  WHERE e.incarnation = i.id AND pg_visible_in_snapshot(x, $1::pg_snapshot))"
" THEN 1 ELSE 0 END"
" FROM cdp.incarnation i LEFT JOIN cdp.cursors c ON c.incarnation = i.id";

/*
 * Run a query of one row and column as the extension's owner, in a new snapshot.
 */
static char *
query_value(const char *sql, int nargs, Datum *args, const char *nulls)
{
	CdpUserContext saved;
	Oid			type = TEXTOID;
	MemoryContext context = CurrentMemoryContext;
	char	   *value = NULL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, nargs, &type, args, nulls, false, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cursor of the applier cannot be read"),
				 errdetail("Table \"cdp.incarnation\" must hold exactly one row.")));
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (value != NULL)
		value = MemoryContextStrdup(context, value);
	SPI_finish();
	CdpRestoreUser(&saved);
	return value;
}

/*
 * Is anything of that name being built, or is there anything that is?
 */
static const char *building_sql =
"SELECT CASE WHEN $1 IS NULL THEN (EXISTS (SELECT FROM cdp.backfills) OR EXISTS (SELECT FROM cdp.attachment_loads))::int"
" WHEN NOT EXISTS (SELECT FROM cdp.trait_definitions t WHERE t.name = $1 AND NOT t.hidden)"
"  AND NOT EXISTS (SELECT FROM cdp.segment_definitions s WHERE s.name = $1)"
"  AND NOT EXISTS (SELECT FROM cdp.attachment_definitions d WHERE d.name = $1) THEN 3"
" ELSE (EXISTS (SELECT FROM cdp.trait_definitions t WHERE t.name = $1 AND NOT t.hidden"
"   AND (t.id IN (SELECT g.id FROM cdp.building_traits g)"
"    OR EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait' AND b.replaces = t.id)))"
"  OR EXISTS (SELECT FROM cdp.segment_definitions s WHERE s.name = $1"
"   AND (s.id IN (SELECT w.id FROM cdp.waiting_segments w)"
"    OR EXISTS (SELECT FROM cdp.backfills b WHERE b.kind <> 'trait' AND b.id = s.id)))"
"  OR EXISTS (SELECT FROM cdp.attachment_loads l JOIN cdp.attachment_definitions d ON d.id = l.attachment"
"   WHERE d.name = $1))::int END";

/*
 * What can be waited for only in a transaction that sees others go on.
 */
static void
check_transaction(const char *what)
{
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for %s in a transaction that has written", what),
				 errhint("Commit first: what a transaction appends is applied after its commit.")));
}

/*
 * Ask until the answer is that nothing is pending; false when the time was up
 * first.
 */
static bool
wait_until(const char *sql, Datum *arg, const char *nulls, Interval *timeout)
{
	TimestampTz deadline;
	long		pause = MIN_PAUSE;

	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	for (;;)
	{
		char	   *value = query_value(sql, 1, arg, nulls);
		Pending		pending = pg_strtoint32(value);
		TimestampTz now = GetCurrentTimestamp();

		pfree(value);
		if (pending == PENDING_NOTHING)
			return true;
		if (pending == PENDING_UNKNOWN)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("neither a trait nor a segment is called \"%s\"",
							TextDatumGetCString(*arg))));
		if (pending == PENDING_INACTIVE)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("nothing is applied before this copy of the log is activated"),
					 errdetail("The log was restored from a dump and has no entry since."),
					 errhint("Run SELECT cdp.apply() or SELECT cdp.start_worker().")));
		if (now >= deadline)
			return false;

		/* Without an applier this asks the launcher for one. */
		CdpWakeNow(MyDatabaseId);
		if (CdpWakeWorkerPid(MyDatabaseId) == 0 &&
			(!CdpLauncherShared() || CdpLauncherStopped(MyDatabaseId)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("no applier runs in this database"),
					 errhint("Run SELECT cdp.apply(), or start one with SELECT cdp.start_worker().")));

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Min(pause, TimestampDifferenceMilliseconds(now, deadline) + 1),
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		pause = Min(pause * 2, MAX_PAUSE);
	}
}

/*
 * cdp.wait_applied(timeout interval) returns boolean: false when the time was
 * up first.
 */
Datum
cdp_wait_applied(PG_FUNCTION_ARGS)
{
	Datum		snapshot;

	check_transaction("entries");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdp.wait_applied() needs isolation level READ COMMITTED")));

	snapshot = CStringGetTextDatum(query_value("SELECT pg_current_snapshot()::text",
											   0, NULL, NULL));
	PG_RETURN_BOOL(wait_until(pending_sql, &snapshot, NULL, PG_GETARG_INTERVAL_P(0)));
}

/*
 * cdp.wait_backfill(name text, timeout interval) returns boolean
 */
Datum
cdp_wait_backfill(PG_FUNCTION_ARGS)
{
	Datum		name = PG_ARGISNULL(0) ? (Datum) 0 : PG_GETARG_DATUM(0);

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	check_transaction("definitions");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdp.wait_backfill() needs isolation level READ COMMITTED")));
	PG_RETURN_BOOL(wait_until(building_sql, &name, PG_ARGISNULL(0) ? "n" : NULL,
							  PG_GETARG_INTERVAL_P(1)));
}
