/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The algebra of states: make, add an item, combine.
 *
 *	  Values that compare equal may still differ in their bytes (1.0 and 1.00).
 *	  Wherever one of them is kept it is the one with the smallest image, so
 *	  that the result does not depend on which came first.
 *
 * IDENTIFICATION
 *	  src/traits/state.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "traits/state.h"

CdpState *
CdpStateMake(const CdpStateRules *rules)
{
	CdpState   *state = (CdpState *) palloc0(sizeof(CdpState));

	state->rules = rules;
	return state;
}

bool
CdpStateIsEmpty(const CdpState *state)
{
	return state->n == 0 && !state->has_value && state->nitems == 0 &&
		state->registers == NULL && (state->chunks == NULL || state->chunks->n == 0);
}

static Datum
copy_value(const CdpStateRules *rules, Datum value)
{
	if (rules->typbyval)
		return value;
	if (rules->typlen == -1)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return datumCopy(value, false, rules->typlen);
}

static text *
copy_text(const text *value)
{
	text	   *result;
	Size		size;

	if (value == NULL)
	{
		result = (text *) palloc(VARHDRSZ);
		SET_VARSIZE(result, VARHDRSZ);
		return result;
	}
	size = VARSIZE_ANY(value);
	result = (text *) palloc(size);
	memcpy(result, value, size);
	return result;
}

/*
 * Compare the images of two values: a total order of no other meaning.
 */
int
CdpCompareImages(const CdpStateRules *rules, Datum a, Datum b)
{
	if (rules->typbyval)
		return a < b ? -1 : a > b ? 1 : 0;
	if (rules->typlen == -1)
	{
		struct varlena *x = (struct varlena *) DatumGetPointer(a);
		struct varlena *y = (struct varlena *) DatumGetPointer(b);
		Size		lx = VARSIZE_ANY_EXHDR(x);
		Size		ly = VARSIZE_ANY_EXHDR(y);
		int			result = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), Min(lx, ly));

		if (result == 0 && lx != ly)
			result = lx < ly ? -1 : 1;
		return result;
	}
	return memcmp(DatumGetPointer(a), DatumGetPointer(b), rules->typlen);
}

/* Order of values that begin with a key, by that. */
static int
compare_keys(Datum a, Datum b)
{
	struct varlena *x = (struct varlena *) DatumGetPointer(a);
	struct varlena *y = (struct varlena *) DatumGetPointer(b);
	int			lx = Min(VARSIZE_ANY_EXHDR(x), CDP_CONSENT_KEY);
	int			ly = Min(VARSIZE_ANY_EXHDR(y), CDP_CONSENT_KEY);
	int			result = memcmp(VARDATA_ANY(x), VARDATA_ANY(y), Min(lx, ly));

	return result != 0 ? result : lx - ly;
}

/* Order of values by their type, text bytewise. */
int
CdpCompareValues(const CdpStateRules *rules, Datum a, Datum b)
{
	if (rules->keyed)
		return compare_keys(a, b);
	if (rules->cmp == NULL)
		return CdpCompareImages(rules, a, b);
	return DatumGetInt32(FunctionCall2Coll(rules->cmp, C_COLLATION_OID, a, b));
}

static int
compare_values_total(const CdpStateRules *rules, Datum a, Datum b)
{
	int			result = CdpCompareValues(rules, a, b);

	return result != 0 ? result : CdpCompareImages(rules, a, b);
}

/* Order of entries; a tie that is NULL is empty: before all others. */
static int
compare_order(TimestampTz at_a, const text *tie_a, TimestampTz at_b, const text *tie_b)
{
	if (at_a != at_b)
		return at_a < at_b ? -1 : 1;
	if (tie_a != NULL && tie_b != NULL)
		return CdpOrderCompare(at_a, tie_a, at_b, tie_b);
	if (tie_a != NULL)
		return VARSIZE_ANY_EXHDR(tie_a) > 0 ? 1 : 0;
	return tie_b != NULL && VARSIZE_ANY_EXHDR(tie_b) > 0 ? -1 : 0;
}

