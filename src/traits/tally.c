/*-------------------------------------------------------------------------
 *
 * tally.c
 *	  How often each value is in a window, kept in memory.
 *
 *	  What different values add up to may be as large as all items together, so
 *	  the chunks of a window (chunk.c) have no sums of them.  Who applies keeps
 *	  the values of such a window from batch to batch instead, with their
 *	  numbers, in a tree: an item that comes or leaves costs as much as looking
 *	  it up.  Others, and the first batch of a session, read all items.
 *
 *	  A tally is of the states of one trait that are in chunks and belong to one
 *	  profile: of their items inside the window at one instant, "asof".  It holds
 *	  nothing that could not be made again, and must never be believed when it is
 *	  not known to be right.  A stored state has a stamp that no other one has;
 *	  a tally that knows the stamps of all its states is right, whoever has
 *	  applied meanwhile, and whatever has been rolled back.  Items that are folded
 *	  into such a state are followed: the tally forgets the state's stamp, until it
 *	  gets the one with which the state is stored.
 *
 * IDENTIFICATION
 *	  src/traits/tally.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "statement.h"
#include "traits/tally.h"

/* All tallies together; beyond it the others are forgotten. */
#define MAX_MEMORY		((Size) 256 * 1024 * 1024)

/* By the state; hash entry. */
typedef struct TallyKey
{
	int64		owner;
	int64		trait;
} TallyKey;

typedef struct TallyEntry
{
	TallyKey	key;
	CdpTally   *tally;
} TallyEntry;

static HTAB *tallies = NULL;
static MemoryContext tallies_context = NULL;
static Size tallies_size = 0;	/* of those that are kept, as they were used last */

/* ---- items and instants ---- */

/*
 * An item is in the window from begin until before end: count it at "now", as
 * it has been counted at tally->asof; and lower *next to when that changes.
 */
static inline void
pass_item(CdpTally *tally, const CdpItem *item, bool anew, TimestampTz now,
		  TimestampTz *next)
{
	bool		before = !anew && item->begin <= tally->asof && item->end > tally->asof;
	bool		inside = item->begin <= now && item->end > now;

	if (item->begin > now)
		*next = Min(*next, item->begin);
	else if (inside)
		*next = Min(*next, item->end);
	if (before && !inside)
		CdpTallyRemove(tally, item);
	else if (inside && !before)
		CdpTallyAdd(tally, item);
}

/*
 * The same of all items of a state.  Chunks are read only where something
 * changes, or to learn when it will.
 */
