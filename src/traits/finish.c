/*-------------------------------------------------------------------------
 *
 * finish.c
 *	  From the states of an aggregate to its value at an instant.
 *
 *	  Nothing here may fail: a profile's values are computed while applying.
 *
 * IDENTIFICATION
 *	  src/traits/finish.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "traits/state.h"

static Numeric
divide(Numeric a, Numeric b)
{
	return numeric_div_opt_error(a, b, NULL);
}

/* sqrt((n * sum of squares - sum * sum) / (n * (n - 1))); n * n for a population. */
static bool
finish_stddev(const CdpState *state, Datum *value)
{
	bool		population = state->rules->population;
	Numeric		n = int64_to_numeric(state->n);
	Numeric		m = int64_to_numeric(population ? state->n : state->n - 1);
	Numeric		zero = int64_to_numeric(0);
	Numeric		sum = DatumGetNumeric(state->value);
	Numeric		above;

	if (state->n < (population ? 1 : 2))
		return false;
	above = numeric_sub_opt_error(numeric_mul_opt_error(n, DatumGetNumeric(state->value2), NULL),
								  numeric_mul_opt_error(sum, sum, NULL), NULL);
	/* rounding of very small numbers must not make it negative */
	if (DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(above),
										  NumericGetDatum(zero))) <= 0)
		*value = NumericGetDatum(zero);
	else
		*value = DirectFunctionCall1(numeric_sqrt,
									 NumericGetDatum(divide(above, numeric_mul_opt_error(n, m, NULL))));
	return true;
}

/* An array of the items' values, backwards or not. */
static Datum
finish_list(const CdpState *state, bool backwards)
{
	JsonbParseState *parse = NULL;
	JsonbValue	v;

	pushJsonbValue(&parse, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < state->nitems; i++)
	{
		const CdpItem *item = &state->items[backwards ? state->nitems - 1 - i : i];

		CdpValueToJsonbValue(item->value, false, state->rules->type, &v);
		pushJsonbValue(&parse, WJB_ELEM, &v);
	}
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&parse, WJB_END_ARRAY, NULL)));
}

/* Of n values the smallest such that the part p of all is not greater. */
int64
CdpPercentileRank(const CdpStateRules *rules, int64 n)
{
	/* as in two halves, so that it cannot overflow */
	int64		rank = n / 1000000 * rules->ppm +
		(n % 1000000 * rules->ppm + 999999) / 1000000;

	return Max(rank, 1);
}

static Datum
finish_percentile(const CdpState *state)
{
	int64		n = 0;
	int64		rank;
	int64		seen = 0;
	int			i;

	for (i = 0; i < state->nitems; i++)
		n += state->items[i].count;
	rank = CdpPercentileRank(state->rules, n);
	for (i = 0; i < state->nitems - 1; i++)
	{
		seen += state->items[i].count;
		if (seen >= rank)
			break;
	}
	return state->sketched ? CdpSketchMiddle(state->items[i].at) :
		state->items[i].value;
}

static Datum
microseconds(int64 span)
{
	Interval   *result = (Interval *) palloc0(sizeof(Interval));

	result->time = span;
	return IntervalPGetDatum(result);
}

static bool
finish_sessions(const CdpState *state, Datum *value)
{
	int64		sessions = state->nitems + state->closed;
	int64		time = state->closed_length;
	int64		entries = state->closed_count;

	if (state->rules->aggregate == CDP_AGG_SESSIONS)
	{
		*value = Int64GetDatum(sessions);
		return true;
	}
	if (state->nitems == 0)
		return false;
	for (int i = 0; i < state->nitems; i++)
	{
		int64		span;

		/* no entries add up to so much, but what was received may say so */
		if (pg_sub_s64_overflow(state->items[i].end, state->items[i].at, &span) ||
			pg_add_s64_overflow(time, span, &time))
			time = PG_INT64_MAX;
		if (pg_add_s64_overflow(entries, state->items[i].count, &entries))
			entries = PG_INT64_MAX;
	}
	switch (state->rules->aggregate)
	{
		case CDP_AGG_SESSION_TIME:
			*value = microseconds(time);
			break;
		case CDP_AGG_SESSION_LENGTH:
			*value = microseconds(time / sessions);
			break;
		default:
			*value = NumericGetDatum(divide(int64_to_numeric(entries),
											int64_to_numeric(sessions)));
			break;
	}
	return true;
}

