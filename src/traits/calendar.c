/*-------------------------------------------------------------------------
 *
 * calendar.c
 *	  Days and weeks in a time zone, and windows in calendar units.
 *
 * IDENTIFICATION
 *	  src/traits/calendar.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "traits/traitset.h"

/* A time in the year 290000: anything later has windows without end. */
#define CDP_WINDOW_LAST		INT64CONST(9088000000000000000)

/* Changes of the clock that are looked at in search of the next midnight. */
#define MAX_TRANSITIONS		8

/* Periods that are looked ahead for a change: a timer may come early. */
#define MAX_PERIODS			16

static int64
floor_div(int64 a, int64 b)
{
	int64		q = a / b;

	return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

/*
 * Months or days later by the local calendar; DT_NOEND: never.
 */
static TimestampTz
local_later(TimestampTz at, int32 months, int32 days, pg_tz *zone, bool utc)
{
	Interval	interval = { .month = months, .day = days };
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	Timestamp	local = at;
	TimestampTz result;

	if (!utc &&
		(timestamp2tm(at, &tz, &tm, &fsec, NULL, zone) != 0 ||
		 tm2timestamp(&tm, fsec, NULL, &local) != 0))
		return DT_NOEND;
	/* adding an interval must not fail: at most 1000 years, see definition.c */
	if (local > CDP_WINDOW_LAST)
		return DT_NOEND;
	local = DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
												  TimestampGetDatum(local),
												  IntervalPGetDatum(&interval)));
	if (utc)
		return local;
	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return DT_NOEND;
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, fsec, &tz, &result) != 0)
		return DT_NOEND;
	return result;
}

/*
 * at + interval, as the server computes it in a session of that time zone:
 * months and days go by the local calendar, hours take as long as they do.
 */
TimestampTz
CdpLocalShift(TimestampTz at, const Interval *interval, pg_tz *zone, bool utc)
{
	TimestampTz result = at;

	if (interval->month != 0)
		result = local_later(result, interval->month, 0, zone, utc);
	if (interval->day != 0 && result != DT_NOEND)
		result = local_later(result, 0, interval->day, zone, utc);
	if (result == DT_NOEND ||
		pg_add_s64_overflow(result, interval->time, &result) || !IS_VALID_TIMESTAMP(result))
		return DT_NOEND;
	return result;
}

/* Number of the local day, 0 being 2000-01-01. */
static int64
local_day(TimestampTz at, const CdpStateRules *rules)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;

	if (rules->utc || timestamp2tm(at, &tz, &tm, &fsec, NULL, rules->tz) != 0)
		return floor_div(at, USECS_PER_DAY);
	return date2j(tm.tm_year, tm.tm_mon, tm.tm_mday) - POSTGRES_EPOCH_JDATE;
}

int64
CdpLocalDay(TimestampTz at, const CdpStateRules *rules)
{
	return local_day(at, rules);
}

/* Number of the local day or week (from Monday) of a streak. */
int64
CdpLocalPeriod(TimestampTz at, const CdpStateRules *rules)
{
	int64		day = local_day(at, rules);

	/* 2000-01-03 was a Monday */
	return rules->weeks ? floor_div(day - 2, 7) : day;
}

/*
 * The next instant at which the local date is another one, exactly: between
 * two changes of the clock local time runs on evenly.
 */
TimestampTz
CdpNextLocalDay(TimestampTz at, const CdpStateRules *rules)
{
	int64		day = local_day(at, rules);
	TimestampTz from = at;

	if (rules->utc)
		return (floor_div(at, USECS_PER_DAY) + 1) * USECS_PER_DAY;
	for (int i = 0; i < MAX_TRANSITIONS; i++)
	{
		pg_time_t	t = floor_div(from, USECS_PER_SEC) +
			(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY;
		pg_time_t	boundary;
		long int	before;
		long int	after;
		int			before_isdst;
		int			after_isdst;
		TimestampTz midnight;
		TimestampTz change = DT_NOEND;
		int			found;

		found = pg_next_dst_boundary(&t, &before, &before_isdst, &boundary,
									 &after, &after_isdst, rules->tz);
		if (found < 0)
			break;
		midnight = (floor_div(from + before * USECS_PER_SEC, USECS_PER_DAY) + 1) *
			USECS_PER_DAY - before * USECS_PER_SEC;
		if (found > 0)
			change = (boundary - (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY) *
				USECS_PER_SEC;
		if (midnight < change)
			return midnight;
		if (local_day(change, rules) != day)
			return change;
		from = change;
	}
	/* a zone without rules for this time: too early does no harm */
	return at + USECS_PER_HOUR;
}

/*
 * The next instant at which the period may be "period" or later.  Never after
 * it; before it only when it is far away.
 */
TimestampTz
CdpLocalPeriodStart(TimestampTz now, int64 period, const CdpStateRules *rules)
{
	TimestampTz at = now;

	for (int i = 0; i < (rules->weeks ? 7 : 1) * MAX_PERIODS; i++)
	{
		at = CdpNextLocalDay(at, rules);
		if (CdpLocalPeriod(at, rules) >= period)
			break;
	}
	return at;
}
