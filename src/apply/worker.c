/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  The applier of one database as a background worker.
 *
 *	  It sleeps on MyLatch, which whoever commits entries sets (collect/wake.c),
 *	  for cdp.naptime or until the next timer is due, and then applies batches,
 *	  each in a transaction of its own, until nothing is left.  While it sleeps
 *	  no transaction is open.
 *
 *	  Errors do not end it: the transaction is rolled back, the error is
 *	  logged once, and the next attempt takes half as many entries, until the
 *	  one that raises it is alone and is put aside (isolate.c).  When it is not
 *	  an entry's doing the error is kept in cdp.applier, and attempts follow
 *	  after a pause that doubles up to MAX_PAUSE.
 *
 *	  It leaves with exit code 0 (never to be restarted by the postmaster) when
 *	  the database does not have the extension, when another applier is there
 *	  already, and when it is asked to by SIGUSR2.  SIGTERM ends it with exit
 *	  code 1, as every background worker.
 *
 * IDENTIFICATION
 *	  src/apply/worker.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <sys/stat.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/extension.h"
#include "common/pg_prng.h"
#include "common/relpath.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "apply/apply.h"
#include "apply/crash.h"
#include "apply/isolate.h"
#include "apply/worker.h"
#include "cdp.h"
#include "collect/collect.h"
#include "compat.h"
#include "statement.h"

/* Session lock of the applier of a database; see CDP_LOCK_CLASS in catalog.c. */
#define APPLIER_LOCK_CLASS	0xCD02

/* Pauses after errors, in ms: the first one, and the longest. */
#define MIN_PAUSE		100
#define MAX_PAUSE		60000

/* The same error is logged again after so long, in ms. */
#define LOG_AGAIN 600000

/* How often partitions are made ahead, and again after it failed, in us. */
#define PARTITIONS_EVERY	(24 * USECS_PER_HOUR)
#define PARTITIONS_RETRY	USECS_PER_HOUR

/* Pause in ms when no rows of attached relations could be logged. */
#define LOAD_RETRY		1000

/* How often a new applier tries to take its lock, every 20 ms. */
#define LOCK_ATTEMPTS	25

/* Seconds after which the postmaster restarts an applier without launcher. */
#define RESTART_TIME	5

/* What the loop remembers from turn to turn. */
typedef struct ApplierState
{
	CdpNarrowing narrow;		/* what the next batch may do */
	int			errors;			/* since it last worked */
	int			aside;			/* entries put aside since then */
	int			failures;		/* in a row, of what cannot be narrowed */
	TimestampTz retry_at;		/* no attempt before */
	int			history_failures;
	TimestampTz history_at;		/* no step of history before */
	char	   *last_error;		/* the one that was logged, in TopMemoryContext */
	TimestampTz logged_at;
	bool		logged;			/* since it last worked */
	bool		mismatch_logged;
	TimestampTz next_timer;
	TimestampTz partitions_at;	/* when to make partitions next */
	TimestampTz synchronised_at;	/* when attached relations were looked at */
	bool		loading;		/* rows of one may wait for being logged ... */
	TimestampTz load_at;		/* ... the next ones not before */
} ApplierState;

static bool detached = false;
static char database_name[NAMEDATALEN];

static void
applier_session_tag(LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, 0, APPLIER_LOCK_CLASS);
}

/*
 * Is there an applier that has got as far as taking its lock?
 */
bool
CdpApplierLockHeld(void)
{
	LOCKTAG		tag;

	applier_session_tag(&tag);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, ExclusiveLock, true);
	return false;
}

/*
 * Register the applier of a database with the postmaster.  With restart the
 * postmaster restarts it after a crash (without launcher), else the launcher
 * does.  False when max_worker_processes is exhausted.
 */
