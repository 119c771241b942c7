/*-------------------------------------------------------------------------
 *
 * sequence.c
 *	  did_in_order: has a profile done one thing after the other?
 *
 *	  The entries that match a step are a hidden trait, a list of their times
 *	  and keys in order (vocabulary.c).  This looks for the steps in it, as of
 *	  an instant, and notes when the answer changes by itself.
 *
 *	  A story begins with an entry that matches the first step.  Each further
 *	  step is the first entry after the step before that has the same key and
 *	  comes before the story's time is over; the last step is the latest such
 *	  entry, since what must not follow must not follow that one.
 *
 * IDENTIFICATION
 *	  src/segments/sequence.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "segments/predicate.h"

/* What is looked for: see CdpSequenceRules. */
typedef struct Rules
{
	int			nsteps;
	bool		then_not;
	Interval   *within;			/* NULL: any time */
	Interval   *newer;			/* NULL: ever */
} Rules;

/* An entry: for each step and for what must not follow, the hash of its key. */
typedef struct Happening
{
	TimestampTz at;
	uint64		keys[CDP_MAX_STEPS + 1];	/* 0: does not match */
} Happening;

/*
 * The rules as a text that vocabulary.c writes into the expression.
 */
char *
CdpSequenceRules(int nsteps, bool then_not, const char *within, const char *newer)
{
	return psprintf("%d,%d;%s;%s", nsteps, then_not ? 1 : 0, within ? within : "",
					newer ? newer : "");
}

Interval *
CdpIntervalFromRules(const char *string)
{
	if (string[0] == '\0')
		return NULL;
	return DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(string),
												 ObjectIdGetDatum(InvalidOid),
												 Int32GetDatum(-1)));
}

static void
read_rules(const text *string, Rules *rules)
{
	char	   *s = text_to_cstring(string);
	char	   *within = strchr(s, ';');
	char	   *newer = within ? strchr(within + 1, ';') : NULL;
	int			then_not;

	if (newer == NULL || sscanf(s, "%d,%d", &rules->nsteps, &then_not) != 2 ||
		rules->nsteps < 1 || rules->nsteps > CDP_MAX_STEPS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid rules of a sequence: \"%s\"", s)));
	*newer = '\0';
	rules->then_not = then_not != 0;
	rules->within = CdpIntervalFromRules(within + 1);
	rules->newer = CdpIntervalFromRules(newer + 1);
}

static TimestampTz
later(TimestampTz at, const Interval *by)
{
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(at),
												   IntervalPGetDatum(by)));
}

/*
 * One element of the list: [at, key or null, …].
 */
static void
read_item(JsonbContainer *container, const Rules *rules, Happening *item)
{
	int			n = rules->nsteps + (rules->then_not ? 1 : 0);
	JsonbValue *v = getIthJsonbValueFromContainer(container, 0);

	memset(item, 0, sizeof(Happening));
	if (v == NULL || v->type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid list of a sequence")));
	item->at = DatumGetInt64(DirectFunctionCall1(numeric_int8,
												 NumericGetDatum(v->val.numeric))) -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	for (int i = 0; i < n; i++)
	{
		v = getIthJsonbValueFromContainer(container, i + 1);
		if (v == NULL || v->type != jbvString)
			continue;
		item->keys[i] =
			DatumGetUInt64(hash_any_extended((unsigned char *) v->val.string.val,
											 v->val.string.len, 0));
		if (item->keys[i] == 0)
			item->keys[i] = 1;
	}
}

/*
 * The items that have happened by now; those to come are noted.
 */
static Happening *
read_items(Jsonb *list, const Rules *rules, TimestampTz now, int *n)
{
	int			max = JB_ROOT_IS_ARRAY(list) ? JB_ROOT_COUNT(list) : 0;
	Happening	   *items = palloc(Max(max, 1) * sizeof(Happening));

	*n = 0;
	/* a list begins with its latest element */
	for (int i = max - 1; i >= 0; i--)
	{
		JsonbValue *v = getIthJsonbValueFromContainer(&list->root, i);

		if (v->type != jbvBinary)
			continue;
		read_item(v->val.binary.data, rules, &items[*n]);
		if (items[*n].at > now)
			CdpClockNote(now, items[*n].at);
		else
			(*n)++;
	}
	return items;
}

/*
 * The first, or last, item behind "from" that matches a step before "until";
 * -1: none.
 */
static int
find(const Happening *items, int n, int from, int step, uint64 key, TimestampTz until, bool last)
{
	int			found = -1;

	for (int i = from + 1; i < n && items[i].at < until; i++)
	{
		if (items[i].keys[step] != key)
			continue;
		found = i;
		if (!last)
			break;
	}
	return found;
}

static bool
story_holds(const Happening *items, int n, int start, const Rules *rules, TimestampTz now)
{
	uint64		key = items[start].keys[0];
	TimestampTz until = rules->within ? later(items[start].at, rules->within) : DT_NOEND;
	int			position = start;

	for (int step = 1; step < rules->nsteps; step++)
	{
		position = find(items, n, position, step, key, until, step == rules->nsteps - 1);
		if (position < 0)
			return false;
	}
	if (rules->then_not)
	{
		if (find(items, n, position, rules->nsteps, key, DT_NOEND, false) >= 0)
			return false;
		if (rules->within && now < until)
		{
			CdpClockNote(now, until);
			return false;
		}
	}
	if (rules->newer)
	{
		TimestampTz end = later(items[position].at, rules->newer);

		if (now >= end)
			return false;
		CdpClockNote(now, end);
	}
	return true;
}

PG_FUNCTION_INFO_V1(cdp_sequence_is);

/*
 * cdp.sequence_is(now, list, rules), and cdp.sequence_at: the same in the time
 * zone of the session.
 */
Datum
cdp_sequence_is(PG_FUNCTION_ARGS)
{
	TimestampTz now;
	Rules		rules = {0};
	Happening	   *items;
	int			n;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_BOOL(false);
	now = PG_GETARG_TIMESTAMPTZ(0);
	read_rules(PG_GETARG_TEXT_PP(2), &rules);
	items = read_items(PG_GETARG_JSONB_P(1), &rules, now, &n);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (items[i].keys[0] != 0 && story_holds(items, n, i, &rules, now))
			PG_RETURN_BOOL(true);
	}
	PG_RETURN_BOOL(false);
}
