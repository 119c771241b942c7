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
 *	  The tree is a treap, in the order of values.
 *
 * IDENTIFICATION
 *	  src/traits/tally.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "statement.h"
#include "traits/state.h"

/* All tallies together; beyond it the others are forgotten. */
#define MAX_MEMORY		((Size) 256 * 1024 * 1024)

/* Equal values that look different; mostly there is one. */
typedef struct TallyImage
{
	Datum		value;
	int64		count;
	struct TallyImage *next;
} TallyImage;

typedef struct TallyNode
{
	struct TallyNode *parent;
	struct TallyNode *left;
	struct TallyNode *right;
	uint32		priority;
	TallyImage	image;
	int64		count;
	/* unique_list: the latest item */
	TimestampTz at;
	text	   *tie;
	Datum		latest;
	/* of the node and all below it */
	int64		nodes;
	int64		weight;			/* sum of counts */
	int64		most;			/* greatest and smallest count */
	int64		least;
} TallyNode;

typedef struct TallyMember
{
	int64		owner;
	int64		stamp;			/* 0: the state has changed since */
	const CdpState *state;		/* it, when its changes are followed */
} TallyMember;

/* What the value was; stays true until "next". */
typedef struct TallyResult
{
	int64		stamp;			/* of the only state; 0: of none that is stored */
	TimestampTz from;
	TimestampTz next;
	bool		has_value;
	Datum		value;
} TallyResult;

typedef struct CdpTally
{
	MemoryContext context;
	CdpStateRules rules;
	int32		trait;
	TallyNode  *root;
	TimestampTz asof;
	bool		changing;		/* should there be an error meanwhile */
	bool		broken;			/* cannot be changed rightly */
	TimestampTz transaction;	/* that has changed it last */
	TallyResult result;
	TallyResult before;			/* the one before that */
	int			nmembers;
	TallyMember *members;
} CdpTally;

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

/* ---- the tree ---- */

static void
sum_up(TallyNode *node)
{
	TallyNode  *below[] = {node->left, node->right};

	node->nodes = 1;
	node->weight = node->most = node->least = node->count;
	for (int i = 0; i < lengthof(below); i++)
	{
		if (below[i] == NULL)
			continue;
		node->nodes += below[i]->nodes;
		node->weight += below[i]->weight;
		node->most = Max(node->most, below[i]->most);
		node->least = Min(node->least, below[i]->least);
	}
}

static void
sum_up_from(TallyNode *node)
{
	for (; node != NULL; node = node->parent)
		sum_up(node);
}

/* Put "node" (may be NULL) in the place of "old". */
static void
replace_node(CdpTally *tally, TallyNode *old, TallyNode *node)
{
	TallyNode  *parent = old->parent;

	if (parent == NULL)
		tally->root = node;
	else if (parent->left == old)
		parent->left = node;
	else
		parent->right = node;
	if (node != NULL)
		node->parent = parent;
}

/* Exchange a node with its parent. */
static void
rotate_up(CdpTally *tally, TallyNode *node)
{
	TallyNode  *parent = node->parent;
	TallyNode  *between;

	replace_node(tally, parent, node);
	if (parent->left == node)
	{
		between = parent->left = node->right;
		node->right = parent;
	}
	else
	{
		between = parent->right = node->left;
		node->left = parent;
	}
	if (between != NULL)
		between->parent = parent;
	parent->parent = node;
	sum_up(parent);
	sum_up(node);
}

/* The value's node; or NULL, and where it belongs. */
static TallyNode *
find_node(CdpTally *tally, Datum value, TallyNode **parent, int *side)
{
	TallyNode  *node = tally->root;

	*parent = NULL;
	*side = 0;
	while (node != NULL)
	{
		int			result = CdpCompareValues(&tally->rules, value, node->image.value);

		if (result == 0)
			break;
		*parent = node;
		*side = result;
		node = result < 0 ? node->left : node->right;
	}
	return node;
}

static Datum
copy_value(const CdpStateRules *rules, Datum value)
{
	return datumCopy(value, rules->typbyval, rules->typlen);
}

static void
free_value(const CdpStateRules *rules, Datum value)
{
	if (!rules->typbyval)
		pfree(DatumGetPointer(value));
}

/* A text of the same bytes in the current context. */
static text *
copy_tie(const text *tie)
{
	text	   *copy = (text *) palloc(VARSIZE_ANY(tie));

	memcpy(copy, tie, VARSIZE_ANY(tie));
	return copy;
}

