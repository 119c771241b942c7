/*-------------------------------------------------------------------------
 *
 * isotime.c
 *	  Times in payloads: ISO 8601, and nothing else.
 *
 *	  PostgreSQL's own input would read more (now, tomorrow, 1/2/2020) and
 *	  would read it by the session's DateStyle and TimeZone, so that the same
 *	  payload could mean two things.  Here a time without zone is UTC.
 *
 *	  Accepted: [+-]Y{4,6}-MM-DD, then T or a blank, hh:mm[:ss[.fraction]],
 *	  then Z, +hh, +hhmm or +hh:mm.  Digits past the microsecond are cut off.
 *
 * IDENTIFICATION
 *	  src/collect/isotime.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "collect/extract.h"

/*
 * Read between min and max digits; -1 when there are not as many.
 */
static int
digits(const char **s, const char *end, int min, int max)
{
	int			n;
	int			value = 0;

	for (n = 0; n < max && *s < end && **s >= '0' && **s <= '9'; n++)
		value = value * 10 + (*(*s)++ - '0');
	return n < min ? -1 : value;
}

static bool
literal(const char **s, const char *end, char c)
{
	if (*s >= end || **s != c)
		return false;
	(*s)++;
	return true;
}

bool
CdpParseIsoTime(const char *s, int len, TimestampTz *result)
{
	const char *end = s + len;
	int			sign = 1;
	int			year;
	int			month;
	int			day;
	int			hour = 0;
	int			minute = 0;
	int			second = 0;
	int			usec = 0;
	int			offset = 0;
	bool		long_year = false;
	int64		date;
	int64		t;

	if (len > 0 && (*s == '+' || *s == '-'))
	{
		sign = *s == '-' ? -1 : 1;
		long_year = true;
		s++;
	}
	year = digits(&s, end, 4, long_year ? 6 : 4);
	if (year < 0 || !literal(&s, end, '-') ||
		(month = digits(&s, end, 2, 2)) < 0 || !literal(&s, end, '-') ||
		(day = digits(&s, end, 2, 2)) < 0)
		return false;
	year *= sign;
	if (month < 1 || month > 12 || day < 1 ||
		day > day_tab[isleap(year)][month - 1] || !IS_VALID_JULIAN(year, month, day))
		return false;

	if (s < end)
	{
		if (*s != 'T' && *s != 't' && *s != ' ')
			return false;
		s++;
		if ((hour = digits(&s, end, 2, 2)) < 0 || !literal(&s, end, ':') ||
			(minute = digits(&s, end, 2, 2)) < 0)
			return false;
		if (literal(&s, end, ':'))
		{
			if ((second = digits(&s, end, 2, 2)) < 0)
				return false;
			if (s < end && (*s == '.' || *s == ','))
			{
				int			scale = 100000;

				s++;
				if (s >= end || *s < '0' || *s > '9')
					return false;
				for (; s < end && *s >= '0' && *s <= '9'; s++)
				{
					usec += (*s - '0') * scale;
					scale /= 10;
				}
			}
		}
		/* a leap second is the next second; 24:00 is the next day */
		if (hour > 24 || minute > 59 || second > 60 ||
			(hour == 24 && (minute > 0 || second > 0 || usec > 0)))
			return false;

		if (s < end && (*s == 'Z' || *s == 'z'))
			s++;
		else if (s < end && (*s == '+' || *s == '-'))
		{
			int			zone_sign = *s == '-' ? -1 : 1;
			int			zone_hour;
			int			zone_minute = 0;

			s++;
			if ((zone_hour = digits(&s, end, 2, 2)) < 0)
				return false;
			if (s < end)
			{
				(void) literal(&s, end, ':');
				if ((zone_minute = digits(&s, end, 2, 2)) < 0)
					return false;
			}
			if (zone_hour > 15 || zone_minute > 59)
				return false;
			offset = zone_sign * (zone_hour * SECS_PER_HOUR + zone_minute * SECS_PER_MINUTE);
		}
		if (s < end)
			return false;
	}

	date = date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
	if (pg_mul_s64_overflow(date, USECS_PER_DAY, &t) ||
		pg_add_s64_overflow(t, ((int64) hour * SECS_PER_HOUR +
								minute * SECS_PER_MINUTE + second - offset) * USECS_PER_SEC + usec, &t) ||
		!IS_VALID_TIMESTAMP(t))
		return false;
	*result = t;
	return true;
}

PG_FUNCTION_INFO_V1(cdp_iso_time);

/*
 * cdp.iso_time(text): as entries are read; NULL for what is no such time.
 */
Datum
cdp_iso_time(PG_FUNCTION_ARGS)
{
	text	   *string = PG_GETARG_TEXT_PP(0);
	TimestampTz result;

	if (!CdpParseIsoTime(VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string), &result))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(result);
}