bool
CdpApplierRegister(Oid dboid, Oid tablespace, bool restart,
				   BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS |
		BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = restart ? RESTART_TIME : BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "cdp");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "cdp_applier_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "cdp applier of database %u", dboid);
	snprintf(worker.bgw_type, BGW_MAXLEN, CDP_APPLIER_TYPE);
	worker.bgw_main_arg = ObjectIdGetDatum(dboid);
	memcpy(worker.bgw_extra, &tablespace, sizeof(Oid));
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * Ask the applier of a database to leave: by SIGUSR2, which lets it finish
 * its batch, and after patience_ms also by cancelling the batch.  Waits up to
 * limit_ms; true when there is none (any more).
 */
bool
CdpApplierAsk(Oid dboid, int patience_ms, int limit_ms)
{
	TimestampTz start = GetCurrentTimestamp();
	pid_t		asked = 0;
	bool		cancelled = false;

	for (;;)
	{
		pid_t		pid = CdpWakeWorkerPid(dboid);
		TimestampTz now = GetCurrentTimestamp();

		if (pid == 0)
			return true;
		if (pid != asked)
		{
			(void) kill(pid, SIGUSR2);
			asked = pid;
			cancelled = false;
		}
		if (!cancelled &&
			TimestampDifferenceExceeds(start, now, patience_ms))
		{
			(void) kill(pid, SIGINT);
			cancelled = true;
		}
		if (TimestampDifferenceExceeds(start, now, limit_ms))
			return false;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 10L, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * The process ends: tell the launcher why.
 */
static void
leave_slot(int code, Datum arg)
{
	CdpCrashForget();
	if (!detached)
		CdpLauncherDetach(CDP_EXIT_UNKNOWN);
}

static void
leave(CdpApplierExit reason)
{
	detached = true;
	CdpLauncherDetach(reason);
	proc_exit(0);
}

/*
 * Is the directory of the database gone?  A worker that the postmaster
 * restarts after a crash may find its database dropped; connecting would be
 * FATAL, exit code 1, and the next restart, for ever.
 */
static bool
database_gone(Oid dboid, Oid tablespace)
{
	char	   *path = GetDatabasePath(dboid, tablespace);
	struct stat st;
	bool		gone = stat(path, &st) != 0 && errno == ENOENT;

	pfree(path);
	return gone;
}

/*
 * Tell whose errors these are.
 */
static void
error_context(void *arg)
{
	errcontext("cdp applier of database \"%s\"", database_name);
}

/*
 * May this database have an applier?  Templates may not: nobody could copy
 * them while it is connected.
 */
static bool
database_allowed(void)
{
	HeapTuple	tuple;
	bool		allowed = false;

	StartTransactionCommand();
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(MyDatabaseId));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		strlcpy(database_name, NameStr(form->datname), NAMEDATALEN);
		allowed = form->datallowconn && !form->datistemplate;
		ReleaseSysCache(tuple);
	}
	CommitTransactionCommand();
	return allowed;
}

/*
 * Run one statement as the extension's owner, in the current transaction.
 */
static bool
run_as_owner(const char *sql, int nargs, Oid *types, Datum *values)
{
	CdpUserContext saved;
	bool		rows;
	int			rc;

	PushActiveSnapshot(GetTransactionSnapshot());
	CdpBecomeOwner(&saved);
	SPI_connect();
	rc = SPI_execute_with_args(sql, nargs, types, values, NULL, false, 1);
	if (rc < 0)
		elog(ERROR, "could not run \"%s\": %s", sql,
			 SPI_result_code_string(rc));
	rows = SPI_processed > 0;
	SPI_finish();
	CdpRestoreUser(&saved);
	PopActiveSnapshot();
	return rows;
}

/*
 * Keep the error that a batch has met, in a transaction of its own.
 */