static bool
finish_streak(const CdpState *state, TimestampTz now, Datum *value,
			  TimestampTz *next)
{
	const CdpStateRules *rules = state->rules;
	int64		today = CdpLocalPeriod(now, rules);
	int64		length = 0;
	int64		change = 0;
	bool		changes = false;

	if (rules->aggregate == CDP_AGG_LONGEST_STREAK)
	{
		length = state->closed_length;
		for (int i = 0; i < state->nitems; i++)
			length = Max(length, state->items[i].end - state->items[i].at + 1);
		*value = Int64GetDatum(length);
		return true;
	}
	/* the last one that has begun; it lives until a whole period was left out */
	for (int i = state->nitems - 1; i >= 0; i--)
	{
		const CdpItem *item = &state->items[i];

		if (item->at > today)
		{
			change = item->at;
			changes = true;
			continue;
		}
		if (item->end >= today - 1)
		{
			length = Min(item->end, today) - item->at + 1;
			change = item->end > today ? today + 1 : item->end + 2;
			changes = true;
		}
		break;
	}
	if (changes && rules->watched)
	{
		TimestampTz at = CdpLocalPeriodStart(now, change, rules);

		if (at < *next)
			*next = at;
	}
	*value = Int64GetDatum(length);
	return state->nitems > 0;
}

static Datum
finish_rate(const CdpState *state, TimestampTz now, TimestampTz *next)
{
	const CdpStateRules *rules = state->rules;
	int64		days = CdpLocalDay(now, rules) - CdpLocalDay(state->at, rules) + 1;

	if (rules->watched)
	{
		TimestampTz at = CdpNextLocalDay(now, rules);

		if (at < *next)
			*next = at;
	}
	return NumericGetDatum(divide(int64_to_numeric(state->n),
								  int64_to_numeric(Max(days, 1))));
}

static bool
finish_one(const CdpState *state, TimestampTz now, Datum *value, TimestampTz *next)
{
	const CdpStateRules *rules = state->rules;
	int			best = 0;

	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
			*value = Int64GetDatum(state->n);
			return true;
		case CDP_AGG_EXISTS:
			*value = BoolGetDatum(state->n > 0);
			return true;
		case CDP_AGG_UNIQUE_COUNT:
			*value = Int64GetDatum(state->registers ? CdpSketchEstimate(state->registers)
								   : (int64) state->nitems);
			return true;
		case CDP_AGG_SESSIONS:
		case CDP_AGG_SESSION_TIME:
		case CDP_AGG_SESSION_LENGTH:
		case CDP_AGG_SESSION_EVENTS:
			return finish_sessions(state, value);
		case CDP_AGG_STREAK:
		case CDP_AGG_LONGEST_STREAK:
			return finish_streak(state, now, value, next);
		default:
			break;
	}

	/* the others have no value without an item */
	if (CdpStateIsEmpty(state))
		return false;
	switch (rules->aggregate)
	{
		case CDP_AGG_AVG:
			*value = NumericGetDatum(divide(DatumGetNumeric(state->value),
											int64_to_numeric(state->n)));
			return true;
		case CDP_AGG_STDDEV:
			return finish_stddev(state, value);
		case CDP_AGG_SUM:
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			*value = state->value;
			return true;
		case CDP_AGG_FIRST_TIME:
		case CDP_AGG_LAST_TIME:
			*value = TimestampTzGetDatum(state->at);
			return true;
		case CDP_AGG_RATE:
			*value = finish_rate(state, now, next);
			return true;
		case CDP_AGG_LIST:
			*value = finish_list(state, true);
			return true;
		case CDP_AGG_UNIQUE_LIST:
			*value = finish_list(state, false);
			return true;
		case CDP_AGG_CONSENT:
		case CDP_AGG_CONSENT_LATEST:
			return CdpConsentFinish(state, now, value, next);
		case CDP_AGG_PERCENTILE:
			*value = finish_percentile(state);
			return true;
		case CDP_AGG_MOST_FREQUENT:
			for (int i = 1; i < state->nitems; i++)
				if (state->items[i].count > state->items[best].count)
					best = i;
			*value = state->items[best].value;
			return true;
		case CDP_AGG_LEAST_FREQUENT:
			for (int i = 1; i < state->nitems; i++)
				if (state->items[i].count < state->items[best].count)
					best = i;
			*value = state->items[best].value;
			return true;
		default:
			elog(ERROR, "unexpected aggregate %d", (int) rules->aggregate);
	}
	return false;
}

