/*-------------------------------------------------------------------------
 *
 * isolate.c
 *	  Entries whose processing raises an error.
 *
 *	  What is wrong with an entry is found by judging it, and it is rejected.
 *	  What nobody thought of raises an error: a damaged state, a limit, a
 *	  trigger that somebody has put on one of our tables.  Whoever applies
 *	  (worker.c, cdp.apply()) then takes half as many entries, until the one
 *	  that raises it is alone, and puts that one aside: it gets a row in
 *	  cdp.isolated, is judged as rejected from then on, and the log goes on.
 *
 *	  cdp.isolated is an input, like the log and the definitions: what follows
 *	  from them is the same whatever the order in which entries come, and
 *	  cdp.verify() reads it, too.  An entry leaves it by cdp.retry_rejected(),
 *	  which hands the row of the log to the transaction that calls it: the
 *	  entry comes as if it had been logged only then.
 *
 *	  An entry is not put aside on suspicion: its row is written in the
 *	  transaction that applies it as rejected, so when that raises an error,
 *	  too, it was not the entry's fault, and nothing has happened.  Nor is it
 *	  put aside for errors that say something about the server or the
 *	  installation (CdpErrorIsTransient).
 *
 *	  An entry that does not raise an error but ends the process is found by
 *	  crash.c, and put aside from here.
 *
 *	  The profiles whose time has come are narrowed down in the same way; one
 *	  that cannot be evaluated rests for a while, in this process, and all of
 *	  them do when too many in a row cannot.
 *
 * IDENTIFICATION
 *	  src/apply/isolate.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "apply/cursor.h"
#include "apply/isolate.h"
#include "cdp.h"
#include "statement.h"

/* How much of an error's text is kept, in bytes. */
#define MAX_DETAIL 2000

/* How long a profile rests that could not be evaluated, in us: doubling. */
#define MIN_REST (60 * INT64CONST(1000000))
#define MAX_REST (60 * MIN_REST)
#define MAX_RESTING 1000

typedef struct Isolated
{
	int64		entry;
	int			sqlstate;
	char	   *detail;
} Isolated;

/* The rows of cdp.isolated, by entry, as of a generation. */
static struct
{
	MemoryContext context;
	int64		generation;
	int			n;
	Isolated   *entries;
} isolated;

typedef struct Resting
{
	int64		profile;
	TimestampTz until;
	int64		pause;			/* the last one, in us */
} Resting;

static struct
{
	int			n;
	Resting	   *profiles;		/* in TopMemoryContext */
	int			in_a_row;		/* since others were evaluated */
	TimestampTz all_until;		/* none is evaluated before */
} resting;

static CdpStatement load_isolated = {
	"SELECT i.entry, i.sqlstate, i.detail FROM cdp.isolated i ORDER BY i.entry",
	{ NULL },
	"isolated"
};

static CdpStatement insert_isolated = {
	"INSERT INTO cdp.isolated (entry, xid, sqlstate, detail) VALUES ($1, $2, $3, $4)"
	" ON CONFLICT (entry) DO NOTHING",
	{ "int8", "int8", "text", "text" }
};

static CdpStatement find_entry = {
	"SELECT e.incarnation FROM cdp.events e WHERE e.xid = $1 AND e.id = $2",
	{ "int8", "int8" }
};

static CdpStatement note_error = {
	"UPDATE cdp.applier SET errors = errors + 1, last_error = $1,"
	" last_error_at = clock_timestamp()",
	{ "text" }
};

bool
CdpErrorIsTransient(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('0', '8', '0', '0', '0'): /* connection */
		case MAKE_SQLSTATE('2', '5', '0', '0', '0'): /* transaction state */
		case MAKE_SQLSTATE('2', '8', '0', '0', '0'): /* roles */
		case MAKE_SQLSTATE('3', 'D', '0', '0', '0'): /* missing databases */
		case MAKE_SQLSTATE('3', 'F', '0', '0', '0'): /* missing schemas */
		case MAKE_SQLSTATE('4', '0', '0', '0', '0'): /* rollback */
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'): /* missing objects, rights */
		case MAKE_SQLSTATE('5', '3', '0', '0', '0'): /* resources */
		case MAKE_SQLSTATE('5', '5', '0', '0', '0'): /* locks, prerequisites */
		case MAKE_SQLSTATE('5', '7', '0', '0', '0'): /* cancel, shutdown */
		case MAKE_SQLSTATE('5', '8', '0', '0', '0'): /* the operating system */
		case MAKE_SQLSTATE('F', '0', '0', '0', '0'): /* configuration files */
			return true;
		default:
			return false;
	}
}

/*
 * Is the entry still to be applied?  Between two transactions of the worker
 * others may have had their turn.
 */