/* Order of the items of a window: total, so that equal states are equal bytes. */
int
CdpCompareItems(const CdpStateRules *rules, const CdpItem *a, const CdpItem *b)
{
	int			result;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	if (rules->has_tie)
	{
		result = compare_order(a->at, a->tie, b->at, b->tie);
		if (result != 0)
			return result;
	}
	if (rules->has_value)
	{
		result = compare_values_total(rules, a->value, b->value);
		if (result != 0)
			return result;
	}
	if (a->begin != b->begin)
		return a->begin < b->begin ? -1 : 1;
	return a->end < b->end ? -1 : a->end > b->end ? 1 : 0;
}

void
CdpStateReserve(CdpState *state, int64 needed)
{
	if (needed <= state->maxitems)
		return;
	if (needed > MaxAllocHugeSize / 2 / sizeof(CdpItem) || needed > PG_INT32_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("state of a trait has too many items")));
	state->maxitems = Max(needed, state->maxitems == 0 ? 4 : 2 * (int64) state->maxitems);
	if (state->items == NULL)
		state->items = MemoryContextAllocHuge(CurrentMemoryContext,
											  state->maxitems * sizeof(CdpItem));
	else
		state->items = repalloc_huge(state->items,
									 state->maxitems * sizeof(CdpItem));
}

/*
 * Position of the first item that is not before "item" (by value where each
 * value is there once); *found when it is equal.
 */
static int
search(const CdpState *state, const CdpItem *item, bool by_value, bool *found)
{
	const CdpStateRules *rules = state->rules;
	int			low = 0;
	int			high = state->nitems;

	*found = false;
	/* entries mostly arrive in order */
	if (high > 0 && !by_value &&
		CdpCompareItems(rules, &state->items[high - 1], item) <= 0)
		return high;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		int			result;

		if (by_value)
			result = CdpCompareValues(rules, state->items[middle].value, item->value);
		else
			result = CdpCompareItems(rules, &state->items[middle], item);
		if (result < 0)
			low = middle + 1;
		else
		{
			if (result == 0)
				*found = true;
			high = middle;
		}
	}
	return low;
}

static void
insert_item(CdpState *state, int position, const CdpItem *item)
{
	CdpStateReserve(state, (int64) state->nitems + 1);
	memmove(&state->items[position + 1], &state->items[position],
			(state->nitems - position) * sizeof(CdpItem));
	state->items[position] = *item;
	state->nitems++;
}

static void
remove_items(CdpState *state, int position, int n)
{
	memmove(&state->items[position], &state->items[position + n],
			(state->nitems - position - n) * sizeof(CdpItem));
	state->nitems -= n;
}

/* Counts of states that come from outside may be anything. */
static int64
add_counts(int64 a, int64 b)
{
	int64		result;

	if (pg_add_s64_overflow(a, b, &result))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("count of a trait's state is out of range")));
	return result;
}

/* Add an amount to a sum. */
static void
add_numeric(CdpState *state, Datum *sum, Datum value)
{
	if (!state->has_value)
		*sum = copy_value(state->rules, value);
	else
	{
		Datum		old = *sum;

		*sum = NumericGetDatum(numeric_add_opt_error(DatumGetNumeric(old),
													 DatumGetNumeric(value),
													 NULL));
		pfree(DatumGetPointer(old));
	}
}

static void
keep(CdpState *state, Datum value)
{
	if (state->has_value && !state->rules->typbyval)
		pfree(DatumGetPointer(state->value));
	state->value = copy_value(state->rules, value);
	state->has_value = true;
}

/* min, max: is value to be kept instead of the state's? */
static void
keep_extreme(CdpState *state, Datum value)
{
	int			result;

	if (state->has_value)
	{
		result = CdpCompareValues(state->rules, value, state->value);
		if (state->rules->aggregate == CDP_AGG_MAX)
			result = -result;
		if (result == 0)
			result = CdpCompareImages(state->rules, value, state->value);
		if (result >= 0)
			return;
	}
	keep(state, value);
}

