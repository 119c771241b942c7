/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Starts an applier in every database that has the extension.
 *
 *	  The launcher is connected to no database, so it cannot see who has the
 *	  extension.  It starts an applier in each database once, and the ones
 *	  that find no extension leave at once.  After that it starts one only when
 *	  somebody asks: CREATE EXTENSION and every commit of entries that finds
 *	  no applier do, through shared memory.  New rows of pg_database are
 *	  looked for every SCAN_INTERVAL.  README.worker.md has the state machine.
 *
 *	  Shared memory holds a slot for each database that has an applier, a
 *	  request, or a reason not to have one.  Slots, not handles, say who runs,
 *	  so a restarted launcher adopts the appliers of the one before it.
 *
 *	  Commands that need a database without connections (DROP DATABASE,
 *	  CREATE DATABASE … TEMPLATE, ALTER DATABASE RENAME and SET TABLESPACE)
 *	  are preceded by asking the applier to leave; the hold on the database
 *	  ends with the command's transaction.
 *
 * IDENTIFICATION
 *	  src/apply/launcher.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "apply/apply.h"
#include "apply/worker.h"
#include "cdp.h"
#include "collect/collect.h"
#include "compat.h"

/* How often pg_database is looked at unasked, in us. */
#define SCAN_INTERVAL	(60 * INT64CONST(1000000))

/* Pauses before an applier that died is started again, in ms. */
#define MIN_PAUSE		1000
#define MAX_PAUSE		60000

/* An applier that has lived this long has recovered from its deaths, in us. */
#define LONG_LIFE		(60 * INT64CONST(1000000))

/* How long a command waits for an applier to leave, in ms. */
#define ASK_PATIENCE	1000
#define ASK_LIMIT		4000

/* Seconds after which the postmaster restarts the launcher. */
#define RESTART_TIME	5

/* Databases that one transaction may hold free of appliers. */
#define MAX_HELD		8

typedef struct DatabaseSlot
{
	Oid			dboid;			/* InvalidOid: the slot is free */
	pid_t		pid;			/* the applier, 0: none */
	int			holds;			/* commands that need the database empty */
	bool		stopped;		/* by cdp.stop_worker() */
	bool		wanted;			/* somebody asks for an applier */
	CdpApplierExit last_exit;	/* why the last applier left */
} DatabaseSlot;

typedef struct LauncherShared
{
	LWLock	   *lock;			/* protects everything here */
	Latch	   *launcher;		/* its latch, NULL while there is none */
	bool		rescan;			/* look at all databases */
	int			nslots;
	DatabaseSlot slots[FLEXIBLE_ARRAY_MEMBER];
} LauncherShared;

static LauncherShared *shared = NULL;

static shmem_request_hook_type previous_shmem_request = NULL;
static shmem_startup_hook_type previous_shmem_startup = NULL;
static ProcessUtility_hook_type previous_utility = NULL;

/* What the launcher knows of a database. */
typedef enum DatabaseState
{
	DATABASE_QUIET,				/* nothing to do until somebody asks */
	DATABASE_DUE,				/* to be started at next_start */
	DATABASE_STARTING,			/* registered, has not taken its slot yet */
	DATABASE_RUNNING
} DatabaseState;

typedef struct Database
{
	Oid			oid;
	Oid			tablespace;
	DatabaseState state;
	bool		allowed;		/* by cdp.databases, and it takes connections */
	bool		seen;			/* in this scan of pg_database */
	BackgroundWorkerHandle *handle; /* NULL when started by somebody else */
	CdpApplierExit last_exit;	/* why its applier has given its slot up */
	int			deaths;			/* in a row */
	TimestampTz started_at;
	TimestampTz next_start;
} Database;

/* The launcher's own state, in TopMemoryContext. */
static List *databases = NIL;	/* of Database * */
static bool no_worker_logged = false;

/* Databases that this transaction holds free of appliers. */
static Oid	held[MAX_HELD];
static int	nheld = 0;
static bool created_database = false;

/* ---- shared memory ---- */

static int
slot_count(void)
{
	return Max(max_worker_processes * 4, 16);
}

static Size
shared_size(void)
{
	return add_size(offsetof(LauncherShared, slots),
					mul_size(slot_count(), sizeof(DatabaseSlot)));
}

