/*-------------------------------------------------------------------------
 *
 * crash.c
 *	  Batches that crash the applier.
 *
 *	  An entry whose processing ends the process (a fault in a function that a
 *	  definition calls, memory that the system does not have) takes the whole
 *	  server through recovery, and would do so again and again.  So the applier
 *	  notes what it is about to do in a file, the mark, and takes the note back
 *	  when it is done: two small writes a batch, never flushed, because they have
 *	  to outlive the process and not the machine.
 *
 *	  An applier that finds the note of another one knows that it did not come
 *	  back from there.  It takes what was in that batch one at a time, so that the
 *	  next crash says which entry it is.  Each crash disconnects everybody, so it is
 *	  not narrowed down by halves.
 *
 *	  A fault of the process itself (SIGSEGV, SIGABRT and the like) is noted by a
 *	  handler, on its way down: an entry that has caused two of them alone is put
 *	  aside, as one that raises an error is (isolate.c).  Without that note somebody
 *	  has killed the process: an operator, or the system, which has no memory left
 *	  and may mean others.  That says little about the entry, so it is tried again
 *	  after pauses that double, and put aside only when the process was killed five
 *	  times with this entry alone.  A profile whose time has come rests from its
 *	  second crash on, for longer each time, and so does a step of history.
 *
 *	  Who is ended by the postmaster because somebody else has crashed, or because
 *	  the server is stopped at once, gets SIGQUIT, or, from PostgreSQL 16 on with
 *	  send_abort_for_crash, SIGABRT, and takes the note back in the handler.
 *
 *	  The mark is one file a database, in pg_stat_tmp, since what this server was
 *	  about to do does not belong into a copy of it: pg_basebackup and pg_rewind
 *	  leave that folder's files out.  It says nothing about persons.  Numbers of
 *	  entries and profiles are those of one extension: the mark of another one,
 *	  dropped since, is ignored.  Without a mark everything goes on as if there had
 *	  been no crash.
 *
 * IDENTIFICATION
 *	  src/apply/crash.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "apply/crash.h"

#define MARK_MAGIC 0xCD9A0003

/*
 * An entry that has crashed the applier alone so many times is put aside, or
 * alone with which the applier was killed so many times.  Between these are
 * pauses, in ms: doubling.
 */
#define CRASHES_ALONE 2
#define KILLS_ALONE 5
#define KILL_PAUSE 2000

/* For the handler of faults: the stack may be what is at fault. */
#define FAULT_STACK (64 * 1024)

/* Crashes that are no further apart belong together, in us; more of them than so many are followed by pauses, in ms. */
#define CRASHES_TOGETHER (10 * USECS_PER_MINUTE)
#define CRASHES_AT_ONCE 10
#define MAX_PAUSE 60000

/*
 * How long a profile (in microseconds) or a step of history (in milliseconds)
 * rests after a second crash in a row: doubling.  The first may be the end of
 * the applier by somebody, and an erasure waits for its steps: no rest.
 */
#define PROFILE_REST USECS_PER_HOUR
#define MAX_PROFILE_REST USECS_PER_DAY
#define HISTORY_REST (30 * INT64CONST(1000))
#define MAX_HISTORY_REST (60 * 60 * INT64CONST(1000))
#define MAX_PROFILES 32

typedef struct RestingProfile
{
	int64 profile;
	int64 crashes;
	TimestampTz until;
} RestingProfile;

/* What stands in the file. */
typedef struct Mark
{
	uint32 magic;
	Oid extension;
	uint32 busy; /* in this batch: */
	uint32 fault; /* the signal that the process itself has raised */
	int32 entries;
	int32 timers;
	int64 entry; /* the first of them */
	int64 xid;
	int64 profile; /* the first of these */
	bool history;
	bool aside; /* the entry was being put aside */
	int32 careful; /* so many are taken one at a time */

	/* what crashes there were; written only when one is found, and when it is over */
	int32 crashes; /* together */
	TimestampTz crashed_at; /* the last */
	int64 suspect; /* the entry that was alone in a crash ... */
	int32 alone; /* ... so many times ... */
	int32 kills; /* ... or when the process was killed */
	int32 aside_crashes; /* in a row */
	int32 history_crashes; /* in a row */
	int32 nprofiles;
	RestingProfile profiles[MAX_PROFILES];
} Mark;

static Mark mark;
static int mark_fd = -1;
static bool expecting = false;

static void
mark_path(char *path)
{
	snprintf(path, MAXPGPATH, PG_STAT_TMP_DIR "/cdp_applier.%u", MyDatabaseId);
}

/*
 * Write the first bytes of the mark; whoever cannot goes on without one.
 */
static void
write_mark(Size size)
{
	if (mark_fd < 0 || pg_pwrite(mark_fd, &mark, size, 0) == (ssize_t) size)
		return;
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not write what the cdp applier is about to do: %m"),
			 errdetail("An entry that crashes it will not be put aside.")));
	close(mark_fd);
	mark_fd = -1;
}

/*
 * SIGQUIT: whatever has happened, it was not here.
 */