/* first, last: the item with the smallest (greatest) (at, tie, value). */
static void
keep_end(CdpState *state, Datum value, TimestampTz at, const text *tie)
{
	if (state->has_value)
	{
		int			result = compare_order(at, tie, state->at, state->tie);

		if (result == 0)
			result = compare_values_total(state->rules, value, state->value);
		if (state->rules->aggregate == CDP_AGG_LAST)
			result = -result;
		if (result >= 0)
			return;
		pfree(state->tie);
	}
	keep(state, value);
	state->at = at;
	state->tie = copy_text(tie);
}

/* Fold n items, or a state of as many, into a state without items. */
static void
add_scalar(CdpState *state, int64 n, Datum value, Datum value2, TimestampTz at,
		   const text *tie)
{
	switch (state->rules->aggregate)
	{
		case CDP_AGG_COUNT:
			state->n = add_counts(state->n, n);
			break;
		case CDP_AGG_EXISTS:
			state->n = 1;
			break;
		case CDP_AGG_AVG:
			state->n = add_counts(state->n, n);
			add_numeric(state, &state->value, value);
			state->has_value = true;
			break;
		case CDP_AGG_STDDEV:
			state->n = add_counts(state->n, n);
			add_numeric(state, &state->value, value);
			add_numeric(state, &state->value2, value2);
			state->has_value = true;
			break;
		case CDP_AGG_SUM:
			add_numeric(state, &state->value, value);
			state->has_value = true;
			break;
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			keep_extreme(state, value);
			break;
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			keep_end(state, value, at, tie);
			break;
		case CDP_AGG_FIRST_TIME:
			state->at = state->n == 0 ? at : Min(state->at, at);
			state->n = 1;
			break;
		case CDP_AGG_LAST_TIME:
			state->at = state->n == 0 ? at : Max(state->at, at);
			state->n = 1;
			break;
		case CDP_AGG_RATE:
			state->at = state->n == 0 ? at : Min(state->at, at);
			state->n = add_counts(state->n, n);
			break;
		default:
			elog(ERROR, "unexpected aggregate %d", (int) state->rules->aggregate);
	}
}

/*
 * Values, each once.
 */

/* A histogram's bucket gets count more. */
static int
add_bucket(CdpState *state, int64 bucket, int64 count)
{
	CdpItem		item = {0};
	int			low = 0;
	int			high = state->nitems;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (state->items[middle].at < bucket)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < state->nitems && state->items[low].at == bucket)
	{
		state->items[low].count = add_counts(state->items[low].count, count);
		return -1;
	}
	item.at = bucket;
	item.count = count;
	insert_item(state, low, &item);
	return low;
}

/* From now on a sketch, without the values. */
static void
make_sketch(CdpState *state)
{
	CdpItem    *items = state->items;
	int			n = state->nitems;

	state->items = NULL;
	state->nitems = state->maxitems = 0;
	if (state->rules->aggregate == CDP_AGG_UNIQUE_COUNT)
		state->registers = (uint8 *) palloc0(CDP_SKETCH_REGISTERS);
	else
		state->sketched = true;
	for (int i = 0; i < n; i++)
	{
		if (state->registers)
			CdpSketchAddValue(state->registers, state->rules, items[i].value);
		else
			(void) add_bucket(state, CdpSketchBucket(items[i].value), items[i].count);
	}
	if (items)
		pfree(items);
}

static int
compare_age(const void *a, const void *b, void *arg)
{
	const CdpItem *x = *(const CdpItem *const *) a;
	const CdpItem *y = *(const CdpItem *const *) b;
	int			result = compare_order(x->at, x->tie, y->at, y->tie);

	return result != 0 ? result :
		compare_values_total((const CdpStateRules *) arg, x->value, y->value);
}

/* Which item of a list, or of a list of different values, is the oldest? */
const CdpItem *
CdpStateOldest(const CdpState *state)
{
	const CdpItem *oldest = &state->items[0];

	for (int i = 1; state->rules->shape == CDP_SHAPE_VALUES && i < state->nitems; i++)
	{
		const CdpItem *item = &state->items[i];

		if (compare_age(&item, &oldest, unconstify(CdpStateRules *, state->rules)) < 0)
			oldest = item;
	}
	return oldest;
}

