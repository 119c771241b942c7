/*-------------------------------------------------------------------------
 *
 * links.c
 *	  The links that a batch deals with, in memory.
 *
 *	  A replay may have millions of them.  They stand in blocks in the order in
 *	  which they came, so that who goes through all of them reads memory in order,
 *	  and a table finds them by their ends.
 *
 * IDENTIFICATION
 *	  src/identity/links.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "cdp.h"
#include "identity/graph.h"
#include "statement.h"

/* node numbers are far below 2^62 */
typedef struct LinkKey
{
	int64		a;
	int64		b;				/* twice the number, and one more by hand */
} LinkKey;

typedef struct LinkEntry
{
	LinkKey		key;
	CdpLink    *link;
	char		status;			/* simplehash's */
} LinkEntry;

static inline uint32
hash_key(LinkKey key)
{
	uint64		mixed = (uint64) key.a * UINT64CONST(0x9E3779B97F4A7C15) +
		(uint64) key.b * UINT64CONST(0xC2B2AE3D27D4EB4F);

	return murmurhash32((uint32) (mixed >> 32) ^ (uint32) mixed);
}

#define SH_PREFIX links
#define SH_ELEMENT_TYPE LinkEntry
#define SH_KEY_TYPE LinkKey
#define SH_KEY key
#define SH_HASH_KEY(tb, key) hash_key(key)
#define SH_EQUAL(tb, x, y) ((x).a == (y).a && (x).b == (y).b)
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* Room for blocks to begin with. */
#define MIN_BLOCKS	16

static LinkKey
key_of(int64 x, int64 y, bool manual)
{
	LinkKey		key = {Min(x, y), Max(x, y) * 2 + manual};

	return key;
}

static CdpLink *
new_link(CdpGraph *graph)
{
	int			block = graph->nlinks / CDP_LINKS_A_BLOCK;
	CdpLink    *link;

	if (graph->nlinks % CDP_LINKS_A_BLOCK == 0)
	{
		if (block == graph->maxblocks)
		{
			graph->maxblocks *= 2;
			graph->link_blocks = repalloc_huge(graph->link_blocks,
											   sizeof(CdpLink *) * (Size) graph->maxblocks);
		}
		graph->link_blocks[block] = MemoryContextAlloc(graph->context,
													   sizeof(CdpLink) * CDP_LINKS_A_BLOCK);
	}
	link = CdpGraphLinkAt(graph, graph->nlinks++);
	memset(link, 0, sizeof(CdpLink));
	return link;
}

/*
 * The link between two nodes, made when it is not there.
 */
CdpLink *
CdpGraphLink(CdpGraph *graph, CdpNode *x, CdpNode *y, bool manual, bool *found)
{
	LinkEntry  *entry;

	if (graph->links == NULL)
	{
		graph->links = links_create(graph->context, 128, NULL);
		graph->maxblocks = MIN_BLOCKS;
		graph->link_blocks = MemoryContextAlloc(graph->context, sizeof(CdpLink *) * MIN_BLOCKS);
	}
	entry = links_insert(graph->links, key_of(x->id, y->id, manual), found);
	if (!*found)
	{
		CdpLink    *link = new_link(graph);

		link->a = x->id < y->id ? x : y;
		link->b = x->id < y->id ? y : x;
		link->manual = manual;
		entry->link = link;
	}
	return entry->link;
}

/*
 * The link between two nodes, NULL when it is not in memory.
 */
CdpLink *
CdpGraphFindLink(CdpGraph *graph, int64 x, int64 y, bool manual)
{
	LinkEntry  *entry;

	if (graph->links == NULL)
		return NULL;
	entry = links_lookup(graph->links, key_of(x, y, manual));
	return entry == NULL ? NULL : entry->link;
}

static CdpLink **
room_for_all(CdpGraph *graph)
{
	return palloc_extended(sizeof(CdpLink *) * (Size) Max(graph->nlinks, 1), MCXT_ALLOC_HUGE);
}

/*
 * All links of the batch, in the order in which they came.
 */
CdpLink **
CdpGraphLinks(CdpGraph *graph, int *n)
{
	CdpLink   **links = room_for_all(graph);

	for (*n = 0; *n < graph->nlinks; (*n)++)
		links[*n] = CdpGraphLinkAt(graph, *n);
	return links;
}

/*
 * The event links in memory that have one of the nodes, which are in order, at
 * an end.
 */
int
CdpGraphLinksOf(CdpGraph *graph, const int64 *nodes, int n, CdpLink ***result)
{
	int			nlinks = 0;

	*result = room_for_all(graph);
	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		if (link->manual)
			continue;
		if (bsearch(&link->a->id, nodes, n, sizeof(int64), CdpCompareInt8) != NULL ||
			bsearch(&link->b->id, nodes, n, sizeof(int64), CdpCompareInt8) != NULL)
			(*result)[nlinks++] = link;
	}
	return nlinks;
}

/*
 * The links at marked nodes, those by hand included.
 */
CdpLink **
CdpGraphLinksOfMarked(CdpGraph *graph, int *n)
{
	CdpLink   **links = room_for_all(graph);

	*n = 0;
	for (int i = 0; i < graph->nlinks; i++)
	{
		CdpLink    *link = CdpGraphLinkAt(graph, i);

		if (!link->gone && link->a->mark == graph->mark)
			links[(*n)++] = link;
	}
	return links;
}

/*
 * What is linked with a dirty component is dirty.  Links with both ends in such
 * components are done with, for these stay dirty until they are replayed.
 */
void
CdpGraphSpreadDirty(CdpGraph *graph, CdpOpenLinks *open)
{
	bool		grown;

	if (open->max < graph->nlinks)
	{
		open->max = Max(64, graph->nlinks);
		open->links = open->links == NULL
			? palloc_extended(sizeof(CdpLink *) * (Size) open->max, MCXT_ALLOC_HUGE)
			: repalloc_huge(open->links, sizeof(CdpLink *) * (Size) open->max);
	}
	while (open->seen < graph->nlinks)
		open->links[open->n++] = CdpGraphLinkAt(graph, open->seen++);
	do
	{
		int			kept = 0;

		grown = false;
		for (int i = 0; i < open->n; i++)
		{
			CdpLink    *link = open->links[i];
			CdpNode    *a;
			CdpNode    *b;

			if (i % 1024 == 0)
				CHECK_FOR_INTERRUPTS();
			if (link->gone)
				continue;
			a = CdpNodeRoot(link->a);
			b = CdpNodeRoot(link->b);
			if (a->dirty != b->dirty)
			{
				a->dirty = b->dirty = true;
				grown = true;
			}
			else if (!a->dirty)
				open->links[kept++] = link;
		}
		open->n = kept;
	} while (grown);
}