static void
shmem_request(void)
{
	if (previous_shmem_request)
		previous_shmem_request();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("cdp_launcher", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (previous_shmem_startup)
		previous_shmem_startup();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("cdp launcher", shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->lock = &(GetNamedLWLockTranche("cdp_launcher"))->lock;
		shared->nslots = slot_count();
	}
	LWLockRelease(AddinShmemInitLock);
}

bool
CdpLauncherShared(void)
{
	return shared != NULL;
}

/*
 * The slot of a database; makes one when asked to.  NULL when there is none,
 * then the launcher looks at all databases instead.  Needs the lock, and
 * must not raise errors.
 */
static DatabaseSlot *
find_slot(Oid dboid, bool make)
{
	DatabaseSlot *empty = NULL;
	int			i;

	for (i = 0; i < shared->nslots; i++)
	{
		DatabaseSlot *slot = &shared->slots[i];

		if (slot->dboid == dboid)
			return slot;
		if (slot->dboid == InvalidOid && empty == NULL)
			empty = slot;
	}
	if (!make)
		return NULL;
	if (empty == NULL)
	{
		shared->rescan = true;
		return NULL;
	}
	memset(empty, 0, sizeof(*empty));
	empty->dboid = dboid;
	return empty;
}

static void
wake_launcher(void)
{
	if (shared->launcher != NULL)
		SetLatch(shared->launcher);
}

/*
 * Entries were committed in a database that has no applier.
 */
static void
nobody_there(Oid dboid)
{
	DatabaseSlot *slot;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid, true);
	if (slot != NULL)
		slot->wanted = true;
	wake_launcher();
	LWLockRelease(shared->lock);
}

/*
 * An applier takes its slot; false when the database is to have none.
 */
bool
CdpLauncherAttach(void)
{
	DatabaseSlot *slot;
	bool		welcome = true;

	if (shared == NULL)
		return true;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(MyDatabaseId, true);
	if (slot != NULL)
	{
		slot->pid = MyProcPid;
		slot->last_exit = CDP_EXIT_UNKNOWN;
		slot->wanted = false;
		welcome = slot->holds == 0 && !slot->stopped;
	}
	wake_launcher();
	LWLockRelease(shared->lock);
	return welcome;
}

/*
 * An applier gives its slot up, and says why.
 */
void
CdpLauncherDetach(CdpApplierExit reason)
{
	DatabaseSlot *slot;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(MyDatabaseId, false);
	if (slot != NULL && slot->pid == MyProcPid)
	{
		slot->pid = 0;
		slot->last_exit = reason;
	}
	wake_launcher();
	LWLockRelease(shared->lock);
}

/*
 * cdp.stop_worker() and cdp.start_worker(): whether the launcher may start an
 * applier here.
 */
void
CdpLauncherSetStopped(Oid dboid, bool stopped)
{
	DatabaseSlot *slot;

	if (shared == NULL)
		return;
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid, true);
	if (slot != NULL)
		slot->stopped = stopped;
	LWLockRelease(shared->lock);
	if (slot == NULL && stopped)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no slot left to remember that the applier is stopped"),
				 errhint("Increase max_worker_processes.")));
}

/*
 * Was the applier of a database stopped by cdp.stop_worker()?
 */
bool
CdpLauncherStopped(Oid dboid)
{
	DatabaseSlot *slot;
	bool		stopped;

	if (shared == NULL)
		return false;
	LWLockAcquire(shared->lock, LW_SHARED);
	slot = find_slot(dboid, false);
	stopped = slot != NULL && slot->stopped;
	LWLockRelease(shared->lock);
	return stopped;
}

/* ---- commands that need a database without connections ---- */

/*
 * The transaction ends: appliers may come back, and a new database may
 * have brought the extension along from its template.
 */
static void
release_holds(XactEvent event, void *arg)
{
	int			i;

	if ((event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT) ||
		(nheld == 0 && !created_database))
		return;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (i = 0; i < nheld; i++)
	{
		DatabaseSlot *slot = find_slot(held[i], false);

		if (slot != NULL && slot->holds > 0)
		{
			slot->holds--;
			slot->wanted = true;
		}
	}
	if (created_database)
		shared->rescan = true;
	wake_launcher();
	LWLockRelease(shared->lock);
	nheld = 0;
	created_database = false;
}

/*
 * Have release_holds() called when the transaction ends.
 */
static void
watch_transaction(void)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(release_holds, NULL);
	registered = true;
}

/*
 * Ask the applier of a database to leave, and keep the launcher from starting
 * another until this transaction ends.
 */
static void
hold_database(const char *name)
{
	Oid			dboid = name ? get_database_oid(name, true) : InvalidOid;
	DatabaseSlot *slot;

	/* Who may not run the command may not disturb the applier either. */
	if (!OidIsValid(dboid) || dboid == MyDatabaseId || nheld >= MAX_HELD ||
		!CdpDatabaseOwnercheck(dboid, GetUserId()))
		return;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(dboid, true);
	if (slot != NULL)
	{
		watch_transaction();
		slot->holds++;
		held[nheld++] = dboid;
	}
	LWLockRelease(shared->lock);

	(void) CdpApplierAsk(dboid, ASK_PATIENCE, ASK_LIMIT);
}

