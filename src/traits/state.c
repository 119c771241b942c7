/*-------------------------------------------------------------------------
 *
 * state.c
 *	  The algebra of states: make, add an item, combine, finish.
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
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "traits/state.h"

static const struct
{
	const char *name;
	CdpAggregate aggregate;
}			aggregate_names[] = {
	{"declared", CDP_AGG_DECLARED},
	{"expression", CDP_AGG_EXPRESSION},
	{"count", CDP_AGG_COUNT},
	{"sum", CDP_AGG_SUM},
	{"avg", CDP_AGG_AVG},
	{"min", CDP_AGG_MIN},
	{"max", CDP_AGG_MAX},
	{"first", CDP_AGG_FIRST},
	{"last", CDP_AGG_LAST},
	{"unique_count", CDP_AGG_UNIQUE_COUNT},
	{"most_frequent", CDP_AGG_MOST_FREQUENT},
	{"exists", CDP_AGG_EXISTS}
};

bool
CdpAggregateByName(const char *name, CdpAggregate *aggregate)
{
	for (int i = 0; i < lengthof(aggregate_names); i++)
		if (strcmp(aggregate_names[i].name, name) == 0)
		{
			*aggregate = aggregate_names[i].aggregate;
			return true;
		}
	return false;
}

const char *
CdpAggregateName(CdpAggregate aggregate)
{
	for (int i = 0; i < lengthof(aggregate_names); i++)
		if (aggregate_names[i].aggregate == aggregate)
			return aggregate_names[i].name;
	return "unknown";
}

/*
 * Fill in the rules; refuses types that cannot be kept or compared.  type is
 * that of the values (ignored by count and exists).
 */
void
CdpStateRulesInit(CdpStateRules *rules, CdpAggregate aggregate, bool windowed,
				  Oid type)
{
	bool		compares = false;

	memset(rules, 0, sizeof(CdpStateRules));
	rules->aggregate = aggregate;
	rules->windowed = windowed;

	if (aggregate == CDP_AGG_COUNT || aggregate == CDP_AGG_EXISTS)
		return;
	if (!OidIsValid(type) ||
		!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("aggregate %s cannot fold values of an unknown type",
						CdpAggregateName(aggregate))));

	switch (aggregate)
	{
		case CDP_AGG_SUM:
		case CDP_AGG_AVG:
			if (type != NUMERICOID)
				ereport(ERROR,
						(errcode(ERRCODE_DATATYPE_MISMATCH),
						 errmsg("aggregate %s folds values of type numeric, not %s",
								CdpAggregateName(aggregate),
								format_type_be(type))));
			break;
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			compares = true;
			break;
		case CDP_AGG_UNIQUE_COUNT:
		case CDP_AGG_MOST_FREQUENT:
			compares = true;
			rules->by_value = true;
			break;
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			rules->has_tie = true;
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("aggregate %s has no state",
							CdpAggregateName(aggregate))));
	}

	rules->has_value = true;
	rules->type = type;
	if (type >= FirstNormalObjectId ||
		!(get_typtype(type) == TYPTYPE_BASE ||
		  get_typtype(type) == TYPTYPE_RANGE ||
		  get_typtype(type) == TYPTYPE_MULTIRANGE) ||
		get_typlen(type) == -2)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("aggregate %s cannot fold values of type %s",
						CdpAggregateName(aggregate), format_type_be(type)),
				 errhint("Traits have built-in types; cast the value to one.")));
	get_typlenbyval(type, &rules->typlen, &rules->typbyval);
	if (compares || rules->has_tie)
	{
		TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_CMP_PROC_FINFO);

		if (OidIsValid(entry->cmp_proc_finfo.fn_oid))
			rules->cmp = &entry->cmp_proc_finfo;
		else if (compares)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_FUNCTION),
					 errmsg("aggregate %s cannot fold values of type %s",
							CdpAggregateName(aggregate), format_type_be(type)),
					 errdetail("The type has no order.")));
	}
}

/* Type of what CdpStateFinish yields. */
Oid
CdpStateResultType(const CdpStateRules *rules)
{
	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
		case CDP_AGG_UNIQUE_COUNT:
			return INT8OID;
		case CDP_AGG_EXISTS:
			return BOOLOID;
		default:
			return rules->type;
	}
}

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
	return state->n == 0 && !state->has_value && state->nitems == 0;
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
static int
compare_images(const CdpStateRules *rules, Datum a, Datum b)
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