static TallyNode *
make_node(CdpTally *tally, Datum value, TallyNode *parent, int side)
{
	TallyNode  *node = (TallyNode *) palloc0(sizeof(TallyNode));

	node->priority = pg_prng_uint32(&pg_global_prng_state);
	node->image.value = copy_value(&tally->rules, value);
	node->parent = parent;
	if (parent == NULL)
		tally->root = node;
	else if (side < 0)
		parent->left = node;
	else
		parent->right = node;
	while (node->parent != NULL && node->parent->priority < node->priority)
		rotate_up(tally, node);
	return node;
}

static void
remove_node(CdpTally *tally, TallyNode *node)
{
	TallyNode  *parent;

	while (node->left != NULL || node->right != NULL)
	{
		if (node->right == NULL ||
			(node->left != NULL && node->left->priority > node->right->priority))
			rotate_up(tally, node->left);
		else
			rotate_up(tally, node->right);
	}
	parent = node->parent;
	replace_node(tally, node, NULL);
	sum_up_from(parent);
	free_value(&tally->rules, node->image.value);
	if (tally->rules.has_tie)
	{
		pfree(node->tie);
		free_value(&tally->rules, node->latest);
	}
	pfree(node);
}

/* Is the item later than the latest one of its value so far? */
static int
compare_latest(const CdpTally *tally, const TallyNode *node, const CdpItem *item)
{
	CdpItem		latest = {0};

	latest.at = node->at;
	latest.tie = node->tie;
	latest.value = node->latest;
	latest.begin = item->begin;
	latest.end = item->end;
	return CdpCompareItems(&tally->rules, item, &latest);
}

static void
add_item(CdpTally *tally, const CdpItem *item)
{
	const CdpStateRules *rules = &tally->rules;
	MemoryContext old = MemoryContextSwitchTo(tally->context);
	TallyNode  *parent;
	int			side;
	TallyNode  *node = find_node(tally, item->value, &parent, &side);
	TallyImage *image;

	if (node == NULL)
		node = make_node(tally, item->value, parent, side);
	for (image = &node->image; image != NULL; image = image->next)
	{
		if (CdpCompareImages(rules, image->value, item->value) == 0)
			break;
	}
	if (image == NULL)
	{
		image = (TallyImage *) palloc(sizeof(TallyImage));
		image->value = copy_value(rules, item->value);
		image->count = 0;
		image->next = node->image.next;
		node->image.next = image;
	}
	image->count++;
	if (rules->has_tie && (node->count == 0 || compare_latest(tally, node, item) > 0))
	{
		if (node->count > 0)
		{
			pfree(node->tie);
			free_value(rules, node->latest);
		}
		node->at = item->at;
		node->tie = copy_tie(item->tie);
		node->latest = copy_value(rules, item->value);
	}
	node->count++;
	sum_up_from(node);
	MemoryContextSwitchTo(old);
}

static void
remove_item(CdpTally *tally, const CdpItem *item)
{
	TallyNode  *parent;
	int			side;
	TallyNode  *node = find_node(tally, item->value, &parent, &side);
	TallyImage **link = NULL;
	TallyImage *image = node != NULL ? &node->image : NULL;

	while (image != NULL &&
		   CdpCompareImages(&tally->rules, image->value, item->value) != 0)
	{
		link = &image->next;
		image = image->next;
	}
	if (image == NULL || image->count == 0)
	{
		tally->broken = true;
		return;
	}
	image->count--;
	node->count--;
	if (node->count == 0)
	{
		for (image = node->image.next; image != NULL;)
		{
			TallyImage *next = image->next;

			free_value(&tally->rules, image->value);
			pfree(image);
			image = next;
		}
		remove_node(tally, node);
		return;
	}
	if (image->count == 0 && link != NULL)
	{
		*link = image->next;
		free_value(&tally->rules, image->value);
		pfree(image);
	}
	/* windows do not always end in order: which one is the latest now? */
	if (tally->rules.has_tie && compare_latest(tally, node, item) == 0)
		tally->broken = true;
	sum_up_from(node);
}

/* A node's value: of those that look different the smallest. */
static Datum
smallest_image(const CdpTally *tally, const TallyNode *node)
{
	const TallyImage *smallest = NULL;

	for (const TallyImage *image = &node->image; image != NULL; image = image->next)
	{
		if (image->count > 0 &&
			(smallest == NULL ||
			 CdpCompareImages(&tally->rules, image->value, smallest->value) < 0))
			smallest = image;
	}
	return smallest->value;
}

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
		remove_item(tally, item);
	else if (inside && !before)
		add_item(tally, item);
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
	MemoryContextDelete(tally->context);
}