static void
pass_state(CdpTally *tally, CdpState *state, bool anew, TimestampTz now,
		   TimestampTz *next)
{
	CdpChunks  *chunks = state->chunks;
	MemoryContext context;

	for (int i = 0; i < state->nitems; i++)
		pass_item(tally, &state->items[i], anew, now, next);
	if (chunks == NULL)
		return;
	context = AllocSetContextCreate(CurrentMemoryContext, "cdp chunk of a window",
									ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < chunks->n; i++)
	{
		CdpChunk   *chunk = &chunks->chunks[i];
		TimestampTz asof = anew ? DT_NOBEGIN : tally->asof;
		CdpState   *items;

		if (chunk->begin > now)
			*next = Min(*next, chunk->begin);
		else if (chunk->last_begin <= now && chunk->end > now)
			*next = Min(*next, chunk->end);
		/* does no item begin or end in between? */
		if ((chunk->begin > now || chunk->last_begin <= asof) &&
			(chunk->end > now || chunk->last_end <= asof))
			continue;
		CHECK_FOR_INTERRUPTS();
		items = CdpChunkItems(state, chunk, anew ? context : NULL);
		for (int j = 0; j < items->nitems; j++)
			pass_item(tally, &items->items[j], anew, now, next);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
}

/* ---- which tally ---- */

static CdpTally *
find_tally(const CdpChunks *chunks)
{
	TallyKey	key = {chunks->owner, chunks->trait};
	TallyEntry *entry;

	if (tallies == NULL)
		return NULL;
	entry = (TallyEntry *) hash_search(tallies, &key, HASH_FIND, NULL);
	return entry != NULL ? entry->tally : NULL;
}

static void
forget_tally(CdpTally *tally)
{
	for (int i = 0; i < tally->nmembers; i++)
	{
		TallyKey	key = {tally->members[i].owner, tally->trait};
		TallyEntry *entry = (TallyEntry *) hash_search(tallies, &key, HASH_FIND, NULL);

		if (entry != NULL && entry->tally == tally)
			(void) hash_search(tallies, &key, HASH_REMOVE, NULL);
	}
	tallies_size -= tally->size;
	MemoryContextDelete(tally->context);
}

static void
keep_tally(CdpTally *tally)
{
	/* first, so that an error on the way leaves no entry of what is gone */
	MemoryContextSetParent(tally->context, tallies_context);
	for (int i = 0; i < tally->nmembers; i++)
	{
		TallyKey	key = {tally->members[i].owner, tally->trait};
		TallyEntry *entry;
		bool		found;

		entry = (TallyEntry *) hash_search(tallies, &key, HASH_ENTER, &found);
		/* the owner's profile had others */
		if (found)
		{
			CdpTally   *other = entry->tally;

			entry->tally = tally;
			forget_tally(other);
		}
		entry->tally = tally;
	}
}

static TallyMember *
member_of(CdpTally *tally, const CdpState *state)
{
	for (int i = 0; i < tally->nmembers; i++)
		if (tally->members[i].owner == state->chunks->owner)
			return &tally->members[i];
	return NULL;
}

/* Is it of just these states, as they are? */
static bool
is_right(CdpTally *tally, CdpState **states, int nstates)
{
	int			n = 0;

	if (tally->broken || tally->changing)
		return false;
	for (int i = 0; i < nstates; i++)
	{
		TallyMember *member;

		if (states[i]->chunks == NULL)
			continue;
		member = member_of(tally, states[i]);
		if (member == NULL ||
			(states[i]->chunks->stamp != 0 ? member->stamp != states[i]->chunks->stamp :
			 !states[i]->chunks->followed || member->state != states[i]))
			return false;
		n++;
	}
	return n == tally->nmembers;
}

/* Is it of a state that this transaction has changed, and not stored yet? */
static bool
is_in_use(const CdpTally *tally)
{
	if (tally->transaction != GetCurrentTransactionStartTimestamp())
		return false;
	for (int i = 0; i < tally->nmembers; i++)
		if (tally->members[i].stamp == 0)
			return true;
	return false;
}

static CdpTally *
make_tally(CdpState **states, int nstates, TimestampTz now, TimestampTz *next)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cdp tally",
												  ALLOCSET_DEFAULT_SIZES);
	CdpTally   *tally = (CdpTally *) MemoryContextAllocZero(context, sizeof(CdpTally));

	tally->context = context;
	tally->members = (TallyMember *)
		MemoryContextAllocZero(context, nstates * sizeof(TallyMember));
	for (int i = 0; i < nstates; i++)
	{
		TallyMember *member = &tally->members[tally->nmembers];

		if (states[i]->chunks == NULL)
			continue;
		tally->trait = states[i]->chunks->trait;
		tally->rules = states[i]->chunks->plain;
		member->owner = states[i]->chunks->owner;
		member->stamp = states[i]->chunks->stamp;
		tally->nmembers++;
	}
	for (int i = 0; i < nstates; i++)
		if (states[i]->chunks != NULL)
			pass_state(tally, states[i], true, now, next);
	tally->asof = now;
	return tally;
}

/*
 * The tally of the states that are in chunks, at an instant.  *kept is false
 * when the caller must delete it.
 */