/* Order of values by their type, text bytewise. */
static int
compare_values(const CdpStateRules *rules, Datum a, Datum b)
{
	if (rules->cmp == NULL)
		return compare_images(rules, a, b);
	return DatumGetInt32(FunctionCall2Coll(rules->cmp, C_COLLATION_OID, a, b));
}

static int
compare_values_total(const CdpStateRules *rules, Datum a, Datum b)
{
	int			result = compare_values(rules, a, b);

	return result != 0 ? result : compare_images(rules, a, b);
}

/* Order of the items of a window: total, so that equal states are equal bytes. */
static int
compare_items(const CdpStateRules *rules, const CdpItem *a, const CdpItem *b)
{
	int			result;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	if (rules->has_tie)
	{
		result = CdpOrderCompare(a->at, a->tie, b->at, b->tie);
		if (result != 0)
			return result;
	}
	if (rules->has_value)
	{
		result = compare_values_total(rules, a->value, b->value);
		if (result != 0)
			return result;
	}
	return a->end < b->end ? -1 : a->end > b->end ? 1 : 0;
}

static void
reserve(CdpState *state, int64 needed)
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
 * Position of the first item that is not before "item" (by value for
 * unique_count and most_frequent); *found when it is equal.
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
		compare_items(rules, &state->items[high - 1], item) <= 0)
		return high;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		int			result;

		if (by_value)
			result = compare_values(rules, state->items[middle].value, item->value);
		else
			result = compare_items(rules, &state->items[middle], item);
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
	reserve(state, (int64) state->nitems + 1);
	memmove(&state->items[position + 1], &state->items[position],
			(state->nitems - position) * sizeof(CdpItem));
	state->items[position] = *item;
	state->nitems++;
}