static bool
is_pending(int64 entry, int64 xid)
{
	Datum		args[2] = { Int64GetDatum(xid), Int64GetDatum(entry) };
	bool		isnull;
	int32		incarnation;

	if (CdpRun(&find_entry, args, NULL) == 0)
		return false;
	incarnation = DatumGetInt32(CdpCell(0, 1, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return !CdpCursorsApplied(CdpCursorsLoad(), incarnation, xid, entry);
}

/*
 * Put an entry aside, for this error; false: it is no longer to be applied.
 */
static bool
isolate(int64 entry, int64 xid, const ErrorData *error)
{
	CdpUserContext saved;
	StringInfoData detail;
	Datum		args[4];
	bool		pending;

	CdpBecomeOwner(&saved);
	SPI_connect();
	pending = is_pending(entry, xid);
	SPI_finish();
	CdpRestoreUser(&saved);
	if (!pending)
		return false;

	initStringInfo(&detail);
	appendStringInfoString(&detail, error->message ? error->message : "no message");
	if (error->detail != NULL)
		appendStringInfo(&detail, ": %s", error->detail);
	detail.data[pg_mbcliplen(detail.data, detail.len, MAX_DETAIL)] = '\0';

	CdpGenerationBump();
	CdpBecomeOwner(&saved);
	SPI_connect();
	args[0] = Int64GetDatum(entry);
	args[1] = Int64GetDatum(xid);
	args[2] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	args[3] = CStringGetTextDatum(detail.data);
	CdpRun(&insert_isolated, args, NULL);
	CdpRun(&note_error, &args[3], NULL);
	SPI_finish();
	CdpRestoreUser(&saved);
	pfree(detail.data);
	return true;
}

static int
sqlstate_of(const char *code)
{
	if (strlen(code) != 5)
		return ERRCODE_INTERNAL_ERROR;
	return MAKE_SQLSTATE(code[0], code[1], code[2], code[3], code[4]);
}

/*
 * Generations are never used twice, so what belongs to one is good for as long
 * as that is the one that counts.
 */
void
CdpIsolatedLoad(int64 generation)
{
	MemoryContext context;
	Isolated   *entries;
	int			n;
	int			i;

	if (isolated.context != NULL && isolated.generation == generation)
		return;
	n = CdpRun(&load_isolated, NULL, NULL);
	context = AllocSetContextCreate(TopMemoryContext, "cdp isolated entries",
									ALLOCSET_SMALL_SIZES);
	entries = MemoryContextAllocHuge(context, sizeof(Isolated) * (Size) Max(n, 1));
	for (i = 0; i < n; i++)
	{
		bool		isnull;

		entries[i].entry = CdpCellInt8(i, 1);
		entries[i].sqlstate = sqlstate_of(TextDatumGetCString(CdpCell(i, 2, &isnull)));
		entries[i].detail =
			MemoryContextStrdup(context, TextDatumGetCString(CdpCell(i, 3, &isnull)));
	}
	SPI_freetuptable(SPI_tuptable);
	if (isolated.context != NULL)
		MemoryContextDelete(isolated.context);
	isolated.context = context;
	isolated.generation = generation;
	isolated.n = n;
	isolated.entries = entries;
}

bool
CdpEntryJudge(CdpEntry *entry)
{
	int			lo = 0;
	int			hi = isolated.n;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (isolated.entries[mid].entry < entry->id)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo == isolated.n || isolated.entries[lo].entry != entry->id)
	{
		entry->by_plans = true;
		return CdpEntryCheck(entry);
	}
	entry->reject_reason = isolated.entries[lo].sqlstate == ERRCODE_CRASH_SHUTDOWN
		? "crashed the applier" : "raised an error";
	entry->reject_detail = pstrdup(isolated.entries[lo].detail);
	entry->reject_sqlstate = isolated.entries[lo].sqlstate;
	return false;
}

static Resting *
resting_slot(int64 profile)
{
	Resting	   *slot = NULL;
	int			i;

	for (i = 0; i < resting.n && slot == NULL; i++)
		if (resting.profiles[i].profile == profile)
			slot = &resting.profiles[i];
	if (slot == NULL)
	{
		if (resting.profiles == NULL)
			resting.profiles = MemoryContextAlloc(TopMemoryContext,
												  sizeof(Resting) * MAX_RESTING);
		/* beyond so many the oldest is tried again sooner */
		if (resting.n == MAX_RESTING)
			memmove(resting.profiles, resting.profiles + 1,
					sizeof(Resting) * --resting.n);
		slot = &resting.profiles[resting.n++];
		slot->profile = profile;
		slot->pause = MIN_REST / 2;
	}
	return slot;
}

void
CdpTimerRest(int64 profile, TimestampTz until)
{
	resting_slot(profile)->until = until;
}

/*
 * Leave a profile alone for a while, because it has raised an error.
 */
static void
rest_timer(int64 profile)
{
	TimestampTz now = GetCurrentTimestamp();
	Resting	   *slot = resting_slot(profile);

	slot->pause = Min(slot->pause * 2, MAX_REST);
	slot->until = now + slot->pause;
	if (++resting.in_a_row == CDP_ISOLATED_IN_A_ROW)
	{
		resting.in_a_row = 0;
		resting.all_until = now + MIN_REST;
	}
}

int
CdpTimersResting(int64 **profiles, TimestampTz *until)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;
	int			i;

	*until = DT_NOEND;
	if (resting.n == 0)
		return 0;
	if (resting.all_until > now)
	{
		*until = resting.all_until;
		return -1;
	}
	*profiles = palloc(sizeof(int64) * resting.n);
	for (i = 0; i < resting.n; i++)
		if (resting.profiles[i].until > now)
		{
			(*profiles)[n++] = resting.profiles[i].profile;
			*until = Min(*until, resting.profiles[i].until);
		}
	return n;
}

