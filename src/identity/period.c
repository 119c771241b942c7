/*-------------------------------------------------------------------------
 *
 * period.c
 *	  Limits within periods: how many identifiers of a component were first
 *	  seen in one hour, day, week, month, quarter or year.
 *
 *	  A rule that is about a period has a slot: each kind with a limit has
 *	  one, and the rate guard, which is about identifiers of all kinds, has
 *	  the slot after those.  A small component is counted by walking it.  The
 *	  root of a large one keeps a table of (slot, period) -> number, which is
 *	  made when it is needed first and goes along from then on.
 *
 *	  When a node turns out to have been seen earlier than was known, it moves
 *	  to another period.  That can break a link, or admit a refused one, and
 *	  then the cluster is replayed; mostly it can do neither, and that is told
 *	  without a replay.
 *
 * IDENTIFICATION
 *	  src/identity/period.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* Components of at least so many nodes keep a table. */
#ifndef TABLE_MIN				/* make torture has it smaller */
#define TABLE_MIN	64
#endif

typedef struct PeriodCount
{
	uint64		key;			/* slot and period */
	int			n;
	char		status;
} PeriodCount;

#define SH_PREFIX periods
#define SH_ELEMENT_TYPE PeriodCount
#define SH_KEY_TYPE uint64
#define SH_KEY key
#define SH_HASH_KEY(tb, key) murmurhash32((uint32) (key) ^ (uint32) ((key) >> 32))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

static CdpStatement any_guarded = {
	"SELECT 1 FROM cdp.links l WHERE l.reason IN ('size', 'rate', 'bridge') LIMIT 1",
	{NULL}
};

static CdpStatement refused_at = {
	"SELECT l.a, l.reason FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l"
	" WHERE l.a = u.node AND l.status <> 'accepted' OFFSET 0) AS l"
	" UNION ALL "
	"SELECT l.b, l.reason FROM (SELECT unnest($1) AS node) AS u"
	" CROSS JOIN LATERAL (SELECT * FROM cdp.links l"
	" WHERE l.b = u.node AND l.status <> 'accepted' OFFSET 0) AS l",
	{"int8[]"}
};

/*
 * Days, years and so on are counted from 2000-01-01; weeks begin on Monday.
 */
int64
CdpPeriodNumber(CdpPeriod period, TimestampTz at)
{
	int64		unit = period == CDP_PERIOD_HOUR ? USECS_PER_HOUR : USECS_PER_DAY;
	int64		n = at / unit - (at % unit < 0 ? 1 : 0);
	int			year,
				month,
				day;

	switch (period)
	{
		case CDP_PERIOD_HOUR:
		case CDP_PERIOD_DAY:
			return n;
		case CDP_PERIOD_WEEK:
			n += 5;				/* it was a Saturday */
			return n / 7 - (n % 7 < 0 ? 1 : 0);
		case CDP_PERIOD_MONTH:
		case CDP_PERIOD_QUARTER:
		case CDP_PERIOD_YEAR:
			j2date((int) n + POSTGRES_EPOCH_JDATE, &year, &month, &day);
			return period == CDP_PERIOD_YEAR ? year
				: period == CDP_PERIOD_MONTH ? year * 12 + month - 1
				: year * 4 + (month - 1) / 3;
		case CDP_PERIOD_EVER:
			break;
	}
	return 0;
}

/*
 * The slot of the rate guard.
 */
static inline int
rate_slot(CdpGraph *graph)
{
	return graph->nlimited;
}

static inline int
slot_limit(CdpGraph *graph, int slot)
{
	return slot == rate_slot(graph) ? cdp_max_new_identifiers_per_hour
		: graph->limiting[slot]->max_per_profile;
}

static inline CdpPeriod
slot_period(CdpGraph *graph, int slot)
{
	return slot == rate_slot(graph) ? CDP_PERIOD_HOUR
		: graph->limiting[slot]->within;
}

/*
 * Is the node counted in the slot?
 */
static inline bool
counted(CdpGraph *graph, CdpNode *node, int slot)
{
	return node->counted_seen != DT_NOEND &&
		(slot == rate_slot(graph) || CdpNodeSlot(graph, node) == slot);
}

static inline uint64
period_key(CdpGraph *graph, int slot, TimestampTz at)
{
	int64		n = CdpPeriodNumber(slot_period(graph, slot), at);

	return ((uint64) slot << 48) | ((uint64) n & UINT64CONST(0xFFFFFFFFFFFF));
}

static void
table_add(struct periods_hash *table, uint64 key, int n)
{
	bool		found;
	PeriodCount *count = periods_insert(table, key, &found);

	if (!found)
		count->n = 0;
	count->n += n;
	if (count->n == 0)
		(void) periods_delete(table, key);
}

