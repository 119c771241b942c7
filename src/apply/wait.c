/*-------------------------------------------------------------------------
 *
 * wait.c
 *	  cdp.wait_applied(): wait until everything that was committed when it was
 *	  called has been applied.
 *
 *	  A change of the rules of identity that history has not gone through is
 *	  something to wait for, too.
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

/* First and longest pause between two looks, in ms. */
#define MIN_PAUSE	1
#define MAX_PAUSE	50

typedef enum Pending
{
	PENDING_NOTHING,
	PENDING_ENTRIES,
	PENDING_INACTIVE			/* a restored log that nobody has activated */
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
query_value(const char *sql, int nargs, Datum *args)
{
	CdpUserContext saved;
	Oid			type = TEXTOID;
	MemoryContext context = CurrentMemoryContext;
	char	   *value = NULL;

	CdpBecomeOwner(&saved);
	SPI_connect();
	if (SPI_execute_with_args(sql, nargs, &type, args, NULL, false, 0) != SPI_OK_SELECT ||
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
 * cdp.wait_applied(timeout interval) returns boolean: false when the time was
 * up first.
 */
Datum
cdp_wait_applied(PG_FUNCTION_ARGS)
{
	Interval   *timeout = PG_GETARG_INTERVAL_P(0);
	TimestampTz deadline;
	Datum		snapshot;
	long		pause = MIN_PAUSE;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for entries in a transaction that has written"),
				 errhint("Commit first: what a transaction appends is applied after its commit.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cdp.wait_applied() needs isolation level READ COMMITTED")));

	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(GetCurrentTimestamp()),
													   IntervalPGetDatum(timeout)));
	snapshot = CStringGetTextDatum(query_value("SELECT pg_current_snapshot()::text",
											   0, NULL));

	for (;;)
	{
		char	   *value = query_value(pending_sql, 1, &snapshot);
		Pending		pending = pg_strtoint32(value);
		TimestampTz now = GetCurrentTimestamp();

		pfree(value);
		if (pending == PENDING_NOTHING)
			PG_RETURN_BOOL(true);
		if (pending == PENDING_INACTIVE)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("nothing is applied before this copy of the log is activated"),
					 errdetail("The log was restored from a dump and has no entry since."),
					 errhint("Run SELECT cdp.apply() or SELECT cdp.start_worker().")));
		if (now >= deadline)
			PG_RETURN_BOOL(false);

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
