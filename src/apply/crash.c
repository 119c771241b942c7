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
 *	  next crash says which entry it is; when one has crashed it twice alone it is
 *	  put aside, as one that raises an error is (isolate.c).  Each crash disconnects
 *	  everybody, so it is not narrowed down by halves.  A profile whose time has
 *	  come rests from its second crash on, for longer each time, and so does a step
 *	  of history.
 *
 *	  Who is ended by the postmaster because somebody else has crashed, or because
 *	  the server is stopped at once, gets SIGQUIT, and takes the note back in its
 *	  handler.  SIGKILL from elsewhere cannot be told from a crash, nor can the
 *	  SIGABRT that PostgreSQL 16 and later send instead with send_abort_for_crash,
 *	  since a PANIC here is one, too; it has to hit the same entry twice, alone, to
 *	  have it put aside.
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

#define MARK_MAGIC 0xCD9A0002

/* An entry that has crashed the applier alone so many times is put aside. */
#define CRASHES_ALONE 2

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
	int32 alone; /* ... so many times */
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
		crashed->message = psprintf("the applier crashed when entry %lld was put aside",
									(long long) mark.entry);
	}
	else if (mark.history)
	{
		mark.history_crashes++;
		crashed->message = pstrdup("the applier crashed in a step of history");
	}
	else if (mark.entries + mark.timers > 1)
	{
		mark.careful = mark.entries + mark.timers;
		narrow->work = mark.entries > 0 ? CDP_WORK_ENTRIES : CDP_WORK_TIMERS;
		crashed->message = psprintf("the applier crashed in a batch of %d entries and %d profiles whose time had come",
									mark.entries, mark.timers);
	}
	else if (mark.entries == 1)
	{
		mark.alone = mark.suspect == mark.entry ? mark.alone + 1 : 1;
		mark.suspect = mark.entry;
		mark.careful = Max(mark.careful, 1);
		narrow->work = CDP_WORK_ENTRIES;
		crashed->message = psprintf("the applier crashed when it applied entry %lld alone",
									(long long) mark.entry);
		if (mark.alone >= CRASHES_ALONE)
		{
			narrow->entry = mark.entry;
			narrow->xid = mark.xid;
			narrow->error = MemoryContextAllocZero(TopMemoryContext, sizeof(ErrorData));
			narrow->error->sqlerrcode = ERRCODE_CRASH_SHUTDOWN;
			narrow->error->message =
				MemoryContextStrdup(TopMemoryContext,
									psprintf("the applier crashed when it applied this entry alone, %d times",
											 mark.alone));
		}
	}
	else
	{
		crashed_by_profile(mark.profile, now);
		mark.careful = Max(mark.careful, 1);
		narrow->work = CDP_WORK_TIMERS;
		crashed->message = psprintf("the applier crashed when it looked at profile or account %lld alone, whose time had come",
									(long long) mark.profile);
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
	mark.busy = 0;
	write_mark(sizeof(mark));
	pqsignal(SIGQUIT, quit);

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