/* Forget the values that were seen last the longest time ago. */
static void
forget_oldest(CdpState *state)
{
	int			excess = state->nitems - state->rules->size;
	int			kept = 0;
	CdpItem   **order;

	if (excess <= 0)
		return;
	if (excess == 1)
	{
		remove_items(state, CdpStateOldest(state) - state->items, 1);
		return;
	}
	order = (CdpItem **) palloc(mul_size(state->nitems, sizeof(CdpItem *)));
	for (int i = 0; i < state->nitems; i++)
		order[i] = &state->items[i];
	qsort_arg(order, state->nitems, sizeof(CdpItem *), compare_age,
			  unconstify(CdpStateRules *, state->rules));
	for (int i = 0; i < excess; i++)
		order[i]->count = 0;
	for (int i = 0; i < state->nitems; i++)
		if (state->items[i].count > 0)
			state->items[kept++] = state->items[i];
	state->nitems = kept;
	pfree(order);
}

/* Keep a state of values within its bounds. */
static void
limit_values(CdpState *state)
{
	const CdpStateRules *rules = state->rules;

	if (rules->aggregate == CDP_AGG_UNIQUE_LIST)
		forget_oldest(state);
	else if (state->nitems > CDP_EXACT_VALUES && !rules->exact && !state->sketched &&
			 (rules->aggregate == CDP_AGG_PERCENTILE ||
			  (rules->aggregate == CDP_AGG_UNIQUE_COUNT && rules->hash != NULL)))
		make_sketch(state);
}

/*
 * "item" has the value of "old": what stays is the smallest image of all, or
 * for a list the latest.
 */
static void
join_values(const CdpStateRules *rules, CdpItem *old, const CdpItem *item)
{
	if (rules->has_tie)
	{
		int			result = compare_order(item->at, item->tie, old->at, old->tie);

		if (result == 0)
			result = CdpCompareImages(rules, item->value, old->value);
		if (result <= 0)
			return;
		old->at = item->at;
		old->tie = copy_text(item->tie);
		old->value = copy_value(rules, item->value);
		return;
	}
	if (rules->has_counts)
		old->count = add_counts(old->count, item->count);
	if (!rules->typbyval && CdpCompareImages(rules, item->value, old->value) < 0)
		old->value = copy_value(rules, item->value);
}

/* Returns the position of a new item, -1 when the value was known. */
static int
add_value(CdpState *state, const CdpItem *given)
{
	CdpItem		item;
	bool		found;
	int			position;

	if (state->registers != NULL)
	{
		CdpSketchAddValue(state->registers, state->rules, given->value);
		return -1;
	}
	if (state->sketched)
		return add_bucket(state, CdpSketchBucket(given->value), given->count);
	position = search(state, given, true, &found);
	if (found)
	{
		join_values(state->rules, &state->items[position], given);
		return -1;
	}
	item = *given;
	item.value = copy_value(state->rules, given->value);
	if (state->rules->has_tie)
		item.tie = copy_text(given->tie);
	insert_item(state, position, &item);
	limit_values(state);
	return position;
}

/*
 * Spans of time that are further apart than the gap.  A span that comes close
 * to others makes one of them; which it is added to first does not matter.
 */
static int
add_span(CdpState *state, const CdpItem *span)
{
	int64		gap = state->rules->gap;
	CdpItem		merged = *span;
	int			low = 0;
	int			high = state->nitems;
	int			last;

	/* entries mostly arrive in order */
	if (high > 0 && state->items[high - 1].end < span->at - gap)
		low = high;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (state->items[middle].end < span->at - gap)
			low = middle + 1;
		else
			high = middle;
	}
	for (last = low; last < state->nitems && state->items[last].at <= span->end + gap; last++)
	{
		merged.at = Min(merged.at, state->items[last].at);
		merged.end = Max(merged.end, state->items[last].end);
		merged.count = add_counts(merged.count, state->items[last].count);
	}
	if (last == low)
	{
		insert_item(state, low, &merged);
		return low;
	}
	state->items[low] = merged;
	remove_items(state, low + 1, last - low - 1);
	return -1;
}

