/*-------------------------------------------------------------------------
 *
 * status.c
 *	  SQL functions that start and stop the applier and tell whether it runs.
 *
 * IDENTIFICATION
 *	  src/apply/status.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/wait_event.h"

#include "apply/apply.h"
#include "apply/worker.h"
#include "collect/collect.h"

PG_FUNCTION_INFO_V1(cdp_announce_worker);
PG_FUNCTION_INFO_V1(cdp_start_worker);
PG_FUNCTION_INFO_V1(cdp_stop_worker);
PG_FUNCTION_INFO_V1(cdp_worker_hint);
PG_FUNCTION_INFO_V1(cdp_worker_pid);

/* How long cdp.stop_worker() lets a batch go on, and waits in all, in ms. */
#define STOP_PATIENCE	2000
#define STOP_LIMIT		10000

static bool announce = false;

/*
 * cdp.worker_pid() returns int: the applier of this database, NULL when none.
 */
Datum
cdp_worker_pid(PG_FUNCTION_ARGS)
{
	pid_t		pid = CdpWakeWorkerPid(MyDatabaseId);

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32((int32) pid);
}

static const char *
worker_hint(void)
{
	pid_t		pid = CdpWakeWorkerPid(MyDatabaseId);

	if (pid != 0)
		return psprintf("an applier runs in this database (process %d)", (int) pid);
	if (CdpLauncherStopped(MyDatabaseId))
		return "the applier of this database was stopped: start it with "
			"SELECT cdp.start_worker(), or apply by hand with "
			"SELECT cdp.apply()";
	if (CdpLauncherShared())
		return "no applier runs in this database yet: the launcher starts one "
			"within moments, if setting cdp.databases names the database";
	return "no applier runs in this database: add cdp to "
		"shared_preload_libraries and restart the server, or start one "
		"with SELECT cdp.start_worker(), or apply by hand with "
		"SELECT cdp.apply()";
}

/*
 * cdp.worker_hint() returns text: whether an applier runs here, and how to
 * start one.
 */
Datum
cdp_worker_hint(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(worker_hint()));
}

static void
announce_at_commit(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_PRE_COMMIT && announce)
		ereport(NOTICE, (errmsg("cdp: %s", worker_hint())));
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		announce = false;
}

/*
 * cdp.announce_worker(): for the end of CREATE EXTENSION.  When it commits, the
 * launcher looks at this database, and the user is told whether an applier
 * runs: only then, because CREATE EXTENSION silences the notices of its script.
 */
Datum
cdp_announce_worker(PG_FUNCTION_ARGS)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(announce_at_commit, NULL);
	registered = true;
	announce = true;
	CdpWakeAtCommit();
	PG_RETURN_VOID();
}

/*
 * Wait until a registered applier has taken its lock; its process id.
 */
static pid_t
wait_for_start(BackgroundWorkerHandle *handle)
{
	pid_t		pid;

	switch (WaitForBackgroundWorkerStartup(handle, &pid))
	{
		case BGWH_STARTED:
		case BGWH_STOPPED:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("cannot start the applier without the postmaster")));
	}

	while (GetBackgroundWorkerPid(handle, &pid) == BGWH_STARTED)
	{
		if (CdpApplierLockHeld())
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}

	/* Another one may have been faster: then ours has left. */
	return CdpWakeWorkerPid(MyDatabaseId);
}

/*
 * cdp.start_worker() returns int: make sure that an applier runs in this
 * database, also one that was restored and has seen no live entry yet.
 */
Datum
cdp_start_worker(PG_FUNCTION_ARGS)
{
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start an applier during recovery")));

	/* Activates this incarnation of the log; the applier goes on after commit. */
	(void) CdpApplyBatch(0, true, CDP_WORK_ALL);
	CdpWakeAtCommit();

	CdpLauncherSetStopped(MyDatabaseId, false);
	pid = CdpWakeWorkerPid(MyDatabaseId);
	if (pid == 0)
	{
		if (!CdpApplierRegister(MyDatabaseId, MyDatabaseTableSpace,
								!CdpLauncherShared(), &handle))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not start an applier: no background worker slot is free"),
					 errhint("Increase max_worker_processes.")));
		pid = wait_for_start(handle);
	}
	if (pid == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the applier has started and ended at once"),
				 errhint("A template database cannot have one, nor a database whose CREATE EXTENSION is not committed; the server log may say more.")));
	PG_RETURN_INT32((int32) pid);
}

/*
 * cdp.stop_worker() returns boolean: whether there was an applier to stop.
 * The launcher starts none here until cdp.start_worker() or a restart of the
 * server.
 */
Datum
cdp_stop_worker(PG_FUNCTION_ARGS)
{
	bool		running = CdpWakeWorkerPid(MyDatabaseId) != 0;

	CdpLauncherSetStopped(MyDatabaseId, true);
	if (!CdpApplierAsk(MyDatabaseId, STOP_PATIENCE, STOP_LIMIT))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the applier has not stopped within %d s", STOP_LIMIT / 1000),
				 errhint("It stops as soon as it can.")));
	PG_RETURN_BOOL(running);
}