static void
keep_tally(CdpTally *tally)
{
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
	MemoryContextSetParent(tally->context, tallies_context);
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

static TallyNode *
most_frequent(const CdpTally *tally)
{
	TallyNode  *node = tally->root;
	int64		most = node->most;

	/* the first one of them */
	for (;;)
	{
		if (node->left != NULL && node->left->most == most)
			node = node->left;
		else if (node->count == most)
			return node;
		else
			node = node->right;
	}
}

static TallyNode *
least_frequent(const CdpTally *tally)
{
	TallyNode  *node = tally->root;
	int64		least = node->least;

	for (;;)
	{
		if (node->left != NULL && node->left->least == least)
			node = node->left;
		else if (node->count == least)
			return node;
		else
			node = node->right;
	}
}

/* The value at a place, counted from 1. */
static TallyNode *
at_rank(const CdpTally *tally, int64 rank)
{
	TallyNode  *node = tally->root;

	for (;;)
	{
		int64		left = node->left != NULL ? node->left->weight : 0;

		if (rank <= left)
			node = node->left;
		else if (rank <= left + node->count)
			return node;
		else
		{
			rank -= left + node->count;
			node = node->right;
		}
	}
}

static bool
value_of(const CdpTally *tally, Datum *value)
{
	TallyNode  *node;

	if (tally->rules.aggregate == CDP_AGG_UNIQUE_COUNT)
	{
		*value = Int64GetDatum(tally->root != NULL ? tally->root->nodes : 0);
		return true;
	}
	if (tally->root == NULL)
		return false;
	switch (tally->rules.aggregate)
	{
		case CDP_AGG_MOST_FREQUENT:
			node = most_frequent(tally);
			break;
		case CDP_AGG_LEAST_FREQUENT:
			node = least_frequent(tally);
			break;
		case CDP_AGG_PERCENTILE:
			node = at_rank(tally, CdpPercentileRank(&tally->rules, tally->root->weight));
			break;
		default:
			elog(ERROR, "aggregate %d has no tally", (int) tally->rules.aggregate);
	}
	*value = copy_value(&tally->rules, smallest_image(tally, node));
	return true;
}

/*
 * Add the values that were seen last to a list of them.
 */
static void
list_values(const TallyNode *node, CdpState *into)
{
	CdpItem		item = {0};

	if (node == NULL)
		return;
	check_stack_depth();
	list_values(node->left, into);
	item.at = node->at;
	item.tie = node->tie;
	item.value = node->latest;
	if (into->nitems < into->rules->size ||
		CdpCompareItems(into->rules, &item, CdpStateOldest(into)) > 0)
		(void) CdpStateAdd(into, item.value, item.at, 0, 0, item.tie);
	list_values(node->right, into);
}

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
	result = value_of(tally, value);
	for (int i = 0; i < nstates; i++)
	{
		for (int j = 0; states[i]->chunks == NULL && j < states[i]->nitems; j++)
		{
			CdpItem    *item = &states[i]->items[j];

			if (item->begin <= now && item->end > now)
				remove_item(tally, item);
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
			free_value(rules, tally->before.value);
		tally->before = *result;
	}
	else if (result->has_value && !by_value)
		free_value(rules, result->value);
	result->stamp = stamp;
	result->from = from;
	result->next = next;
	result->has_value = has_value;
	result->value = has_value && !by_value ? copy_value(rules, value) : value;
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
			? copy_value(rules, known->value) : known->value;
		*next = Min(*next, known->next);
		return true;
	}
	tally = tally_of(states, nstates, now, &first, &kept);
	if (list)
	{
		list_values(tally->root, into);
		for (int i = 0; i < nstates; i++)
			if (states[i]->chunks == NULL)
				(void) CdpStateInside(states[i], into, now, &first);
	}
	else if (nstates > tally->nmembers)
		*has_value = value_with_others(tally, states, nstates, now, value, &first);
	else
	{
		*has_value = value_of(tally, value);
		if (kept && nstates == 1)
			note_result(tally, states[0]->chunks->stamp, now, first, *has_value, *value);
	}
	*next = Min(*next, first);
	if (!kept)
		MemoryContextDelete(tally->context);
	else if (MemoryContextMemAllocated(tallies_context, true) > MAX_MEMORY)
		CdpTalliesForget();
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
		add_item(tally, item);
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
	tallies = NULL;
}