static void
record_error(ApplierState *state)
{
	Oid			type = TEXTOID;
	Datum		value = CStringGetTextDatum(state->last_error);
	char	   *version;

	StartTransactionCommand();
	if (CdpLockExtension(&version) == CDP_EXTENSION_READY)
		(void) run_as_owner("INSERT INTO cdp.applier AS a (errors, last_error, last_error_at)"
							" VALUES (1, $1, clock_timestamp())"
							" ON CONFLICT (one) DO UPDATE SET errors = a.errors + 1,"
							" last_error = excluded.last_error,"
							" last_error_at = excluded.last_error_at",
							1, &type, &value);
	CommitTransactionCommand();
}

/*
 * Make partitions ahead, and remove changes that nobody needs and that are
 * older than cdp.change_retention, in a transaction of its own.  Not before this
 * incarnation of the log is active: a restore may still be bringing its own.
 */
static void
make_partitions(ApplierState *state)
{
	char	   *version;

	state->partitions_at = GetCurrentTimestamp() + PARTITIONS_RETRY;
	StartTransactionCommand();
	if (CdpLockExtension(&version) == CDP_EXTENSION_READY)
	{
		pgstat_report_activity(STATE_RUNNING, "looking after partitions");
		if (!run_as_owner("SELECT FROM cdp.cursors c"
						  " JOIN cdp.incarnation i ON c.incarnation = i.id",
						  0, NULL, NULL))
			state->partitions_at = 0;
		else
		{
			(void) run_as_owner("SELECT cdp.make_partitions(),"
								" cdp.make_change_partitions(),"
								" cdp.trim_changes(),"
								" cdp.drop_expired_partitions()",
								0, NULL, NULL);
			state->partitions_at = GetCurrentTimestamp() + PARTITIONS_EVERY;
		}
	}
	CommitTransactionCommand();
}

/*
 * Look at the attached relations that no trigger watches, and at those whose
 * triggers are not what they should be, each in a transaction of its own: the
 * locks and the snapshot of one are gone when the next is compared.  What goes
 * wrong with one of them is recorded with it and stops nothing.
 */
static void
synchronise_attachments(ApplierState *state)
{
	char	   *version;
	Oid			type = TIMESTAMPTZOID;
	Datum		since;
	bool		more;

	state->synchronised_at = GetCurrentTimestamp();
	since = TimestampTzGetDatum(state->synchronised_at);
	do
	{
		more = false;
		StartTransactionCommand();
		if (CdpLockExtension(&version) == CDP_EXTENSION_READY)
		{
			pgstat_report_activity(STATE_RUNNING, "synchronising attached relations");
			more = run_as_owner("SELECT FROM cdp.sync_attachments(true, $1)",
								1, &type, &since);
		}
		CommitTransactionCommand();
	} while (more);
}

/*
 * Log the next of the rows that large tables had when they were attached, in a
 * transaction of its own.
 */
static void
load_attachments(ApplierState *state)
{
	int			rows = cdp_batch_size;
	Oid			type = INT4OID;
	Datum		value;
	char	   *version;
	bool		some = false;
	double		pause = LOAD_RETRY;

	state->load_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOAD_RETRY);
	StartTransactionCommand();
	if (CdpLockExtension(&version) == CDP_EXTENSION_READY)
	{
		if (cdp_backfill_rate > 0)
			rows = Min(rows, cdp_backfill_rate);
		value = Int32GetDatum(rows);
		pgstat_report_activity(STATE_RUNNING, "logging rows of attached relations");
		some = run_as_owner("SELECT FROM cdp.load_attachments($1, true) l"
							" HAVING bool_or(l.error IS NULL)",
							1, &type, &value);
	}
	CommitTransactionCommand();
	if (some)
		pause = cdp_backfill_rate > 0 ? rows * 1000.0 / cdp_backfill_rate : 0;
	state->load_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) pause);
}

/*
 * How long to wait after so many failures, in ms.
 */
static int64
pause_after(int failures)
{
	double		pause = MIN_PAUSE;

	pause *= (double) (INT64CONST(1) << Min(failures, 20));
	pause = Min(pause, MAX_PAUSE);
	return (int64) (pause * (0.75 + 0.5 * pg_prng_double(&pg_global_prng_state)));
}