/*
 * A member comes (n is 1) or goes (-1).
 */
static void
table_count(CdpGraph *graph, struct periods_hash *table, CdpNode *member, int n)
{
	int			slot = CdpNodeSlot(graph, member);

	if (slot >= 0 && slot_period(graph, slot) != CDP_PERIOD_EVER &&
		counted(graph, member, slot))
		table_add(table, period_key(graph, slot, member->counted_seen), n);
	if (counted(graph, member, rate_slot(graph)))
		table_add(table, period_key(graph, rate_slot(graph), member->counted_seen), n);
}

/*
 * Count the members of one component into a table.
 */
static void
table_add_members(CdpGraph *graph, struct periods_hash *table, CdpNode *root)
{
	CdpNode    *member = root;

	do
	{
		table_count(graph, table, member, 1);
		member = member->next;
	} while (member != root);
}

/*
 * How many members of the component are counted under the key?
 */
static int
members_in(CdpGraph *graph, CdpNode *root, int slot, uint64 key)
{
	PeriodCount *count;
	CdpNode    *member = root;
	int			n = 0;

	if (root->size < TABLE_MIN)
	{
		do
		{
			if (counted(graph, member, slot) &&
				period_key(graph, slot, member->counted_seen) == key)
				n++;
			member = member->next;
		} while (member != root);
		return n;
	}
	if (root->periods == NULL)
	{
		root->periods = periods_create(graph->resident, root->size / 8, NULL);
		table_add_members(graph, root->periods, root);
	}
	count = periods_lookup(root->periods, key);
	return count == NULL ? 0 : count->n;
}