static void
quit(SIGNAL_ARGS)
{
	static const uint32 no = 0;

	if (mark_fd >= 0 &&
		pg_pwrite(mark_fd, &no, sizeof(no), offsetof(Mark, busy)) < 0)
	{
		/* then it is suspected */
	}
	SignalHandlerForCrashExit(postgres_signal_arg);
}

/*
 * A fault: note whether it is ours.  Then the signal does what it does without
 * us: a fault comes again where it was, what abort() or somebody has sent is
 * pending.
 */
static void
fault(int signo, siginfo_t *info, void *context)
{
	uint32 ours = signo;
	static const uint32 no = 0;
	bool sent = info->si_code <= 0;

	if (mark_fd >= 0 && sent && info->si_pid == PostmasterPid)
	{
		if (pg_pwrite(mark_fd, &no, sizeof(no), offsetof(Mark, busy)) < 0)
		{
			/* then it is suspected */
		}
	}
	else if (mark_fd >= 0 && (!sent || info->si_pid == MyProcPid))
	{
		if (pg_pwrite(mark_fd, &ours, sizeof(ours), offsetof(Mark, fault)) < 0)
		{
			/* then it is taken for killed */
		}
	}
	if (sent)
		raise(signo);
}

/*
 * Faults that nobody else handles.
 */
static void
handle_faults(void)
{
	static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS };
	stack_t stack = { 0 };
	stack_t before;

	if (sigaltstack(NULL, &before) == 0 && (before.ss_flags & SS_DISABLE) != 0)
	{
		stack.ss_sp = MemoryContextAlloc(TopMemoryContext, FAULT_STACK);
		stack.ss_size = FAULT_STACK;
		if (sigaltstack(&stack, NULL) != 0)
			pfree(stack.ss_sp);
	}
	for (int i = 0; i < lengthof(signals); i++)
	{
		struct sigaction action = { 0 };
		struct sigaction old;

		if (sigaction(signals[i], NULL, &old) != 0 || (old.sa_flags & SA_SIGINFO) != 0 ||
			old.sa_handler != SIG_DFL)
			continue;
		action.sa_sigaction = fault;
		action.sa_flags = SA_SIGINFO | SA_RESETHAND | SA_ONSTACK;
		sigemptyset(&action.sa_mask);
		(void) sigaction(signals[i], &action, NULL);
	}
}

/*
 * A profile was alone in a crash: once is tried again, then it rests.
 */
static void
crashed_by_profile(int64 profile, TimestampTz now)
{
	RestingProfile *slot = NULL;
	int i;

	for (i = 0; i < mark.nprofiles; i++)
		if (mark.profiles[i].profile == profile)
			slot = &mark.profiles[i];
	if (slot == NULL)
	{
		if (mark.nprofiles == MAX_PROFILES)
			memmove(mark.profiles, mark.profiles + 1,
					sizeof(RestingProfile) * --mark.nprofiles);
		slot = &mark.profiles[mark.nprofiles++];
		memset(slot, 0, sizeof(*slot));
		slot->profile = profile;
	}
	slot->crashes++;
	slot->until = now;
	if (slot->crashes >= CRASHES_ALONE)
		slot->until += Min(PROFILE_REST << Min(slot->crashes - CRASHES_ALONE, 10),
						   MAX_PROFILE_REST);
}

/*
 * The applier before this one did not come back from a batch.
 */
static void
judge_crash(CdpNarrowing *narrow, CdpCrashed *crashed)
{
	TimestampTz now = GetCurrentTimestamp();
	const char *how = mark.fault != 0 ? "crashed" : "was killed";

	if (TimestampDifferenceExceeds(mark.crashed_at, now, CRASHES_TOGETHER / 1000))
		mark.crashes = 0;
	mark.crashed_at = now;
	mark.crashes++;
	if (mark.crashes > CRASHES_AT_ONCE)
		crashed->pause = Min(INT64CONST(1000) << Min(mark.crashes - CRASHES_AT_ONCE, 10), MAX_PAUSE);

	if (mark.aside)
	{
		mark.aside_crashes++;
		crashed->stuck = true;
		crashed->pause = Max(crashed->pause,
							 Min(INT64CONST(1000) << Min(mark.aside_crashes, 10), MAX_HISTORY_REST));
		crashed->message = psprintf("the applier %s when entry %lld was put aside",
									how, (long long) mark.entry);
	}
	else if (mark.history)
	{
		mark.history_crashes++;
		crashed->message = psprintf("the applier %s in a step of history", how);
	}
	else if (mark.entries + mark.timers > 1)
	{
		mark.careful = mark.entries + mark.timers;
		narrow->work = mark.entries > 0 ? CDP_WORK_ENTRIES : CDP_WORK_TIMERS;
		crashed->message = psprintf("the applier %s in a batch of %d entries and %d profiles whose time had come",
									how, mark.entries, mark.timers);
	}
	else if (mark.entries == 1)
	{
		if (mark.suspect != mark.entry)
			mark.alone = mark.kills = 0;
		mark.suspect = mark.entry;
		if (mark.fault != 0)
			mark.alone++;
		else
		{
			mark.kills++;
			if (mark.kills < KILLS_ALONE)
				crashed->pause = Max(crashed->pause, KILL_PAUSE << (mark.kills - 1));
		}
		mark.careful = Max(mark.careful, 1);
		narrow->work = CDP_WORK_ENTRIES;
		crashed->message = psprintf("the applier %s when it applied entry %lld alone",
									how, (long long) mark.entry);
		if (mark.fault != 0 ? mark.alone >= CRASHES_ALONE : mark.kills >= KILLS_ALONE)
		{
			narrow->entry = mark.entry;
			narrow->xid = mark.xid;
			narrow->error = MemoryContextAllocZero(TopMemoryContext, sizeof(ErrorData));
			narrow->error->sqlerrcode = ERRCODE_CRASH_SHUTDOWN;
			narrow->error->message =
				MemoryContextStrdup(TopMemoryContext,
									psprintf("the applier %s when it applied this entry alone, %d times",
											 how, mark.fault != 0 ? mark.alone : mark.kills));
		}
	}
	else
	{
		crashed_by_profile(mark.profile, now);
		mark.careful = Max(mark.careful, 1);
		narrow->work = CDP_WORK_TIMERS;
		crashed->message = psprintf("the applier %s when it looked at profile or account %lld alone, whose time had come",
									how, (long long) mark.profile);
	}
}

