/*-------------------------------------------------------------------------
 *
 * cdp.c
 *	  Module entry: settings and the clock.
 *
 * IDENTIFICATION
 *	  src/cdp.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "apply/apply.h"
#include "cdp.h"
#include "collect/collect.h"
#include "compat.h"
#include "identity/index/walk.h"
#include "segments/segments.h"
#include "statement.h"
#include "trust/visibility.h"

PG_MODULE_MAGIC;

int			cdp_backfill_at_once = 10000;
int			cdp_backfill_rate = 0;
int			cdp_batch_size = 10000;
int			cdp_bridge_guard = 1000;
int			cdp_change_retention = 0;
char	   *cdp_databases = NULL;
bool		cdp_emit_logical = false;
int			cdp_history_retention = 0;
int			cdp_max_fresh_entries = 10000;
int			cdp_max_new_identifiers_per_hour = 1000;
int			cdp_max_profile_identifiers = 10000;
int			cdp_naptime = 1000;
double		cdp_notify_queue_limit = 0.5;
static char *cdp_now = NULL;
int			cdp_replay_at_commit = 10000;
int			cdp_sync_interval = 60;
int			cdp_window_chunk = 1000;

/* cdp.now as a timestamp; 0 when not set */
static TimestampTz clock_override = 0;

CdpBackfillHookType CdpBackfillHook = NULL;
CdpBackfillLaterHookType CdpBackfillLaterHook = NULL;
CdpTraitAlteredHookType CdpTraitAlteredHook = NULL;
CdpVisibleHookType CdpVisibleHook = NULL;
CdpRulesHookType CdpRulesChangingHook = NULL;
CdpRulesHookType CdpRulesChangedHook = NULL;

void		_PG_init(void);

/*
 * The text of cdp.now is parsed when it is set, so that a typing error is
 * reported then and reading the clock costs nothing.  The parser may be
 * called without a transaction (postgresql.conf), hence no catalog access:
 * timestamptz_in needs none for absolute times.
 */
static bool
check_now(char **newval, void **extra, GucSource source)
{
	TimestampTz *parsed = CdpGucMalloc(sizeof(TimestampTz));

	if (parsed == NULL)
		return false;
	*parsed = 0;
	if (*newval != NULL && **newval != '\0')
	{
		struct pg_tm tt,
				   *tm = &tt;
		fsec_t		fsec;
		int			tz = 0;
		int			dtype;
		int			nf;
		int			dterr;
		char	   *field[MAXDATEFIELDS];
		int			ftype[MAXDATEFIELDS];
		char		workbuf[MAXDATELEN + MAXDATEFIELDS];
		char	   *canonical;

		dterr = ParseDateTime(*newval, workbuf, sizeof(workbuf),
							  field, ftype, MAXDATEFIELDS, &nf);
		if (dterr == 0)
			dterr = CdpDecodeDateTime(field, ftype, nf, &dtype, tm, &fsec, &tz);
		if (dterr != 0 || dtype != DTK_DATE ||
			tm2timestamp(tm, fsec, &tz, parsed) != 0)
		{
			CdpGucFree(parsed);
			GUC_check_errdetail("\"%s\" is not a point in time.", *newval);
			return false;
		}

		/*
		 * Keep it in a form that means the same whatever TimeZone and
		 * timezone_abbreviations are: a parallel worker restores settings in
		 * an order of its own, and parses this before it has those.
		 */
		if (timestamp2tm(*parsed, &tz, tm, &fsec, NULL, pg_tzset("GMT")) != 0)
		{
			CdpGucFree(parsed);
			return false;
		}
		EncodeDateTime(tm, fsec, true, 0, NULL, USE_ISO_DATES, workbuf);
		canonical = CdpGucStrdup(workbuf);
		if (canonical == NULL)
		{
			CdpGucFree(parsed);
			return false;
		}
		CdpGucFree(*newval);
		*newval = canonical;
	}
	*extra = parsed;
	return true;
}

static void
assign_now(const char *newval, void *extra)
{
	clock_override = extra ? *(TimestampTz *) extra : 0;
}

/*
 * The clock that everything in the extension reads.
 */
TimestampTz
CdpClock(void)
{
	return clock_override != 0 ? clock_override : GetCurrentTimestamp();
}

PG_FUNCTION_INFO_V1(cdp_clock);

/*
 * cdp.clock() returns timestamptz: the clock, see CdpClock.
 */