static void
forget_error(CdpNarrowing *narrow)
{
	if (narrow->error != NULL)
		FreeErrorData(narrow->error);
	narrow->error = NULL;
}

CdpBatchResult
CdpNarrowApply(CdpNarrowing *narrow, int64 max_entries, bool activate)
{
	CdpApplierLock();
	if (narrow->error != NULL &&
		!isolate(narrow->entry, narrow->xid, narrow->error))
		forget_error(narrow);
	return CdpApplyBatch(Min(max_entries, narrow->limit), activate,
						 narrow->work & ~(narrow->no_history ? CDP_WORK_HISTORY : 0));
}

static void
remember_error(CdpNarrowing *narrow, const ErrorData *error)
{
	ErrorData  *copy = MemoryContextAllocZero(TopMemoryContext, sizeof(ErrorData));

	copy->sqlerrcode = error->sqlerrcode;
	copy->message = MemoryContextStrdup(TopMemoryContext,
										error->message ? error->message : "no message");
	if (error->detail != NULL)
		copy->detail = MemoryContextStrdup(TopMemoryContext, error->detail);
	narrow->error = copy;
	narrow->entry = CdpAttempted.entry;
	narrow->xid = CdpAttempted.xid;
}

CdpFailure
CdpNarrowFailed(CdpNarrowing *narrow, const ErrorData *error)
{
	int			n = CdpAttempted.entries + CdpAttempted.timers;

	if (narrow->error != NULL)
	{
		/* it does not go on without the entry either */
		forget_error(narrow);
		return CDP_FAILURE_STUCK;
	}
	if (CdpErrorIsTransient(error->sqlerrcode) || n == 0)
	{
		if (narrow->limit > 1)
		{
			narrow->limit = Max(1, Min(narrow->limit, Max(n, 2)) / 2);
			return CDP_FAILURE_AGAIN;
		}
		return CdpAttempted.history ? CDP_FAILURE_HISTORY : CDP_FAILURE_STUCK;
	}
	if (n > 1)
	{
		narrow->limit = Max(1, n / 2);
		narrow->work = CdpAttempted.entries > 0 ? CDP_WORK_ENTRIES : CDP_WORK_TIMERS;
	}
	else if (CdpAttempted.entries == 1)
	{
		narrow->work = CDP_WORK_ENTRIES;
		narrow->limit = 1;
		remember_error(narrow, error);
	}
	else
	{
		rest_timer(CdpAttempted.profile);
		narrow->resting++;
	}
	return CDP_FAILURE_AGAIN;
}

bool
CdpNarrowSucceeded(CdpNarrowing *narrow, CdpBatchResult *result)
{
	bool		aside = narrow->error != NULL;

	if (CdpAttempted.timers > 0)
		resting.in_a_row = 0;
	if (aside)
		narrow->in_a_row++;
	else if (result->entries > 0)
		narrow->in_a_row = 0;
	forget_error(narrow);
	if (narrow->careful > 0)
	{
		int			n = CdpAttempted.entries + CdpAttempted.timers;

		/* what comes and what is due take turns, until there is neither */
		narrow->idle = n > 0 ? 0 : narrow->idle + 1;
		narrow->careful = narrow->idle < 2 ? Max(narrow->careful - n, 0) : 0;
		narrow->work ^= CDP_WORK_ENTRIES | CDP_WORK_TIMERS;
		result->more = true;
		return aside;
	}
	narrow->limit = (int) Min((int64) narrow->limit * 2, (int64) cdp_batch_size);
	if (narrow->work != CDP_WORK_ALL)
	{
		/* what comes and what is due take turns until all of it goes again */
		if (narrow->limit >= cdp_batch_size)
			narrow->work = CDP_WORK_ALL;
		else
			narrow->work ^= CDP_WORK_ENTRIES | CDP_WORK_TIMERS;
		result->more = true;
	}
	return aside;
}