static char *
string_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;

	if (shared != NULL)
		switch (nodeTag(stmt))
		{
			case T_DropdbStmt:
				hold_database(((DropdbStmt *) stmt)->dbname);
				break;
			case T_CreatedbStmt:
				hold_database(string_option(((CreatedbStmt *) stmt)->options,
											"template"));
				watch_transaction();
				created_database = true;
				break;
			case T_RenameStmt:
				if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
					hold_database(((RenameStmt *) stmt)->subname);
				break;
			case T_AlterDatabaseStmt:
				if (string_option(((AlterDatabaseStmt *) stmt)->options,
								  "tablespace") != NULL)
					hold_database(((AlterDatabaseStmt *) stmt)->dbname);
				break;
			default:
				break;
		}

	if (previous_utility)
		previous_utility(pstmt, query, read_only_tree, context, params, env,
						 dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params,
								env, dest, qc);
}

/* ---- the launcher ---- */

/*
 * Does cdp.databases name this database?
 */
static bool
is_listed(const char *name)
{
	char	   *copy = pstrdup(cdp_databases ? cdp_databases : "");
	List	   *names;
	ListCell   *lc;
	bool		listed = false;

	if (!SplitIdentifierString(copy, ',', &names))
		return false;
	foreach(lc, names)
	{
		const char *item = lfirst(lc);

		if (strcmp(item, "*") == 0 || strcmp(item, name) == 0)
			listed = true;
	}
	return listed;
}

static Database *
find_database(Oid oid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);

		if (db->oid == oid)
			return db;
	}
	return NULL;
}

/*
 * Bring the list of databases up to date.  A database that is new here, or
 * newly allowed, is due.
 */
static void
scan_databases(MemoryContext context)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;
	int			i;

	foreach(lc, databases)
		((Database *) lfirst(lc))->seen = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		Database   *db = find_database(form->oid);
		bool		allowed;

		/* datconnlimit -2 marks what an interrupted DROP DATABASE has left. */
		allowed = form->datallowconn && !form->datistemplate &&
			form->datconnlimit != -2 && is_listed(NameStr(form->datname));
		if (db == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			db = palloc0(sizeof(Database));
			db->oid = form->oid;
			databases = lappend(databases, db);
			MemoryContextSwitchTo(old);
		}
		if (allowed && !db->allowed && db->state == DATABASE_QUIET)
		{
			db->state = DATABASE_DUE;
			db->next_start = 0;
		}
		db->allowed = allowed;
		db->tablespace = form->dattablespace;
		db->seen = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	foreach(lc, databases)
	{
		Database   *db = lfirst(lc);

		if (db->seen)
			continue;
		databases = foreach_delete_current(databases, lc);
		if (db->handle)
			pfree(db->handle);
		pfree(db);
	}

	/* Requests for databases that are gone are void. */
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (i = 0; i < shared->nslots; i++)
	{
		DatabaseSlot *slot = &shared->slots[i];

		if (OidIsValid(slot->dboid) && slot->pid == 0 && slot->holds == 0 &&
			find_database(slot->dboid) == NULL)
			slot->dboid = InvalidOid;
	}
	LWLockRelease(shared->lock);
}

/*
 * Register the applier of a database.
 */
static void
start_applier(Database *db, TimestampTz now)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered;

	db->handle = NULL;
	db->last_exit = CDP_EXIT_UNKNOWN;
	registered = CdpApplierRegister(db->oid, db->tablespace, false, &db->handle);
	MemoryContextSwitchTo(old);

	if (registered)
	{
		db->state = DATABASE_STARTING;
		db->started_at = now;
		no_worker_logged = false;
		return;
	}
	if (!no_worker_logged)
		ereport(LOG,
				(errmsg("cdp launcher could not start an applier: no background worker slot is free"),
				 errhint("Increase max_worker_processes.")));
	no_worker_logged = true;
	db->next_start = now + MAX_PAUSE / 6 * INT64CONST(1000);
}

/*
 * The applier of a database has ended.
 */
static void
applier_ended(Database *db, TimestampTz now)
{
	CdpApplierExit reason = db->last_exit;
	double		pause;

	db->last_exit = CDP_EXIT_UNKNOWN;

	if (db->handle)
		pfree(db->handle);
	db->handle = NULL;
	if (reason != CDP_EXIT_UNKNOWN)
	{
		db->state = DATABASE_QUIET;
		db->deaths = 0;
		return;
	}

	/* The postmaster has logged the death. */
	if (now - db->started_at > LONG_LIFE)
		db->deaths = 0;
	pause = (double) MIN_PAUSE * (1 << Min(db->deaths, 6));
	pause = Min(pause, MAX_PAUSE);
	pause *= 0.75 + 0.5 * pg_prng_double(&pg_global_prng_state);
	db->deaths++;
	db->state = DATABASE_DUE;
	db->next_start = now + (int64) (pause * 1000);
}

