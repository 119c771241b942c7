/*-------------------------------------------------------------------------
 *
 * tally_tree.c
 *	  Values in a window and their numbers: a treap in the order of values.
 *
 *	  Each node knows how many values and items there are below it, and the
 *	  greatest and the smallest count; so whatever is asked of a tally is found on
 *	  one way from the root.
 *
 * IDENTIFICATION
 *	  src/traits/tally_tree.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "traits/tally.h"

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
	node->image.value = CdpTallyCopy(&tally->rules, value);
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
	CdpTallyFree(&tally->rules, node->image.value);
	if (tally->rules.has_tie)
	{
		pfree(node->tie);
		CdpTallyFree(&tally->rules, node->latest);
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

void
CdpTallyAdd(CdpTally *tally, const CdpItem *item)
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
		image->value = CdpTallyCopy(rules, item->value);
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
			CdpTallyFree(rules, node->latest);
		}
		node->at = item->at;
		node->tie = copy_tie(item->tie);
		node->latest = CdpTallyCopy(rules, item->value);
	}
	node->count++;
	sum_up_from(node);
	MemoryContextSwitchTo(old);
}

void
CdpTallyRemove(CdpTally *tally, const CdpItem *item)
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

			CdpTallyFree(&tally->rules, image->value);
			pfree(image);
			image = next;
		}
		remove_node(tally, node);
		return;
	}
	if (image->count == 0 && link != NULL)
	{
		*link = image->next;
		CdpTallyFree(&tally->rules, image->value);
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

/* The first value with the greatest, or the smallest, count. */
static TallyNode *
first_extreme(const CdpTally *tally, bool most)
{
	TallyNode  *node = tally->root;
	int64		wanted = most ? node->most : node->least;

	for (;;)
	{
		TallyNode  *left = node->left;

		if (left != NULL && (most ? left->most : left->least) == wanted)
			node = left;
		else if (node->count == wanted)
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

bool
CdpTallyValue(const CdpTally *tally, Datum *value)
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
			node = first_extreme(tally, true);
			break;
		case CDP_AGG_LEAST_FREQUENT:
			node = first_extreme(tally, false);
			break;
		case CDP_AGG_PERCENTILE:
			node = at_rank(tally, CdpPercentileRank(&tally->rules, tally->root->weight));
			break;
		default:
			elog(ERROR, "aggregate %d has no tally", (int) tally->rules.aggregate);
	}
	*value = CdpTallyCopy(&tally->rules, smallest_image(tally, node));
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

void
CdpTallyList(const CdpTally *tally, CdpState *into)
{
	list_values(tally->root, into);
}