/*
 * A batch has failed: roll back, log what is new, and set the next attempt: at
 * once when it is narrower, else after a pause.
 */
static void
recover(ApplierState *state, MemoryContext context)
{
	ErrorData  *error;
	TimestampTz now = GetCurrentTimestamp();

	HOLD_INTERRUPTS();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();

	/* Being asked to leave may have cancelled the batch: nothing to log. */
	if (!ShutdownRequestPending &&
		(state->last_error == NULL ||
		 strcmp(state->last_error, error->message) != 0 ||
		 TimestampDifferenceExceeds(state->logged_at, now, LOG_AGAIN)))
	{
		EmitErrorReport();
		state->logged_at = now;
		state->logged = true;
	}
	AbortOutOfAnyTransaction();
	FlushErrorState();
	MemoryContextSwitchTo(context);
	CdpCrashOver(false);
	RESUME_INTERRUPTS();

	if (ShutdownRequestPending)
		leave(CDP_EXIT_ASKED);

	if (state->last_error != NULL)
		pfree(state->last_error);
	state->last_error = MemoryContextStrdup(TopMemoryContext, error->message);

	state->errors++;
	switch (CdpNarrowFailed(&state->narrow, error))
	{
		case CDP_FAILURE_AGAIN:
			break;
		case CDP_FAILURE_HISTORY:
			state->history_at = TimestampTzPlusMilliseconds(now, pause_after(state->history_failures++));
			break;
		case CDP_FAILURE_STUCK:
			state->retry_at = TimestampTzPlusMilliseconds(now, pause_after(state->failures++));
			break;
	}
}

/*
 * A batch has been applied.
 */
static void
succeed(ApplierState *state, CdpBatchResult *result)
{
	bool		aside = CdpNarrowSucceeded(&state->narrow, result);

	state->failures = 0;
	state->next_timer = result->next_timer;
	if (CdpAttempted.history)
		state->history_failures = 0;
	if (aside)
	{
		state->aside++;
		if (state->narrow.in_a_row >= CDP_ISOLATED_IN_A_ROW)
			state->retry_at =
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
											pause_after(state->narrow.in_a_row - CDP_ISOLATED_IN_A_ROW));
	}
	else if (!result->more && state->errors > 0)
	{
		if (state->logged)
			ereport(LOG,
					(errmsg("cdp applier works again after %d errors",
							state->errors),
					 state->aside == 0 ? 0 :
										 errdetail("Entries that were put aside: %d; see cdp.rejected.",
												   state->aside)));
		state->logged = false;
		state->errors = 0;
		state->aside = 0;
	}
}

/*
 * Roll back after an error that is not the batch's, and go on.
 */
static void
ignore_error(bool report)
{
	HOLD_INTERRUPTS();
	if (report)
		EmitErrorReport();
	AbortOutOfAnyTransaction();
	FlushErrorState();
	RESUME_INTERRUPTS();
}