static CdpTally *
tally_of(CdpState **states, int nstates, TimestampTz now, TimestampTz *next,
		 bool *kept)
{
	bool		applying = CdpApplierLockMine() && !CdpStatementsReadOnly;
	CdpTally   *tally = NULL;

	for (int i = 0; applying && tally == NULL && i < nstates; i++)
		if (states[i]->chunks != NULL)
			tally = find_tally(states[i]->chunks);
	*kept = applying;
	if (tally != NULL && is_right(tally, states, nstates) && now >= tally->asof)
	{
		TimestampTz first = *next;

		tally->changing = true;
		for (int i = 0; i < nstates; i++)
			if (states[i]->chunks != NULL)
				pass_state(tally, states[i], false, now, next);
		tally->asof = now;
		tally->changing = false;
		if (!tally->broken)
			return tally;
		*next = first;
	}
	else if (tally != NULL && (is_in_use(tally) || is_right(tally, states, nstates)))
		*kept = false;			/* it will be asked for again */

	if (*kept && tallies == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		tallies_context = AllocSetContextCreate(TopMemoryContext, "cdp tallies",
												ALLOCSET_DEFAULT_SIZES);
		ctl.keysize = sizeof(TallyKey);
		ctl.entrysize = sizeof(TallyEntry);
		ctl.hcxt = tallies_context;
		tallies = hash_create("cdp tallies", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	tally = make_tally(states, nstates, now, next);
	if (!*kept)
		return tally;
	keep_tally(tally);
	tally->transaction = GetCurrentTransactionStartTimestamp();
	for (int i = 0; i < nstates; i++)
	{
		if (states[i]->chunks == NULL || states[i]->chunks->stamp != 0)
			continue;
		member_of(tally, states[i])->state = states[i];
		states[i]->chunks->followed = true;
	}
	return tally;
}

/* ---- values ---- */

/*
 * States of other nodes, whose items are few: count them for now.
 */
static bool
value_with_others(CdpTally *tally, CdpState **states, int nstates, TimestampTz now,
				  Datum *value, TimestampTz *next)
{
	bool		result;

	tally->changing = true;
	for (int i = 0; i < nstates; i++)
		if (states[i]->chunks == NULL)
			pass_state(tally, states[i], true, now, next);
	result = CdpTallyValue(tally, value);
	for (int i = 0; i < nstates; i++)
	{
		for (int j = 0; states[i]->chunks == NULL && j < states[i]->nitems; j++)
		{
			CdpItem    *item = &states[i]->items[j];

			if (item->begin <= now && item->end > now)
				CdpTallyRemove(tally, item);
		}
	}
	tally->changing = false;
	return result;
}

static void
note_result(CdpTally *tally, int64 stamp, TimestampTz from, TimestampTz next,
			bool has_value, Datum value)
{
	TallyResult *result = &tally->result;
	const CdpStateRules *rules = &tally->rules;
	MemoryContext old = MemoryContextSwitchTo(tally->context);
	bool		by_value = rules->aggregate == CDP_AGG_UNIQUE_COUNT;

	if (result->stamp != 0)
	{
		if (tally->before.has_value && !by_value)
			CdpTallyFree(rules, tally->before.value);
		tally->before = *result;
	}
	else if (result->has_value && !by_value)
		CdpTallyFree(rules, result->value);
	result->stamp = stamp;
	result->from = from;
	result->next = next;
	result->has_value = has_value;
	result->value = has_value && !by_value ? CdpTallyCopy(rules, value) : value;
	MemoryContextSwitchTo(old);
}

/* Is it known what the value of a state was? */
static const TallyResult *
known_result(const CdpChunks *chunks, TimestampTz now)
{
	CdpTally   *tally = find_tally(chunks);
	const TallyResult *results[] = {tally ? &tally->result : NULL, tally ? &tally->before : NULL};

	for (int i = 0; tally != NULL && chunks->stamp != 0 && i < lengthof(results); i++)
	{
		if (results[i]->stamp == chunks->stamp && results[i]->from <= now &&
			now < results[i]->next)
			return results[i];
	}
	return NULL;
}

/*
 * The value of windows of different values, some of which are in chunks, as
 * CdpStateFinish has it.  For a list of them "into" is filled in place of that,
 * and the result is false.
 */
bool
CdpTallyFinish(CdpState **states, int nstates, CdpState *into, TimestampTz now,
			   Datum *value, bool *has_value, TimestampTz *next)
{
	const CdpStateRules *rules = into->rules;
	bool		list = rules->aggregate == CDP_AGG_UNIQUE_LIST;
	const TallyResult *known = NULL;
	TimestampTz first = DT_NOEND;
	bool		kept;
	CdpTally   *tally;

	if (nstates == 1 && !list && CdpApplierLockMine())
		known = known_result(states[0]->chunks, now);
	if (known != NULL)
	{
		*has_value = known->has_value;
		*value = known->has_value && rules->aggregate != CDP_AGG_UNIQUE_COUNT
			? CdpTallyCopy(rules, known->value) : known->value;
		*next = Min(*next, known->next);
		return true;
	}
	tally = tally_of(states, nstates, now, &first, &kept);
	if (list)
	{
		CdpTallyList(tally, into);
		for (int i = 0; i < nstates; i++)
			if (states[i]->chunks == NULL)
				(void) CdpStateInside(states[i], into, now, &first);
	}
	else if (nstates > tally->nmembers)
		*has_value = value_with_others(tally, states, nstates, now, value, &first);
	else
	{
		*has_value = CdpTallyValue(tally, value);
		if (kept && nstates == 1)
			note_result(tally, states[0]->chunks->stamp, now, first, *has_value, *value);
	}
	*next = Min(*next, first);
	if (!kept)
		MemoryContextDelete(tally->context);
	else
	{
		Size		size = MemoryContextMemAllocated(tally->context, false);

		tallies_size += size - tally->size;
		tally->size = size;
		if (tallies_size > MAX_MEMORY)
			CdpTalliesForget();
	}
	return !list;
}

/* ---- states that change ---- */

/*
 * An item is about to be added to a state that has chunks.
 */
void
CdpTallyFollow(CdpState *state, const CdpItem *item)
{
	CdpChunks  *chunks = state->chunks;
	CdpTally   *tally = NULL;
	TallyMember *member;

	if (state->rules->shape == CDP_SHAPE_VALUES && CdpApplierLockMine())
		tally = find_tally(chunks);
	member = tally != NULL ? member_of(tally, state) : NULL;
	if (chunks->stamp != 0)
	{
		if (member != NULL && member->stamp == chunks->stamp)
		{
			member->stamp = 0;
			member->state = state;
			tally->transaction = GetCurrentTransactionStartTimestamp();
			chunks->followed = true;
		}
		chunks->stamp = 0;
	}
	if (member == NULL || !chunks->followed || member->state != state)
		return;
	if (item->begin <= tally->asof && item->end > tally->asof)
	{
		tally->changing = true;
		CdpTallyAdd(tally, item);
		tally->changing = false;
	}
}

/*
 * A state is stored under another stamp.  What has left its window is gone: the
 * tally must have seen that, too.
 */
void
CdpTallyStored(CdpState *state, TimestampTz clock)
{
	CdpChunks  *chunks = state->chunks;
	CdpTally   *tally = find_tally(chunks);
	TallyMember *member = tally != NULL ? member_of(tally, state) : NULL;

	if (member == NULL)
		return;
	if (chunks->followed && member->state == state && tally->asof == clock)
	{
		member->stamp = chunks->stamp;
		if (tally->nmembers == 1 && tally->result.stamp == 0 && tally->result.from == clock)
			tally->result.stamp = chunks->stamp;
	}
	else
		tally->broken = true;
	member->state = NULL;
	chunks->followed = false;
}

void
CdpTalliesForget(void)
{
	if (tallies_context != NULL)
		MemoryContextDelete(tallies_context);
	tallies_context = NULL;
	tallies_size = 0;
	tallies = NULL;
}