/* Add an amount to a sum. */
static void
add_numeric(CdpState *state, Datum value)
{
	if (!state->has_value)
	{
		state->value = copy_value(state->rules, value);
		state->has_value = true;
	}
	else
	{
		Datum		old = state->value;

		state->value = NumericGetDatum(numeric_add_opt_error(DatumGetNumeric(old),
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
		result = compare_values(state->rules, value, state->value);
		if (state->rules->aggregate == CDP_AGG_MAX)
			result = -result;
		if (result == 0)
			result = compare_images(state->rules, value, state->value);
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
		int			result = at < state->at ? -1 : at > state->at ? 1 : 0;

		if (result == 0)
		{
			if (tie != NULL)
				result = CdpOrderCompare(at, tie, state->at, state->tie);
			else				/* empty: before all others */
				result = VARSIZE_ANY_EXHDR(state->tie) > 0 ? -1 : 0;
			if (result == 0)
				result = compare_values_total(state->rules, value, state->value);
		}
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

/* Returns the position of a new item, -1 when the value was known. */
static int
count_value(CdpState *state, Datum value, int64 count)
{
	CdpItem		item = {0};
	bool		found;
	int			position;

	item.value = value;
	position = search(state, &item, true, &found);
	if (found)
	{
		CdpItem    *old = &state->items[position];

		old->count += count;
		if (!state->rules->typbyval &&
			compare_images(state->rules, value, old->value) < 0)
		{
			pfree(DatumGetPointer(old->value));
			old->value = copy_value(state->rules, value);
		}
		return -1;
	}
	item.value = copy_value(state->rules, value);
	item.count = count;
	insert_item(state, position, &item);
	return position;
}

/*
 * Fold one item in.  Copies what it keeps into the current context, which must
 * be the state's.  tie may be NULL: empty.  Returns the position of the new
 * item where items are kept, else -1.
 */
int
CdpStateAdd(CdpState *state, Datum value, TimestampTz at, TimestampTz end,
			const text *tie)
{
	const CdpStateRules *rules = state->rules;

	if (rules->windowed)
	{
		CdpItem		item = {0};
		bool		found;
		int			position;

		item.at = at;
		item.end = end;
		if (rules->has_tie)
			item.tie = copy_text(tie);
		if (rules->has_value)
			item.value = copy_value(rules, value);
		position = search(state, &item, false, &found);
		insert_item(state, position, &item);
		return position;
	}

	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
			state->n++;
			break;
		case CDP_AGG_EXISTS:
			state->n = 1;
			break;
		case CDP_AGG_AVG:
			state->n++;
			add_numeric(state, value);
			break;
		case CDP_AGG_SUM:
			add_numeric(state, value);
			break;
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			keep_extreme(state, value);
			break;
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			keep_end(state, value, at, tie);
			break;
		case CDP_AGG_UNIQUE_COUNT:
		case CDP_AGG_MOST_FREQUENT:
			return count_value(state, value, 1);
		default:
			elog(ERROR, "unexpected aggregate %d", (int) rules->aggregate);
	}
	return -1;
}

/* Merge the sorted items of "from" into "into". */
static void
merge_items(CdpState *into, const CdpState *from)
{
	const CdpStateRules *rules = into->rules;
	bool		by_value = !rules->windowed;
	CdpState	merged = *into;
	int			i = 0;
	int			j = 0;

	merged.items = NULL;
	merged.nitems = merged.maxitems = 0;
	reserve(&merged, (int64) into->nitems + from->nitems);
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
			result = compare_values(rules, into->items[i].value, from->items[j].value);
		else
			result = compare_items(rules, &into->items[i], &from->items[j]);

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
			if (!rules->typbyval &&
				compare_images(rules, from->items[j].value, item->value) < 0)
				item->value = copy_value(rules, from->items[j].value);
			item->count += from->items[j++].count;
		}
	}
	if (into->items)
		pfree(into->items);
	*into = merged;
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
	if (rules->windowed || rules->by_value)
	{
		merge_items(into, from);
		return;
	}
	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
			into->n += from->n;
			break;
		case CDP_AGG_EXISTS:
			into->n = 1;
			break;
		case CDP_AGG_AVG:
			into->n += from->n;
			add_numeric(into, from->value);
			break;
		case CDP_AGG_SUM:
			add_numeric(into, from->value);
			break;
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			keep_extreme(into, from->value);
			break;
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			keep_end(into, from->value, from->at, from->tie);
			break;
		default:
			elog(ERROR, "unexpected aggregate %d", (int) rules->aggregate);
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
	for (int i = 0; i < state->nitems; i++)
		if (state->items[i].end > clock)
			state->items[kept++] = state->items[i];
	state->nitems = kept;
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
	int			best;

	if (rules->windowed)
	{
		/* the window's items as a state without window */
		plain = *rules;
		plain.windowed = false;
		empty.rules = &plain;
		state = &empty;
		for (int i = 0; i < nstates; i++)
		{
			for (int j = 0; j < states[i]->nitems; j++)
			{
				CdpItem    *item = &states[i]->items[j];

				if (item->at > now)
				{
					if (item->at < *next)
						*next = item->at;
				}
				else if (item->end > now)
				{
					if (item->end < *next)
						*next = item->end;
					if (rules->has_value)
						CdpStateAdd(state, item->value, item->at, item->end,
									item->tie);
					else
						state->n++;
				}
			}
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

	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
			*value = Int64GetDatum(state->n);
			return true;
		case CDP_AGG_EXISTS:
			*value = BoolGetDatum(state->n > 0);
			return true;
		case CDP_AGG_UNIQUE_COUNT:
			*value = Int64GetDatum((int64) state->nitems);
			return true;
		case CDP_AGG_AVG:
			if (!state->has_value || state->n == 0)
				return false;
			*value = NumericGetDatum(numeric_div_opt_error(DatumGetNumeric(state->value),
														   int64_to_numeric(state->n),
														   NULL));
			return true;
		case CDP_AGG_SUM:
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			*value = state->value;
			return state->has_value;
		case CDP_AGG_MOST_FREQUENT:
			best = -1;
			for (int i = 0; i < state->nitems; i++)
				if (best < 0 || state->items[i].count > state->items[best].count)
					best = i;
			if (best >= 0)
				*value = state->items[best].value;
			return best >= 0;
		default:
			elog(ERROR, "unexpected aggregate %d", (int) rules->aggregate);
	}
	return false;
}