static void
end_turn(MemoryContext context)
{
	MemoryContextSwitchTo(context);
	MemoryContextReset(context);

	/* A cancel that comes between two batches has nothing to cancel. */
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		leave(CDP_EXIT_ASKED);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * What is not a batch; its errors stop nothing.
 */
static void
run_aside(void (*step)(ApplierState *), ApplierState *state, MemoryContext context)
{
	PG_TRY();
	{
		step(state);
	}
	PG_CATCH();
	{
		ignore_error(true);
	}
	PG_END_TRY();
	end_turn(context);
}

/*
 * Start as the crash of the applier before this one demands, if there was one.
 */
static void
start_after_crash(ApplierState *state, MemoryContext context)
{
	CdpCrashed	crashed;
	TimestampTz now = GetCurrentTimestamp();
	Oid			extension;

	StartTransactionCommand();
	extension = get_extension_oid("cdp", true);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	crashed = CdpCrashRecall(extension, &state->narrow);
	if (crashed.history_pause > 0)
	{
		state->history_at = TimestampTzPlusMilliseconds(now, crashed.history_pause);
		state->history_failures = 1;
	}
	if (crashed.message == NULL)
		return;
	state->retry_at = TimestampTzPlusMilliseconds(now, crashed.pause);
	state->last_error = MemoryContextStrdup(TopMemoryContext, crashed.message);
	state->errors = 1;
	state->failures = crashed.stuck ? 1 : 0;
	ereport(LOG,
			(errmsg("cdp applier starts after a crash: %s", crashed.message),
			 state->narrow.error == NULL ? 0 :
				 errdetail("That entry is put aside; see cdp.rejected.")));
	state->logged = true;
	state->logged_at = now;
	run_aside(record_error, state, context);
}

/*
 * One batch in a transaction of its own; true when more is left.
 */
static bool
apply_batch(ApplierState *state)
{
	CdpBatchResult result;
	char	   *version = NULL;
	bool		more = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	switch (CdpLockExtension(&version))
	{
		case CDP_EXTENSION_ABSENT:
			CommitTransactionCommand();
			/* CREATE EXTENSION may have been committed since the look. */
			if (!MyLatch->is_set)
				leave(CDP_EXIT_ABSENT);
			ResetLatch(MyLatch);
			more = true;
			break;
		case CDP_EXTENSION_MISMATCH:
			if (!state->mismatch_logged)
				ereport(LOG,
						(errmsg("cdp applier waits: the library has version %s, the extension version %s",
								CDP_VERSION, version),
						 errhint("Run ALTER EXTENSION cdp UPDATE, and restart the server when the library is the older one.")));
			state->mismatch_logged = true;
			state->next_timer = DT_NOEND;
			CommitTransactionCommand();
			break;
		case CDP_EXTENSION_READY:
			state->mismatch_logged = false;
			pgstat_report_activity(STATE_RUNNING, "applying the log");
			/* No snapshot while waiting for the lock: it would hold VACUUM back. */
			CdpApplierLock();
			PushActiveSnapshot(GetTransactionSnapshot());
			state->narrow.no_history = GetCurrentTimestamp() < state->history_at;
			CdpCrashExpect(&state->narrow);
			result = CdpNarrowApply(&state->narrow, PG_INT64_MAX, false);
			PopActiveSnapshot();
			state->loading = !CdpTableIsVoid("attachment_loads");
			CommitTransactionCommand();
			CdpCrashOver(true);
			succeed(state, &result);
			more = result.more;
			pgstat_report_stat(false);
			break;
	}
	return more;
}

/*
 * In how many ms are the next rows of attached relations to be logged?
 */
static long
load_due(ApplierState *state)
{
	if (!state->loading || cdp_backfill_rate < 0)
		return LONG_MAX;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(), state->load_at);
}

/*
 * Everything that there is to do now; errors end up in recover().
 */
static void
work(ApplierState *state, MemoryContext context)
{
	volatile bool more = true;

	while (more && GetCurrentTimestamp() >= state->retry_at)
	{
		volatile bool failed = false;

		PG_TRY();
		{
			more = apply_batch(state);
		}
		PG_CATCH();
		{
			recover(state, context);
			failed = true;
		}
		PG_END_TRY();

		if (failed && state->failures + state->history_failures > 0)
		{
			PG_TRY();
			{
				record_error(state);
			}
			PG_CATCH();
			{
				ignore_error(false);
			}
			PG_END_TRY();
		}
		end_turn(context);
	}

	if (state->failures == 0 && GetCurrentTimestamp() >= state->partitions_at)
		run_aside(make_partitions, state, context);

	if (state->failures == 0 && cdp_sync_interval > 0 &&
		TimestampDifferenceExceeds(state->synchronised_at, GetCurrentTimestamp(),
								   cdp_sync_interval * 1000))
		run_aside(synchronise_attachments, state, context);

	if (state->failures == 0 && load_due(state) <= 0)
		run_aside(load_attachments, state, context);
}