CdpCrashed
CdpCrashRecall(Oid extension, CdpNarrowing *narrow)
{
	CdpCrashed crashed = { 0 };
	char path[MAXPGPATH];
	TimestampTz now = GetCurrentTimestamp();
	int n = 0;
	int i;

	mark_path(path);
	mark_fd = BasicOpenFile(path, O_RDWR | O_CREAT | PG_BINARY);
	if (mark_fd < 0)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path),
				 errdetail("An entry that crashes the cdp applier will not be put aside.")));
		return crashed;
	}
	if (pg_pread(mark_fd, &mark, sizeof(mark), 0) != sizeof(mark) ||
		mark.magic != MARK_MAGIC || mark.extension != extension ||
		mark.nprofiles < 0 || mark.nprofiles > MAX_PROFILES)
		memset(&mark, 0, sizeof(mark));
	mark.magic = MARK_MAGIC;
	mark.extension = extension;
	for (i = 0; i < mark.nprofiles; i++)
		if (mark.profiles[i].until > now - USECS_PER_DAY)
		{
			mark.profiles[n] = mark.profiles[i];
			/* the clock may have been set back */
			mark.profiles[n].until = Min(mark.profiles[n].until, now + MAX_PROFILE_REST);
			n++;
		}
	mark.nprofiles = n;
	if (mark.busy)
		judge_crash(narrow, &crashed);
	mark.busy = mark.fault = 0;
	write_mark(sizeof(mark));
	pqsignal(SIGQUIT, quit);
	handle_faults();

	narrow->careful = mark.careful;
	if (narrow->careful > 0)
	{
		narrow->limit = 1;
		if (narrow->work == CDP_WORK_ALL)
			narrow->work = CDP_WORK_ENTRIES;
	}
	if (mark.history_crashes > 1)
		crashed.history_pause = Min(HISTORY_REST << Min(mark.history_crashes - 2, 10), MAX_HISTORY_REST);
	for (i = 0; i < mark.nprofiles; i++)
		CdpTimerRest(mark.profiles[i].profile, mark.profiles[i].until);
	return crashed;
}

void
CdpCrashExpect(const CdpNarrowing *narrow)
{
	expecting = mark_fd >= 0;
	mark.aside = narrow->error != NULL;
	mark.careful = narrow->careful;
}

void
CdpCrashMark(bool history)
{
	if (!expecting)
		return;
	mark.busy = 1;
	mark.entries = CdpAttempted.entries;
	mark.timers = CdpAttempted.timers;
	mark.entry = CdpAttempted.entry;
	mark.xid = CdpAttempted.xid;
	mark.profile = CdpAttempted.profile;
	mark.history = history;
	write_mark(offsetof(Mark, crashes));
}

void
CdpCrashOver(bool applied)
{
	expecting = false;
	if (!mark.busy)
		return;
	mark.busy = 0;
	if (applied && mark.history && mark.history_crashes > 0)
	{
		mark.history_crashes = 0;
		write_mark(sizeof(mark));
	}
	else if (applied && mark.entries > 0 && mark.aside_crashes > 0)
	{
		mark.aside_crashes = 0;
		write_mark(sizeof(mark));
	}
	else
		write_mark(offsetof(Mark, entries));
}

void
CdpCrashForget(void)
{
	char path[MAXPGPATH];

	if (mark_fd < 0)
		return;
	mark.busy = 0;
	write_mark(offsetof(Mark, entries));
	if (mark.careful == 0 && mark.history_crashes == 0 && mark.aside_crashes == 0 &&
		mark.nprofiles == 0)
	{
		mark_path(path);
		(void) unlink(path);
	}
	if (mark_fd >= 0)
		close(mark_fd);
	mark_fd = -1;
}