Datum
cdp_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(CdpClock());
}

PG_FUNCTION_INFO_V1(cdp_version);

/*
 * cdp.version() returns text: the version of the loaded library.
 */
Datum
cdp_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(CDP_VERSION));
}

void
_PG_init(void)
{
	DefineCustomIntVariable("cdp.backfill_at_once",
							"Size of the log up to which a definition is folded by the transaction that makes it.",
							"Number of applied entries; above it, the applier does it beside what comes.  0 means always the applier.  Also number of rows up to which cdp.attach() logs a table itself.",
							&cdp_backfill_at_once,
							10000, 0, INT_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.backfill_rate",
							"Entries of history that the applier folds into new definitions per second, and rows of attached tables that it logs.",
							"0 means as many as it can; -1 that it pauses.",
							&cdp_backfill_rate,
							0, -1, INT_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.batch_size",
							"Number of log entries that are applied in one transaction.",
							NULL,
							&cdp_batch_size,
							10000, 1, 1000000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.bridge_guard",
							"Size from which two profiles are not joined by a single link.",
							"The link is held until there is a second one; 0 means never.",
							&cdp_bridge_guard,
							1000, 0, INT_MAX / 2,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.change_retention",
							"For how many days changes are kept.",
							"What a subscription has not acknowledged is kept longer; 0 means for ever.",
							&cdp_change_retention,
							0, 0, 100000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomStringVariable("cdp.databases",
							   "Databases in which the launcher starts an applier.",
							   "A comma-separated list, or * for every database that has the extension.",
							   &cdp_databases,
							   "*",
							   PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("cdp.emit_logical",
							 "Writes changes into the WAL as logical messages, too.",
							 "Their prefix is cdp; needs wal_level = logical.",
							 &cdp_emit_logical,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("cdp.enable_graph_index",
							 "Lets walks over evidence use an identity_graph index on cdp.links.",
							 "Without one, or when off, they use two btrees; the result is the same.",
							 &cdp_enable_graph_index,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.history_retention",
							"For how many days the identities of earlier times can be asked for.",
							"0 means for ever.",
							&cdp_history_retention,
							0, 0, 100000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.max_fresh_entries",
							"Largest number of entries not yet applied that a fresh read takes in.",
							"With more of them cdp.profile(..., fresh => true) is an error.",
							&cdp_max_fresh_entries,
							10000, 0, 1000000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.max_new_identifiers_per_hour",
							"Largest number of identifiers of one profile that are first seen within one hour.",
							"A link that would make them more is refused and recorded; 0 means any number.",
							&cdp_max_new_identifiers_per_hour,
							1000, 0, INT_MAX / 2,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.max_profile_identifiers",
							"Largest number of identifiers that one profile may have.",
							"A link that would make a profile larger is refused and recorded.",
							&cdp_max_profile_identifiers,
							10000, 2, INT_MAX / 2,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.naptime",
							"Longest time that the applier sleeps without a wake-up.",
							NULL,
							&cdp_naptime,
							1000, 10, INT_MAX / 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomRealVariable("cdp.notify_queue_limit",
							 "How full the queue of notifications may be for changes to be announced.",
							 "A fraction; 0 means that nothing is announced.",
							 &cdp_notify_queue_limit,
							 0.5, 0, 1,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("cdp.now",
							   "Overrides the clock, for tests.",
							   "Empty means the wall clock.",
							   &cdp_now,
							   "",
							   PGC_SUSET, 0,
							   check_now, assign_now, NULL);
	DefineCustomIntVariable("cdp.replay_at_commit",
							"Size of the log up to which a change of identity rules is applied when it commits.",
							"Number of applied entries; above it, the applier does it in batches.  0 means always the applier.",
							&cdp_replay_at_commit,
							10000, 0, INT_MAX,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.sync_interval",
							"Time between looks of the worker at attached relations that no trigger watches.",
							"Views, foreign tables, and tables that have lost their triggers.  0 means never.",
							&cdp_sync_interval,
							60, 0, INT_MAX / 1000,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("cdp.window_chunk",
							"Number of items of a trait's window that are stored together.",
							"Of a node with more than twice as many, older ones stand in rows of their own.",
							&cdp_window_chunk,
							1000, 1, 1000000,
							PGC_SUSET, GUC_NOT_IN_SAMPLE,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("cdp");

	CdpStatementInit();
	CdpSegmentsInit();
	CdpApplyInit();
	CdpVisibilityInit();
}