/*
 * Add the items that are in the window to a state without window; *next is
 * lowered to the first later instant at which that changes.  True when nothing
 * that is older matters, for the last ones of a list are found.
 */
bool
CdpStateInside(const CdpState *state, CdpState *into, TimestampTz now, TimestampTz *next)
{
	bool		limited = state->rules->granularity == 0 &&
		(into->rules->aggregate == CDP_AGG_LIST ||
		 into->rules->aggregate == CDP_AGG_UNIQUE_LIST);

	for (int i = 0; i < state->nitems; i++)
	{
		/* a list wants the latest ones first */
		const CdpItem *item = &state->items[limited ? state->nitems - 1 - i : i];

		if (limited && into->nitems >= into->rules->size)
		{
			const CdpItem *oldest = CdpStateOldest(into);

			/* those of the same time may be in another chunk */
			if (item->at < oldest->at)
				return true;
			if (CdpCompareItems(state->rules, item, oldest) < 0)
				continue;
		}
		if (item->begin > now)
		{
			if (item->begin < *next)
				*next = item->begin;
		}
		else if (item->end > now)
		{
			if (item->end < *next)
				*next = item->end;
			if (state->rules->granularity > 0)
				CdpStateCombine(into, CdpCellSum(item));
			else
				CdpStateAdd(into, item->value, item->at, 0, 0, item->tie);
		}
	}
	return false;
}

static bool
in_chunks(CdpState **states, int nstates)
{
	for (int i = 0; i < nstates; i++)
		if (states[i]->chunks != NULL)
			return true;
	return false;
}

/*
 * Do the items that are in no chunk have all values of a list of the last ones?
 */
static bool
latest_are_enough(CdpState **states, int nstates, CdpState *into, TimestampTz now,
				  TimestampTz *next)
{
	bool		enough = true;

	for (int i = 0; i < nstates; i++)
		if (!CdpStateInside(states[i], into, now, next) && states[i]->chunks != NULL)
			enough = false;
	return enough;
}

/*
 * The value of the states together, as of now; false when it is NULL.  *next
 * is lowered to the first later instant at which it changes by itself.
 * count, exists and unique_count of nothing are 0 and false.
 */
bool
CdpStateFinish(const CdpStateRules *rules, CdpState **states, int nstates,
			   TimestampTz now, Datum *value, TimestampTz *next)
{
	CdpState	empty = {0};
	CdpState   *state;
	CdpStateRules plain;

	if (rules->windowed)
	{
		/* the window's items as a state without window */
		if (rules->granularity > 0)
			plain = *rules->cell;
		else
			CdpStateRulesPlain(&plain, rules);
		plain.watched = rules->watched;
		empty.rules = &plain;
		state = &empty;
		if (rules->shape == CDP_SHAPE_VALUES && in_chunks(states, nstates))
		{
			bool		has_value;

			if (rules->aggregate == CDP_AGG_UNIQUE_LIST &&
				latest_are_enough(states, nstates, state, now, next))
				return finish_one(state, now, value, next);
			memset(&empty, 0, sizeof(empty));
			empty.rules = &plain;
			if (CdpTallyFinish(states, nstates, state, now, value, &has_value, next))
				return has_value;
			return finish_one(state, now, value, next);
		}
		for (int i = 0; i < nstates; i++)
		{
			if (!CdpStateInside(states[i], state, now, next))
				CdpChunksFinish(states, nstates, i, state, now, next);
		}
	}
	else if (nstates == 1)
		state = states[0];
	else
	{
		empty.rules = rules;
		state = &empty;
		for (int i = 0; i < nstates; i++)
			CdpStateCombine(state, states[i]);
	}
	return finish_one(state, now, value, next);
}