/* Spans that lie between a state's items. */
static void
add_closed(CdpState *state, int64 n, int64 length, int64 count)
{
	state->closed += n;
	if (state->rules->has_counts)
		state->closed_length += length;
	else
		state->closed_length = Max(state->closed_length, length);
	state->closed_count += count;
}

/*
 * Keep two spans at either end, and of the others what they add up to.  What is
 * added later must not lie between them.  One span at either end grows when
 * something comes before or after; a second one where local days go back because
 * the clocks do.
 */
void
CdpStateClose(CdpState *state)
{
	int			n = state->nitems - 4;

	if (n <= 0)
		return;
	for (int i = 2; i < 2 + n; i++)
	{
		const CdpItem *item = &state->items[i];

		add_closed(state, 1, item->end - item->at + (state->rules->has_counts ? 0 : 1),
				   item->count);
	}
	remove_items(state, 2, n);
}

static int
add_to_list(CdpState *state, const CdpItem *given)
{
	CdpItem		item = *given;
	bool		found;
	int			position = search(state, given, false, &found);

	/* older than all, and there is no room for more */
	if (position == 0 && state->nitems >= state->rules->size)
		return -1;
	item.tie = copy_text(given->tie);
	item.value = copy_value(state->rules, given->value);
	insert_item(state, position, &item);
	if (state->nitems > state->rules->size)
		remove_items(state, 0, 1);
	return position;
}

/*
 * Fold an item in, as it is kept (see state.h).  Copies what it keeps into the
 * current context, which must be the state's.  Returns the position of the new
 * item, -1 where none is added.
 */
int
CdpStateAddItem(CdpState *state, CdpItem *item)
{
	if (state->rules->windowed)
	{
		bool		found;
		int			position;

		if (state->chunks != NULL)
		{
			CdpTallyFollow(state, item);
			if (CdpChunksAddItem(state, item))
				return -1;
		}
		if (state->rules->has_tie)
			item->tie = copy_text(item->tie);
		if (state->rules->has_value)
			item->value = copy_value(state->rules, item->value);
		position = search(state, item, false, &found);
		insert_item(state, position, item);
		return position;
	}
	switch (state->rules->shape)
	{
		case CDP_SHAPE_VALUES:
			/* what is received as a bucket is one */
			if (state->sketched)
				return add_bucket(state, item->at, item->count);
			return add_value(state, item);
		case CDP_SHAPE_LIST:
			return add_to_list(state, item);
		case CDP_SHAPE_SPANS:
			return add_span(state, item);
		default:
			elog(ERROR, "aggregate %d has no items", (int) state->rules->aggregate);
	}
	return -1;
}

/*
 * Fold one value or entry in.  tie may be NULL: empty.  begin and end matter
 * with a window only.
 */
int
CdpStateAdd(CdpState *state, Datum value, TimestampTz at, TimestampTz begin,
			TimestampTz end, const text *tie)
{
	const CdpStateRules *rules = state->rules;
	CdpItem		item = {0};

	if (!rules->windowed && rules->shape == CDP_SHAPE_SCALAR)
	{
		Datum		square = (Datum) 0;

		if (rules->aggregate == CDP_AGG_STDDEV)
			square = NumericGetDatum(numeric_mul_opt_error(DatumGetNumeric(value),
														   DatumGetNumeric(value),
														   NULL));
		add_scalar(state, 1, value, square, at, tie);
		return -1;
	}

	item.at = at;
	item.value = value;
	item.tie = unconstify(text *, tie);
	item.count = 1;
	if (rules->windowed)
	{
		item.begin = begin;
		item.end = end;
		/* one that never counts */
		if (end <= begin)
			return -1;
		if (rules->granularity > 0)
		{
			CdpCellAdd(state, value, at, begin, end, tie);
			return -1;
		}
	}
	else if (rules->shape == CDP_SHAPE_VALUES)
		return add_value(state, &item);
	else if (rules->shape == CDP_SHAPE_SPANS)
	{
		if (!rules->has_counts)
		{
			item.at = CdpLocalPeriod(at, rules);
			item.count = 0;
		}
		item.end = item.at;
	}
	return CdpStateAddItem(state, &item);
}

