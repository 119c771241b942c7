/*-------------------------------------------------------------------------
 *
 * wake.c
 *	  Waking the applier when entries have been committed.
 *
 *	  The applier of a database is found without shared memory of our own, so
 *	  that it works the same whether or not the library is preloaded: it is
 *	  the background worker of type CDP_APPLIER_TYPE whose PGPROC names the
 *	  database.  Its PGPROC is remembered and checked by pid and database,
 *	  which costs a few nanoseconds; only when that fails is the array of
 *	  processes searched, and at most every RETRY_INTERVAL when the search
 *	  finds nobody.
 *
 *	  Everything that runs at commit must not raise an error: the transaction
 *	  is already committed then.  Setting the latch of a process that has just
 *	  exited, or of another that has taken its place, is harmless: a latch
 *	  says "look", and everybody who waits for one looks.
 *
 * IDENTIFICATION
 *	  src/collect/wake.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timestamp.h"

#include "collect/collect.h"
#include "compat.h"

/* How long the finding that a database has no applier holds good, in us. */
#define RETRY_INTERVAL	(100 * INT64CONST(1000))

CdpWakeNobodyHookType CdpWakeNobodyHook = NULL;

static bool callback_registered = false;
static bool wake_pending = false;

/* The applier that was found last, for cached_dboid. */
static Oid	cached_dboid = InvalidOid;
static pid_t cached_pid = 0;
static PGPROC *cached_proc = NULL;

/* When a commit last found that this database has no applier. */
static TimestampTz nobody_at = 0;

/*
 * The process that lives in a PGPROC, 0 when none does.  Its latch tells: a
 * PGPROC keeps the pid of a process that has ended.
 */
static inline pid_t
living_pid(PGPROC *proc)
{
	return proc->procLatch.owner_pid;
}

/*
 * Search the array of processes for the applier of a database.  Fields of
 * other processes are read without a lock: each is one word, and whatever is
 * read may be outdated the moment after in any case.
 */
static PGPROC *
search_applier(Oid dboid, pid_t *pid)
{
	uint32		i;

	for (i = 0; i < ProcGlobal->allProcCount; i++)
	{
		PGPROC	   *proc = &ProcGlobal->allProcs[i];
		pid_t		procpid = living_pid(proc);
		const char *type;

		if (procpid == 0 || proc->databaseId != dboid ||
			!CdpProcIsBackgroundWorker(proc))
			continue;
		type = GetBackgroundWorkerTypeByPid(procpid);
		if (type != NULL && strcmp(type, CDP_APPLIER_TYPE) == 0)
		{
			*pid = procpid;
			return proc;
		}
	}
	return NULL;
}

/*
 * The applier of a database, from the cache when that is still right.
 */
static PGPROC *
find_applier(Oid dboid)
{
	if (dboid == cached_dboid && cached_proc != NULL &&
		living_pid(cached_proc) == cached_pid &&
		cached_proc->databaseId == dboid)
		return cached_proc;

	cached_dboid = dboid;
	cached_proc = search_applier(dboid, &cached_pid);
	return cached_proc;
}

/*
 * The transaction has ended.  A prepared transaction wakes nobody: who
 * commits it may be another session, so its entries wait for cdp.naptime.
 * An entry that a subtransaction took back may wake the applier for nothing.
 */
static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_pending)
			{
				wake_pending = false;
				if (nobody_at == 0 ||
					GetCurrentTimestamp() >= nobody_at + RETRY_INTERVAL)
				{
					CdpWakeNow(MyDatabaseId);
					nobody_at = cached_proc != NULL ? 0 : GetCurrentTimestamp();
				}
			}
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_pending = false;
			break;
		default:
			break;
	}
}

/*
 * Wake the applier of this database once this transaction has committed.
 */
void
CdpWakeAtCommit(void)
{
	if (wake_pending)
		return;
	if (!callback_registered)
	{
		RegisterXactCallback(xact_callback, NULL);
		callback_registered = true;
	}
	wake_pending = true;
}

/*
 * Set the latch of a database's applier, or tell the launcher that there is
 * none.
 */
void
CdpWakeNow(Oid dboid)
{
	PGPROC	   *proc = find_applier(dboid);

	if (proc != NULL)
		SetLatch(&proc->procLatch);
	else if (CdpWakeNobodyHook != NULL)
		CdpWakeNobodyHook(dboid);
}

/*
 * The process id of the applier of a database; 0 when there is none.
 */
pid_t
CdpWakeWorkerPid(Oid dboid)
{
	return find_applier(dboid) != NULL ? cached_pid : 0;
}