/*
 * How long to sleep, in ms: until the next attempt after an error, else for
 * cdp.naptime or until the next timer.  Timers are on the extension's clock.
 */
static long
sleep_time(ApplierState *state)
{
	TimestampTz now = GetCurrentTimestamp();
	long		timeout = cdp_naptime;

	if (state->history_failures > 0)
		timeout = Min(timeout,
					  TimestampDifferenceMilliseconds(now, state->history_at) + 1);
	if (state->retry_at > now)
		timeout = TimestampDifferenceMilliseconds(now, state->retry_at) + 1;
	else if (!TIMESTAMP_NOT_FINITE(state->next_timer))
		timeout = Min(timeout,
					  TimestampDifferenceMilliseconds(CdpClock(),
													  state->next_timer) + 1);
	if (state->failures == 0)
		timeout = Min(timeout, load_due(state));
	return Max(timeout, 1);
}

static int
doze(long timeout)
{
	return WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 timeout, PG_WAIT_EXTENSION);
}

/*
 * Sleep until there is something to do.  Statistics go out once a second while
 * there is much to do, and a second after the last of it.
 */
static void
rest(ApplierState *state)
{
	long		timeout = sleep_time(state);
	long		report = Min(pgstat_report_stat(false), 1000);

	if (report > 0 && report < timeout)
	{
		if ((doze(report) & WL_LATCH_SET) != 0)
			return;
		(void) pgstat_report_stat(true);
		timeout = Max(Min(timeout - report, sleep_time(state)), 1);
	}
	(void) doze(timeout);
}

/*
 * Settings that a database or role may have, but the applier must not.
 */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"application_name", CDP_APPLIER_TYPE},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"jit", "off"},
		{"lock_timeout", "0"},
		{"max_parallel_workers_per_gather", "0"},
		{"search_path", CDP_SEARCH_PATH},
		{"statement_timeout", "0"},
	};
	int			i;

	for (i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

void
cdp_applier_main(Datum main_arg)
{
	Oid			dboid = DatumGetObjectId(main_arg);
	Oid			tablespace;
	LOCKTAG		tag;
	int			attempts = 0;
	ApplierState state = {0};
	MemoryContext context;
	ErrorContextCallback callback;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR2, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	memcpy(&tablespace, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	if (database_gone(dboid, tablespace))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid,
											  BGWORKER_BYPASS_ALLOWCONN);
	pin_settings();
	if (!database_allowed())
		proc_exit(0);

	/*
	 * One applier per database, whoever started it.  The one before may be
	 * about to end.
	 */
	applier_session_tag(&tag);
	while (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		if (++attempts > LOCK_ATTEMPTS)
			proc_exit(0);
		pg_usleep(20000L);
		CHECK_FOR_INTERRUPTS();
	}
	before_shmem_exit(leave_slot, (Datum) 0);
	if (!CdpLauncherAttach())
		leave(CDP_EXIT_ASKED);
	CdpApplierKeepMemory();

	callback.callback = error_context;
	callback.arg = NULL;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	state.narrow.limit = cdp_batch_size;
	state.narrow.work = CDP_WORK_ALL;
	state.next_timer = DT_NOEND;
	context = AllocSetContextCreate(TopMemoryContext, "cdp applier",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	start_after_crash(&state, context);

	for (;;)
	{
		work(&state, context);
		pgstat_report_activity(STATE_IDLE, NULL);
		rest(&state);
		ResetLatch(MyLatch);
		end_turn(context);
	}
}

/*
 * From _PG_init, by way of CdpApplyInit.
 */
void
CdpWorkerInit(void)
{
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		CdpLauncherInit();
}