/* Merge the sorted items of "from" into "into". */
static void
merge_items(CdpState *into, const CdpState *from)
{
	const CdpStateRules *rules = into->rules;
	bool		by_value = !rules->windowed && rules->shape == CDP_SHAPE_VALUES;
	CdpState	merged = *into;
	int			i = 0;
	int			j = 0;

	merged.items = NULL;
	merged.nitems = merged.maxitems = 0;
	CdpStateReserve(&merged, (int64) into->nitems + from->nitems);
	while (i < into->nitems || j < from->nitems)
	{
		CdpItem    *item = &merged.items[merged.nitems++];
		int			result;

		if ((merged.nitems & 0xFFFF) == 0)
			CHECK_FOR_INTERRUPTS();
		if (i >= into->nitems)
			result = 1;
		else if (j >= from->nitems)
			result = -1;
		else if (by_value)
			result = CdpCompareValues(rules, into->items[i].value, from->items[j].value);
		else
			result = CdpCompareItems(rules, &into->items[i], &from->items[j]);

		if (result < 0 || (result == 0 && !by_value))
			*item = into->items[i++];
		else if (result > 0)
		{
			*item = from->items[j++];
			if (rules->has_tie)
				item->tie = copy_text(item->tie);
			if (rules->has_value)
				item->value = copy_value(rules, item->value);
		}
		else
		{
			*item = into->items[i++];
			join_values(rules, item, &from->items[j++]);
		}
	}
	if (into->items)
		pfree(into->items);
	*into = merged;
}

/* The same when one of them is a sketch: then both become one. */
static void
merge_sketches(CdpState *into, const CdpState *from)
{
	if (into->registers == NULL && !into->sketched)
		make_sketch(into);
	if (from->registers != NULL)
	{
		for (int i = 0; i < CDP_SKETCH_REGISTERS; i++)
			into->registers[i] = Max(into->registers[i], from->registers[i]);
		return;
	}
	for (int i = 0; i < from->nitems; i++)
	{
		if (from->sketched)
			(void) add_bucket(into, from->items[i].at, from->items[i].count);
		else
			(void) add_value(into, &from->items[i]);
	}
}

/*
 * into := into + from.  Both have the same rules; "from" is left alone, and
 * what is taken from it is copied into the current context.
 */
void
CdpStateCombine(CdpState *into, const CdpState *from)
{
	const CdpStateRules *rules = into->rules;

	if (CdpStateIsEmpty(from))
		return;
	if (rules->granularity > 0)
	{
		CdpCellsCombine(into, from);
		return;
	}
	if (rules->windowed)
	{
		if (from->chunks != NULL)
			CdpChunksTakeBack(into, unconstify(CdpState *, from));
		merge_items(into, from);
		return;
	}
	switch (rules->shape)
	{
		case CDP_SHAPE_VALUES:
			if (into->registers || from->registers || into->sketched || from->sketched)
				merge_sketches(into, from);
			else
			{
				merge_items(into, from);
				limit_values(into);
			}
			break;
		case CDP_SHAPE_LIST:
			merge_items(into, from);
			if (into->nitems > rules->size)
				remove_items(into, 0, into->nitems - rules->size);
			break;
		case CDP_SHAPE_SPANS:
			for (int i = 0; i < from->nitems; i++)
			{
				if ((i & 0xFFFF) == 0xFFFF)
					CHECK_FOR_INTERRUPTS();
				(void) add_span(into, &from->items[i]);
			}
			add_closed(into, from->closed, from->closed_length, from->closed_count);
			break;
		default:
			add_scalar(into, from->n, from->value, from->value2, from->at, from->tie);
			break;
	}
}

/*
 * Forget items whose window has ended for good: the clock never goes back.
 */
void
CdpStateExpire(CdpState *state, TimestampTz clock)
{
	int			kept = 0;

	if (!state->rules->windowed)
		return;
	CdpChunksExpire(state, clock);
	for (int i = 0; i < state->nitems; i++)
		if (state->items[i].end > clock)
			state->items[kept++] = state->items[i];
	state->nitems = kept;
}
