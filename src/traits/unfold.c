/*-------------------------------------------------------------------------
 *
 * unfold.c
 *	  Take what an entry added out of a node's states again, where that can be.
 *
 *	  States are folded anew when an entry does not count any more, from all
 *	  entries that the node owns.  For one with a million entries that is dear,
 *	  and often the state tells what it would be:
 *
 *	  - of numbers of entries there is one less;
 *	  - what is first, last, smallest or greatest is so without the entry, when it
 *		is another one's;
 *	  - a window that has ended has nothing of it.
 *
 *	  Sums are none of these: they do not tell of how many values they are, nor how
 *	  many digits the others had.
 *
 * IDENTIFICATION
 *	  src/traits/unfold.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "cdp.h"
#include "traits/node.h"
#include "traits/traitset.h"

static bool
same_order(const CdpState *state, const CdpEntry *entry)
{
	return state->at == entry->at && state->tie != NULL &&
		CdpOrderCompare(state->at, state->tie, entry->at, entry->tie) == 0;
}

/*
 * One less of a number of entries, of which others are left.
 */
static bool
one_less(CdpState *state)
{
	if (state->n <= 1 || state->n == PG_INT64_MAX)
		return false;
	state->n--;
	return true;
}

/*
 * The state without what the entry added to it; false: it does not tell.
 */
static bool
take_out(CdpState *state, const CdpEntry *entry, Datum value)
{
	const CdpStateRules *rules = state->rules;

	switch (rules->aggregate)
	{
		case CDP_AGG_COUNT:
			return one_less(state);
		case CDP_AGG_RATE:
			return state->at != entry->at && one_less(state);
		case CDP_AGG_MIN:
		case CDP_AGG_MAX:
			return state->has_value && CdpCompareValues(rules, value, state->value) != 0;
		case CDP_AGG_FIRST:
		case CDP_AGG_LAST:
			return state->has_value && !same_order(state, entry);
		case CDP_AGG_FIRST_TIME:
		case CDP_AGG_LAST_TIME:
			return state->n > 0 && state->at != entry->at;
		case CDP_AGG_LIST:
			/* of those that are too many for it, none is known */
			return state->nitems >= rules->size && entry->at < state->items[0].at;
		default:
			return false;
	}
}

bool
CdpNodeUnfold(CdpNodeAcc *acc, const CdpEntry *entry, const CdpContributions *contributions,
			  TimestampTz clock)
{
	MemoryContext old = MemoryContextSwitchTo(acc->context);
	bool result = true;

	for (int i = 0; i < contributions->n && result; i++)
	{
		CdpContribution *item = &contributions->items[i];
		CdpTraitRules *rules = acc->set->traits[item->trait]->rules;
		CdpState *state;

		if (rules->state.windowed)
		{
			TimestampTz begin = entry->at;
			TimestampTz end = 0;

			CdpWindow(rules, entry->at, &begin, &end);
			result = end <= clock;
			continue;
		}
		state = CdpNodeState(acc, item->trait);
		result = state != NULL && take_out(state, entry, item->value);
		acc->slots[item->trait].dirty = acc->dirty = true;
	}
	MemoryContextSwitchTo(old);
	return result;
}