/*
 * Compare a database with its slot, and move it to its next state.  Returns
 * when it wants to be looked at again without being asked.
 */
static TimestampTz
advance_database(Database *db, bool *starting, TimestampTz now)
{
	DatabaseSlot copy;
	DatabaseSlot *slot;
	pid_t		pid;

	memset(&copy, 0, sizeof(copy));
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	slot = find_slot(db->oid, false);
	if (slot != NULL)
	{
		copy = *slot;
		slot->wanted = false;
		slot->last_exit = CDP_EXIT_UNKNOWN;
		/* Free what says nothing any more. */
		if (slot->pid == 0 && slot->holds == 0 && !slot->stopped)
			slot->dboid = InvalidOid;
	}
	LWLockRelease(shared->lock);

	if (copy.last_exit != CDP_EXIT_UNKNOWN)
		db->last_exit = copy.last_exit;
	if (copy.pid != 0)
	{
		if (db->state != DATABASE_RUNNING && db->handle == NULL)
			db->started_at = now;	/* started by somebody else */
		db->state = DATABASE_RUNNING;
		if (!db->allowed && db->handle != NULL)
			(void) kill(copy.pid, SIGUSR2);
		return DT_NOEND;
	}

	if (db->state == DATABASE_RUNNING ||
		(db->state == DATABASE_STARTING &&
		 GetBackgroundWorkerPid(db->handle, &pid) == BGWH_STOPPED))
		applier_ended(db, now);

	if (copy.wanted && db->state == DATABASE_QUIET)
	{
		db->state = DATABASE_DUE;
		db->next_start = 0;
	}

	switch (db->state)
	{
		case DATABASE_STARTING:
			*starting = true;
			return DT_NOEND;
		case DATABASE_DUE:
			if (!db->allowed || copy.stopped || copy.holds > 0)
			{
				/* start_worker() and the end of the hold ask again */
				db->state = DATABASE_QUIET;
				return DT_NOEND;
			}
			if (db->next_start > now)
				return db->next_start;
			/* One after the other: most may find nothing to do and leave. */
			if (*starting)
				return DT_NOEND;
			start_applier(db, now);
			*starting = db->state == DATABASE_STARTING;
			return *starting ? DT_NOEND : db->next_start;
		default:
			return DT_NOEND;
	}
}

/*
 * Is a request open for a database that the list does not have, or is a scan
 * asked for?
 */
static bool
scan_needed(void)
{
	bool		needed;
	int			i;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	needed = shared->rescan;
	shared->rescan = false;
	for (i = 0; i < shared->nslots && !needed; i++)
		needed = OidIsValid(shared->slots[i].dboid) &&
			(shared->slots[i].wanted || shared->slots[i].pid != 0) &&
			find_database(shared->slots[i].dboid) == NULL;
	LWLockRelease(shared->lock);
	return needed;
}

static void
launcher_exit(int code, Datum arg)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher = NULL;
	LWLockRelease(shared->lock);
}

void
cdp_launcher_main(Datum main_arg)
{
	MemoryContext context;
	TimestampTz next_scan = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	SetConfigOption("application_name", "cdp launcher", PGC_SUSET, PGC_S_OVERRIDE);

	before_shmem_exit(launcher_exit, (Datum) 0);
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	shared->launcher = MyLatch;
	LWLockRelease(shared->lock);

	context = AllocSetContextCreate(TopMemoryContext, "cdp launcher",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next;
		bool		starting = false;
		ListCell   *lc;

		if (scan_needed() || now >= next_scan)
		{
			pgstat_report_activity(STATE_RUNNING, "looking for databases");
			scan_databases(context);
			next_scan = now + SCAN_INTERVAL;
			pgstat_report_activity(STATE_IDLE, NULL);
		}

		/* What is starting already goes first: it holds the others back. */
		foreach(lc, databases)
			if (((Database *) lfirst(lc))->state == DATABASE_STARTING)
				(void) advance_database(lfirst(lc), &starting, now);
		next = next_scan;
		foreach(lc, databases)
		{
			Database   *db = lfirst(lc);

			next = Min(next, advance_database(db, &starting, now));
		}
		MemoryContextReset(context);

		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next) + 1,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			next_scan = 0;
		}
	}
}

/*
 * When the library is preloaded: shared memory, hooks, and the launcher.
 */
void
CdpLauncherInit(void)
{
	BackgroundWorker worker;

	previous_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	previous_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	CdpWakeNobodyHook = nobody_there;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_TIME;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "cdp");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "cdp_launcher_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "cdp launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "cdp launcher");
	RegisterBackgroundWorker(&worker);
}