static int
key_order(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

/*
 * The periods of the component's members in the slot, in order.
 */
static uint64 *
member_keys(CdpGraph *graph, CdpNode *root, int slot, int *n)
{
	uint64	   *keys = palloc(sizeof(uint64) * root->size);
	CdpNode    *member = root;

	*n = 0;
	do
	{
		if (counted(graph, member, slot))
			keys[(*n)++] = period_key(graph, slot, member->counted_seen);
		member = member->next;
	} while (member != root);
	qsort(keys, *n, sizeof(uint64), key_order);
	return keys;
}

/*
 * Is there a period of which both components have identifiers, and together
 * more than the limit?
 */
static bool
breaks_slot(CdpGraph *graph, CdpNode *x, CdpNode *y, int slot)
{
	CdpNode    *small = x->size <= y->size ? x : y;
	CdpNode    *large = x->size <= y->size ? y : x;
	int			limit = slot_limit(graph, slot);
	bool		result = false;
	uint64	   *keys;
	int			n;
	int			i,
				j;

	keys = member_keys(graph, small, slot, &n);
	for (i = 0; i < n && !result; i = j)
	{
		int			others = members_in(graph, large, slot, keys[i]);

		for (j = i + 1; j < n && keys[j] == keys[i]; j++)
			;
		result = others > 0 && others + (j - i) > limit;
	}
	pfree(keys);
	return result;
}

bool
CdpPeriodsBreakKind(CdpGraph *graph, CdpNode *x, CdpNode *y, int slot)
{
	return breaks_slot(graph, x, y, slot);
}

bool
CdpPeriodsBreakRate(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	if (cdp_max_new_identifiers_per_hour == 0 ||
		x->size + y->size <= cdp_max_new_identifiers_per_hour)
		return false;
	return breaks_slot(graph, x, y, rate_slot(graph));
}

/*
 * Does the component have more identifiers of one period than the slot allows?
 */
static bool
over_slot(CdpGraph *graph, CdpNode *root, int slot)
{
	int			limit = slot_limit(graph, slot);
	bool		result = false;
	uint64	   *keys;
	int			n;
	int			i,
				j;

	keys = member_keys(graph, root, slot, &n);
	for (i = 0; i < n && !result; i = j)
	{
		for (j = i + 1; j < n && keys[j] == keys[i]; j++)
			;
		result = j - i > limit;
	}
	pfree(keys);
	return result;
}

/*
 * The same for any slot.  Is asked about large components again and again, so
 * the answer is kept at the root (CdpGraphJoin, CdpNodeRecount).
 */
bool
CdpPeriodsOver(CdpGraph *graph, CdpNode *root)
{
	bool		result = false;
	int			i;

	if (root->over_periods != CDP_MAYBE)
		return root->over_periods == CDP_YES;
	for (i = 0; i < graph->nlimited && !result; i++)
		if (graph->limiting[i]->within != CDP_PERIOD_EVER &&
			root->counts[i] > graph->limiting[i]->max_per_profile)
			result = over_slot(graph, root, i);
	if (!result && cdp_max_new_identifiers_per_hour > 0 &&
		root->size > cdp_max_new_identifiers_per_hour)
		result = over_slot(graph, root, rate_slot(graph));
	root->over_periods = result ? CDP_YES : CDP_NO;
	return result;
}

/*
 * Is there a period of which at least two of the components have identifiers,
 * and all together more than the kind's limit?
 */
bool
CdpPeriodsBreakMany(CdpGraph *graph, CdpNode **roots, int nroots, int slot)
{
	struct periods_hash *total = periods_create(CurrentMemoryContext, 64, NULL);
	struct periods_hash *first = periods_create(CurrentMemoryContext, 64, NULL);
	periods_iterator it;
	PeriodCount *count;
	bool		result = false;
	int			r;

	for (r = 0; r < nroots; r++)
	{
		int			n;
		uint64	   *keys = member_keys(graph, roots[r], slot, &n);
		int			i,
					j;

		for (i = 0; i < n; i = j)
		{
			for (j = i + 1; j < n && keys[j] == keys[i]; j++)
				;
			table_add(total, keys[i], j - i);
			if (periods_lookup(first, keys[i]) == NULL)
				table_add(first, keys[i], j - i);
		}
		pfree(keys);
	}
	/* first has what the first component with the period has */
	periods_start_iterate(total, &it);
	while ((count = periods_iterate(total, &it)) != NULL)
		if (count->n > slot_limit(graph, slot) &&
			count->n > periods_lookup(first, count->key)->n)
			result = true;
	periods_destroy(total);
	periods_destroy(first);
	return result;
}

/*
 * y's component becomes part of x's.
 */
void
CdpPeriodsJoin(CdpGraph *graph, CdpNode *x, CdpNode *y)
{
	if (x->periods != NULL)
		table_add_members(graph, x->periods, y);
	CdpPeriodsForget(y);
}

/*
 * Members leave a component.
 */
void
CdpPeriodsCut(CdpGraph *graph, CdpNode *root, CdpNode **cut, int n)
{
	int			i;

	if (root->periods != NULL)
		for (i = 0; i < n; i++)
			table_count(graph, root->periods, cut[i], -1);
}

void
CdpPeriodsForget(CdpNode *root)
{
	if (root->periods != NULL)
		periods_destroy(root->periods);
	root->periods = NULL;
}

/*
 * A node that was counted has moved to another period of the slot.  Returns
 * true when that breaks the limit.
 */
static bool
move_node(CdpGraph *graph, CdpNode *root, int slot, uint64 from, uint64 to)
{
	int			n = slot == rate_slot(graph) ? root->size : root->counts[slot];

	if (root->periods != NULL)
	{
		table_add(root->periods, from, -1);
		table_add(root->periods, to, 1);
	}
	if (root->over_periods == CDP_YES)
		root->over_periods = CDP_MAYBE;
	if (n <= slot_limit(graph, slot) ||
		members_in(graph, root, slot, to) <= slot_limit(graph, slot))
		return false;
	root->over_periods = CDP_YES;
	return true;
}

static bool
are_guarded_links(CdpGraph *graph)
{
	bool		result;

	if (graph->guarded < 0 && graph->sealed)
		graph->guarded = 0;
	if (graph->guarded < 0)
	{
		result = CdpRun(&any_guarded, NULL, NULL) > 0;
		SPI_freetuptable(SPI_tuptable);
		graph->guarded = result ? 1 : 0;
	}
	return graph->guarded > 0;
}

/*
 * Nodes whose first time has changed are counted in other periods from now on.
 * Marks those dirty for which this can change what is joined.
 */
void
CdpGraphRecount(CdpGraph *graph)
{
	bool		rate = cdp_max_new_identifiers_per_hour > 0;
	int			i;

	for (i = 0; i < graph->nactive; i++)
	{
		CdpNode    *node = graph->active[i];
		TimestampTz before = node->counted_seen;
		int			slots[2];
		int			nslots = 0;
		CdpNode    *root;

		if (before == node->first_seen)
			continue;
		node->counted_seen = node->first_seen;

		/* nothing rests on a new one yet; one that goes is dirty anyway */
		if (before == DT_NOEND || node->first_seen == DT_NOEND)
			continue;
		if (graph->nperiodic > 0 && CdpNodeSlot(graph, node) >= 0)
			slots[nslots++] = CdpNodeSlot(graph, node);
		if (rate)
			slots[nslots++] = rate_slot(graph);
		root = CdpNodeRoot(node);
		while (nslots-- > 0)
		{
			int			slot = slots[nslots];
			uint64		from;
			uint64		to;

			if (slot_period(graph, slot) == CDP_PERIOD_EVER)
				continue;
			from = period_key(graph, slot, before);
			to = period_key(graph, slot, node->first_seen);
			if (from == to)
				continue;
			/*
			 * All that is joined stays so when no limit is broken.  Of what
			 * was refused, the rate guard and what is asked after it depend
			 * on hours; the periods of a kind, on the other hand, come first.
			 */
			if (move_node(graph, root, slot, from, to))
				node->dirty = root->dirty = true;
			else if (slot != rate_slot(graph))
				CdpGraphLookAgain(graph, node, false);
			else if (are_guarded_links(graph))
				CdpGraphLookAgain(graph, node, true);
		}
	}
}

/*
 * What was refused to the node's component may have to be judged again.
 */
void
CdpGraphLookAgain(CdpGraph *graph, CdpNode *node, bool guards)
{
	MemoryContext old = MemoryContextSwitchTo(graph->context);

	graph->suspects[guards] = lappend(graph->suspects[guards], node);
	MemoryContextSwitchTo(old);
}

/*
 * When a link that is not the last one is accepted, the partition is what a
 * replay would make of it, but links that were refused later on may have
 * another reason now.  That takes two rules that can both be broken.
 */
bool
CdpGraphReasonsVary(CdpGraph *graph)
{
	return graph->nshared > 0 || graph->cannot != NULL || graph->nlimited > 1 ||
		are_guarded_links(graph);
}

/* The refusals that an identifier's hour can make a difference to. */
#define GUARD_REFUSALS	(CDP_REFUSAL(CDP_JOIN_RATE) | CDP_REFUSAL(CDP_JOIN_BRIDGE))
#define ALL_REFUSALS	((uint16) ~CDP_REFUSALS_UNKNOWN)

/*
 * The components of the suspects, and for which refusals they are looked at.
 */
static List *
suspect_roots(CdpGraph *graph)
{
	List	   *roots = NIL;
	ListCell   *lc;
	int			guards;

	for (guards = 0; guards < 2; guards++)
	{
		foreach(lc, graph->suspects[guards])
		{
			CdpNode    *root = CdpNodeRoot(lfirst(lc));

			if (root->dirty)
				continue;
			if (root->suspected != graph->batch)
			{
				root->suspected = graph->batch;
				root->suspect = 0;
				roots = lappend(roots, root);
			}
			root->suspect |= guards && root->nshared == 0 ? GUARD_REFUSALS : ALL_REFUSALS;
		}
		graph->suspects[guards] = NIL;
	}
	return roots;
}

/*
 * Mark the suspects dirty to which a link was refused for such a reason.
 */
void
CdpGraphCheckSuspects(CdpGraph *graph)
{
	int64	   *ids = NULL;
	int			n = 0;
	int			max = 0;
	ListCell   *lc;
	Datum		arg;
	uint64		i;

	foreach(lc, suspect_roots(graph))
	{
		CdpNode    *root = lfirst(lc);
		CdpNode    *member = root;

		/* a large one is asked once; it is known from then on */
		if ((root->refusals & CDP_REFUSALS_UNKNOWN) != 0 &&
			root->size > CDP_LARGE_PROFILE)
			CdpRefusalsKnow(graph, root);
		if ((root->refusals & (root->suspect | CDP_REFUSALS_UNKNOWN)) == 0 &&
			root->nshared == 0)
			continue;
		do
		{
			if (!member->is_new)
			{
				if (n == max)
				{
					max = Max(1024, max * 2);
					ids = ids == NULL
						? MemoryContextAllocHuge(graph->context, sizeof(int64) * (Size) max)
						: repalloc_huge(ids, sizeof(int64) * (Size) max);
				}
				ids[n++] = member->id;
			}
			member = member->next;
		} while (member != root);
		CHECK_FOR_INTERRUPTS();
	}
	if (n == 0)
		return;
	arg = CdpInt8Array(ids, n);
	CdpRun(&refused_at, &arg, NULL);
	for (i = 0; i < SPI_processed; i++)
	{
		CdpNode    *node = CdpGraphNode(graph, CdpCellInt8(i, 1));
		CdpNode    *root = CdpNodeRoot(node);
		bool		isnull;
		Datum		reason = CdpCell(i, 2, &isnull);

		if (!isnull && (CdpRefusalOf(TextDatumGetCString(reason)) & root->suspect) != 0)
			node->dirty = root->dirty = true;
	}
	SPI_freetuptable(SPI_tuptable);
	pfree(ids);
}
